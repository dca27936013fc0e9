"""bitsandbytes: 4-bit codes of a table with a scale a block (`nf4`, `fp4`), and 8-bit integers with a scale a row.

4 bits: `weight` holds the bytes of all codes in row order, the earlier code in the high half. Block `i` of `blocksize`
codes is scaled by `absmax[i]`. With double quantisation `absmax` is a code itself, of the table `nested_quant_map`, and
`absmax = nested_quant_map[code] * nested_absmax[i // nested_blocksize] + nested_offset`. The shape and these numbers
are JSON in `quant_state.bitsandbytes__nf4`. 8 bits: `weight[i] * SCB[i] / 127`.

Source: `QuantState` and `dequantize_4bit` of `bitsandbytes.functional`, `Int8Params` of `bitsandbytes.nn`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenance.crawler.formats.packing.bits import nibbles
from provenance.crawler.formats.packing.group import Group
from provenance.crawler.formats.packing.packed import (
    Bytes,
    Floats,
    Packing,
    Span,
    Unreadable,
    check_shape,
    damaged,
    numbers,
    require,
    rows_of,
    whole,
)
from provenance.schemas.tensors import TensorEntry

_MAX_STATE = 4096


@dataclass(frozen=True, slots=True)
class _State:
    """What `quant_state` says that is used; `nested` is the size of a block of scales, null if these are floats."""

    shape: tuple[int, int]
    block: int
    nested: int | None
    offset: float


@dataclass(frozen=True)
class Table4Bit(Packing):
    """One matrix of 4-bit codes.

    Attributes:
        kind: `NF4` or `FP4`.
        table: value of each code.
        scales: of each block, floats or codes.
        nested_scales, nested_table: of the scales, where these are codes.
    """

    kind: str
    codes: TensorEntry
    state: TensorEntry
    table: TensorEntry
    scales: TensorEntry
    block: int
    nested: int | None
    nested_scales: TensorEntry | None
    nested_table: TensorEntry | None

    @property
    def label(self) -> str:
        return f"BNB-{self.kind}"

    def spans(self, low: int, high: int) -> Sequence[Span]:
        first, last = self._blocks(low, high)
        spans = [rows_of(self.codes, self.shape[0], low, high), whole(self.state), whole(self.table)]
        spans.append(rows_of(self.scales, self.scales.n_elements, first, last))
        if self.nested is not None and self.nested_scales is not None and self.nested_table is not None:
            own = first // self.nested, (last - 1) // self.nested + 1
            spans += [rows_of(self.nested_scales, self.nested_scales.n_elements, *own), whole(self.nested_table)]
        return spans

    def rows(self, low: int, high: int, data: Sequence[Bytes]) -> Floats:
        try:
            state = _parse(data[1])
        except Unreadable as fault:
            raise damaged(self.codes.name, str(fault)) from fault
        if (state.shape, state.block, state.nested) != (self.shape, self.block, self.nested):
            raise damaged(self.codes.name, "its quant_state differs from that of the same matrix of another layer")
        columns = self.shape[1]
        first, last = self._blocks(low, high)
        values = numbers(data[2], self.table.dtype)[nibbles(data[0], high_first=True)]
        scales = self._scales(data, first, last, state.offset)
        block = np.arange(low * columns, high * columns) // self.block - first
        weights: Floats = (values * scales[block]).reshape(-1, columns)
        return weights

    def _scales(self, data: Sequence[Bytes], first: int, last: int, offset: float) -> NDArray[np.float32]:
        if self.nested is None or self.nested_scales is None or self.nested_table is None:
            return numbers(data[3], self.scales.dtype)
        table = numbers(data[5], self.nested_table.dtype)
        outer = np.arange(first, last) // self.nested - first // self.nested
        found: Floats = table[np.frombuffer(data[3], np.uint8)] * numbers(data[4], self.nested_scales.dtype)[outer]
        return found + np.float32(offset)

    def _blocks(self, low: int, high: int) -> tuple[int, int]:
        columns = self.shape[1]
        return low * columns // self.block, (high * columns - 1) // self.block + 1


@dataclass(frozen=True)
class RowInt8(Packing):
    """One matrix of 8-bit integers."""

    codes: TensorEntry
    scales: TensorEntry
    order: TensorEntry | None

    @property
    def label(self) -> str:
        return "BNB-INT8"

    def spans(self, low: int, high: int) -> Sequence[Span]:
        n = self.shape[0]
        spans = (rows_of(self.codes, n, low, high), rows_of(self.scales, n, low, high))
        return (*spans, whole(self.order)) if self.order else spans

    def rows(self, low: int, high: int, data: Sequence[Bytes]) -> Floats:
        if self.order and any(bytes(data[2])):
            raise damaged(self.codes.name, "its integers are in the order of one kind of GPU; save it anew")
        scales = numbers(data[1], self.scales.dtype) / np.float32(127)
        codes = np.frombuffer(data[0], np.int8).reshape(-1, self.shape[1])
        weights: Floats = codes.astype(np.float32) * scales[:, None]
        return weights


def read_4bit(group: Group) -> Packing | None:
    """The packing of a matrix of NF4 or FP4 codes."""
    codes, state, table, scales = group.codes, group["state"], group["table"], group["scales"]
    kind = state.name.rpartition("__")[2].upper()
    found = _parse(group.peek(state, _MAX_STATE))
    rows, columns = found.shape
    check_shape(rows, columns)
    require(columns % 2 == 0, f"rows of {columns} codes of 4 bits end inside a byte")
    require(
        (codes.stop - codes.start) * 2 == rows * columns, f"{codes.stop - codes.start:,} bytes for {rows} x {columns}"
    )
    require(table.n_elements == 16, f"a table of {table.n_elements} values for 4 bits")
    n_blocks = -(-rows * columns // found.block)
    require(scales.n_elements == n_blocks, f"{scales.n_elements:,} scales for {n_blocks:,} blocks")
    outer, outer_table = group.get("nested scales"), group.get("nested table")
    if found.nested is None:
        group.check_scales(table, scales)
        outer = outer_table = None
    else:
        require(outer is not None and outer_table is not None, "scales that are codes, and no table for them")
        if outer is not None and outer_table is not None:
            require(scales.dtype == "U8" and outer_table.n_elements == 256, "scales that are no bytes of a table")
            require(outer.n_elements == -(-n_blocks // found.nested), f"{outer.n_elements} scales of scales")
            group.check_scales(table, outer, outer_table)
    nested = found.nested
    return Table4Bit(found.shape, kind, codes, state, table, scales, found.block, nested, outer, outer_table)


def read_int8(group: Group) -> Packing | None:
    """The packing of a matrix of 8-bit integers with a scale a row."""
    codes, scales = group.codes, group["scales"]
    if codes.dtype != "I8":
        return None
    require(len(codes.shape) == 2, f"shape {list(codes.shape)[:4]} is no matrix")
    check_shape(*codes.shape)
    require(scales.n_elements == codes.shape[0], f"{scales.n_elements} scales for {codes.shape[0]} rows")
    group.check_scales(scales)
    order = group.get("order")
    require(order is None or order.stop - order.start <= 8, "a weight_format that is no number")
    return RowInt8((codes.shape[0], codes.shape[1]), codes, scales, order)


def _parse(data: Bytes) -> _State:
    """The state of a 4-bit matrix.

    Raises:
        Unreadable: it is not the JSON that bitsandbytes writes, or describes no matrix.
    """
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise Unreadable("quant_state is no JSON") from error
    require(isinstance(found, Mapping), "quant_state is no JSON object")
    shape = found.get("shape")
    require(isinstance(shape, list) and len(shape) == 2 and all(map(_is_size, shape)), "quant_state has no shape")
    require(_is_size(found.get("blocksize")), "quant_state has no blocksize")
    nested = found.get("nested_blocksize")
    require(nested is None or _is_size(nested), "quant_state has no nested_blocksize")
    offset = found.get("nested_offset", 0.0)
    require(isinstance(offset, float | int) and math.isfinite(offset), "quant_state has no nested_offset")
    return _State((shape[0], shape[1]), found["blocksize"], nested, float(offset))


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 31
