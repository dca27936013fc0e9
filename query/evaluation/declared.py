"""Recall against what the cards declare: a measure where the true lineage is not known."""

from __future__ import annotations

from provenance.query.catalogue import Catalogue
from provenance.query.claims import claims_of
from provenance.query.engine import judge
from provenance.schemas.enums import ClaimStatus
from provenance.schemas.errors import TruthError
from provenance.schemas.evaluation import DeclaredEvaluation, DeclaredParent
from provenance.schemas.tabular import Rows


def evaluate_declared(catalogue: Catalogue) -> DeclaredEvaluation:
    """Query every stored checkpoint whose card declares a base model, and look where that stands in the answer.

    Raises:
        TruthError: no stored card declares one.
    """
    rows: list[DeclaredParent] = []
    models = 0
    for dossier in catalogue.dossiers():
        if not dossier.meta.declared_parents:
            continue
        models += 1
        found = judge(dossier, catalogue)
        rank = {one.repo_id: place for place, one in reversed([*enumerate(found.candidates, start=1)])}
        rows += [
            DeclaredParent(dossier.repo_id, claim.parent, claim.status, rank.get(claim.parent), claim.found_instead)
            for claim in claims_of(found.model.meta, found.candidates)
        ]
    if not rows:
        raise TruthError("no card in the store declares a base model; crawl models with cards first")
    stored = [row for row in rows if row.status is not ClaimStatus.NOT_STORED]
    judged = [row for row in stored if row.status is not ClaimStatus.CANNOT_TELL]

    def share(hits: int, of: int) -> float | None:
        return hits / of if of else None

    counts = {status: sum(row.status is status for row in rows) for status in ClaimStatus}
    return DeclaredEvaluation(
        models=models,
        declarations=len(rows),
        stored=len(stored),
        confirmed=counts[ClaimStatus.CONFIRMED],
        contradicted=counts[ClaimStatus.CONTRADICTED],
        cannot_tell=counts[ClaimStatus.CANNOT_TELL],
        recall=share(counts[ClaimStatus.CONFIRMED], len(stored)),
        recall_of_judged=share(counts[ClaimStatus.CONFIRMED], len(judged)),
        parent_at_1=share(sum(row.rank == 1 for row in stored), len(stored)),
        parent_at_5=share(sum((row.rank or 99) <= 5 for row in stored), len(stored)),
        parents=Rows(DeclaredParent, rows),
    )
