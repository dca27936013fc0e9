"""Non-negative least squares against scipy's, and by the conditions that every minimum meets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize

from provenance.query.statistics.nnls import nnls

Matrix = NDArray[np.float64]
KINDS = ("random", "correlated", "copies", "nearly-copies", "zero-columns", "scales")
TARGETS = ("inside", "noisy", "anywhere", "opposite", "zero")


def system(seed: int, rows: int, columns: int, kind: str, target: str) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(rows, columns))
    if kind == "correlated":  # as the changes of siblings are
        a = 0.3 * a + rng.normal(size=(rows, 1))
    elif kind == "copies":
        a[:, -1] = a[:, 0]
    elif kind == "nearly-copies":
        a[:, -1] = a[:, 0] * (1 + 1e-12) + 1e-13 * a[:, -1]
    elif kind == "zero-columns":
        a[:, rng.integers(columns)] = 0
    elif kind == "scales":
        a *= 10.0 ** rng.uniform(-8, 8, columns)
    weights = np.where(rng.random(columns) < 0.5, rng.random(columns), 0.0) / np.maximum(np.linalg.norm(a, axis=0), 1)
    b = {
        "inside": a @ weights,
        "noisy": a @ weights + 0.1 * rng.normal(size=rows),
        "anywhere": rng.normal(size=rows),
        "opposite": -a @ np.ones(columns),
        "zero": np.zeros(rows),
    }[target]
    return a, b


systems = st.builds(
    system,
    st.integers(0, 2**32 - 1),
    st.integers(20, 400),
    st.integers(2, 20),
    st.sampled_from(KINDS),
    st.sampled_from(TARGETS),
)


@settings(max_examples=300)
@given(systems)
@example(system(0, 30, 20, "nearly-copies", "anywhere"))
def test_meets_the_conditions_of_a_minimum(both: tuple[Matrix, Matrix]) -> None:
    """Karush, Kuhn and Tucker: no weight is negative, no slope points up, and none at a weight in use."""
    a, b = both
    x, residual = nnls(a, b)
    assert (x >= 0).all()
    assert residual == pytest.approx(np.linalg.norm(a @ x - b), abs=1e-12 * max(1.0, float(np.linalg.norm(b))))
    lengths = np.maximum(np.linalg.norm(a, axis=0), 1e-300)
    slopes = a.T @ (b - a @ x) / lengths / max(float(np.linalg.norm(b)), 1e-300)  # cosines, so to say
    assert slopes.max() <= 1e-11
    assert np.abs(slopes[x > 0]).max(initial=0) <= 1e-11


@settings(max_examples=200)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(60, 400),
    st.integers(2, 20),
    st.sampled_from(["random", "correlated", "scales"]),
    st.sampled_from(TARGETS),
)
def test_is_what_scipy_finds(seed: int, rows: int, columns: int, kind: str, target: str) -> None:
    a, b = system(seed, rows, columns, kind, target)
    x, residual = nnls(a, b)
    theirs, left = optimize.nnls(a, b)
    lengths = np.linalg.norm(a, axis=0)
    np.testing.assert_allclose(x * lengths, theirs * lengths, rtol=1e-8, atol=1e-8 * max(np.linalg.norm(b), 1e-300))
    assert residual == pytest.approx(left, rel=1e-8, abs=1e-8 * max(float(np.linalg.norm(b)), 1e-300))


def test_fewer_rows_than_columns() -> None:
    a = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]])
    x, residual = nnls(a, np.array([3.0, 1.0]))
    assert residual == pytest.approx(0, abs=1e-14)
    np.testing.assert_allclose(a @ x, [3, 1], atol=1e-14)


def test_exact_weights_of_a_merge() -> None:
    rng = np.random.default_rng(7)
    changes = rng.normal(size=(10_000, 3))
    x, residual = nnls(changes, changes @ [0.3, 0.0, 0.5])
    np.testing.assert_allclose(x, [0.3, 0, 0.5], atol=1e-14)
    assert residual < 1e-10
