"""The rank of a change, told from sampled cells: merged LoRAs against changes of full rank."""

from __future__ import annotations

import numpy as np
import pytest

from provenance.query.changes.rank import low_rank
from provenance.schemas.roles import Role
from provenance.schemas.sampling import matrix_cells, sequence

SIDE, LAYERS = 96, 5


def sampled(changes: list[np.ndarray], count: int = 400) -> tuple[int | None, int | None]:
    """The answer about matrices that changed so, of which the first cells of the sequence are known."""
    rng = np.random.default_rng(0)
    positions = matrix_cells((SIDE, SIDE), Role.QUERY)[:count]
    rows, columns = sequence()[positions, 1], sequence()[positions, 2]
    before, after = [], []
    for change in changes:
        base = rng.normal(0, 0.02, (SIDE, SIDE))
        before.append(base[rows, columns])
        after.append((base + change)[rows, columns])
    layers = np.repeat(np.arange(len(changes)), len(positions))
    return low_rank(np.concatenate(before), np.concatenate(after), layers, np.tile(positions, len(changes)))


def of_rank(rank: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(0.002 * rng.normal(size=(SIDE, rank)) @ rng.normal(size=(rank, SIDE)))


@pytest.mark.parametrize("rank", [1, 2, 4, 6])
def test_low_ranks_are_counted(rank: int) -> None:
    assert sampled([of_rank(rank, seed) for seed in range(LAYERS)]) == (rank, 12)


def test_full_rank_is_not_low() -> None:
    assert sampled([0.003 * np.random.default_rng(n).normal(size=(SIDE, SIDE)) for n in range(LAYERS)]) == (None, 12)


def test_a_short_sample_shows_less() -> None:
    rank, limit = sampled([of_rank(1, seed) for seed in range(LAYERS)], count=9)
    assert (rank, limit) == (1, 3)
    assert sampled([of_rank(4, seed) for seed in range(LAYERS)], count=9)[0] is None


def test_rounding_alone_has_no_rank() -> None:
    tiny = [1e-6 * np.random.default_rng(n).normal(size=(SIDE, SIDE)) for n in range(LAYERS)]
    assert sampled(tiny)[0] is None


def test_nothing_changed() -> None:
    assert sampled([np.zeros((SIDE, SIDE))] * LAYERS) == (None, None)
    assert low_rank(np.zeros(0), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64)) == (None, None)
