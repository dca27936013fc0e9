"""Learn backgrounds from a store: one representative per family, without outliers (disguised relatives)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from provenance.indexer.dossier import Dossier
from provenance.query.evidence.pair import Pair, Subject
from provenance.query.evidence.registry import LINES
from provenance.query.statistics.background import key, stratum
from provenance.query.statistics.significance import adjust_log10_p, trim
from provenance.schemas.enums import Null

MAX_REPRESENTATIVES = 64
FAMILY_LEVEL = 0.05


def learn_backgrounds(dossiers: Sequence[Dossier]) -> dict[str, NDArray[np.float64]]:
    """Scores of pairs of representatives of different families.

    Half of all derivations are undeclared, so the undeclared pairs of a store include relatives. Families are therefore
    found by weight evidence first, with a low threshold (a pair that may be related is treated as related), and each
    has one representative.

    Returns:
        sorted scores by line of evidence and stratum, without outliers (disguised relatives).
    """
    representatives = families([Subject(d) for d in dossiers if len(d.matrices.facts) and not d.meta.adapter])
    scores: dict[str, list[float]] = defaultdict(list)
    for a, b in combinations(representatives, 2):
        pair = Pair(a, b)
        for line in LINES:
            if line.null is Null.EMPIRICAL and (evidence := line.measure(pair)) and evidence.value is not None:
                scores[key(line.name, stratum(a.dossier, b.dossier))].append(evidence.value)
    return {name: trim(np.sort(np.array(values, dtype=np.float64))) for name, values in scores.items()}


def families(subjects: Sequence[Subject]) -> list[Subject]:
    """One representative of each family, the first in the given order; at most `MAX_REPRESENTATIVES`.

    A subject belongs to a known family if its weights may agree with any representative so far.
    """
    representatives: list[Subject] = []
    for subject in subjects:
        if len(representatives) >= MAX_REPRESENTATIVES:
            break
        if not any(_may_agree(Pair(subject, other)) for other in representatives):
            representatives.append(subject)
    return representatives


def _may_agree(pair: Pair) -> bool:
    log10_p = min(pair.by_position.log10_p, pair.segment.log10_p if pair.segment else 0.0)
    return adjust_log10_p(log10_p, 2) < math.log10(FAMILY_LEVEL)
