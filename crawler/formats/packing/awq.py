"""AWQ as AutoAWQ's `gemm` kernels store it: `qweight [in, out / 8]`, `qzeros [groups, out / 8]`, `scales`.

A weight is `scale * (code - zero)` of its group of inputs; scales are `[groups, out]`. The eight codes of a word are
those of columns 0, 2, 4, 6, 1, 3, 5, 7.

Source: `WQLinear_GEMM.from_linear` and `AWQ_REVERSE_ORDER` of AutoAWQ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from provenance.crawler.formats.packing.bits import unpack_words, words_of
from provenance.crawler.formats.packing.group import Group
from provenance.crawler.formats.packing.packed import (
    Bytes,
    Floats,
    Packing,
    Span,
    check_shape,
    groups_of,
    numbers,
    require,
    strips,
    taken,
)
from provenance.schemas.tensors import TensorEntry

_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""Where in its word the code of each column is."""


@dataclass(frozen=True)
class Awq(Packing):
    """One matrix of 4-bit codes, or its first columns; `out` are the columns of all of it."""

    out: int
    codes: TensorEntry
    zeros: TensorEntry
    scales: TensorEntry
    group: int

    transposed: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return "AWQ-4"

    def narrowed(self, columns: int) -> Self:
        return replace(self, shape=(self.shape[0], columns))

    def spans(self, low: int, high: int) -> Sequence[Span]:
        first, last = self._groups(low, high)
        share = self.shape[1], self.out
        spans = strips(self.codes, low, high, *share)
        return [*spans, *strips(self.zeros, first, last, *share), *strips(self.scales, first, last, *share)]

    def rows(self, low: int, high: int, data: Sequence[Bytes]) -> Floats:
        columns, left = self.shape[1], list(data)
        first, last = self._groups(low, high)
        whole_rows = columns == self.out
        codes = _columns(taken(left, 1 if whole_rows else high - low), columns)
        zeros = _columns(taken(left, 1 if whole_rows else last - first), columns)
        scales = numbers(taken(left, len(left)), self.scales.dtype).reshape(-1, columns)
        group = np.arange(low, high) // self.group - first
        weights: Floats = (codes.astype(np.float32) - zeros[group]) * scales[group]
        return weights

    def _groups(self, low: int, high: int) -> tuple[int, int]:
        return low // self.group, (high - 1) // self.group + 1


def read_awq(group: Group) -> Packing | None:
    """The packing of a group of tensors; null if it is GPTQ's, which has the same names."""
    codes, zeros, scales = group.codes, group["zeros"], group["scales"]
    if len(codes.shape) != 2 or len(scales.shape) != 2 or codes.shape[1] * 8 != scales.shape[1]:
        return None
    require({codes.dtype, zeros.dtype} <= {"I32", "U32"}, f"codes of {codes.dtype} and {zeros.dtype}")
    bits = group.number("bits", "w_bit")
    require(bits in (None, 4), f"AWQ of {bits} bits")
    groups = scales.shape[0]
    require(zeros.shape == (groups, codes.shape[1]), f"no zero point for each of {groups} groups")
    group.check_scales(scales)
    check_shape(codes.shape[0], scales.shape[1])
    size = groups_of(codes.shape[0], groups, group.number("group_size", "q_group_size"))
    shape = codes.shape[0], scales.shape[1]
    return Awq(shape, shape[1], codes, zeros, scales, size)


def _columns(data: Bytes, out: int) -> NDArray[np.uint8]:
    """`[rows, out]` codes in the order of the columns."""
    return unpack_words(words_of(data), 4).reshape(-1, 8)[:, _ORDER].reshape(-1, out)
