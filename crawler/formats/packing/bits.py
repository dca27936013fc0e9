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


def unpack_stream(words: NDArray[np.uint32], bits: int, count: int, start: int = 0) -> NDArray[np.uint8]:
    """Numbers of 8 bits or fewer, one after the other without regard to the ends of words.

    Args:
        words: `[..., n]`.
        bits: of one number.
        count: how many numbers.
        start: position of the first one, in bits.

    Returns:
        `[..., count]`.
    """
    if 32 % bits == 0 and start == 0:
        return unpack_words(words, bits)[..., :count]
    position = start + np.arange(count) * bits
    word, shift = position // 32, (position % 32).astype(np.uint32)
    following = words[..., np.minimum(word + 1, words.shape[-1] - 1)]
    # A number may go on in the next word. Shifting by 32 is undefined, so in two steps.
    found = (words[..., word] >> shift) | ((following << (np.uint32(31) - shift)) << np.uint32(1))
    return (found & np.uint32((1 << bits) - 1)).astype(np.uint8)


def nibbles(data: bytes | memoryview, *, high_first: bool = False) -> NDArray[np.uint8]:
    """`[2 * n]`: the two halves of every byte, the low one first unless said."""
    stored = np.frombuffer(data, dtype=np.uint8)
    halves = (stored >> 4, stored & 15) if high_first else (stored & 15, stored >> 4)
    return np.stack(halves, axis=-1).reshape(-1)


def spread(values: NDArray[Any], size: int, length: int) -> NDArray[Any]:
    """`[..., length]`: each of `values [..., groups]` repeated over its group of `size`; the last may be short."""
    return np.repeat(values, size, axis=-1)[..., :length]
