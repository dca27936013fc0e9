"""Weights of a blend, their errors and what is lost without a parent, against plain regressions and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from provenance.query.statistics.blend import compare_sets, estimate, inner_products, mix, pull

Array = NDArray[np.float64]
GROUPS, CELLS = 24, 60
OWNER = np.repeat(np.arange(GROUPS), CELLS)


def differences(seed: int, weights: list[float], noise: float, strangers: int = 0) -> Array:
    """Differences of parents, and of further siblings, from their blend with noise: `[k, C]`."""
    rng = np.random.default_rng(seed)
    changes = rng.normal(size=(len(weights) + strangers, GROUPS * CELLS))
    blend = np.array(weights) @ changes[: len(weights)] + noise * rng.normal(size=GROUPS * CELLS)
    return changes - blend


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(2, 5), st.floats(0.05, 1.0))
def test_estimates_are_those_of_least_squares(seed: int, k: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(k))
    change = differences(seed, weights.tolist(), noise)
    found = estimate(inner_products(change, OWNER), range(k))
    # M - X_last on the X_i - X_last, with the blend M at 0.
    plain, *_ = np.linalg.lstsq((change[:-1] - change[-1]).T, -change[-1])
    np.testing.assert_allclose(found.weights[:-1], plain, atol=1e-8)
    assert found.weights.sum() == pytest.approx(1)


def test_the_true_weight_lies_within_its_error() -> None:
    misses = []
    for seed in range(60):
        found = estimate(inner_products(differences(seed, [0.3, 0.7], 0.6), OWNER), [0, 1])
        misses.append((found.weights[0] - 0.3) / found.errors[0])
    assert 0.7 < np.std(misses) < 1.4
    assert abs(np.mean(misses)) < 0.5


def test_a_parent_is_significant_and_a_sibling_is_not() -> None:
    found = estimate(inner_products(differences(1, [0.5, 0.5], 0.6, strangers=2), OWNER), [0, 1, 2, 3])
    assert found.log10_p[:2].max() < -10
    assert found.log10_p[2:].min() > -3


def test_null_p_values_keep_their_level() -> None:
    small = 0
    for seed in range(200):
        change = differences(1000 + seed, [0.5, 0.5], 0.6, strangers=1)
        small += estimate(inner_products(change, OWNER), [0, 1, 2]).log10_p[2] <= np.log10(0.05)
    assert small <= 20


def test_changes_of_a_base_by_its_children_do_not_pull() -> None:
    """Seen from the base, where the differences are independent, each leaves as much as it adds."""
    change = np.random.default_rng(3).normal(size=(4, 5_000)) * np.array([[1.0], [0.5], [2.0], [1.5]])
    gram = change @ change.T
    assert pull(gram, mix(gram, range(4))).min() > 0.9
    merged = differences(4, [0.25] * 4, 0.2)
    gram = merged @ merged.T
    shares = mix(gram, range(4))
    assert shares == pytest.approx([0.25] * 4, abs=0.02)
    assert pull(gram, shares).max() < 0.5


def test_a_set_with_a_near_copy_explains_as_much_and_one_with_a_sibling_does_not() -> None:
    change = differences(5, [0.5, 0.5], 0.5, strangers=1)
    copy = change[:1] + 0.001 * np.random.default_rng(6).normal(size=change.shape[1])
    grams = inner_products(np.concatenate([change, copy]), OWNER)
    assert abs(compare_sets(grams, [0, 1], [3, 1])) < 3
    assert compare_sets(grams, [0, 1], [2, 1]) > 10


def test_copies_share_a_weight_without_an_error() -> None:
    change = differences(7, [0.4, 0.6], 0.0)
    both = np.concatenate([change, change[:1]])
    assert mix(both @ both.T, range(3)).sum() == pytest.approx(1)
    assert np.isfinite(estimate(inner_products(both, OWNER), range(3)).errors).all()
