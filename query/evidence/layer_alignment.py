"""For different depths: a run of layers that agrees, at any position in either checkpoint."""

from __future__ import annotations

from provenance.query.evidence.pair import Pair
from provenance.query.statistics.significance import to_p
from provenance.schemas.results import Evidence


def measure(pair: Pair) -> Evidence | None:
    """The run of layers with the best agreement; its p-value is corrected for every run tried. Null at equal depth."""
    if pair.same_depth:
        return None
    segment = pair.segment
    if segment is None:
        return None
    rows, _ = pair.layers
    a, b = pair.a.grid.layers[segment.rows_a], pair.b.grid.layers[segment.rows_b]
    note = f"{len(rows)} layers correspond; layers {a[0]}-{a[-1]} agree with {b[0]}-{b[-1]} of the candidate"
    value = pair.aligned.correlation if len(rows) else 0.0
    return Evidence("layer_alignment", value, to_p(segment.log10_p), segment.log10_p, pair.aligned.n, note)
