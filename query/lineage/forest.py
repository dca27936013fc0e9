"""The forest of direct descent, built from the claims of the lineage table."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from provenance.schemas.enums import Direction, Relation, Verdict
from provenance.schemas.lineage import LineageRow


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge of the forest: the most direct ancestor of a child, or one of the parents of a merge."""

    parent: str
    child: str
    relation: str
    merge_weight: float | None
    declared: bool
    undeclared: bool

    @classmethod
    def from_row(cls, row: LineageRow) -> Edge:
        """The edge of a claim."""
        relation = row.relation or Relation.UNKNOWN
        return cls(row.parent, row.child, relation, row.merge_weight, bool(row.declared), bool(row.undeclared))


class Forest:
    """Edges between repos, in both directions. Cycles, which equal dates could cause, are cut during traversal."""

    def __init__(self, rows: Iterable[LineageRow]) -> None:
        self.parents: dict[str, list[Edge]] = defaultdict(list)
        self.children: dict[str, list[Edge]] = defaultdict(list)
        ancestors: dict[str, list[LineageRow]] = defaultdict(list)
        for row in rows:
            if row.verdict is Verdict.DERIVED and row.direction is Direction.PARENT:
                ancestors[row.child].append(row)
        for child, claims in ancestors.items():
            first = min(row.rank or 0 for row in claims)
            for row in claims:
                if row.rank == first or row.merge_weight is not None:
                    edge = Edge.from_row(row)
                    self.parents[child].append(edge)
                    self.children[row.parent].append(edge)
        for edges in self.children.values():
            edges.sort(key=lambda edge: edge.child)

    def roots(self) -> list[str]:
        """Parents without a parent, by name."""
        return sorted(name for name, edges in self.children.items() if edges and not self.parents.get(name))

    def ancestors(self, model: str) -> list[str]:
        """All ancestors of a model, nearest first."""
        ancestors: list[str] = []
        queue = [model]
        while queue:
            for edge in self.parents.get(queue.pop(0), ()):
                if edge.parent not in ancestors and edge.parent != model:
                    ancestors.append(edge.parent)
                    queue.append(edge.parent)
        return ancestors

    def walk(self, name: str, keep: frozenset[str] | None = None) -> Iterator[tuple[int, Edge]]:
        """Edges below `name`, depth first, each with its depth; if `keep` is given, only to children in it."""
        yield from self._walk(name, keep, (name,))

    def _walk(self, name: str, keep: frozenset[str] | None, path: tuple[str, ...]) -> Iterator[tuple[int, Edge]]:
        for edge in self.children.get(name, ()):
            if edge.child in path or (keep is not None and edge.child not in keep):
                continue
            yield len(path), edge
            yield from self._walk(edge.child, keep, (*path, edge.child))

    def around(self, model: str) -> tuple[list[str], frozenset[str]]:
        """The roots above a model, and its whole lineage: its ancestors, itself and its descendants."""
        above = self.ancestors(model)
        below = {edge.child for _, edge in self.walk(model)}
        tops = [name for name in above if not self.parents.get(name)] or [model]
        return tops, frozenset({*above, model, *below})


def label(edge: Edge) -> str:
    """The text after a child's name in a tree."""
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
