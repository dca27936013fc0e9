"""Sampled layer matrices of a checkpoint as a grid: one row per layer, one column per (role, cell).

A cell has the same column in every grid. So layer 4 of one checkpoint can be compared with layer 7 of another, a dense
feed-forward block with expert 0, and a pruned matrix with its parent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from provenance.indexer.dossier import Dossier
from provenance.schemas.roles import ROLE_CODE, Role
from provenance.schemas.sampling import N_TILES, OFFSETS, SEQUENCE_LENGTH, TILE, sequence

_SIDE = OFFSETS[-1] + TILE
_RESIDUAL_OUT = np.array([ROLE_CODE[Role.OUTPUT], ROLE_CODE[Role.DOWN]])


@dataclass(frozen=True)
class Grid:
    """The sample cells of the layer matrices of one checkpoint.

    Attributes:
        layers: `[L]` layer numbers.
        columns: `[K]` increasing keys, role code * 400 + position in the sampling sequence.
        weights: `[L, K]` weights, zero where `mask` is not set.
        standard: `[L, K]` weights centred and scaled per matrix.
        mask: `[L, K]` which cells exist.
    """

    layers: NDArray[np.int64]
    columns: NDArray[np.int64]
    weights: NDArray[np.float64]
    standard: NDArray[np.float64]
    mask: NDArray[np.bool_]

    @cached_property
    def held(self) -> NDArray[np.bool_]:
        """`[L, role codes]`: the matrices of which there are cells; what is missing or not finite has none."""
        found = np.zeros((len(self.layers), len(ROLE_CODE) + 1), np.bool_)
        for code in np.unique(matrices(self.columns)):
            found[:, code] = self.mask[:, matrices(self.columns) == code].any(axis=1)
        return found


def grid_of(dossier: Dossier) -> Grid:
    """The grid of a checkpoint; expert 0 is used where a layer has no dense matrix, other experts are not."""
    cells = dossier.matrices
    facts = cells.facts
    dense = {(int(f["role"]), int(f["layer"])) for f in facts if f["expert"] < 0}
    chosen = np.array(
        [f["expert"] < 0 or (f["expert"] == 0 and (int(f["role"]), int(f["layer"])) not in dense) for f in facts],
        dtype=np.bool_,
    )
    keep = chosen[cells.owner] if len(facts) else np.zeros(0, np.bool_)
    owner = cells.owner[keep]
    # A layer of which no cell is finite is a layer still.
    layers = np.unique(facts["layer"][chosen].astype(np.int64))
    row = np.searchsorted(layers, facts["layer"].astype(np.int64)[owner])
    keys = facts["role"].astype(np.int64)[owner] * SEQUENCE_LENGTH + cells.position[keep]
    columns, column = np.unique(keys, return_inverse=True)
    shape = (len(layers), len(columns))
    weights, standard, mask = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.bool_)
    weights[row, column] = cells.weights[keep]
    standard[row, column] = cells.standardised()[keep]
    mask[row, column] = True
    return Grid(layers, columns, weights, standard, mask)


def common_columns(a: Grid, b: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Keys that both grids have, and their column numbers in `a` and in `b`."""
    common: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] = np.intersect1d(
        a.columns, b.columns, assume_unique=True, return_indices=True
    )
    return common


def tiles(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for the role and tile of each column."""
    tile: NDArray[np.int64] = columns // SEQUENCE_LENGTH * N_TILES + sequence()[columns % SEQUENCE_LENGTH, 0]
    return tile


def matrices(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Role code of each column."""
    return columns // SEQUENCE_LENGTH


def channels(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The residual channel of each column's cell: its row in o and down, its column in other matrices."""
    cells = sequence()[columns % SEQUENCE_LENGTH]
    return np.where(np.isin(columns // SEQUENCE_LENGTH, _RESIDUAL_OUT), cells[:, 1], cells[:, 2])


def units(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for the role and inner unit (row of a head, neuron) of each column's cell.

    The unit is the cell's column in o and down, its row in other matrices.
    """
    role, cells = columns // SEQUENCE_LENGTH, sequence()[columns % SEQUENCE_LENGTH]
    return role * _SIDE + np.where(np.isin(role, _RESIDUAL_OUT), cells[:, 2], cells[:, 1])


def group_sums(values: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum the columns of `values` `[L, K]` by group `[K]` -> `[L, number of groups]`."""
    labels, where = np.unique(groups, return_inverse=True)
    order = np.argsort(where, kind="stable")
    starts = np.searchsorted(where[order], np.arange(len(labels)))
    sums: NDArray[np.float64] = np.add.reduceat(values[:, order], starts, axis=1)
    return sums
