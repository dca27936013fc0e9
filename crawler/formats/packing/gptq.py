"""GPTQ: `qweight [in * bits / 32, out]`, `qzeros [groups, out * bits / 32]`, `scales [groups, out]`, `g_idx [in]`.

A weight is `scale * (code - zero)` of the group of its input. The first format stores `zero - 1`, the second the zero
point itself (`checkpoint_format` `gptq_v2`). With act-order the inputs of a group are scattered, and `g_idx` gives the
group of each. 3 bits: a stream of 32 numbers in three words.

Source: `pack` and `dequantize_weight` of AutoGPTQ's and GPTQModel's `qlinear` modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from provenance.crawler.formats.packing.bits import unpack_stream, words_of
from provenance.crawler.formats.packing.group import Group
from provenance.crawler.formats.packing.packed import (
    MAX_WHOLE_BYTES,
    Bytes,
    Floats,
    Packing,
    Span,
    check_shape,
    damaged,
    groups_of,
    numbers,
    require,
    rows_of,
    strips,
    taken,
)
from provenance.schemas.tensors import TensorEntry

_BITS = (2, 3, 4, 8)
_PEEK = 4096


@dataclass(frozen=True)
class Gptq(Packing):
    """One matrix, or its first columns.

    Attributes:
        out: columns of all of it.
        zeros: null where all zero points are `zero`.
        index: group of each input; null where the groups are in order.
        scattered: whether `index` says anything else than the order.
        first: what is added to a stored zero point: 1 in the first format.
    """

    out: int
    codes: TensorEntry
    scales: TensorEntry
    zeros: TensorEntry | None
    zero: int
    index: TensorEntry | None
    scattered: bool
    bits: int
    group: int
    first: int

    transposed: ClassVar[bool] = True

    @property
    def step(self) -> int:
        return 32 if 32 % self.bits else 32 // self.bits

    @property
    def label(self) -> str:
        return f"GPTQ-{self.bits}"

    def narrowed(self, columns: int) -> Self:
        return replace(self, shape=(self.shape[0], columns))

    def spans(self, low: int, high: int) -> Sequence[Span]:
        share, groups = (self.shape[1], self.out), self._groups(low, high)
        spans = strips(self.codes, low * self.bits // 32, high * self.bits // 32, *share)
        spans += strips(self.scales, *groups, *share)
        spans += strips(self.zeros, *groups, *share) if self.zeros else []
        return [*spans, rows_of(self.index, self.index.shape[0], low, high)] if self.index else spans

    def rows(self, low: int, high: int, data: Sequence[Bytes]) -> Floats:
        n_in, columns = high - low, self.shape[1]
        first, last = self._groups(low, high)
        whole_rows, left = columns == self.out, list(data)
        packed = taken(left, 1 if whole_rows else n_in * self.bits // 32)
        codes = unpack_stream(words_of(packed).reshape(-1, columns).T, self.bits, n_in).T
        scales = numbers(taken(left, 1 if whole_rows else last - first), self.scales.dtype).reshape(-1, columns)
        group = np.arange(low, high) // self.group
        zeros = np.full((1, 1), self.zero, np.uint8)
        if self.zeros is not None:
            packed = taken(left, 1 if whole_rows else last - first)
            stored = unpack_stream(words_of(packed).reshape(last - first, -1), self.bits, columns)
            zeros = (stored + np.uint8(self.first)) & np.uint8((1 << self.bits) - 1)
        if self.index is not None:
            group = np.frombuffer(left[0], "<i4")
            if group.min() < first or group.max() >= last:
                named = f"g_idx names groups {group.min()} to {group.max()}, not {first} to {last - 1}"
                raise damaged(self.codes.name, named)
        own = group - first
        weights: Floats = (codes.astype(np.float32) - (zeros[own] if len(zeros) > 1 else zeros)) * scales[own]
        return weights

    def _groups(self, low: int, high: int) -> tuple[int, int]:
        return (0, self.scales.shape[0]) if self.scattered else (low // self.group, (high - 1) // self.group + 1)


def read_gptq(group: Group) -> Packing | None:
    """The packing of a group of tensors; null if it is AutoAWQ's, which has the same names."""
    codes, zeros, scales = group.codes, group["zeros"], group["scales"]
    index = group.get("index")
    if len(codes.shape) != 2 or len(scales.shape) != 2 or codes.shape[1] != scales.shape[1]:
        return None
    out, groups = codes.shape[1], scales.shape[0]
    require(len(zeros.shape) == 2 and zeros.shape[0] == groups, f"no zero point for each of {groups} groups")
    require({codes.dtype, zeros.dtype} <= {"I32", "U32"}, f"codes of {codes.dtype} and {zeros.dtype}")
    group.check_scales(scales)
    bits = next((b for b in _BITS if zeros.shape[1] == -(-out * b // 32)), 0)
    require(bits > 0, f"{zeros.shape[1]} words of zero points for {out} columns are none of {_BITS} bits")
    require(32 % bits == 0 or codes.shape[0] % bits == 0, f"{codes.shape[0]} words of {bits} bits")
    n_in = codes.shape[0] * 32 // bits
    check_shape(n_in, out)
    size = groups_of(n_in, groups, group.number("group_size"))
    scattered = False
    if index is not None:
        require(index.shape == (n_in,) and index.dtype == "I32", f"g_idx {list(index.shape)[:4]} for {n_in} inputs")
        leading = np.frombuffer(group.peek(index, _PEEK), "<i4")
        scattered = not np.array_equal(leading, np.arange(len(leading)) // size)
        if not scattered and group.facts.values.get("desc_act") is False:
            index = None  # the config and the tensor say the same, and the rest of it need not be read
    largest = max(side.stop - side.start for side in (zeros, scales))
    require(not scattered or largest <= MAX_WHOLE_BYTES, f"{largest:,} bytes of scales for one matrix")
    first = 0 if group.text("checkpoint_format") == "gptq_v2" else 1
    middle = 1 << (bits - 1)
    read: TensorEntry | None = zeros
    if group.facts.values.get("sym") is True:
        words = words_of(group.peek(zeros, _PEEK))
        seen = unpack_stream(words, bits, len(words) * 32 // bits)
        read = None if (seen == middle - first).all() else zeros
    return Gptq((n_in, out), out, codes, scales, read, middle, index, scattered, bits, size, first)
