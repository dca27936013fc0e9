"""Correlation of sampled weights at equal roles, layers and cells: the line that carries most convictions."""

from __future__ import annotations

from provenance.query.evidence.pair import Pair
from provenance.query.statistics.significance import MIN_BLOCKS, to_p
from provenance.schemas.results import Evidence


def measure(pair: Pair) -> Evidence | None:
    """Pooled correlation of cells centred and scaled per matrix, layers matched by position.

    Null hypothesis: the weights at the cells of one matrix say nothing about those of the other. The p-value is
    two-sided and the larger of two self-normalised block tests (see `query.statistics.alignment.agreement`).
    """
    found = pair.by_position
    if found.n == 0:
        return None
    if found.log10_p == 0.0 and found.t == 0.0:
        return Evidence("weight_correlation", found.correlation, None, None, found.n, f"under {MIN_BLOCKS} blocks")
    return Evidence(
        "weight_correlation", found.correlation, to_p(found.log10_p), found.log10_p, found.n, f"t = {found.t:.1f}"
    )
