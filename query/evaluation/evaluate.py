"""Quality of the answers, measured against a table of true lineage. Only this package reads such tables."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from provenance.indexer.dossier import Dossier
from provenance.query.catalogue import Catalogue
from provenance.query.engine import judge
from provenance.query.evaluation.calibration import calibration
from provenance.query.evaluation.line_tables import ablation_table, line_table
from provenance.query.evaluation.orderings import orderings
from provenance.query.evaluation.truth import Judged, Truth, family, related
from provenance.query.verdict.rule import ALPHA, Assessment
from provenance.schemas.enums import ModelVerdict, Verdict
from provenance.schemas.errors import TruthError
from provenance.schemas.evaluation import (
    Accusations,
    EvaluatedModel,
    Evaluation,
    FalseAccusation,
    LogScore,
    RelationVerdicts,
    Retrieval,
    TruthFigures,
)
from provenance.schemas.protocols import Advance
from provenance.schemas.tabular import Rows

Dossiers = Mapping[str, Dossier]


def evaluate(truth: Mapping[str, Truth], catalogue: Catalogue, advance: Advance | None = None) -> Evaluation:
    """Query every stored model of a truth table and measure the answers.

    Args:
        truth: the table.
        catalogue: the stored checkpoints.
        advance: told of every model that is judged.

    Raises:
        TruthError: none of its models is stored.
    """
    dossiers = {dossier.repo_id: dossier for dossier in catalogue.dossiers()}
    stored = [row for row in truth.values() if row.model in dossiers]
    judged = []
    for done, row in enumerate(stored, start=1):
        judged.append(Judged(row, judge(dossiers[row.model], catalogue)))
        if advance:
            advance(done, len(stored))
    if not judged:
        raise TruthError("the store holds none of the truth table's models; crawl them first")
    pairs = [(j, c) for j in judged for c in j.judgement.candidates if c.repo_id in truth]
    compared = [(j, c) for j, c in pairs if c.pair.of_one_kind]
    ordered, wrong, scenarios, merges = orderings(judged, truth)
    details = Rows(EvaluatedModel, (_detail(j, truth, dossiers) for j in judged))
    return Evaluation(
        models=TruthFigures(len(truth), len(judged)),
        retrieval={
            "non-attack": _retrieval([d for d in details if d.derived and not d.attack and not d.adapter]),
            "attack": _retrieval([d for d in details if d.derived and d.attack]),
        },
        accusations=_accusations(pairs, truth),
        verdicts=_verdicts(judged),
        lines=line_table(compared, truth),
        ablation=ablation_table(compared, truth),
        calibration=calibration([(family(j.truth.model, truth), family(c.repo_id, truth), c) for j, c in compared]),
        probability=_log_score(pairs, truth),
        orderings=ordered,
        wrong_directions=wrong,
        scenarios=scenarios,
        merges=merges,
        models_detail=details,
    )


def _same_weights(a: Dossier, b: Dossier) -> bool:
    return (
        len(a.values) > 0
        and np.array_equal(a.values, b.values)
        and np.array_equal(a.facts["exponent"], b.facts["exponent"])
    )


def _detail(j: Judged, truth: Mapping[str, Truth], dossiers: Dossiers) -> EvaluatedModel:
    known = [c for c in j.judgement.candidates if c.repo_id in truth]
    first = known[0] if known else None
    return EvaluatedModel(
        model=j.truth.model,
        relation=j.truth.relation,
        attack=j.truth.attack,
        derived=j.truth.derived,
        adapter=j.adapter,
        verdict=j.judgement.verdict,
        first=first.repo_id if first else None,
        first_verdict=first.verdict if first else None,
        first_relation=first.relation if first else None,
        family_rank=_rank_of(known, lambda c: related(j.truth.model, c.repo_id, truth)),
        parent_rank=_rank_of(known, lambda c: _is_parent(j.truth, c, dossiers)),
    )


def _is_parent(truth: Truth, candidate: Assessment, dossiers: Dossiers) -> bool:
    """Whether a candidate is a direct parent, or has the same weights as one."""
    return candidate.repo_id in truth.parents or any(
        parent in dossiers and _same_weights(dossiers[parent], candidate.pair.b.dossier) for parent in truth.parents
    )


def _rank_of(candidates: Sequence[Assessment], right: Callable[[Assessment], bool]) -> int | None:
    return next((rank for rank, c in enumerate(candidates, start=1) if right(c)), None)


def _retrieval(members: Sequence[EvaluatedModel]) -> Retrieval:
    return Retrieval(
        models=len(members),
        family_at_1=_share(member.family_rank == 1 for member in members),
        family_at_5=_share((member.family_rank or 99) <= 5 for member in members),
        parent_at_1=_share(member.parent_rank == 1 for member in members),
        parent_at_5=_share((member.parent_rank or 99) <= 5 for member in members),
        derived=_share(member.verdict is ModelVerdict.DERIVED for member in members),
    )


def _accusations(pairs: Sequence[tuple[Judged, Assessment]], truth: Mapping[str, Truth]) -> Accusations:
    unrelated = [(j, c) for j, c in pairs if not related(j.truth.model, c.repo_id, truth)]
    accused = [(j, c) for j, c in unrelated if c.is_relative]
    accused_at_tenfold = [c for _, c in unrelated if c.log10_p_adjusted <= math.log10(10 * ALPHA)]
    return Accusations(
        unrelated_pairs=len(unrelated),
        accused=len(accused),
        accused_at_ten_times_alpha=len(accused_at_tenfold),
        smallest_log10_p_adjusted=min((c.log10_p_adjusted for _, c in unrelated), default=0.0),
        who=tuple(FalseAccusation(j.truth.model, c.repo_id, c.verdict) for j, c in accused),
    )


def _verdicts(judged: Sequence[Judged]) -> Rows[RelationVerdicts]:
    """Per kind of relation: number of models, their verdicts, and the relations of their best candidates."""
    kinds: dict[str, list[Judged]] = defaultdict(list)
    for j in judged:
        kinds[j.truth.relation].append(j)
    rows = []
    for relation, members in sorted(kinds.items()):
        tops = [j.judgement.candidates[0] for j in members if j.judgement.candidates]
        verdicts = [j.judgement.verdict for j in members]
        rows.append(
            RelationVerdicts(
                relation=relation,
                models=len(members),
                derived=verdicts.count(ModelVerdict.DERIVED),
                no_parent_found=verdicts.count(ModelVerdict.NO_PARENT_FOUND),
                inconclusive=verdicts.count(ModelVerdict.INCONCLUSIVE),
                named=", ".join(sorted({c.relation for c in tops if c.verdict is Verdict.DERIVED})) or "–",
            )
        )
    return Rows(RelationVerdicts, rows)


def _log_score(pairs: Sequence[tuple[Judged, Assessment]], truth: Mapping[str, Truth]) -> LogScore | None:
    """Mean negative log likelihood (nats) of `probability` over judged pairs, and that of the base rate."""
    judged = [(c.probability, related(j.truth.model, c.repo_id, truth)) for j, c in pairs if c.probability > 0]
    if not judged:
        return None
    p = np.clip(np.array([x for x, _ in judged]), 1e-12, 1 - 1e-12)
    y = np.array([x for _, x in judged], dtype=np.float64)
    base = float(np.clip(y.mean(), 1e-12, 1 - 1e-12))
    return LogScore(
        pairs=len(judged),
        log_score=float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))),
        base_rate_log_score=float(-(base * math.log(base) + (1 - base) * math.log(1 - base))),
    )


def _share(values: Iterable[bool]) -> float | None:
    answers = list(values)
    return sum(answers) / len(answers) if answers else None
