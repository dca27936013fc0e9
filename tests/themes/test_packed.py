"""A packed model is found to be derived from the dense one, without dates and cards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import provenance
from provenance.crawler.engine.options import CrawlOptions
from provenance.database import Database
from provenance.schemas.enums import Direction, Relation, Verdict
from tests.conftest import Tensors, llama
from tests.crawler.formats.packing.test_packed import write
from tests.support.layouts import bfloat16
from tests.support.packed import CASES, pack_all

AT_LEAST = {8: 0.95, 6: 0.95, 4: 0.9, 3: 0.8, 2: 0.6}
"""Bits -> correlation of the weight samples."""

CHOSEN = [
    "gptq 2", "gptq 3", "gptq 4", "gptq 4 act-order", "gptq 8", "awq", "nf4 nested", "fp4", "bnb int8", "fp8 block",
    "int8", "pack 4", "nvfp4 divided", "mxfp4", "mlx 4",
]  # fmt: skip
MODES = ["sampled", "full"]


def dense(seed: int) -> Tensors:
    return bfloat16(llama(seed, layers=3, hidden=128, heads=4, kv_heads=2, ffn=352, vocabulary=32))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A store with the parent and strangers."""
    folder = tmp_path_factory.mktemp("packed")
    for i, name in enumerate(["parent", "stranger-1", "stranger-2", "stranger-3"]):
        write(folder / "models" / "org" / name, dense(i))
    with provenance.open(folder / "store", create=True) as database:
        database.crawl([f"{folder / 'models'}/"])
        database.index()
        yield database


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CHOSEN)
def test_a_packed_model_is_derived_from_the_dense_one(name: str, mode: str, stored: Database, tmp_path: Path) -> None:
    case = CASES[name]
    tensors, _ = pack_all(dense(0), case)
    folder = write(tmp_path / "else" / "packed", tensors, case)
    answer = stored.query(f"{folder}/", options=CrawlOptions(mode=mode))
    first, *others = answer.candidates
    assert answer.verdict == Verdict.DERIVED
    assert first.repo_id == "org/parent"
    assert (first.verdict, first.relation, first.direction) == (
        Verdict.DERIVED,
        Relation.QUANTIZED,
        Direction.PARENT,
    )
    assert correlation(first) > AT_LEAST[case.bits]
    for stranger in others:
        assert abs(correlation(stranger)) < 0.1
        assert stranger.verdict in (Verdict.UNRELATED, Verdict.INCONCLUSIVE)


def correlation(candidate: provenance.Candidate) -> float:
    (found,) = [e.value for e in candidate.evidence if e.kind == "weight_correlation"]
    assert found is not None
    return found
