"""Who came first, of two relatives: what each witness says, and how much it is worth.

Every witness answers with the log odds (natural logarithm) that the first checkpoint is the parent of the second;
negative ones speak for the second, 0 is silence. In the order of trust: structure, asymmetry of change, then dates and
declarations. A clear stronger witness is believed against a weaker one, and the contradiction is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from provenance.indexer.dossier import Dossier
from provenance.query.statistics.frame import Frame
from provenance.query.statistics.grid import Grid
from provenance.query.verdict.stack import WHOLE, coverage
from provenance.schemas.enums import Witness
from provenance.schemas.roles import ROLE_CODE, Role
from provenance.schemas.sampling import OFFSETS, SEQUENCE_LENGTH, TILE, sequence

STRUCTURE = 6.0
"""An upcycled, pruned, cut, extended or quantised model is the child: right in all pairs that were measured."""

DATED = 5.0
"""Dates of creation: repos are created after what they were made from, but for re-uploads, and dates can be forged."""

DECLARED = 3.5
"""A card that names its base."""

CLEAR = 3.0
"""Log odds of 20 to 1: what is said aloud, and what a weaker witness cannot overrule."""

ASYMMETRY_WORTH = ((0.03, 1.0), (0.1, 2.5), (math.inf, 4.5))
"""What an asymmetry up to each size is worth at the most. Weight decay shrinks a light fine-tune, which then looks
older than its base by some hundredths: only a large asymmetry is clear."""

SILENT_T = 1.5
MIN_ASYMMETRY = 0.002
SAME_SCALE = 0.3
"""The asymmetry is silent where the larger slope is further from 1 than this, as for rescaled weights."""

COMPARABLE = 0.5
"""Correlation below which cells do not correspond one to one, and slopes mean nothing."""

ROUNDED = 0.1
"""Distance up to which the one with more repeated values was rounded from the other."""

MIN_REPEATS = 0.02
COARSER = 1.5
"""How many times as often values repeat in a packed model as in the one that it was packed from, at the least."""

ZEROS = 0.05
EXPERTS_AGREE = 0.5
REPEATED = 0.5
"""Correlation of two layers of one checkpoint above which one is a copy of the other."""


@dataclass(frozen=True)
class Precedence:
    """What the witnesses say of one pair: log odds that the first is the parent of the second."""

    structure: float
    asymmetry: float
    dates: float
    declared: float

    @property
    def log_odds(self) -> float:
        """The verdict: the strongest clear witness, else all of them together."""
        if self.structure:
            return self.structure
        if abs(self.asymmetry) >= CLEAR:
            return self.asymmetry
        return self.asymmetry + self.dates + self.declared

    def witness(self, *, first: bool) -> Witness:
        """The strongest witness that says so, if the first came first, or the second; else what decided was others."""
        sign = 1.0 if first else -1.0
        if self.structure * sign > 0:
            return Witness.STRUCTURE
        if self.asymmetry * sign >= CLEAR:
            return Witness.ASYMMETRY
        said = {Witness.DATES: self.dates, Witness.DECLARED: self.declared, Witness.ASYMMETRY: self.asymmetry}
        loudest = max(said, key=lambda witness: said[witness] * sign)
        return loudest if said[loudest] * sign > 0 else Witness.FAMILY

    @property
    def overruled(self) -> tuple[str, ...]:
        """Dates and declarations that contradict the structure, or a clear asymmetry, of the weights."""
        weights = self.structure or self.asymmetry
        said = {"dates": self.dates, "declared": self.declared}
        return tuple(name for name, value in said.items() if value * weights < 0 and abs(weights) >= CLEAR)


@dataclass(frozen=True)
class Member:
    """A checkpoint of a family, with what its own structure says."""

    dossier: Dossier
    grid: Grid

    @cached_property
    def routed(self) -> bool:
        """Whether it is a mixture of experts."""
        return bool(np.any(self.dossier.facts["role"] == ROLE_CODE[Role.ROUTER]))

    @cached_property
    def experts_agree(self) -> bool:
        """Whether the first two experts resemble each other: the mark of an upcycled model."""
        return experts_agree(self.dossier)

    @cached_property
    def size(self) -> int:
        """Elements of one layer's matrices, by their shapes."""
        shapes = {int(f["role"]): int(f["rows"]) * int(f["columns"]) for f in self.dossier.matrices.facts}
        return sum(shapes.values())

    @cached_property
    def repeats(self) -> float:
        """Share of the sampled weights that equal another one of their row: rounding to a grid makes them many."""
        return repeated_values(self.dossier)

    @cached_property
    def quantized(self) -> bool:
        """Whether its weights are packed, as its config or its tensors say."""
        return bool(self.dossier.meta.quantization)

    @cached_property
    def depth(self) -> int:
        return len(self.grid.layers)

    @cached_property
    def repeated(self) -> int:
        """Layers that are copies of another layer of the same checkpoint."""
        if not len(self.grid.weights):
            return 0
        cells = np.maximum(self.grid.mask.sum(axis=1), 1)
        agreement = self.grid.standard @ self.grid.standard.T / np.sqrt(np.outer(cells, cells))
        np.fill_diagonal(agreement, 0)
        return int((agreement.max(axis=1) > REPEATED).sum())


def precedence(first: Member, second: Member, frame: Frame, i: int, j: int) -> Precedence:
    """What is known of the order of two members, which stand at `i` and `j` of the frame."""
    return Precedence(
        _structure(first, second, frame, i, j),
        _asymmetry(frame, i, j),
        dated(first.dossier, second.dossier),
        declared(first.dossier, second.dossier),
    )


def experts_agree(dossier: Dossier) -> bool:
    """Whether the first two experts of a checkpoint resemble each other."""
    cells = dossier.matrices
    expert = cells.facts["expert"][cells.owner]
    tensor = cells.facts["role"].astype(np.int64) * 65_536 + cells.facts["layer"]
    keys: NDArray[np.int64] = tensor[cells.owner] * SEQUENCE_LENGTH + cells.position
    standard = cells.standardised()
    _, one, other = np.intersect1d(keys[expert == 0], keys[expert == 1], assume_unique=True, return_indices=True)
    if len(one) == 0:
        return False
    return bool(np.mean(standard[expert == 0][one] * standard[expert == 1][other]) > EXPERTS_AGREE)


def repeated_values(dossier: Dossier) -> float:
    """Share of the sampled weights of a row that equal another one of it, zeros left out, over all rows.

    Rows, because packed formats scale each row, or groups inside it, by itself.
    """
    cells = dossier.matrices
    row = cells.owner * (OFFSETS[-1] + TILE) + sequence()[cells.position, 1]
    row, value = row[cells.weights != 0], cells.weights[cells.weights != 0]
    if len(value) == 0:
        return 0.0
    order = np.lexsort((value, row))
    return float(np.mean((np.diff(row[order]) == 0) & (np.diff(value[order]) == 0)))


def is_rounded(child: float, parent: float) -> bool:
    """Whether the shares of repeated values say that a child's weights were rounded from a parent's."""
    return child > MIN_REPEATS and child > 2 * parent


def _structure(first: Member, second: Member, frame: Frame, i: int, j: int) -> float:
    """Zeros where the other has weights; experts, layers and rows copied or cut; weights on a coarser grid."""
    zeros = frame.zeros(i, j)
    if abs(zeros[0] - zeros[1]) > ZEROS:
        return STRUCTURE if zeros[1] > zeros[0] else -STRUCTURE
    if first.routed != second.routed:
        # Experts that resemble each other were copied from one dense block; otherwise the dense model was cut out.
        upcycled = (first if first.routed else second).experts_agree
        return STRUCTURE if second.routed == upcycled else -STRUCTURE
    if first.size != second.size:
        return STRUCTURE if second.size < first.size else -STRUCTURE
    if first.depth != second.depth:
        deep, shallow = (first, second) if first.depth > second.depth else (second, first)
        if coverage(shallow.grid, deep.grid) < WHOLE:
            return 0.0  # layers were stacked, not dropped
        parent = shallow if deep.repeated > shallow.repeated + 1 else deep
        return STRUCTURE if parent is first else -STRUCTURE
    if frame.shared.distance[i, j] < ROUNDED and not frame.equal[i, j]:
        if is_rounded(second.repeats, first.repeats):
            return STRUCTURE
        if is_rounded(first.repeats, second.repeats):
            return -STRUCTURE
        if first.quantized != second.quantized:
            # 8 bits repeat few values. A copy that was unpacked again has the grid of the packed one, or a coarser one.
            packed, plain = (first, second) if first.quantized else (second, first)
            if packed.repeats > COARSER * plain.repeats:
                return STRUCTURE if packed is second else -STRUCTURE
    return 0.0


def _asymmetry(frame: Frame, i: int, j: int) -> float:
    shared = frame.shared
    if frame.equal[i, j] or shared.correlation[i, j] < COMPARABLE:
        return 0.0
    forward, back = float(shared.slope[i, j]), float(shared.slope[j, i])
    if max(forward, back) > 1 + SAME_SCALE or max(forward, back) < 1 - SAME_SCALE:
        return 0.0
    mean, t = float(shared.asymmetry[0][i, j]), float(shared.asymmetry[1][i, j])
    if abs(mean) < MIN_ASYMMETRY:
        return 0.0
    worth = next(most for size, most in ASYMMETRY_WORTH if abs(mean) < size)
    return math.copysign(min(max(abs(t) - SILENT_T, 0.0), worth), mean)


def dated(first: Dossier, second: Dossier) -> float:
    """What the dates of creation say of the order of two checkpoints."""
    one, other = first.meta.created_at, second.meta.created_at
    if one is None or other is None or one == other:
        return 0.0
    return DATED if one < other else -DATED


def declared(first: Dossier, second: Dossier) -> float:
    """What the cards say of the order of two checkpoints."""
    forward, backward = second.meta.declares(first.repo_id), first.meta.declares(second.repo_id)
    return DECLARED * (forward - backward)
