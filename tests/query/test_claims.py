"""What cards declare, in any spelling, against the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from provenance.indexer.dossier import Dossier
from provenance.query.catalogue import Catalogue
from provenance.query.engine import judge
from provenance.query.evaluation.declared import evaluate_declared
from provenance.query.lineage.rows import lineage_rows
from provenance.query.statistics.background import Background
from provenance.schemas.enums import ClaimStatus, Direction, NoteKind, Verdict
from provenance.schemas.errors import TruthError
from provenance.schemas.results import Answer, Claim
from tests.conftest import Tensors, llama, trained
from tests.support.dossiers import dossier

ROOT, OTHER = llama(1), llama(2)
root = dossier(ROOT, "acme/root-1", created=1)
other = dossier(OTHER, "else/where", created=1)


def kid(*declares: str, created: int | None = 5, repo: str = "kids/one", seed: int = 3) -> Dossier:
    return dossier(trained(ROOT, seed, 0.2), repo, created=created, declares=declares)


def store(*more: Dossier, renamed: dict[str, str] | None = None) -> Catalogue:
    return Catalogue(None, [root, other, *more], Background({}), renamed)


def ask(model: Dossier, *more: Dossier, renamed: dict[str, str] | None = None, k: int = 10) -> Answer:
    return judge(model, store(*more, renamed=renamed)).answer(k)


def the_claim(answer: Answer) -> Claim:
    (claim,) = answer.claims
    return claim


@pytest.mark.parametrize("written", ["acme/root-1", "Acme/Root-1", "https://hf.co/acme/root-1/tree/main", "root-1"])
def test_a_card_in_any_spelling_is_confirmed(written: str) -> None:
    answer = ask(kid(written))
    assert (the_claim(answer).status, the_claim(answer).parent) == (ClaimStatus.CONFIRMED, "acme/root-1")
    (parent,) = (c for c in answer.candidates if c.repo_id == "acme/root-1")
    assert (parent.declared, parent.undeclared) == (True, False)


def test_a_lie_is_contradicted_also_beyond_the_best_candidates() -> None:
    answer = ask(kid("else/where"), k=1)
    claim = the_claim(answer)
    assert [c.repo_id for c in answer.candidates] == ["acme/root-1"]
    assert (claim.status, claim.found_instead) == (ClaimStatus.CONTRADICTED, "acme/root-1")
    assert answer.candidates[0].undeclared is True
    assert judge(kid("else/where"), store(), min_probability=0.9).answer(5).claims == answer.claims


def test_what_is_not_stored_and_what_cannot_be_told() -> None:
    assert the_claim(ask(kid("nobody/nothing"))).status is ClaimStatus.NOT_STORED
    sibling = kid(repo="kids/two", seed=4)
    assert the_claim(ask(kid("kids/two"), sibling)).status is ClaimStatus.CANNOT_TELL


def test_every_parent_of_a_merge_is_judged() -> None:
    answer = ask(kid("acme/root-1", "else/where", "nobody/nothing"))
    assert [claim.status for claim in answer.claims] == [
        ClaimStatus.CONFIRMED,
        ClaimStatus.CONTRADICTED,
        ClaimStatus.NOT_STORED,
    ]
    assert not any(candidate.undeclared for candidate in answer.candidates)


def test_a_card_that_could_not_be_read_is_not_accused() -> None:
    model = kid()
    unread = replace(model, meta=replace(model.meta, declared_parents=None))
    assert ask(model).candidates[0].undeclared is True
    assert ask(unread).candidates[0].undeclared is None
    rows = lineage_rows(judge(unread, store()), datetime.now(UTC))
    assert [(row.parent, row.undeclared) for row in rows] == [("acme/root-1", None)]


def test_licenses_stand_on_both_sides() -> None:
    model = kid("acme/root-1")
    mine = replace(model, meta=replace(model.meta, license="Apache-2.0"))

    def differs(license_: str | None) -> bool | None:
        theirs = replace(root, meta=replace(root.meta, license=license_))
        answer = judge(mine, Catalogue(None, [theirs], Background({}))).answer(1)
        assert answer.candidates[0].license_differs is the_claim(answer).license_differs
        return the_claim(answer).license_differs

    assert (differs("apache-2.0"), differs("mit"), differs("other"), differs(None)) == (False, True, None, None)


def test_a_renamed_base_is_found_under_its_new_name() -> None:
    renamed = {"old/name": "acme/root-0", "acme/root-0": "acme/root-1", "a/b": "a/b"}
    assert the_claim(ask(kid("Old/Name"), renamed=renamed)).parent == "acme/root-1"
    assert the_claim(ask(kid("a/b"), renamed=renamed)).status is ClaimStatus.NOT_STORED


def test_a_short_name_counts_only_if_one_repo_has_it() -> None:
    twin = dossier(OTHER, "other/root-1", created=1)
    assert the_claim(ask(kid("root-1"), twin)).status is ClaimStatus.NOT_STORED
    names = store(twin).names
    assert (names.stored("ACME/root-1"), names.stored("root-1"), names.stored("where")) == (
        "acme/root-1",
        None,
        "else/where",
    )
    assert store(dossier(OTHER, "Acme/root-1", created=1)).names.stored("ACME/ROOT-1") is None


def apart(seed: int) -> Tensors:
    """The root after a change that neither adds to nor takes from the spread of a tensor: no weight shows the order."""
    rng = np.random.default_rng(seed)
    return {
        name: (0.995 * (t - t.mean()) + t.mean() + 0.1 * rng.normal(0, t.std(), t.shape)).astype(t.dtype)
        for name, t in ROOT.items()
    }


def test_cards_that_name_each_other_leave_the_order_open() -> None:
    one, two = (
        dossier(apart(7), "loop/a", declares=("loop/b",)),
        dossier(ROOT, "loop/b", declares=("Loop/A",)),
    )
    for model, candidate in ((one, two), (two, one)):
        answer = judge(model, Catalogue(None, [candidate], Background({}))).answer(1)
        assert (answer.candidates[0].verdict, answer.candidates[0].direction) == (Verdict.RELATED, Direction.UNKNOWN)
        assert the_claim(answer).status is ClaimStatus.CANNOT_TELL


def notes_of(mine: int | None, theirs: int | None) -> tuple[str, ...]:
    copy = dossier(ROOT, "copy/of", created=theirs)
    notes = judge(dossier(ROOT, "x/y", created=mine), Catalogue(None, [copy], Background({}))).answer(1).notes
    assert all(note.kind is NoteKind.SAME_WEIGHTS for note in notes)
    return tuple(note.text for note in notes)


def test_of_undated_copies_one_sentence_says_what_is_open() -> None:
    said = "the same weights as copy/of; who was first is not known"
    assert notes_of(None, None) == (f"{said} (neither has a date)",)
    assert notes_of(None, 1) == (f"{said} (this one has no date)",)
    assert notes_of(1, None) == (f"{said} (that one has no date)",)
    assert notes_of(1, 1) == (f"{said} (both have the same date)",)
    assert notes_of(2, 1) == ()


def test_recall_against_the_cards() -> None:
    cards: Sequence[Dossier] = [
        kid("acme/root-1"),
        kid("else/where", repo="kids/liar", seed=5),
        kid("no/thing", repo="kids/far", seed=6),
        kid(repo="kids/silent", seed=7),
    ]
    found = evaluate_declared(store(*cards))
    assert (found.models, found.declarations, found.stored) == (3, 3, 2)
    assert (found.confirmed, found.contradicted, found.cannot_tell) == (1, 1, 0)
    assert (found.recall, found.recall_of_judged, found.parent_at_1) == (0.5, 0.5, 0.5)
    assert [(row.model, str(row.status)) for row in found.parents] == [
        ("kids/one", "confirmed"),
        ("kids/liar", "contradicted"),
        ("kids/far", "not-stored"),
    ]
    assert found.to_dict()["parent@5"] == found.parent_at_5
    with pytest.raises(TruthError, match="no card in the store declares a base model"):
        evaluate_declared(store())
