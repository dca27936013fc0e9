"""How good the answers are, measured against a table of true lineage. The only reader of such tables."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.dossier import Dossier
from query.calibration_check import calibration
from query.engine import Answer
from query.evidence import CONVICTING, LINES
from query.significance import adjust_log10_p, combine_log10_p
from query.verdict import ALPHA, Candidate
from schemas.errors import TruthError

COLUMNS = ("model", "parents", "root", "relation", "attack", "weights_derived")


@dataclass(frozen=True, slots=True)
class Truth:
    """One row of a truth table; `parents` and `roots` are empty or own where no weights were taken over."""

    model: str
    parents: tuple[str, ...]
    roots: frozenset[str]
    relation: str
    attack: bool
    derived: bool


def read_truth(path: Path) -> dict[str, Truth]:
    """Read a truth table: a CSV with the columns of `COLUMNS`.

    Raises:
        TruthError: columns are missing, or a model stands in it twice.
    """
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise TruthError(f"{path}: not a truth table; the columns {', '.join(missing)} are missing")
        rows: dict[str, Truth] = {}
        for row in reader:
            if row["model"] in rows:
                raise TruthError(f"{path}: {row['model']} stands in it twice")
            derived = row["weights_derived"].strip().lower() == "true"
            rows[row["model"]] = Truth(
                row["model"],
                tuple(p for p in row["parents"].split(";") if p) if derived else (),
                frozenset(r for r in row["root"].split(";") if r),
                row["relation"],
                row["attack"].strip().lower() == "true",
                derived,
            )
    if not rows:
        raise TruthError(f"{path}: the table is empty")
    return rows


@dataclass(frozen=True)
class _Judged:
    """One model of the table with its truth and its answer."""

    truth: Truth
    answer: Answer

    @property
    def adapter(self) -> bool:
        return bool(self.answer.model.meta["adapter"])


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
    judged = [_Judged(row, answer(dossiers[row.model])) for row in truth.values() if row.model in dossiers]
    if not judged:
        raise TruthError("the store holds none of the truth table's models; crawl them first")
    pairs = [(j, c) for j in judged for c in j.answer.candidates if c.repo_id in truth]
    return {
        "format": 1,
        "models": {"in_table": len(truth), "stored": len(judged)},
        "retrieval": _retrieval(judged, truth, dossiers),
        "accusations": _accusations(pairs, truth),
        "verdicts": _verdicts(judged, truth),
        "lines": _lines(pairs, truth),
        "ablation": _ablation(pairs, truth),
        "calibration": calibration([(_family(j.truth.model, truth), _family(c.repo_id, truth), c) for j, c in pairs]),
        "probability": _log_score(pairs, truth),
        "models_detail": [_detail(j, truth, dossiers) for j in judged],
    }


def _family(model: str, truth: Mapping[str, Truth]) -> frozenset[str]:
    return truth[model].roots or frozenset({model})


def _related(a: str, b: str, truth: Mapping[str, Truth]) -> bool:
    return bool(_family(a, truth) & _family(b, truth))


def _same_weights(a: Dossier, b: Dossier) -> bool:
    return (
        len(a.values) > 0
        and np.array_equal(a.values, b.values)
        and np.array_equal(a.facts["exponent"], b.facts["exponent"])
    )


def _detail(j: _Judged, truth: Mapping[str, Truth], dossiers: Mapping[str, Dossier]) -> dict[str, Any]:
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
        "family_rank": _rank_of(known, lambda c: _related(j.truth.model, c.repo_id, truth)),
        "parent_rank": _rank_of(known, lambda c: _is_parent(j.truth, c, dossiers)),
    }


def _is_parent(truth: Truth, candidate: Candidate, dossiers: Mapping[str, Dossier]) -> bool:
    """Whether a candidate is a direct parent, or equals one weight for weight."""
    return candidate.repo_id in truth.parents or any(
        parent in dossiers and _same_weights(dossiers[parent], candidate.pair.b.dossier) for parent in truth.parents
    )


def _rank_of(candidates: Sequence[Candidate], right: Callable[[Candidate], bool]) -> int | None:
    return next((rank for rank, c in enumerate(candidates, start=1) if right(c)), None)


def _retrieval(
    judged: Sequence[_Judged], truth: Mapping[str, Truth], dossiers: Mapping[str, Dossier]
) -> dict[str, Any]:
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


def _accusations(pairs: Sequence[tuple[_Judged, Candidate]], truth: Mapping[str, Truth]) -> dict[str, Any]:
    strangers = [(j, c) for j, c in pairs if not _related(j.truth.model, c.repo_id, truth)]
    guilty = [(j, c) for j, c in strangers if c.verdict in ("derived", "related")]
    tenfold = [c for _, c in strangers if c.log10_p_adjusted <= math.log10(10 * ALPHA)]
    return {
        "unrelated_pairs": len(strangers),
        "accused": len(guilty),
        "accused_at_ten_times_alpha": len(tenfold),
        "smallest_log10_p_adjusted": min((c.log10_p_adjusted for _, c in strangers), default=0.0),
        "who": [[j.truth.model, c.repo_id, c.verdict] for j, c in guilty],
    }


def _verdicts(judged: Sequence[_Judged], truth: Mapping[str, Truth]) -> list[dict[str, Any]]:
    """Per relation kind: how many models, which verdicts, and how often the best candidate is of the family."""
    kinds: dict[str, list[_Judged]] = defaultdict(list)
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


def _lines(pairs: Sequence[tuple[_Judged, Candidate]], truth: Mapping[str, Truth]) -> list[dict[str, Any]]:
    """Each line of evidence by itself: direct parents against all unrelated pairs."""
    scores: dict[str, tuple[list[float], list[float]]] = {kind: ([], []) for kind in (*LINES, "combined")}
    for j, c in pairs:
        if c.repo_id in j.truth.parents:
            side = 0
        elif not _related(j.truth.model, c.repo_id, truth):
            side = 1
        else:
            continue
        values = {e.kind: _strength(e.kind, e.value, e.log10_p) for e in c.evidence}
        values["combined"] = -c.log10_p
        for kind, value in values.items():
            scores[kind][side].append(value)
    return [{"line": kind, **_separation(np.array(p), np.array(n))} for kind, (p, n) in scores.items() if p and n]


def _strength(kind: str, value: float | None, log10_p: float | None) -> float:
    if kind in CONVICTING:
        return -(log10_p or 0.0)
    return -math.inf if value is None else value


def _separation(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> dict[str, Any]:
    """AUC (ties count half) and the share of true pairs above the highest, and above 99 %, of the unrelated."""
    order = np.sort(negative)
    below = np.searchsorted(order, positive, side="left")
    ties = np.searchsorted(order, positive, side="right") - below
    n = len(order)
    cut = order[max(0, n - 1 - math.floor(0.01 * n))]
    highest = float(order[-1])
    return {
        "true_pairs": len(positive),
        "unrelated_pairs": n,
        "auc": float(np.mean((below + 0.5 * ties) / n)),
        "tpr_at_fpr_0": float(np.mean(positive > order[-1])),
        "tpr_at_fpr_1pct": float(np.mean(positive > cut)),
        "highest_unrelated": highest if math.isfinite(highest) else None,
    }


def _ablation(pairs: Sequence[tuple[_Judged, Candidate]], truth: Mapping[str, Truth]) -> list[dict[str, Any]]:
    """True pairs convicted, and strangers accused, with each convicting line left out."""
    rows = []
    for left_out in (None, *CONVICTING):
        convicted = accused = true_pairs = 0
        for j, c in pairs:
            lines = [
                e.log10_p for e in c.evidence if e.kind in CONVICTING and e.kind != left_out and e.log10_p is not None
            ]
            guilty = adjust_log10_p(combine_log10_p(lines), j.answer.n_checkpoints) <= math.log10(ALPHA)
            if c.repo_id in j.truth.parents and not j.adapter:
                true_pairs += 1
                convicted += guilty
            elif not _related(j.truth.model, c.repo_id, truth):
                accused += guilty
        rows.append({"without": left_out or "–", "true_pairs": true_pairs, "convicted": convicted, "accused": accused})
    return rows


def _log_score(pairs: Sequence[tuple[_Judged, Candidate]], truth: Mapping[str, Truth]) -> dict[str, float]:
    """Mean negative log likelihood (nats) of `probability` over judged pairs, beside that of the base rate."""
    judged = [(c.probability, _related(j.truth.model, c.repo_id, truth)) for j, c in pairs if c.probability > 0]
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
