"""8-bit floats and integers with scales beside them: a scale for the matrix, each row, each column or each block.

`weight[i, j] * scale[i // height, j // width]`, less a zero point where there is one. So store FP8: transformers'
fine-grained FP8 and DeepSeek (`weight_scale_inv`, which is multiplied too, over blocks of 128 x 128, the last of which
may be short), FBGEMM, modelopt and compressed-tensors (`weight_scale`), `scale_weight` of diffusion models; and 8-bit
integers: compressed-tensors (`int-quantized`), quanto (`weight._data`, `weight._scale`). torchao's `_weight_qdata` is
one or the other, where its numbers are not packed further.

Source: `weight_dequant` of DeepSeek-V3's `kernel.py`, `dequantize` of compressed-tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from provenance.crawler.formats.dtypes import decode
from provenance.crawler.formats.packing.bits import spread
from provenance.crawler.formats.packing.group import Group
from provenance.crawler.formats.packing.packed import (
    Bytes,
    Floats,
    Packing,
    Span,
    Unreadable,
    check_shape,
    numbers,
    require,
    rows_of,
    whole,
)
from provenance.schemas.tensors import TensorEntry

_DEFAULT_BLOCK = (128, 128)


@dataclass(frozen=True, slots=True)
class _Grid:
    """Scales or zero points in a grid over a matrix, or over each matrix of a stack.

    Attributes:
        rows, columns: of the grid, for one matrix.
        block: rows and columns of the matrix for each of them.
        powers: they are bytes that hold exponents of two, as MXFP8 stores them.
    """

    entry: TensorEntry
    rows: int
    columns: int
    block: tuple[int, int]
    powers: bool = False

    def span(self, matrix: int, low: int, high: int) -> Span:
        """The bytes for some rows of a matrix of the stack."""
        if self.entry.n_elements == self.columns == 1:
            return whole(self.entry)
        first, last = (matrix * self.rows + at for at in self._lines(low, high))
        return rows_of(self.entry, self.entry.n_elements // self.columns, first, last)

    def values(self, low: int, high: int, columns: int, data: Bytes) -> Floats:
        """`[high - low, columns]`, or `[high - low, 1]` where all columns have the same."""
        dtype = "F8_E8M0" if self.powers else self.entry.dtype
        found = numbers(data, dtype).reshape(-1, self.columns)
        line = np.arange(low, high) // self.block[0] - self._lines(low, high)[0]
        values: NDArray[np.float32] = found[line] if len(found) > 1 else found
        return values if self.columns == 1 else spread(values, self.block[1], columns)

    def _lines(self, low: int, high: int) -> tuple[int, int]:
        return low // self.block[0], (high - 1) // self.block[0] + 1


@dataclass(frozen=True)
class Scaled(Packing):
    """One matrix, or a stack of matrices."""

    codes: TensorEntry
    scales: _Grid
    zeros: _Grid | None

    out_first = False

    @property
    def label(self) -> str:
        return f"{self.codes.dtype}-SCALED"

    def spans(self, low: int, high: int) -> Sequence[Span]:
        matrix, low_in, high_in = self._inside(low, high)
        codes = rows_of(self.codes, self.shape[0], low, high)
        return (codes, *(grid.span(matrix, low_in, high_in) for grid in (self.scales, self.zeros) if grid))

    def rows(self, low: int, high: int, data: Sequence[Bytes]) -> Floats:
        _, low, high = self._inside(low, high)
        columns = self.shape[1]
        weights: Floats = decode(data[0], self.codes.dtype).astype(np.float32).reshape(-1, columns)
        if self.zeros is not None:
            weights -= self.zeros.values(low, high, columns, data[2])
        weights *= self.scales.values(low, high, columns, data[1])
        return weights

    def _inside(self, low: int, high: int) -> tuple[int, int, int]:
        """Which matrix of the stack some rows are of, and where in it; bands of a stack stay inside one of them."""
        height = self.shape[0] // max(self.experts, 1)
        matrix = low // height
        return matrix, low - matrix * height, high - matrix * height


def read_floats(group: Group) -> Packing | None:
    """The packing of a matrix of 8-bit floats; null if the tensor holds something else."""
    return read_scaled(group) if group.codes.dtype.startswith("F8") else None


def read_integers(group: Group) -> Packing | None:
    """The packing of a matrix of 8-bit integers; null if the tensor holds something else."""
    return read_scaled(group) if group.codes.dtype == "I8" else None


def read_scaled(group: Group) -> Packing | None:
    """The packing of a matrix of 8-bit numbers; null if the tensor holds something else."""
    codes = group.codes
    if not codes.dtype.startswith(("F8_E4M3", "F8_E5M2")) and codes.dtype != "I8":
        return None
    if len(codes.shape) == 1:
        return None  # a norm, say, next to the scale of something else
    scales, zeros = group["scales"], group.get("zeros")
    if not (codes.dtype.startswith("F8") and scales.dtype == "U8"):
        group.check_scales(scales)
    require(len(codes.shape) in (2, 3), f"shape {list(codes.shape)[:4]} is no matrix")
    *stack, height, columns = codes.shape
    rows = math.prod(stack) * height
    check_shape(rows, columns)
    announced = group.facts.pair("weight_block_size")
    grids = [_grid(side, stack, height, columns, announced) for side in (scales, zeros) if side is not None]
    if zeros is not None:
        require(zeros.dtype.startswith(("I", "U")), f"zero points of {zeros.dtype}")
    scale_grid, zero_grid = replace(grids[0], powers=scales.dtype == "U8"), grids[1] if zeros is not None else None
    return Scaled((rows, columns), codes, scale_grid, zero_grid, experts=math.prod(stack) if stack else 0)


def _grid(side: TensorEntry, stack: list[int], height: int, columns: int, announced: tuple[int, int] | None) -> _Grid:
    shape = list(side.shape)
    if side.n_elements == 1:
        return _Grid(side, 1, 1, (height, columns))
    if shape[: len(stack)] == stack:
        shape = shape[len(stack) :]
    elif stack:
        raise Unreadable(f"scales of shape {shape[:4]} for {stack[0]} matrices of {height} x {columns}")
    n_rows, n_columns = [*shape, 1, 1][:2] if len(shape) < 3 else (0, 0)
    if n_rows in (1, height) and n_columns == 1:
        return _Grid(side, n_rows, 1, (height // n_rows, columns))
    for block in (announced, _DEFAULT_BLOCK):
        if block is not None and (n_rows, n_columns) == (-(-height // block[0]), -(-columns // block[1])):
            return _Grid(side, n_rows, n_columns, block)
    # Groups along a row may have any size. Fewer scales than rows are blocks of a size that somebody said: over
    # integers they may also mean that these are packed further.
    fits = n_rows == height and n_columns > 0 and columns % n_columns == 0
    require(fits, f"scales of shape {list(side.shape)[:4]} do not divide {height} x {columns}")
    return _Grid(side, n_rows, n_columns, (height // n_rows, columns // n_columns))
