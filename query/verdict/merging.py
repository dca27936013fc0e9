"""The merges of a family: which of its nodes are sums, sparse sums or stacks of others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from provenance.query.verdict.merge import Merge, find_mean, find_sum
from provenance.query.verdict.nodes import Nodes
from provenance.query.verdict.sparse import find_sparse, untouched
from provenance.query.verdict.stack import find_stack, stack_candidates
from provenance.query.verdict.tuned import find_tuned
from provenance.query.verdict.witness import BETWEEN, CLEAR, COMPARABLE
from provenance.schemas.enums import MergeMethod

FAR_BETTER, NOTHING_LEFT = 4.0, 0.02
"""How much less a sum of changes must leave over than a mean does, and what a mean leaves that needs no other."""

MIN_HUB, SHARED, SUM_LEFT = 6, 0.1, 0.1
"""A sum of changes of which no order tells: nodes needed, least squared cosine of a summand, most that is left over."""

MIN_SPARSE, SPARSE_BASES, UNTOUCHED = 3, 4, 0.02
"""A merge of sparse changes: relatives needed, bases tried, and the least share of cells equal to the base's."""


class MergeFinder:
    """Looks for merges among the nodes of a family."""

    def __init__(self, family: Nodes) -> None:
        """Of what is known of every pair."""
        self._family = family
        self._frame = family.frame
        self._members = family.members
        self._nodes = family.nodes
        self._distance = family.distance

    def find(self) -> dict[int, Merge]:
        """Nodes that are merges; none descends from itself.

        Sister merges, and merges of merges, lie between each other too. So whatever lies between others is set aside
        first, and the parents are looked for among what is left.
        """
        nodes = range(len(self._nodes))
        found = {node: merge for node in nodes if (merge := self._merge_of(node, nodes)) is not None}
        plain = [node for node in nodes if node not in found]
        accepted: dict[int, Merge] = {}
        # Layers stacked from several can be put together to the source again: what has the fewest runs is the stack.
        stacks = sorted((node for node in found if found[node].runs), key=lambda node: found[node].runs)
        means = sorted((node for node in found if not found[node].runs), key=lambda node: found[node].left_over)
        for node in (*stacks, *means):
            merge = None if found[node].runs else self._merge_of(node, plain)
            if merge is None:
                under = below(self._family, node, accepted)
                merge = self._merge_of(node, [other for other in nodes if other not in under])
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
        return accepted | self._from_the_hub([node for node in rest if node not in accepted], accepted)

    def _near_a_merge(self, node: int, plain: Sequence[int], accepted: Mapping[int, Merge]) -> bool:
        """Whether a merge is the nearest of all, and not clearly the parent.

        A noisy merge lies near the exact one, not between the parents: unless it came from that, it is another of them.
        """
        near = min(accepted, key=lambda other: float(self._distance[node, other]))
        nearest = min((float(self._distance[node, other]) for other in plain if other != node), default=0.0)
        return self._odds(near, node) < CLEAR and bool(self._distance[node, near] <= nearest)

    def _merge_of(self, node: int, others: Iterable[int]) -> Merge | None:
        rest = [other for other in others if other != node]
        near = [self._nodes[other] for other in rest if self._blendable(node, other)]
        while (mean := find_mean(self._frame, self._nodes[node], near)) is not None:
            made_from = [place for place in mean.weights if self._made_from(self._family.node(place), node)]
            if not made_from:
                return mean
            near = [place for place in near if place not in made_from]
        older = [self._nodes[other] for other in rest if self._odds(other, node) > -CLEAR]
        grids = {place: member.grid for place, member in enumerate(self._members)}
        nearest = stack_candidates(self._frame, self._nodes[node], older, grids)
        return find_stack(grids[self._nodes[node]], {place: grids[place] for place in nearest})

    def _from_a_base(self, node: int, mean: Merge, others: Iterable[int]) -> Merge:
        """The mean, or what explains far more: a sum of the parents' changes from a base."""
        if mean.method is not MergeMethod.LINEAR or mean.left_over < NOTHING_LEFT:
            return mean
        parents = list(mean.weights)
        bases = [self._nodes[other] for other in others if other != node and self._blendable(node, other)]
        sums = [find_sum(self._frame, self._nodes[node], base, parents) for base in bases if base not in parents]
        best = min((found for found in sums if found is not None), key=lambda found: found.left_over, default=mean)
        return best if FAR_BETTER * best.left_over < mean.left_over else mean

    def _from_the_hub(self, nodes: Sequence[int], accepted: Mapping[int, Merge]) -> dict[int, Merge]:
        """Sums and means of changes from the node that all others are nearest to, found without any order.

        From M + R = A + B nothing follows about which of the four is the base. But what else comes from the base is
        nearer to it than to the other three.
        """
        if len(nodes) < MIN_HUB:
            return {}
        hub = min(nodes, key=lambda node: float(self._distance[node, nodes].sum()))
        found: dict[int, Merge] = {}
        squared = self._frame.squared
        base = self._nodes[hub]
        for node in nodes:
            member = self._nodes[node]
            near = [self._nodes[o] for o in nodes if o not in (node, hub) and self._blendable(node, o)]
            if node == hub or len(near) < 2 or not self._blendable(node, hub):
                continue
            if any(
                self._odds(m, node) >= CLEAR and self._distance[m, node] < self._distance[hub, node] for m in accepted
            ):
                continue  # it comes from a merge, and has its parents from there
            inner = (squared[base, member] + squared[base, near] - squared[member, near]) / 2
            shared = inner.clip(0) ** 2 >= SHARED * squared[base, member] * squared[base, near]
            alike = [place for place, part in zip(near, shared, strict=True) if part]
            parts = (
                [place for place in alike if self._may_be_parent(self._family.node(place), node)]
                if len(alike) > 1
                else []
            )
            if len(parts) < 2:
                continue
            merge = find_sum(self._frame, member, base, parts)
            if merge is None or merge.left_over > SUM_LEFT:
                merge = find_tuned(self._frame, member, base, parts)
            if merge is not None and self._is_hub(hub, node, merge, nodes):
                found[node] = merge
        return found

    def _is_hub(self, hub: int, node: int, merge: Merge, nodes: Sequence[int]) -> bool:
        """Whether those that have no part in a sum are nearest to its base, and none to the sum itself."""
        corners = [hub, node, *map(self._family.node, merge.weights)]
        others = [other for other in nodes if other not in corners]
        nearest = [corners[int(np.argmin(self._distance[other, corners]))] for other in others]
        return nearest.count(hub) >= 2 and node not in nearest

    def _may_be_parent(self, other: int, node: int) -> bool:
        return self._odds(other, node) > -CLEAR and not self._made_from(other, node)

    def _sparse(self, node: int, others: Sequence[int]) -> Merge | None:
        """A merge of sparse changes: it kept many cells of its base as they are."""
        near = [self._nodes[other] for other in others if other != node and self._blendable(node, other)]
        if len(near) < MIN_SPARSE:
            return None
        same = untouched(self._frame, self._nodes[node], near)
        if same.max() < UNTOUCHED:
            return None
        older = np.array([not self._made_from(self._family.node(place), node) for place in near])
        places = [place for place, keep in zip(near, older, strict=True) if keep]
        order = np.argsort(-same[older], kind="stable")[:SPARSE_BASES]
        bases = [places[i] for i in order if same[older][i] >= UNTOUCHED]
        found = [find_sparse(self._frame, self._nodes[node], base, [p for p in places if p != base]) for base in bases]
        # Where nothing was rescaled, the merge equals its base and its parents alike in many cells.
        return min((merge for merge in found if merge), key=lambda merge: merge.left_over, default=None)

    def _blendable(self, node: int, other: int) -> bool:
        """Whether cells correspond one to one, as those of a blend and its parents do."""
        return self._family.same_shape(node, other) and self._family.correlation(node, other) >= COMPARABLE

    def _odds(self, first: int, second: int) -> float:
        """Log odds that one node came before another, which may be a merge of it."""
        return self._family.said(first, second).of_a_merge()

    def _made_from(self, node: int, base: int) -> bool:
        """Whether weights say clearly that one was made from the other: pruned, rounded, cut, long trained."""
        said = self._family.said(base, node)
        return said.structure > 0 or said.asymmetry > BETWEEN


def below(family: Nodes, node: int, merges: Mapping[int, Merge]) -> set[int]:
    """A node and all merges that descend from it."""
    found = {node}
    while more := {m for m in merges if m not in found and found & {family.node(p) for p in merges[m].weights}}:
        found |= more
    return found
