"""p-values: right against reference implementations, uniform where nothing is true, and monotone."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats

from provenance.query.statistics.significance import (
    EXPECTED_RELATIVES,
    MIN_BLOCKS,
    adjust_log10_p,
    block_t,
    combine_log10_p,
    empirical_p,
    outlies,
    probability,
    student_log10_p,
    to_p,
    trim,
)

DRAWS = 4000
log10_ps = st.floats(-1e4, 0)
store_sizes = st.integers(1, 10**7)
correlations = st.floats(-1, 1)


ts = st.one_of(st.floats(-10, 10), st.floats(-1e4, 1e4))
degrees = st.one_of(st.integers(1, 60), st.integers(1, 100_000))


@given(ts, degrees)
def test_student_agrees_with_scipy_wherever_a_float_can_hold_the_p_value(t: float, df: int) -> None:
    p = float(special.betainc(df / 2, 0.5, df / (df + t * t)))
    # Near 1 the complement has the digits.
    expected = math.log1p(-float(special.betainc(0.5, df / 2, t * t / (df + t * t)))) if p > 0.5 else to_log(p)
    if p > 1e-290:
        assert student_log10_p(t, df) == pytest.approx(expected / math.log(10), rel=1e-10, abs=1e-150)


def to_log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf


@settings(deadline=None)
@given(st.floats(1, 1e9), st.integers(1, 100_000))
def test_student_agrees_with_many_digits_deep_in_the_tail(t: float, df: int) -> None:
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(50):
        a, x = mpmath.mpf(df) / 2, df / (df + mpmath.mpf(t) ** 2)
        # DLMF 8.17.8
        p = x**a * mpmath.sqrt(1 - x) / (a * mpmath.beta(a, 0.5)) * mpmath.hyp2f1(a + 0.5, 1, a + 1, x)
        expected = float(mpmath.log10(p))
    assert student_log10_p(t, df) == pytest.approx(expected, rel=1e-10)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(1, 2000))
def test_student_falls_with_t_and_is_two_sided(first: float, second: float, df: int) -> None:
    low, high = sorted((first, second))
    assert student_log10_p(low, df) >= student_log10_p(high, df) - 1e-9
    assert student_log10_p(high, df) == student_log10_p(-high, df) <= 0


@pytest.mark.parametrize(("t", "expected"), [(0.0, 0.0), (1e-160, 0.0), (math.inf, -math.inf)])
def test_student_of_nothing_and_of_everything(t: float, expected: float) -> None:
    assert student_log10_p(t, 9) == expected


def independent(rng: np.random.Generator, blocks: int, cells: int) -> NDArray[np.float64]:
    return rng.normal(size=(blocks, cells))


def equal_inside(rng: np.random.Generator, blocks: int, cells: int) -> NDArray[np.float64]:
    """All cells of a block are the same: one observation that looks like many."""
    return np.repeat(rng.normal(size=(blocks, 1)), cells, axis=1)


def mixed_scales(rng: np.random.Generator, blocks: int, cells: int) -> NDArray[np.float64]:
    """Dependent inside a block, and every block on a scale of its own."""
    common = rng.normal(size=(blocks, 1)) + 0.3 * rng.normal(size=(blocks, cells))
    return common * np.exp(0.5 * rng.normal(size=(blocks, 1)))


@pytest.mark.parametrize("draw", [independent, equal_inside])
@pytest.mark.parametrize("blocks", [MIN_BLOCKS, 60])
def test_block_p_values_are_uniform_where_nothing_agrees(
    draw: Callable[[np.random.Generator, int, int], NDArray[np.float64]], blocks: int
) -> None:
    p = null_p_values(draw, blocks)
    for level in (0.5, 0.1, 0.05, 0.01, 0.001):
        low, high = stats.binom.interval(0.9999, DRAWS, level)
        assert low <= (p <= level).sum() <= high
    assert stats.kstest(p, "uniform").pvalue > 1e-4


def test_block_p_values_never_accuse_too_often_where_blocks_differ_in_scale() -> None:
    p = null_p_values(mixed_scales, 20)
    for level in (0.05, 0.01, 0.001):
        assert (p <= level).sum() <= stats.binom.ppf(0.9999, DRAWS, level)


def null_p_values(
    draw: Callable[[np.random.Generator, int, int], NDArray[np.float64]], blocks: int
) -> NDArray[np.float64]:
    rng = np.random.default_rng(11)
    cells = rng.integers(1, 17, blocks)
    found = []
    for _ in range(DRAWS):
        x = draw(rng, blocks, 16) * (np.arange(16) < cells[:, None])
        t, n = block_t(x.sum(axis=1), cells.astype(np.float64))
        found.append(10 ** student_log10_p(t, n - 1))
    return np.array(found)


@given(st.lists(st.floats(-100, 100), min_size=MIN_BLOCKS, max_size=40), st.floats(0.01, 100))
def test_block_t_is_the_one_sample_t_whatever_the_scale(values: list[float], scale: float) -> None:
    sums = np.array(values)
    t, n = block_t(sums * scale, np.ones(len(sums)))
    assert n == len(sums)
    if sums.std() > 1e-3:
        expected = float(stats.ttest_1samp(sums, 0).statistic)
        assert t == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_block_t_ignores_empty_blocks_and_is_silent_with_few() -> None:
    sums, counts = np.arange(1.0, 21.0), np.zeros(20)
    counts[: MIN_BLOCKS - 1] = 4
    assert block_t(sums, counts) == (0.0, MIN_BLOCKS - 1)
    counts[MIN_BLOCKS - 1] = 4
    assert block_t(sums, counts) == pytest.approx(block_t(sums[:MIN_BLOCKS], np.full(MIN_BLOCKS, 4.0)))


def test_blocks_that_agree_exactly_are_strong_and_blocks_of_zeros_are_nothing() -> None:
    t, n = block_t(np.full(12, 3.0), np.ones(12))
    assert t == pytest.approx(1e6 * math.sqrt(12))
    assert n == 12
    assert block_t(np.zeros(12), np.ones(12)) == (0.0, 12)


@given(st.lists(log10_ps, min_size=1, max_size=8), log10_ps)
def test_combining_is_bonferroni(values: list[float], other: float) -> None:
    combined = combine_log10_p(values, len(values))
    assert min(values) <= combined <= 0
    assert combined == pytest.approx(min(0.0, min(values) + math.log10(len(values))))
    assert combine_log10_p([min(other, v) for v in values], len(values)) <= combined
    assert combine_log10_p(values[::-1], len(values)) == combined


def test_no_line_at_all_proves_nothing() -> None:
    assert combine_log10_p([], 4) == 0.0


@given(log10_ps, log10_ps, store_sizes, store_sizes)
def test_adjusting_keeps_the_order_and_grows_with_the_store(first: float, second: float, n: int, m: int) -> None:
    low, high = sorted((first, second))
    few, many = sorted((n, m))
    assert adjust_log10_p(low, n) <= adjust_log10_p(high, n) <= 0
    assert first <= adjust_log10_p(first, few) <= adjust_log10_p(first, many)
    assert adjust_log10_p(first, 0) == adjust_log10_p(first, 1) == first


@given(log10_ps, log10_ps, store_sizes, store_sizes)
def test_probability_is_bounded_and_monotone(first: float, second: float, n: int, m: int) -> None:
    low, high = sorted((first, second))
    few, many = sorted((n, m))
    assert 0 <= probability(high, n) <= probability(low, n) <= 1
    assert probability(first, many) <= probability(first, few)


def test_probability_without_evidence_stays_below_its_prior_and_is_sure_with_much() -> None:
    for n in (1, 10, 1000):
        assert probability(0.0, n) < min(0.5, EXPECTED_RELATIVES / n)
    assert probability(-50.0, 10**6) > 1 - 1e-9


@given(correlations, correlations, st.lists(correlations, min_size=1, max_size=60))
def test_empirical_p_counts_the_scores_at_least_as_high(value: float, other: float, scores: list[float]) -> None:
    background = np.sort(np.array(scores))
    p = empirical_p(value, background)
    assert p == pytest.approx((sum(score >= value for score in scores) + 1) / (len(scores) + 1))
    higher = empirical_p(max(value, other), background)
    assert p is not None
    assert higher is not None
    assert 1 / (len(scores) + 1) <= higher <= p <= 1


@pytest.mark.parametrize(("value", "background"), [(0.5, []), (math.nan, [0.1, 0.2]), (math.inf, [0.1])])
def test_empirical_p_is_null_without_a_background_or_a_score(value: float, background: list[float]) -> None:
    assert empirical_p(value, np.array(background)) is None


@given(st.floats(-5000, 0))
def test_to_p_is_the_power_of_ten_or_zero(log10_p: float) -> None:
    p = to_p(log10_p)
    assert p == (10.0**log10_p if log10_p >= -300 else 0.0)


def background_of(seed: int, n: int = 200) -> NDArray[np.float64]:
    return np.sort(np.tanh(np.random.default_rng(seed).normal(0.1, 0.1, n)))


def test_a_score_far_above_all_strangers_lies_out_of_line() -> None:
    background = background_of(0)
    assert outlies(0.99, background)
    assert not outlies(0.3, background)
    assert not outlies(-0.99, background)


def test_a_handful_of_scores_is_no_background() -> None:
    assert not outlies(0.99, background_of(0, MIN_BLOCKS - 1))


@given(correlations, correlations, st.integers(0, 20))
def test_lying_out_of_line_is_monotone(first: float, second: float, seed: int) -> None:
    low, high = sorted((first, second))
    background = background_of(seed, 40)
    assert outlies(high, background) >= outlies(low, background)


def test_trim_drops_a_few_relatives_and_keeps_the_strangers() -> None:
    strangers = background_of(3)
    found = trim(np.sort(np.concatenate([strangers, [0.97, 0.98, 0.999, 1.0]])))
    np.testing.assert_array_equal(found, strangers)
    assert len(trim(np.zeros(0))) == 0
