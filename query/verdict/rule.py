"""From evidence to claims: one rule, written out in `docs/method.md`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from provenance.query.evidence import CONVICTING, SUPPORTING, gather
from provenance.query.evidence.pair import Pair
from provenance.query.statistics.significance import adjust_log10_p, combine_log10_p, outlies, probability
from provenance.query.verdict.family import Family, family_of
from provenance.query.verdict.relation import relation_of
from provenance.query.verdict.witness import Member
from provenance.schemas.records import Evidence

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
class Candidate:
    """A candidate with everything claimed about it; field names are the JSON keys of `provenance query`."""

    pair: Pair = field(repr=False)
    evidence: tuple[Evidence, ...]
    verdict: str
    direction: str
    relation: str
    log10_p: float
    log10_p_adjusted: float
    probability: float
    score: float
    declared: bool
    merge_weight: float | None = None
    steps: int = 0

    @property
    def repo_id(self) -> str:
        return self.pair.b.dossier.repo_id


def assess(pair: Pair, n_store: int) -> Candidate:
    """Examine one pair by itself; `settle` then looks at all relatives together."""
    evidence = tuple(gather(pair))
    lines = [e.log10_p for e in evidence if e.kind in CONVICTING and e.log10_p is not None]
    # Corrected for all lines, those that have nothing to say too: a folder, which has no digests of files, and a hub
    # give one answer.
    log10_p = combine_log10_p(lines, len(CONVICTING))
    adjusted = adjust_log10_p(log10_p, n_store)
    comparable = judgeable(pair) and bool(lines)
    kin = comparable and adjusted <= math.log10(ALPHA)
    if kin:
        verdict = "related"
    elif not comparable or adjusted <= math.log10(SUSPICION) or _out_of_line(pair, evidence):
        verdict = "inconclusive"
    else:
        verdict = "unrelated"
    return Candidate(
        pair,
        evidence,
        verdict,
        "unknown",
        "unknown",
        log10_p,
        adjusted,
        probability(log10_p, n_store) if comparable else 0.0,
        _score(pair) if comparable else 0.0,
        pair.b.dossier.repo_id in (pair.a.dossier.meta["declared_parents"] or ()),
    )


def judgeable(pair: Pair) -> bool:
    """Whether both checkpoints have enough sampled matrices to say anything."""
    return all(len(subject.dossier.matrices.facts) >= MIN_MATRICES for subject in (pair.a, pair.b))


def settle(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Tell ancestors from other relatives, all of them at once, and rank the candidates.

    Order: ancestors, the most direct first; then relatives, then undecided, then strangers; copies by date of creation,
    then name.
    """
    kin = [c for c in candidates if c.verdict == "related"]
    others = [c for c in candidates if c.verdict != "related"]
    if kin:
        model = kin[0].pair.a
        family = family_of([Member(s.dossier, s.grid) for s in (model, *(c.pair.b for c in kin))])
        placed = [_place(candidate, family, i) for i, candidate in enumerate(kin, start=1)]
    else:
        placed = []
    return sorted([*placed, *others], key=_rank)


def model_verdict(candidates: Sequence[Candidate], *, judgeable: bool) -> str:
    """`derived`, `no-parent-found` or `inconclusive`, from the settled candidates."""
    if any(c.verdict == "derived" for c in candidates):
        return "derived"
    kin = [c for c in candidates if c.verdict == "related"]
    undecided = any(c.direction == "unknown" for c in kin) or (
        not kin and any(c.verdict == "inconclusive" and judged(c) for c in candidates)
    )
    return "inconclusive" if undecided or not judgeable else "no-parent-found"


def judged(candidate: Candidate) -> bool:
    """Whether the candidate itself could be examined."""
    return judgeable(candidate.pair)


def _place(me: Candidate, family: Family, i: int) -> Candidate:
    """What the candidate at place `i` of the family is to the model, which stands at place 0."""
    up, down = float(family.ancestry[i, 0]), float(family.ancestry[0, i])
    if family.copies[i] == family.copies[0]:
        direction = "parent" if up >= SAID else "child" if down >= SAID else "unknown"
        verdict = "derived" if direction == "parent" else "related"
        return replace(me, verdict=verdict, direction=direction, relation="identical")
    if merge := family.merges.get(0):
        for place, weight in merge.weights.items():
            if family.copies[place] == family.copies[i]:
                return replace(
                    me, verdict="derived", direction="parent", relation="merge", merge_weight=weight, steps=1
                )
    if up >= SAID:
        if _only_a_common_start(me):
            return replace(me, direction="sibling", relation="unknown")
        relation = relation_of(me.pair, "parent")
        return replace(me, verdict="derived", direction="parent", relation=relation, steps=int(family.steps[i, 0]))
    if down >= SAID:
        return replace(me, direction="child", relation=relation_of(me.pair, "child"))
    if up + down <= NEITHER:
        return replace(me, direction="sibling", relation="unknown")
    return replace(me, direction="unknown", relation=relation_of(me.pair, "unknown"))


def _only_a_common_start(me: Candidate) -> bool:
    """Whether the two only share a beginning, as twins from one initialisation do: too little was carried over."""
    found = me.pair.slopes
    if found is None:
        return False
    older, younger = found.a_on_b, found.b_on_a  # slope of the younger (`a`, the model) on the older
    symmetric = older - younger < ASYMMETRY
    return older < CARRIED_PARTLY or (symmetric and (older < CARRIED_OVER or _norms_differ(me)))


def _norms_differ(me: Candidate) -> bool:
    """Whether the norms say that the two were trained apart, however near their matrices are.

    Norms start constant, so all that varies in them was learnt: a light change of a trained model keeps it, while twins
    that have hardly left their common start each learnt their own.
    """
    norms = next((e.value for e in me.evidence if e.kind == "norm_correlation"), None)
    return me.pair.same_depth and norms is not None and norms < NORMS_KEPT


def _created(candidate: Candidate) -> str | None:
    created: str | None = candidate.pair.b.dossier.meta["created_at"]
    return created


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


_ORDER = {"derived": 0, "related": 1, "inconclusive": 2, "unrelated": 3}


def _rank(candidate: Candidate) -> tuple[object, ...]:
    if candidate.verdict in ("derived", "related"):
        strength: tuple[float, ...] = (-round(candidate.score, 4),)
    else:
        support = max((e.value or 0.0 for e in candidate.evidence if e.kind in SUPPORTING), default=-2.0)
        strength = (round(candidate.log10_p, 1), -support)
    # What could not be examined at all stands last.
    return (
        not judged(candidate),
        _ORDER[candidate.verdict],
        candidate.steps,
        strength,
        _created(candidate) or "9999",
        candidate.repo_id,
    )
