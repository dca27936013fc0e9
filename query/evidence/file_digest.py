"""Equal SHA-256 of weight files: the same bytes."""

from __future__ import annotations

from provenance.indexer.dossier import Dossier
from provenance.query.evidence.pair import Pair
from provenance.schemas.results import Evidence

_LOG10_COLLISION = -77.0


def measure(pair: Pair) -> Evidence | None:
    """Fraction of the smaller checkpoint's weight files that the other has too.

    Null if digests are unknown, or if the weights are nothing but zeros, NaN or another value: such files are equal by
    their shapes alone.
    """
    a, b = set(pair.a.dossier.meta.sha256), set(pair.b.dossier.meta.sha256)
    if not a or not b or _hollow(pair.a.dossier):
        return None
    shared = len(a & b)
    n = min(len(a), len(b))
    log10_p = _LOG10_COLLISION if shared else 0.0
    return Evidence(
        "file_digest", shared / n, 10**log10_p, log10_p, n, f"{shared} of {n} files are equal byte for byte"
    )


def _hollow(dossier: Dossier) -> bool:
    """Whether a checkpoint has layer matrices and not one of them varies."""
    return len(dossier.matrices.facts) > 0 and not dossier.facts["digest"].any()
