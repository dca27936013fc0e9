"""What the public API returns about a pair: `provenance compare`. See `docs/json.md`."""

from __future__ import annotations

from dataclasses import dataclass

from provenance.schemas.enums import Direction, Relation, Verdict, Witness
from provenance.schemas.results import Evidence, Note
from provenance.schemas.tabular import Record, Rows, Versioned


@dataclass(frozen=True, slots=True)
class ComparedModel(Record):
    """One side of a comparison."""

    checkpoint_id: str
    repo_id: str
    n_layers: int | None
    hidden_size: int | None
    n_heads: int | None
    n_kv_heads: int | None
    created_at: str | None


@dataclass(frozen=True, slots=True)
class CurveScores(Record):
    """Similarities and distances of the curves of two models; null if they cannot be compared."""

    published_score: float | None
    profile_correlation: float | None
    wasserstein: float | None
    kl_divergence: float | None


@dataclass(frozen=True, slots=True)
class Spread(Record):
    """The range of the scores of several pairs."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Controls(Record):
    """The curve scores of `n` strangers of the same shape: what the architecture alone explains. Null if `n` is 0."""

    n: int
    published_score: Spread | None
    profile_correlation: Spread | None
    wasserstein: Spread | None
    kl_divergence: Spread | None


@dataclass(frozen=True, slots=True)
class RoleChange(Record):
    """How the tensors of one role differ between a model and a candidate, taken for its parent, over sampled cells.

    Attributes:
        role: as in `tensors`.
        layers: of the model that were compared; -1 for tensors outside the layers; empty where no cells are sampled.
        unchanged: those of them whose cells are all equal.
        equal: whether all its tensors are equal, as far as cells, digests and moments show; null where not known.
        energy: mean square of the change over that of the parent's weights, averaged over the layers; null where there
            are no cells, or nothing but zeros before.
        energies: the same for each of `layers`.
        rank: numerical rank of the change where it is low, as after a merged LoRA; else null.
        rank_limit: the largest rank that the cells could show; null where they cannot show any.
        zeros: share of exact zeros in the model; `zeros_before` in the candidate.
        repeats: share of the values of a row that occur in it again, as on a coarse grid; `repeats_before` likewise.
        new_rows: rows more than the candidate has: new tokens, for embeddings; negative where some were cut.
        new_columns: likewise.
    """

    role: str
    layers: tuple[int, ...]
    unchanged: tuple[int, ...]
    equal: bool | None
    energy: float | None
    energies: tuple[float | None, ...]
    rank: int | None
    rank_limit: int | None
    zeros: float | None
    zeros_before: float | None
    repeats: float | None
    repeats_before: float | None
    new_rows: int
    new_columns: int


@dataclass(frozen=True, slots=True)
class Comparison(Versioned):
    """Every line of evidence for `b` as a parent of `a`; the claims are those of a `Candidate`.

    `notes` say what could not be read of either.
    """

    a: ComparedModel
    b: ComparedModel
    verdict: Verdict
    relation: Relation
    direction: Direction
    probability: float
    p_value: float
    p_adjusted: float
    log10_p: float
    score: float
    license: str | None
    created_at: str | None
    decided_by: Witness | None
    evidence: Rows[Evidence]
    changes: Rows[RoleChange]
    curves: CurveScores
    controls: Controls
    notes: Rows[Note]
