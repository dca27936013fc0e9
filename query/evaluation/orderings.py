"""Who is said to be the parent: with the dates of the store, with none, and with wrong ones.

Weight evidence is measured once. For every kind of dates only the order is worked out again.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from provenance.query.evaluation.graph import Descent, adjusted_rand, components
from provenance.query.evaluation.truth import Judged, Truth, family
from provenance.query.evidence.pair import Subject
from provenance.query.verdict.again import settled_again
from provenance.query.verdict.rule import Assessment, Families, model_verdict
from provenance.schemas.enums import Direction, ModelVerdict, Relation, Verdict
from provenance.schemas.evaluation import MergeFigures, Ordering, ScenarioFigures, WrongDirection
from provenance.schemas.tabular import Rows

SHUFFLES = 3
"""Times that the dates are dealt out at random; the seeds are 0, 1, ..."""


@dataclass(frozen=True)
class Answer:
    """The answer about one model under some dates."""

    truth: Truth
    adapter: bool
    verdict: ModelVerdict
    candidates: Sequence[Assessment]

    @property
    def open(self) -> bool:
        """Whether it is a checkpoint of its own that does not hide where it comes from."""
        return not self.truth.attack and not self.adapter

    @property
    def direct_parents(self) -> list[str]:
        """The candidates that it is said to come from directly: one, or those of a merge."""
        derived = [c for c in self.candidates if c.verdict is Verdict.DERIVED]
        merged = [c.repo_id for c in derived if c.merge_weight is not None]
        return merged or [c.repo_id for c in derived[:1]]


def as_stored(judged: Sequence[Judged], truth: Mapping[str, Truth]) -> list[Answer]:
    """The answers as they were given."""
    return [
        Answer(j.truth, j.adapter, j.judgement.verdict, [c for c in j.judgement.candidates if c.repo_id in truth])
        for j in judged
    ]


def orderings(
    judged: Sequence[Judged], truth: Mapping[str, Truth]
) -> tuple[Rows[Ordering], Rows[WrongDirection], Rows[ScenarioFigures], MergeFigures]:
    """Measure directions, edges and families under all three kinds of dates, scenarios and merges under the stored."""
    descent = Descent(truth)
    stored = as_stored(judged, truth)
    dates = {j.truth.model: j.judgement.model.meta.created_at for j in judged}
    bare = dict.fromkeys(dates)
    shuffled = [_answers(judged, truth, _dealt(dates, seed)) for seed in range(SHUFFLES)]
    kinds = {"as stored": [stored], "none": [_answers(judged, truth, bare)], "shuffled": shuffled}
    wrong = (
        WrongDirection(kind, answer.truth.model, c.repo_id, c.direction)
        for kind, runs in kinds.items()
        for answer in runs[0]
        for c in _said(answer)
        if not _right(answer, c, descent)
    )
    return (
        Rows(Ordering, (_ordering(kind, runs, descent, truth) for kind, runs in kinds.items())),
        Rows(WrongDirection, wrong),
        Rows(ScenarioFigures, _scenarios(stored, descent)),
        _merges(stored),
    )


def _dealt(dates: Mapping[str, str | None], seed: int) -> dict[str, str | None]:
    """The same dates, of other models."""
    values = list(dates.values())
    random.Random(seed).shuffle(values)
    return dict(zip(dates, values, strict=True))


def _answers(judged: Sequence[Judged], truth: Mapping[str, Truth], dates: Mapping[str, str | None]) -> list[Answer]:
    """The answers with other dates and without cards."""
    known: dict[str, Subject] = {}
    families: Families = {}

    def other(subject: Subject) -> Subject:
        dossier = subject.dossier
        if dossier.checkpoint_id not in known:
            meta = replace(dossier.meta, created_at=dates.get(dossier.repo_id), declared_parents=())
            known[dossier.checkpoint_id] = Subject(replace(dossier, meta=meta))
        return known[dossier.checkpoint_id]

    found = []
    for j in judged:
        candidates = settled_again(j.judgement.candidates, other, families)
        verdict = model_verdict(candidates, judgeable=j.judgement.judgeable)
        found.append(Answer(j.truth, j.adapter, verdict, [c for c in candidates if c.repo_id in truth]))
    return found


def _said(answer: Answer) -> list[Assessment]:
    """Relatives, no copies, of which a direction is said."""
    return [c for c in _relatives(answer) if c.direction in (Direction.PARENT, Direction.CHILD)]


def _relatives(answer: Answer) -> list[Assessment]:
    return [c for c in answer.candidates if c.is_relative and c.relation is not Relation.IDENTICAL]


def _right(answer: Answer, c: Assessment, descent: Descent) -> bool:
    pair = answer.truth.model, c.repo_id
    return descent.descends(*(pair if c.direction is Direction.PARENT else pair[::-1]))


def _ordering(kind: str, runs: Sequence[Sequence[Answer]], descent: Descent, truth: Mapping[str, Truth]) -> Ordering:
    answers = [answer for run in runs for answer in run]
    derivatives = [a for a in answers if a.open and a.truth.parents]
    parents = [(a, c) for a in derivatives for c in _relatives(a) if descent.is_parent(c.repo_id, a.truth.model)]
    said = [c for _, c in parents if c.direction in (Direction.PARENT, Direction.CHILD)]
    claims = [(a, c) for a in answers for c in _said(a)]
    predicted = [descent.is_parent(p, a.truth.model) for a in answers if a.open for p in a.direct_parents]
    # Copies of one parent are one parent.
    named = [{descent.original(p) for p in a.direct_parents} for a in derivatives]
    true = [{descent.original(p) for p in a.truth.parents} for a in derivatives]
    found = sum(len(one & other) for one, other in zip(named, true, strict=True))
    precision = _share(sum(predicted), len(predicted))
    recall = _share(found, sum(map(len, true)))
    rand = [[_rand(run, verdicts, truth) for run in runs] for verdicts in (_DERIVED, _RELATED)]
    return Ordering(
        dates=kind,
        runs=len(runs),
        models=len(derivatives),
        derived=_share(sum(a.verdict is ModelVerdict.DERIVED for a in derivatives), len(derivatives)),
        parent_first=_share(
            sum(descent.is_parent(a.candidates[0].repo_id, a.truth.model) for a in derivatives if a.candidates),
            len(derivatives),
        ),
        parent_pairs=len(parents),
        parent_said=_share(len(said), len(parents)),
        parent_right=_share(sum(c.direction is Direction.PARENT for c in said), len(said)),
        directions=sum(len(_relatives(a)) for a in answers),
        directions_said=len(claims),
        directions_right=sum(_right(a, c, descent) for a, c in claims),
        unknown=_share(
            sum(c.direction is Direction.UNKNOWN for a in answers for c in _relatives(a)),
            sum(len(_relatives(a)) for a in answers),
        ),
        edge_precision=precision,
        edge_recall=recall,
        edge_f1=2 * precision * recall / (precision + recall) if precision and recall else None,
        rand_derived=float(np.mean(rand[0])),
        rand_related=float(np.mean(rand[1])),
    )


_DERIVED = (Verdict.DERIVED,)
_RELATED = (Verdict.DERIVED, Verdict.RELATED)


def _rand(run: Sequence[Answer], verdicts: Sequence[Verdict], truth: Mapping[str, Truth]) -> float:
    """Adjusted Rand index of the parts that claims join, against the true families; open models only."""
    models = [a.truth.model for a in run if a.open]
    edges = [(a.truth.model, c.repo_id) for a in run if a.open for c in a.candidates if c.verdict in verdicts]
    roots = [(model, root) for model in models for root in family(model, truth)]
    return adjusted_rand(components(models, edges), components(models, roots))


def _scenarios(answers: Iterable[Answer], descent: Descent) -> Iterable[ScenarioFigures]:
    kinds: dict[str, list[Answer]] = {}
    for answer in answers:
        kinds.setdefault(answer.truth.scenario or answer.truth.relation, []).append(answer)
    for name, members in sorted(kinds.items()):
        said = [(a, c) for a in members for c in _said(a)]
        yield ScenarioFigures(
            scenario=name,
            models=len(members),
            derivatives=sum(bool(a.truth.parents) for a in members),
            derived=sum(a.verdict is ModelVerdict.DERIVED for a in members),
            parent_first=sum(
                descent.is_parent(a.candidates[0].repo_id, a.truth.model) for a in members if a.candidates
            ),
            directions=sum(len(_relatives(a)) for a in members),
            directions_said=len(said),
            directions_right=sum(_right(a, c, descent) for a, c in said),
        )


def _merges(answers: Iterable[Answer]) -> MergeFigures:
    """Merges of several stored parents: how many have just those named, and how far their weights are off."""
    merges = named = 0
    errors: list[float] = []
    for answer in answers:
        if answer.open and len(answer.truth.parents) > 1:
            found = {c.repo_id: c.merge_weight for c in answer.candidates if c.merge_weight is not None}
            merges, named = merges + 1, named + (set(found) == set(answer.truth.parents))
            weights = zip(answer.truth.parents, answer.truth.weights, strict=False)
            errors += [abs(found[parent] - weight) for parent, weight in weights if parent in found]
    return MergeFigures(
        merges=merges,
        parents_named=named,
        weights=len(errors),
        mean_error=float(np.mean(errors)) if errors else None,
        largest_error=max(errors, default=None),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
