"""Who came first, of two relatives: what each witness says, and how much it is worth.

Every witness answers with the log odds (natural logarithm) that the first checkpoint is the parent of the second;
negative ones speak for the second, 0 is silence. In the order of trust: structure, asymmetry of change, then growth of
the embedding, dates and declarations together. A clear stronger witness is believed against a weaker one, and the
contradiction is kept.
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
from provenance.query.verdict.dates import UNKNOWN_DATES, worth
from provenance.query.verdict.packing import cast_from, packed_from
from provenance.query.verdict.rounding import repeated_values, rounded_from
from provenance.query.verdict.stack import WHOLE, coverage
from provenance.schemas.enums import Witness
from provenance.schemas.roles import ROLE_CODE, Role
from provenance.schemas.sampling import SEQUENCE_LENGTH

STRUCTURE = 6.0
"""An upcycled, pruned, cut, extended or quantised model is the child: right in all pairs that were measured."""

DECLARED = 3.5
"""A card that names its base."""

CLEAR = 3.0
"""Log odds of 20 to 1: what is said aloud, and what a weaker witness cannot overrule."""

ASYMMETRY_WORTH = ((0.03, 0.0), (0.05, 2.0), (0.1, 3.0), (math.inf, 4.5))
"""What an asymmetry up to each size is worth at the most. Weight decay shrinks a light fine-tune, which then looks
older than its base by up to 0.026: such an asymmetry says nothing."""

GROWTH_WORTH = ((0.002, 0.0), (0.005, 1.0), (math.inf, 2.0))
"""What growth of the embedding is worth, by the difference of the logarithm of its spread. Tokens that were rare before
move away from where they started: right in 65 of 68 pairs where it speaks, but it is one number a model, and never
clear by itself."""

PADDING = 64
"""Vocabularies are padded to a multiple of this, and cut again: such a difference says nothing."""

BETWEEN = 3.0
"""What an asymmetry is worth at the most between a merge and a parent: it lies between them, and looks like their
ancestor."""

SILENT_T = 1.5
MIN_ASYMMETRY = 0.002
SAME_SCALE = 0.3
"""The asymmetry is silent where the larger slope is further from 1 than this, as for rescaled weights."""

COMPARABLE = 0.5
"""Correlation below which cells do not correspond one to one, and slopes mean nothing."""

ZEROS = 0.05
EXPERTS_AGREE = 0.5
REPEATED = 0.5
"""Correlation of two layers of one checkpoint above which one is a copy of the other."""


@dataclass(frozen=True)
class Precedence:
    """What the witnesses say of one pair: log odds that the first is the parent of the second.

    Attributes:
        structure: of zeros, shapes, layers, vocabulary and rounding.
        asymmetry: of the change.
        growth: of the embedding.
        dates: 1 where the first is the older, -1 where the second is, else 0; `dates.worth` says what that is worth.
        declared: by a card.
        apart: the structure contradicts either order, so that neither descends from the other.
    """

    structure: float
    asymmetry: float
    growth: float
    dates: int
    declared: float
    apart: bool = False

    @property
    def clear(self) -> float:
        """Structure, or a clear asymmetry; 0 where the weights leave it open."""
        return self.structure or (self.asymmetry if abs(self.asymmetry) >= CLEAR else 0.0)

    def log_odds(self, doubt: float = UNKNOWN_DATES) -> float:
        """The verdict: the strongest clear witness, with the others if they agree; else all of them together.

        Args:
            doubt: probability that the dates of this family are arbitrary.
        """
        others = self.light + self.dates * worth(doubt)
        return self.clear + others if self.clear * others >= 0 else self.clear

    def of_a_merge(self, doubt: float = UNKNOWN_DATES) -> float:
        """Log odds where the second may be a merge of the first and others, so that a small asymmetry says nothing."""
        if self.structure or abs(self.asymmetry) > BETWEEN:
            return self.clear
        return self.metadata(doubt)

    def witness(self, *, first: bool, doubt: float = UNKNOWN_DATES) -> Witness:
        """The strongest witness that says so, if the first came first, or the second; else what decided was others.

        Growth of the embedding, never clear by itself, counts as a part of the asymmetry.
        """
        sign = 1.0 if first else -1.0
        if self.structure * sign > 0:
            return Witness.STRUCTURE
        if self.asymmetry * sign >= CLEAR:
            return Witness.ASYMMETRY
        said = {
            Witness.DATES: self.dates * worth(doubt),
            Witness.DECLARED: self.declared,
            Witness.ASYMMETRY: self.asymmetry + self.growth,
        }
        loudest = max(said, key=lambda witness: said[witness] * sign)
        return loudest if said[loudest] * sign > 0 else Witness.FAMILY

    @property
    def light(self) -> float:
        """What all say together but the clear witnesses and dates: log odds."""
        return (0.0 if self.clear else self.asymmetry) + self.growth + self.declared

    def metadata(self, doubt: float) -> float:
        """What dates and cards alone say: log odds."""
        return self.dates * worth(doubt) + self.declared

    def reversed(self) -> Precedence:
        """The same of the second and the first."""
        return Precedence(-self.structure, -self.asymmetry, -self.growth, -self.dates, -self.declared, self.apart)

    def against(self, order: float) -> tuple[str, ...]:
        """The metadata, `dates` and `declared`, that contradicts an order: positive where the first came first."""
        said = {"dates": self.dates, "declared": self.declared}
        return tuple(name for name, value in said.items() if value * order < 0)


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
        """Share of its sampled weights that equal another one of their row."""
        return repeated_values(self.dossier)

    @cached_property
    def vocabulary(self) -> int:
        """Rows of the token embedding; 0 where there is none."""
        return max((int(f["rows"]) for f in self._tokens if f["role"] == ROLE_CODE[Role.EMBEDDING]), default=0)

    @cached_property
    def token_spread(self) -> dict[int, float]:
        """Standard deviation of the embedding and of the output head, by role code, where every element was read."""
        return {int(f["role"]): float(f["std"]) for f in self._tokens if f["std"] > 0 and f["std_error"] == 0}

    @property
    def _tokens(self) -> NDArray[np.void]:
        facts = self.dossier.facts
        return facts[np.isin(facts["role"], [ROLE_CODE[Role.EMBEDDING], ROLE_CODE[Role.HEAD]])]

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
    structure = _structure(first, second, frame, i, j)
    tokens = _extended(first.vocabulary, second.vocabulary)
    apart = structure * tokens < 0
    return Precedence(
        0.0 if apart else STRUCTURE * (structure or tokens),
        _asymmetry(frame, i, j),
        _growth(first, second) if frame.shared.correlation[i, j] >= COMPARABLE else 0.0,
        dated(first.dossier, second.dossier),
        declared(first.dossier, second.dossier),
        apart,
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


def _structure(first: Member, second: Member, frame: Frame, i: int, j: int) -> int:
    """Zeros where the other has weights; experts, layers, rows copied or cut; weights on a coarser grid: 1, 0 or -1."""
    zeros = frame.zeros[i, j], frame.zeros[j, i]
    if abs(zeros[0] - zeros[1]) > ZEROS:
        return 1 if zeros[1] > zeros[0] else -1
    if first.routed != second.routed:
        # Experts that resemble each other were copied from one dense block; otherwise the dense model was cut out.
        upcycled = (first if first.routed else second).experts_agree
        return 1 if second.routed == upcycled else -1
    if first.size != second.size:
        return 1 if second.size < first.size else -1
    if first.depth != second.depth:
        deep, shallow = (first, second) if first.depth > second.depth else (second, first)
        if coverage(shallow.grid, deep.grid) < WHOLE:
            return 0  # layers were stacked, not dropped
        parent = shallow if deep.repeated > shallow.repeated + 1 else deep
        return 1 if parent is first else -1
    if frame.equal[i, j]:
        return 0
    distance = float(frame.shared.distance[i, j])
    methods = [member.dossier.meta.quantization for member in (first, second)]
    fewer = packed_from(methods[0], methods[1], distance) or cast_from(first.grid, second.grid)
    return fewer or rounded_from(first.repeats, second.repeats, distance)


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


def _extended(first: int, second: int) -> int:
    """Whose vocabulary has tokens added to the other's, more than padding: 1 for the second's, -1, else 0."""
    small, large = sorted((first, second))
    padded = large % PADDING == 0 and large - small < PADDING
    return 0 if small in (0, large) or padded else 1 if second == large else -1


def _growth(first: Member, second: Member) -> float:
    """Whose embedding and head are the larger."""
    if (first.vocabulary, first.depth) != (second.vocabulary, second.depth):
        return 0.0
    one, other = first.token_spread, second.token_spread
    grown = [math.log(other[role] / one[role]) for role in one.keys() & other.keys()]
    mean = sum(grown) / max(len(grown), 1)
    return math.copysign(next(most for size, most in GROWTH_WORTH if abs(mean) < size), mean)


def dated(first: Dossier, second: Dossier) -> int:
    """What the dates of creation say of the order of two checkpoints: 1, 0 or -1."""
    one, other = first.meta.created_at, second.meta.created_at
    if one is None or other is None or one == other:
        return 0
    return 1 if one < other else -1


def declared(first: Dossier, second: Dossier) -> float:
    """What the cards say of the order of two checkpoints."""
    forward, backward = second.meta.declares(first.repo_id), first.meta.declares(second.repo_id)
    return DECLARED * (forward - backward)
