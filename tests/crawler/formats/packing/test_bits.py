"""Numbers out of words, against one large integer that holds all bits."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from provenance.crawler.formats.packing.bits import nibbles, spread, unpack_stream, unpack_words
from tests.support.packed import bits_to_words


@given(st.integers(1, 8), st.integers(1, 5), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_a_stream_is_read_from_any_number_on(bits: int, groups: int, skip: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 2**bits, 32 * groups)
    words = np.array([bits_to_words(numbers.tolist(), bits)], dtype=np.uint32)
    skip = min(skip, len(numbers) - 1)
    found = unpack_stream(words, bits, len(numbers) - skip, skip * bits)
    assert found.tolist() == [numbers[skip:].tolist()]


@given(st.integers(1, 8), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6))
def test_words_hold_whole_numbers_only(bits: int, words: list[int]) -> None:
    wanted = [(word >> shift) % 2**bits for word in words for shift in range(0, 32 - bits + 1, bits)]
    assert unpack_words(np.array(words, dtype=np.uint32), bits).tolist() == wanted


@given(st.binary(min_size=1, max_size=20))
def test_halves_of_bytes(data: bytes) -> None:
    assert nibbles(data).tolist() == [half for byte in data for half in (byte % 16, byte // 16)]
    assert nibbles(data, high_first=True).tolist() == [half for byte in data for half in (byte // 16, byte % 16)]


def test_the_last_group_may_be_short() -> None:
    assert spread(np.array([[1, 2, 3]]), 4, 10).tolist() == [[1, 1, 1, 1, 2, 2, 2, 2, 3, 3]]
