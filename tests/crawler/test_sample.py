"""Sampled weights as float16 under a power of two come back, whatever their size."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from provenance.crawler.sample import to_scaled_half

bit_patterns = st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=60)


@given(bit_patterns)
def test_bfloat16_weights_come_back_exactly(patterns: list[int]) -> None:
    values = (np.array(patterns, dtype=np.uint32) << 16).view(np.float32)
    exponent, half = to_scaled_half(values)  # signalling NaNs among them
    back = np.ldexp(half.astype(np.float64), exponent)
    finite = np.isfinite(values)
    assert half.dtype == np.float16
    assert np.isnan(half[~finite]).all()
    assert np.isfinite(half[finite]).all()
    size = np.abs(values[finite].astype(np.float64))
    peak = size.max(initial=0)
    large = size >= peak * 2**-24
    np.testing.assert_array_equal(back[finite][large], values[finite][large])
    assert (np.abs(back[finite] - values[finite]) <= peak * 2**-38).all()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
def test_float64_weights_of_any_size_come_back_to_eleven_bits(weights: list[float]) -> None:
    values = np.array(weights)
    exponent, half = to_scaled_half(values)
    peak = float(np.abs(values).max())
    # In units of the peak, for the largest float64 times two is none any more.
    unit = np.frexp(peak)[1]
    back = np.ldexp(half.astype(np.float64), exponent - unit)
    wanted = np.ldexp(values, -unit)
    assert (np.abs(back - wanted) <= np.abs(wanted) * 2**-11 + 2.0**-39).all()


def test_nothing_to_scale() -> None:
    assert to_scaled_half(np.zeros(3))[0] == 0
    exponent, half = to_scaled_half(np.array([np.nan, np.inf]))
    assert exponent == 0
    assert np.isnan(half).all()
