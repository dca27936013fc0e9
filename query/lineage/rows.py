"""The rows of the lineage table about one model: the claims of its answer, and the declarations of its card."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

from provenance.indexer.dossier_meta import DossierMeta
from provenance.query.engine import Judgement
from provenance.query.verdict.rule import Assessment, judged
from provenance.schemas.enums import Verdict
from provenance.schemas.lineage import LineageRow, VerdictRow


def lineage_rows(judgement: Judgement, now: datetime) -> list[LineageRow]:
    """Rows of `lineage` about one child: its ancestors, relatives that may be ancestors, and all declared parents."""
    model = judgement.model.meta
    declared = model.declared_parents or ()
    ancestors = {c.repo_id for c in judgement.candidates if c.verdict is Verdict.DERIVED}
    # A card that names any ancestor is honest: cards do not list grandparents.
    honest = any(parent in ancestors for parent in declared)
    rows = []
    for rank, candidate in enumerate(judgement.candidates, start=1):
        if candidate.verdict is Verdict.DERIVED or candidate.may_be_ancestor or candidate.declared:
            rows.append(_claim(_edge(model, candidate.repo_id, now), rank, candidate, honest))
    stored = {row.parent for row in rows}
    rows += [
        replace(_edge(model, parent, now), declared=True, undeclared=False, contradicted=False)
        for parent in declared
        if parent not in stored and parent != model.repo_id
    ]
    return rows


def verdict_row(judgement: Judgement, now: datetime) -> VerdictRow:
    """The row of `verdicts` about one model."""
    meta = judgement.model.meta
    return VerdictRow(
        checkpoint_id=meta.checkpoint_id,
        fingerprint_id=meta.fingerprint_id,
        repo_id=meta.repo_id,
        verdict=judgement.verdict,
        n_candidates=len(judgement.candidates),
        examined_at=now,
    )


def _edge(model: DossierMeta, parent: str, now: datetime) -> LineageRow:
    return LineageRow(
        child=model.repo_id,
        parent=parent,
        child_id=model.checkpoint_id,
        relation=model.declared_relation,
        child_license=model.license,
        detected_at=now,
    )


def _claim(edge: LineageRow, rank: int, candidate: Assessment, honest: bool) -> LineageRow:
    """The edge with the evidence of the weights about it."""
    licenses = edge.child_license, candidate.meta.license
    return replace(
        edge,
        parent_id=candidate.meta.checkpoint_id,
        rank=rank,
        relation=candidate.relation,
        verdict=candidate.verdict,
        direction=candidate.direction,
        probability=candidate.probability,
        p_value=candidate.p_value,
        p_adjusted=candidate.p_adjusted,
        log10_p=candidate.log10_p,
        score=candidate.score,
        merge_weight=candidate.merge_weight,
        declared=candidate.declared,
        undeclared=candidate.verdict is Verdict.DERIVED and not candidate.declared and not honest,
        contradicted=candidate.declared and candidate.verdict is Verdict.UNRELATED and judged(candidate),
        parent_license=candidate.meta.license,
        license_differs=None if None in licenses else licenses[0] != licenses[1],
        evidence=json.dumps([line.to_dict() for line in candidate.evidence]),
    )
