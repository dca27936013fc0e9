"""Every text model of transformers, and those that read pictures most, against what they compute themselves.

`make architectures` does all other classes too.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.models.auto import modeling_auto  # noqa: E402

from tests.crawler.architectures.sweep import sweep  # noqa: E402 - needs torch
from tests.crawler.architectures.zoo import architectures  # noqa: E402

pytestmark = [pytest.mark.architectures, pytest.mark.filterwarnings("ignore")]

TEXT = {
    name
    for mapping in ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM")
    for names in getattr(modeling_auto, f"MODEL_FOR_{mapping}_MAPPING_NAMES").values()
    for name in ((names,) if isinstance(names, str) else names)
}
DOCUMENT = (Path(__file__).parents[3] / "docs" / "architectures.md").read_text(encoding="utf-8")
SECTION = DOCUMENT.partition("<!-- coverage: begin -->")[2].partition("<!-- coverage: end -->")[0]
SAME_VERSION = f"with transformers {transformers.__version__}:" in SECTION


def documented(status: str) -> set[str]:
    """Classes that the coverage table lists under a status."""
    found = re.search(rf"### {status}\n(.*?)(?=\n###|\Z)", SECTION, re.DOTALL)
    if found is None:
        return set()
    # Reasons hold names in backticks too: of a table only the first cell counts.
    pattern = r"^\| `(\w+)` \|" if "| class |" in found[1] else r"`(\w+)`"
    return set(re.findall(pattern, found[1], re.MULTILINE))


@pytest.mark.parametrize("name", sorted(TEXT & set(architectures())))
def test_no_role_is_wrong_and_the_table_says_what_is_unknown(name: str) -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    result = sweep(name, architectures()[name])
    assert result.wrong == []
    if SAME_VERSION:
        where = {
            "right": "Right" if result.softmax else "No softmax attention",
            "unknown": "Unknown",
            "unjudged": "Not judged",
        }
        assert name in documented(where[result.status]), (result.reason, result.unknown)


@pytest.mark.parametrize(
    "name",
    [
        f"{name}ForConditionalGeneration"
        for name in ("Gemma3", "Idefics3", "InternVL", "Kimi_K25", "Llama4", "Llava", "Mistral3", "Mllama", "PaliGemma",
                     "Qwen2VL", "Qwen2_5_VL", "Qwen3VL", "SmolVLM")
    ],
)  # fmt: skip
def test_text_and_pictures_are_both_seen_and_right(name: str) -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    result = sweep(name, architectures()[name])
    assert (result.status, result.wrong, result.unknown) == ("right", [], [])
    assert result.stacks_seen == result.stacks >= 2


def test_an_auto_correlation_under_the_names_of_an_attention_has_no_role() -> None:
    transformers.utils.logging.disable_progress_bar()
    result = sweep("AutoformerModel", "autoformer")
    assert (result.status, result.softmax, result.wrong) == ("right", False, [])


def test_the_coverage_table_holds_every_class_once_and_none_wrong() -> None:
    statuses = [documented(s) for s in ("Right", "No softmax attention", "Unknown", "Not judged")]
    assert documented("Wrong") == set()
    assert sum(map(len, statuses)) == len(set().union(*statuses))
    if SAME_VERSION:
        assert set().union(*statuses) == set(architectures())
