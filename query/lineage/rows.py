"""The rows of the lineage table about one model: the claims of its answer, and the declarations of its card."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

from provenance.indexer.dossier_meta import DossierMeta
from provenance.query.claims import claim_status, is_undeclared
from provenance.query.engine import Judgement
from provenance.query.verdict.rule import Assessment
from provenance.schemas.enums import ClaimStatus, Verdict
from provenance.schemas.lineage import LineageRow, VerdictRow
from provenance.schemas.naming import licenses_differ


def lineage_rows(judgement: Judgement, now: datetime) -> list[LineageRow]:
    """Rows of `lineage` about one child: its ancestors, relatives that may be ancestors, and all declared parents."""
    model = judgement.model.meta
    declared = model.declared_parents or ()
    rows = []
    for rank, candidate in enumerate(judgement.candidates, start=1):
        if candidate.verdict is Verdict.DERIVED or candidate.may_be_ancestor or candidate.declared:
            undeclared = is_undeclared(model, candidate, judgement.candidates)
            rows.append(_claim(_edge(model, candidate.repo_id, now), rank, candidate, undeclared))
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


def _claim(edge: LineageRow, rank: int, candidate: Assessment, undeclared: bool | None) -> LineageRow:
    """The edge with the evidence of the weights about it."""
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
        undeclared=undeclared,
        contradicted=candidate.declared and claim_status(candidate) is ClaimStatus.CONTRADICTED,
        parent_license=candidate.meta.license,
        license_differs=licenses_differ(edge.child_license, candidate.meta.license),
        evidence=json.dumps([line.to_dict() for line in candidate.evidence]),
    )
