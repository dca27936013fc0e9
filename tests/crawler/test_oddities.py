"""Weights without anything to compare are noted, and have no digest that strangers could share."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import Tensors, llama
from tests.support.dossiers import dossier


def filled(seed: int, value: float, where: str = ".layers.1.") -> Tensors:
    return {name: np.full_like(t, value) if where in name else t for name, t in llama(seed, layers=3).items()}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "holds nothing but NaN or infinities"),
        (np.inf, "holds nothing but NaN or infinities"),
        (0.0, "is all zero"),
        (1.0, "has one value in all its cells"),
    ],
)
def test_a_layer_without_information_is_noted(value: float, words: str) -> None:
    (note,) = dossier(filled(1, value)).meta.notes
    assert note.startswith("values: model.layers.1.")
    assert note.endswith(f"more {words}")


def test_some_values_that_are_not_finite() -> None:
    tensors = llama(1, layers=3)
    tensors["model.layers.0.mlp.up_proj.weight"][3] = np.nan
    (note,) = dossier(tensors).meta.notes
    assert note == "values: model.layers.0.mlp.up_proj.weight holds some NaN or infinities"
    assert dossier(llama(1, layers=3)).meta.notes == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1.0])
def test_two_strangers_full_of_one_value_share_no_digest(value: float) -> None:
    assert not dossier(filled(1, value, "")).facts["digest"].any()
