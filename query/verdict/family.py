"""A family at once: which of several relatives descends from which.

Copies are one node. Merges are found first: they hang on all their parents and are no part of the tree, though others
may descend from them. The rest makes one tree for every possible root (`tree`). An ancestor is one with the summed
probability of the roots that make it so. What the witnesses leave open stays open.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.frame import Frame, frame_of
from provenance.query.verdict.merge import Merge, find_sum
from provenance.query.verdict.merging import MergeFinder
from provenance.query.verdict.tree import carries, grow
from provenance.query.verdict.witness import CLEAR, COMPARABLE, Member, Precedence, declared, precedence
from provenance.schemas.results import LayerRun, MergeShare

MISSING_LAYERS = 1.0
"""Distance of a layer that only one of two has: that of an unrelated one, in units of the mean variance, is 2."""

Array = NDArray[np.float64]

SHARED = 0.02
"""Squared cosine of two changes from which one may be a part of the other: each of 7 equal ones has 0.14."""

SURE = 0.95
"""Probability of an ancestor that the tree alone is sure of."""

_FAR = 2.0


@dataclass(frozen=True)
class Family:
    """What is known of the descent of `n` members.

    Attributes:
        members: in the order given.
        ancestry: `[n, n]`, the probability that the first descends to the second: is an ancestor of it.
        steps: `[n, n]`, generations from the first down to the second in the most probable tree; 0 where it is none.
        copies: `[n]`, the number of the group of equal members that each belongs to.
        merges: for each member that is a merge, its parents.
    """

    members: Sequence[Member]
    frame: Frame
    ancestry: NDArray[np.float64]
    steps: NDArray[np.int64]
    copies: NDArray[np.int64]
    merges: Mapping[int, Merge] = field(default_factory=dict)

    def precedence(self, i: int, j: int) -> Precedence:
        """What the witnesses say of the order of two members."""
        return precedence(self.members[i], self.members[j], self.frame, i, j)

    def in_dispute(self, i: int, j: int) -> bool:
        """Whether the cards of two members name each other, and neither their weights nor dates say who was first."""
        one, other = (self.members[place].dossier for place in (i, j))
        said = precedence(self.members[i], self.members[j], self.frame, i, j)
        mutual = one.meta.declares(other.repo_id) and other.meta.declares(one.repo_id)
        return mutual and not (said.structure or said.dates or abs(said.asymmetry) >= CLEAR)

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


class _Builder:
    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self.frame = frame_of([member.grid for member in members])
        self.copies = self._copies()
        self.nodes = [int(np.flatnonzero(self.copies == group)[0]) for group in range(self.copies.max() + 1)]
        """The first member of each group of copies stands for it."""
        self._known_odds: dict[tuple[int, int], float] = {}
        self.distance = self._distances()
        self.finder = MergeFinder(self.frame, self.members, self.nodes, self.copies, self.distance, self._odds)
        self.merges = self.finder.find()

    def build(self) -> Family:
        nodes = [node for node in range(len(self.nodes)) if node not in self.merges]
        ancestry, parent = np.zeros((len(self.nodes),) * 2), dict[int, int]()
        alone = []
        for part in self._parts(nodes):
            if len(part) == 1:
                alone += part
                continue
            tree = grow(part, self._odds, self._slopes, self.distance)
            parent.update(tree.parent)
            for (above, node), probability in tree.ancestry.items():
                ancestry[above, node] = probability
        for node in alone:
            self._hang(node, ancestry, parent)
        self._sums(ancestry, parent)
        self._add_merges(ancestry, parent)
        return self._expanded(ancestry, parent)

    # ---------------------------------------------------------------- nodes

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
            ]
            group[i] = group[same[0]] if same else group.max() + 1
        return group

    def _distances(self) -> NDArray[np.float64]:
        shared = self.frame.shared.distance[np.ix_(self.nodes, self.nodes)]
        depth = np.array([self.members[node].depth for node in self.nodes], dtype=np.float64)
        both = np.minimum.outer(depth, depth) / np.maximum(np.maximum.outer(depth, depth), 1)
        distance: NDArray[np.float64] = both * np.minimum(shared, _FAR) + (1 - both) * MISSING_LAYERS
        return distance

    def _correlation(self, a: int, b: int) -> float:
        return float(self.frame.shared.correlation[self.nodes[a], self.nodes[b]])

    def _odds(self, a: int, b: int) -> float:
        """Log odds that node `a` came before node `b`; of copies, the oldest ones' dates speak and all cards."""
        if (a, b) not in self._known_odds:
            firsts, seconds = (list(map(int, np.flatnonzero(self.copies == node))) for node in (a, b))
            one, other = self.members[self._oldest(firsts)], self.members[self._oldest(seconds)]
            said = precedence(one, other, self.frame, self.nodes[a], self.nodes[b])
            cards = [declared(self.members[i].dossier, self.members[j].dossier) for i in firsts for j in seconds]
            odds = replace(said, declared=max(cards, key=abs)).log_odds
            self._known_odds[a, b], self._known_odds[b, a] = odds, -odds
        return self._known_odds[a, b]

    def _oldest(self, group: Sequence[int]) -> int:
        return min(group, key=lambda i: self.members[i].dossier.meta.created_at or "9999")

    # ---------------------------------------------------------------- merges

    def _sums(self, ancestry: NDArray[np.float64], parent: dict[int, int]) -> None:
        """Nodes that are sums of changes, now that the tree says what their base may be: any of their ancestors."""
        lines = {node: self._line(node, parent) for node in parent}
        found = dict[int, Merge]()

        def before(base: int, node: int) -> bool:
            return self._odds(base, node) > 0 or float(ancestry[base, node]) >= SURE

        for node in parent:
            for base in lines[node]:
                slope, _ = self._slopes(base)
                # From M + R = A + B nothing follows about which of the four is the sum: other witnesses must say so.
                children = [
                    other
                    for other in parent
                    if slope[node, other] * slope[other, node] >= SHARED
                    and base in lines[other]
                    and node not in (other, *lines[other])
                    and self._correlation(node, other) >= COMPARABLE
                    and before(base, other)
                    and self._odds(other, node) > -CLEAR
                ]
                merge = self._sum(node, base, children) if before(base, node) else None
                if merge is not None and (node not in found or merge.left_over < found[node].left_over):
                    found[node] = merge
        for node, merge in sorted(found.items(), key=lambda item: item[1].left_over):
            if not {self.finder.node(place) for place in merge.weights} & self.finder.below(node, self.merges):
                self.merges[node] = merge
                del parent[node]

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
                for above in map(self.finder.node, merge.weights):
                    ancestry[:, node] = np.maximum(ancestry[:, node], ancestry[:, above])
                    ancestry[above, node] = 1.0
        for node in self.merges:
            parents = {int(self.copies[member]) for member in self.merges[node].weights}
            for child, above in list(parent.items()):
                # A merge lies between its parents and looks like their ancestor: only a clear witness makes it one.
                if child in parents or ancestry[child, node] > 0.5 or self._odds(node, child) < CLEAR:
                    continue
                nearer = self.distance[child, node] < self.distance[child, above]
                slope, error = self._slopes(above)
                if nearer and carries(slope, error)[child, node]:
                    parent[child] = node
                    below = [child, *(k for k in range(len(self.nodes)) if ancestry[child, k] > 0.5)]
                    for k in below:
                        ancestry[:, k] = np.maximum(ancestry[:, k], ancestry[:, node])
                        ancestry[node, k] = 1.0

    # ---------------------------------------------------------------- the tree

    def _parts(self, nodes: Sequence[int]) -> list[list[int]]:
        """Groups of nodes whose cells correspond, directly or through each other: only there are distances additive."""
        parts: list[list[int]] = []
        for node in nodes:
            near = [part for part in parts if any(self._correlation(node, other) >= COMPARABLE for other in part)]
            parts = [part for part in parts if part not in near]
            parts.append([node, *(other for part in near for other in part)])
        return [sorted(part) for part in parts]

    def _slopes(self, reference: int) -> tuple[Array, Array]:
        slope, error = self.frame.carried(self.nodes[reference])
        own = np.ix_(self.nodes, self.nodes)
        return slope[own], error[own]

    def _hang(self, node: int, ancestry: NDArray[np.float64], parent: dict[int, int]) -> None:
        """A node whose cells correspond to no other's one to one: next to the nearest, directed by that pair alone."""
        others = [o for o in range(len(self.nodes)) if o != node and o not in self.merges]
        if not others:
            return
        near = max(others, key=lambda other: (self._same_shape(node, other), self._correlation(node, other)))
        odds = self._odds(near, node)
        below = 1 / (1 + math.exp(-odds))
        ancestry[:, node] = ancestry[:, near] * below
        ancestry[near, node], ancestry[node, near] = below, 1 - below
        if below > 0.5:
            parent[node] = near

    def _same_shape(self, a: int, b: int) -> bool:
        one, other = self.members[self.nodes[a]], self.members[self.nodes[b]]
        return (one.depth, one.size, one.routed) == (other.depth, other.size, other.routed)

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
                    probability[i, j] = 1 / (1 + math.exp(-(said.dates + said.declared)))
        merges = {i: self.merges[int(self.copies[i])] for i in range(n) if int(self.copies[i]) in self.merges}
        return Family(self.members, self.frame, probability, generations, self.copies, merges)

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
