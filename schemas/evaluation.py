"""The accuracy of the answers, measured against a table of true lineage. `docs/method.md` explains each figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from provenance.schemas.enums import ClaimStatus, Direction, ModelVerdict, Relation, Verdict
from provenance.schemas.tabular import Record, Rows, Versioned


@dataclass(frozen=True, slots=True)
class TruthFigures(Record):
    """Models of the truth table, and those of them that the store holds."""

    in_table: int
    stored: int


@dataclass(frozen=True, slots=True)
class Retrieval(Record):
    """Derived models of a group: shares with a relative, or a parent, among the first 1 or 5 candidates."""

    models: int
    family_at_1: float | None = field(metadata={"key": "family@1"})
    family_at_5: float | None = field(metadata={"key": "family@5"})
    parent_at_1: float | None = field(metadata={"key": "parent@1"})
    parent_at_5: float | None = field(metadata={"key": "parent@5"})
    derived: float | None


class FalseAccusation(NamedTuple):
    """An unrelated pair that was called `derived` or `related`: two repo ids and the verdict."""

    model: str
    candidate: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Accusations(Record):
    """The claims about pairs without a common root."""

    unrelated_pairs: int
    accused: int
    accused_at_ten_times_alpha: int
    smallest_log10_p_adjusted: float
    who: tuple[FalseAccusation, ...]


@dataclass(frozen=True, slots=True)
class RelationVerdicts(Record):
    """The verdicts about the models of one kind of relation, and the relations that were named."""

    relation: str
    models: int
    derived: int
    no_parent_found: int = field(metadata={"key": "no-parent-found"})
    inconclusive: int
    named: str


@dataclass(frozen=True, slots=True)
class LineSeparation(Record):
    """One line of evidence alone: how well it separates direct parents from unrelated pairs."""

    line: str
    true_pairs: int
    unrelated_pairs: int
    auc: float
    auc_same_shape: float | None
    tpr_at_fpr_0: float
    tpr_at_fpr_1pct: float
    highest_unrelated: float


@dataclass(frozen=True, slots=True)
class Ablation(Record):
    """The pairs convicted with one line left out; `without` is a dash where none was."""

    without: str
    true_pairs: int
    convicted: int
    accused: int


@dataclass(frozen=True, slots=True)
class CalibrationRow(Record):
    """The share of unrelated pairs whose p-value is at most `level`, with its 95 % interval.

    Attributes:
        pairs: unrelated pairs.
        family_pairs: pairs of families, each of which counts once.
        effective_pairs: independent pairs that would give the same variance; null where nothing varies.
    """

    line: str
    level: float
    share: float
    low: float | None
    high: float | None
    pairs: int
    family_pairs: int
    effective_pairs: float | None


@dataclass(frozen=True, slots=True)
class LogScore(Record):
    """Mean negative log likelihood of `probability`, in nats per pair, and that of the base rate."""

    pairs: int
    log_score: float
    base_rate_log_score: float


@dataclass(frozen=True, slots=True)
class Ordering(Record):
    """Directions, edges and families under one kind of dates. Null where there is nothing to count.

    Derivatives and edges are those of models that hide nothing and are no adapters. A copy counts as its original.

    Attributes:
        dates: `as stored`, `none` (and no cards), or `shuffled` (dealt out at random, and no cards).
        runs: how often; figures are of all runs together, indices their mean.
        models: derivatives.
        derived: share of them with the verdict `derived`.
        parent_first: share with a direct parent first.
        parent_pairs: pairs of a derivative and a direct parent of it that were found to be relatives, copies left out.
        parent_said: share of them of which a direction is said.
        parent_right: share of these of which the right one is.
        directions: pairs of relatives over all queries, copies left out.
        directions_said: those of which one is called the parent or child.
        directions_right: those of which it is one, over any number of generations.
        unknown: share of the pairs of relatives whose direction is `unknown`.
        edge_precision: share of the direct parents named that are.
        edge_recall: share of the direct parents that are named.
        edge_f1: harmonic mean of the two.
        rand_derived: adjusted Rand index of the parts that `derived` joins, against the true families.
        rand_related: of those that `derived` or `related` joins.
    """

    dates: str
    runs: int
    models: int
    derived: float | None
    parent_first: float | None
    parent_pairs: int
    parent_said: float | None
    parent_right: float | None
    directions: int
    directions_said: int
    directions_right: int
    unknown: float | None
    edge_precision: float | None
    edge_recall: float | None
    edge_f1: float | None
    rand_derived: float
    rand_related: float


@dataclass(frozen=True, slots=True)
class WrongDirection(Record):
    """A pair whose order was said wrongly, under one kind of dates (of the first run)."""

    dates: str
    model: str
    candidate: str
    direction: Direction


@dataclass(frozen=True, slots=True)
class ScenarioFigures(Record):
    """The answers about the models of one scenario of the truth table, or of one relation where it names none."""

    scenario: str
    models: int
    derivatives: int
    derived: int
    parent_first: int
    directions: int
    directions_said: int
    directions_right: int


@dataclass(frozen=True, slots=True)
class MergeFigures(Record):
    """Merges: how many have just their parents named; the error of the weights that the truth table gives."""

    merges: int
    parents_named: int
    weights: int
    mean_error: float | None
    largest_error: float | None


@dataclass(frozen=True, slots=True)
class EvaluatedModel(Record):
    """One model of the table: the truth, and the answer. Ranks start at 1; null if not found."""

    model: str
    relation: str
    attack: bool
    derived: bool
    adapter: bool
    verdict: ModelVerdict
    first: str | None
    first_verdict: Verdict | None
    first_relation: Relation | None
    family_rank: int | None
    parent_rank: int | None


@dataclass(frozen=True, slots=True)
class Evaluation(Versioned):
    """The measured accuracy over all stored models of a truth table. `probability` is null without judged pairs."""

    models: TruthFigures
    retrieval: Mapping[str, Retrieval]
    accusations: Accusations
    verdicts: Rows[RelationVerdicts]
    lines: Rows[LineSeparation]
    ablation: Rows[Ablation]
    calibration: Rows[CalibrationRow]
    probability: LogScore | None
    orderings: Rows[Ordering]
    wrong_directions: Rows[WrongDirection]
    scenarios: Rows[ScenarioFigures]
    merges: MergeFigures
    models_detail: Rows[EvaluatedModel]

    def to_dict(self) -> dict[str, Any]:
        found = Versioned.to_dict(self)
        return found | {"probability": found["probability"] or {}}


@dataclass(frozen=True, slots=True)
class DeclaredParent(Record):
    """One declaration of a card: `rank` of the declared parent among the candidates, null where it is not stored."""

    model: str
    parent: str
    status: ClaimStatus
    rank: int | None
    found_instead: str | None


@dataclass(frozen=True, slots=True)
class DeclaredEvaluation(Versioned):
    """How often the answers find what cards declare. Cards may be wrong: this measures agreement, not truth.

    Attributes:
        models: checkpoints whose card declares a base model.
        declarations: all that they declare.
        stored: declarations of which the store holds the parent; the shares are of these.
        confirmed, contradicted, cannot_tell: what the weights say of them.
        recall: share confirmed.
        recall_of_judged: confirmed, of those confirmed or contradicted.
        parent_at_1, parent_at_5: share of declared parents among the first 1 or 5 candidates.
    """

    models: int
    declarations: int
    stored: int
    confirmed: int
    contradicted: int
    cannot_tell: int
    recall: float | None
    recall_of_judged: float | None
    parent_at_1: float | None = field(metadata={"key": "parent@1"})
    parent_at_5: float | None = field(metadata={"key": "parent@5"})
    parents: Rows[DeclaredParent]
