"""What the public API returns about a store: figures, runs, new checkpoints, and results of maintenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from provenance.schemas.enums import Reason, Stage, Status
from provenance.schemas.tabular import Record, Rows, Versioned


@dataclass(frozen=True, slots=True)
class StoreFigures(Record):
    """The latest checkpoints of a store; sizes in bytes. `generation` names its index, null without one."""

    path: str
    checkpoints: int
    repos: int
    bytes_read: int
    bytes_of_weights: int
    adapters: int
    unindexed: int
    generation: str | None
    bytes_on_disk: int


@dataclass(frozen=True, slots=True)
class BudgetFigures(Record):
    """Requests that a hub allows per window (in seconds), and the share of them that a run used; null if unknown."""

    quota: int | None
    window: float | None
    share: float | None


@dataclass(frozen=True, slots=True)
class RunFigures(Record):
    """What one crawl did. `rate` is checkpoints per hour, `waited` seconds; `budgets` is null without a hub."""

    run_id: str
    started_at: datetime | None
    finished_at: datetime | None
    listed: int | None
    fingerprinted: int | None
    skipped: int | None
    failed: int | None
    rate: float | None
    bytes_read: int | None
    api_requests: int | None
    resolve_requests: int | None
    range_requests: int | None
    waited: float | None
    budgets: Mapping[str, BudgetFigures] | None
    stopped: str | None


@dataclass(frozen=True, slots=True)
class ReasonFigures(Record):
    """Why `n` checkpoints of the last crawl were skipped or failed, with the message of one of them."""

    status: Status
    stage: Stage | str | None
    error: str | None
    reason: Reason | str | None
    n: int
    example: str | None


@dataclass(frozen=True, slots=True)
class UnresolvedFigures(Record):
    """A model type of which no layer could be read, with the repo of one checkpoint and its notes."""

    model_type: str
    checkpoints: int
    example: str
    notes: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class QuantizationFigures(Record):
    """A method by which weights are packed: its checkpoints, those of them of which no layer could be read, and one."""

    method: str
    checkpoints: int
    unread: int
    example: str


@dataclass(frozen=True, slots=True)
class StoreStatus(Versioned):
    """What a store holds, its last runs, and what failed in the last one."""

    store: StoreFigures
    runs: Rows[RunFigures]
    reasons: Rows[ReasonFigures]
    unresolved: Rows[UnresolvedFigures]
    quantization: Rows[QuantizationFigures]


@dataclass(frozen=True, slots=True)
class Arrival(Record):
    """A checkpoint that was fingerprinted."""

    checkpoint_id: str
    model_type: str | None
    n_parameters: int | None
    declared_parents: tuple[str, ...] | None
    license: str | None
    fingerprinted_at: datetime


@dataclass(frozen=True, slots=True)
class RepoFigures(Record):
    """The number of checkpoints of a repo in a store, over all revisions."""

    repo_id: str
    checkpoints: int


@dataclass(frozen=True, slots=True)
class IndexFigures(Record):
    """A new generation of the index: its name, how many checkpoints it holds, and the spec of their signatures."""

    generation: str
    checkpoints: int
    spec: str


@dataclass(frozen=True, slots=True)
class CompactionFigures(Record):
    """What a compaction did.

    Attributes:
        parts_before: files of the tables before.
        parts: files of the tables after.
        rows_dropped: rows of forgotten repos, of all tables.
        checkpoints_dropped: how many of them were rows of `checkpoints`.
        still_indexed: forgotten checkpoints that the index still holds.
    """

    parts_before: int
    parts: int
    rows_dropped: int
    checkpoints_dropped: int
    still_indexed: int
