"""Calibration of the p-values, on pairs known to be unrelated, by families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from provenance.query.evidence.registry import CONVICTING, SUPPORTING
from provenance.query.statistics.significance import empirical_p
from provenance.query.verdict.rule import Assessment
from provenance.schemas.evaluation import CalibrationRow
from provenance.schemas.results import Evidence
from provenance.schemas.tabular import Rows

LEVELS = (0.05, 0.01, 0.001)
RESAMPLES = 2000


def calibration(pairs: Sequence[tuple[frozenset[str], frozenset[str], Assessment]]) -> Rows[CalibrationRow]:
    """P(p <= a) of each line over unrelated pairs; lines with an empirical null are tested on held-out families.

    The pairs between two families are not independent. So each pair of families counts once (the mean over its pairs),
    and the interval comes from resampling families, not pairs (the pigeonhole bootstrap, Owen 2007).

    Args:
        pairs: family of the model, family of the candidate, and the candidate.

    Returns:
        one row per line and level: the share, its 95 % interval, pairs of families, and the effective number of
        independent pairs (share * (1 - share) / variance of the bootstrap; null if the variance is zero).
    """
    rows: list[CalibrationRow] = []
    for kind in (*CONVICTING, *SUPPORTING):
        by_families: dict[tuple[str, str], list[Evidence]] = {}
        for a, b, candidate in pairs:
            evidence = next((e for e in candidate.evidence if e.kind == kind), None)
            if evidence is not None and not a & b and len(a) == len(b) == 1:
                first, second = sorted((next(iter(a)), next(iter(b))))
                by_families.setdefault((first, second), []).append(evidence)
        ps = _held_out(by_families) if kind in SUPPORTING else _stated(by_families)
        if ps:
            rows += [_row(kind, level, ps) for level in LEVELS]
    return Rows(CalibrationRow, rows)


def _stated(by_families: Mapping[tuple[str, str], Sequence[Evidence]]) -> dict[tuple[str, str], list[float]]:
    """The p-values as stated by the line."""
    stated = {key: [e.p_value for e in lines if e.p_value is not None] for key, lines in by_families.items()}
    return {key: ps for key, ps in stated.items() if ps}


def _held_out(by_families: Mapping[tuple[str, str], Sequence[Evidence]]) -> dict[tuple[str, str], list[float]]:
    """p-values against the pairs of all other families: neither family of a pair is in its background."""
    means = {key: float(np.mean([e.value for e in lines if e.value is not None])) for key, lines in by_families.items()}
    result: dict[tuple[str, str], list[float]] = {}
    for key, lines in by_families.items():
        others = np.sort([mean for other, mean in means.items() if not set(other) & set(key)])
        ps = [empirical_p(e.value, others) for e in lines if e.value is not None]
        result[key] = [p for p in ps if p is not None]
    return {key: ps for key, ps in result.items() if ps}


def _row(kind: str, level: float, p_values: dict[tuple[str, str], list[float]]) -> CalibrationRow:
    families = sorted({name for key in p_values for name in key})
    place = {name: i for i, name in enumerate(families)}
    n = len(families)
    share, present = np.zeros((n, n)), np.zeros((n, n))
    for (a, b), ps in p_values.items():
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
    pairs = float(present.sum())
    effective = min(pairs, observed * (1 - observed) / spread**2) if spread > 0 else None
    return CalibrationRow(
        line=kind,
        level=level,
        share=observed,
        low=float(np.quantile(draws, 0.025)) if draws else None,
        high=float(np.quantile(draws, 0.975)) if draws else None,
        pairs=sum(len(ps) for ps in p_values.values()),
        family_pairs=int(present.sum()),
        effective_pairs=effective,
    )
