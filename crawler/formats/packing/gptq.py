"""GPTQ: `qweight [in * bits / 32, out]`, `qzeros [groups, out * bits / 32]`, `scales [groups, out]`, `g_idx [in]`.

A weight is `scale * (code - zero)` of the group of its input. The first format stores `zero - 1`, the second the zero
point itself (`checkpoint_format` `gptq_v2`). With act-order the inputs of a group are scattered, and `g_idx` gives the
group of each. 3 bits: a stream of 32 numbers in three words.

Source: `pack` and `dequantize_weight` of AutoGPTQ's and GPTQModel's `qlinear` modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

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
    whole,
)
from provenance.schemas.tensors import TensorEntry

_BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class Gptq(Packing):
    """One matrix.

    Attributes:
        index: group of each input; null where the groups are in order.
        scattered: whether `index` says anything else than the order.
        first: what is added to a stored zero point: 1 in the first format.
    """

    codes: TensorEntry
    zeros: TensorEntry
    scales: TensorEntry
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

    def spans(self, low: int, high: int) -> Sequence[Span]:
        words = low * self.bits // 32, -(-high * self.bits // 32)
        zeros, scales = (
            whole(side) if self.scattered else rows_of(side, side.shape[0], *self._groups(low, high))
            for side in (self.zeros, self.scales)
        )
        codes = rows_of(self.codes, self.codes.shape[0], *words)
        return (codes, zeros, scales) + ((rows_of(self.index, self.shape[0], low, high),) if self.index else ())

    def rows(self, low: int, high: int, data: Sequence[Bytes]) -> Floats:
        n_in, out = high - low, self.shape[1]
        codes = unpack_stream(words_of(data[0]).reshape(-1, out).T, self.bits, n_in).T
        first, last = (0, self.scales.shape[0]) if self.scattered else self._groups(low, high)
        group = np.arange(low, high) // self.group if self.index is None else np.frombuffer(data[3], "<i4")
        if group.min() < first or group.max() >= last:
            raise damaged(
                self.codes.name, f"g_idx names groups {group.min()} to {group.max()}, not {first} to {last - 1}"
            )
        packed = words_of(data[1]).reshape(last - first, -1)
        zeros = (unpack_stream(packed, self.bits, out) + np.uint8(self.first)) & np.uint8((1 << self.bits) - 1)
        scales = numbers(data[2], self.scales.dtype).reshape(last - first, out)
        weights: Floats = (codes.astype(np.float32) - zeros[group - first]) * scales[group - first]
        return weights

    def _groups(self, low: int, high: int) -> tuple[int, int]:
        return low // self.group, (high - 1) // self.group + 1


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
    require(32 % bits == 0 or out % 32 == 0, f"{out} columns of {bits} bits")
    require(32 % bits == 0 or codes.shape[0] % bits == 0, f"{codes.shape[0]} words of {bits} bits")
    n_in = codes.shape[0] * 32 // bits
    check_shape(n_in, out)
    if index is not None:
        require(
            index.shape == (n_in,) and index.dtype == "I32", f"g_idx of shape {list(index.shape)} for {n_in} inputs"
        )
    size = groups_of(n_in, groups, group.number("group_size"))
    scattered = index is not None and _scattered(group.peek(index, 4096), size)
    if scattered:
        largest = max(side.stop - side.start for side in (zeros, scales))
        require(largest <= MAX_WHOLE_BYTES, f"{largest:,} bytes of scales for one matrix")
    first = 0 if group.text("checkpoint_format") == "gptq_v2" else 1
    return Gptq((n_in, out), codes, zeros, scales, index, scattered, bits, size, first)


def _scattered(data: bytes, size: int) -> bool:
    index = np.frombuffer(data, "<i4")
    return not np.array_equal(index, np.arange(len(index)) // size)
