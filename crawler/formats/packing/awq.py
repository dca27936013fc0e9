"""AWQ as AutoAWQ's `gemm` kernels store it: `qweight [in, out / 8]`, `qzeros [groups, out / 8]`, `scales`.

A weight is `scale * (code - zero)` of its group of inputs; scales are `[groups, out]`. The eight codes of a word are
those of columns 0, 2, 4, 6, 1, 3, 5, 7.

Source: `WQLinear_GEMM.from_linear` and `AWQ_REVERSE_ORDER` of AutoAWQ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

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
    rows_of,
)
from provenance.schemas.tensors import TensorEntry

_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""Where in its word the code of each column is."""


@dataclass(frozen=True)
class Awq(Packing):
    """One matrix of 4-bit codes."""

    codes: TensorEntry
    zeros: TensorEntry
    scales: TensorEntry
    group: int

    transposed: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return "AWQ-4"

    def spans(self, low: int, high: int) -> Sequence[Span]:
        first, last = low // self.group, (high - 1) // self.group + 1
        sides = (rows_of(side, side.shape[0], first, last) for side in (self.zeros, self.scales))
        return (rows_of(self.codes, self.shape[0], low, high), *sides)

    def rows(self, low: int, high: int, data: Sequence[Bytes]) -> Floats:
        out = self.shape[1]
        group = np.arange(low, high) // self.group - low // self.group
        zeros = _columns(data[1], out)
        scales = numbers(data[2], self.scales.dtype).reshape(-1, out)
        weights: Floats = (_columns(data[0], out).astype(np.float32) - zeros[group]) * scales[group]
        return weights


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
    return Awq((codes.shape[0], scales.shape[1]), codes, zeros, scales, size)


def _columns(data: Bytes, out: int) -> NDArray[np.uint8]:
    """`[rows, out]` codes in the order of the columns."""
    return unpack_words(words_of(data), 4).reshape(-1, 8)[:, _ORDER].reshape(-1, out)
