"""What was done to the weights of a parent: the change of each role, layer by layer, over the cells that both hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from provenance.indexer.dossier import Cells, Dossier
from provenance.query.changes.rank import low_rank
from provenance.query.evidence.pair import Pair
from provenance.query.verdict.rounding import repeated_values
from provenance.schemas.comparison import RoleChange
from provenance.schemas.roles import LAYER_MATRICES, ROLE_CODE, VECTORS, Role

_MOMENTS = ("mean", "std", "skewness", "kurtosis")

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Change:
    """Cells of corresponding tensors of one role.

    Attributes:
        before: `[n]` weights of the parent; `after` of the child.
        layer: `[n]` the child's layer.
        position: `[n]` in the sampling sequence.
    """

    before: Array
    after: Array
    layer: Codes
    position: Codes


def role_changes(pair: Pair) -> list[RoleChange]:
    """The change of every role from the candidate `b` to the model `a`, in the order of the roles.

    Layers correspond as `Pair.layers` says. Embeddings and heads have no sampled cells: of them only rows and equality
    of their digests are known.
    """
    found = []
    for role in (Role.EMBEDDING, *LAYER_MATRICES, *VECTORS, Role.HEAD):
        change = cells_of(pair, role)
        facts = [_facts(one.dossier, role) for one in (pair.a, pair.b)]
        if all(map(len, facts)):
            found.append(_row(pair, role, change, facts[0], facts[1]))
    return found


def cells_of(pair: Pair, role: Role) -> Change:
    """Cells that corresponding tensors of one role have in both checkpoints; experts but the first are left out."""
    rows_a, rows_b = pair.layers
    partner = {int(pair.b.grid.layers[j]): int(pair.a.grid.layers[i]) for i, j in zip(rows_a, rows_b, strict=True)}
    partner[-1] = -1
    after, before = (_cells(one.dossier, role) for one in (pair.a, pair.b))
    known = np.array([partner.get(int(layer), -2) for layer in before.facts["layer"]], np.int64)
    own = _keys(after, after.facts["layer"].astype(np.int64))
    _, first, second = np.intersect1d(own, _keys(before, known), return_indices=True)
    layer = after.facts["layer"].astype(np.int64)[after.owner[first]] if len(first) else np.zeros(0, np.int64)
    return Change(before.weights[second], after.weights[first], layer, after.position[first])


def _row(pair: Pair, role: Role, change: Change, after: NDArray[np.void], before: NDArray[np.void]) -> RoleChange:
    layers = np.unique(change.layer)
    energy, same = [], []
    for layer in layers:
        here = change.layer == layer
        moved, size = change.after[here] - change.before[here], change.before[here]
        total = float(np.mean(size**2))
        energy.append(float(np.mean(moved**2)) / total if total > 0 else None)
        same.append(bool((moved == 0).all()))
    rank, largest = None, None
    if role in LAYER_MATRICES:
        rank, largest = low_rank(change.before, change.after, change.layer, change.position)
    sampled = len(change.before) > 0
    known = [value for value in energy if value is not None]
    return RoleChange(
        role=role.value,
        layers=tuple(map(int, layers)),
        unchanged=tuple(int(layer) for layer, equal_here in zip(layers, same, strict=True) if equal_here),
        equal=all(same) if sampled else _equal(after, before),
        energy=float(np.mean(known)) if known else None,
        energies=tuple(energy),
        rank=rank,
        rank_limit=largest,
        zeros=float(np.mean(change.after == 0)) if sampled else None,
        zeros_before=float(np.mean(change.before == 0)) if sampled else None,
        repeats=_repeats(pair.a.dossier, role) if role in LAYER_MATRICES else None,
        repeats_before=_repeats(pair.b.dossier, role) if role in LAYER_MATRICES else None,
        new_rows=int(after["rows"].max()) - int(before["rows"].max()),
        new_columns=int(after["columns"].max()) - int(before["columns"].max()),
    )


def _equal(after: NDArray[np.void], before: NDArray[np.void]) -> bool | None:
    """Whether tensors without sampled cells are equal, by their digests or moments; null where not all was read."""
    if len(after) != len(before) or any((after[name] != before[name]).any() for name in ("rows", "columns")):
        return False
    if (after["digest"] != 0).all() and (before["digest"] != 0).all():
        return bool((after["digest"] == before["digest"]).all())
    if (after["std_error"] != 0).any() or (before["std_error"] != 0).any():
        return None
    return all(bool(np.array_equal(after[name], before[name], equal_nan=True)) for name in _MOMENTS)


def _facts(dossier: Dossier, role: Role) -> NDArray[np.void]:
    facts: NDArray[np.void] = dossier.facts[(dossier.facts["role"] == ROLE_CODE[role]) & (dossier.facts["expert"] <= 0)]
    return facts


def _cells(dossier: Dossier, role: Role) -> Cells:
    cells = dossier.vectors if role in VECTORS else dossier.matrices
    chosen = (cells.facts["role"] == ROLE_CODE[role]) & (cells.facts["expert"] <= 0)
    keep = chosen[cells.owner] if len(cells.facts) else np.zeros(0, np.bool_)
    return Cells(cells.facts, cells.owner[keep], cells.position[keep], cells.weights[keep])


def _keys(cells: Cells, layer: Codes) -> Codes:
    if not len(cells.owner):
        return np.zeros(0, np.int64)
    keys: Codes = (layer[cells.owner] + 2) * 65_536 + cells.position
    # Layers without a partner have no keys of their own.
    return np.where(layer[cells.owner] < -1, -1 - np.arange(len(cells.owner)), keys)


def _repeats(dossier: Dossier, role: Role) -> float:
    return repeated_values(replace(dossier, facts=_facts(dossier, role)))
