"""Do the p-values mean what they say? Checked on pairs known to be unrelated, whole families at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from query.evidence import CONVICTING
from query.verdict import Candidate

LEVELS = (0.05, 0.01, 0.001)
RESAMPLES = 2000


def calibration(pairs: Sequence[tuple[frozenset[str], frozenset[str], Candidate]]) -> list[dict[str, Any]]:
    """P(p <= a) of each convicting line over unrelated pairs.

    Pairs inside two families are copies of one comparison. So each pair of families counts once (the mean over
    its pairs), and the interval comes from resampling families, not pairs (the pigeonhole bootstrap, Owen 2007).

    Args:
        pairs: family of the model, family of the candidate, and the candidate.

    Returns:
        one row a line and level: the share, its 95 % interval, pairs of families, and the effective number of
        independent pairs (from the spread between the families' shares).
    """
    rows: list[dict[str, Any]] = []
    for kind in CONVICTING:
        found: dict[tuple[str, str], list[float]] = {}
        for a, b, candidate in pairs:
            if a & b or len(a) != 1 or len(b) != 1:
                continue
            p = next((e.p_value for e in candidate.evidence if e.kind == kind and e.p_value is not None), None)
            if p is not None:
                first, second = sorted((next(iter(a)), next(iter(b))))
                found.setdefault((first, second), []).append(p)
        if found:
            rows += [_row(kind, level, found) for level in LEVELS]
    return rows


def _row(kind: str, level: float, found: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    families = sorted({name for key in found for name in key})
    place = {name: i for i, name in enumerate(families)}
    n = len(families)
    share, present = np.zeros((n, n)), np.zeros((n, n))
    for (a, b), ps in found.items():
        i, j = place[a], place[b]
        share[i, j] = np.mean(np.array(ps) <= level)
        present[i, j] = 1
    observed = float(share.sum() / present.sum())
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        weight = np.bincount(generator.integers(n, size=n), minlength=n)
        pair_weight = np.outer(weight, weight) * present
        total = pair_weight.sum()
        if total:
            draws.append(float((pair_weight * share).sum() / total))
    spread = float(np.std(draws)) if draws else 0.0
    effective = level * (1 - level) / spread**2 if spread > 0 else float(present.sum())
    return {
        "line": kind,
        "level": level,
        "share": observed,
        "low": float(np.quantile(draws, 0.025)) if draws else None,
        "high": float(np.quantile(draws, 0.975)) if draws else None,
        "pairs": sum(len(ps) for ps in found.values()),
        "family_pairs": int(present.sum()),
        "effective_pairs": effective,
    }
