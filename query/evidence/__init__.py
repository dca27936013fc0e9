"""Lines of evidence. A new line is one module with `measure(pair) -> Evidence | None`, and one row here."""

from __future__ import annotations

from collections.abc import Callable

from provenance.query.evidence import (
    architecture,
    file_digest,
    layer_alignment,
    norm_correlation,
    profile_correlation,
    tensor_digest,
    weight_correlation,
)
from provenance.query.evidence.pair import Pair
from provenance.schemas.records import Evidence

LINES: dict[str, Callable[[Pair], Evidence | None]] = {
    "file_digest": file_digest.measure,
    "tensor_digest": tensor_digest.measure,
    "weight_correlation": weight_correlation.measure,
    "layer_alignment": layer_alignment.measure,
    "norm_correlation": norm_correlation.measure,
    "profile_correlation": profile_correlation.measure,
    "published_score": profile_correlation.measure_published,
    "architecture": architecture.measure,
}

SUPPORTING = ("norm_correlation", "profile_correlation", "published_score")
"""Lines with an empirical null: their p-values end at 1 / (n + 1), so they support and never convict."""

CONVICTING = ("file_digest", "tensor_digest", "weight_correlation", "layer_alignment")
"""Lines whose null distribution is known well enough to convict."""


def gather(pair: Pair) -> list[Evidence]:
    """Every line that has something to say about the pair."""
    return [evidence for measure in LINES.values() if (evidence := measure(pair)) is not None]
