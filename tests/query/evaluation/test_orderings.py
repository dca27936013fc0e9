"""Directions, edges and families of a small store whose history is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from provenance.indexer.dossier import Dossier
from provenance.query.catalogue import Catalogue
from provenance.query.engine import judge
from provenance.query.evaluation.orderings import SHUFFLES, orderings
from provenance.query.evaluation.truth import Judged, Truth
from provenance.schemas.evaluation import MergeFigures, Ordering, ScenarioFigures, WrongDirection
from provenance.schemas.tabular import Rows
from tests.conftest import Tensors, llama, trained
from tests.support.dossiers import dossier

ROOT = llama(1)
ONE, TWO = trained(ROOT, 2, 0.3), trained(ROOT, 3, 0.3)
MERGE: Tensors = {name: (0.7 * ONE[name] + 0.3 * TWO[name]).astype(np.float32) for name in ROOT}

Measured = tuple[Rows[Ordering], Rows[WrongDirection], Rows[ScenarioFigures], MergeFigures]

STORED = {
    "org/root": dossier(ROOT, "org/root", created=1),
    "org/copy": dossier(ROOT, "org/copy", created=2),
    "org/one": dossier(ONE, "org/one", created=3, declares=["org/root"]),
    "org/two": dossier(TWO, "org/two", created=4),
    "org/merge": dossier(MERGE, "org/merge", created=5),
    "else/stranger": dossier(llama(60), "else/stranger", created=6),
}


def row(model: str, *parents: str, relation: str = "full_ft", weights: tuple[float, ...] = ()) -> Truth:
    root = "org/root" if model.startswith("org/") else model
    return Truth(model, parents, frozenset({root}), relation, False, bool(parents), weights=weights)


TRUTH = {
    one.model: one
    for one in (
        row("org/root", relation="root"),
        row("org/copy", "org/root", relation="reupload_exact"),
        row("org/one", "org/root"),
        row("org/two", "org/root"),
        row("org/merge", "org/one", "org/two", relation="merge_linear", weights=(0.6, 0.4)),
        row("else/stranger", relation="root"),
    )
}


def measured(stored: dict[str, Dossier]) -> Measured:
    catalogue = Catalogue(unindexed=list(stored.values()))
    return orderings([Judged(TRUTH[name], judge(found, catalogue)) for name, found in stored.items()], TRUTH)


@pytest.fixture(scope="module")
def found() -> Measured:
    return measured(STORED)


def test_with_right_dates_all_is_right(found: Measured) -> None:
    stored = found[0][0]
    assert (stored.dates, stored.runs, stored.models) == ("as stored", 1, 4)
    assert (stored.derived, stored.parent_first, stored.parent_said, stored.parent_right) == (1, 1, 1, 1)
    # Of one and two, the root and its copy; of the merge, one and two.
    assert stored.parent_pairs == 6
    assert (stored.edge_precision, stored.edge_recall, stored.edge_f1) == (1, 1, 1)
    assert (stored.rand_derived, stored.rand_related) == (1, 1)
    assert stored.directions_said == stored.directions_right > 0


def test_without_dates_and_with_wrong_ones_the_same_pairs_are_relatives(found: Measured) -> None:
    stored, none, shuffled = found[0]
    assert (none.dates, shuffled.dates, shuffled.runs) == ("none", "shuffled", SHUFFLES)
    assert none.directions == stored.directions
    assert shuffled.directions == SHUFFLES * stored.directions
    assert none.rand_related == shuffled.rand_related == 1
    assert none.edge_recall is not None
    assert none.edge_recall < 1  # which of two equal models is the copy, only dates can tell
    assert none.unknown is not None
    assert 0 <= none.unknown <= 1


def test_merges_are_measured_against_the_weights_of_the_table(found: Measured) -> None:
    merges = found[3]
    assert (merges.merges, merges.parents_named, merges.weights) == (1, 1, 2)
    assert merges.mean_error == pytest.approx(0.1, abs=0.01)
    assert merges.largest_error == pytest.approx(0.1, abs=0.01)


def test_models_are_counted_by_relation_or_scenario(found: Measured) -> None:
    scenarios = {one.scenario: one for one in found[2]}
    assert set(scenarios) == {"root", "reupload_exact", "full_ft", "merge_linear"}
    assert (scenarios["full_ft"].models, scenarios["full_ft"].derived, scenarios["full_ft"].parent_first) == (2, 2, 2)
    assert (scenarios["root"].derivatives, scenarios["root"].derived) == (0, 0)


def test_a_wrong_direction_is_listed() -> None:
    # A light change says nothing of the order, and the dates are turned round.
    light = trained(ROOT, 2, 0.01)
    stored = {
        "org/root": dossier(ROOT, "org/root", created=9),
        "org/one": dossier(light, "org/one", created=1),
    }
    ordered, wrong, _, _ = measured(stored)
    assert wrong[0] == WrongDirection("as stored", "org/root", "org/one", wrong[0].direction)
    assert wrong[0].direction == "parent"
    assert ordered[0].directions_right == 0
    assert ordered[0].edge_precision == 0


def test_the_answers_of_the_store_are_not_changed(found: Measured) -> None:
    again = measured({name: replace(one) for name, one in STORED.items()})
    assert again[0].to_dicts() == found[0].to_dicts()
