"""The tree of a family, for every possible root: who carries whose change on, and how well the witnesses agree.

Seen from the root, a descendant of Y is Y plus something independent of Y's own change. So Y is an ancestor of X where
the slope of X's change on Y's is 1; then Y is also the nearer of the two to the root, and no circle can arise. Siblings
have a slope near 0, or any slope where they were trained on the same text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CARRIED_LEAST, CARRIED_MOST = 0.85, 1.1
"""Slopes of a change that is carried on: chains of fine-tunes have 0.91 to 1.03, siblings on one text under 0.82 or
over 1.14. Both bounds are widened by two standard errors."""

CARRIED_SURELY = 0.5
"""What the slope must exceed by two standard errors: a change too small to be found again is no ancestor's."""

TIED = 0.05
"""Share of the distance from the root under which two nodes differ too little to be ordered by it."""

LIKELY = 0.001
"""Roots that are less probable are left out."""

Array = NDArray[np.float64]
Slopes = Callable[[int], tuple[Array, Array]]


@dataclass(frozen=True)
class Tree:
    """Descent among the nodes of one part of a family.

    Attributes:
        ancestry: by ancestor and descendant, the probability that one descends to the other.
        parent: of every node but the root, in the most probable tree.
    """

    ancestry: Mapping[tuple[int, int], float]
    parent: Mapping[int, int]


def grow(nodes: Sequence[int], odds: Callable[[int, int], float], slopes: Slopes, distance: Array) -> Tree:
    """The tree of some nodes.

    A root is as probable as the witnesses about the edges of its tree, and its place in it, make it. Only edges count:
    the pairs of a family do not speak independently of each other.

    Args:
        nodes: at least two.
        odds: log odds that one node came before another, from that pair alone.
        slopes: of every node's change on every other's as seen from a reference, and their errors (`Frame.carried`).
        distance: `[n, n]` squared distances.
    """
    trees = {root: _below(root, nodes, odds, *slopes(root), distance) for root in nodes}
    score = {
        root: -sum(math.log1p(math.exp(-odds(above, node))) for node, above in tree.items())
        - sum(map(math.log, _subtrees(root, tree).values()))
        for root, tree in trees.items()
    }
    top = max(score.values())
    weight = {root: math.exp(value - top) for root, value in score.items() if value - top > math.log(LIKELY)}
    ancestry: dict[tuple[int, int], float] = {}
    for root, share in weight.items():
        for node in nodes:
            above = node
            while above != root:
                above = trees[root][above]
                ancestry[above, node] = ancestry.get((above, node), 0.0) + share / sum(weight.values())
    return Tree(ancestry, trees[max(weight, key=lambda root: weight[root])])


def carries(slope: Array, error: Array) -> NDArray[np.bool_]:
    """Whether slopes are those of a change carried on."""
    low, high = slope - 2 * error, slope + 2 * error
    carried: NDArray[np.bool_] = (low >= CARRIED_SURELY) & (high >= CARRIED_LEAST) & (low <= CARRIED_MOST)
    return carried


def _below(
    root: int, nodes: Sequence[int], odds: Callable[[int, int], float], slope: Array, error: Array, distance: Array
) -> dict[int, int]:
    """The parent of every node below a root: the nearest whose change it carries on, else the root itself."""
    parent: dict[int, int] = {}

    def comes_before(y: int, x: int) -> bool:
        if distance[x, y] < TIED * distance[root, x]:
            return odds(y, x) > 0  # the change between the two is lost in what both have from the root
        return bool(distance[root, y] < distance[root, x]) and odds(y, x) > -math.log(2)

    inside = np.isin(np.arange(len(distance)), [node for node in nodes if node != root])
    possible = carries(slope, error) & (distance < distance[:, root][:, None]) & inside[None, :]
    np.fill_diagonal(possible, False)
    for x in sorted((node for node in nodes if node != root), key=lambda node: float(distance[root, node])):
        through = np.flatnonzero(possible[x])
        ordered = map(int, through[np.argsort(distance[x, through], kind="stable")])
        parent[x] = next((y for y in ordered if comes_before(y, x) and not _hangs_on(y, x, parent)), root)
    return parent


def _hangs_on(node: int, above: int, parent: Mapping[int, int]) -> bool:
    """Whether one node is below another so far."""
    while node in parent:
        node = parent[node]
        if node == above:
            return True
    return False


def _subtrees(root: int, above: Mapping[int, int]) -> dict[int, int]:
    """The number of nodes at and below every node of a tree.

    A tree that grew node by node, each time at a node drawn at random, began at a node with a chance inversely
    proportional to the product of these (Shah & Zaman 2011, IEEE Trans. Inf. Theory 57, eq. 5: rumour centrality).
    """
    size = dict.fromkeys((root, *above), 1)
    for node in above:
        step = node
        while step != root:
            step = above[step]
            size[step] += 1
    return size
