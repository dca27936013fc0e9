"""What every weight of a PyTorch model does, told by what the model computes: never by a name.

The autograd graph of one eager forward pass says which products feed which. A softmax over a product of two
activations is an attention: the operand that one row of its scores reads a single vector of is the query, the other
the key, what the softmax's output multiplies the value. The elements of a weight that an operand depends on are those
with a gradient. A feed-forward's last product reads what went through an activation function (the gate, or the only
input projection), times, in a gated one, what did not.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.graph import GradientEdge

Edge = tuple[Any, int]
Mask = NDArray[np.bool_]

_MATMULS = {"MmBackward0": (0, 1), "AddmmBackward0": (1, 2), "BmmBackward0": (0, 1), "BaddbmmBackward0": (1, 2)}
_SOFTMAX = ("SoftmaxBackward0", "SafeSoftmaxBackward0", "XSoftmaxBackward")
_ACTIVATION = re.compile(r"silu|gelu|relu|tanh|sigmoid|mish|hardswish|elu|softplus|erf", re.IGNORECASE)
_SOURCES = ("EmbeddingBackward0", "ConvolutionBackward0", "CumsumBackward0")
_MAX_HEADS = 64


@dataclass
class Walk:
    """What lies directly behind an edge: products with a weight, products of activations, sources, and leaves."""

    products: list[Any] = field(default_factory=list)
    mixes: list[Any] = field(default_factory=list)
    sources: list[Any] = field(default_factory=list)
    activations: list[Any] = field(default_factory=list)
    leaves: list[tuple[Any, Any]] = field(default_factory=list)


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
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.labels: dict[str, dict[str, Label]] = defaultdict(dict)
        self.embeddings: set[str] = set()
        self.norm_of: dict[str, tuple[set[str], set[str]]] = {}
        self.n_attentions = 0
        self._pure_memo: dict[Any, bool] = {}
        self.nodes = _nodes(outputs)
        self.consumers: dict[Any, list[tuple[Any, int]]] = defaultdict(list)
        for node in self.nodes:
            for position, (source, _) in enumerate(node.next_functions):
                if source is not None:
                    self.consumers[source].append((node, position))
        self.nodes.sort(key=lambda node: node._sequence_nr())
        for node in self.nodes:
            if node.name() in _SOFTMAX:
                self._attention(node)
        for node in self.nodes:
            if node.name() in _MATMULS and (found := self._weight(node)):
                self._feed_forward(node, *found)
            elif node.name() == "EmbeddingBackward0":
                self.embeddings |= {self.name(leaf) for leaf in self._leaves(node.next_functions[0])}
        self._norms()

    def name(self, leaf: Any) -> str:
        return self.names.get(id(leaf.variable), "?")

    def _pure(self, edge: Edge | None) -> bool:
        """Whether an edge carries a parameter (or views of some) and no activation."""
        node = edge[0] if edge else None
        if node is None:
            return False
        if node not in self._pure_memo:
            self._pure_memo[node] = False
            name, inputs = node.name(), node.next_functions
            if "AccumulateGrad" in name:
                self._pure_memo[node] = True
            elif name not in _SOURCES and name not in _MATMULS:
                self._pure_memo[node] = any(s for s, _ in inputs) and all(self._pure(e) for e in inputs if e[0])
        return self._pure_memo[node]

    def _leaves(self, edge: Edge) -> list[Any]:
        found, stack, seen = [], [edge[0]], set()
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if "AccumulateGrad" in node.name():
                found.append(node)
            stack += [source for source, _ in node.next_functions]
        return found

    def _weight(self, node: Any) -> tuple[list[Any], Edge] | None:
        """Leaves of the weight and the edge of the input of a product with a weight, null for any other."""
        if node.name() == "ConvolutionBackward0":
            return (self._leaves(node.next_functions[1]), node.next_functions[0]) if self._full(node) else None
        first, second = (node.next_functions[i] for i in _MATMULS[node.name()])
        if self._pure(second):
            return self._leaves(second), first
        return (self._leaves(first), second) if self._pure(first) else None

    def _full(self, node: Any) -> bool:
        return bool(node._saved_groups == 1)

    def behind(self, edge: Edge) -> Walk:
        """What an edge depends on before any other product."""
        walk, stack, seen = Walk(), [(edge[0], None)], set()
        while stack:
            node, consumer = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            name = node.name()
            if "AccumulateGrad" in name:
                walk.leaves.append((node, consumer))
            elif name in _MATMULS:
                (walk.products if self._weight(node) else walk.mixes).append(node)
            elif name in _SOFTMAX:
                walk.mixes.append(node)
            elif name in _SOURCES:
                if name == "ConvolutionBackward0" and not self._full(node):
                    stack.append((node.next_functions[0][0], node))
                else:
                    walk.sources.append(node)
            else:
                if _ACTIVATION.search(name):
                    walk.activations.append(node)
                stack += [(source, node) for source, _ in node.next_functions]
        return walk

    def before(self, node: Any) -> list[tuple[Any, int]]:
        """The products that read what a node gives, with the number of the operand."""
        found, stack, seen = [], list(self.consumers[node]), set()
        while stack:
            consumer, position = stack.pop()
            if (consumer, position) in seen:
                continue
            seen.add((consumer, position))
            if consumer.name() in _MATMULS or consumer.name() == "ConvolutionBackward0":
                found.append((consumer, position))
            elif consumer.name() not in _SOFTMAX:
                stack += self.consumers[consumer]
        return found

    def _attention(self, softmax: Any) -> None:
        scores = [m for m in self.behind(softmax.next_functions[0]).mixes if m.name() in _MATMULS]
        values = []
        for product, position in self.before(softmax):
            if product.name() in _MATMULS and not self._weight(product):
                first, second = _MATMULS[product.name()]
                if position in (first, second):
                    values.append((product, product.next_functions[second if position == first else first]))
        if not scores or not values:
            return
        call, self.n_attentions = self.n_attentions, self.n_attentions + 1
        # Of the scores, not of the softmax: attention sinks add a column to that.
        shapes = [torch.Size(score._input_metadata[0].shape) for score in scores]
        cross = all(shape[-1] != shape[-2] for shape in shapes)
        for score in scores:
            edges = [score.next_functions[i] for i in _MATMULS[score.name()]]
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
            outputs = {weight for p, i in self.before(product) if (weight := self._reads(p, i))}
            for leaves in outputs:
                for leaf in leaves:
                    self._put(leaf, "o", np.ones(leaf.variable.numel(), bool), call, cross)

    def _reads(self, product: Any, position: int) -> tuple[Any, ...] | None:
        """The weight of a product if the operand at a position is its input."""
        if product.name() == "ConvolutionBackward0":
            return tuple(self._leaves(product.next_functions[1])) if position == 0 and self._full(product) else None
        found = self._weight(product)
        return tuple(found[0]) if found and product.next_functions[position] == found[1] else None

    def _reads_of_row(self, softmax: Any, edges: Sequence[Edge], row: int) -> tuple[int, int] | None:
        """What one row of the scores reads of both operands; null where that does not tell them apart."""
        reads = self._n_read(softmax, edges[0], row), self._n_read(softmax, edges[1], row)
        return reads if 0 not in reads and reads[0] != reads[1] else None

    def _n_read(self, softmax: Any, operand: Edge, row: int) -> int:
        """How many numbers of an operand one row of scores depends on."""
        edge = softmax.next_functions[0]
        cotangent = torch.zeros(_shape(edge))
        dim = getattr(softmax, "_saved_dim", -1) % 2**64  # autograd shows a negative number as an unsigned one
        dim = dim - 2**64 if dim >= 2**63 else dim
        where: list[Any] = [min(row, n - 1) for n in cotangent.shape]  # later rows may be padding
        where[dim] = slice(None)
        cotangent[tuple(where)] = torch.rand(cotangent.shape[dim]) + 0.5
        (gradient,) = torch.autograd.grad(
            [GradientEdge(*edge)], [GradientEdge(*operand)], [cotangent], retain_graph=True, allow_unused=True
        )
        return 0 if gradient is None else int((gradient != 0).sum())

    def _operand(self, role: str, edge: Edge, call: int, cross: bool) -> None:
        walk = self.behind(edge)
        leaves = [leaf for product in walk.products for leaf in self._weight(product)[0]]  # type: ignore[index]
        bottleneck = {"q": "q_a"}.get(role, "kv_a")
        narrow = set()
        for product in walk.products:
            weights, source = self._weight(product)  # type: ignore[misc]
            if source[0] is None:
                continue
            further = self.behind(source)
            if len(further.products) == 1 and not further.mixes and not further.sources:
                inner = self._weight(further.products[0])[0]  # type: ignore[index]
                if {self._module(w) for w in weights} == {self._module(w) for w in inner}:
                    narrow |= {id(w) for w in weights}
                    for leaf in inner:
                        self._put(leaf, bottleneck, np.ones(leaf.variable.numel(), bool), call, cross)
        biases = [leaf for p in walk.products for leaf in self._bias(p)]
        biases += [leaf for leaf, consumer in walk.leaves if _adds(consumer, leaf)]
        for leaf in biases:
            if leaf.variable.ndim == 1:
                self._rows(f"{role}_bias", leaf, edge, call, cross)
        for leaf in leaves:
            if bottleneck in self.labels.get(self.name(leaf), {}):
                continue
            wide = "q_b" if role == "q" else "kv_b"
            self._rows(wide if id(leaf) in narrow else role, leaf, edge, call, cross)

    def _bias(self, product: Any) -> list[Any]:
        if product.name() in ("AddmmBackward0", "BaddbmmBackward0"):
            return self._leaves(product.next_functions[0]) if self._pure(product.next_functions[0]) else []
        return []

    def _module(self, leaf: Any) -> str:
        return ".".join(self.name(leaf).split(".")[:-2])

    def _rows(self, role: str, leaf: Any, edge: Edge, call: int, cross: bool) -> None:
        """Label the elements that an operand depends on, each with the head that reads it."""
        shape = _shape(edge)
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
        own = self.labels[self.name(leaf)]
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
        walk = self.behind(source)
        if not walk.activations or walk.mixes or walk.sources or not 1 <= len(walk.products) <= 2:
            return
        inner = [leaf for product in walk.products for leaf in self._weight(product)[0]]  # type: ignore[index]
        if any("o" in self.labels.get(self.name(leaf), {}) for leaf in inner):
            return
        if any({"q", "k", "v"} & set(self.labels.get(self.name(leaf), {})) for leaf in weights):
            return
        gates: dict[Any, Mask] = {}
        others: dict[Any, Mask] = {}
        for leaf in inner:
            gates[leaf] = np.zeros(leaf.variable.numel(), bool)
            for activation in walk.activations:
                for edge in activation.next_functions:
                    if edge[0] is not None:
                        gates[leaf] |= self._depends(leaf, edge)
            others[leaf] = self._depends(leaf, source) & ~gates[leaf]
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
                leaf, "down", np.ones(leaf.variable.numel(), bool) if whole else self._depends(leaf, (last, 0)), -1
            )

    def _depends(self, leaf: Any, edge: Edge) -> Mask:
        cotangent = torch.rand(_shape(edge)) + 0.5
        (gradient,) = torch.autograd.grad(
            [GradientEdge(*edge)], [leaf.variable], [cotangent], retain_graph=True, allow_unused=True
        )
        empty = np.zeros(leaf.variable.numel(), bool)
        return empty if gradient is None else (gradient != 0).reshape(-1).numpy()

    def _norms(self) -> None:
        for node in self.nodes:
            positions = {"MulBackward0": (0, 1), "NativeLayerNormBackward0": (1,)}.get(node.name(), ())
            for position in positions:
                edge = node.next_functions[position] if position < len(node.next_functions) else (None, 0)
                if edge[0] is None or not self._pure(edge):
                    continue
                for leaf in self._leaves(edge):
                    name = self.name(leaf)
                    if leaf.variable.ndim == 1 and name not in self.norm_of:
                        after = {self.name(w) for p, i in self.before(node) for w in self._reads(p, i) or ()}
                        other = node.next_functions[1 - position if node.name() == "MulBackward0" else 0]
                        behind = self.behind(other).products if other[0] is not None else []
                        ahead = {self.name(w) for p in behind for w in self._weight(p)[0]}  # type: ignore[index]
                        self.norm_of[name] = (after, ahead)


def _adds(consumer: Any, leaf: Any) -> bool:
    """Whether a leaf is added to an activation (a norm's `1 + weight` is not)."""
    if consumer is None or consumer.name() != "AddBackward0":
        return False
    return tuple(consumer._input_metadata[0].shape) != tuple(leaf.variable.shape)


def _shape(edge: Edge) -> torch.Size:
    return torch.Size(edge[0]._input_metadata[edge[1]].shape)


def _nodes(outputs: Iterable[Any]) -> list[Any]:
    seen: dict[Any, None] = {}
    stack = [output.grad_fn for output in outputs if output.grad_fn is not None]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen[node] = None
            stack += [source for source, _ in node.next_functions if source is not None]
    return list(seen)


def head_order(heads: NDArray[np.int32]) -> bool:
    """Whether rows of one matrix stand head after head: constant along a row, and never falling from row to row."""
    if heads.ndim == 2 and (heads != heads[:, :1]).any():
        return False
    rows = heads[:, 0] if heads.ndim == 2 else heads
    return all(a <= b for a, b in pairwise(rows.tolist()))
