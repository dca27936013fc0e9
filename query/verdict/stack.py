"""Recognising stacked layers (passthrough merges): layers of several checkpoints one above the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.frame import Frame
from provenance.query.statistics.grid import Grid, common_columns
from provenance.query.statistics.layer_path import EXACT, SAME_LAYER, Path, best_path, closeness
from provenance.query.verdict.merge import Merge, Share
from provenance.schemas.enums import MergeMethod
from provenance.schemas.results import LayerRun

WHOLE = 0.9
"""Share of the layers that must have a counterpart for one checkpoint to be covered by another, or by several."""

MIN_LAYERS = 2

BETTER = 1.0
"""How much nearer the layers of every further source must be than those of the best single one, on average: a factor of
e^2 in the energy of the change."""

UNLIKE = 4.0
"""Largest difference of the logarithm of the change's energy between layers of different sources. What was stacked
changed alike since; where one part is exact and the other only near, layers were frozen."""

NEAREST, MOST = 3, 16
"""Relatives that are tried: the nearest of each layer, and of all layers together."""

AS_GOOD = 0.1
"""Another source explains a run of layers equally where it is so nearly as close."""


def layer_correlations(a: Grid, b: Grid) -> NDArray[np.float64]:
    """Correlation of the cells of every layer of one checkpoint with every layer of another, `[La, Lb]`."""
    _, in_a, in_b = common_columns(a, b)
    cells = a.mask[:, in_a].astype(np.float64) @ b.mask[:, in_b].astype(np.float64).T
    products: NDArray[np.float64] = a.standard[:, in_a] @ b.standard[:, in_b].T
    return np.clip(products / np.maximum(cells, 1), -1, 1)


def coverage(a: Grid, b: Grid) -> float:
    """Share of the layers of `a` that have a counterpart in `b`."""
    if not len(a.layers):
        return 0.0
    table = layer_correlations(a, b)
    return float(np.mean(table.max(axis=1, initial=0) >= SAME_LAYER))


def moved_layers(a: Grid, b: Grid) -> tuple[LayerRun, ...]:
    """Which layers of `b` the layers of `a` are; empty where all stand at their own place."""
    runs = best_path({0: layer_correlations(a, b)}).runs
    if len(runs) == 1 and runs[0].first == runs[0].start and len(runs[0]) == len(a.layers) == len(b.layers):
        return ()
    return tuple(LayerRun(run.first, run.last, run.start) for run in runs)


def stack_candidates(frame: Frame, member: int, others: Sequence[int], grids: Mapping[int, Grid]) -> list[int]:
    """Relatives whose layers a member may have been stacked from.

    They are found at the places that the frame gives them; where that leaves layers without a counterpart, among all
    layers of all. Empty where one relative is nearly as near as any other in every layer.
    """
    worth = _by_place(frame, member, others)
    if not len(others):
        return []
    if worth.shape[1] < len(grids[member].layers) or (worth.max(axis=0) <= 0).any():
        tables = [layer_correlations(grids[member], grids[other]) for other in others]
        worth = np.array([closeness(table.max(axis=1, initial=0)) for table in tables])
    one = int(np.argmax(worth.sum(axis=1)))
    if (worth[one] > 0).all() and (worth.max(axis=0) - worth[one]).sum() < BETTER * MIN_LAYERS:
        return []
    order = np.argsort(-worth, axis=0, kind="stable")
    ranked = dict.fromkeys([one, *order[:NEAREST].ravel().tolist()])
    return [others[i] for i in list(ranked)[:MOST]]


def _by_place(frame: Frame, member: int, others: Sequence[int]) -> NDArray[np.float64]:
    """How near every layer of the others is to that of the member at the same place of the frame, `[n, L]`."""
    shared = frame.shared
    scale = np.sqrt(shared.variance[member, others] * shared.variance[others, member])
    covariance = shared.covariance[member, others]
    correlation = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)
    usable = (scale > 0).astype(np.float64)
    layers = np.arange(int(frame.layer.max(initial=-1)) + 1)
    inside = (frame.layer[:, None] == layers[None, :]).astype(np.float64)
    by_layer = (correlation * usable) @ inside / np.maximum(usable @ inside, 1)
    return closeness(by_layer)[:, (usable @ inside).any(axis=0)]


def find_stack(member: Grid, others: Mapping[int, Grid]) -> Merge | None:
    """The checkpoints whose layers a member was stacked from; null where one of them explains it all, or none does.

    Args:
        member: the model.
        others: relatives by their place in the frame.

    Returns:
        the share of the member's layers that came from each source, and which layers they are.
    """
    depth = len(member.layers)
    if len(others) < 2 or depth < 2 * MIN_LAYERS:
        return None
    tables = {place: layer_correlations(member, grid) for place, grid in others.items()}
    path = _without_strays(tables)
    sources = list(dict.fromkeys(run.source for run in path.runs))
    if len(sources) < 2 or sum(map(len, path.runs)) < WHOLE * depth:
        return None
    main = max((best_path({place: tables[place]}) for place in sources), key=lambda one: one.score).runs[0].source
    if not all(_needed(path, main, source, tables) for source in sources if source != main):
        return None
    shares = {}
    for source in sources:
        own = [run for run in path.runs if run.source == source]
        runs = tuple(LayerRun(run.first, run.last, run.start) for run in own)
        weight = sum(map(len, own)) / depth
        shares[source] = Share(weight, runs=runs, instead=_instead(runs, source, path, tables))
    missing = depth - sum(map(len, path.runs))
    return Merge(MergeMethod.PASSTHROUGH, shares, None, missing / depth)


def _without_strays(tables: Mapping[int, NDArray[np.float64]]) -> Path:
    """The best path, after sources of a single layer are left out."""
    left = dict(tables)
    while True:
        path = best_path(left)
        layers = {run.source: 0 for run in path.runs}
        for run in path.runs:
            layers[run.source] += len(run)
        strays = [source for source, count in layers.items() if count < MIN_LAYERS]
        if not strays:
            return path
        for source in strays:
            del left[source]


def _needed(path: Path, main: int, source: int, tables: Mapping[int, NDArray[np.float64]]) -> bool:
    """Whether layers of both changed alike, and those of another source are much nearer than any of the main one."""
    own = _layers(path, source)
    change = [2 * float(np.median(path.worth[_layers(path, one)])) for one in (main, source)]
    if abs(change[0] - change[1]) > UNLIKE:
        return False
    if tables[main][own].max(axis=1).mean() < SAME_LAYER:
        return True
    behind = path.worth[own] - closeness(tables[main][own].max(axis=1))
    return float(behind.mean()) >= BETTER


def _layers(path: Path, source: int) -> NDArray[np.int64]:
    return np.concatenate([np.arange(run.first, run.last + 1) for run in path.runs if run.source == source])


def _instead(
    runs: tuple[LayerRun, ...], source: int, path: Path, tables: Mapping[int, NDArray[np.float64]]
) -> tuple[int, ...]:
    """Other checkpoints whose layers at the same places are as close."""
    rows = np.concatenate([np.arange(run.first, run.last + 1) for run in runs])
    columns = np.concatenate([np.arange(run.start, run.start + run.last - run.first + 1) for run in runs])
    distance = 1 - tables[source][rows, columns] ** 2 + EXACT
    used = {run.source for run in path.runs}
    return tuple(
        other
        for other, table in tables.items()
        if other not in used
        and columns.max() < table.shape[1]
        and np.mean(np.log(1 - table[rows, columns].clip(0) ** 2 + EXACT) - np.log(distance)) <= AS_GOOD
    )
