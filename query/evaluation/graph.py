"""Graphs of true and claimed descent: who descends from whom, and which models hang together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import comb

from provenance.query.evaluation.truth import Truth

COPIES = ("reupload", "renamed", "config_disguise", "convert", "cast")
"""How the relations of a truth table begin that leave the weights as they are."""


class Descent:
    """True descent. A copy counts as what it is a copy of."""

    def __init__(self, truth: Mapping[str, Truth]) -> None:
        """Of the models of a truth table."""
        self._truth = truth

    def original(self, model: str) -> str:
        """The model itself, or what it is a copy of."""
        seen = {model}
        while (row := self._truth.get(model)) and row.relation.startswith(COPIES) and row.parents:
            model = row.parents[0]
            if model in seen:
                break
            seen.add(model)
        return model

    def is_parent(self, candidate: str, model: str) -> bool:
        """Whether a candidate is a direct parent of a model, or a copy of one."""
        parents = {self.original(parent) for parent in self._truth[model].parents}
        return self.original(candidate) in parents and candidate != model

    def descends(self, child: str, ancestor: str) -> bool:
        """Whether the weights of one come from the other, or from what the other is a copy of."""
        open_lines, above = [child], set[str]()
        while open_lines:
            row = self._truth.get(open_lines.pop())
            new = [parent for parent in (row.parents if row else ()) if parent not in above]
            above.update(new)
            open_lines += new
        known = {self.original(model) for model in above}
        return self.original(ancestor) in known and self.original(ancestor) != self.original(child)


def components(models: Sequence[str], edges: Iterable[tuple[str, str]]) -> list[str]:
    """For each model the name of its connected component. Ends of edges that are no models join models too."""
    above: dict[str, str] = {}

    def top(node: str) -> str:
        while above.setdefault(node, node) != node:
            above[node] = above[above[node]]
            node = above[node]
        return node

    for one, other in edges:
        above[top(one)] = top(other)
    return [top(model) for model in models]


def adjusted_rand(one: Sequence[str], other: Sequence[str]) -> float:
    """Adjusted Rand index of two partitions of the same things (Hubert & Arabie 1985, J. Classif. 2, eq. 5).

    1 where they are equal, 0 on average where they are independent.
    """
    together = sum(comb(n, 2) for n in Counter(zip(one, other, strict=True)).values())
    a, b = (sum(comb(n, 2) for n in Counter(part).values()) for part in (one, other))
    pairs = comb(len(one), 2)
    expected = a * b / pairs if pairs else 0.0
    most = (a + b) / 2
    return (together - expected) / (most - expected) if most != expected else 1.0
