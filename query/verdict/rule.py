"""From evidence to claims: one rule, written out in `docs/method.md`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from provenance.indexer.dossier_meta import DossierMeta
from provenance.query.evidence.pair import Pair, Subject
from provenance.query.evidence.registry import CONVICTING, SUPPORTING, gather
from provenance.query.statistics.significance import adjust_log10_p, combine_log10_p, outlies, probability, to_p
from provenance.query.unread import MIN_MATRICES
from provenance.query.verdict.family import Family, family_of
from provenance.query.verdict.relation import relation_of
from provenance.query.verdict.runs import merge_evidence
from provenance.query.verdict.stack import moved_layers
from provenance.query.verdict.witness import Member, dated
from provenance.schemas.enums import Direction, ModelVerdict, Relation, Verdict, Witness
from provenance.schemas.results import Evidence, LayerRun, MergeShare

ALPHA = 1e-3
"""Family-wise level: the chance that a query accuses any stranger of the whole store."""

SUSPICION = 0.05
"""Between `ALPHA` and this, weight evidence is inconclusive."""

CARRIED_OVER, CARRIED_PARTLY, ASYMMETRY = 0.9, 0.7, 0.05
"""A descendant's slope on its ancestor (see `alignment.Slopes`) is near 1. Weight decay in long training lowers
it, but then the ancestor's slope on the descendant is lower still; between twins of one start both are equally low."""

NORMS_KEPT = 0.8
"""Correlation of norms that a light change keeps. Set between trained twins (0.70 at most in `benchmarks.twins`) and
light fine-tunes (0.90 and more), with both in view."""

NORMS_LOST = 0.5
"""Correlation of norms under which a change however large is no continuation for sure: a snapshot of the other twin at
its tenth step has 0.15 to 0.25, snapshots of one run 0.57 and more, continued pre-training 0.77 and more."""

SAID = 0.95
"""A direction is said when it is at least so probable."""

DOUBTED = 0.5
"""Probability that the dates of a family are arbitrary, above which the evidence says so."""

NEITHER = 0.1
"""Relatives are siblings when the probability that either descends from the other is at most this."""


METADATA = ("dates", "declared")
"""Kinds of evidence lines that say what metadata the weights contradict."""

SETTLED = (*METADATA, "merge")
"""Kinds of evidence lines that come of the family."""


@dataclass(frozen=True)
class Assessment:
    """A pair with everything claimed about its candidate; `schemas.results.Candidate` says what each field means."""

    pair: Pair = field(repr=False)
    evidence: tuple[Evidence, ...]
    verdict: Verdict
    direction: Direction
    relation: Relation
    log10_p: float
    log10_p_adjusted: float
    probability: float
    score: float
    declared: bool
    merge: MergeShare | None = None
    layers: tuple[LayerRun, ...] = ()
    steps: int = 0
    disguised: bool = False
    """Whether products alone show the common origin (`deep`)."""
    decided_by: Witness | None = None

    @property
    def meta(self) -> DossierMeta:
        """What is known of the candidate."""
        return self.pair.b.dossier.meta

    @property
    def repo_id(self) -> str:
        return self.meta.repo_id

    @property
    def merge_weight(self) -> float | None:
        return self.merge.weight if self.merge else None

    @property
    def p_value(self) -> float:
        return to_p(self.log10_p)

    @property
    def p_adjusted(self) -> float:
        return to_p(self.log10_p_adjusted)

    @property
    def is_relative(self) -> bool:
        """Whether the two have a common origin."""
        return self.verdict in (Verdict.DERIVED, Verdict.RELATED)

    @property
    def may_be_ancestor(self) -> bool:
        """Whether a relative may be an ancestor that is not proven one. A disguised one may, unless it is younger."""
        if self.disguised:
            return self.direction is not Direction.CHILD and self.date_order >= 0
        return self.verdict is Verdict.RELATED and self.direction is Direction.UNKNOWN

    @property
    def date_order(self) -> int:
        """1 where the candidate is the older by the dates of creation, -1 where the model is, 0 where none says."""
        return dated(self.pair.b.dossier, self.pair.a.dossier)


def assess(pair: Pair, n_store: int) -> Assessment:
    """Examine one pair by itself; `settle` then looks at all relatives together."""
    evidence = tuple(gather(pair))
    lines = [e.log10_p for e in evidence if e.kind in CONVICTING and e.log10_p is not None]
    # Corrected for all lines, those that have nothing to say too: a folder, which has no digests of files, and a hub
    # give one answer.
    log10_p = combine_log10_p(lines, len(CONVICTING))
    adjusted = adjust_log10_p(log10_p, n_store)
    comparable = judgeable(pair) and bool(lines)
    if comparable and adjusted <= math.log10(ALPHA):
        verdict = Verdict.RELATED
    elif not comparable or adjusted <= math.log10(SUSPICION) or _out_of_line(pair, evidence):
        verdict = Verdict.INCONCLUSIVE
    else:
        verdict = Verdict.UNRELATED
    return Assessment(
        pair,
        evidence,
        verdict,
        Direction.UNKNOWN,
        Relation.UNKNOWN,
        log10_p,
        adjusted,
        probability(log10_p, n_store) if comparable else 0.0,
        _score(pair) if comparable else 0.0,
        pair.a.dossier.meta.declares(pair.b.dossier.repo_id),
    )


def judgeable(pair: Pair) -> bool:
    """Whether both checkpoints have enough sampled matrices to say anything, and are of one kind."""
    return pair.of_one_kind and all(len(subject.dossier.matrices.facts) >= MIN_MATRICES for subject in (pair.a, pair.b))


Families = dict[tuple[int, ...], Family]
"""Families by the identities of their checkpoints' dossiers, for many questions about the same ones."""


def settle(assessments: Sequence[Assessment], families: Families | None = None) -> list[Assessment]:
    """Tell ancestors from other relatives, all of them at once, and rank the candidates.

    Order: ancestors, the most direct first; then relatives, then undecided, then strangers; copies by date of creation,
    then name.

    Args:
        assessments: of all candidates of one model.
        families: those worked out so far, which are used and added to. Their checkpoints must stay in memory.
    """
    relatives = [a for a in assessments if a.verdict is Verdict.RELATED]
    others = [a for a in assessments if a.verdict is not Verdict.RELATED]
    if relatives:
        model = relatives[0].pair.a
        # In one order whoever is asked about, so that all are told the same.
        subjects = sorted([model, *(a.pair.b for a in relatives)], key=lambda one: one.dossier.checkpoint_id)
        place = {subject.dossier.checkpoint_id: i for i, subject in enumerate(subjects)}
        family = _family(subjects, families)
        own = place[model.dossier.checkpoint_id]
        placed = [(one, place[one.pair.b.dossier.checkpoint_id]) for one in relatives]
        relatives = [_with_witnesses(_place(one, family, i, own), family, i, own) for one, i in placed]
    return sorted([*relatives, *others], key=_rank)


def _family(subjects: Sequence[Subject], families: Families | None) -> Family:
    key = tuple(id(subject.dossier) for subject in subjects)
    if families is None or key not in families:
        family = family_of([Member(subject.dossier, subject.grid) for subject in subjects])
        if families is None:
            return family
        families[key] = family
    return families[key]


def model_verdict(assessments: Sequence[Assessment], *, judgeable: bool) -> ModelVerdict:
    """What is claimed of the model, from the settled candidates."""
    if any(a.verdict is Verdict.DERIVED for a in assessments):
        return ModelVerdict.DERIVED
    relatives = [a for a in assessments if a.verdict is Verdict.RELATED]
    undecided = any(a.may_be_ancestor for a in relatives) or (
        not relatives and any(a.verdict is Verdict.INCONCLUSIVE and judged(a) for a in assessments)
    )
    return ModelVerdict.INCONCLUSIVE if undecided or not judgeable else ModelVerdict.NO_PARENT_FOUND


def judged(assessment: Assessment) -> bool:
    """Whether the candidate itself could be examined."""
    return judgeable(assessment.pair)


def _place(me: Assessment, family: Family, i: int, own: int) -> Assessment:
    """What the candidate at place `i` of the family is to the model, which stands at place `own`."""
    up, down = float(family.ancestry[i, own]), float(family.ancestry[own, i])
    if up >= SAID:
        direction = Direction.PARENT
    elif down >= SAID:
        direction = Direction.CHILD
    else:
        direction = Direction.SIBLING if up + down <= NEITHER else Direction.UNKNOWN
    if family.in_dispute(i, own):
        direction = Direction.UNKNOWN
    verdict = Verdict.DERIVED if direction is Direction.PARENT else Verdict.RELATED
    if family.copies[i] == family.copies[own]:
        return replace(me, verdict=verdict, direction=direction, relation=relation_of(me.pair, direction))
    if (share := family.share(i, own)) is not None:
        merge, layers = share
        return replace(
            me,
            evidence=(*me.evidence, merge_evidence(merge, layers)),
            verdict=Verdict.DERIVED,
            direction=Direction.PARENT,
            relation=Relation.MERGE,
            merge=merge,
            layers=layers,
            steps=1,
        )
    if direction in (Direction.PARENT, Direction.CHILD):
        if _only_a_common_start(me, direction):
            return replace(me, direction=Direction.SIBLING)
        if _norms_below(me, NORMS_LOST):
            return replace(me, direction=Direction.UNKNOWN)
    elif all(_only_a_common_start(me, order) for order in (Direction.PARENT, Direction.CHILD)):
        direction = Direction.SIBLING
    if direction is Direction.SIBLING:
        return replace(me, direction=direction)
    relation = relation_of(me.pair, direction)
    # An ancestor that is none in the most probable tree is listed after all that are.
    steps = (int(family.steps[i, own]) or len(family.members)) if direction is Direction.PARENT else 0
    layers = () if me.pair.same_depth else moved_layers(me.pair.a.grid, me.pair.b.grid)
    return replace(me, verdict=verdict, direction=direction, relation=relation, layers=layers, steps=steps)


def _with_witnesses(me: Assessment, family: Family, i: int, own: int) -> Assessment:
    """The assessment with what decided its direction.

    Every date or declaration that contradicts its order is a line of evidence, shown and never counted.
    """
    said = family.precedence(i, own)
    order = {Direction.PARENT: 1, Direction.CHILD: -1}.get(me.direction, 0)
    witness = said.witness(first=order > 0, doubt=family.doubt) if order else None
    notes = dict(zip(METADATA, ("the dates", "what the card declares"), strict=True))
    lines = [
        Evidence(kind, None, None, None, 0, f"{notes[kind]} of these two contradict the weights, and decide nothing")
        for kind in said.against(order or said.clear)
    ]
    if family.doubt > DOUBTED and not any(line.kind == "dates" for line in lines):
        note = "the weights contradict the dates of this family, which decide nothing"
        lines.append(Evidence("dates", None, None, None, 0, note))
    witness = Witness.MERGE if me.merge_weight is not None else witness
    return replace(me, evidence=(*me.evidence, *lines), decided_by=witness)


def _only_a_common_start(me: Assessment, direction: Direction) -> bool:
    """Whether the two only share a beginning, as twins from one initialisation do: too little was carried over."""
    found = me.pair.slopes
    if found is None:
        return False
    # Slope of the younger on the older: `a` is the model, `b` the candidate.
    slopes = found.a_on_b, found.b_on_a
    older, younger = slopes if direction is Direction.PARENT else slopes[::-1]
    symmetric = older - younger < ASYMMETRY
    return older < CARRIED_PARTLY or (symmetric and (older < CARRIED_OVER or _norms_below(me, NORMS_KEPT)))


def _norms_below(me: Assessment, limit: float) -> bool:
    """Whether the norms say that the two were trained apart, however near their matrices are.

    Norms start constant, so all that varies in them was learnt: a light change of a trained model keeps it, while twins
    that have hardly left their common start each learnt their own.
    """
    norms = next((e.value for e in me.evidence if e.kind == "norm_correlation"), None)
    return me.pair.same_depth and norms is not None and norms < limit


def coverage(pair: Pair) -> float:
    """Share of the model's layers that have a counterpart in the candidate."""
    return len(np.unique(pair.layers[0])) / max(1, len(pair.a.grid.layers))


def _score(pair: Pair) -> float:
    """Strength between 0 and 1: correlation of corresponding layers times the share of layers that correspond."""
    return max(0.0, pair.aligned.correlation) * coverage(pair)


def _out_of_line(pair: Pair, evidence: Sequence[Evidence]) -> bool:
    """Whether a supporting line stands so far above all strangers that `unrelated` would be rash.

    Supporting lines have empirical nulls and cannot convict; but weights can be permuted, rotated or cut so that no
    cell corresponds any more, while curves and norms stay.
    """
    return any(
        e.kind in SUPPORTING and e.value is not None and outlies(e.value, pair.strangers(e.kind)) for e in evidence
    )


_ORDER = (Verdict.DERIVED, Verdict.RELATED, Verdict.INCONCLUSIVE, Verdict.UNRELATED)


def _rank(one: Assessment) -> tuple[object, ...]:
    if one.is_relative:
        strength: tuple[float, ...] = (-round(one.score, 4),)
    else:
        support = max((e.value or 0.0 for e in one.evidence if e.kind in SUPPORTING), default=-2.0)
        strength = (round(one.log10_p, 1), -support)
    # What could not be examined at all stands last.
    return (
        not judged(one),
        _ORDER.index(one.verdict),
        one.steps,
        strength,
        one.meta.created_at or "9999",
        one.repo_id,
    )
