"""How good the answers are, measured against a table of true lineage. The only reader of such tables."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from provenance.indexer.dossier import Dossier
from provenance.query.engine import Answer
from provenance.query.evaluation.calibration_check import calibration
from provenance.query.evaluation.line_tables import ablation_table, line_table
from provenance.query.evaluation.truth import Judged, Truth, family, related
from provenance.query.verdict.rule import ALPHA, Candidate
from provenance.schemas.errors import TruthError


def evaluate(
    truth: Mapping[str, Truth], dossiers: Mapping[str, Dossier], answer: Callable[[Dossier], Answer]
) -> dict[str, Any]:
    """Query every stored model of a truth table and measure the answers.

    Args:
        truth: the table.
        dossiers: the stored checkpoints by repo id.
        answer: gives the answer about one model.

    Returns:
        a JSON object; `docs/method.md` says what each figure is.

    Raises:
        TruthError: none of its models is stored.
    """
    judged = [Judged(row, answer(dossiers[row.model])) for row in truth.values() if row.model in dossiers]
    if not judged:
        raise TruthError("the store holds none of the truth table's models; crawl them first")
    pairs = [(j, c) for j in judged for c in j.answer.candidates if c.repo_id in truth]
    return {
        "format": 1,
        "models": {"in_table": len(truth), "stored": len(judged)},
        "retrieval": _retrieval(judged, truth, dossiers),
        "accusations": _accusations(pairs, truth),
        "verdicts": _verdicts(judged, truth),
        "lines": line_table(pairs, truth),
        "ablation": ablation_table(pairs, truth),
        "calibration": calibration([(family(j.truth.model, truth), family(c.repo_id, truth), c) for j, c in pairs]),
        "probability": _log_score(pairs, truth),
        "models_detail": [_detail(j, truth, dossiers) for j in judged],
    }


def _same_weights(a: Dossier, b: Dossier) -> bool:
    return (
        len(a.values) > 0
        and np.array_equal(a.values, b.values)
        and np.array_equal(a.facts["exponent"], b.facts["exponent"])
    )


def _detail(j: Judged, truth: Mapping[str, Truth], dossiers: Mapping[str, Dossier]) -> dict[str, Any]:
    known = [c for c in j.answer.candidates if c.repo_id in truth]
    first = known[0] if known else None
    return {
        "model": j.truth.model,
        "relation": j.truth.relation,
        "attack": j.truth.attack,
        "derived": j.truth.derived,
        "adapter": j.adapter,
        "verdict": j.answer.verdict,
        "first": first and first.repo_id,
        "first_verdict": first and first.verdict,
        "first_relation": first and first.relation,
        "family_rank": _rank_of(known, lambda c: related(j.truth.model, c.repo_id, truth)),
        "parent_rank": _rank_of(known, lambda c: _is_parent(j.truth, c, dossiers)),
    }


def _is_parent(truth: Truth, candidate: Candidate, dossiers: Mapping[str, Dossier]) -> bool:
    """Whether a candidate is a direct parent, or equals one weight for weight."""
    return candidate.repo_id in truth.parents or any(
        parent in dossiers and _same_weights(dossiers[parent], candidate.pair.b.dossier) for parent in truth.parents
    )


def _rank_of(candidates: Sequence[Candidate], right: Callable[[Candidate], bool]) -> int | None:
    return next((rank for rank, c in enumerate(candidates, start=1) if right(c)), None)


def _retrieval(judged: Sequence[Judged], truth: Mapping[str, Truth], dossiers: Mapping[str, Dossier]) -> dict[str, Any]:
    groups = {
        "non-attack": [j for j in judged if j.truth.derived and not j.truth.attack and not j.adapter],
        "attack": [j for j in judged if j.truth.derived and j.truth.attack],
    }
    result: dict[str, Any] = {}
    for name, members in groups.items():
        details = [_detail(j, truth, dossiers) for j in members]
        result[name] = {
            "models": len(members),
            "family@1": _share(d["family_rank"] == 1 for d in details),
            "family@5": _share((d["family_rank"] or 99) <= 5 for d in details),
            "parent@1": _share(d["parent_rank"] == 1 for d in details),
            "parent@5": _share((d["parent_rank"] or 99) <= 5 for d in details),
            "derived": _share(d["verdict"] == "derived" for d in details),
        }
    return result


def _accusations(pairs: Sequence[tuple[Judged, Candidate]], truth: Mapping[str, Truth]) -> dict[str, Any]:
    strangers = [(j, c) for j, c in pairs if not related(j.truth.model, c.repo_id, truth)]
    guilty = [(j, c) for j, c in strangers if c.verdict in ("derived", "related")]
    tenfold = [c for _, c in strangers if c.log10_p_adjusted <= math.log10(10 * ALPHA)]
    return {
        "unrelated_pairs": len(strangers),
        "accused": len(guilty),
        "accused_at_ten_times_alpha": len(tenfold),
        "smallest_log10_p_adjusted": min((c.log10_p_adjusted for _, c in strangers), default=0.0),
        "who": [[j.truth.model, c.repo_id, c.verdict] for j, c in guilty],
    }


def _verdicts(judged: Sequence[Judged], truth: Mapping[str, Truth]) -> list[dict[str, Any]]:
    """Per relation kind: how many models, which verdicts, and how often the best candidate is of the family."""
    kinds: dict[str, list[Judged]] = defaultdict(list)
    for j in judged:
        kinds[j.truth.relation].append(j)
    rows = []
    for relation, members in sorted(kinds.items()):
        tops = [j.answer.candidates[0] for j in members if j.answer.candidates]
        rows.append(
            {
                "relation": relation,
                "models": len(members),
                "derived": sum(j.answer.verdict == "derived" for j in members),
                "no-parent-found": sum(j.answer.verdict == "no-parent-found" for j in members),
                "inconclusive": sum(j.answer.verdict == "inconclusive" for j in members),
                "named": ", ".join(sorted({c.relation for c in tops if c.verdict == "derived"})) or "–",
            }
        )
    return rows


def _log_score(pairs: Sequence[tuple[Judged, Candidate]], truth: Mapping[str, Truth]) -> dict[str, float]:
    """Mean negative log likelihood (nats) of `probability` over judged pairs, beside that of the base rate."""
    judged = [(c.probability, related(j.truth.model, c.repo_id, truth)) for j, c in pairs if c.probability > 0]
    if not judged:
        return {}
    p = np.clip(np.array([x for x, _ in judged]), 1e-12, 1 - 1e-12)
    y = np.array([x for _, x in judged], dtype=np.float64)
    base = float(np.clip(y.mean(), 1e-12, 1 - 1e-12))
    return {
        "pairs": len(judged),
        "log_score": float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))),
        "base_rate_log_score": float(-(base * math.log(base) + (1 - base) * math.log(1 - base))),
    }


def _share(values: Iterable[bool]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def as_markdown(result: Mapping[str, Any]) -> str:
    """The result as Markdown tables, as they stand in `docs/method.md`."""
    models, accusations = result["models"], result["accusations"]
    parts = [f"{models['stored']} of {models['in_table']} models of the table are stored.\n"]
    parts.append(_table([{"models of": k, **v} for k, v in result["retrieval"].items()]))
    parts.append(
        f"{accusations['accused']} of {accusations['unrelated_pairs']} unrelated pairs accused "
        f"({accusations['accused_at_ten_times_alpha']} at ten times the level); their smallest adjusted log10 p is "
        f"{accusations['smallest_log10_p_adjusted']:.2f}.\n"
    )
    parts += [_table(result[title]) for title in ("lines", "calibration", "ablation", "verdicts")]
    if result["probability"]:
        score = result["probability"]
        parts.append(
            f"Log score of `probability`: {score['log_score']:.4f} nats a pair "
            f"(base rate {score['base_rate_log_score']:.4f}).\n"
        )
    return "\n".join(parts)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "–" if value is None else str(value)
