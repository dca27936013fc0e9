"""How far the dates of a family can be trusted: as far as they agree with its tree.

Dates are wrong together: a mirror uploads a whole family on one day in any order, a copy of a base gets a new date and
is then younger than all its children. So there are two cases, kept dates and arbitrary ones, and the tree that weights
alone make says which of them a family has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

KEPT = 1 / (1 + math.exp(-5))
"""Probability that of two kept dates the parent's is the earlier: re-uploads are the exception."""

UNKNOWN_DATES = 0.01
"""Probability that the dates of a family are arbitrary, before its weights are asked."""


def doubted(doubt: float, shares: Sequence[float], edges: Sequence[Sequence[int]]) -> float:
    """Probability that the dates of a family are arbitrary, by Bayes' rule.

    Args:
        doubt: the same before these edges are looked at.
        shares: probability of each possible tree.
        edges: of each tree, the order of the dates of every parent and child: 1 where the parent's is the earlier, -1
            where the child's is, 0 where one is missing.
    """
    kept = arbitrary = 0.0
    for share, orders in zip(shares, edges, strict=True):
        right, wrong = sum(order > 0 for order in orders), sum(order < 0 for order in orders)
        kept += share * KEPT**right * (1 - KEPT) ** wrong
        arbitrary += share * 0.5 ** (right + wrong)
    return doubt * arbitrary / (doubt * arbitrary + (1 - doubt) * kept)


def worth(doubt: float) -> float:
    """Log odds that the earlier of two dates is the parent's."""
    return math.log((doubt / 2 + (1 - doubt) * KEPT) / (doubt / 2 + (1 - doubt) * (1 - KEPT)))
