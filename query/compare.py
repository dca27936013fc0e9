"""Full comparison of one pair: every line of evidence, distances of the curves, and controls of the same shape."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from provenance.indexer.dossier_meta import DossierMeta
from provenance.indexer.signature import published_score
from provenance.query.catalogue import Catalogue
from provenance.query.changes.energy import role_changes
from provenance.query.engine import assessments
from provenance.query.evidence.pair import Pair, Subject
from provenance.query.evidence.profile_correlation import profile_score
from provenance.query.statistics.curves import kl_divergence, wasserstein
from provenance.query.unread import notes_of
from provenance.query.verdict.deep import deepen
from provenance.query.verdict.rule import SUSPICION
from provenance.schemas.comparison import ComparedModel, Comparison, Controls, CurveScores, RoleChange, Spread
from provenance.schemas.products import DeepReading
from provenance.schemas.results import Evidence, Note
from provenance.schemas.tabular import Rows

MAX_CONTROLS = 200


def compare(pair: Pair, catalogue: Catalogue, reading: DeepReading | None = None) -> Comparison:
    """Compare one pair in full.

    Args:
        pair: the two models; the second is judged as a parent of the first.
        catalogue: the stored checkpoints, from which the controls are chosen.
        reading: their products, read again for `--deep`; null without it, or where they are stored.
    """
    others = catalogue.dossiers()
    # Judged among all relatives, as `provenance query` does: a pair alone would not show a sibling or a merge.
    candidate = pair.b.dossier
    judged = assessments(pair.a.dossier, catalogue, also=[candidate])
    assessment = next(one for one in judged if one.meta.checkpoint_id == candidate.checkpoint_id)
    if (known := reading or pair.stored) is not None:
        assessment = deepen(assessment, known, len(others))
    return Comparison(
        a=ComparedModel.from_attributes(pair.a.dossier.meta),
        b=ComparedModel.from_attributes(pair.b.dossier.meta),
        verdict=assessment.verdict,
        relation=assessment.relation,
        direction=assessment.direction,
        probability=assessment.probability,
        p_value=assessment.p_value,
        p_adjusted=assessment.p_adjusted,
        log10_p=assessment.log10_p,
        score=assessment.score,
        license=assessment.meta.license,
        created_at=assessment.meta.created_at,
        decided_by=assessment.decided_by,
        evidence=Rows(Evidence, assessment.evidence),
        changes=Rows(RoleChange, role_changes(pair) if assessment.is_relative and pair.of_one_kind else ()),
        curves=_curves(pair),
        controls=controls(pair, map(Subject, others)),
        notes=Rows(Note, [*notes_of(pair.a.dossier), *notes_of(pair.b.dossier)]),
    )


def controls(pair: Pair, others: Iterable[Subject]) -> Controls:
    """Scores of `a` with unrelated models of the shape of `b`: the part that the architecture alone explains.

    An unrelated model is a stored checkpoint of the same shape whose weights agree with neither of the two.
    """
    shape = _shape(pair.b.dossier.meta)
    scores: list[CurveScores] = []
    for other in others:
        if len(scores) >= MAX_CONTROLS:
            break
        if _shape(other.dossier.meta) != shape or _related(other, pair.a) or _related(other, pair.b):
            continue
        scores.append(_curves(replace(pair, b=other)))
    return Controls(
        n=len(scores),
        published_score=_spread([score.published_score for score in scores]),
        profile_correlation=_spread([score.profile_correlation for score in scores]),
        wasserstein=_spread([score.wasserstein for score in scores]),
        kl_divergence=_spread([score.kl_divergence for score in scores]),
    )


def _spread(scores: Sequence[float | None]) -> Spread | None:
    values = [score for score in scores if score is not None]
    return Spread(float(np.median(values)), float(np.min(values)), float(np.max(values))) if values else None


def _shape(meta: DossierMeta) -> tuple[int | None, ...]:
    return meta.n_layers, meta.hidden_size, meta.n_heads, meta.n_kv_heads


def _related(a: Subject, b: Subject) -> bool:
    if a.dossier.repo_id == b.dossier.repo_id:
        return True
    pair = Pair(a, b)
    log10_p = min(pair.by_position.log10_p, pair.segment.log10_p if pair.segment else 0.0)
    return log10_p < math.log10(SUSPICION)


def _curves(pair: Pair) -> CurveScores:
    a, b = pair.a.dossier, pair.b.dossier
    if not pair.of_one_kind:
        return CurveScores(None, None, None, None)
    return CurveScores(
        published_score=published_score(a.curves(), b.curves()),
        profile_correlation=profile_score(a, b),
        wasserstein=wasserstein(a.curves(), b.curves()),
        kl_divergence=kl_divergence(a.curves(), b.curves()),
    )
