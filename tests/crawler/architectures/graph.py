"""The autograd graph of one eager forward pass: which products, of what, feed which.

An edge is a node and the number of one of its outputs, as in `node.next_functions`. A product of an activation and a
parameter (or views of some) is a product with a weight; a product of two activations is a mix.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.graph import GradientEdge

Edge = tuple[Any, int]
Mask = NDArray[np.bool_]

MATMULS = {"MmBackward0": (0, 1), "AddmmBackward0": (1, 2), "BmmBackward0": (0, 1), "BaddbmmBackward0": (1, 2)}
"""Products, with the positions of their two operands."""

SOFTMAX = ("SoftmaxBackward0", "SafeSoftmaxBackward0", "XSoftmaxBackward")
_ACTIVATION = re.compile(r"silu|gelu|relu|tanh|sigmoid|mish|hardswish|elu|softplus|erf", re.IGNORECASE)
_SOURCES = ("EmbeddingBackward0", "ConvolutionBackward0", "CumsumBackward0")


@dataclass
class Walk:
    """What lies directly behind an edge: products with a weight, products of activations, sources, and leaves."""

    products: list[Any] = field(default_factory=list)
    mixes: list[Any] = field(default_factory=list)
    sources: list[Any] = field(default_factory=list)
    activations: list[Any] = field(default_factory=list)
    leaves: list[tuple[Any, Any]] = field(default_factory=list)


class Graph:
    """What a model computed.

    Attributes:
        nodes: every node, in the order of the computation.
        parameters: names of those that take part.
        consumers: node -> the nodes that read it, each with the number of the input.
    """

    def __init__(self, model: Any, outputs: Iterable[Any]) -> None:
        self._names: dict[int, str] = {id(p): name for name, p in model.named_parameters()}
        self._pure: dict[Any, bool] = {}
        self.nodes = _nodes(outputs)
        self.consumers: dict[Any, list[tuple[Any, int]]] = defaultdict(list)
        for node in self.nodes:
            for position, (source, _) in enumerate(node.next_functions):
                if source is not None:
                    self.consumers[source].append((node, position))
        self.parameters = {self.name(node) for node in self.nodes if "AccumulateGrad" in node.name()}
        self.nodes.sort(key=lambda node: node._sequence_nr())

    def name(self, leaf: Any) -> str:
        """The name of a leaf's parameter."""
        return self._names.get(id(leaf.variable), "?")

    def pure(self, edge: Edge | None) -> bool:
        """Whether an edge carries a parameter (or views of some) and no activation."""
        node = edge[0] if edge else None
        if node is None:
            return False
        if node not in self._pure:
            self._pure[node] = False
            name, inputs = node.name(), node.next_functions
            if "AccumulateGrad" in name:
                self._pure[node] = True
            elif name not in _SOURCES and name not in MATMULS:
                self._pure[node] = any(s for s, _ in inputs) and all(self.pure(e) for e in inputs if e[0])
        return self._pure[node]

    def leaves(self, edge: Edge) -> list[Any]:
        """The parameters that an edge depends on."""
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

    def weight(self, node: Any) -> tuple[list[Any], Edge] | None:
        """Leaves of the weight and the edge of the input of a product with a weight, null for any other."""
        if node.name() == "ConvolutionBackward0":
            return (self.leaves(node.next_functions[1]), node.next_functions[0]) if _full(node) else None
        first, second = (node.next_functions[i] for i in MATMULS[node.name()])
        if self.pure(second):
            return self.leaves(second), first
        return (self.leaves(first), second) if self.pure(first) else None

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
            elif name in MATMULS:
                (walk.products if self.weight(node) else walk.mixes).append(node)
            elif name in SOFTMAX:
                walk.mixes.append(node)
            elif name in _SOURCES:
                if name == "ConvolutionBackward0" and not _full(node):
                    stack.append((node.next_functions[0][0], node))
                else:
                    walk.sources.append(node)
            else:
                if _ACTIVATION.search(name):
                    walk.activations.append(node)
                # What reads a view of a parameter reads the parameter.
                reader = consumer if self.pure((node, 0)) else node
                stack += [(source, reader) for source, _ in node.next_functions]
        return walk

    def before(self, node: Any) -> list[tuple[Any, int]]:
        """The products that read what a node gives, with the number of the operand."""
        found, stack, seen = [], list(self.consumers[node]), set()
        while stack:
            consumer, position = stack.pop()
            if (consumer, position) in seen:
                continue
            seen.add((consumer, position))
            if consumer.name() in MATMULS or consumer.name() == "ConvolutionBackward0":
                found.append((consumer, position))
            elif consumer.name() not in SOFTMAX:
                stack += self.consumers[consumer]
        return found

    def reads(self, product: Any, position: int) -> tuple[Any, ...] | None:
        """The weight of a product if the operand at a position is its input."""
        if product.name() == "ConvolutionBackward0":
            return tuple(self.leaves(product.next_functions[1])) if position == 0 and _full(product) else None
        found = self.weight(product)
        return tuple(found[0]) if found and product.next_functions[position] == found[1] else None

    def bias(self, product: Any) -> list[Any]:
        """The leaves of what a product with a weight adds."""
        if product.name() in ("AddmmBackward0", "BaddbmmBackward0"):
            return self.leaves(product.next_functions[0]) if self.pure(product.next_functions[0]) else []
        return []

    def depends(self, leaf: Any, edge: Edge) -> Mask:
        """The elements of a parameter, flat, that an edge depends on."""
        cotangent = torch.rand(shape_of(edge)) + 0.5
        (gradient,) = torch.autograd.grad(
            [GradientEdge(*edge)], [leaf.variable], [cotangent], retain_graph=True, allow_unused=True
        )
        empty = np.zeros(leaf.variable.numel(), bool)
        return empty if gradient is None else (gradient != 0).reshape(-1).numpy()


def shape_of(edge: Edge) -> torch.Size:
    """The shape of what an edge carries."""
    return torch.Size(edge[0]._input_metadata[edge[1]].shape)


def _full(node: Any) -> bool:
    """Whether a convolution has one group: a product with a whole matrix."""
    return bool(node._saved_groups == 1)


def _nodes(outputs: Iterable[Any]) -> list[Any]:
    seen: dict[Any, None] = {}
    stack = [output.grad_fn for output in outputs if output.grad_fn is not None]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen[node] = None
            stack += [source for source, _ in node.next_functions if source is not None]
    return list(seen)
