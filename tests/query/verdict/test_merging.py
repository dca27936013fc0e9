"""Merges of many kinds among their relatives: parents named, weights, layers; and what is none."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import pytest

from benchmarks.scenario_weights import dare, linear, slerp, ties
from provenance.query.evidence.pair import Subject
from provenance.query.verdict.family import Family, family_of
from provenance.query.verdict.merge import Merge
from provenance.query.verdict.witness import Member
from provenance.schemas.enums import MergeMethod
from tests.conftest import Tensors, llama, trained
from tests.support.dossiers import dossier, mapped

ROOT = llama(1)
CHILDREN = {f"child-{n}": trained(ROOT, 10 + n, 0.3) for n in range(8)}
ONE, TWO = CHILDREN["child-0"], CHILDREN["child-1"]
STORE = {"root": ROOT, **CHILDREN}


def rounded(tensors: Tensors) -> Tensors:
    return {name: tensor.astype(ml_dtypes.bfloat16).astype(np.float32) for name, tensor in tensors.items()}


def family(weights: Mapping[str, Tensors]) -> Family:
    found = [dossier(rounded(tensors), name) for name, tensors in weights.items()]
    return family_of([Member(one, Subject(one).grid) for one in found])


def merge_of(merge: Tensors, others: Mapping[str, Tensors] = STORE) -> tuple[Merge, dict[str, float]]:
    """What is found of a merge, and the weights by name."""
    names = [*others, "merge"]
    found = family({**others, "merge": merge})
    assert set(found.merges) == {len(names) - 1}, [names[place] for place in found.merges]
    merged = found.merges[len(names) - 1]
    return merged, {names[place]: weight for place, weight in merged.weights.items()}


@pytest.mark.parametrize("count", [2, 4, 8])
def test_soups(count: int) -> None:
    names = list(CHILDREN)[:count]
    merge, weights = merge_of(linear([CHILDREN[name] for name in names], [1 / count] * count))
    assert weights == {name: pytest.approx(1 / count, abs=0.02) for name in names}
    assert all(share.error is not None and share.error < 0.02 for share in merge.shares.values())
    assert all(share.log10_p is not None and share.log10_p < -6 for share in merge.shares.values())


def test_a_merge_that_was_trained_on_is_still_one() -> None:
    merged = trained(linear([ONE, TWO], [0.5, 0.5]), 70, 0.12)
    _, weights = merge_of(merged)
    assert weights == {"child-0": pytest.approx(0.5, abs=0.1), "child-1": pytest.approx(0.5, abs=0.1)}


def test_slerp_is_told_from_the_chord() -> None:
    merge, weights = merge_of(slerp(ONE, TWO, lambda _: 0.4))
    assert merge.method is MergeMethod.SLERP
    assert weights == {"child-0": pytest.approx(0.6, abs=0.03), "child-1": pytest.approx(0.4, abs=0.03)}
    assert merge_of(linear([ONE, TWO], [0.6, 0.4]))[0].method is MergeMethod.LINEAR


def test_weights_that_differ_by_layer_and_part_are_said() -> None:
    def t(name: str) -> float:
        depth = int(name.split(".")[2]) / 5 if ".layers." in name else 0.5
        return 1 - depth if "mlp" in name else depth

    merge, weights = merge_of(slerp(ONE, TWO, t))
    assert set(weights) == {"child-0", "child-1"}
    for place, share in merge.shares.items():
        expected = {"attention": [0, 0.2, 0.4, 0.6, 0.8, 1], "feed-forward": [1, 0.8, 0.6, 0.4, 0.2, 0]}
        for part, second in expected.items():
            values = np.zeros(6)
            for run in share.runs:
                if run.part == part:
                    values[run.first : run.last + 1] = run.weight
            own = np.array(second) if place == 2 else 1 - np.array(second)
            np.testing.assert_allclose(values, own, atol=0.15)


@pytest.mark.parametrize("amount", [0.0, 0.3])
def test_halves_of_two_relatives_are_a_stack(amount: float) -> None:
    halves = {n: (ONE if ".layers." not in n or int(n.split(".")[2]) < 3 else TWO)[n] for n in ROOT}
    # What came after is small beside what the two differ by.
    merge, weights = merge_of(trained(halves, 80, amount * 0.1))
    assert merge.method is MergeMethod.PASSTHROUGH
    assert weights == {"child-0": pytest.approx(0.5, abs=0.1), "child-1": pytest.approx(0.5, abs=0.1)}
    runs = [(run.first, run.last) for share in merge.shares.values() for run in share.runs]
    assert sorted(runs) == [(0, 2), (3, 5)]


@pytest.mark.parametrize("kind", ["ties", "dare"])
def test_sparse_changes_are_found_cell_by_cell(kind: str) -> None:
    if kind == "ties":
        merged = ties([ONE, TWO], ROOT, 0.5)
    else:
        merged = ties([dare(ONE, ROOT, 0.5, 1), dare(TWO, ROOT, 0.5, 2)], ROOT, 1)
    merge, weights = merge_of(merged)
    assert set(weights) == {"child-0", "child-1"}
    assert merge.method is (MergeMethod.TIES if kind == "ties" else MergeMethod.DARE_TIES)
    assert merge.reference == 0


def test_a_near_copy_of_a_parent_is_named_as_explaining_it_equally() -> None:
    near = trained(ONE, 90, 0.002)
    merge, weights = merge_of(trained(linear([ONE, TWO], [0.5, 0.5]), 91, 0.05), {**STORE, "near": near})
    one = next(share for place, share in merge.shares.items() if place != 2)
    assert "child-1" in weights
    assert set(weights) - {"child-1"} <= {"child-0", "near"}
    assert len(one.instead) == 1


def test_a_noisy_copy_of_an_exact_merge_is_another_merge_of_the_same() -> None:
    exact = linear([ONE, TWO], [0.5, 0.5])
    found = family({**STORE, "exact": exact, "noisy": trained(exact, 92, 0.03)})
    assert {place: sorted(merge.weights) for place, merge in found.merges.items()} == {9: [1, 2], 10: [1, 2]}


def test_light_fine_tunes_roundings_and_prunings_make_no_merge_of_their_parent() -> None:
    def cut(_: str, tensor: np.ndarray) -> np.ndarray:
        return np.where(np.abs(tensor) < np.quantile(np.abs(tensor), 0.3), 0, tensor)

    def grid(_: str, tensor: np.ndarray) -> np.ndarray:
        step = np.abs(tensor).max(axis=1, keepdims=True) / 7
        return np.round(tensor / step) * step

    others = {f"light-{n}": trained(ONE, 30 + n, 0.003) for n in range(3)}
    found = family({**STORE, **others, "cut": mapped(ONE, cut), "rounded": mapped(ONE, grid)})
    assert found.merges == {}


def test_a_base_of_which_a_sparse_merge_is_stored_is_none_itself() -> None:
    merged = ties([dare(ONE, ROOT, 0.5, 1), dare(TWO, ROOT, 0.5, 2)], ROOT, 1)
    assert set(family({**STORE, "merge": merged}).merges) == {9}


def test_a_merge_that_was_trained_on_for_long_is_seen_from_the_base() -> None:
    """Its parents hardly lie on opposite sides of it any more: what came after is as large as what they differ by."""
    _, weights = merge_of(trained(linear([ONE, TWO], [0.5, 0.5]), 71, 0.2))
    assert weights == {"child-0": pytest.approx(0.5, abs=0.1), "child-1": pytest.approx(0.5, abs=0.1)}


def test_a_sum_of_changes_needs_no_dates_where_others_show_the_base() -> None:
    merge, weights = merge_of(linear([ONE, TWO, ROOT], [1, 1, -1]))
    assert (merge.method, merge.reference) == (MergeMethod.TASK_ARITHMETIC, 0)
    assert weights == {"child-0": pytest.approx(1, abs=0.02), "child-1": pytest.approx(1, abs=0.02)}


def test_siblings_that_learnt_the_same_are_no_merges_of_each_other() -> None:
    rng = np.random.default_rng(7)
    common = {name: rng.normal(0, 0.25 * float(t.std()), t.shape).astype(np.float32) for name, t in ROOT.items()}
    siblings = {
        f"same-{n}": {name: t + common[name] for name, t in trained(ROOT, 50 + n, 0.2).items()} for n in range(4)
    }
    assert family({**STORE, **siblings}).merges == {}
