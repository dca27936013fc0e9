"""Which of two checkpoints holds the weights of the other in fewer bits: 1 for the second, -1 for the first, else 0."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.grid import Grid

RANGE = 6.0
"""Between the least and the largest weight of a block, in standard deviations, at the most."""

FLOAT8_BITS = 5
"""An 8-bit float is as fine as a grid of so many bits."""

UNKNOWN_BITS = 4

CAST_LOSS = 4e-6
"""More than a cast to 16 bits loses, in units of the variance: bfloat16 loses 6e-7, a grid of 8 bits 2e-5."""


def packed_from(first: str | None, second: str | None, distance: float) -> int:
    """Whose weights are packed, where the two differ by what packing loses.

    A model that was trained after packing, or beside it, is farther away. One that was unpacked again is nearer.

    Args:
        first, second: how the weights are packed (`Q4_K_M`, `gptq`, …), null where they are not.
        distance: energy of their difference in units of the variance.
    """
    method = second or first
    if not method or (first and second) or not CAST_LOSS < distance <= packing_loss(method):
        return 0
    return 1 if second else -1


def packing_loss(method: str) -> float:
    """Twice the energy that rounding to a grid of that many bits loses: step**2 / 12, in units of the variance."""
    bits = re.search(r"[1-8]", method)
    float8 = re.search(r"(?i)fp8|float8|f8_", method)
    step = RANGE / (1 << (FLOAT8_BITS if float8 else int(bits[0]) if bits else UNKNOWN_BITS))
    return 2 * step**2 / 12


def cast_from(first: Grid, second: Grid) -> int:
    """Whose weights are the other's, cast between float16 and bfloat16; the grids differ somewhere.

    Weights of 32 bits are stored too coarsely for that.
    """
    if first.weights.shape != second.weights.shape or not np.array_equal(first.mask, second.mask):
        return 0
    one, other = first.weights.astype(np.float32), second.weights.astype(np.float32)
    return int(_is_cast(other, one)) - int(_is_cast(one, other))


def _is_cast(cast: NDArray[np.float32], original: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        half = original.astype(np.float16).astype(np.float32)
    bits = original.view(np.uint32)
    brain = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
    return np.array_equal(half, cast) or np.array_equal(brain, cast)
