"""The best path through the layers of several sources, against all paths of small cases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from provenance.query.statistics.layer_path import JUMP, SAME_LAYER, Run, best_path, closeness

State = tuple[int, int] | None
Tables = dict[int, NDArray[np.float64]]


def score(way: Sequence[State], tables: Tables) -> float:
    """What a path is worth: one state a layer, or none, and a price for every break."""
    total = 0.0
    for layer, at in enumerate(way):
        if at is not None:
            correlation = tables[at[0]][layer, at[1]]
            total += float(closeness(correlation)) if correlation >= SAME_LAYER else -np.inf
    for before, after in pairwise(way):
        stays = before is None and after is None
        follows = before is not None and after == (before[0], before[1] + 1)
        total -= 0 if stays or follows else JUMP
    return total


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2))
def test_no_path_is_better(seed: int, depth: int, first: int, second: int) -> None:
    rng = np.random.default_rng(seed)
    tables = {7: rng.uniform(-0.2, 1, (depth, first)), 3: rng.uniform(-0.2, 1, (depth, second))}
    path = best_path(tables)
    way: list[State] = [None] * depth
    for run in path.runs:
        for n in range(len(run)):
            way[run.first + n] = (run.source, run.start + n)
    states: list[State] = [(source, layer) for source, table in tables.items() for layer in range(table.shape[1])]
    assert score(way, tables) == pytest.approx(
        max(score(other, tables) for other in product([*states, None], repeat=depth))
    )


def exact(*layers: int, of: int = 6) -> NDArray[np.float64]:
    table = np.full((len(layers), of), 0.02)
    for row, layer in enumerate(layers):
        if layer >= 0:
            table[row, layer] = 0.99
    return table


def test_repeated_and_dropped_layers_are_runs() -> None:
    assert best_path({0: exact(0, 1, 2, 3, 2, 3, 4, 5)}).runs == (Run(0, 0, 3, 0), Run(0, 4, 7, 2))
    assert best_path({0: exact(0, 1, 4, 5)}).runs == (Run(0, 0, 1, 0), Run(0, 2, 3, 4))


def test_layers_of_two_sources_are_told_apart_and_strange_ones_left_out() -> None:
    path = best_path({4: exact(0, 1, -1, -1, -1), 9: exact(-1, -1, 3, 4, -1)})
    assert path.runs == (Run(4, 0, 1, 0), Run(9, 2, 3, 3))
    assert path.worth[4] == 0


def test_of_equal_sources_the_smaller_one_is_taken() -> None:
    assert best_path({1: exact(0, 1, 2, of=9), 2: exact(0, 1, 2)}).runs == (Run(2, 0, 2, 0),)


def test_nothing_to_choose_from() -> None:
    assert best_path({}).runs == ()
    assert best_path({0: np.zeros((3, 0))}).runs == ()
