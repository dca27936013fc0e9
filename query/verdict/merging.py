"""The merges of a family: which of its nodes are sums, sparse sums or stacks of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.frame import Frame
from provenance.query.verdict.merge import Merge, find_mean, find_sum
from provenance.query.verdict.sparse import find_sparse, untouched
from provenance.query.verdict.stack import find_stack, stack_candidates
from provenance.query.verdict.tuned import find_tuned
from provenance.query.verdict.witness import CLEAR, COMPARABLE, Member, precedence
from provenance.schemas.enums import MergeMethod

FAR_BETTER, NOTHING_LEFT = 4.0, 0.02
"""How much less a sum of changes must leave over than a mean does, and what a mean leaves that needs no other."""

MIN_HUB, SHARED, SUM_LEFT = 6, 0.1, 0.1
"""A sum of changes of which no order tells: nodes needed, least squared cosine of a summand, most that is left over."""

MIN_SPARSE, SPARSE_BASES, UNTOUCHED = 3, 4, 0.02
"""A merge of sparse changes: relatives needed, bases tried, and the least share of cells equal to the base's."""


@dataclass(frozen=True)
class MergeFinder:
    """Looks for merges among the nodes of a family.

    Attributes:
        frame: of all members.
        members: in the order of the frame.
        nodes: for each group of equal members the place of the one that stands for it.
        copies: for each member its node.
        distance: `[nodes, nodes]`.
        odds: log odds that one node came before another.
    """

    frame: Frame
    members: Sequence[Member]
    nodes: Sequence[int]
    copies: NDArray[np.int64]
    distance: NDArray[np.float64]
    odds: Callable[[int, int], float]

    def find(self) -> dict[int, Merge]:
        """Nodes that are merges; none descends from itself.

        Sister merges, and merges of merges, lie between each other too. So whatever lies between others is set aside
        first, and the parents are looked for among what is left.
        """
        nodes = range(len(self.nodes))
        found = {node: merge for node in nodes if (merge := self._merge_of(node, nodes)) is not None}
        plain = [node for node in nodes if node not in found]
        accepted: dict[int, Merge] = {}
        # Layers stacked from several can be put together to the source again: what has the fewest runs is the stack.
        stacks = sorted((node for node in found if found[node].runs), key=lambda node: found[node].runs)
        means = sorted((node for node in found if not found[node].runs), key=lambda node: found[node].left_over)
        for node in (*stacks, *means):
            merge = None if found[node].runs else self._merge_of(node, plain)
            if merge is None:
                below = self.below(node, accepted)
                merge = self._merge_of(node, [other for other in nodes if other not in below])
            if merge is not None:
                accepted[node] = merge
        for node in plain if accepted else ():
            if self._near_a_merge(node, plain, accepted) and (merge := self._merge_of(node, plain)) is not None:
                accepted[node] = merge
        for node, merge in accepted.items():
            accepted[node] = self._from_a_base(node, merge, plain)
        rest = [node for node in nodes if node not in accepted]
        for node in rest:
            if (merge := self._sparse(node, rest)) is not None:
                accepted[node] = merge
        return accepted | self._from_the_hub([node for node in rest if node not in accepted])

    def below(self, node: int, merges: Mapping[int, Merge]) -> set[int]:
        """The node and all merges that descend from it."""
        below = {node}
        while more := {m for m in merges if m not in below and below & {self.node(p) for p in merges[m].weights}}:
            below |= more
        return below

    def node(self, member: int) -> int:
        """The node of a member."""
        return int(self.copies[member])

    def _near_a_merge(self, node: int, plain: Sequence[int], accepted: Mapping[int, Merge]) -> bool:
        """Whether a merge is the nearest of all, and not clearly the parent.

        A noisy merge lies near the exact one, not between the parents: unless it came from that, it is another of them.
        """
        near = min(accepted, key=lambda other: float(self.distance[node, other]))
        nearest = min((float(self.distance[node, other]) for other in plain if other != node), default=0.0)
        return self.odds(near, node) < CLEAR and bool(self.distance[node, near] <= nearest)

    def _merge_of(self, node: int, others: Iterable[int]) -> Merge | None:
        rest = [other for other in others if other != node]
        near = [self.nodes[other] for other in rest if self._blendable(node, other)]
        while (mean := find_mean(self.frame, self.nodes[node], near)) is not None:
            made_from = [place for place in mean.weights if self._made_from(self.node(place), node)]
            if not made_from:
                return mean
            near = [place for place in near if place not in made_from]
        older = [self.nodes[other] for other in rest if self.odds(other, node) > -CLEAR]
        grids = {place: member.grid for place, member in enumerate(self.members)}
        nearest = stack_candidates(self.frame, self.nodes[node], older, grids)
        return find_stack(grids[self.nodes[node]], {place: grids[place] for place in nearest})

    def _from_a_base(self, node: int, mean: Merge, others: Iterable[int]) -> Merge:
        """The mean, or what explains far more: a sum of the parents' changes from a base."""
        if mean.method is not MergeMethod.LINEAR or mean.left_over < NOTHING_LEFT:
            return mean
        parents = list(mean.weights)
        bases = [self.nodes[other] for other in others if other != node and self._blendable(node, other)]
        sums = [find_sum(self.frame, self.nodes[node], base, parents) for base in bases if base not in parents]
        best = min((found for found in sums if found is not None), key=lambda found: found.left_over, default=mean)
        return best if FAR_BETTER * best.left_over < mean.left_over else mean

    def _from_the_hub(self, nodes: Sequence[int]) -> dict[int, Merge]:
        """Sums and means of changes from the node that all others are nearest to, found without any order.

        From M + R = A + B nothing follows about which of the four is the base. But what else comes from the base is
        nearer to it than to the other three.
        """
        if len(nodes) < MIN_HUB:
            return {}
        hub = min(nodes, key=lambda node: float(self.distance[node, nodes].sum()))
        found: dict[int, Merge] = {}
        squared = self.frame.squared
        base = self.nodes[hub]
        for node in nodes:
            member = self.nodes[node]
            near = [self.nodes[o] for o in nodes if o not in (node, hub) and self._may_be_parent(o, node)]
            if node == hub or len(near) < 2 or not self._blendable(node, hub):
                continue
            inner = (squared[base, member] + squared[base, near] - squared[member, near]) / 2
            shared = inner.clip(0) ** 2 >= SHARED * squared[base, member] * squared[base, near]
            if shared.sum() < 2:
                continue
            parts = [place for place, part in zip(near, shared, strict=True) if part]
            merge = find_sum(self.frame, member, base, parts)
            if merge is None or merge.left_over > SUM_LEFT:
                merge = find_tuned(self.frame, member, base, parts)
            if merge is not None and self._is_hub(hub, node, merge, nodes):
                found[node] = merge
        return found

    def _is_hub(self, hub: int, node: int, merge: Merge, nodes: Sequence[int]) -> bool:
        """Whether those that have no part in a sum are nearest to its base, and none to the sum itself."""
        corners = [hub, node, *map(self.node, merge.weights)]
        others = [other for other in nodes if other not in corners]
        nearest = [corners[int(np.argmin(self.distance[other, corners]))] for other in others]
        return nearest.count(hub) >= 2 and node not in nearest

    def _may_be_parent(self, other: int, node: int) -> bool:
        return self._blendable(node, other) and self.odds(other, node) > -CLEAR and not self._made_from(other, node)

    def _sparse(self, node: int, others: Sequence[int]) -> Merge | None:
        """A merge of sparse changes: it kept many cells of its base as they are."""
        near = [other for other in others if other != node and self._blendable(node, other)]
        places = [self.nodes[other] for other in near if not self._made_from(other, node)]
        if len(places) < MIN_SPARSE:
            return None
        same = untouched(self.frame, self.nodes[node], places)
        bases = [places[i] for i in np.argsort(-same, kind="stable")[:SPARSE_BASES] if same[i] >= UNTOUCHED]
        found = [find_sparse(self.frame, self.nodes[node], base, [p for p in places if p != base]) for base in bases]
        # Where nothing was rescaled, the merge equals its base and its parents alike in many cells.
        return min((merge for merge in found if merge), key=lambda merge: merge.left_over, default=None)

    def _blendable(self, node: int, other: int) -> bool:
        """Whether cells correspond one to one, as those of a blend and its parents do."""
        i, j = self.nodes[node], self.nodes[other]
        one, two = self.members[i], self.members[j]
        same_shape = (one.depth, one.size, one.routed) == (two.depth, two.size, two.routed)
        return same_shape and float(self.frame.shared.correlation[i, j]) >= COMPARABLE

    def _made_from(self, node: int, base: int) -> bool:
        """Whether weights say clearly that one was made from the other: pruned, rounded, cut, long trained."""
        first, second = self.nodes[base], self.nodes[node]
        said = precedence(self.members[first], self.members[second], self.frame, first, second)
        return said.structure > 0 or said.asymmetry >= CLEAR
