"""Trees from numbers alone: distances, slopes and odds of nodes whose history is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from provenance.query.verdict.tree import Tree, carries, grow

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


def grown(weights: np.ndarray, odds: Odds) -> Tree:
    distance = ((weights[:, None] - weights[None]) ** 2).mean(axis=2)

    def slopes(reference: int) -> tuple[np.ndarray, np.ndarray]:
        change = weights - weights[reference]
        energy = np.maximum((change**2).sum(axis=1), 1e-300)
        slope = change @ change.T / energy
        rest = np.maximum((change**2).sum(axis=1)[:, None] - slope**2 * energy, 0)
        return slope, np.sqrt(rest / energy / (CELLS - 1))

    return grow(range(len(weights)), odds, slopes, distance)


def test_who_carries_whose_change_on_makes_the_tree() -> None:
    tree = grown(family([None, 0, 1, 1, 0], [0, 0.3, 0.3, 0.4, 0.3]), lambda a, b: 5.0 if a < b else -5.0)
    assert tree.parent == {1: 0, 2: 1, 3: 1, 4: 0}
    assert tree.ancestry[0, 3] > 0.95
    assert tree.ancestry.get((2, 3), 0.0) < 0.05


def test_without_any_witness_the_hub_is_the_likely_root_and_nothing_is_certain() -> None:
    tree = grown(family([None, 0, 0, 0], [0, 0.3, 0.3, 0.3]), lambda a, b: 0.0)
    assert tree.ancestry[0, 1] == pytest.approx(5 / 6)
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
    assert carries(np.array(slope), np.array(error)) == expected
