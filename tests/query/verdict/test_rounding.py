"""Rounding is told by repeated values, as far as the distance allows, and by the shape of the change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from provenance.indexer.dossier import Dossier
from provenance.query.verdict.rounding import is_rounding, repeated_values, rounded_from
from tests.conftest import Tensors, llama, trained
from tests.support.dossiers import dossier, mapped, pair_of, rounded

ROOT = llama(1)


def pruned() -> Dossier:
    return dossier(mapped(ROOT, lambda _, t: np.where(np.abs(t) < np.median(np.abs(t)), 0, t)))


def test_rounding_repeats_values_and_training_does_not() -> None:
    assert repeated_values(dossier(ROOT)) < 0.01
    assert repeated_values(dossier(mapped(ROOT, rounded(127)))) > 0.02
    assert repeated_values(dossier(mapped(ROOT, rounded(7)))) > 0.1
    # Zeros are no rounding.
    assert repeated_values(pruned()) < 0.01


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 2))
def test_the_pair_turned_round_says_the_opposite(one: float, other: float, distance: float) -> None:
    assert rounded_from(one, other, distance) == -rounded_from(other, one, distance)


def test_a_model_that_was_trained_after_rounding_is_too_far_away() -> None:
    plain, coarse = 0.001, 0.1
    assert rounded_from(plain, coarse, 0.002) == 1
    assert rounded_from(plain, coarse, 0.1) == 0


def float8(_: str, tensor: NDArray[Any]) -> NDArray[Any]:
    """Four binary digits of every weight."""
    fraction, exponent = np.frexp(tensor)
    return np.ldexp(np.round(fraction * 16) / 16, exponent)


def fixed(_: str, tensor: NDArray[Any]) -> NDArray[Any]:
    """One step for the whole matrix."""
    step = np.abs(tensor).max() / 15
    return np.round(tensor / step) * step


@pytest.mark.parametrize(
    ("child", "expected"),
    [(mapped(ROOT, float8), True), (mapped(ROOT, fixed), True), (trained(ROOT, 3, 0.1), False)],
    ids=["float8", "one step", "trained"],
)
def test_the_shape_of_a_change(child: Tensors, expected: bool) -> None:
    found = pair_of(child, ROOT).slopes
    assert found is not None
    assert is_rounding(found) == expected
