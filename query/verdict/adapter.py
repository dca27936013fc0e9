"""Merged adapters: a model whose change from a relative is the update of a stored adapter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from provenance.indexer.dossier import standardise
from provenance.query.evidence.pair import Subject
from provenance.query.statistics.alignment import agreement
from provenance.query.statistics.grid import Grid, common_columns, matrices
from provenance.query.statistics.significance import adjust_log10_p, probability, to_p
from provenance.query.verdict.rule import ALPHA, Assessment
from provenance.schemas.enums import Direction, Relation, Verdict, Witness
from provenance.schemas.results import Evidence

MERGED = 0.9
"""Correlation of the change with the update above which the adapter was merged in. The other explanation, an adapter
that was extracted from the change of a whole fine-tune, keeps only a part of that change, for it has few ranks."""


def with_merged_adapters(assessments: Sequence[Assessment], n_store: int) -> list[Assessment]:
    """The settled assessments, with each adapter that explains the model's change from one of its relatives."""
    relatives = [one for one in assessments if one.is_relative and not one.meta.adapter]
    if not relatives or relatives[0].pair.a.dossier.meta.adapter:
        return list(assessments)
    found = [_merged(one, relatives, n_store) if one.meta.adapter else one for one in assessments]
    # Stable: the order of `settle` within ancestors, other relatives, and the rest.
    return sorted(found, key=lambda one: (one.verdict is not Verdict.DERIVED, not one.is_relative))


def _merged(adapter: Assessment, relatives: Sequence[Assessment], n_store: int) -> Assessment:
    """The assessment of an adapter, as an ancestor if its update is the change from one of the relatives."""
    model, update = adapter.pair.a, adapter.pair.b
    best = adapter
    for relative in relatives:
        change = _change(model, relative.pair.b)
        layers, in_change, in_update = np.intersect1d(
            change.layers, update.grid.layers, assume_unique=True, return_indices=True
        )
        match = agreement(change, update.grid, in_change, in_update)
        adjusted = adjust_log10_p(match.log10_p, n_store * len(relatives))
        times = _times(change, update.grid, in_change, in_update)
        if match.correlation < MERGED or match.correlation <= best.score or adjusted > math.log10(ALPHA) or times <= 0:
            continue
        note = (
            f"the change from {relative.repo_id} is {times:.2f} times this adapter's update, over {len(layers)} layers"
        )
        line = Evidence("adapter_merge", match.correlation, to_p(match.log10_p), match.log10_p, match.n, note)
        best = replace(
            adapter,
            evidence=(*adapter.evidence, line),
            verdict=Verdict.DERIVED,
            direction=Direction.PARENT,
            relation=Relation.ADAPTER,
            log10_p=match.log10_p,
            log10_p_adjusted=adjusted,
            probability=probability(match.log10_p, n_store),
            score=match.correlation,
            steps=1,
            decided_by=Witness.MERGE,
        )
    return best


def _change(model: Subject, relative: Subject) -> Grid:
    """The grid of the differences of two models at the cells that both have, layers matched by their numbers."""
    a, b = model.grid, relative.grid
    keys, in_a, in_b = common_columns(a, b)
    layers, rows_a, rows_b = np.intersect1d(a.layers, b.layers, assume_unique=True, return_indices=True)
    mask = a.mask[np.ix_(rows_a, in_a)] & b.mask[np.ix_(rows_b, in_b)]
    weights = (a.weights[np.ix_(rows_a, in_a)] - b.weights[np.ix_(rows_b, in_b)]) * mask
    _, role = np.unique(matrices(keys), return_inverse=True)
    n_roles = int(role.max()) + 1 if len(role) else 0
    owner = (np.arange(len(layers))[:, None] * n_roles + role)[mask]
    standard = np.zeros_like(weights)
    standard[mask] = standardise(weights[mask], owner, len(layers) * n_roles)
    return Grid(layers.astype(np.int64), keys, weights, standard, mask)


def _times(change: Grid, update: Grid, rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]) -> float:
    """How many times the update the change is: the slope of the regression through zero."""
    _, in_a, in_b = common_columns(change, update)
    both = change.mask[np.ix_(rows_a, in_a)] & update.mask[np.ix_(rows_b, in_b)]
    x, y = update.weights[np.ix_(rows_b, in_b)][both], change.weights[np.ix_(rows_a, in_a)][both]
    energy = float(x @ x)
    return float(x @ y) / energy if energy > 0 else 0.0
