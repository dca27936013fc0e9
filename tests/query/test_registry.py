"""What every line of evidence owes: a row in the documentation, a null that holds, and a test of what it separates."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from provenance.indexer.dossier import Dossier
from provenance.query.catalogue import Catalogue
from provenance.query.compare import compare
from provenance.query.evidence.pair import Pair, Subject
from provenance.query.evidence.registry import CONVICTING, DEEP, LINES, SUPPORTING, Line
from provenance.query.statistics.background import OTHER, SAME, Background, bundled, key
from provenance.query.statistics.significance import MIN_BLOCKS
from provenance.schemas.enums import Null
from provenance.schemas.results import Evidence
from tests.conftest import llama, trained
from tests.support.dossiers import dossier, layers_of

METHOD = Path(__file__).resolve().parents[2] / "docs" / "method.md"

PARENT = llama(1)
CHILD = trained(PARENT, 3, 0.2)
parent, child, copy = dossier(PARENT, "org/parent"), dossier(CHILD, "org/child"), dossier(PARENT, "org/copy")
shorter = dossier(layers_of(CHILD, [0, 1, 4, 5]), "org/shorter")
stranger = dossier(llama(2), "else/where")
short_stranger = dossier(llama(4, layers=4), "else/short")
narrow_stranger = dossier(llama(5, hidden=48, ffn=64), "else/narrow")

PAIRS: dict[str, tuple[Dossier, Dossier]] = {
    "file_digest": (copy, stranger),
    "tensor_digest": (copy, stranger),
    "weight_correlation": (child, stranger),
    "layer_alignment": (shorter, short_stranger),
    "norm_correlation": (child, stranger),
    "profile_correlation": (child, stranger),
    "published_score": (child, stranger),
    "architecture": (child, narrow_stranger),
}
"""A relative of the parent, and a stranger, of whom the line has something to say."""

each_line = pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)


def pair(other: Dossier) -> Pair:
    return Pair(Subject(other), Subject(parent), Background({}))


def strength(line: Line, evidence: Evidence | None) -> float:
    """How strongly a line speaks for common origin; a line that says nothing says so least of all."""
    if evidence is None:
        return -math.inf
    found = -(evidence.log10_p or 0.0) if line.convicts else evidence.value
    assert found is not None
    return found


def test_names_are_distinct_and_only_a_theoretical_null_convicts() -> None:
    assert len({line.name for line in (*LINES, DEEP)}) == len(LINES) + 1
    assert all(line.null is Null.THEORETICAL for line in (*LINES, DEEP) if line.convicts)
    assert {*CONVICTING, *SUPPORTING} == {line.name for line in (*LINES, DEEP) if line.null is not Null.NONE}


@pytest.mark.parametrize("line", [*LINES, DEEP], ids=lambda line: line.name)
def test_the_method_page_has_its_row(line: Line) -> None:
    section = METHOD.read_text(encoding="utf-8").partition("\n## Lines of evidence\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in section.splitlines() if row.startswith("| `")]
    assert [row[0] for row in rows] == [f"`{other.name}`" for other in (*LINES, DEEP)]
    (row,) = [row for row in rows if row[0] == f"`{line.name}`"]
    assert row[1] == line.meaning
    assert row[3].partition(":")[0] == line.null.value
    assert row[4] == ("yes" if line.convicts else "no")


@each_line
def test_a_relative_scores_above_a_stranger(line: Line) -> None:
    relative, unrelated = (line.measure(pair(other)) for other in PAIRS[line.name])
    assert relative is not None
    assert relative.kind == line.name
    assert strength(line, relative) > strength(line, unrelated)
    if line.convicts:
        assert (relative.log10_p or 0) < -5
        assert unrelated is None or (unrelated.log10_p or 0) > -2


@each_line
def test_compare_has_its_row(line: Line) -> None:
    relative, _ = PAIRS[line.name]
    found = compare(pair(relative), Catalogue(None, [parent, child, stranger]))
    assert line.name in [row["kind"] for row in found.to_dict()["evidence"]]
    assert line.name in found.evidence.to_polars()["kind"].to_list()


@pytest.fixture(scope="module")
def unrelated() -> list[Pair]:
    """Sixteen independent checkpoints of two depths, each beside each of sixteen others."""
    first, second = (
        [Subject(dossier(llama(700 + 100 * side + i, layers=4 + i % 2), f"s{side}/{i}")) for i in range(16)]
        for side in range(2)
    )
    return [Pair(a, b) for a, b in product(first, second)]


@each_line
def test_its_null_holds_over_unrelated_pairs(line: Line, unrelated: list[Pair]) -> None:
    found = [evidence for pair in unrelated if (evidence := line.measure(pair)) is not None]
    assert len(found) > 100, "nothing was judged"
    ps = np.array([e.p_value for e in found if e.p_value is not None])
    if line.null is Null.NONE:
        assert len(ps) == 0, "a line without a null has no p-value"
        return
    assert len(ps) == len(found)
    if line.null is Null.EMPIRICAL:
        for stratum in (SAME, OTHER):
            scores = bundled()[key(line.name, stratum)]
            assert len(scores) >= MIN_BLOCKS
            assert np.all(np.diff(scores) >= 0)
        assert ps.min() >= 1 / (1 + sum(len(scores) for scores in bundled().values()))
    for level in (0.05, 0.01):
        assert (ps <= level).sum() <= stats.binom.ppf(0.999, len(ps), level)
