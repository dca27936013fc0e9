"""The weight sample: cells of a checkpoint's tensors as scaled float16, within fixed budgets."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from provenance.schemas.records import SampleEntry, WeightSample
from provenance.schemas.roles import MAIN_STACK, VECTORS
from provenance.schemas.sampling import MATRIX_BUDGET, SAMPLE_VERSION, VECTOR_BUDGET, allot, is_sampled
from provenance.schemas.tensors import LogicalTensor


def weight_sample(cells_read: Iterable[tuple[LogicalTensor, NDArray[np.float64] | None]]) -> WeightSample:
    """The prefix of every sampled tensor's cells that the budgets allow.

    Args:
        cells_read: tensors, in any order, with their cells `[n]` in sampling order; null for a tensor without cells.
    """
    sampled = sorted(
        (
            (tensor, cells)
            for tensor, cells in cells_read
            if cells is not None and tensor.stack == MAIN_STACK and is_sampled(tensor.role, tensor.expert)
        ),
        key=lambda pair: _canonical(pair[0]),
    )
    kept: list[int] = [0] * len(sampled)
    for vectors, budget in ((False, MATRIX_BUDGET), (True, VECTOR_BUDGET)):
        members = [i for i, (tensor, _) in enumerate(sampled) if (tensor.role in VECTORS) is vectors]
        for i, count in zip(members, allot([len(sampled[i][1]) for i in members], budget), strict=True):
            kept[i] = count
    entries: list[SampleEntry] = []
    values: list[NDArray[np.float16]] = []
    offset = 0
    for (tensor, cells), count in zip(sampled, kept, strict=True):
        if count == 0:
            continue
        exponent, half = to_scaled_half(cells[:count])
        entries.append(
            SampleEntry(tensor.stack, tensor.role, tensor.layer, tensor.expert, tensor.shape, offset, count, exponent)
        )
        values.append(half)
        offset += count
    return WeightSample(
        SAMPLE_VERSION, tuple(entries), np.concatenate(values) if values else np.zeros(0, dtype=np.float16)
    )


def to_scaled_half(values: NDArray[np.float32] | NDArray[np.float64]) -> tuple[int, NDArray[np.float16]]:
    """Values as float16 under a power of two that uses float16's whole range.

    A power of two changes no mantissa: bfloat16 and float16 weights within 2**-24 of the largest are exact.

    Returns:
        exponent `e` and float16 values `h`, so that `values ~ h * 2**e`; non-finite values become NaN.
    """
    finite = np.isfinite(values)
    peak = float(np.abs(values[finite]).max()) if finite.any() else 0.0
    exponent = int(np.frexp(peak)[1]) - 15 if peak > 0 else 0
    with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN like any other
        scaled = np.ldexp(values.astype(np.float64), -exponent)
    return exponent, np.where(finite, scaled, np.nan).astype(np.float16)


def _canonical(tensor: LogicalTensor) -> tuple[str, int, int]:
    """A tensor's sort key in the sample, independent of where it is stored: role, layer and expert, nulls first."""
    return (
        tensor.role,
        -1 if tensor.layer is None else tensor.layer,
        -1 if tensor.expert is None else tensor.expert,
    )
