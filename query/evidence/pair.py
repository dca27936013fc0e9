"""A pair of checkpoints to compare: everything that several lines of evidence share, computed once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from provenance.indexer.dossier import Dossier
from provenance.query.statistics.alignment import (
    NOTHING,
    Agreement,
    Segment,
    Slopes,
    agreement,
    layer_map,
    matching_segment,
    slopes,
)
from provenance.query.statistics.background import Background
from provenance.query.statistics.grid import Grid, grid_of
from provenance.query.statistics.products import ProductMatch, compare_products
from provenance.schemas.products import DeepReading

UNKNOWN_TOKENS = "no tokenizer.json of both, so equal ids are taken for equal tokens"


@dataclass(frozen=True)
class Subject:
    """A checkpoint with its grid, which is computed once and compared with many."""

    dossier: Dossier

    @cached_property
    def grid(self) -> Grid:
        return grid_of(self.dossier)


@dataclass(frozen=True)
class Pair:
    """Two checkpoints, and the background for their scores.

    Attributes:
        a: the queried model.
        b: the candidate.
        background: scores of unrelated pairs.
        reading: their products, read anew; null unless `--deep` read them.
    """

    a: Subject
    b: Subject
    background: Background = field(default_factory=lambda: Background({}))
    reading: DeepReading | None = None

    def strangers(self, kind: str) -> NDArray[np.float64]:
        """Sorted scores of unrelated pairs in this pair's stratum on a line of evidence."""
        return self.background.strangers(kind, self.a.dossier, self.b.dossier)

    @property
    def of_one_kind(self) -> bool:
        """Whether both are models, or both adapters: an update says nothing of the weights it applies to."""
        return bool(self.a.dossier.meta.adapter) == bool(self.b.dossier.meta.adapter)

    @property
    def same_depth(self) -> bool:
        return len(self.a.grid.layers) == len(self.b.grid.layers)

    @cached_property
    def by_position(self) -> Agreement:
        """Agreement of layers at equal positions."""
        rows = np.arange(min(len(self.a.grid.layers), len(self.b.grid.layers)))
        return agreement(self.a.grid, self.b.grid, rows, rows) if len(rows) else NOTHING

    @cached_property
    def segment(self) -> Segment | None:
        """The best run of corresponding layers if the depths differ, else null."""
        return None if self.same_depth else matching_segment(self.a.grid, self.b.grid)

    @cached_property
    def layers(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Corresponding rows of the two grids."""
        return layer_map(self.a.grid, self.b.grid)

    @cached_property
    def aligned(self) -> Agreement:
        """Agreement of corresponding layers; its p-value is not corrected for the choice of layers."""
        return self.by_position if self.same_depth else agreement(self.a.grid, self.b.grid, *self.layers)

    @property
    def stored(self) -> DeepReading | None:
        """The products of both as their crawls sketched them; null where one has none, or between other tokens."""
        a, b = self.a.dossier.products, self.b.dossier.products
        if a is None or b is None or not a.comparable(b):
            return None
        return DeepReading(a, b, note="" if a.tokens and b.tokens else UNKNOWN_TOKENS)

    @cached_property
    def products(self) -> ProductMatch | None:
        """Agreement of what no inner disguise changes; null where it is not known."""
        read = self.reading or self.stored
        return None if read is None or read.a is None or read.b is None else compare_products(read.a, read.b)

    @cached_property
    def slopes(self) -> Slopes | None:
        """Regression of corresponding matrices; the candidate is `b`."""
        return slopes(self.a.grid, self.b.grid, *self.layers)
