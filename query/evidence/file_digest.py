"""Equal SHA-256 of weight files: the same bytes."""

from __future__ import annotations

from provenance.query.evidence.pair import Pair
from provenance.schemas.results import Evidence

_LOG10_COLLISION = -77.0


def measure(pair: Pair) -> Evidence | None:
    """Fraction of the smaller checkpoint's weight files that the other has too; null if digests are unknown."""
    a, b = set(pair.a.dossier.meta.sha256), set(pair.b.dossier.meta.sha256)
    if not a or not b:
        return None
    shared = len(a & b)
    n = min(len(a), len(b))
    log10_p = _LOG10_COLLISION if shared else 0.0
    return Evidence(
        "file_digest", shared / n, 10**log10_p, log10_p, n, f"{shared} of {n} files are equal byte for byte"
    )
