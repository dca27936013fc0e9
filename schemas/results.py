"""What the public API returns about models: answers, descriptions, lineage. See `docs/json.md`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from provenance.schemas.enums import (
    ClaimStatus,
    Direction,
    MergeMethod,
    Mode,
    ModelVerdict,
    NoteKind,
    Relation,
    Verdict,
    Witness,
)
from provenance.schemas.tabular import Record, Rows, Versioned, html_table

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Evidence(Record):
    """One line of evidence, measured on a pair of checkpoints.

    `p_value` is null if the line has no null distribution (descriptive lines); `log10_p` stays exact where `p_value`
    underflows. `n` is the number of cells, layers or tensors compared.
    """

    kind: str
    value: float | None
    p_value: float | None
    log10_p: float | None
    n: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class LayerRun(Record):
    """Layers `first` to `last` of a model, inclusive, which are layers `start` and the next ones of a candidate.

    `weight` is the candidate's there, 1 for layers taken as they are. `part` is `attention` or `feed-forward` where
    only these matrices are meant, else empty.
    """

    first: int
    last: int
    start: int
    weight: float = 1.0
    part: str = ""


@dataclass(frozen=True, slots=True)
class MergeShare(Record):
    """What a merge's parent gave to it.

    Attributes:
        method: how the merge was made.
        weight: of the parent in it; of stacked layers the share of the layers.
        error: standard error of the weight, null for stacked layers.
        log10_p: of the weight being 0, corrected for the relatives tried; null for stacked layers.
        base: repo id of the base from which changes were added, null elsewhere.
        instead: repo ids of checkpoints that would explain the merge equally in place of this one.
    """

    method: MergeMethod
    weight: float
    error: float | None
    log10_p: float | None
    base: str | None
    instead: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate(Record):
    """A candidate with all claims about it.

    Attributes:
        rank: 1 for the best.
        verdict: whether it is an ancestor of the model, a relative, or neither.
        relation: how the child was made from the parent.
        direction: the role of the candidate relative to the model.
        declared: whether the model's card names it.
        undeclared: it is an ancestor, and the card names no ancestor; null where the card could not be read.
        license_differs: from the model's; null where one of the two is not known.
        probability: 1 - local false discovery rate.
        p_value: of all weight evidence combined; 0 where a float underflows.
        p_adjusted: corrected over all checkpoints of the store.
        score: strength of the weight evidence, 0 to 1.
        merge_weight: share of a merge's parent, null elsewhere.
        merge: more about that share, null elsewhere.
        layers: which layers of the candidate stand where in the model, or where its weight differs; empty where every
            layer stands at its own place.
        created_at: ISO 8601, null where not known.
        decided_by: what shows the direction; null where that is `sibling` or `unknown`.
    """

    rank: int
    checkpoint_id: str
    repo_id: str
    verdict: Verdict
    relation: Relation
    direction: Direction
    declared: bool
    probability: float
    p_value: float
    p_adjusted: float
    log10_p: float
    score: float
    merge_weight: float | None
    license: str | None
    created_at: str | None
    decided_by: Witness | None
    undeclared: bool | None
    license_differs: bool | None
    merge: MergeShare | None
    layers: Rows[LayerRun]
    evidence: Rows[Evidence]


@dataclass(frozen=True, slots=True)
class Claim(Record):
    """A parent that the model's card declares, judged by the weights.

    Attributes:
        parent: the declared repo, by its stored id where it is stored.
        status: what the weights say of it.
        checkpoint_id: the stored checkpoint it was compared with; null, as the next four, if it is not stored.
        verdict, direction, relation, log10_p: as of a `Candidate`.
        found_instead: the best ancestor, if the claim is contradicted and there is one.
        license: of the model.
        parent_license: of the declared parent, null where not known.
        license_differs: null where one of the two is not known.
    """

    parent: str
    status: ClaimStatus
    checkpoint_id: str | None
    verdict: Verdict | None
    direction: Direction | None
    relation: Relation | None
    log10_p: float | None
    found_instead: str | None
    license: str | None
    parent_license: str | None
    license_differs: bool | None


@dataclass(frozen=True, slots=True)
class ModelSummary(Record):
    """A summary of the queried model.

    `declared_parents` are repo ids, null if the card could not be read; `adapter` is whether it is an adapter without
    its base, `resolved` the number of its tensors with a known role.
    """

    checkpoint_id: str
    repo_id: str
    n_layers: int | None
    declared_parents: tuple[str, ...] | None
    license: str | None
    created_at: str | None
    mode: Mode | None
    adapter: bool | None
    resolved: int | None


@dataclass(frozen=True, slots=True)
class SearchedStore(Record):
    """What was searched: number of checkpoints, how many of them are not indexed yet, and the index (or null)."""

    checkpoints: int
    unindexed: int
    generation: str | None


@dataclass(frozen=True, slots=True)
class Note(Record):
    """What else there is to know about a checkpoint, or what could not be read of it, in one sentence for a user."""

    checkpoint_id: str
    kind: NoteKind
    text: str


@dataclass(frozen=True, slots=True)
class Answer(Record):
    """The suspected parents of a model, best first. As a table: its candidates, without their evidence.

    `claims` judge what its card declares; `notes` say what is open about copies, and what could not be read of it.
    """

    model: ModelSummary
    store: SearchedStore
    verdict: ModelVerdict
    claims: Rows[Claim]
    notes: Rows[Note]
    candidates: Rows[Candidate]

    def to_arrow(self) -> pa.Table:
        """The candidates as an Arrow table."""
        return self.candidates.to_arrow()

    def to_polars(self) -> pl.DataFrame:
        """The candidates as a polars frame; raises like `Rows.to_polars`."""
        return self.candidates.to_polars()

    def to_pandas(self) -> Any:
        """The candidates as a pandas frame; raises like `Rows.to_pandas`."""
        return self.candidates.to_pandas()

    def _repr_html_(self) -> str:
        """The verdict and the candidates, for notebooks."""
        names = ("rank", "repo_id", "verdict", "direction", "relation", "declared", "log10_p", "score", "license")
        head = f"<p><b>{escape(self.model.checkpoint_id)}</b>: {escape(self.verdict)}</p>"
        return head + html_table(names, self.candidates.to_dicts(), len(self.candidates))


@dataclass(frozen=True, slots=True)
class ModelMetadata(Record):
    """What was listed, declared and found about a checkpoint, as in the columns of the table `checkpoints`."""

    checkpoint_id: str
    repo_id: str
    revision: str | None
    subfolder: str | None
    variant: str | None
    created_at: str | None
    license: str | None
    declared_parents: tuple[str, ...] | None
    declared_relation: str | None
    architecture: str | None
    model_type: str | None
    n_layers: int | None
    hidden_size: int | None
    n_heads: int | None
    n_kv_heads: int | None
    n_parameters: int | None
    dtype: str | None
    quantization: str | None
    mode: Mode | None
    sample_version: str | None
    content_digest: str | None
    resolved: int | None
    adapter: bool | None


@dataclass(frozen=True, slots=True)
class RoleFigures(Record):
    """The tensors of one role in one stack. `read` (elements) is null for a model that is not stored."""

    stack: str
    role: str
    tensors: int
    layers: int
    elements: int
    read: int | None
    mean_std: float | None


@dataclass(frozen=True, slots=True)
class ModelDescription(Versioned):
    """What is known about one model. `curves` are by statistic and role, in layer order, null where not measured.

    `notes` say what could not be read, those of the crawl only if the model is stored.
    """

    model: ModelMetadata
    roles: Rows[RoleFigures]
    curves: Mapping[str, Mapping[str, tuple[float | None, ...]]]
    notes: Rows[Note]
