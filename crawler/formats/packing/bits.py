"""Small numbers out of the words that hold them, and the values of 4-bit floats."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)
"""The values of a 4-bit float with two bits of exponent and one of fraction (E2M1, OCP Microscaling 1.0)."""


def words_of(data: bytes | memoryview) -> NDArray[np.uint32]:
    """32-bit words, as I32 and U32 store them."""
    return np.frombuffer(data, dtype="<u4")


def unpack_words(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """Numbers of 8 bits or fewer, `32 // bits` to a word from its low end.

    Args:
        words: `[..., n]`.
        bits: of one number.

    Returns:
        `[..., n * (32 // bits)]`; bits of a word that make no number are left out.
    """
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    found = ((words[..., None] >> shifts) & np.uint32((1 << bits) - 1)).astype(np.uint8)
    return found.reshape(*words.shape[:-1], -1)


def unpack_stream(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """Numbers of 8 bits or fewer, one after the other without regard to the ends of words.

    Args:
        words: `[..., n]`, `n` a multiple of `bits` unless a word holds a whole number of them.
        bits: of one number.

    Returns:
        `[..., n * 32 // bits]`.
    """
    if 32 % bits == 0:
        return unpack_words(words, bits)
    position = np.arange(32, dtype=np.uint32) * np.uint32(bits)
    first, shift = position // 32, position % 32
    groups = words.reshape(*words.shape[:-1], -1, bits)
    # The first bits of a number that goes on in the next word; shifting by 32 is undefined, so in two steps.
    following = groups[..., np.minimum(first + 1, bits - 1)]
    found = (groups[..., first] >> shift) | ((following << (np.uint32(31) - shift)) << np.uint32(1))
    return (found & np.uint32((1 << bits) - 1)).astype(np.uint8).reshape(*words.shape[:-1], -1)


def nibbles(data: bytes | memoryview, *, high_first: bool = False) -> NDArray[np.uint8]:
    """`[2 * n]`: the two halves of every byte, the low one first unless said."""
    stored = np.frombuffer(data, dtype=np.uint8)
    halves = (stored >> 4, stored & 15) if high_first else (stored & 15, stored >> 4)
    return np.stack(halves, axis=-1).reshape(-1)


def spread(values: NDArray[Any], size: int, length: int) -> NDArray[Any]:
    """`[..., length]`: each of `values [..., groups]` repeated over its group of `size`, the last of which may be short."""
    return np.repeat(values, size, axis=-1)[..., :length]
