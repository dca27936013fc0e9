"""Decode stored bytes into numbers.

Every dtype that holds one number in whole bytes can be read. Floats of 32 bits or fewer become float32, which holds
each of their values exactly; F64 stays float64; integers and BOOL become float64, exact up to 2**53.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from provenance.schemas.enums import Stage
from provenance.schemas.errors import CheckpointError

_FLOAT8 = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
"""Name in `ml_dtypes` of each 8-bit float."""

_STORED = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    **dict.fromkeys(_FLOAT8, "u1"),
    "BOOL": "u1",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
}
"""Numpy dtype of one stored element, for each dtype that is read."""

_FLOATS = frozenset(("F64", "F32", "F16", "BF16", *_FLOAT8))


def is_float(dtype: str) -> bool:
    """Whether `dtype` is a floating-point type that `decode` reads (not the packed F4 and F6)."""
    return dtype in _FLOATS


def is_numeric(dtype: str) -> bool:
    """Whether `decode` reads `dtype`: every dtype of the format except the packed F4 and F6 and the complex C64."""
    return dtype in _STORED


def decode(data: bytes | memoryview, dtype: str) -> NDArray[np.float32] | NDArray[np.float64]:
    """The numbers in some bytes of a tensor.

    Args:
        data: little-endian bytes of whole elements.
        dtype: dtype as a safetensors header names it.

    Returns:
        `[n]` float64 for F64, integers and BOOL, else float32. F64 and F32 are views of `data`, read-only if it is.

    Raises:
        CheckpointError: `is_numeric(dtype)` is false, or `data` ends inside an element.
    """
    if dtype not in _STORED:
        raise CheckpointError(f"dtype {dtype} is stored but its numbers are not read", stage=Stage.STATISTICS)
    kind = np.dtype(_STORED[dtype])
    if len(data) % kind.itemsize:
        raise CheckpointError(
            f"{len(data):,} bytes are no whole number of {dtype} elements of {kind.itemsize} bytes",
            stage=Stage.STATISTICS,
        )
    stored = np.frombuffer(data, kind)
    if dtype in ("F64", "F32"):
        return stored
    if dtype == "F16":
        return stored.astype(np.float32)
    if dtype == "BF16":
        # A bfloat16 is the upper half of a float32. Shifting in place halves the memory traffic.
        bits = stored.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    if dtype in _FLOAT8:
        return _float8_values(dtype).take(stored)
    if dtype == "BOOL":
        stored = stored != 0
    return stored.astype(np.float64)


@cache
def _float8_values(dtype: str) -> NDArray[np.float32]:
    """`[256]` the value of each byte."""
    import ml_dtypes  # only here: most checkpoints never need it

    patterns: NDArray[np.generic] = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, _FLOAT8[dtype]))
    return patterns.astype(np.float32)
