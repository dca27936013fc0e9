"""Trees from numbers alone: distances, slopes and odds of nodes whose history is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.query.statistics.frame import Carried, Frame
from provenance.query.verdict.dates import KEPT, doubted, worth
from provenance.query.verdict.tree import PARTED_ODDS, SHARED_ODDS, Evidence, Tree, carries, doubt_of, grow

CELLS = 20_000
Odds = Callable[[int, int], float]


def family(parents: list[int | None], sizes: list[float]) -> np.ndarray:
    """Weights of nodes: each its parent plus an independent change of that size."""
    rng = np.random.default_rng(0)
    weights = np.zeros((len(parents), CELLS))
    for node, parent in enumerate(parents):
        start = rng.normal(size=CELLS) if parent is None else weights[parent]
        weights[node] = start + (0 if parent is None else sizes[node]) * rng.normal(size=CELLS)
    return weights


def pairs(n: int, value: Odds) -> np.ndarray:
    return np.array([[0.0 if a == b else value(a, b) for b in range(n)] for a in range(n)])


def known(weights: np.ndarray, odds: Odds, dates: Odds = lambda a, b: 0.0) -> Evidence:
    n = len(weights)
    never = np.zeros((n, n), np.bool_)
    one, owner = np.zeros(1, np.int64), np.zeros(CELLS, np.int64)
    frame = Frame(weights, np.ones_like(weights, np.bool_), owner, one, one, np.zeros((n, 1), np.int64))
    return Evidence(
        clear=never * 0.0,
        light=pairs(n, odds),
        dates=pairs(n, dates).astype(np.int64),
        confirmed=never,
        apart=never,
        carried=[frame.carried(node) for node in range(n)],
        distance=frame.squared,
    )


def grown(weights: np.ndarray, odds: Odds) -> Tree:
    return grow(known(weights, odds))


def test_who_carries_whose_change_on_makes_the_tree() -> None:
    tree = grown(family([None, 0, 1, 1, 0], [0, 0.3, 0.1, 0.15, 0.3]), lambda a, b: 5.0 if a < b else -5.0)
    assert tree.parent == {1: 0, 2: 1, 3: 1, 4: 0}
    assert tree.ancestry[0, 3] > 0.95
    assert tree.ancestry[2, 3] < 0.05


def test_without_any_witness_the_hub_is_the_likely_root_and_nothing_is_certain() -> None:
    tree = grown(family([None, 0, 0, 0], [0, 0.3, 0.3, 0.3]), lambda a, b: 0.0)
    # As the root in half of the cases, and below another leaf in a third, where two that part make it likely.
    assert tree.ancestry[0, 1] == pytest.approx(1 / 2 + PARTED_ODDS / 3)
    assert tree.ancestry[1, 0] == pytest.approx(1 / 6)


def test_a_change_too_small_to_order_two_nodes_is_left_to_the_witnesses() -> None:
    # Node 2 is node 1 rounded: its distance from the root says nothing.
    weights = family([None, 0, 1], [0, 0.3, 0.001])
    for order in ([0, 1, 2], [0, 2, 1]):
        place = {node: i for i, node in enumerate(order)}
        tree = grown(weights, lambda a, b, place=place: 6.0 if place[a] < place[b] else -6.0)
        assert tree.parent == {order[1]: 0, order[2]: order[1]}


def test_witnesses_that_contradict_each_other_make_no_circle() -> None:
    weights = family([None, 0, 0, 0], [0, 0.3, 0.0, 0.0])
    weights[2], weights[3] = weights[1] + 1e-4, weights[1] - 1e-4
    tree = grown(weights, lambda a, b: 6.0 if (b - a) % 3 == 1 else -6.0)
    for node in tree.parent:
        line = [node]
        while line[-1] in tree.parent:
            line.append(tree.parent[line[-1]])
            assert len(line) <= 4


def same_text(sizes: list[float], common: float, seed: int = 1) -> np.ndarray:
    """A base, and children that share a part of their change: the common text's, of that size in each."""
    rng = np.random.default_rng(seed)
    base, text = rng.normal(size=(2, CELLS))
    children = [base + size * (common * text + np.sqrt(1 - common**2) * rng.normal(size=CELLS)) for size in sizes]
    return np.stack([base, *children])


@pytest.mark.parametrize("common", [0.5, 0.7, 0.8])
def test_siblings_on_one_text_are_never_a_chain(common: float) -> None:
    # The larger change is as many times larger as makes its slope on the smaller 1.
    weights = same_text([0.1, 0.1 / common**2], common)
    tree = grown(weights, lambda a, b: 5.0 if a < b else -5.0)
    assert tree.ancestry[1, 2] == pytest.approx(SHARED_ODDS, abs=0.01)
    assert tree.ancestry[0, 2] > 0.95


def test_dates_are_doubted_where_they_contradict_the_tree() -> None:
    weights = family([None, 0, 0, 0, 0, 0, 0, 0], [0, *[0.3] * 7])
    light = lambda a, b: 2.0 if a == 0 else -2.0 if b == 0 else 0.0  # noqa: E731
    right = known(weights, light, lambda a, b: 1.0 if a < b else -1.0)
    place = [4, 0, 5, 1, 6, 2, 7, 3]
    wrong = known(weights, light, lambda a, b: 1.0 if place[a] < place[b] else -1.0)
    assert doubt_of(right, 0.01) < 0.01
    assert doubt_of(wrong, 0.01) > 0.9
    assert doubt_of(known(weights, light), 0.01) == 0.01


@given(st.floats(0.001, 0.999), st.lists(st.sampled_from([-1, 0, 1]), max_size=12))
def test_doubt_is_bayes_rule(doubt: float, orders: list[int]) -> None:
    right, wrong = orders.count(1), orders.count(-1)
    kept, arbitrary = KEPT**right * (1 - KEPT) ** wrong, 0.5 ** (right + wrong)
    expected = doubt * arbitrary / (doubt * arbitrary + (1 - doubt) * kept)
    assert doubted(doubt, [1.0], [orders]) == pytest.approx(expected)
    assert 0 <= worth(doubted(doubt, [1.0], [orders])) <= 5


@pytest.mark.parametrize(
    ("slope", "error", "expected"),
    [
        (1.0, 0.02, True),
        (0.9, 0.02, True),
        (0.8, 0.02, False),
        (1.3, 0.05, False),
        (1.0, 0.4, False),
        (0.0, np.inf, False),
    ],
)
def test_slopes_of_a_change_carried_on(slope: float, error: float, expected: bool) -> None:
    assert carries(Carried(np.array(slope), np.array(error), np.array(0.9))) == expected
