"""Runs of layers: where in a merge a parent's weight differs, and which of its layers stand where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.significance import to_p
from provenance.schemas.results import Evidence, LayerRun, MergeShare

SAME = 0.1
"""Weights of neighbouring layers that differ by no more are one run."""

WHOLE, NONE = 0.97, 0.03
"""Weights beyond these are 1 and 0."""

Array = NDArray[np.float64]


def runs_of(attention: Array, feed_forward: Array) -> tuple[LayerRun, ...]:
    """Runs of layers in which a weight `[L]` is nearly the same; those without any weight are left out."""
    if np.abs(attention - feed_forward).max(initial=0) <= SAME:
        return tuple(_runs((attention + feed_forward) / 2, ""))
    return (*_runs(attention, "attention"), *_runs(feed_forward, "feed-forward"))


def _runs(weights: Array, part: str) -> Iterable[LayerRun]:
    snapped = np.where(weights >= WHOLE, 1.0, np.where(weights <= NONE, 0.0, weights))
    first = 0
    for layer in range(1, len(snapped) + 1):
        if layer == len(snapped) or abs(snapped[layer] - snapped[first]) > SAME:
            weight = float(np.mean(snapped[first:layer]))
            if weight > 0:
                yield LayerRun(first, layer - 1, first, weight, part)
            first = layer


def describe(runs: Sequence[LayerRun]) -> str:
    """Runs in words: `0-5` for whole layers of the parent, `0-5 (0.30)` where they have a weight."""
    whole = all(run.weight == 1 for run in runs)
    words = []
    for run in runs:
        last = run.start + run.last - run.first
        text = f"{run.start}-{last}" if last > run.start else str(run.start)
        text += f" {run.part}" if run.part else ""
        words.append(text if whole else f"{text} ({run.weight:.2f})")
    return ", ".join(words)


def merge_evidence(merge: MergeShare, layers: Sequence[LayerRun]) -> Evidence:
    """The line of evidence about a parent of a merge; `n` is the number of its relatives that explain it equally."""
    words = [f"{merge.method}: weight {merge.weight:.2f}"]
    if merge.error is not None:
        words[0] += f" ± {merge.error:.2f}"
    if merge.base is not None:
        words.append(f"of its change from {merge.base}")
    if layers:
        words.append(f"layers {describe(layers)}")
    if merge.instead:
        words.append(f"explained equally by {' or '.join(merge.instead)}")
    p = None if merge.log10_p is None else to_p(merge.log10_p)
    return Evidence("merge", merge.weight, p, merge.log10_p, len(merge.instead), "; ".join(words))
