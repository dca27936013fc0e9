"""Descent, components and their agreement, against plain computations."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.query.evaluation.graph import Descent, adjusted_rand, components
from provenance.query.evaluation.truth import Truth


def row(model: str, *parents: str, relation: str = "full_ft") -> Truth:
    return Truth(model, parents, frozenset({"root"}), relation, False, bool(parents))


TRUTH = {
    one.model: one
    for one in (
        row("root", relation="root"),
        row("copy", "root", relation="reupload_exact"),
        row("child", "copy"),
        row("other", "root"),
        row("merge", "child", "other", relation="merge_linear"),
        row("cast", "merge", relation="cast_fp16"),
    )
}


def test_a_copy_counts_as_its_original() -> None:
    descent = Descent(TRUTH)
    assert descent.original("cast") == "merge"
    assert descent.is_parent("root", "child")
    assert descent.is_parent("copy", "other")
    assert not descent.is_parent("root", "merge")


def test_descent_runs_over_all_generations_and_parents() -> None:
    descent = Descent(TRUTH)
    assert all(descent.descends("cast", above) for above in ("child", "other", "root", "copy"))
    assert not descent.descends("cast", "merge")
    assert not descent.descends("root", "copy")
    assert not descent.descends("child", "other")


def test_a_table_in_which_a_copy_is_its_own_parent_ends() -> None:
    truth = {"a": row("a", "b", relation="reupload"), "b": row("b", "a", relation="reupload")}
    assert Descent(truth).original("a") in ("a", "b")
    assert not Descent(truth).descends("a", "a")


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=12))
def test_components_are_what_a_flood_fill_finds(edges: list[tuple[int, int]]) -> None:
    names = [str(node) for node in range(9)]
    found = components(names, [(str(a), str(b)) for a, b in edges])
    near = {node: {node} for node in range(9)}
    for _ in range(9):
        for a, b in edges:
            near[a] = near[b] = near[a] | near[b]
            for node in near[a]:
                near[node] = near[a]
    for a, b in combinations(range(9), 2):
        assert (found[a] == found[b]) == (b in near[a])


def test_nodes_outside_join_models_too() -> None:
    assert len(set(components(["a", "b", "c"], [("a", "x"), ("x", "b")]))) == 2


def test_equal_partitions_agree_whatever_their_names() -> None:
    assert adjusted_rand(["a", "a", "b", "c"], ["x", "x", "y", "z"]) == 1.0
    assert adjusted_rand(["a", "b"], ["x", "y"]) == 1.0


def test_the_index_of_a_worked_example() -> None:
    # Pairs together in both 1, in the one 4, in the other 3, of 15: expected 0.8, at most 3.5.
    assert adjusted_rand(list("aaabbc"), list("xxyyzz")) == pytest.approx((1 - 12 / 15) / (3.5 - 12 / 15))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=2, max_size=12))
def test_the_index_is_the_adjusted_share_of_agreeing_pairs(labels: list[tuple[str, str]]) -> None:
    one, other = zip(*labels, strict=True)
    pairs = list(combinations(range(len(labels)), 2))
    same = [(one[i] == one[j], other[i] == other[j]) for i, j in pairs]
    together, a, b = (sum(x) for x in zip(*((p and q, p, q) for p, q in same), strict=True))
    expected, most = a * b / len(pairs), (a + b) / 2
    assert adjusted_rand(one, other) == pytest.approx(
        (together - expected) / (most - expected) if most != expected else 1
    )
