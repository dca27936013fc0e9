"""Families whose history is known: who descends from whom, without a single date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.query.evidence.pair import Subject
from provenance.query.verdict.family import Family, family_of
from provenance.query.verdict.witness import Member
from tests.conftest import Tensors, llama, trained
from tests.support.dossiers import dossier

ROOT = llama(1)


def members(weights: Mapping[str, Tensors]) -> list[Member]:
    found = [dossier(tensors, name) for name, tensors in weights.items()]
    return [Member(one, Subject(one).grid) for one in found]


def said(family: Family, parents: Sequence[int | None]) -> tuple[int, int, int]:
    """Pairs of ancestor and descendant that are said, that are not, and pairs that are said and false."""
    n = len(parents)
    true = np.zeros((n, n), np.bool_)
    for node in range(n):
        above = parents[node]
        while above is not None:
            true[above, node] = True
            above = parents[above]
    claimed = family.ancestry >= 0.95
    np.fill_diagonal(claimed, False)
    return int((claimed & true).sum()), int((true & ~claimed).sum()), int((claimed & ~true).sum())


def depth(parents: Sequence[int | None]) -> int:
    """Generations above the last of a list."""
    above, found = parents[-1], 0
    while above is not None:
        above, found = parents[above], found + 1
    return found


def random_tree(places: Sequence[int], seed: int) -> tuple[int, int, int]:
    """A family that grew one by one, each member trained from the one at its place; asked about in random order."""
    parents: list[int | None] = [None]
    weights = [ROOT]
    for i, place in enumerate(places):
        parents.append(place % len(weights))
        weights.append(trained(weights[place % len(weights)], 1000 + seed + i, 0.8 / 3 ** depth(parents)))
    order = [int(i) for i in np.random.default_rng(seed).permutation(len(weights))]
    family = family_of(members({f"org/m{i}": weights[i] for i in order}))
    place_of = {old: new for new, old in enumerate(order)}
    moved: list[int | None] = [None] * len(weights)
    for child, parent in enumerate(parents):
        moved[place_of[child]] = None if parent is None else place_of[parent]
    return said(family, moved)


@settings(max_examples=12)
@given(st.lists(st.integers(0, 100), min_size=2, max_size=6), st.integers(0, 10_000))
def test_nothing_false_is_said_of_a_random_tree(places: list[int], seed: int) -> None:
    _, _, wrong = random_tree(places, seed)
    assert wrong == 0


def test_much_of_a_random_tree_is_recovered_from_weights_alone() -> None:
    rng = np.random.default_rng(1)
    trees = [random_tree(rng.integers(0, 100, 5).tolist(), int(rng.integers(10_000))) for _ in range(12)]
    right, missed, wrong = map(sum, zip(*trees, strict=True))
    assert wrong == 0
    assert 2 * right > missed


def test_generations_are_counted() -> None:
    child = trained(ROOT, 2, 0.5)
    family = family_of(members({"a": trained(child, 3, 0.25), "b": child, "c": ROOT, "d": trained(ROOT, 4, 0.5)}))
    assert family.steps[[2, 1, 2, 2], [1, 0, 0, 3]].tolist() == [1, 1, 2, 1]
    assert family.steps[3, 0] == 0


def merged(shares: Mapping[str, float], weights: Mapping[str, Tensors]) -> Tensors:
    return {
        name: np.sum([share * weights[w][name] for w, share in shares.items()], axis=0).astype(np.float32)
        for name in ROOT
    }


def noisy(merge: Tensors, nearest: Tensors, amount: float) -> Tensors:
    """The merge plus noise of `amount` times the spread of its change from the nearest parent."""
    rng = np.random.default_rng(9)
    return {
        n: (t + amount * (t - nearest[n]).std() * rng.normal(size=t.shape)).astype(t.dtype) for n, t in merge.items()
    }


CHILDREN = {"root": ROOT, "one": trained(ROOT, 2, 0.3), "two": trained(ROOT, 3, 0.3), "three": trained(ROOT, 4, 0.3)}
MERGES: dict[str, dict[str, float]] = {
    "linear": {"one": 0.5, "two": 0.5},
    "uneven": {"one": 0.3, "two": 0.7},
    "soup": {"one": 1 / 3, "two": 1 / 3, "three": 1 / 3},
    "base-and-child": {"root": 0.6, "one": 0.4},
}


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("kind", MERGES)
def test_a_merge_names_its_parents_and_their_weights(kind: str, noise: float) -> None:
    shares = MERGES[kind]
    merge = merged(shares, CHILDREN)
    nearest = max(shares, key=lambda name: shares[name])
    weights = {**CHILDREN, "merge": noisy(merge, CHILDREN[nearest], noise)}
    family = family_of(members(weights))
    names = list(weights)
    assert list(family.merges) == [4]
    found = {names[i]: weight for i, weight in family.merges[4].weights.items()}
    assert found == {name: pytest.approx(share, abs=0.1) for name, share in shares.items()}
    assert all(family.ancestry[names.index(name), 4] >= 0.95 for name in (*shares, "root"))


@pytest.mark.parametrize("scale", [0.6, 1.0])
def test_task_arithmetic_counts_from_its_base(scale: float) -> None:
    merge = merged({"root": 1 - 2 * scale, "one": scale, "two": scale}, CHILDREN)
    family = family_of(members({**CHILDREN, "merge": merge}))
    assert list(family.merges) == [4]
    assert family.merges[4].weights == {1: pytest.approx(scale, abs=0.1), 2: pytest.approx(scale, abs=0.1)}
    assert family.merges[4].reference == 0


def test_no_base_is_a_merge_of_its_children_however_many_are_stored() -> None:
    children = {f"child-{i}": trained(ROOT, 10 + i, 0.3) for i in range(8)}
    family = family_of(members({"root": ROOT, **children}))
    assert family.merges == {}
    assert (family.ancestry[0, 1:] >= 0.95).all()


def test_sister_merges_are_no_parents_of_each_other() -> None:
    sisters = {
        "first": merged({"one": 0.5, "two": 0.5}, CHILDREN),
        "second": merged({"one": 0.3, "two": 0.7}, CHILDREN),
    }
    family = family_of(members({**CHILDREN, **sisters}))
    assert family.ancestry[4, 5] < 0.5
    assert family.ancestry[5, 4] < 0.5


def test_a_fine_tune_of_a_merge_descends_from_it_and_its_parents() -> None:
    merge = merged({"one": 0.5, "two": 0.5}, CHILDREN)
    family = family_of(members({**CHILDREN, "merge": merge, "tuned": trained(merge, 20, 0.6)}))
    assert list(family.merges) == [4]
    assert (family.ancestry[[4, 1, 2, 0], 5] >= 0.95).all()
    assert family.steps[4, 5] == 1


def test_copies_share_their_ancestors() -> None:
    child = trained(ROOT, 2, 0.5)
    family = family_of(members({"root": ROOT, "one": child, "copy": dict(child)}))
    assert family.copies.tolist() == [0, 1, 1]
    assert family.ancestry[0, 1] == family.ancestry[0, 2] >= 0.95
    assert family.ancestry[1, 2] == 0.5
