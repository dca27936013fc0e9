"""The tensors of a checkpoint: as the header describes them, with their roles, and their statistics."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from provenance.schemas.roles import MAIN_STACK, Role


class Order(Enum):
    """How the elements of a stored tensor follow each other."""

    ROWS = "by rows"
    """The last index changes fastest."""
    COLUMNS = "by columns"
    """A matrix whose transpose is stored by rows."""
    APART = "apart"
    """A strided view that is neither: its values are not read."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as the header of its file describes it. `start` and `stop` are byte offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    stop: int
    order: Order = field(default=Order.ROWS, kw_only=True)

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
    per-head interleave one group per head. `rotary_head` > 0 undoes Meta's rotary row order inside heads of
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
        role: what it does.
        layer: 0-based layer in its stack, null outside the layers.
        stack: `main`, or the name of another stack.
        expert: 0-based expert, null for dense tensors.
        shape: logical shape: `(out, in)` for matrices, in either storage orientation.
        entry: the position of the stored tensor.
        element_offset: elements of the stored tensor before the stored matrix (stacked experts).
        stored_shape: the stored matrix's 2-D shape (`(n, 1)` never occurs: vectors keep `(n,)`).
        transposed: stored as `(in, out)`.
        rows: which of the stored output rows belong to the part; null = all, in order.
    """

    name: str
    part: str | None
    role: Role
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
    """All tensors of a checkpoint with their roles, and what is uncertain.

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
