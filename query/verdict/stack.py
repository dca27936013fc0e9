"""Recognising stacked layers (passthrough merges): layers of several checkpoints one above the other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.grid import Grid, common_columns
from provenance.query.verdict.merge import Merge

SAME_LAYER = 0.3
"""Correlation of two layers' cells above which one was made from the other. Layers of strangers reach 0.1."""

WHOLE = 0.9
"""Share of the layers that must have a counterpart for one checkpoint to be covered by another, or by several."""

AS_GOOD = 0.02
"""A source explains a layer when it correlates with it so nearly as well as the best."""

MIN_LAYERS = 2


def layer_correlations(a: Grid, b: Grid) -> NDArray[np.float64]:
    """Correlation of the cells of every layer of one checkpoint with every layer of another, `[La, Lb]`."""
    _, in_a, in_b = common_columns(a, b)
    cells = a.mask[:, in_a].astype(np.float64) @ b.mask[:, in_b].astype(np.float64).T
    products: NDArray[np.float64] = a.standard[:, in_a] @ b.standard[:, in_b].T
    return products / np.maximum(cells, 1)


def counterparts(a: Grid, b: Grid) -> NDArray[np.float64]:
    """For each layer of `a` its highest correlation with a layer of `b`, `[La]`."""
    table = layer_correlations(a, b)
    return table.max(axis=1) if table.size else np.zeros(len(a.layers))


def coverage(a: Grid, b: Grid) -> float:
    """Share of the layers of `a` that have a counterpart in `b`."""
    return float(np.mean(counterparts(a, b) >= SAME_LAYER)) if len(a.layers) else 0.0


def find_stack(member: Grid, others: Mapping[int, Grid]) -> Merge | None:
    """The checkpoints whose layers a member was stacked from; null where one of them explains it all, or none does.

    Args:
        member: the model.
        others: relatives by their place in the frame.

    Returns:
        the share of the member's layers that came from each source.
    """
    agreement = {place: counterparts(member, grid) for place, grid in others.items()}
    if not agreement or len(member.layers) < 2 * MIN_LAYERS:
        return None
    if max(float(np.mean(found >= SAME_LAYER)) for found in agreement.values()) >= WHOLE:
        return None
    best = np.max(list(agreement.values()), axis=0)
    if np.mean(best >= SAME_LAYER) < WHOLE:
        return None
    explains = {place: (found >= best - AS_GOOD) & (found >= SAME_LAYER) for place, found in agreement.items()}
    open_layers, shares = best >= SAME_LAYER, dict[int, float]()
    while open_layers.any():
        source = max(explains, key=lambda place: (int((explains[place] & open_layers).sum()), -place))
        taken = explains[source] & open_layers
        if taken.sum() < MIN_LAYERS:
            break
        shares[source] = float(taken.sum() / len(best))
        open_layers &= ~taken
    return Merge(shares, None, float(open_layers.mean())) if len(shares) > 1 else None
