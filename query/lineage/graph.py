"""The lineage table: every answer's claims beside what the cards declare, and the forest they make."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from provenance.query.engine import Answer, candidate_json
from provenance.query.statistics.significance import to_p
from provenance.query.verdict.rule import Candidate, judged


def lineage_rows(answer: Answer, now: datetime) -> list[dict[str, Any]]:
    """Rows of `lineage` about one child: its ancestors, relatives of unknown direction, and all declared parents."""
    model = answer.model.meta
    declared = list(model["declared_parents"] or ())
    ancestors = {c.repo_id for c in answer.candidates if c.verdict == "derived"}
    # A card that names any ancestor is honest: nobody lists grandparents.
    honest = any(parent in ancestors for parent in declared)
    rows = []
    for rank, candidate in enumerate(answer.candidates, start=1):
        claimed = candidate.verdict == "derived" or (
            candidate.verdict == "related" and candidate.direction == "unknown"
        )
        if claimed or candidate.declared:
            rows.append(_row(model, rank, candidate, honest, now))
    stored = {row["parent"] for row in rows}
    rows += [
        {**_edge(model, parent), "declared": True, "undeclared": False, "contradicted": False, "detected_at": now}
        for parent in declared
        if parent not in stored and parent != model["repo_id"]
    ]
    return rows


def verdict_row(answer: Answer, now: datetime) -> dict[str, Any]:
    """The row of `verdicts` about one model."""
    return {
        "checkpoint_id": answer.model.checkpoint_id,
        "fingerprint_id": answer.model.meta["fingerprint_id"],
        "repo_id": answer.model.repo_id,
        "verdict": answer.verdict,
        "n_candidates": len(answer.candidates),
        "examined_at": now,
    }


def _edge(model: Mapping[str, Any], parent: str) -> dict[str, Any]:
    return {
        "rank": None,
        "child": model["repo_id"],
        "parent": parent,
        "child_id": model["checkpoint_id"],
        "relation": model["declared_relation"],
        "child_license": model["license"],
    }


def _row(model: Mapping[str, Any], rank: int, candidate: Candidate, honest: bool, now: datetime) -> dict[str, Any]:
    parent = candidate.pair.b.dossier.meta
    derived = candidate.verdict == "derived"
    licenses = model["license"], parent["license"]
    return {
        **_edge(model, candidate.repo_id),
        "parent_id": parent["checkpoint_id"],
        "rank": rank,
        "relation": candidate.relation,
        "verdict": candidate.verdict,
        "direction": candidate.direction,
        "probability": candidate.probability,
        "p_value": to_p(candidate.log10_p),
        "p_adjusted": to_p(candidate.log10_p_adjusted),
        "log10_p": candidate.log10_p,
        "score": candidate.score,
        "merge_weight": candidate.merge_weight,
        "declared": candidate.declared,
        "undeclared": derived and not candidate.declared and not honest,
        "contradicted": candidate.declared and candidate.verdict == "unrelated" and judged(candidate),
        "parent_license": parent["license"],
        "license_differs": None if None in licenses else licenses[0] != licenses[1],
        "evidence": json.dumps(candidate_json(rank, candidate)["evidence"]),
        "detected_at": now,
    }


@dataclass(frozen=True, slots=True)
class Edge:
    """A direct edge of the forest: the most direct ancestor of a child, or one of the parents of a merge."""

    parent: str
    child: str
    relation: str
    merge_weight: float | None
    declared: bool
    undeclared: bool


class Forest:
    """Direct edges between repos, walked up and down. Cycles, which ties of dates could make, are cut when walked."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.parents: dict[str, list[Edge]] = defaultdict(list)
        self.children: dict[str, list[Edge]] = defaultdict(list)
        ancestors: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in rows:
            if row["verdict"] == "derived" and row["direction"] == "parent":
                ancestors[row["child"]].append(row)
        for child, found in ancestors.items():
            first = min(row["rank"] for row in found)
            for row in found:
                if row["rank"] == first or row["merge_weight"] is not None:
                    edge = Edge(
                        row["parent"], child, row["relation"], row["merge_weight"], row["declared"], row["undeclared"]
                    )
                    self.parents[child].append(edge)
                    self.children[row["parent"]].append(edge)
        for edges in self.children.values():
            edges.sort(key=lambda edge: edge.child)

    def roots(self) -> list[str]:
        """Parents without a parent, by name."""
        return sorted(name for name, edges in self.children.items() if edges and not self.parents.get(name))

    def ancestors(self, model: str) -> list[str]:
        """Everything the model descends from, nearest first."""
        found: list[str] = []
        queue = [model]
        while queue:
            for edge in self.parents.get(queue.pop(0), ()):
                if edge.parent not in found and edge.parent != model:
                    found.append(edge.parent)
                    queue.append(edge.parent)
        return found

    def walk(self, name: str, keep: frozenset[str] | None = None) -> Iterator[tuple[int, Edge]]:
        """Edges below `name`, depth first, each with its depth; only children in `keep`, if given."""
        yield from self._walk(name, keep, (name,))

    def _walk(self, name: str, keep: frozenset[str] | None, path: tuple[str, ...]) -> Iterator[tuple[int, Edge]]:
        for edge in self.children.get(name, ()):
            if edge.child in path or (keep is not None and edge.child not in keep):
                continue
            yield len(path), edge
            yield from self._walk(edge.child, keep, (*path, edge.child))

    def around(self, model: str) -> tuple[list[str], frozenset[str]]:
        """The roots above a model, and the names on its lines: its ancestors, itself and its descendants."""
        above = self.ancestors(model)
        below = {edge.child for _, edge in self.walk(model)}
        tops = [name for name in above if not self.parents.get(name)] or [model]
        return tops, frozenset({*above, model, *below})


def label(edge: Edge) -> str:
    """What stands behind a child's name in a tree."""
    words = [edge.relation]
    if edge.merge_weight is not None:
        words.append(f"weight {edge.merge_weight:.2f}")
    if edge.undeclared:
        words.append("undeclared")
    return ", ".join(words)


def to_dot(forest: Forest, tops: Sequence[str], keep: frozenset[str] | None) -> str:
    """The forest in Graphviz's language."""
    lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box];"]
    seen = set()
    for top in tops:
        for _, edge in forest.walk(top, keep):
            if edge not in seen:
                seen.add(edge)
                style = ' style="dashed"' if edge.undeclared else ""
                lines.append(f"  {_quote(edge.parent)} -> {_quote(edge.child)} [label={_quote(label(edge))}{style}];")
    return "\n".join([*lines, "}"])


def _quote(text: str) -> str:
    return json.dumps(text)
