"""Correlation of curves of std, skewness and kurtosis over the layers. Its null is empirical: it never convicts."""

from __future__ import annotations

import math

import numpy as np

from provenance.indexer.dossier import Dossier
from provenance.indexer.signature import published_score
from provenance.query.evidence.pair import Pair
from provenance.query.statistics.significance import empirical_p
from provenance.schemas.results import Evidence

STATISTICS = ("std", "skewness", "kurtosis")


def measure(pair: Pair) -> Evidence | None:
    """Mean over std, skewness and kurtosis of the correlation of the q, k, v, o curves."""
    score = profile_score(pair.a.dossier, pair.b.dossier)
    return None if score is None else _with_background(pair, "profile_correlation", score)


def profile_score(a: Dossier, b: Dossier) -> float | None:
    """Mean over the statistics of the published score of their curves; null if no curves can be compared."""
    scores = [published_score(a.curves(statistic), b.curves(statistic)) for statistic in STATISTICS]
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None


def measure_published(pair: Pair) -> Evidence | None:
    """The score exactly as published (arXiv 2507.03014: std curves only)."""
    score = published_score(pair.a.dossier.curves(), pair.b.dossier.curves())
    return None if score is None else _with_background(pair, "published_score", score)


def _with_background(pair: Pair, kind: str, value: float) -> Evidence:
    p = empirical_p(value, pair.strangers(kind))
    layers = min(len(pair.a.grid.layers), len(pair.b.grid.layers))
    return Evidence(kind, value, p, None if p is None else math.log10(p), layers)
