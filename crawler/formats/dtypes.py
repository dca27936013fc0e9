"""Decode stored bytes into numbers.

Every dtype that holds one number in whole bytes can be read. Floats of 32 bits or fewer become float32, which holds
each of their values exactly; F64 stays float64; integers and BOOL become float64, exact up to 2**53. The block types of
GGUF, which hold a run of weights and their scales in a few bytes, become float32 through the `gguf` package.
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

BLOCKS: dict[str, tuple[int, int]] = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "IQ1_S": (256, 50),
    "IQ1_M": (256, 56),
    "IQ2_XXS": (256, 66),
    "IQ2_XS": (256, 74),
    "IQ2_S": (256, 82),
    "IQ3_XXS": (256, 98),
    "IQ3_S": (256, 110),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
    "TQ1_0": (256, 54),
    "TQ2_0": (256, 66),
    "MXFP4": (32, 17),
    "NVFP4": (64, 36),
}
"""Weights and bytes of one block of each block type that is read. A row of a matrix is a whole number of blocks."""

_PIECE = 65_536  # weights of blocks that are decoded at a time: the temporary arrays stay small


def is_float(dtype: str) -> bool:
    """Whether `decode` reads `dtype` as weights: floats (not the packed F4 and F6) and block types."""
    return dtype in _FLOATS or dtype in BLOCKS


def is_numeric(dtype: str) -> bool:
    """Whether `decode` reads `dtype`: all that safetensors has but the packed F4 and F6 and the complex C64; blocks."""
    return dtype in _STORED or dtype in BLOCKS


def unit(dtype: str) -> tuple[int, int]:
    """Elements and bytes of the smallest part of a tensor of a numeric dtype that can be read by itself."""
    return BLOCKS[dtype] if dtype in BLOCKS else (1, np.dtype(_STORED[dtype]).itemsize)


def stored_bytes(dtype: str, n_elements: int) -> int:
    """Bytes of some elements of a numeric dtype, which fill whole blocks."""
    elements, size = unit(dtype)
    return n_elements // elements * size


def decode(data: bytes | memoryview, dtype: str) -> NDArray[np.float32] | NDArray[np.float64]:
    """The numbers in some bytes of a tensor.

    Args:
        data: little-endian bytes of whole elements.
        dtype: dtype as a safetensors header names it, or a block type as GGUF names it.

    Returns:
        `[n]` float64 for F64, integers and BOOL, else float32. F64 and F32 are views of `data`, read-only if it is.

    Raises:
        CheckpointError: `is_numeric(dtype)` is false, or `data` ends inside an element.
    """
    if dtype in BLOCKS:
        return _block_values(data, dtype)
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


def _block_values(data: bytes | memoryview, dtype: str) -> NDArray[np.float32]:
    """`[n]` the weights in whole blocks."""
    from gguf import GGMLQuantizationType, dequantize  # only here: most checkpoints never need it

    elements, size = BLOCKS[dtype]
    if len(data) % size:
        raise CheckpointError(
            f"{len(data):,} bytes are no whole number of {dtype} blocks of {size} bytes", stage=Stage.STATISTICS
        )
    blocks = np.frombuffer(data, np.uint8).reshape(-1, size)
    values = np.empty((len(blocks), elements), np.float32)
    step = _PIECE // elements
    with np.errstate(all="ignore"):  # scales may be infinite or NaN; so are the weights then, and they are counted
        for start in range(0, len(blocks), step):
            part = blocks[start : start + step]
            values[start : start + step] = dequantize(part.reshape(1, -1), GGMLQuantizationType[dtype]).reshape(
                -1, elements
            )
    return values.reshape(-1)
