"""Recipes of merges in mergekit's format: they read back, and describe the merge that was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import yaml

from benchmarks.scenario_weights import dare, linear, slerp, task_arithmetic, ties
from provenance.indexer.dossier import Dossier
from provenance.query.catalogue import Catalogue
from provenance.query.engine import judge
from provenance.query.lineage.recipe import recipe
from provenance.schemas.errors import NotAMergeError
from tests.conftest import LLAMA_CONFIG, Tensors, llama, trained
from tests.support.dossiers import dossier, layers_of

ROOT = llama(1)
ONE, TWO = trained(ROOT, 2, 0.3), trained(ROOT, 3, 0.3)
STORE = [
    dossier(ROOT, "org/root", created=1),
    *(
        dossier(trained(ROOT, 2 + n, 0.3), f"org/{name}", created=2 + n)
        for n, name in enumerate(("one", "two", "three"))
    ),
]


def made(tensors: Tensors, depth: int = 6, store: Sequence[Dossier] = STORE) -> tuple[dict[str, Any], list[str]]:
    """The recipe of a merge, parsed, and its comments."""
    config: Mapping[str, Any] = {**LLAMA_CONFIG, "num_hidden_layers": depth}
    merge = dossier(tensors, "org/merge", created=50, config=config)
    text = recipe(judge(merge, Catalogue(None, [*store, merge])))
    return yaml.safe_load(text), [line for line in text.splitlines() if line.startswith("#")]


def weights(config: Mapping[str, Any]) -> dict[str, float]:
    return {one["model"]: one["parameters"]["weight"] for one in config["models"]}


def test_linear() -> None:
    config, comments = made(linear([ONE, TWO], [0.3, 0.7]))
    assert config["merge_method"] == "linear"
    assert config["dtype"] == "float32"
    assert weights(config) == {"org/one": pytest.approx(0.3, abs=0.01), "org/two": pytest.approx(0.7, abs=0.01)}
    assert "org/merge" in comments[0]
    assert sum("standard error" in line and "log10 p" in line for line in comments) == 2


def test_task_arithmetic_has_its_base() -> None:
    config, _ = made(task_arithmetic([ONE, TWO], ROOT, [1.0, 1.0]))
    assert (config["merge_method"], config["base_model"]) == ("task_arithmetic", "org/root")
    assert config["parameters"] == {"normalize": False}
    assert weights(config) == {"org/one": pytest.approx(1, abs=0.02), "org/two": pytest.approx(1, abs=0.02)}


def test_slerp_goes_from_its_base_to_the_other() -> None:
    config, _ = made(slerp(ONE, TWO, lambda _: 0.3))
    assert config["merge_method"] == "slerp"
    t = config["parameters"]["t"]
    assert (t if config["base_model"] == "org/one" else 1 - t) == pytest.approx(0.3, abs=0.02)
    assert {one["model"] for one in config["models"]} == {"org/one", "org/two"}


def test_weights_by_layer_and_part_are_filters_with_a_value_for_each_layer() -> None:
    def t(name: str) -> float:
        depth = int(name.split(".")[2]) / 5 if ".layers." in name else 0.5
        return 1 - depth if "mlp" in name else depth

    config, _ = made(slerp(ONE, TWO, t))
    values = {one.get("filter"): one["value"] for one in config["parameters"]["t"]}
    assert set(values) == {"self_attn", "mlp", None}
    assert len(values["self_attn"]) == len(values["mlp"]) == 6
    rising = values["self_attn"] if config["base_model"] == "org/one" else values["mlp"]
    assert rising == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1], abs=0.15)


def test_sparse_merges_say_what_is_not_inferred() -> None:
    config, comments = made(ties([dare(ONE, ROOT, 0.5, 1), dare(TWO, ROOT, 0.5, 2)], ROOT, 1))
    assert (config["merge_method"], config["base_model"]) == ("dare_ties", "org/root")
    assert any("Densities" in line for line in comments)


def test_stacked_layers_are_slices_with_an_exclusive_end() -> None:
    tensors = dict(layers_of(ONE, [0, 1, 2, 3]))
    for name, tensor in layers_of(TWO, [2, 3, 4, 5]).items():
        if ".layers." in name:
            layer, rest = name.removeprefix("model.layers.").split(".", 1)
            tensors[f"model.layers.{int(layer) + 4}.{rest}"] = tensor
    config, _ = made(tensors, depth=8)
    assert config["merge_method"] == "passthrough"
    sources = [one["sources"][0] for one in config["slices"]]
    assert sources == [
        {"model": "org/one", "layer_range": [0, 4]},
        {"model": "org/two", "layer_range": [2, 6]},
    ]


def test_a_model_stacked_from_itself_has_one_source() -> None:
    config, _ = made(layers_of(ONE, [0, 1, 2, 3, 2, 3, 4, 5]), depth=8)
    ranges = [one["sources"][0]["layer_range"] for one in config["slices"]]
    assert ranges == [[0, 4], [2, 6]]
    assert {one["sources"][0]["model"] for one in config["slices"]} == {"org/one"}


@pytest.mark.parametrize("tensors", [trained(ONE, 9, 0.2), llama(50)], ids=["fine-tune", "stranger"])
def test_what_is_no_merge_has_no_recipe(tensors: Tensors) -> None:
    with pytest.raises(NotAMergeError, match="org/merge: no merge of stored checkpoints"):
        made(tensors)
