"""Equal digests of sampled tensors: the same values, in the same dtype, in the same place."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from provenance.indexer.dossier import Dossier
from provenance.query.evidence.pair import Pair
from provenance.schemas.results import Evidence
from provenance.schemas.roles import LAYER_MATRICES, ROLE_CODE

_MATRICES = np.array([ROLE_CODE[role] for role in LAYER_MATRICES], dtype=np.uint8)
_DIGEST_BITS = 64


def measure(pair: Pair) -> Evidence | None:
    """Fraction of the layer matrices of the smaller checkpoint whose digest occurs in the other, in the same role.

    The p-value is the probability of one collision of 64-bit digests among all pairs compared. Vectors are excluded,
    because all untrained norms or biases are equal, and so are matrices that repeat inside a checkpoint.
    """
    a, b = _digests(pair.a.dossier), _digests(pair.b.dossier)
    n = min(len(a), len(b))
    if n == 0:
        return None
    shared = len(np.intersect1d(a, b))
    log10_p = min(0.0, math.log10(len(a) * len(b)) - _DIGEST_BITS * math.log10(2)) if shared else 0.0
    return Evidence("tensor_digest", shared / n, 10**log10_p, log10_p, n, f"{shared} of {n} matrices are equal")


def _digests(dossier: Dossier) -> NDArray[np.uint64]:
    facts = dossier.facts[np.isin(dossier.facts["role"], _MATRICES) & (dossier.facts["digest"] > 0)]
    # The digest includes the role, so that q never matches k.
    digests, counts = np.unique(facts["digest"] ^ facts["role"].astype(np.uint64), return_counts=True)
    # A matrix that repeats in several layers may be a common initial value, such as the identity.
    unique: NDArray[np.uint64] = digests[counts == 1]
    return unique
