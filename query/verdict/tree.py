"""The tree of a family, for every possible root: who carries whose change on, and how well the witnesses agree.

Seen from the root, a descendant of Y is Y plus something independent of Y's own change. So Y is an ancestor of X where
the slope of X's change on Y's is 1; then Y is also the nearer of the two to the root, and no circle can arise. Siblings
have a slope near 0, or any slope where they were trained on the same text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.frame import Carried

CARRIED_LEAST, CARRIED_MOST = 0.85, 1.1
"""Slopes of a change that is carried on: chains of fine-tunes have 0.91 to 1.03, siblings on one text under 0.82 or
over 1.14. Both bounds are widened by two standard errors."""

CARRIED_SURELY = 0.5
"""What the slope must exceed by two standard errors: a change too small to be found again is no ancestor's."""

TIED = 0.05
"""Share of the distance from the root under which two nodes differ too little to be ordered by it."""

WHOLE_CHANGE = 0.85
"""Correlation of two changes from which the one contains the other. Siblings that were trained on one text share up to
0.81 of theirs, and a sixth of them have a slope near 1: under this limit nothing tells them from a chain."""

LIKELY = 0.001
"""Roots that are less probable are left out."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Witnesses:
    """What is known of pairs of nodes apart from the shape of the tree.

    Attributes:
        odds: log odds that the first came before the second.
        confirmed: whether structure, or a card, names the first as what the second was made from.
    """

    odds: Callable[[int, int], float]
    confirmed: Callable[[int, int], bool]


@dataclass(frozen=True)
class Tree:
    """Descent among the nodes of one part of a family.

    Attributes:
        ancestry: by ancestor and descendant, the probability that one descends to the other. Of two that share a
            change and may be siblings as well, half of it.
        parent: of every node but the root, in the most probable tree.
    """

    ancestry: Mapping[tuple[int, int], float]
    parent: Mapping[int, int]


def grow(nodes: Sequence[int], witnesses: Witnesses, carried: Callable[[int], Carried], distance: Array) -> Tree:
    """The tree of some nodes.

    A root is as probable as the witnesses about the edges of its tree, and its place in it, make it. Only edges count:
    the pairs of a family do not speak independently of each other.

    Args:
        nodes: at least two.
        witnesses: about pairs of them.
        carried: how far every node carries on every other's change, seen from a reference (`Frame.carried`).
        distance: `[n, n]` squared distances.
    """
    trees = {root: _below(root, nodes, witnesses, carried(root), distance) for root in nodes}
    score = {
        root: -sum(math.log1p(math.exp(-witnesses.odds(above, node))) for node, above in tree.items())
        - sum(map(math.log, _subtrees(root, tree).values()))
        for root, (tree, _) in trees.items()
    }
    top = max(score.values())
    weight = {root: math.exp(value - top) for root, value in score.items() if value - top > math.log(LIKELY)}
    ancestry: dict[tuple[int, int], float] = {}
    for root, amount in weight.items():
        tree, open_pairs = trees[root]
        share = amount / sum(weight.values())
        lines = {(above, node) for node in tree for above in _line(node, tree)}
        for pair in lines:
            ancestry[pair] = ancestry.get(pair, 0.0) + share
        for pair in open_pairs:
            if pair not in lines:
                ancestry[pair] = ancestry.get(pair, 0.0) + share / 2
    return Tree(ancestry, trees[max(weight, key=lambda root: weight[root])][0])


def carries(found: Carried) -> NDArray[np.bool_]:
    """Whether slopes are those of a change carried on."""
    low, high = found.slope - 2 * found.error, found.slope + 2 * found.error
    carried: NDArray[np.bool_] = (low >= CARRIED_SURELY) & (high >= CARRIED_LEAST) & (low <= CARRIED_MOST)
    return carried


def _below(
    root: int, nodes: Sequence[int], witnesses: Witnesses, found: Carried, distance: Array
) -> tuple[dict[int, int], list[tuple[int, int]]]:
    """The parent of every node below a root: the nearest whose change it surely carries on, else the root itself.

    And all pairs, the nearer to the root first, of which the one may descend from the other or be its sibling.
    """
    parent: dict[int, int] = {}

    def comes_before(y: int, x: int) -> bool:
        if distance[x, y] < TIED * distance[root, x]:
            return witnesses.odds(y, x) > 0  # the change between the two is lost in what both have from the root
        return bool(distance[root, y] < distance[root, x]) and witnesses.odds(y, x) > -math.log(2)

    inside = np.isin(np.arange(len(distance)), [node for node in nodes if node != root])
    shared = (found.slope - 2 * found.error >= CARRIED_SURELY) & inside[None, :] & inside[:, None]
    np.fill_diagonal(shared, False)
    possible = shared & carries(found) & (distance < distance[:, root][:, None])
    whole = found.correlation >= WHOLE_CHANGE
    for x in sorted((node for node in nodes if node != root), key=lambda node: float(distance[root, node])):
        through = np.flatnonzero(possible[x])
        ordered = map(int, through[np.argsort(distance[x, through], kind="stable")])
        parent[x] = next(
            (
                y
                for y in ordered
                if (whole[x, y] or witnesses.confirmed(y, x)) and comes_before(y, x) and not _hangs_on(y, x, parent)
            ),
            root,
        )
    open_pairs = [
        (y, x) for x, y in np.argwhere(shared).tolist() if comes_before(y, x) and not _hangs_on(x, y, parent)
    ]
    return parent, open_pairs


def _line(node: int, parent: Mapping[int, int]) -> Iterator[int]:
    """The ancestors of a node so far, nearest first."""
    while node in parent:
        node = parent[node]
        yield node


def _hangs_on(node: int, above: int, parent: Mapping[int, int]) -> bool:
    return above in _line(node, parent)


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
