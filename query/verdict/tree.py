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
from provenance.query.verdict.dates import UNKNOWN_DATES, doubted, worth

CARRIED_LEAST, CARRIED_MOST = 0.85, 1.1
"""Slopes of a change that is carried on: chains of fine-tunes have 0.64, with much decay, to 1.05. So have many
siblings on one text (0.71 to 1.54): the slope alone proves nothing. Both bounds are widened by two standard errors."""

CARRIED_SURELY = 0.5
"""What the slope must exceed by two standard errors: a change too small to be found again is no ancestor's."""

CONTINUED = 1.2
"""The same upper bound where nearly all of the change is carried on: training on the same text goes on the same way."""

TIED = 0.1
"""Share of the distance from the root under which two nodes differ too little to be ordered by it."""

WHOLE_CHANGE = 0.85
"""Correlation of two changes from which the one contains the other. Siblings that were trained on one text share up to
0.83 of theirs, and a third of them have a slope near 1: under this limit nothing tells them from a chain."""

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
class Evidence:
    """What is known of `n` nodes, pair by pair. Log odds, and orders, are positive where the first came first.

    Attributes:
        clear: `[n, n]` log odds by structure or a clear asymmetry, else 0.
        light: `[n, n]` by all others but dates.
        dates: `[n, n]` order of the dates: 1, -1 or 0.
        confirmed: `[n, n]` structure, or a card, names the first as what the second was made from.
        apart: `[n, n]` neither can descend from the other.
        carried: seen from each node, how far every one carries on every other's change (`Frame.carried`).
        distance: `[n, n]` squared distances.
    """

    clear: Array
    light: Array
    dates: NDArray[np.int64]
    confirmed: Flags
    apart: Flags
    carried: Sequence[Carried]
    distance: Array

    def odds(self, doubt: float) -> Array:
        """`[n, n]` log odds of all witnesses together (as `Precedence.log_odds`)."""
        others = self.light + self.dates * worth(doubt)
        return np.where(self.clear * others >= 0, self.clear + others, self.clear)


@dataclass(frozen=True)
class Tree:
    """Descent among nodes.

    Attributes:
        ancestry: `[n, n]` the probability that the first descends to the second.
        parent: of every node but the root, in the most probable tree.
    """

    ancestry: Array
    parent: Mapping[int, int]


def grow(known: Evidence, doubt: float = UNKNOWN_DATES) -> Tree:
    """The tree of `n` nodes, two at least.

    Args:
        known: of every pair.
        doubt: probability that the dates are arbitrary.
    """
    trees, weight = _trees(known, known.odds(doubt))
    ancestry = np.zeros_like(known.distance)
    for root in np.flatnonzero(weight).tolist():
        ancestry += weight[root] * _descent(root, *trees[root])
    # What the weights of two contradict by themselves is not said of them, whatever the others say.
    ancestry[known.clear < 0] = np.minimum(ancestry[known.clear < 0], 0.5)
    return Tree(ancestry, trees[int(np.argmax(weight))][0])


def doubt_of(known: Evidence, doubt: float) -> float:
    """Probability that the dates are arbitrary, after a look at the trees that are likely without them.

    Args:
        known: of every pair.
        doubt: the same before.
    """
    if not known.dates.any():
        return doubt
    trees, weight = _trees(known, known.odds(1.0))
    likely = np.flatnonzero(weight).tolist()
    orders = [[int(known.dates[above, node]) for node, above in trees[root][0].items()] for root in likely]
    return doubted(doubt, weight[likely].tolist(), orders)


def _trees(known: Evidence, odds: Array) -> tuple[list[tuple[dict[int, int], Array]], Array]:
    """The tree below each node as root (`_below`), and `[n]` how probable each root is.

    A root is as probable as the witnesses about the edges of its tree, and its place in it, make it. Only edges count:
    the pairs of a family do not speak independently of each other.
    """
    parted = _parted(known.distance)
    trees = [_below(root, known, odds, parted) for root in range(len(odds))]
    score = np.array(
        [
            -sum(math.log1p(math.exp(-odds[above, node])) for node, above in tree.items())
            - sum(map(math.log, _subtrees(root, tree).values()))
            for root, (tree, _) in enumerate(trees)
        ]
    )
    weight = np.exp(score - score.max())
    weight[weight < LIKELY] = 0
    return trees, weight / weight.sum()


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


def _below(root: int, known: Evidence, odds: Array, parted: Flags) -> tuple[dict[int, int], Array]:
    """The parent of every node below a root: the nearest whose change it carries on, else the root itself.

    And `[n, n]` the probability that the first descends to the second, as far as it shows in the change that they
    share.
    """
    found, distance, odds = known.carried[root], known.distance, odds.T
    far = distance[root]
    # Of two that are nearly one, the change between them is lost in what both have from the root.
    tied = distance < TIED * far[:, None]
    before = np.where(tied, odds > 0, (far[None, :] < far[:, None]) & (odds > -math.log(2)))
    before &= ~known.apart
    before[:, root] = before[root] = False
    np.fill_diagonal(before, False)
    shared = before & (found.slope - 2 * found.error >= CARRIED_SURELY)
    carried = shared & carries(found)
    parts = carried & (np.einsum("zy,yzx->xy", carried, parted) > 0)
    whole = found.correlation >= np.where(odds >= AGREED, WHOLE_CHANGE, NEARLY_EQUAL)
    goes_on = shared & (found.slope + 2 * found.error >= CARRIED_LEAST) & (found.slope - 2 * found.error <= CONTINUED)
    probability = np.where(shared, SHARED_ODDS, 0.0)
    probability[parts] = PARTED_ODDS
    probability[goes_on & (whole | known.confirmed.T)] = 1.0
    near = before & (distance < far[:, None]) & (whole | parts | (goes_on & known.confirmed.T))
    parent = {node: root for node in range(len(odds)) if node != root}
    some = near.any(axis=1)
    for x in np.argsort(far, kind="stable").tolist():
        if some[x]:
            through = np.flatnonzero(near[x])
            ordered = through[np.argsort(distance[x, through], kind="stable")].tolist()
            nearest = next((y for y in ordered if x not in _line(y, parent)), root)
            # Behind a nearer one that may be its parent, a farther one may be that one's child as well.
            if probability[x, nearest] >= PARTED_ODDS:
                parent[x] = nearest
                siblings = parted[nearest, x].copy()  # what they have in common is their parent
                siblings[nearest] = False
                probability[x, siblings] = 0.0
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
