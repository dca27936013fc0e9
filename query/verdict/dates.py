"""How far the dates of a family can be trusted: as far as they agree with its weights.

Dates are wrong together: a mirror uploads a whole family on one day in any order, a copy of a base gets a new date and
is then younger than all its children. So there are two cases, kept dates and arbitrary ones, and the pairs whose order
the weights tell by themselves say which of them a family is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

KEPT = 1 / (1 + math.exp(-5))
"""Probability that of two kept dates the parent's is the earlier: re-uploads are the exception."""

UNKNOWN_DATES = 0.01
"""Probability that the dates of a family are arbitrary, before its weights are asked."""


def doubt(edges: Iterable[tuple[float, int]]) -> float:
    """Probability that the dates of a family are arbitrary.

    By Bayes' rule, from pairs that speak independently of each other: nearest neighbours, and merges with each parent.

    Args:
        edges: of each pair, the log odds by its weights alone that the first came first, and the order of its dates
            (1, -1, or 0 where one is missing).
    """
    log_odds = math.log(UNKNOWN_DATES / (1 - UNKNOWN_DATES))
    for odds, dates in edges:
        if dates:
            first = 1 / (1 + math.exp(-odds * dates))
            log_odds += math.log(0.5 / (first * KEPT + (1 - first) * (1 - KEPT)))
    return 1 / (1 + math.exp(-log_odds))


def worth(doubt: float) -> float:
    """Log odds that the earlier of two dates is the parent's."""
    return math.log((doubt / 2 + (1 - doubt) * KEPT) / (doubt / 2 + (1 - doubt) * (1 - KEPT)))
