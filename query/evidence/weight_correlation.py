"""Correlation of sampled weights at equal roles, layers and cells: the line behind most convictions."""

from __future__ import annotations

from provenance.query.evidence.pair import Pair
from provenance.query.statistics.significance import MIN_BLOCKS, to_p
from provenance.schemas.results import Evidence


def measure(pair: Pair) -> Evidence | None:
    """Pooled correlation of cells centred and scaled per matrix, layers matched by position.

    Null hypothesis: the weights at the cells of one matrix are independent of those of the other. The p-value is
    two-sided and the largest of three self-normalised block tests (see `query.statistics.alignment.Agreement`).
    """
    match = pair.by_position
    if match.n == 0:
        return None
    if match.log10_p == 0.0 and match.t == 0.0:
        return Evidence("weight_correlation", match.correlation, None, None, match.n, f"under {MIN_BLOCKS} blocks")
    return Evidence(
        "weight_correlation", match.correlation, to_p(match.log10_p), match.log10_p, match.n, f"t = {match.t:.1f}"
    )
