"""Which layer of which checkpoint stands where: the best path through the layers of several sources.

Layers keep their order when they are stacked, dropped or repeated, so a path goes on to the next layer of the same
source at no cost, and pays for every jump. Dynamic programming (Viterbi 1967) finds the best over all layer pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAME_LAYER = 0.3
"""Correlation of two layers' cells above which one was made from the other. Layers of strangers reach 0.1."""

EXACT = 1e-4
"""Share of the variance that differs where nothing but rounding happened."""

JUMP = 0.75
"""Cost of a jump, in units of log(change) / 2: siblings are so far behind the source itself by 1 and more."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """Layers of one source, `start` and the next ones, that stand at `first` to `last` of the checkpoint."""

    source: int
    first: int
    last: int
    start: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Path:
    """A way through the layers of a checkpoint.

    Attributes:
        runs: in order; layers without a counterpart are in none.
        worth: `[L]` of each layer: log of how much nearer its counterpart is than a stranger, halved.
    """

    runs: tuple[Run, ...]
    worth: Array

    @property
    def score(self) -> float:
        return float(self.worth.sum()) - JUMP * max(len(self.runs) - 1, 0)


def closeness(correlation: Array) -> Array:
    """-log(1 - r²) / 2, less that of strangers; `EXACT` bounds it."""

    def near(r: Array | float) -> Array:
        return -0.5 * np.log(1 - np.clip(r, 0, 1) ** 2 + EXACT)

    worth: Array = near(correlation) - near(SAME_LAYER)
    return worth


def best_path(tables: Mapping[int, Array]) -> Path:
    """The best path of a checkpoint through its sources.

    Args:
        tables: by source, correlation of every layer of the checkpoint with every layer of the source, `[L, Ls]`.
    """
    # Of equally good sources the one with fewest layers: a stack of others holds their layers too.
    sources = sorted((source for source, table in tables.items() if table.size), key=lambda s: tables[s].shape[1])
    if not sources:
        return Path((), np.zeros(next((len(table) for table in tables.values()), 0)))
    near = [np.where(tables[s] >= SAME_LAYER, closeness(tables[s]), -np.inf) for s in sources]
    worth = np.concatenate(near, axis=1)
    source = np.concatenate([np.full(tables[s].shape[1], s) for s in sources])
    place = np.concatenate([np.arange(tables[s].shape[1]) for s in sources])
    depth, states = worth.shape
    # The last state stands for a layer without a counterpart.
    gain = np.concatenate([worth, np.zeros((depth, 1))], axis=1)
    follows = np.append(np.where(place > 0, np.arange(states) - 1, -1), states)
    came, total = np.zeros((depth, states + 1), np.int64), gain[0].copy()
    for layer in range(1, depth):
        best = int(np.argmax(total))
        stayed = np.where(follows >= 0, total[follows], -np.inf)
        jumped = total[best] - JUMP
        came[layer] = np.where(stayed >= jumped, follows, best)
        total = gain[layer] + np.maximum(stayed, jumped)
    state = int(np.argmax(total))
    states_at = [state]
    for layer in range(depth - 1, 0, -1):
        state = int(came[layer, state])
        states_at.append(state)
    chosen = states_at[::-1]
    runs: list[Run] = []
    for layer, state in enumerate(chosen):
        if state == states:
            continue
        last = runs[-1] if runs else None
        if last and last.last == layer - 1 and last.source == source[state] and last.start + len(last) == place[state]:
            runs[-1] = Run(last.source, last.first, layer, last.start)
        else:
            runs.append(Run(int(source[state]), layer, layer, int(place[state])))
    return Path(tuple(runs), gain[np.arange(depth), chosen])
