"""Recognising a merge: a member of a family that is a weighted sum of several others.

Let U_i be the difference of a relative i from the member. A merge leaves |Σ a_i U_i|² near 0, because the differences
of its parents point to opposite sides. A base looks like a mean of its children, but their changes are independent of
each other: then the sum is no less than a_i |U_i|², for every child. So each parent must be found to pull against the
others, and those that do not are left out one by one. What later training or noise added stays in the rest.

From M = (A + B) / 2 follows A = 2 M - B. With no weight negative the merge is the one that lies between the others. A
negative weight is accepted only for a base that came before the others (task arithmetic, arXiv 2212.04089):
M = R + λ (A - R) + λ (B - R).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.blend import compare_sets, estimate, inner_products, least_squares, mix, pull
from provenance.query.statistics.frame import Frame
from provenance.query.statistics.significance import MIN_BLOCKS
from provenance.query.verdict.runs import runs_of
from provenance.query.verdict.slerp import is_slerp
from provenance.schemas.enums import MergeMethod
from provenance.schemas.results import LayerRun
from provenance.schemas.roles import FEED_FORWARD, ROLE_CODE

OPPOSING = 0.7
"""Most that may be left over, as a share of what the difference of any one parent adds (`blend.pull`). Independent
changes have 1, snapshots of one run .82; merges with noise of 60 % of the change .60."""

IMPROVED = 0.6
"""Largest share of the squared distance to the nearest relative that may be left over: a noisy copy is no merge."""

LEFT_OUT = 0.9
"""Relatives that pull less than this against the others are left out, the weakest first."""

OPPOSED = -0.02
"""Cosine of two differences that points to opposite sides: -1 / (k - 1) for the equal mean of k, 0 for a base."""

MIN_WEIGHT = 0.08
"""Smallest weight of a parent: a soup of 8 has 0.125. Later training on a relative's text looks like 0.06 of it."""

MIN_SUMMAND = 0.1
"""Smallest weight of a change in a sum, where nothing but its size tells it from chance."""

SUMMED = 0.2
"""Largest share of independent changes that a sum of changes may leave over: sums with noise of 60 % leave .07, a model
that was trained on with the same text .36."""

SIGNIFICANT = -3.0
"""log10 of the adjusted p-value of each parent's weight."""

MIN_CELLS = 256
COVERED = 0.95
"""Share of the member's cells that a parent must have."""

NEAREST = 64
"""Relatives that are tried, the nearest ones."""

MAX_BY_LAYER = 4
"""Parents whose weights can be told layer by layer."""

VARIES = 0.8
"""Weights that vary from layer to layer leave less than this share of what constant weights leave over."""

ALIKE, AS_GOOD = 0.5, 3.0
"""Another checkpoint explains a merge equally where its difference has at least this cosine with a parent's, and the
set with it leaves no more over by Student's t."""

Array = NDArray[np.float64]

_FEED_FORWARD = [ROLE_CODE[role] for role in FEED_FORWARD]


@dataclass(frozen=True)
class Share:
    """What one parent gave to a merge.

    Attributes:
        weight: of the parent; of stacked layers its share of them.
        error: standard error of the weight; null for stacked layers.
        log10_p: of the weight being 0, corrected for the relatives tried; null for stacked layers.
        runs: where the weight differs, or which layers of the parent stand there; empty where all are alike.
        instead: places of checkpoints that would explain the merge equally in its place.
    """

    weight: float
    error: float | None = None
    log10_p: float | None = None
    runs: tuple[LayerRun, ...] = ()
    instead: tuple[int, ...] = ()


@dataclass(frozen=True)
class Merge:
    """A member made from several others.

    Attributes:
        method: how.
        shares: of its parents, by their place in the frame; with the reference's the weights sum to 1.
        reference: the place of the base from which changes were added; null elsewhere.
        left_over: what is not explained, as a share of what independent parents would leave.
    """

    method: MergeMethod
    shares: Mapping[int, Share]
    reference: int | None
    left_over: float

    @cached_property
    def weights(self) -> dict[int, float]:
        return {place: share.weight for place, share in self.shares.items()}

    @property
    def runs(self) -> int:
        """Runs of layers that were stacked from checkpoints of any depth; 0 for sums of weights."""
        return sum(len(share.runs) for share in self.shares.values() if share.error is None)


def find_mean(frame: Frame, member: int, others: Sequence[int]) -> Merge | None:
    """The weighted mean of others that a member is, null where it is none.

    Args:
        frame: the family.
        member: place of the model.
        others: places of relatives whose cells correspond to it.
    """
    near = _worth_a_look(frame, member, others)
    places, change, owner = differences(frame, member, near) if near else ([], np.zeros((0, 0)), np.zeros(0, np.int64))
    if len(places) < 2:
        return None
    gram = change @ change.T
    matrices, grams = np.unique(owner), np.zeros((0, 0, 0))
    candidates = list(range(len(places)))
    while True:
        shares = _opposing(gram, candidates)
        kept = np.flatnonzero(shares).tolist()
        if len(kept) < 2:
            return None
        grams = grams if len(grams) else inner_products(change, owner)
        found = estimate(grams, kept)
        log10_p = np.minimum(0.0, found.log10_p + math.log10(len(others)))
        if len(grams) < MIN_BLOCKS or log10_p.max() <= SIGNIFICANT:
            break
        candidates = [i for i in kept if i != kept[int(np.argmax(log10_p))]]
    left, most, rest = _judged(gram, shares)
    by_layer = None
    place = frame.place[member][frame.layer]
    if len(kept) <= MAX_BY_LAYER:
        by_layer = _by_layer(grams[:, kept][:, :, kept], place[matrices], frame.role[matrices])
        if by_layer.left < VARIES * rest:
            left, most, rest = by_layer.left / by_layer.independent, by_layer.left / by_layer.least, by_layer.left
        else:
            by_layer = None
    if most > OPPOSING or rest > IMPROVED * float(np.diag(gram).min()):
        return None
    instead = [[places[j] for j in _instead(grams, gram, kept, i)] for i in kept]
    runs = [runs_of(*by_layer.weights[:, :, at]) if by_layer else () for at in range(len(kept))]
    parents = {
        places[i]: Share(float(shares[i]), float(found.errors[at]), float(log10_p[at]), runs[at], tuple(instead[at]))
        for at, i in enumerate(kept)
    }
    stacked = all(runs) and all(run.weight == 1 for own in runs for run in own)
    if stacked:
        return Merge(MergeMethod.PASSTHROUGH, parents, None, left)
    method = MergeMethod.LINEAR
    if len(kept) == 2:
        share = np.full(len(frame.layer), shares[kept[1]])
        if by_layer:
            share = by_layer.weights[np.isin(frame.role, _FEED_FORWARD).astype(np.int64), place, 1]
        if is_slerp(frame, member, (places[kept[0]], places[kept[1]]), share[frame.owner]):
            method = MergeMethod.SLERP
    return Merge(method, parents, None, left)


def find_sum(frame: Frame, member: int, base: int, children: Sequence[int]) -> Merge | None:
    """Changes of several children of a base, added to it (task arithmetic); null where the member is no such sum.

    Args:
        frame: the family.
        member: place of the model.
        base: place of the base.
        children: places of relatives that came after the base.
    """
    places, change, owner = differences(frame, member, [base, *children])
    if not places or base not in places:
        return None
    gram, reference = change @ change.T, places.index(base)
    chosen = [i for i in range(len(places)) if i != reference]
    shares = np.zeros(len(places))
    for _ in range(2):
        if len(chosen) < 2:
            return None
        # |U_r + Σ w_i (U_i - U_r)|² through the Gram matrix of the U.
        inner = gram[np.ix_(chosen, chosen)] - gram[chosen, reference][:, None] - gram[reference, chosen][None, :]
        weights = least_squares(
            inner + gram[reference, reference], gram[reference, reference] - gram[chosen, reference]
        )
        shares = np.zeros(len(places))
        shares[chosen], shares[reference] = weights, 1 - weights.sum()
        chosen = [i for i in chosen if shares[i] >= MIN_SUMMAND]
    left, independent = float(shares @ gram @ shares), float(shares**2 @ np.diag(gram))
    if shares[reference] > -MIN_SUMMAND or len(chosen) < 2 or left > SUMMED * independent:
        return None
    if left > IMPROVED * float(np.diag(gram).min()):
        return None
    return Merge(
        MergeMethod.TASK_ARITHMETIC,
        weighed(inner_products(change, owner), places, chosen, reference),
        base,
        left / independent,
    )


def weighed(grams: Array, places: Sequence[int], chosen: Sequence[int], reference: int) -> dict[int, Share]:
    """The shares of some checkpoints whose changes from a reference were added."""
    found = estimate(grams, chosen, reference)
    return {
        places[i]: Share(float(weight), float(error), float(min(0.0, log10_p + math.log10(len(places)))))
        for i, weight, error, log10_p in zip(chosen, found.weights, found.errors, found.log10_p, strict=True)
    }


def differences(frame: Frame, member: int, others: Sequence[int]) -> tuple[list[int], Array, NDArray[np.int64]]:
    """Distinct relatives that cover the member, the nearest ones; their differences from it `[k, C]`, and the matrix of
    each cell."""
    usable = _usable(frame, member, others)
    cells = frame.mask[[member, *usable]].all(axis=0)
    if cells.sum() < MIN_CELLS:
        return [], np.zeros((0, 0)), np.zeros(0, np.int64)
    return usable, frame.weights[usable][:, cells] - frame.weights[member][cells], frame.owner[cells]


def _usable(frame: Frame, member: int, others: Sequence[int]) -> list[int]:
    places = np.array(others, np.int64)
    whole = frame.cells[places, member] >= COVERED * frame.cells[member, member]
    places = places[whole & ~frame.equal[places, member]]
    again = np.tril(frame.equal[np.ix_(places, places)], -1).any(axis=1)
    places = places[~again]
    nearest: list[int] = places[np.argsort(frame.shared.distance[places, member], kind="stable")][:NEAREST].tolist()
    return nearest


def _worth_a_look(frame: Frame, member: int, others: Sequence[int]) -> list[int]:
    """Relatives that seem to be the parents of a mean, by distances alone, and those that may stand for one of them.

    Empty for nearly all members: no two relatives are on opposite sides of them.
    """
    places = _usable(frame, member, others)
    if len(places) < 2:
        return []
    own = frame.squared[member, places]
    gram = (own[:, None] + own[None, :] - frame.squared[np.ix_(places, places)]) / 2
    scale = np.sqrt(np.outer(own, own))
    cosine = np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0)
    if cosine.min() > OPPOSED:
        return []
    kept = np.flatnonzero(_opposing(gram, range(len(places))))
    if len(kept) < 2:
        return []
    alike = np.flatnonzero((cosine[kept] >= ALIKE).any(axis=0))
    return [places[i] for i in np.union1d(kept, alike)]


def _opposing(gram: Array, candidates: Sequence[int]) -> Array:
    """Weights of the candidates that pull against each other; the others are left out one by one."""
    kept = list(candidates)
    while len(kept) > 1:
        shares = mix(gram, kept)
        kept = np.flatnonzero(shares > 0).tolist()
        weak = np.where(shares > 0, pull(gram, shares), 0.0)
        weakest = int(np.argmax(weak))
        if weak[weakest] <= LEFT_OUT:
            lightest = min(kept, key=lambda i: shares[i])
            if shares[lightest] >= MIN_WEIGHT:
                return shares
            weakest = lightest
        kept.remove(weakest)
    return np.zeros(len(gram))


def _judged(gram: Array, shares: Array) -> tuple[float, float, float]:
    """What is left over: by what independent parents would leave, by what the weakest of them adds, and as it is."""
    left = float(shares @ gram @ shares)
    independent = float(shares**2 @ np.diag(gram))
    return left / independent, float(pull(gram, shares)[shares > 0].max()), left


@dataclass(frozen=True)
class _ByLayer:
    """Weights that differ from layer to layer, `[2, L, k]`: of attention and of feed-forward matrices.

    What they leave over, what independent parents would leave, and what the weakest parent adds.
    """

    weights: Array
    left: float
    independent: float
    least: float


def _by_layer(grams: Array, layer: NDArray[np.int64], role: NDArray[np.int64]) -> _ByLayer:
    depth, k = int(layer.max()) + 1, grams.shape[1]
    weights, own = np.zeros((2, depth, k)), np.zeros((2, depth, k))
    left = 0.0
    forward = np.isin(role, _FEED_FORWARD)
    for place in range(depth):
        whole = grams[layer == place].sum(axis=0)
        for part in (0, 1):
            inside = grams[(layer == place) & (forward == bool(part))].sum(axis=0)
            # A layer without matrices of one kind takes its weights from the other.
            shares = mix(inside if np.trace(inside) > 0 else whole, range(k))
            weights[part, place], own[part, place] = shares, shares * np.diag(inside)
            left += float(shares @ inside @ shares)
    return _ByLayer(weights, left, float((weights * own).sum()), float(own.sum(axis=(0, 1)).min()))


def _instead(grams: Array, gram: Array, kept: Sequence[int], parent: int) -> list[int]:
    """Checkpoints that would explain the merge equally in place of one of its parents."""
    scale = np.sqrt(np.diag(gram))
    found = []
    for other in range(len(gram)):
        if other in kept or gram[parent, other] < ALIKE * scale[parent] * scale[other]:
            continue
        swapped = [other if i == parent else i for i in kept]
        if compare_sets(grams, kept, swapped) < AS_GOOD:
            found.append(other)
    return found
