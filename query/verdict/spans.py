"""Runs of layers: where in a merge a parent's weight differs, and which of its layers stand where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAME = 0.1
"""Weights of neighbouring layers that differ by no more are one run."""

WHOLE, NONE = 0.97, 0.03
"""Weights beyond these are 1 and 0."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Span:
    """Layers first to last, inclusive, of a merge.

    Attributes:
        first: of the merge.
        last: of the merge.
        weight: of the parent there.
        start: the parent's layer that stands at `first`, the next at the next; null where it is at the same place.
        part: `attention` or `feed-forward` where the two differ, else empty.
    """

    first: int
    last: int
    weight: float = 1.0
    start: int | None = None
    part: str = ""

    @property
    def source(self) -> tuple[int, int]:
        """The first and last layer of the parent."""
        start = self.first if self.start is None else self.start
        return start, start + self.last - self.first


def spans_of(attention: Array, feed_forward: Array) -> tuple[Span, ...]:
    """Runs of layers in which a weight `[L]` is nearly the same; those without any weight are left out."""
    if np.abs(attention - feed_forward).max(initial=0) <= SAME:
        return tuple(_runs((attention + feed_forward) / 2, ""))
    return (*_runs(attention, "attention"), *_runs(feed_forward, "feed-forward"))


def _runs(weights: Array, part: str) -> Iterable[Span]:
    snapped = np.where(weights >= WHOLE, 1.0, np.where(weights <= NONE, 0.0, weights))
    first = 0
    for layer in range(1, len(snapped) + 1):
        if layer == len(snapped) or abs(snapped[layer] - snapped[first]) > SAME:
            weight = float(np.mean(snapped[first:layer]))
            if weight > 0:
                yield Span(first, layer - 1, weight, part=part)
            first = layer


def describe(spans: Sequence[Span]) -> str:
    """Spans in words: `0-5` for whole layers of the parent, `0-5: 0.30` where they have a weight."""
    words = []
    for span in spans:
        first, last = span.source
        text = f"{first}-{last}" if last > first else str(first)
        text += f" {span.part}" if span.part else ""
        words.append(text if span.weight == 1 else f"{text}: {span.weight:.2f}")
    return ", ".join(words)
