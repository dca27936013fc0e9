"""An evaluation as Markdown tables, as in `docs/method.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from provenance.schemas.enums import ClaimStatus
from provenance.schemas.evaluation import DeclaredEvaluation, Evaluation


def as_markdown(result: Evaluation) -> str:
    """The result as Markdown."""
    models, accusations = result.models, result.accusations
    parts = [f"{models.stored} of {models.in_table} models of the table are stored.\n"]
    parts.append(table([{"models of": group, **figures.to_dict()} for group, figures in result.retrieval.items()]))
    parts.append(
        f"{accusations.accused} of {accusations.unrelated_pairs} unrelated pairs accused "
        f"({accusations.accused_at_ten_times_alpha} at ten times the level); their smallest adjusted log10 p is "
        f"{accusations.smallest_log10_p_adjusted:.2f}.\n"
    )
    tables = (result.lines, result.calibration, result.ablation, result.verdicts)
    parts += [table(rows.to_dicts()) for rows in tables]
    parts.append(table(result.orderings.to_dicts()))
    parts.append(table(result.scenarios.to_dicts()))
    merges = result.merges
    error = (
        "–" if merges.mean_error is None else f"{merges.mean_error:.3f} on average, {merges.largest_error:.3f} at most"
    )
    parts.append(
        f"{merges.parents_named} of {merges.merges} merges have just their parents named; "
        f"error of {merges.weights} weights: {error}.\n"
    )
    if score := result.probability:
        parts.append(
            f"Log score of `probability`: {score.log_score:.4f} nats a pair "
            f"(base rate {score.base_rate_log_score:.4f}).\n"
        )
    return "\n".join(parts)


def declared_as_markdown(result: DeclaredEvaluation) -> str:
    """How the answers agree with the cards, and the declarations that the weights contradict."""
    figures = result.to_dict()
    shares = ("recall", "recall_of_judged", "parent@1", "parent@5")
    counts = ("declarations", "stored", "confirmed", "contradicted", "cannot_tell")
    contradicted = [row.to_dict() for row in result.parents if row.status is ClaimStatus.CONTRADICTED]
    return "\n".join(
        [
            f"{result.models} cards declare {result.declarations} base models; {result.stored} of these are stored.\n",
            table([{name: figures[name] for name in (*counts, *shares)}]),
            table(contradicted),
        ]
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; nothing where there are none."""
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
