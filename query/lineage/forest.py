"""The forest of direct descent, built from the claims of the lineage table.

Repos whose order is not known are one node, a group: undated copies of the same weights, and repos whose cards name
each other. A group has the parents and the children of all its members.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from provenance.schemas.enums import Direction, Relation, Verdict
from provenance.schemas.lineage import LineageRow


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge of the forest: the most direct ancestor of a child, or one of the parents of a merge.

    `parent` and `child` are names of nodes; `closes` says that a tree came back to a node above: a cycle.
    """

    parent: str
    child: str
    relation: str
    merge_weight: float | None
    declared: bool
    undeclared: bool | None
    closes: bool = False

    @classmethod
    def from_row(cls, row: LineageRow, node_of: Mapping[str, str]) -> Edge:
        """The edge of a claim."""
        return cls(
            node_of.get(row.parent, row.parent),
            node_of.get(row.child, row.child),
            row.relation or Relation.UNKNOWN,
            row.merge_weight,
            bool(row.declared),
            row.undeclared,
        )


class Forest:
    """Edges between nodes, in both directions.

    A node has the name of its first member. Cycles are possible: they are shown, and followed once.
    """

    def __init__(self, rows: Iterable[LineageRow]) -> None:
        rows = list(rows)
        self.parents: dict[str, list[Edge]] = defaultdict(list)
        self.children: dict[str, list[Edge]] = defaultdict(list)
        self.members, self._copies = _groups(rows)
        self._node_of = {member: node for node, members in self.members.items() for member in members}
        ancestors: dict[str, list[LineageRow]] = defaultdict(list)
        for row in rows:
            if row.verdict is Verdict.DERIVED and row.direction is Direction.PARENT:
                ancestors[row.child].append(row)
        seen: set[tuple[str, str]] = set()
        for claims in ancestors.values():
            first = min(row.rank or 0 for row in claims)
            for row in claims:
                edge = Edge.from_row(row, self._node_of)
                direct = row.rank == first or row.merge_weight is not None
                if direct and edge.parent != edge.child and (edge.parent, edge.child) not in seen:
                    seen.add((edge.parent, edge.child))
                    self.parents[edge.child].append(edge)
                    self.children[edge.parent].append(edge)
        for edges in self.children.values():
            edges.sort(key=lambda edge: edge.child)

    def node(self, repo: str) -> str:
        """The node of a repo."""
        return self._node_of.get(repo, repo)

    def repos(self, node: str) -> tuple[str, ...]:
        """The repos of a node, by name."""
        return self.members.get(node, (node,))

    def title(self, node: str) -> str:
        """The text of a node: the name of its repo, or of all, and what makes them one."""
        if node not in self.members:
            return node
        if node in self._copies:
            return f"{' = '.join(self.members[node])}  (the same weights; who was first is not known)"
        return f"{' <-> '.join(self.members[node])}  (each card names another; who was first is not known)"

    def roots(self) -> list[str]:
        """Nodes to begin at so that all are reached: those without a parent, then one of every cycle, by name.

        A repo without any relative is no root; a group is one.
        """
        nodes = {name for name, edges in self.children.items() if edges} | self.members.keys()
        roots = sorted(name for name in nodes if not self.parents.get(name))
        reached = {node for root in roots for node in self._below(root)}
        for name in sorted(nodes):
            if name not in reached:
                roots.append(name)
                reached |= self._below(name)
        return roots

    def ancestors(self, node: str) -> list[str]:
        """All ancestors of a node, nearest first."""
        ancestors: list[str] = []
        queue = [node]
        while queue:
            for edge in self.parents.get(queue.pop(0), ()):
                if edge.parent not in ancestors and edge.parent != node:
                    ancestors.append(edge.parent)
                    queue.append(edge.parent)
        return ancestors

    def walk(self, node: str, keep: frozenset[str] | None = None) -> Iterator[tuple[int, Edge]]:
        """Edges below a node, depth first, each with its depth; if `keep` is given, only to children in it."""
        yield from self._walk(node, keep, (node,))

    def _walk(self, node: str, keep: frozenset[str] | None, path: tuple[str, ...]) -> Iterator[tuple[int, Edge]]:
        for edge in self.children.get(node, ()):
            if keep is not None and edge.child not in keep:
                continue
            if edge.child in path:
                yield len(path), replace(edge, closes=True)
                continue
            yield len(path), edge
            yield from self._walk(edge.child, keep, (*path, edge.child))

    def _below(self, node: str) -> set[str]:
        below, queue = {node}, [node]
        while queue:
            more = [edge.child for edge in self.children.get(queue.pop(), ()) if edge.child not in below]
            below.update(more)
            queue += more
        return below

    def around(self, node: str) -> tuple[list[str], frozenset[str]]:
        """The roots above a node, and its whole lineage: its ancestors, itself and its descendants."""
        above = self.ancestors(node)
        tops = [name for name in above if not self.parents.get(name)] or [node]
        return tops, frozenset({*above, *self._below(node)})


def label(edge: Edge) -> str:
    """The text after a child's name in a tree."""
    words = [edge.relation]
    if edge.merge_weight is not None:
        words.append(f"weight {edge.merge_weight:.2f}")
    if edge.undeclared:
        words.append("undeclared")
    if edge.undeclared is None:
        words.append("card not read")
    if edge.closes:
        words.append("a cycle: see above")
    return ", ".join(words)


def to_dot(forest: Forest, tops: Sequence[str], keep: frozenset[str] | None) -> str:
    """The forest in Graphviz's language."""
    lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box];"]
    seen = set()
    shown: dict[str, None] = dict.fromkeys(tops)
    for top in tops:
        for _, edge in forest.walk(top, keep):
            edge = replace(edge, closes=False)
            if edge not in seen:
                seen.add(edge)
                shown |= dict.fromkeys((edge.parent, edge.child))
                style = ' style="dashed"' if edge.undeclared else ""
                lines.append(f"  {_quote(edge.parent)} -> {_quote(edge.child)} [label={_quote(label(edge))}{style}];")
    groups = [node for node in shown if node in forest.members]
    lines[3:3] = [f"  {_quote(node)} [label={_quote(forest.title(node))}];" for node in groups]
    return "\n".join([*lines, "}"])


def _groups(rows: Iterable[LineageRow]) -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    """The groups of repos whose order is not known, by their first members; and which of them are equal copies."""
    open_order = [row for row in rows if row.verdict is Verdict.RELATED and row.direction is Direction.UNKNOWN]
    copies = {(row.child, row.parent) for row in open_order if row.relation == Relation.IDENTICAL}
    named = {(row.child, row.parent) for row in open_order if row.declared}
    mutual = {(child, parent) for child, parent in named if (parent, child) in named}
    leader: dict[str, str] = {}

    def lead(repo: str) -> str:
        while leader.setdefault(repo, repo) != repo:
            repo = leader[repo]
        return repo

    for child, parent in sorted(copies | mutual):
        first, second = sorted((lead(child), lead(parent)))
        leader[second] = first
    groups: dict[str, list[str]] = defaultdict(list)
    for repo in sorted(leader):
        groups[lead(repo)].append(repo)
    unequal = {lead(child) for child, _ in mutual - copies}
    return {node: tuple(members) for node, members in groups.items()}, frozenset(groups.keys() - unequal)


def _quote(text: str) -> str:
    return json.dumps(text)
