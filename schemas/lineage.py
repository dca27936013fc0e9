"""The rows of the tables `lineage` and `verdicts`, as the public API returns them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from provenance.schemas.enums import Direction, ModelVerdict, Relation, Verdict
from provenance.schemas.tabular import Record


@dataclass(frozen=True, slots=True)
class LineageRow(Record):
    """A row of the table `lineage`: a claim about a child and a parent, or what the child's card declares.

    If the two were never compared, everything based on weights is null, and `relation` is what the card says. `rank` is
    the parent's rank among the child's candidates, `evidence` the lines of evidence as JSON text.
    """

    child: str
    parent: str
    child_id: str | None
    parent_id: str | None = None
    rank: int | None = None
    relation: Relation | str | None = None
    verdict: Verdict | None = None
    direction: Direction | None = None
    probability: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    log10_p: float | None = None
    score: float | None = None
    merge_weight: float | None = None
    declared: bool | None = None
    undeclared: bool | None = None
    contradicted: bool | None = None
    child_license: str | None = None
    parent_license: str | None = None
    license_differs: bool | None = None
    evidence: str | None = None
    detected_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class VerdictRow(Record):
    """A row of the table `verdicts`: the verdict on one model, and when it was examined."""

    checkpoint_id: str
    fingerprint_id: str | None
    repo_id: str
    verdict: ModelVerdict
    n_candidates: int
    examined_at: datetime
