"""A family at once: which of several relatives descends from which.

Copies are one node. Merges are found first: they hang on all their parents and are no part of the tree, though others
may descend from them. The rest makes one tree for every possible root (`tree`). An ancestor is one with the summed
probability of the roots that make it so. What the witnesses leave open stays open.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.frame import Frame
from provenance.query.verdict.dates import UNKNOWN_DATES, doubted
from provenance.query.verdict.merge import Merge, find_sum
from provenance.query.verdict.merging import MergeFinder, below
from provenance.query.verdict.nodes import Nodes
from provenance.query.verdict.tree import WHOLE_CHANGE, carries, doubt_of, grow
from provenance.query.verdict.witness import CLEAR, COMPARABLE, Member, Precedence, precedence
from provenance.schemas.results import LayerRun, MergeShare

SHARED = 0.02
"""Squared cosine of two changes from which one may be a part of the other: each of 7 equal ones has 0.14."""

LIKELY_BASE = 0.8
"""Probability that a node is an ancestor of others, from which their changes are counted from it."""


@dataclass(frozen=True)
class Family:
    """What is known of the descent of `n` members.

    Attributes:
        members: in the order given.
        ancestry: `[n, n]`, the probability that the first descends to the second: is an ancestor of it.
        steps: `[n, n]`, generations from the first down to the second in the most probable tree; 0 where it is none.
        copies: `[n]`, the number of the group of equal members that each belongs to.
        merges: for each member that is a merge, its parents.
        doubt: probability that the dates of this family are arbitrary.
    """

    members: Sequence[Member]
    frame: Frame
    ancestry: NDArray[np.float64]
    steps: NDArray[np.int64]
    copies: NDArray[np.int64]
    merges: Mapping[int, Merge] = field(default_factory=dict)
    doubt: float = UNKNOWN_DATES

    def precedence(self, i: int, j: int) -> Precedence:
        """What the witnesses say of the order of two members."""
        return precedence(self.members[i], self.members[j], self.frame, i, j)

    def in_dispute(self, i: int, j: int) -> bool:
        """Whether the cards of two members name each other, and neither their weights nor dates say who was first."""
        one, other = (self.members[place].dossier for place in (i, j))
        mutual = one.meta.declares(other.repo_id) and other.meta.declares(one.repo_id)
        if not mutual:
            return False
        said = self.precedence(i, j)
        return not (said.clear or said.dates)

    def share(self, parent: int, child: int) -> tuple[MergeShare, tuple[LayerRun, ...]] | None:
        """What a parent gave to a merge; null where the child is none, or not of this parent or a copy of it."""
        merge = self.merges.get(child)
        shares = merge.shares.items() if merge else ()
        share = next((share for place, share in shares if self.copies[place] == self.copies[parent]), None)
        if merge is None or share is None:
            return None
        base = None if merge.reference is None else self._name(merge.reference)
        instead = tuple(self._name(place) for place in share.instead)
        return MergeShare(merge.method, share.weight, share.error, share.log10_p, base, instead), share.runs

    def _name(self, place: int) -> str:
        return self.members[place].dossier.repo_id


def family_of(members: Sequence[Member]) -> Family:
    """Work out the descent of several relatives."""
    return _Builder(members).build()


class _Builder(Nodes):
    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__(members)
        self.doubt = UNKNOWN_DATES
        self.merges = MergeFinder(self).find()

    def build(self) -> Family:
        nodes = [node for node in range(len(self.nodes)) if node not in self.merges]
        ancestry, parent = np.zeros((len(self.nodes),) * 2), dict[int, int]()
        parts = self.parts(nodes)
        evidence = {tuple(part): self.evidence(part) for part in parts if len(part) > 1}
        merged = [self.said(self.node(place), node).dates for node, m in self.merges.items() for place in m.weights]
        self.doubt = doubted(UNKNOWN_DATES, [1.0], [merged])
        for known in evidence.values():
            self.doubt = doubt_of(known, self.doubt)
        for part, known in evidence.items():
            tree = grow(known, self.doubt)
            parent.update({part[node]: part[above] for node, above in tree.parent.items()})
            ancestry[np.ix_(part, part)] = tree.ancestry
        alone = [part[0] for part in parts if len(part) == 1]
        for node in alone:
            self._hang(node, ancestry, parent)
        self._sums(ancestry, parent)
        self._add_merges(ancestry, parent)
        return self._expanded(ancestry, parent)

    # ---------------------------------------------------------------- merges

    def _sums(self, ancestry: NDArray[np.float64], parent: dict[int, int]) -> None:
        """Nodes that are sums of changes, now that the tree says what their base may be: any of their ancestors."""
        lines = {node: self._line(node, parent) for node in parent}
        found = dict[int, Merge]()
        for node in parent:
            for base in lines[node]:
                slope = self.carried(base).slope
                # From M + R = A + B nothing follows about which of the four is the sum: other witnesses must say so.
                children = [
                    other
                    for other in parent
                    if slope[node, other] * slope[other, node] >= SHARED
                    and base in lines[other]
                    and node not in (other, *lines[other])
                    and self.same_shape(other, node)
                    and self.correlation(node, other) >= COMPARABLE
                    and ancestry[base, other] >= LIKELY_BASE
                    and self.said(other, node).of_a_merge(self.doubt) > -CLEAR
                ]
                merge = self._sum(node, base, children) if ancestry[base, node] >= LIKELY_BASE else None
                if merge is not None and (node not in found or merge.left_over < found[node].left_over):
                    found[node] = merge
        for node, merge in sorted(found.items(), key=lambda item: item[1].left_over):
            if not {self.node(place) for place in merge.weights} & below(self, node, self.merges):
                self.merges[node] = merge
                del parent[node]

    def _odds(self, a: int, b: int) -> float:
        """Log odds that node `a` came before node `b`."""
        return self.said(a, b).log_odds(self.doubt)

    def _sum(self, node: int, base: int, children: Iterable[int]) -> Merge | None:
        return find_sum(self.frame, self.nodes[node], self.nodes[base], [self.nodes[child] for child in children])

    def _line(self, node: int, parent: Mapping[int, int]) -> list[int]:
        """The ancestors of a node in the tree, nearest first."""
        line = []
        while node in parent:
            node = parent[node]
            line.append(node)
        return line

    def _add_merges(self, ancestry: NDArray[np.float64], parent: dict[int, int]) -> None:
        """Merges descend from their parents and all that these descend from; others may descend from a merge."""
        for node in self.merges:
            ancestry[:, node] = 0.0
        for _ in self.merges:  # a merge of merges needs as many rounds as it has generations of them
            for node, merge in self.merges.items():
                for above in map(self.node, merge.weights):
                    ancestry[:, node] = np.maximum(ancestry[:, node], ancestry[:, above])
                    ancestry[above, node] = 1.0
        for node in self.merges:
            parents = {int(self.copies[member]) for member in self.merges[node].weights}
            for child, above in list(parent.items()):
                # A merge lies between its parents and looks like their ancestor: only a clear witness makes it one.
                if child in parents or ancestry[child, node] > 0.5 or self._odds(node, child) < CLEAR:
                    continue
                nearer = self.distance[child, node] < self.distance[child, above]
                found = self.carried(above)
                whole = found.correlation[child, node] >= WHOLE_CHANGE or self.said(node, child).clear > 0
                if nearer and whole and carries(found)[child, node]:
                    parent[child] = node
                    below = [child, *(k for k in range(len(self.nodes)) if ancestry[child, k] > 0.5)]
                    for k in below:
                        ancestry[:, k] = np.maximum(ancestry[:, k], ancestry[:, node])
                        ancestry[node, k] = 1.0

    # ---------------------------------------------------------------- the tree

    def _hang(self, node: int, ancestry: NDArray[np.float64], parent: dict[int, int]) -> None:
        """A node whose cells correspond to no other's one to one: next to the nearest, directed by that pair alone."""
        others = [o for o in range(len(self.nodes)) if o != node and o not in self.merges]
        if not others:
            return
        near = max(others, key=lambda other: (self.same_shape(node, other), self.correlation(node, other)))
        odds = self._odds(near, node)
        below = 1 / (1 + math.exp(-odds))
        ancestry[:, node] = ancestry[:, near] * below
        ancestry[near, node], ancestry[node, near] = below, 1 - below
        if below > 0.5:
            parent[node] = near

    # ---------------------------------------------------------------- members again

    def _expanded(self, ancestry: NDArray[np.float64], parent: Mapping[int, int]) -> Family:
        """From nodes to members: copies share ancestors; among themselves dates and cards decide."""
        n = len(self.members)
        steps = np.zeros((len(self.nodes),) * 2, np.int64)
        for node in range(len(self.nodes)):
            for above, distance in self._above(node, parent).items():
                steps[above, node] = distance
        all_pairs = np.ix_(self.copies, self.copies)
        probability, generations = np.minimum(ancestry[all_pairs], 1.0), steps[all_pairs]
        for i in range(n):
            for j in range(n):
                if i != j and self.copies[i] == self.copies[j]:
                    said = precedence(self.members[i], self.members[j], self.frame, i, j)
                    probability[i, j] = 1 / (1 + math.exp(-said.metadata(self.doubt)))
        merges = {i: self.merges[int(self.copies[i])] for i in range(n) if int(self.copies[i]) in self.merges}
        return Family(self.members, self.frame, probability, generations, self.copies, merges, self.doubt)

    def _above(self, node: int, parent: Mapping[int, int]) -> dict[int, int]:
        found: dict[int, int] = {}
        queue = [(node, 0)]
        while queue:
            here, distance = queue.pop(0)
            ups = [parent[here]] if here in parent else []
            if here in self.merges:
                ups = [int(self.copies[member]) for member in self.merges[here].weights]
            for up in ups:
                if up not in found and up != node:
                    found[up] = distance + 1
                    queue.append((up, distance + 1))
        return found
