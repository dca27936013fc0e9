"""The nodes of a family: its members, equal ones as one, and what is known of every pair of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.frame import Carried, frame_of
from provenance.query.verdict.tree import Evidence
from provenance.query.verdict.witness import COMPARABLE, Member, Precedence, declared, precedence

MISSING_LAYERS = 1.0
"""Distance of a layer that only one of two has: that of an unrelated one, in units of the mean variance, is 2."""

_FAR = 2.0

Array = NDArray[np.float64]


class Nodes:
    """Groups of equal members.

    Attributes:
        members: in the order given.
        frame: their weights.
        copies: `[members]`, the node that each belongs to.
        groups: of each node, its members.
        nodes: the first member of each node, which stands for it.
        distance: `[n, n]` of the nodes; additive along lines of descent.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """Compare all members."""
        self.members = members
        self.frame = frame_of([member.grid for member in members])
        self.copies = self._copies()
        self.groups = [np.flatnonzero(self.copies == group).tolist() for group in range(self.copies.max() + 1)]
        self.nodes = [group[0] for group in self.groups]
        self.distance = self._distances()
        self._known: dict[tuple[int, int], Precedence] = {}

    def node(self, member: int) -> int:
        """The node of a member."""
        return int(self.copies[member])

    def correlation(self, a: int, b: int) -> float:
        """Correlation of the cells of two nodes."""
        return float(self.frame.shared.correlation[self.nodes[a], self.nodes[b]])

    def same_shape(self, a: int, b: int) -> bool:
        """Whether two nodes have the same depth, width and kind."""
        one, other = self.members[self.nodes[a]], self.members[self.nodes[b]]
        return (one.depth, one.size, one.routed) == (other.depth, other.size, other.routed)

    def said(self, a: int, b: int) -> Precedence:
        """What is known of the order of two nodes; of copies, the oldest ones' dates speak and all cards."""
        if (a, b) not in self._known:
            firsts, seconds = self.groups[a], self.groups[b]
            one, other = self.members[self._oldest(firsts)], self.members[self._oldest(seconds)]
            said = precedence(one, other, self.frame, self.nodes[a], self.nodes[b])
            cards = [declared(self.members[i].dossier, self.members[j].dossier) for i in firsts for j in seconds]
            self._known[a, b] = said = replace(said, declared=max(cards, key=abs))
            self._known[b, a] = said.reversed()
        return self._known[a, b]

    def carried(self, reference: int) -> Carried:
        """How far every node carries on every other's change from a reference."""
        return self.frame.carried(self.nodes[reference]).of(self.nodes)

    def parts(self, nodes: Sequence[int]) -> list[list[int]]:
        """Groups of nodes whose cells correspond, directly or through each other: only there are distances additive."""
        parts: list[list[int]] = []
        for node in nodes:
            near = [part for part in parts if any(self.correlation(node, other) >= COMPARABLE for other in part)]
            parts = [part for part in parts if part not in near]
            parts.append([node, *(other for part in near for other in part)])
        return [sorted(part) for part in parts]

    def evidence(self, nodes: Sequence[int]) -> Evidence:
        """What is known of every pair of some nodes."""
        n, own = len(nodes), np.ix_(nodes, nodes)
        clear, light, apart = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n), np.bool_)
        dates, source = np.zeros((n, n), np.int64), np.zeros((n, n))
        for i, j in combinations(range(n), 2):
            said = self.said(nodes[i], nodes[j])
            clear[i, j], light[i, j], dates[i, j] = said.clear, said.light, said.dates
            source[i, j], apart[i, j] = said.structure or said.declared, said.apart
        return Evidence(
            clear=clear - clear.T,
            light=light - light.T,
            dates=dates - dates.T,
            confirmed=source - source.T > 0,
            apart=apart | apart.T,
            carried=tuple(
                self.frame.carried(self.nodes[node]).of([self.nodes[node] for node in nodes]) for node in nodes
            ),
            distance=self.distance[own],
        )

    def _copies(self) -> NDArray[np.int64]:
        """Equal members of one shape, depth and kind are one node."""
        n = len(self.members)
        group = np.full(n, -1, np.int64)
        for i in range(n):
            same = [
                j
                for j in range(i)
                if self.frame.equal[i, j]
                and np.array_equal(self.members[i].grid.held, self.members[j].grid.held)
                and self.members[i].depth == self.members[j].depth
                and self.members[i].size == self.members[j].size
                and self.members[i].routed == self.members[j].routed
                and self.members[i].vocabulary == self.members[j].vocabulary
            ]
            group[i] = group[same[0]] if same else group.max() + 1
        return group

    def _distances(self) -> NDArray[np.float64]:
        shared = self.frame.shared.distance[np.ix_(self.nodes, self.nodes)]
        depth = np.array([self.members[node].depth for node in self.nodes], dtype=np.float64)
        both = np.minimum.outer(depth, depth) / np.maximum(np.maximum.outer(depth, depth), 1)
        distance: NDArray[np.float64] = both * np.minimum(shared, _FAR) + (1 - both) * MISSING_LAYERS
        return distance

    def _oldest(self, group: Sequence[int]) -> int:
        return min(group, key=lambda i: self.members[i].dossier.meta.created_at or "9999")
