"""Backgrounds: scores of unrelated pairs, for lines of evidence without a known null distribution.

A store learns its own background (`query.evidence.backgrounds`) in two strata: pairs of equal shape and pairs of
different shapes, because curves of equal length agree more easily. A stratum with few pairs is extended to all pairs of
the store, and then by the bundled background, which comes from checkpoints trained independently of each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from provenance.indexer.dossier import Dossier

ENOUGH = 100
"""Number of pairs from which a stratum is used alone."""

SAME, OTHER = "same-shape", "other-shape"

Scores = Mapping[str, NDArray[np.float64]]


def stratum(a: Dossier, b: Dossier) -> str:
    """The stratum of a pair: equal depth and width, or not."""
    shape = [(d.meta.n_layers, d.meta.hidden_size) for d in (a, b)]
    return SAME if shape[0] == shape[1] else OTHER


def key(kind: str, name: str) -> str:
    """The key of the scores of one line of evidence in one stratum."""
    return f"{kind}/{name}"


@dataclass(frozen=True)
class Background:
    """Sorted scores of unrelated pairs, by line of evidence and stratum (`key`)."""

    scores: Scores

    def strangers(self, kind: str, a: Dossier, b: Dossier) -> NDArray[np.float64]:
        """Sorted scores of unrelated pairs, to compare the score of the pair `a`, `b` with."""
        scores: list[NDArray[np.float64]] = []
        own = stratum(a, b)
        for source in (self.scores, bundled()):
            for name in (own, OTHER if own == SAME else SAME):
                scores.append(source.get(key(kind, name), np.zeros(0)))
                if sum(map(len, scores)) >= ENOUGH:
                    return np.sort(np.concatenate(scores))
        return np.sort(np.concatenate(scores))


@cache
def bundled() -> Scores:
    """The background in the package, made by `tools/make_background.py`."""
    stored: Mapping[str, Sequence[float]] = json.loads(
        files("provenance.query.statistics").joinpath("background.json").read_text("utf-8")
    )
    return {name: np.array(values, dtype=np.float64) for name, values in stored.items()}
