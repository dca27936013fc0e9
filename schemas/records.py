"""Frozen records that the packages pass to each other: what was listed, a fingerprint, an outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from provenance.schemas.enums import Reason, Source, Stage, Status

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from provenance.schemas.enums import Mode
    from provenance.schemas.identity import CheckpointId
    from provenance.schemas.products import ProductSketch
    from provenance.schemas.roles import Role


@dataclass(frozen=True, slots=True)
class RepoFile:
    """One file of a repo at one revision. `sha256` is null if masked or not known without reading."""

    path: str
    size: int
    sha256: str | None = None
    xet_hash: str | None = None
    resolved_revision: str | None = None


@dataclass(frozen=True, slots=True)
class RepoMetadata:
    """The metadata of a repo in the hub's listing; all null for a folder without a listing.

    `declared_parents` is null where a card could not be read; `notes` say why, and what else was wrong with it.
    """

    author: str | None = None
    created_at: datetime | None = None
    last_modified: datetime | None = None
    downloads: int | None = None
    likes: int | None = None
    license: str | None = None
    gated: str | None = None
    private: bool | None = None
    pipeline_tag: str | None = None
    tags: tuple[str, ...] = ()
    declared_parents: tuple[str, ...] | None = ()
    declared_relation: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ListedCheckpoint:
    """One checkpoint to crawl: its identity, the files that hold its weights, and what was listed about it.

    `revision` inside `identity` is null-like (`"0"`) for a local folder without a listed sha until its
    content digest is known. `weight_files` are in shard order. `config_file` is `config.json`, or
    Meta's `params.json`, or null. `config` is the part of it in a hub's listing (model type, architectures): the file
    is not read if names and shapes determine the roles. `commit` is the full hash of the revision, null if no commit is
    known. `changed_at` is when a local file changed last: evidence of nothing but that it may have. `index_file` is the
    index of several shards.
    """

    identity: CheckpointId
    source: Source
    weight_files: tuple[str, ...]
    files: tuple[RepoFile, ...]
    config_file: str | None = None
    metadata: RepoMetadata = field(default_factory=RepoMetadata)
    config: Mapping[str, object] | None = field(default=None, hash=False)
    commit: str | None = None
    changed_at: datetime | None = None
    index_file: str | None = None


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """The position of one logical tensor's cells in a checkpoint's sample.

    The cells are the first `count` of the tensor's `sample-v1` sequence, stored as
    `value / 2**exponent` in fp16 from position `offset`.
    """

    stack: str
    role: Role
    layer: int | None
    expert: int | None
    shape: tuple[int, ...]
    offset: int
    count: int
    exponent: int


@dataclass(frozen=True, slots=True)
class WeightSample:
    """The weight sample of one checkpoint: `values` is float16 `[sum of counts]`."""

    version: str
    entries: tuple[SampleEntry, ...]
    values: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A row of the table `checkpoints`, without its `fingerprint_id`; `schemas.tables` documents the columns."""

    checkpoint_id: str
    repo_id: str
    revision: str
    subfolder: str | None
    variant: str | None
    source: Source
    author: str | None
    created_at: datetime | None
    last_modified: datetime | None
    downloads: int | None
    likes: int | None
    license: str | None
    gated: str | None
    private: bool | None
    pipeline_tag: str | None
    tags: tuple[str, ...]
    declared_parents: tuple[str, ...] | None
    declared_relation: str | None
    architecture: str | None
    model_type: str | None
    n_layers: int
    hidden_size: int | None
    n_heads: int | None
    n_kv_heads: int | None
    n_parameters: int
    dtype: str | None
    quantization: str | None
    n_tensors: int
    n_files: int
    total_bytes: int
    bytes_read: int
    requests: int
    mode: Mode
    sample_version: str
    fingerprint_version: int
    fingerprinted_at: datetime
    content_digest: str
    resolved: int
    unresolved: int
    adapter: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TensorRow:
    """A row of the table `tensors`, without its two keys; `schemas.tables` documents the columns."""

    name: str
    part: str | None
    role: Role
    layer: int | None
    stack: str
    expert: int | None
    shape: tuple[int, ...]
    dtype: str
    n_elements: int
    n_read: int = 0
    mean: float | None = None
    std: float | None = None
    std_error: float | None = None
    skewness: float | None = None
    kurtosis: float | None = None
    min: float | None = None
    max: float | None = None
    n_nonfinite: int = 0
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The result of reading one checkpoint: its rows in the tables of `schemas.tables`, without their keys.

    `products` is null where not every weight was read, or none could be sketched.
    """

    checkpoint: CheckpointRow
    files: tuple[RepoFile, ...]
    tensors: tuple[TensorRow, ...]
    sample: WeightSample
    products: ProductSketch | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt to fingerprint a checkpoint ended: a row of `outcomes`. `error` is the class of the error."""

    repo_id: str
    revision: str | None
    status: Status
    stage: Stage | None = None
    error: str | None = None
    message: str | None = None
    reason: Reason | None = None
    source: Source | None = None
    attempts: int = 1
    next_attempt_at: datetime | None = None
    bytes_read: int = 0
    requests: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EarlierFailure:
    """The last attempt at a repo of a hub, which failed.

    Attributes:
        revision: of the repo, null where it was not known.
        reason: why it failed.
        attempts: number of failed attempts in a row.
        next_attempt_at: when to try again; null means not before the repo changes.
        listings: keys of all listings in whose crawls the repo was tried.
    """

    revision: str | None
    reason: Reason | None
    attempts: int
    next_attempt_at: datetime | None
    listings: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CrawlRun:
    """One crawl at its start or at its end: a row of `runs`. `arguments` and `budgets` are JSON."""

    run_id: str
    started_at: datetime
    finished_at: datetime | None
    source: str
    arguments: str
    listed: int
    fingerprinted: int
    skipped: int
    failed: int
    bytes_read: int
    api_requests: int
    resolve_requests: int
    range_requests: int
    waited: float
    budgets: str
    listing: str | None
    watermark: datetime | None
    stopped: str | None
