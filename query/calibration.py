"""Backgrounds: how high unrelated pairs score on the lines of evidence whose null distribution nobody knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from indexer.dossier import Dossier
from query.evidence.norm_correlation import measure as norm_correlation
from query.evidence.profile_correlation import measure as profile_correlation
from query.evidence.profile_correlation import measure_published
from query.pair import Pair, Subject
from query.significance import adjust_log10_p, trim

MAX_REPRESENTATIVES = 64
FAMILY_LEVEL = 0.05
EMPIRICAL = {
    "norm_correlation": norm_correlation,
    "profile_correlation": profile_correlation,
    "published_score": measure_published,
}


def learn_backgrounds(dossiers: Sequence[Dossier]) -> dict[str, NDArray[np.float64]]:
    """Scores of pairs of representatives of different families.

    Half of all derivations are undeclared, so the pairs of a store that nobody declared hold relatives. Families are
    therefore found by weight evidence first, generously (a pair that may be related is treated as related),
    and each is represented once.

    Returns:
        sorted scores by line of evidence, without those out of line (disguised relatives).
    """
    subjects = [Subject(d) for d in dossiers if len(d.matrices.facts)]
    representatives = families(subjects)
    scores: dict[str, list[float]] = {kind: [] for kind in EMPIRICAL}
    for a, b in combinations(representatives[:MAX_REPRESENTATIVES], 2):
        pair = Pair(a, b)
        for kind, measure in EMPIRICAL.items():
            evidence = measure(pair)
            if evidence is not None and evidence.value is not None:
                scores[kind].append(evidence.value)
    return {kind: trim(np.sort(np.array(values, dtype=np.float64))) for kind, values in scores.items()}


def families(subjects: Sequence[Subject]) -> list[Subject]:
    """One representative of each family, the first of it in the order given.

    A subject joins a family when its weights agree with any representative found so far.
    """
    representatives: list[Subject] = []
    for subject in subjects:
        for other in representatives:
            pair = Pair(subject, other)
            log10_p = pair.by_position.log10_p
            segment = pair.segment
            if segment is not None:
                log10_p = min(log10_p, segment.log10_p)
            if adjust_log10_p(log10_p, 2) < math.log10(FAMILY_LEVEL):
                break
        else:
            representatives.append(subject)
        if len(representatives) >= MAX_REPRESENTATIVES:
            break
    return representatives
