"""What every weight of a PyTorch model does, told by what the model computes: never by a name.

The autograd graph of one eager forward pass says which products feed which. A softmax over a product of two
activations is an attention: the operand that one row of its scores reads a single vector of is the query, the other
the key, what the softmax's output multiplies the value. The elements of a weight that an operand depends on are those
with a gradient. A feed-forward's last product reads what went through an activation function (the gate, or the only
input projection), times, in a gated one, what did not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.graph import GradientEdge

from tests.crawler.architectures.graph import MATMULS, SOFTMAX, Edge, Graph, Mask, shape_of

_MAX_HEADS = 64


@dataclass
class Label:
    """The elements of one parameter that play one role, each with the number of its head, in one attention call."""

    mask: Mask
    heads: NDArray[np.int32]
    call: int
    cross: bool = False


class Truth:
    """The roles of a model's parameters.

    Attributes:
        labels: parameter name -> role -> its elements.
        embeddings: parameters that rows are looked up in.
        norm_of: one-dimensional parameter -> names of the weights that read what it scaled, then of those it scaled.
    """

    def __init__(self, model: Any, outputs: Iterable[Any]) -> None:
        self.graph = Graph(model, outputs)
        self.labels: dict[str, dict[str, Label]] = defaultdict(dict)
        self.embeddings: set[str] = set()
        self.norm_of: dict[str, tuple[set[str], set[str]]] = {}
        self.n_attentions = 0
        for node in self.graph.nodes:
            if node.name() in SOFTMAX:
                self._attention(node)
        for node in self.graph.nodes:
            if node.name() in MATMULS and (found := self.graph.weight(node)):
                self._feed_forward(node, *found)
            elif node.name() == "EmbeddingBackward0":
                self.embeddings |= {self.graph.name(leaf) for leaf in self.graph.leaves(node.next_functions[0])}
        self._norms()

    def _attention(self, softmax: Any) -> None:
        scores = [m for m in self.graph.behind(softmax.next_functions[0]).mixes if m.name() in MATMULS]
        values = []
        for product, position in self.graph.before(softmax):
            if product.name() in MATMULS and not self.graph.weight(product):
                first, second = MATMULS[product.name()]
                if position in (first, second):
                    values.append((product, product.next_functions[second if position == first else first]))
        if not scores or not values or shape_of(softmax.next_functions[0])[_dim(softmax)] == 1:
            return  # a softmax over one key says nothing about queries and keys
        call, self.n_attentions = self.n_attentions, self.n_attentions + 1
        # Of the scores, not of the softmax: attention sinks add a column to that.
        shapes = [torch.Size(score._input_metadata[0].shape) for score in scores]
        cross = all(shape[-1] != shape[-2] for shape in shapes)
        for score in scores:
            edges = [score.next_functions[i] for i in MATMULS[score.name()]]
            if any(source is None for source, _ in edges):
                continue
            reads = next((r for row in (1, 2, 4, 8) if (r := self._reads_of_row(softmax, edges, row))), None)
            if reads is None:
                continue
            query, key = edges if reads[0] < reads[1] else edges[::-1]
            self._operand("q", query, call, cross)
            self._operand("k", key, call, cross)
        for product, value in values:
            self._operand("v", value, call, cross)
            outputs = {weight for p, i in self.graph.before(product) if (weight := self.graph.reads(p, i))}
            for leaves in outputs:
                for leaf in leaves:
                    self._put(leaf, "o", np.ones(leaf.variable.numel(), bool), call, cross)

    def _reads_of_row(self, softmax: Any, edges: Sequence[Edge], row: int) -> tuple[int, int] | None:
        """What one row of the scores reads of both operands; null where that does not tell them apart."""
        reads = self._n_read(softmax, edges[0], row), self._n_read(softmax, edges[1], row)
        return reads if 0 not in reads and reads[0] != reads[1] else None

    def _n_read(self, softmax: Any, operand: Edge, row: int) -> int:
        """How many numbers of an operand one row of scores depends on."""
        edge = softmax.next_functions[0]
        cotangent = torch.zeros(shape_of(edge))
        dim = _dim(softmax)
        where: list[Any] = [min(row, n - 1) for n in cotangent.shape]  # later rows may be padding
        where[dim] = slice(None)
        cotangent[tuple(where)] = torch.rand(cotangent.shape[dim]) + 0.5
        (gradient,) = torch.autograd.grad(
            [GradientEdge(*edge)], [GradientEdge(*operand)], [cotangent], retain_graph=True, allow_unused=True
        )
        return 0 if gradient is None else int((gradient != 0).sum())

    def _operand(self, role: str, edge: Edge, call: int, cross: bool) -> None:
        walk = self.graph.behind(edge)
        leaves = [leaf for product in walk.products for leaf in self.graph.weight(product)[0]]  # type: ignore[index]
        bottleneck = {"q": "q_a"}.get(role, "kv_a")
        narrow = set()
        for product in walk.products:
            weights, source = self.graph.weight(product)  # type: ignore[misc]
            if source[0] is None:
                continue
            further = self.graph.behind(source)
            if len(further.products) == 1 and not further.mixes and not further.sources:
                inner = self.graph.weight(further.products[0])[0]  # type: ignore[index]
                if {self._module(w) for w in weights} == {self._module(w) for w in inner}:
                    narrow |= {id(w) for w in weights}
                    for leaf in inner:
                        self._put(leaf, bottleneck, np.ones(leaf.variable.numel(), bool), call, cross)
        biases = [leaf for p in walk.products for leaf in self.graph.bias(p)]
        biases += [leaf for leaf, consumer in walk.leaves if _adds(consumer, leaf)]
        for leaf in biases:
            if leaf.variable.ndim == 1:
                self._rows(f"{role}_bias", leaf, edge, call, cross)
        for leaf in leaves:
            if bottleneck in self.labels.get(self.graph.name(leaf), {}):
                continue
            wide = "q_b" if role == "q" else "kv_b"
            self._rows(wide if id(leaf) in narrow else role, leaf, edge, call, cross)

    def _module(self, leaf: Any) -> str:
        return ".".join(self.graph.name(leaf).split(".")[:-2])

    def _rows(self, role: str, leaf: Any, edge: Edge, call: int, cross: bool) -> None:
        """Label the elements that an operand depends on, each with the head that reads it."""
        shape = shape_of(edge)
        heads = np.full(leaf.variable.numel(), -1, np.int32)
        seen: list[Mask] = []
        n = shape[0] if shape[0] > 1 else shape[-2] if len(shape) > 1 else 1
        for i in range(min(n, _MAX_HEADS)):
            cotangent = torch.zeros(shape)
            where = (i,) if shape[0] > 1 else (..., i, slice(None))
            cotangent[where] = torch.rand(cotangent[where].shape) + 0.5
            (gradient,) = torch.autograd.grad(
                [GradientEdge(*edge)], [leaf.variable], [cotangent], retain_graph=True, allow_unused=True
            )
            if gradient is None:
                continue
            mask = (gradient != 0).reshape(-1).numpy()
            new = mask & (heads < 0)
            if new.any() and not any((mask == old).all() for old in seen):
                heads[new] = len(seen)
                seen.append(mask)
        if seen:
            self._put(leaf, role, heads >= 0, call, cross, heads)

    def _put(
        self, leaf: Any, role: str, mask: Mask, call: int, cross: bool = False, heads: NDArray[np.int32] | None = None
    ) -> None:
        own = self.labels[self.graph.name(leaf)]
        if role not in own:
            own[role] = Label(mask.copy(), np.zeros(len(mask), np.int32) if heads is None else heads, call, cross)
        elif own[role].call == call or not (own[role].mask & mask).any():
            label = own[role]  # a differential attention reads half of its values in each of two softmaxes
            if heads is not None:
                label.heads = np.where(~label.mask & mask, heads + label.heads.max() + 1, label.heads)
            label.mask |= mask

    def _feed_forward(self, last: Any, weights: Sequence[Any], source: Edge) -> None:
        if source[0] is None:
            return
        walk = self.graph.behind(source)
        # Experts may be products, one each, with slices of one parameter.
        inner = list(dict.fromkeys(leaf for p in walk.products for leaf in self.graph.weight(p)[0]))  # type: ignore[index]
        if not walk.activations or walk.mixes or walk.sources or not inner:
            return
        if len(walk.products) > 2 and len(inner) > 2:
            return
        # A softcap's tanh decides nothing beside another activation.
        activations = [a for a in walk.activations if a.name() != "TanhBackward0"] or walk.activations
        if any("o" in self.labels.get(self.graph.name(leaf), {}) for leaf in inner):
            return
        if any({"q", "k", "v"} & set(self.labels.get(self.graph.name(leaf), {})) for leaf in weights):
            return
        gates: dict[Any, Mask] = {}
        others: dict[Any, Mask] = {}
        for leaf in inner:
            gates[leaf] = np.zeros(leaf.variable.numel(), bool)
            for activation in activations:
                for edge in activation.next_functions:
                    if edge[0] is not None:
                        gates[leaf] |= self.graph.depends(leaf, edge)
            others[leaf] = self.graph.depends(leaf, source) & ~gates[leaf]
        gated = any(mask.any() for mask in others.values())
        for leaf in inner:
            if leaf.variable.ndim == 2 and not others[leaf].any():
                gates[leaf][:] = gates[leaf].any()  # rows that no token got through a ReLU
            if leaf.variable.ndim == 2 and not gates[leaf].any():
                others[leaf][:] = True
            self._put(leaf, "gate" if gated else "up", gates[leaf], -1)
            if others[leaf].any():
                self._put(leaf, "up", others[leaf], -1)
        for leaf in weights:
            whole = leaf.variable.ndim == 2
            self._put(
                leaf, "down", np.ones(leaf.variable.numel(), bool) if whole else self.graph.depends(leaf, (last, 0)), -1
            )

    def _norms(self) -> None:
        for node in self.graph.nodes:
            positions = {"MulBackward0": (0, 1), "NativeLayerNormBackward0": (1,)}.get(node.name(), ())
            for position in positions:
                edge = node.next_functions[position] if position < len(node.next_functions) else (None, 0)
                if edge[0] is None or not self.graph.pure(edge):
                    continue
                for leaf in self.graph.leaves(edge):
                    name = self.graph.name(leaf)
                    if leaf.variable.ndim == 1 and name not in self.norm_of:
                        after = {
                            self.graph.name(w) for p, i in self.graph.before(node) for w in self.graph.reads(p, i) or ()
                        }
                        other = node.next_functions[1 - position if node.name() == "MulBackward0" else 0]
                        behind = self.graph.behind(other).products if other[0] is not None else []
                        ahead = {self.graph.name(w) for p in behind for w in self.graph.weight(p)[0]}  # type: ignore[index]
                        self.norm_of[name] = (after, ahead)


def _dim(softmax: Any) -> int:
    """The dimension that a softmax sums over; autograd shows a negative number as an unsigned one."""
    dim = int(getattr(softmax, "_saved_dim", -1)) % 2**64
    return dim - 2**64 if dim >= 2**63 else dim


def _adds(consumer: Any, leaf: Any) -> bool:
    """Whether a leaf is added to an activation (a norm's `1 + weight` is not)."""
    if consumer is None or consumer.name() != "AddBackward0":
        return False
    return tuple(consumer._input_metadata[0].shape) != tuple(leaf.variable.shape)


def head_order(heads: NDArray[np.int32]) -> bool:
    """Whether rows of one matrix stand head after head: constant along a row, and never falling from row to row."""
    if heads.ndim == 2 and (heads != heads[:, :1]).any():
        return False
    rows = heads[:, 0] if heads.ndim == 2 else heads
    return all(a <= b for a, b in pairwise(rows.tolist()))
