"""From evidence to claims: one rule, written out in `docs/method.md`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from provenance.indexer.dossier_meta import DossierMeta
from provenance.query.evidence.pair import Pair
from provenance.query.evidence.registry import CONVICTING, SUPPORTING, gather
from provenance.query.statistics.significance import adjust_log10_p, combine_log10_p, outlies, probability, to_p
from provenance.query.verdict.family import Family, family_of
from provenance.query.verdict.relation import relation_of
from provenance.query.verdict.runs import merge_evidence
from provenance.query.verdict.stack import moved_layers
from provenance.query.verdict.witness import Member
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

SAID = 0.95
"""A direction is said when it is at least so probable."""

NEITHER = 0.1
"""Relatives are siblings when the probability that either descends from the other is at most this."""

MIN_MATRICES = 4
"""Checkpoints with fewer sampled layer matrices cannot be judged."""


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
    """Whether both checkpoints have enough sampled matrices to say anything."""
    return all(len(subject.dossier.matrices.facts) >= MIN_MATRICES for subject in (pair.a, pair.b))


def settle(assessments: Sequence[Assessment]) -> list[Assessment]:
    """Tell ancestors from other relatives, all of them at once, and rank the candidates.

    Order: ancestors, the most direct first; then relatives, then undecided, then strangers; copies by date of creation,
    then name.
    """
    relatives = [a for a in assessments if a.verdict is Verdict.RELATED]
    others = [a for a in assessments if a.verdict is not Verdict.RELATED]
    if relatives:
        subjects = [relatives[0].pair.a, *(a.pair.b for a in relatives)]
        family = family_of([Member(subject.dossier, subject.grid) for subject in subjects])
        relatives = [_with_witnesses(_place(one, family, i), family, i) for i, one in enumerate(relatives, start=1)]
    return sorted([*relatives, *others], key=_rank)


def model_verdict(assessments: Sequence[Assessment], *, judgeable: bool) -> ModelVerdict:
    """What is claimed of the model, from the settled candidates."""
    if any(a.verdict is Verdict.DERIVED for a in assessments):
        return ModelVerdict.DERIVED
    relatives = [a for a in assessments if a.verdict is Verdict.RELATED]
    undecided = any(a.direction is Direction.UNKNOWN for a in relatives) or (
        not relatives and any(a.verdict is Verdict.INCONCLUSIVE and judged(a) for a in assessments)
    )
    return ModelVerdict.INCONCLUSIVE if undecided or not judgeable else ModelVerdict.NO_PARENT_FOUND


def judged(assessment: Assessment) -> bool:
    """Whether the candidate itself could be examined."""
    return judgeable(assessment.pair)


def _place(me: Assessment, family: Family, i: int) -> Assessment:
    """What the candidate at place `i` of the family is to the model, which stands at place 0."""
    up, down = float(family.ancestry[i, 0]), float(family.ancestry[0, i])
    if up >= SAID:
        direction = Direction.PARENT
    elif down >= SAID:
        direction = Direction.CHILD
    else:
        direction = Direction.SIBLING if up + down <= NEITHER else Direction.UNKNOWN
    if family.in_dispute(i, 0):
        direction = Direction.UNKNOWN
    verdict = Verdict.DERIVED if direction is Direction.PARENT else Verdict.RELATED
    if family.copies[i] == family.copies[0]:
        return replace(me, verdict=verdict, direction=direction, relation=Relation.IDENTICAL)
    if (share := family.share(i, 0)) is not None:
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
    if direction in (Direction.PARENT, Direction.CHILD) and _only_a_common_start(me, direction):
        return replace(me, direction=Direction.SIBLING)
    if direction is Direction.SIBLING:
        return replace(me, direction=direction)
    relation = relation_of(me.pair, direction)
    # An ancestor that is none in the most probable tree is listed after all that are.
    steps = (int(family.steps[i, 0]) or len(family.members)) if direction is Direction.PARENT else 0
    layers = () if me.pair.same_depth else moved_layers(me.pair.a.grid, me.pair.b.grid)
    return replace(me, verdict=verdict, direction=direction, relation=relation, layers=layers, steps=steps)


def _with_witnesses(me: Assessment, family: Family, i: int) -> Assessment:
    """The assessment with what decided its direction.

    Every date or declaration that the weights contradict is a line of evidence, shown and never counted.
    """
    said = family.precedence(i, 0)
    directed = me.direction in (Direction.PARENT, Direction.CHILD)
    witness = said.witness(first=me.direction is Direction.PARENT) if directed else None
    notes = {"dates": "the dates", "declared": "what the card declares"}
    lines = [
        Evidence(kind, None, None, None, 0, f"{notes[kind]} of these two contradict the weights, and decide nothing")
        for kind in said.overruled
    ]
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
    return older < CARRIED_PARTLY or (symmetric and (older < CARRIED_OVER or _norms_differ(me)))


def _norms_differ(me: Assessment) -> bool:
    """Whether the norms say that the two were trained apart, however near their matrices are.

    Norms start constant, so all that varies in them was learnt: a light change of a trained model keeps it, while twins
    that have hardly left their common start each learnt their own.
    """
    norms = next((e.value for e in me.evidence if e.kind == "norm_correlation"), None)
    return me.pair.same_depth and norms is not None and norms < NORMS_KEPT


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
