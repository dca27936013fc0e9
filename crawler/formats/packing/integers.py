"""Integers of 2 to 8 bits in 32-bit words along the inputs, with scales a row or a group: `[out, in * bits / 32]`.

Two projects store so. compressed-tensors (`pack-quantized`): `weight_packed`, `weight_scale [out, groups]`,
`weight_shape`, and where it is asymmetric `weight_zero_point [out * bits / 32, groups]`, packed along the outputs.
Codes and zero points are signed, stored with half their range added. Earlier versions wrote `32 // bits` codes to a
word, later ones a stream, which is the same for 2, 4 and 8 bits. `weight_g_idx` is the group of each input where these
are scattered. A weight is `scale * (code - zero)`.

MLX: `weight`, `scales [out, groups]`, `biases [out, groups]`; codes follow each other without regard to the ends of
words. A weight is `scale * code + bias`.

Source: `unpack_from_int32` of compressed-tensors, `mlx.core.dequantize`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenance.crawler.formats.packing.bits import spread, unpack_stream, unpack_words, words_of
from provenance.crawler.formats.packing.group import Facts, Group
from provenance.crawler.formats.packing.packed import (
    Bytes,
    Floats,
    Packing,
    Span,
    Unreadable,
    check_shape,
    damaged,
    groups_of,
    numbers,
    require,
    rows_of,
    whole,
)
from provenance.schemas.tensors import TensorEntry


@dataclass(frozen=True)
class PackedWords(Packing):
    """One matrix of compressed-tensors."""

    codes: TensorEntry
    scales: TensorEntry
    stated: TensorEntry
    zeros: TensorEntry | None
    index: TensorEntry | None
    bits: int
    stream: bool
    group: int

    @property
    def label(self) -> str:
        return f"CT-INT{self.bits}"

    def spans(self, low: int, high: int) -> Sequence[Span]:
        n = self.shape[0]
        spans = [rows_of(self.codes, n, low, high), rows_of(self.scales, n, low, high), whole(self.stated)]
        if self.zeros is not None:
            first, last = self._zero_words(low, high)
            spans.append(rows_of(self.zeros, self.zeros.shape[0], first, last))
        return [*spans, whole(self.index)] if self.index is not None else spans

    def rows(self, low: int, high: int, data: Sequence[Bytes]) -> Floats:
        columns = self.shape[1]
        stated = np.frombuffer(data[2], "<i8" if self.stated.dtype == "I64" else "<i4")
        if tuple(stated.tolist()) != self.shape:
            raise damaged(
                self.codes.name, f"weight_shape says {stated.tolist()}, the same matrix of another layer {self.shape}"
            )
        scales = numbers(data[1], self.scales.dtype).reshape(high - low, -1)
        zeros = np.full((1, scales.shape[1]), 1 << (self.bits - 1), dtype=np.float32)
        if self.zeros is not None:
            first, last = self._zero_words(low, high)
            packed = words_of(data[3]).reshape(last - first, -1).T
            skip = low * self.bits - 32 * first if self.stream else low - first * (32 // self.bits)
            zeros = self._unpack(packed, high - low, skip).T.astype(np.float32)
        group = np.arange(columns) // self.group
        if self.index is not None and (stored := np.frombuffer(data[-1], "<i4"))[0] != -1:  # -1: in order
            if stored.min() < 0 or stored.max() >= scales.shape[1]:
                raise damaged(self.codes.name, f"weight_g_idx names a group that is none of {scales.shape[1]}")
            group = stored
        codes = self._unpack(words_of(data[0]).reshape(high - low, -1), columns)
        weights: Floats = (codes.astype(np.float32) - zeros[:, group]) * scales[:, group]
        return weights

    def _zero_words(self, low: int, high: int) -> tuple[int, int]:
        """The words of zero points that some rows need."""
        if self.stream:
            return low * self.bits // 32, (high * self.bits - 1) // 32 + 1
        per_word = 32 // self.bits
        return low // per_word, (high - 1) // per_word + 1

    def _unpack(self, words: NDArray[np.uint32], count: int, skip: int = 0) -> NDArray[np.uint8]:
        if self.stream:
            return unpack_stream(words, self.bits, count, skip)
        return unpack_words(words, self.bits)[..., skip : skip + count]


@dataclass(frozen=True)
class Mlx(Packing):
    """One matrix of MLX."""

    codes: TensorEntry
    scales: TensorEntry
    biases: TensorEntry
    bits: int
    group: int

    @property
    def label(self) -> str:
        return f"MLX-{self.bits}"

    def spans(self, low: int, high: int) -> Sequence[Span]:
        return [rows_of(entry, self.shape[0], low, high) for entry in (self.codes, self.scales, self.biases)]

    def rows(self, low: int, high: int, data: Sequence[Bytes]) -> Floats:
        columns = self.shape[1]
        codes = unpack_stream(words_of(data[0]).reshape(high - low, -1), self.bits, columns).astype(np.float32)
        scales, biases = (
            spread(numbers(part, side.dtype).reshape(high - low, -1), self.group, columns)
            for part, side in zip(data[1:], (self.scales, self.biases), strict=True)
        )
        weights: Floats = codes * scales + biases
        return weights


def read_packed_words(group: Group) -> Packing | None:
    """The packing of a matrix of compressed-tensors; null if its codes are no words."""
    codes, scales, stated = group.codes, group["scales"], group["shape"]
    zeros, index = group.get("zeros"), group.get("index")
    if codes.dtype != "I32":
        return None
    require(len(codes.shape) == len(scales.shape) == 2, f"shape {list(codes.shape)[:4]} is no matrix")
    require(stated.dtype in ("I64", "I32") and stated.shape == (2,), "weight_shape is no pair of integers")
    shape = np.frombuffer(group.peek(stated, 16), "<i8" if stated.dtype == "I64" else "<i4").tolist()
    rows, columns = int(shape[0]), int(shape[1])
    check_shape(rows, columns)
    require(codes.shape[0] == rows == scales.shape[0], f"{codes.shape[0]} rows of codes for a matrix of {rows}")
    bits, stream = _bits(codes.shape[1], columns, _announced(group, "num_bits"))
    require(bits != 0, f"{codes.shape[1]} words for {columns} columns are no number of bits")
    straddles = 32 % bits != 0 and -(-columns // (32 // bits)) == -(-columns * bits // 32)
    require(not straddles, f"{columns} columns of {bits} bits, which two versions of the format store differently")
    size = groups_of(columns, scales.shape[1], _announced(group, "group_size"))
    group.check_scales(scales)
    if zeros is not None:
        words = (-(-rows * bits // 32) if stream else -(-rows // (32 // bits)), scales.shape[1])
        require(zeros.dtype == "I32" and zeros.shape == words, f"zero points of {zeros.dtype} {list(zeros.shape)[:4]}")
    if index is not None:
        require(index.shape == (columns,) and index.dtype == "I32", f"weight_g_idx of shape {list(index.shape)[:4]}")
    return PackedWords((rows, columns), codes, scales, stated, zeros, index, bits, stream, size)


def read_mlx(group: Group) -> Packing | None:
    """The packing of a matrix of MLX; null if its codes are no words."""
    codes, scales, biases = group.codes, group["scales"], group["biases"]
    if codes.dtype != "U32":
        return None
    require(len(codes.shape) in (2, 3) and codes.n_elements > 0, f"shape {list(codes.shape)[:4]} is no matrix")
    require(scales.shape[:-1] == codes.shape[:-1] and scales.shape == biases.shape, "no scale and bias for each group")
    own = group.facts.section(codes.name.removesuffix(".weight"))  # some matrices may have more bits than others
    size = own.number("group_size") or group.number("group_size")
    if size is None or size <= 0:
        raise Unreadable("no config says how many codes share a scale")
    words, columns = codes.shape[-1], scales.shape[-1] * size
    bits = next((b for b in (2, 3, 4, 5, 6, 8) if words * 32 == columns * b), 0)
    announced = own.number("bits") or group.number("bits")
    require(
        bits > 0 and announced in (None, bits), f"{words} words for {columns} columns of {announced or 'some'} bits"
    )
    rows = codes.n_elements // words
    check_shape(rows, columns)
    group.check_scales(scales, biases)
    experts = codes.shape[0] if len(codes.shape) == 3 else 0
    return Mlx((rows, columns), codes, scales, biases, bits, size, experts=experts)


def _bits(words: int, columns: int, announced: int | None) -> tuple[int, bool]:
    """How many bits a code has, and whether codes follow each other as a stream; 0 bits if no number fits."""
    for bits in (announced, 4, 8, 2, 3, 6, 5, 1, 7):
        if bits is None or not 1 <= bits <= 8:
            continue
        if words == -(-columns * bits // 32):
            return bits, True
        if words == -(-columns // (32 // bits)):
            return bits, False
    return 0, False


def _announced(group: Group, key: str) -> int | None:
    """What the config says of all weights, where all its groups of layers have the same."""
    groups = group.facts.values.get("config_groups")
    found = set()
    for scheme in groups.values() if isinstance(groups, Mapping) else ():
        weights = scheme.get("weights") if isinstance(scheme, Mapping) else None
        found.add(Facts(weights).number(key) if isinstance(weights, Mapping) else None)
    return found.pop() if len(found) == 1 else None
