"""A family at once: which of several relatives descends from which.

Independent changes add up, so squared distances along a line of descent are additive, and the minimum spanning tree
over them links children to their parents. The tree has no direction yet. Each choice of a root directs all its edges; a
root is as probable as the witnesses of these edges say, and an edge points one way with the summed probability of the
roots that direct it so. What the witnesses leave open stays open.

Copies are one node. A merge hangs on all its parents and is no part of the tree, though others may descend from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import rustworkx
from numpy.typing import NDArray

from provenance.query.statistics.frame import Frame, frame_of
from provenance.query.verdict.merge import Merge, find_merge
from provenance.query.verdict.witness import COMPARABLE, Member, declared, precedence

CARRIED, CARRIED_PARTLY = 0.85, 0.5
"""A node hangs on another when it carries that one's change on: its slope (see `Frame.carried`) is not clearly below
the first, and clearly above the second."""

MISSING_LAYERS = 1.0
"""Distance of a layer that only one of two has: that of an unrelated one, in units of the mean variance, is 2."""

ROUNDS = 3
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

    def merge_weight(self, parent: int, child: int) -> float | None:
        """The weight of a parent in a merge; null where the child is none, or not of this parent or a copy of it."""
        merge = self.merges.get(child)
        shares = merge.weights.items() if merge else ()
        return next((share for place, share in shares if self.copies[place] == self.copies[parent]), None)


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
        self.distance = self._distances()
        self.merges = self._merges()

    def build(self) -> Family:
        tree = [node for node in range(len(self.nodes)) if node not in self.merges]
        close = [node for node in tree if self._comparable(node, tree)]
        ancestry, parent = np.zeros((len(self.nodes),) * 2), dict[int, int]()
        for component in self._components(close):
            self._root(component, ancestry, parent)
        for node in tree:
            if node not in close:
                self._hang(node, ancestry, parent)
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

    def _comparable(self, node: int, others: Sequence[int]) -> bool:
        """Whether its cells correspond to those of another node: only then are distances additive."""
        return any(self._correlation(node, other) >= COMPARABLE for other in others if other != node)

    def _correlation(self, a: int, b: int) -> float:
        return float(self.frame.shared.correlation[self.nodes[a], self.nodes[b]])

    def _witness(self, a: int, b: int) -> float:
        """Log odds that node `a` is the parent of node `b`; of copies, the oldest ones' dates speak and all cards."""
        firsts, seconds = (list(map(int, np.flatnonzero(self.copies == node))) for node in (a, b))
        one, other = self.members[self._oldest(firsts)], self.members[self._oldest(seconds)]
        said = precedence(one, other, self.frame, self.nodes[a], self.nodes[b])
        cards = [declared(self.members[i].dossier, self.members[j].dossier) for i in firsts for j in seconds]
        return replace(said, declared=max(cards, key=abs)).log_odds

    def _precedes(self, i: int, j: int) -> bool:
        """Whether member `i` is clearly older than member `j`, by weights alone."""
        said = precedence(self.members[i], self.members[j], self.frame, i, j)
        return (said.structure or said.asymmetry) > 0

    def _oldest(self, group: Sequence[int]) -> int:
        return min(group, key=lambda i: self.members[i].dossier.meta.created_at or "9999")

    # ---------------------------------------------------------------- merges

    def _merges(self) -> dict[int, Merge]:
        """Nodes that are merges. Sister merges lie on one line with their parents: these come first as parents."""
        nodes = range(len(self.nodes))
        first = {node: merge for node in nodes if (merge := self._merge_of(node, nodes)) is not None}
        plain = [node for node in nodes if node not in first]
        return {node: self._merge_of(node, plain) or merge for node, merge in first.items()}

    def _merge_of(self, node: int, others: Iterable[int]) -> Merge | None:
        near = [self.nodes[o] for o in others if o != node and self._correlation(node, o) >= COMPARABLE]
        return find_merge(self.frame, self.nodes[node], near, self._precedes)

    def _add_merges(self, ancestry: NDArray[np.float64], parent: dict[int, int]) -> None:
        """Merges descend from their parents and all that these descend from; others may descend from a merge."""
        for node, merge in sorted(self.merges.items()):
            for member in merge.weights:
                above = int(self.copies[member])
                ancestry[:, node] = np.maximum(ancestry[:, node], ancestry[:, above])
                ancestry[above, node] = 1.0
        for node in self.merges:
            parents = {int(self.copies[member]) for member in self.merges[node].weights}
            for child, above in list(parent.items()):
                if child in parents or self.distance[child, node] >= self.distance[child, above]:
                    continue
                slope, error = self.frame.carried(self.nodes[child], self.nodes[node], self.nodes[above])
                if slope - 2 * error >= CARRIED_PARTLY and slope + 2 * error >= CARRIED:
                    parent[child] = node
                    below = [child, *(k for k in range(len(self.nodes)) if ancestry[child, k] > 0.5)]
                    for k in below:
                        ancestry[:, k] = np.maximum(ancestry[:, k], ancestry[:, node])
                        ancestry[node, k] = 1.0

    # ---------------------------------------------------------------- the tree

    def _components(self, nodes: Sequence[int]) -> list[list[tuple[int, int]]]:
        """Edges of the minimum spanning tree, a list for each connected part."""
        graph = rustworkx.PyGraph()
        graph.add_nodes_from(list(nodes))
        for x, a in enumerate(nodes):
            for y in range(x):
                if self._correlation(a, nodes[y]) >= COMPARABLE:
                    graph.add_edge(x, y, float(self.distance[a, nodes[y]]))
        tree = rustworkx.minimum_spanning_tree(graph, weight_fn=float)
        return [
            [(nodes[x], nodes[y]) for x, y in tree.edge_list() if x in part]
            for part in rustworkx.connected_components(tree)
            if len(part) > 1
        ]

    def _root(self, edges: list[tuple[int, int]], ancestry: NDArray[np.float64], parent: dict[int, int]) -> None:
        """Direct one part of the tree, and move what does not carry its parent's change on to the grandparent."""
        for _ in range(ROUNDS):
            directed, probability = self._roots(edges)
            best = max(probability, key=lambda root: probability[root])
            moved = self._refined(dict(directed[best]))
            if moved == directed[best]:
                break
            edges = [(above, below) for below, above in moved.items()]
        directed, probability = self._roots(edges)
        for root, share in probability.items():
            for node in directed[root]:
                above = node
                while above in directed[root]:
                    above = directed[root][above]
                    ancestry[above, node] += share
        parent.update(directed[max(probability, key=lambda root: probability[root])])

    def _roots(self, edges: Sequence[tuple[int, int]]) -> tuple[dict[int, dict[int, int]], dict[int, float]]:
        """Every root's parents by child, and the probability of every root."""
        near: dict[int, list[int]] = {}
        for a, b in edges:
            near.setdefault(a, []).append(b)
            near.setdefault(b, []).append(a)
        odds = {(a, b): self._witness(a, b) for a, b in edges}
        odds |= {(b, a): -value for (a, b), value in odds.items()}
        directed: dict[int, dict[int, int]] = {}
        score: dict[int, float] = {}
        for root in near:
            above, queue = dict[int, int](), [root]
            while queue:
                node = queue.pop()
                for other in near[node]:
                    if other != above.get(node):
                        above[other] = node
                        queue.append(other)
            directed[root] = above
            # Both directions of an edge start from even odds.
            score[root] = sum(-math.log1p(math.exp(-odds[up, node])) for node, up in above.items())
        top = max(score.values())
        weight = {root: math.exp(value - top) for root, value in score.items()}
        total = sum(weight.values())
        return directed, {root: value / total for root, value in weight.items()}

    def _refined(self, above: dict[int, int]) -> dict[int, int]:
        """Nodes that do not carry their parent's change on hang on the grandparent instead."""
        moved = True
        while moved:
            moved = False
            for node, up in list(above.items()):
                if up not in above:
                    continue
                top = above[up]
                slope, error = self.frame.carried(self.nodes[node], self.nodes[up], self.nodes[top])
                if slope - 2 * error < CARRIED_PARTLY or slope + 2 * error < CARRIED:
                    above[node], moved = top, True
        return above

    def _hang(self, node: int, ancestry: NDArray[np.float64], parent: dict[int, int]) -> None:
        """A node whose cells correspond to no other's one to one: next to the nearest, directed by that pair alone."""
        others = [o for o in range(len(self.nodes)) if o != node and o not in self.merges]
        if not others:
            return
        near = max(others, key=lambda other: (self._same_shape(node, other), self._correlation(node, other)))
        odds = self._witness(near, node)
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
