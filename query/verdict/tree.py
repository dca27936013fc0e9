"""The tree of a family, for every possible root: who carries whose change on, and how well the witnesses agree.

Seen from the root, a descendant of Y is Y plus something independent of Y's own change. So Y is an ancestor of X where
the slope of X's change on Y's is 1; then Y is also the nearer of the two to the root, and no circle can arise. Siblings
have a slope near 0, or any slope where they were trained on the same text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.frame import Carried
from provenance.query.verdict.dates import UNKNOWN_DATES, doubted

CARRIED_LEAST, CARRIED_MOST = 0.85, 1.1
"""Slopes of a change that is carried on: chains of fine-tunes have 0.91 to 1.03, siblings on one text under 0.82 or
over 1.14. Both bounds are widened by two standard errors."""

CARRIED_SURELY = 0.5
"""What the slope must exceed by two standard errors: a change too small to be found again is no ancestor's."""

CONTINUED = 1.2
"""The same upper bound where nearly all of the change is carried on: training on the same text goes on the same way."""

TIED = 0.1
"""Share of the distance from the root under which two nodes differ too little to be ordered by it."""

WHOLE_CHANGE = 0.85
"""Correlation of two changes from which the one contains the other. Siblings that were trained on one text share up to
0.81 of theirs, and a sixth of them have a slope near 1: under this limit nothing tells them from a chain."""

AGREED, NEARLY_EQUAL = 3.0, 0.95
"""Where no other witness names the same order by these log odds, the correlation must be higher: the mean of a model
and one that changed less lies before it on the way from the root, and has up to 0.87."""

PARTED = 0.2
"""Cosine of two changes from one point under which they part there. Of siblings on one text two always have a part of
the third's change in common (0.29 and more, 47 triples), children of one parent on other texts 0.25 at the most."""

SHARED_ODDS, PARTED_ODDS = 0.5, 0.9
"""Probability that one of two that share a change descends from the other; the same where another one parts from it
there: then one of the two at least is no sibling. Neither is enough to be said."""

LIKELY = 0.001
"""Roots that are less probable are left out."""

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Witnesses:
    """What is known of `n` nodes, pair by pair, apart from the shape of the tree.

    Attributes:
        odds: `[n, n]` log odds that the first came before the second.
        confirmed: `[n, n]` structure, or a card, names the first as what the second was made from.
        apart: `[n, n]` neither can descend from the other.
        dates: `[n, n]` 1 where the first is the older, -1 where the second is, else 0.
    """

    odds: Array
    confirmed: Flags
    apart: Flags
    dates: NDArray[np.int64]


@dataclass(frozen=True)
class Tree:
    """Descent among nodes.

    Attributes:
        ancestry: `[n, n]` the probability that the first descends to the second.
        parent: of every node but the root, in the most probable tree.
        doubt: probability that the dates are arbitrary, where `odds` were made without them.
    """

    ancestry: Array
    parent: Mapping[int, int]
    doubt: float


def grow(witnesses: Witnesses, carried: Sequence[Carried], distance: Array, doubt: float = UNKNOWN_DATES) -> Tree:
    """The tree of `n` nodes, two at least.

    A root is as probable as the witnesses about the edges of its tree, and its place in it, make it. Only edges count:
    the pairs of a family do not speak independently of each other.

    Args:
        witnesses: about pairs of them.
        carried: seen from each of them, how far every node carries on every other's change (`Frame.carried`).
        distance: `[n, n]` squared distances.
        doubt: probability that the dates are arbitrary, so far.
    """
    nodes = range(len(distance))
    parted = _parted(distance)
    trees = [_below(root, witnesses, carried[root], distance, parted) for root in nodes]
    score = np.array(
        [
            -sum(math.log1p(math.exp(-witnesses.odds[above, node])) for node, above in tree.items())
            - sum(map(math.log, _subtrees(root, tree).values()))
            for root, (tree, _) in enumerate(trees)
        ]
    )
    weight = np.exp(score - score.max())
    weight[weight < LIKELY] = 0
    weight /= weight.sum()
    ancestry = np.zeros_like(distance)
    for root in np.flatnonzero(weight):
        ancestry += weight[root] * _descent(int(root), *trees[root])
    likely = np.flatnonzero(weight).tolist()
    agreed = [[witnesses.dates[above, node] for node, above in trees[root][0].items()] for root in likely]
    return Tree(ancestry, trees[int(np.argmax(weight))][0], doubted(doubt, weight[likely].tolist(), agreed))


def carries(found: Carried) -> Flags:
    """Whether slopes are those of a change carried on."""
    low, high = found.slope - 2 * found.error, found.slope + 2 * found.error
    carried: Flags = (low >= CARRIED_SURELY) & (high >= CARRIED_LEAST) & (low <= CARRIED_MOST)
    return carried


def _parted(distance: Array) -> Flags:
    """`[n, n, n]`: whether the changes from the first to the two others have hardly anything in common."""
    own = distance[:, :, None]
    other = distance[:, None, :]
    parted: Flags = own + other - distance[None] <= 2 * PARTED * np.sqrt(own * other)
    return parted


def _below(
    root: int, witnesses: Witnesses, found: Carried, distance: Array, parted: NDArray[np.bool_]
) -> tuple[dict[int, int], Array]:
    """The parent of every node below a root: the nearest whose change it carries on, else the root itself.

    And `[n, n]` the probability that the first descends to the second, as far as it shows in the change that they
    share.
    """
    far = distance[root]
    # Of two that are nearly one, the change between them is lost in what both have from the root.
    tied = distance < TIED * far[:, None]
    before = np.where(tied, witnesses.odds.T > 0, (far[None, :] < far[:, None]) & (witnesses.odds.T > -math.log(2)))
    before &= ~witnesses.apart
    before[:, root] = before[root] = False
    np.fill_diagonal(before, False)
    shared = before & (found.slope - 2 * found.error >= CARRIED_SURELY)
    carried = shared & carries(found)
    parts = carried & (np.einsum("zy,yzx->xy", carried, parted) > 0)
    whole = found.correlation >= np.where(witnesses.odds.T >= AGREED, WHOLE_CHANGE, NEARLY_EQUAL)
    goes_on = shared & (found.slope + 2 * found.error >= CARRIED_LEAST) & (found.slope - 2 * found.error <= CONTINUED)
    probability = np.where(shared, SHARED_ODDS, 0.0)
    probability[parts] = PARTED_ODDS
    probability[goes_on & (whole | witnesses.confirmed.T)] = 1.0
    near = before & (distance < far[:, None]) & (whole | parts | (goes_on & witnesses.confirmed.T))
    parent: dict[int, int] = {}
    for x in np.argsort(far, kind="stable").tolist():
        if x != root:
            through = np.flatnonzero(near[x])
            ordered = through[np.argsort(distance[x, through], kind="stable")].tolist()
            nearest = next((y for y in ordered if x not in _line(y, parent)), root)
            # Behind a nearer one that may be its parent, a farther one may be that one's child as well.
            parent[x] = nearest if probability[x, nearest] >= PARTED_ODDS else root
    return parent, probability.T


def _descent(root: int, parent: Mapping[int, int], probability: Array) -> Array:
    """`[n, n]` the probability that the first descends to the second, in one tree.

    Args:
        root: of the tree.
        parent: of every other node.
        probability: `[n, n]` that the first descends to the second, where both are below the root.
    """
    found = np.minimum(probability, PARTED_ODDS)
    for node in sorted(parent, key=lambda node: len(list(_line(node, parent)))):
        above = parent[node]
        if above != root:
            line = list(_line(above, parent))
            found[:, node] = np.maximum(found[:, node], probability[above, node] * found[:, above])
            found[above, node] = probability[above, node]
            found[node, [above, *line]] = 0.0
        found[root, node] = 1.0
    return found


def _line(node: int, parent: Mapping[int, int]) -> Iterator[int]:
    """The ancestors of a node so far, nearest first."""
    while node in parent:
        node = parent[node]
        yield node


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
