"""What a packed matrix is: some stored tensors that together hold one matrix of weights.

A packing says which bytes of which tensors a band of rows needs, and turns these bytes into the weights. Nothing else
of the crawler knows of any format: names, roles, plans and statistics see a `PackedEntry`, an entry like any other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from provenance.crawler.formats.dtypes import decode
from provenance.schemas.enums import Stage
from provenance.schemas.errors import CheckpointError
from provenance.schemas.tensors import TensorEntry

Bytes: TypeAlias = bytes | memoryview
Floats: TypeAlias = NDArray[np.float32]

MAX_LENGTH = 1 << 20
"""Rows or columns of a packed matrix at most; the vocabularies of the largest models have a quarter of it."""

MAX_WHOLE_BYTES = 64 << 20
"""Bytes of a tensor that every band needs whole, such as the scales of a GPTQ matrix with scattered groups."""


class Unreadable(Exception):
    """A group of tensors that is named like a packed matrix and is none that can be read; the reason, in words."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file that hold a part of one tensor."""

    file: str
    start: int
    stop: int


@dataclass(frozen=True)
class Packing(ABC):
    """One packed matrix, and how to read it.

    Attributes:
        shape: rows and columns as stored; a stack of matrices is stored as the rows of all of them.
        experts: matrices in the stack, 0 where it is a single matrix.
    """

    shape: tuple[int, int]
    experts: int = field(default=0, kw_only=True)

    transposed: ClassVar[bool] = False
    """Whether the rows as stored are the matrix's inputs."""

    out_first: ClassVar[bool] = True
    """Whether the logical shape of a stack is known to be `(experts, out, in)`."""

    @property
    def logical(self) -> tuple[int, ...]:
        """The shape of what is packed: `(out, in)`, or `(experts, rows, columns)`."""
        rows, columns = self.shape
        if self.experts:
            return self.experts, rows // self.experts, columns
        return (columns, rows) if self.transposed else (rows, columns)

    def narrowed(self, columns: int) -> Packing:
        """The first columns only, a multiple of 32, where each row as stored is long; by default all of them."""
        return self

    @property
    def step(self) -> int:
        """Rows that can only be unpacked together: bands start and stop at multiples of it."""
        return 1

    @property
    @abstractmethod
    def label(self) -> str:
        """The dtype of the matrix, such as `GPTQ-4`."""

    @abstractmethod
    def spans(self, low: int, high: int) -> Sequence[Span]:
        """The bytes that the stored rows `low` up to `high` need, in the order in which `rows` takes them."""

    @abstractmethod
    def rows(self, low: int, high: int, data: Sequence[Bytes]) -> Floats:
        """The weights `[high - low, columns]` of some stored rows, from the bytes of `spans(low, high)`.

        Raises:
            CheckpointError: the bytes contradict the header or each other.
        """


@dataclass(frozen=True, slots=True)
class PackedEntry(TensorEntry):
    """A matrix that several stored tensors make, in its logical shape; `file`, `start`, `stop` are those of its codes.

    Attributes:
        packing: how to read it.
        stored: how many tensors of the file it stands for.
    """

    packing: Packing = field(compare=False, repr=False)
    stored: int = field(compare=False)


def whole(entry: TensorEntry) -> Span:
    """All bytes of a tensor."""
    return Span(entry.file, entry.start, entry.stop)


def rows_of(entry: TensorEntry, n_rows: int, low: int, high: int) -> Span:
    """The bytes of some rows of a tensor that has `n_rows` of them."""
    row = (entry.stop - entry.start) // n_rows
    return Span(entry.file, entry.start + low * row, entry.start + high * row)


def strips(entry: TensorEntry, low: int, high: int, columns: int, of: int) -> list[Span]:
    """The bytes of the first `columns` of the `of` columns of some rows: a span a row, or one of whole rows."""
    if columns == of:
        return [rows_of(entry, entry.shape[0], low, high)]
    row = (entry.stop - entry.start) // entry.shape[0]
    starts = range(entry.start + low * row, entry.start + high * row, row)
    return [Span(entry.file, start, start + row * columns // of) for start in starts]


def taken(data: list[Bytes], count: int) -> Bytes:
    """The bytes of the first `count` spans, which are removed."""
    first, data[:] = data[:count], data[count:]
    return first[0] if count == 1 else b"".join(first)


def numbers(data: Bytes, dtype: str) -> Floats:
    """Scales and the like as float32."""
    values: Floats = decode(data, dtype).astype(np.float32, copy=False)
    return values


def damaged(name: str, fault: str) -> CheckpointError:
    """The error of a packing whose bytes make no sense."""
    return CheckpointError(f"packed matrix {name[:120]!r}: {fault}", stage=Stage.STATISTICS)


def require(condition: bool, reason: str) -> None:
    """Refuse a group of tensors.

    Raises:
        Unreadable: the condition does not hold.
    """
    if not condition:
        raise Unreadable(reason)


def check_shape(rows: int, columns: int) -> None:
    """Refuse matrices that are empty, or so long that one band of rows would not fit memory.

    Raises:
        Unreadable: it is one of these.
    """
    require(0 < rows <= MAX_LENGTH and 0 < columns <= MAX_LENGTH, f"{rows} x {columns} is no matrix of a model")


def groups_of(length: int, groups: int, announced: int | None = None) -> int:
    """How many of `length` columns share a scale, where there are `groups` of them and the last may be short.

    Args:
        length: columns of the matrix.
        groups: scales along them.
        announced: the size of a group as the config says.

    Raises:
        Unreadable: no size fits.
    """
    if announced is not None and announced > 0 and -(-length // announced) == groups:
        return announced
    require(groups > 0 and length % groups == 0, f"{length} columns do not divide into {groups} groups")
    return length // groups
