"""Trained models of known lineage, written as GGUF: found to come from their originals. Skips where there is no zoo."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
from safetensors.torch import load_file

from provenance.database import Database, open_database
from provenance.schemas.enums import Direction, Relation, Verdict
from tests.conftest import ZOO
from tests.support.gguf_files import write_gguf

PACKED = {
    "tundra-lab/lichen-1m": ("F16", "Q8_0", "Q4_0"),
    "openpage/gp2-mini": ("Q8_0", "Q4_K"),
    "delphi-eval/oracle-700k": ("Q8_0", "Q4_K"),
    "microtext/phiby-3-nano": ("Q8_0", "Q5_1"),
    "mistralite/mixlet-3x": ("Q8_0", "Q4_1"),
    "lotus-lm/lotus2-0.001b": ("F16",),
}
"""Model -> packings; matrices whose rows fill no blocks stay F16, as in llama.cpp."""

STRANGERS = ("koda-ai/koda-base-v1", "fjord-ml/fjord-12l", "ptarmigan/scribe-1m")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if not (ZOO / "lineage.csv").exists():
        pytest.skip(f"no zoo at {ZOO}: it is not part of the product")
    root = tmp_path_factory.mktemp("zoo")
    for model in (*PACKED, *STRANGERS):
        shutil.copytree(ZOO / "models" / model, root / "models" / model)
    for model, packings in PACKED.items():
        folder = ZOO / "models" / model
        tensors = {n: t.float().numpy() for f in sorted(folder.glob("*.safetensors")) for n, t in load_file(f).items()}
        config = json.loads((folder / "config.json").read_text())
        for packing in packings:
            name = f"{folder.name}-{packing}"
            write_gguf(root / "models" / "packer" / name / f"model-{packing}.gguf", tensors, config, packing)
    with open_database(root / "store", create=True) as database:
        assert database.crawl([root / "models"]).failed == 0
        database.index()
        yield database


@pytest.mark.parametrize(("model", "packing"), [(m, p) for m, packings in PACKED.items() for p in packings])
def test_a_packed_model_of_the_zoo_comes_from_its_original(packed: Database, model: str, packing: str) -> None:
    found = packed.query(f"packer/{model.partition('/')[2]}-{packing}", k=20).candidates
    (original,) = [c for c in found if c.repo_id == model]
    assert original.score > 0.95
    if packing == "F16":
        # Where no weight is so small that the cast changes it, it is a copy, and nothing says which was first.
        assert original.relation in (Relation.IDENTICAL, Relation.QUANTIZED)
        assert original.verdict in (Verdict.RELATED, Verdict.DERIVED)
    else:
        assert (original.verdict, original.relation, original.direction) == (
            Verdict.DERIVED, Relation.QUANTIZED, Direction.PARENT,
        )  # fmt: skip
    assert {c.repo_id for c in found if c.verdict == Verdict.DERIVED} <= {model}
