"""What sketches of products say of two checkpoints: strangers, copies, other depths, and how much chance may claim."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from provenance.query.statistics.products import (
    agreement,
    align,
    binomial_log10_tail,
    compare_products,
    correlations,
)
from provenance.schemas.products import ProductSketch

K = 16


def sketch(seed: int, layers: int = 12, drift: float = 0.0) -> ProductSketch:
    """Sketches of independent layers; with `drift` neighbouring layers resemble each other, in all models alike."""
    rng, common = np.random.default_rng(seed), np.random.default_rng(0)
    ends = common.normal(size=(2, 2, K, K))
    depth = np.linspace(0, 1, layers)[:, None, None]
    found = [rng.normal(size=(layers, K, K)) + drift * ((1 - depth) * first + depth * last) for first, last in ends]
    return ProductSketch(tuple(range(layers)), *(each.astype(np.float32) for each in found), tuple(range(K)))


def changed(origin: ProductSketch, seed: int, noise: float, layers: NDArray[np.int64] | None = None) -> ProductSketch:
    rng = np.random.default_rng(seed)
    keep = np.arange(len(origin.layers)) if layers is None else layers
    vo, fu = (
        (each[keep] + rng.normal(0, noise, (len(keep), K, K))).astype(np.float32) for each in (origin.vo, origin.fu)
    )
    return ProductSketch(tuple(range(len(keep))), vo, fu, origin.anchors)


def test_a_noisy_copy_convicts_and_a_stranger_does_not() -> None:
    origin = sketch(1)
    match = compare_products(origin, changed(origin, 2, 0.5))
    assert match.vo is not None
    assert match.vo.agreeing == match.vo.layers == 12
    assert match.vo.shifted == 0
    assert match.vo.value == pytest.approx(1 / math.sqrt(1.25), abs=0.03)
    assert match.vo.log10_p == pytest.approx(-12 * math.log10(12))
    assert match.log10_p == pytest.approx(-12 * math.log10(12) + math.log10(2))
    assert match.convicts(100_000, 1e-3)
    assert not match.convicts(10**10, 1e-3)
    assert not compare_products(origin, sketch(3)).convicts(1, 1e-3)


def test_a_correlation_too_small_to_matter_does_not_convict() -> None:
    origin = sketch(1, 40)
    match = compare_products(origin, changed(origin, 2, 2.5))
    assert match.log10_p < -20
    assert match.best is not None
    assert match.best.value < 0.5
    assert not match.convicts(1, 1e-3)


def test_too_few_layers_do_not_convict() -> None:
    for layers, convicts in ((5, False), (6, True)):
        origin = sketch(1, layers)
        match = compare_products(origin, origin)
        assert match.best is not None
        assert match.best.value == pytest.approx(1)
        assert match.log10_p < -3
        assert match.convicts(1, 1e-3) is convicts


def test_one_product_is_enough() -> None:
    origin, other = sketch(1), sketch(2)
    mixed = ProductSketch(origin.layers, other.vo, origin.fu, origin.anchors)
    match = compare_products(origin, mixed)
    assert match.best == match.fu
    assert match.convicts(1000, 1e-3)


@pytest.mark.parametrize("drift", [0.0, 2.0])
@pytest.mark.parametrize("depths", [(12, 12), (12, 9), (32, 32), (24, 32)])
def test_p_values_of_strangers_hold(drift: float, depths: tuple[int, int]) -> None:
    """Also where early layers of all models resemble each other, and late ones."""
    first = [sketch(100 + i, depths[0], drift) for i in range(20)]
    second = [sketch(200 + i, depths[1], drift) for i in range(20)]
    ps = np.array([10 ** compare_products(a, b).log10_p for a in first for b in second])
    assert (ps <= 0.05).mean() <= 0.05
    assert (ps <= 0.01).mean() <= 0.015
    assert (ps <= 0.001).mean() <= 0.005


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param(np.r_[0:4, 7:12], id="layers dropped"),
        pytest.param(np.r_[0:10, 4:12], id="layers repeated"),
    ],
)
def test_other_depths_are_aligned(layers: NDArray[np.int64]) -> None:
    origin = sketch(1)
    match = compare_products(origin, changed(origin, 2, 0.3, layers))
    assert match.convicts(1000, 1e-3)
    assert match.vo is not None
    assert match.vo.value > 0.9


def test_exactly_repeated_layers_share_their_chance() -> None:
    origin = sketch(1)
    match = compare_products(origin, changed(origin, 2, 0.0, np.r_[0:8, 4:12]))
    assert match.vo is not None
    assert match.vo.agreeing == match.vo.layers == 12
    # Of 16 columns 4 rows find two that are equal to their own.
    assert match.vo.chance == pytest.approx((8 * 1 + 4 * 2) / (12 * 16))


def test_equal_layers_prove_nothing() -> None:
    same = np.repeat(sketch(1, 1).vo, 12, axis=0)
    tied = ProductSketch(tuple(range(12)), same, same, tuple(range(K)))
    match = compare_products(tied, tied)
    assert match.log10_p == 0
    assert not match.convicts(1, 1e-3)


def test_layers_moved_round_do_not_agree_with_their_own() -> None:
    origin = sketch(1)
    match = compare_products(origin, changed(origin, 2, 0.1, np.roll(np.arange(12), 1)))
    assert match.vo is not None
    assert (match.vo.agreeing, match.vo.shifted, match.vo.chance) == (0, 12, 1.0)
    assert match.log10_p == 0


@pytest.mark.parametrize("layers", [12, 9])
def test_order_of_the_pair_does_not_matter(layers: int) -> None:
    origin = sketch(1)
    other = changed(origin, 2, 1.0, np.arange(layers))
    assert compare_products(origin, other) == compare_products(other, origin)


def test_layers_without_a_sketch_take_no_part() -> None:
    origin = sketch(1)
    gap = changed(origin, 2, 0.3)
    gap.vo[3], gap.fu[:] = np.nan, np.nan
    match = compare_products(origin, gap)
    assert match.fu is None
    assert match.vo is not None
    assert match.vo.layers == match.vo.agreeing == 11
    # One line of two that might have spoken.
    assert match.log10_p == pytest.approx(match.vo.log10_p + math.log10(2))
    nothing = ProductSketch(gap.layers, gap.fu, gap.fu, gap.anchors)
    assert compare_products(origin, nothing).best is None
    assert compare_products(origin, nothing).log10_p == 0
    assert not compare_products(origin, nothing).convicts(1, 1e-3)


def test_depths_that_differ_need_both_products() -> None:
    """An alignment may not be judged by the product that it was fitted to."""
    origin = sketch(1)
    short = changed(origin, 2, 0.1, np.arange(9))
    short.fu[:] = np.nan
    match = compare_products(origin, short)
    assert match.vo is None
    assert match.fu is None


def test_sketches_of_other_anchors_are_refused() -> None:
    few = ProductSketch((0,), np.ones((1, 4, 4), np.float32), np.ones((1, 4, 4), np.float32), (1, 2, 3, 4))
    with pytest.raises(ValueError, match="sketches of 4 and of 16 anchors"):
        compare_products(few, sketch(1))


def test_correlations_are_pearsons() -> None:
    a, b = sketch(1, 3).vo, sketch(2, 4).vo
    expected = np.corrcoef(a.reshape(3, -1), b.reshape(4, -1))[:3, 3:]
    np.testing.assert_allclose(correlations(a, b), expected, atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 6))
def test_alignment_is_the_best_of_all_monotone_ones(seed: int, rows: int, columns: int) -> None:
    table = np.random.default_rng(seed).normal(size=(rows, columns))
    pairs = align(table)
    assert (np.diff(pairs, axis=0) > 0).all()
    best = max(
        sum(table[i, j] for i, j in zip(left, right, strict=True))
        for n in range(min(rows, columns) + 1)
        for left in combinations(range(rows), n)
        for right in combinations(range(columns), n)
    )
    assert sum(table[i, j] for i, j in pairs) == pytest.approx(best)


@given(st.integers(1, 80), st.data())
def test_binomial_tail_is_exact(n: int, data: st.DataObject) -> None:
    k, chance = data.draw(st.integers(0, n)), data.draw(st.floats(0.01, 0.99))
    assert binomial_log10_tail(n, k, chance) == pytest.approx(binom.logsf(k - 1, n, chance) / math.log(10), abs=1e-8)


def test_binomial_tail_goes_where_floats_do_not() -> None:
    assert binomial_log10_tail(400, 400, 1 / 400) == pytest.approx(-400 * math.log10(400))
    assert binomial_log10_tail(5, 0, 0.2) == 0
    assert binomial_log10_tail(5, 3, 1.0) == 0


def test_no_pair_is_no_agreement() -> None:
    assert agreement(np.full((3, 3), np.nan), np.array([[0, 0]])) is None
    assert agreement(np.ones((3, 3)), np.empty((0, 2), np.int64)) is None
