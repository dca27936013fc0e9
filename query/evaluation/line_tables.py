"""Each line of evidence: how well it separates true pairs from unrelated ones, and its effect on the verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from provenance.query.evaluation.truth import Judged, Truth, related
from provenance.query.evidence.registry import CONVICTING, DEEP, LINES
from provenance.query.statistics.background import SAME, stratum
from provenance.query.statistics.curves import kl_divergence, wasserstein
from provenance.query.statistics.significance import adjust_log10_p, combine_log10_p
from provenance.query.verdict.rule import ALPHA, Assessment
from provenance.schemas.evaluation import Ablation, LineSeparation
from provenance.schemas.tabular import Rows


def line_table(pairs: Sequence[tuple[Judged, Assessment]], truth: Mapping[str, Truth]) -> Rows[LineSeparation]:
    """Each line of evidence alone: direct parents against all unrelated pairs, and against those of equal shape.

    The table includes the negated distances between curves.
    """
    kinds = (*(line.name for line in (*LINES, DEEP)), "wasserstein", "kl_divergence", "combined")
    scores: dict[str, tuple[list[float], list[float], list[float]]] = {kind: ([], [], []) for kind in kinds}
    for j, c in pairs:
        if c.repo_id in j.truth.parents:
            columns = [0]
        elif related(j.truth.model, c.repo_id, truth):
            continue
        else:
            columns = [1, 2] if stratum(j.judgement.model, c.pair.b.dossier) == SAME else [1]
        for kind, value in _strengths(c).items():
            for column in columns:
                scores[kind][column].append(value)
    judged = {kind: [np.array(side) for side in sides] for kind, sides in scores.items() if all(sides[:2])}
    return Rows(LineSeparation, (_separation(kind, *sides) for kind, sides in judged.items()))


def _strengths(candidate: Assessment) -> dict[str, float]:
    """The strength of each line in favour of a candidate; lines without evidence are omitted."""
    a, b = (subject.dossier.curves() for subject in (candidate.pair.a, candidate.pair.b))
    strengths: dict[str, float | None] = {
        e.kind: -(e.log10_p or 0.0) if e.kind in CONVICTING else e.value for e in candidate.evidence
    }
    for kind, distance in (("wasserstein", wasserstein(a, b)), ("kl_divergence", kl_divergence(a, b))):
        strengths[kind] = None if distance is None else -distance
    strengths["combined"] = -candidate.log10_p
    return {kind: value for kind, value in strengths.items() if value is not None}


def _separation(
    line: str, positive: NDArray[np.float64], negative: NDArray[np.float64], same_shape: NDArray[np.float64]
) -> LineSeparation:
    """AUC, and the fractions of true pairs above the highest and above 99 % of the unrelated ones."""
    order = np.sort(negative)
    n = len(order)
    return LineSeparation(
        line=line,
        true_pairs=len(positive),
        unrelated_pairs=n,
        auc=_auc(positive, order),
        auc_same_shape=_auc(positive, np.sort(same_shape)) if len(same_shape) else None,
        tpr_at_fpr_0=float(np.mean(positive > order[-1])),
        tpr_at_fpr_1pct=float(np.mean(positive > order[max(0, n - 1 - math.floor(0.01 * n))])),
        highest_unrelated=float(order[-1]),
    )


def _auc(positive: NDArray[np.float64], order: NDArray[np.float64]) -> float:
    """Probability that a true pair scores above an unrelated one; ties count half."""
    below = np.searchsorted(order, positive, side="left")
    ties = np.searchsorted(order, positive, side="right") - below
    return float(np.mean((below + 0.5 * ties) / len(order)))


def ablation_table(pairs: Sequence[tuple[Judged, Assessment]], truth: Mapping[str, Truth]) -> Rows[Ablation]:
    """Numbers of true pairs convicted and of unrelated pairs accused, without each convicting line in turn."""
    rows = []
    for left_out in (None, *CONVICTING):
        convicted = accused = true_pairs = 0
        for j, c in pairs:
            lines = [
                e.log10_p for e in c.evidence if e.kind in CONVICTING and e.kind != left_out and e.log10_p is not None
            ]
            log10_p = adjust_log10_p(combine_log10_p(lines, len(CONVICTING)), j.judgement.n_checkpoints)
            significant = log10_p <= math.log10(ALPHA)
            if c.repo_id in j.truth.parents and not j.adapter:
                true_pairs += 1
                convicted += significant
            elif not related(j.truth.model, c.repo_id, truth):
                accused += significant
        rows.append(Ablation(left_out or "–", true_pairs, convicted, accused))
    return Rows(Ablation, rows)
