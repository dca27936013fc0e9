"""4-bit floats in bytes along the inputs, the earlier one in the low half, with a scale for 16 or 32 of them.

NVFP4: 16 share an 8-bit float `scale`, and all a global one. modelopt (`weight`, `weight_scale`, `weight_scale_2`)
multiplies by it, compressed-tensors (`weight_packed`, `weight_scale`, `weight_global_scale`) divides. MXFP4: 32 share
a power of two, stored as its exponent plus 127: `_blocks [experts, out, groups, 16]` and `_scales` of gpt-oss, or
`weight_packed` or `weight` and `weight_scale` as bytes.

Source: OCP Microscaling Formats 1.0; `convert_moe_packed_tensors` of transformers; `NVFP4QTensor` of modelopt;
`NVFP4PackedCompressor` of compressed-tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from provenance.crawler.formats.packing.bits import FP4, nibbles
from provenance.crawler.formats.packing.group import Group
from provenance.crawler.formats.packing.packed import (
    Bytes,
    Floats,
    Packing,
    Span,
    check_shape,
    numbers,
    require,
    rows_of,
    whole,
)
from provenance.schemas.tensors import TensorEntry

_BYTES = ("U8", "I8", "F4", "U32")  # what writers call bytes of two halves, which MLX keeps in words
_NV_GROUP, _MX_GROUP = 16, 32


@dataclass(frozen=True)
class NvFp4(Packing):
    """One matrix of NVFP4; `divides` by the global scale, or is multiplied by it."""

    codes: TensorEntry
    scales: TensorEntry
    overall: TensorEntry
    divides: bool

    @property
    def label(self) -> str:
        return "NVFP4"

    def spans(self, low: int, high: int) -> Sequence[Span]:
        n = self.shape[0]
        return (rows_of(self.codes, n, low, high), rows_of(self.scales, n, low, high), whole(self.overall))

    def rows(self, low: int, high: int, data: Sequence[Bytes]) -> Floats:
        (overall,) = numbers(data[2], self.overall.dtype)
        scales = numbers(data[1], self.scales.dtype)
        scales = scales / overall if self.divides else scales * overall
        weights: Floats = FP4[nibbles(data[0])].reshape(-1, _NV_GROUP) * scales[:, None]
        return weights.reshape(high - low, -1)


@dataclass(frozen=True)
class MxFp4(Packing):
    """One matrix of MXFP4, or a stack of them, row after row."""

    codes: TensorEntry
    scales: TensorEntry

    @property
    def label(self) -> str:
        return "MXFP4"

    def spans(self, low: int, high: int) -> Sequence[Span]:
        return [rows_of(entry, self.shape[0], low, high) for entry in (self.codes, self.scales)]

    def rows(self, low: int, high: int, data: Sequence[Bytes]) -> Floats:
        exponent = np.frombuffer(data[1], np.uint8).astype(np.int32) - 127
        weights: Floats = np.ldexp(FP4[nibbles(data[0])].reshape(-1, _MX_GROUP), exponent[:, None])
        return weights.reshape(high - low, -1)


def read_nvfp4(group: Group) -> Packing | None:
    """The packing of a matrix of NVFP4, of either writer; null if the codes are no bytes."""
    codes, scales = group.codes, group["scales"]
    divides = group.get("divisor") is not None
    overall = group["divisor" if divides else "factor"]
    if codes.dtype not in _BYTES:
        return None
    rows, columns = _two_halves(codes)
    require(scales.dtype == "F8_E4M3", f"scales of {scales.dtype}")
    _check_scales(scales, rows, columns, _NV_GROUP)
    require(overall.n_elements == 1, f"{overall.n_elements} global scales")
    group.check_scales(overall)
    return NvFp4((rows, columns), codes, scales, overall, divides)


def read_mxfp4(group: Group) -> Packing | None:
    """The packing of a matrix of MXFP4; null if the codes or scales are no bytes."""
    codes, scales = group.codes, group["scales"]
    if codes.dtype not in _BYTES or scales.dtype not in ("U8", "F8_E8M0"):
        return None
    rows, columns = _two_halves(codes)
    _check_scales(scales, rows, columns, _MX_GROUP)
    return MxFp4((rows, columns), codes, scales)


def read_blocks(group: Group) -> Packing | None:
    """The packing of a stack of experts as gpt-oss stores it."""
    codes, scales = group.codes, group["scales"]
    if codes.dtype != "U8" or len(codes.shape) < 3:
        return None
    *rows, groups, block = codes.shape
    require(block * 2 == _MX_GROUP and scales.dtype == "U8", f"blocks of {block} bytes, scales of {scales.dtype}")
    check_shape(math.prod(rows), groups * _MX_GROUP)
    require(scales.shape == (*rows, groups), f"scales of shape {list(scales.shape)[:4]} for {[*rows, groups][:4]}")
    return MxFp4((math.prod(rows), groups * _MX_GROUP), codes, scales, experts=math.prod(rows[:-1]) if rows[1:] else 0)


def _two_halves(codes: TensorEntry) -> tuple[int, int]:
    require(len(codes.shape) == 2, f"shape {list(codes.shape)[:4]} is no matrix")
    rows = codes.shape[0]
    columns = (codes.stop - codes.start) * 2 // max(rows, 1)
    check_shape(rows, columns)
    return rows, columns


def _check_scales(scales: TensorEntry, rows: int, columns: int, size: int) -> None:
    fits = columns % size == 0 and scales.shape == (rows, columns // size)
    require(fits, f"scales of shape {list(scales.shape)[:4]} for {rows} x {columns}, of which {size} share one")
