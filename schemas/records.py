"""Frozen records that travel between the rooms: what was listed, what a header says, what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from provenance.schemas.roles import MAIN_STACK

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from provenance.schemas.identity import CheckpointId


@dataclass(frozen=True, slots=True)
class RepoFile:
    """One file of a repo at one revision. `sha256` is null where masked or not known without reading."""

    path: str
    size: int
    sha256: str | None = None
    xet_hash: str | None = None
    resolved_revision: str | None = None


@dataclass(frozen=True, slots=True)
class RepoMetadata:
    """What the hub's listing says of a repo; all null for a folder without a listing."""

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
    declared_parents: tuple[str, ...] = ()
    declared_relation: str | None = None


@dataclass(frozen=True, slots=True)
class ListedCheckpoint:
    """One checkpoint to visit: its identity, the files that hold its weights, and what was listed about it.

    `revision` inside `identity` is null-like (`"0"`) for a local folder without a listed sha until its
    content digest is known. `weight_files` are in shard order. `config_file` is `config.json`, or
    Meta's `params.json`, or null. `config` is what a hub's listing says of it (model type, architectures): enough where
    names and shapes settle the roles, and then the file is not read.
    """

    identity: CheckpointId
    source: str
    weight_files: tuple[str, ...]
    files: tuple[RepoFile, ...]
    config_file: str | None = None
    metadata: RepoMetadata = field(default_factory=RepoMetadata)
    config: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as a safetensors header describes it. `start` and `stop` are byte offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    stop: int

    @property
    def n_elements(self) -> int:
        n = 1
        for length in self.shape:
            n *= length
        return n


@dataclass(frozen=True, slots=True)
class OutputRows:
    """Which output rows of a stored matrix make one logical matrix.

    `groups` runs of `size` rows, `stride` apart, from `start`: a contiguous slice has one group, a
    per-head interleave one group a head. `rotary_head` > 0 undoes Meta's rotary row order inside heads of
    that many rows (stored `(i, half)`, logical `(half, i)`).
    """

    start: int
    size: int
    groups: int = 1
    stride: int = 0
    rotary_head: int = 0

    @property
    def count(self) -> int:
        return self.groups * self.size


@dataclass(frozen=True, slots=True)
class LogicalTensor:
    """A stored tensor, or a part of one, with the role it plays.

    Attributes:
        name: the stored tensor's name.
        part: which part of a fused tensor (`q`, `gate`, …), null for a whole tensor.
        role: one of `schemas.roles.ROLES`.
        layer: 0-based layer in its stack, null outside the layers.
        stack: `main`, or the name of another stack.
        expert: 0-based expert, null for dense tensors.
        shape: logical shape: `(out, in)` for matrices, whatever the storage orientation.
        entry: where the stored tensor lies.
        element_offset: elements of the stored tensor before the stored matrix (stacked experts).
        stored_shape: the stored matrix's 2-D shape (`(n, 1)` never occurs: vectors keep `(n,)`).
        transposed: stored as `(in, out)`.
        rows: which of the stored output rows belong to the part; null = all, in order.
    """

    name: str
    part: str | None
    role: str
    layer: int | None
    shape: tuple[int, ...]
    entry: TensorEntry
    stack: str = MAIN_STACK
    expert: int | None = None
    element_offset: int = 0
    stored_shape: tuple[int, ...] = ()
    transposed: bool = False
    rows: OutputRows | None = None


@dataclass(frozen=True, slots=True)
class ResolvedRoles:
    """All tensors of a checkpoint with their roles, and what could not be settled.

    `notes` are reasons, in words, why a tensor that looked like a projection stayed `other`.
    """

    tensors: tuple[LogicalTensor, ...]
    n_layers: int
    hidden_size: int | None
    n_heads: int | None
    n_kv_heads: int | None
    model_type: str | None
    architecture: str | None
    quantization: str | None
    adapter: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """Moments of the elements read of one logical tensor; null where nothing was read.

    `std` is the population standard deviation over the finite elements, `std_error` the standard error
    of `std` from reading only bands (0 when all was read), `skewness` and `kurtosis` the standardised third
    and fourth moments (3 for a Gaussian), null for a constant tensor.
    """

    n_read: int = 0
    mean: float | None = None
    std: float | None = None
    std_error: float | None = None
    skewness: float | None = None
    kurtosis: float | None = None
    min: float | None = None
    max: float | None = None
    n_nonfinite: int = 0


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """Where one logical tensor's cells lie inside a checkpoint's sample.

    The cells are the first `count` of the tensor's `sample-v1` sequence, stored as
    `value / 2**exponent` in fp16 from position `offset`.
    """

    stack: str
    role: str
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
class Fingerprint:
    """Everything that one visit to a checkpoint yields: rows for the tables of `schemas.tables`.

    `tensors` and `files` are rows as mappings (column -> value) without the key columns, `checkpoint` is
    the row of `checkpoints`.
    """

    checkpoint: Mapping[str, Any]
    files: tuple[Mapping[str, Any], ...]
    tensors: tuple[Mapping[str, Any], ...]
    sample: WeightSample


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one visit ended: a row of `outcomes`."""

    repo_id: str
    revision: str | None
    status: str
    stage: str | None = None
    error: str | None = None
    message: str | None = None
    reason: str | None = None
    source: str | None = None
    attempts: int = 1
    next_attempt_at: datetime | None = None
    bytes_read: int = 0
    requests: int = 0
    seconds: float = 0.0
