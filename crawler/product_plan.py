"""Which bytes a sketch of products needs: pure planning over resolved tensors, as in `plan`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from provenance.crawler.architectures.rows import rows_index
from provenance.crawler.formats.dtypes import is_numeric, stored_bytes
from provenance.crawler.formats.packing.packed import PackedEntry
from provenance.crawler.packed_bands import as_stored, packed_bands
from provenance.crawler.plan import ByteRange, MatrixPlan, chunks, plan_batches, plan_ranges
from provenance.schemas.errors import WeightsError
from provenance.schemas.products import Product
from provenance.schemas.roles import MAIN_STACK, Role
from provenance.schemas.tensors import LogicalTensor, Order, ResolvedRoles, TensorEntry

PRODUCTS = {
    Product.VO: (Role.VALUE, Role.OUTPUT, Role.ATTENTION_NORM),
    Product.FU: (Role.UP, Role.DOWN, Role.FEED_FORWARD_NORM),
}
"""Product -> role that reads the residual stream, role that writes to it, role of the norm before."""

ONE_PLUS = frozenset({
    "gemma", "gemma2", "gemma3", "gemma3_text", "minimax_m3_vl", "nemotron", "paligemma", "qwen3_5", "qwen3_5_moe",
    "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp", "recurrent_gemma", "shieldgemma2", "t5gemma",
    "t5gemma2", "vaultgemma",
})  # fmt: skip
"""Model types whose norms multiply by 1 + weight (`1.0 + self.weight` in transformers' modelling code)."""


@dataclass(frozen=True, slots=True)
class Factors:
    """One term of a product: the matrix that reads the residual stream and the one that writes to it.

    `shared_by` query heads of `head` inputs of `writes` use the same rows of `reads`.
    """

    reads: MatrixPlan
    writes: MatrixPlan
    head: int = 1
    shared_by: int = 1


@dataclass(frozen=True)
class ProductPlan:
    """What is read for a sketch.

    Attributes:
        terms: (layer, product) -> its terms, several for a mixture of experts.
        gains: (layer, product) -> the norm before it, where there is one.
        one_plus: gains are 1 + weight.
        centred: norms subtract the mean.
    """

    anchors: tuple[int, ...]
    embedding: MatrixPlan
    layers: tuple[int, ...]
    terms: dict[tuple[int, Product], tuple[Factors, ...]]
    gains: dict[tuple[int, Product], MatrixPlan]
    one_plus: bool
    centred: bool
    notes: tuple[str, ...]

    def first_ranges(self) -> dict[str, list[ByteRange]]:
        """Anchors and gains: what has to be known before a matrix is read."""
        # Parallel attention and feed-forward may share one norm.
        return plan_ranges(dict.fromkeys((self.embedding, *self.gains.values())), 0)

    def layer_ranges(self, layer: int) -> Iterator[dict[str, list[ByteRange]]]:
        """The matrices of one layer, in batches that fit memory."""
        terms = [term for product in Product for term in self.terms.get((layer, product), ())]
        return plan_batches([plan for term in terms for plan in (term.reads, term.writes)], 0)

    @cached_property
    def n_bytes(self) -> int:
        """Bytes that `read_products` reads."""
        stages = [self.first_ranges(), *(batch for layer in self.layers for batch in self.layer_ranges(layer))]
        return sum(r.stop - r.start for stage in stages for ranges in stage.values() for r in ranges)


def plan_products(
    resolved: ResolvedRoles,
    anchors: Sequence[int],
    *,
    layers: Iterable[int] | None = None,
    products: Iterable[Product] = tuple(Product),
) -> ProductPlan:
    """Plan the reading of anchor rows, norm gains and the factors of the products.

    Args:
        resolved: all tensors of a checkpoint with their roles.
        anchors: token ids, each once.
        layers: which layers of the main stack; null for all.
        products: which products.

    Raises:
        WeightsError: the checkpoint has no token embedding, or anchors lie beyond it.
    """
    main = _main(resolved)
    embedding = _embedding(main)
    if embedding is None:
        raise WeightsError("no token embedding was found, and products are compared between tokens; nothing to sketch")
    if as_stored(embedding).transposed:
        raise WeightsError("the token embedding is stored across its rows, and single rows of it cannot be read")
    if len(set(anchors)) != len(anchors) or not all(0 <= token < embedding.shape[0] for token in anchors):
        raise WeightsError(f"anchors must be different tokens of the {embedding.shape[0]} in the vocabulary")
    found: dict[int, dict[Role, list[LogicalTensor]]] = defaultdict(lambda: defaultdict(list))
    for tensor in main:
        if tensor.layer is not None:
            found[tensor.layer][tensor.role].append(tensor)
    notes: dict[str, list[int]] = defaultdict(list)
    terms: dict[tuple[int, Product], tuple[Factors, ...]] = {}
    gains: dict[tuple[int, Product], MatrixPlan] = {}
    wanted = sorted(found) if layers is None else sorted(set(layers) & found.keys())
    for layer in wanted:
        for product in products:
            reads, writes, norm = (found[layer][role] for role in PRODUCTS[product])
            try:
                terms[layer, product] = tuple(_pair(reads, writes, embedding.shape[1], resolved))
            except _Declined as gap:
                notes[f"{product}: {gap}"].append(layer)
                continue
            norm = norm or found[layer][Role.ATTENTION_NORM]  # parallel blocks have one norm for both
            if len(norm) == 1 and norm[0].shape == (embedding.shape[1],):
                gains[layer, product] = _whole(norm[0])
            else:
                notes[f"{product}: no gain of a norm before it"].append(layer)
    names = {tensor.name for tensor in resolved.tensors}
    norms = [tensor.name for tensor in main if tensor.role in (Role.ATTENTION_NORM, Role.FEED_FORWARD_NORM)]
    return ProductPlan(
        anchors=tuple(anchors),
        embedding=_rows_of(embedding, sorted((token, token + 1) for token in anchors)),
        layers=tuple(layer for layer in wanted if any((layer, product) in terms for product in Product)),
        terms=terms,
        gains=gains,
        # llama.cpp's converter adds the 1 to the stored weights.
        one_plus=resolved.model_type in ONE_PLUS and not any(name.startswith("blk.") for name in norms),
        centred=any(f"{name.removesuffix('weight')}bias" in names for name in norms if name.endswith("weight")),
        notes=tuple(f"{note} (layers {', '.join(map(str, where))})" for note, where in notes.items()),
    )


def vocabulary(resolved: ResolvedRoles) -> int:
    """Rows of the token embedding; 0 without one whose single rows can be read."""
    found = _embedding(_main(resolved))
    return 0 if found is None or as_stored(found).transposed else found.shape[0]


def _main(resolved: ResolvedRoles) -> list[LogicalTensor]:
    """The tensors of the main stack whose numbers can be read."""
    return [t for t in resolved.tensors if t.stack == MAIN_STACK and t.entry.n_elements and _is_read(t.entry)]


def _is_read(entry: TensorEntry) -> bool:
    return isinstance(entry, PackedEntry) or (is_numeric(entry.dtype) and entry.order is not Order.APART)


def _embedding(tensors: Iterable[LogicalTensor]) -> LogicalTensor | None:
    return next((tensor for tensor in tensors if tensor.role is Role.EMBEDDING and len(tensor.shape) == 2), None)


class _Declined(Exception):
    """A layer whose product cannot be told from its tensors; the reason, in words."""


def _pair(
    reads: Sequence[LogicalTensor], writes: Sequence[LogicalTensor], hidden: int, resolved: ResolvedRoles
) -> Iterable[Factors]:
    """Each matrix that reads the residual stream with the one that writes what it read, expert by expert."""
    by_expert = {tensor.expert: tensor for tensor in writes}
    if not reads or not writes:
        raise _Declined("its matrices were not found")
    if not len(reads) == len(writes) == len(by_expert) or {tensor.expert for tensor in reads} != by_expert.keys():
        raise _Declined("its matrices do not pair")
    for first in reads:
        second = by_expert[first.expert]
        if len(first.shape) != 2 or len(second.shape) != 2 or first.shape[1] != hidden or second.shape[0] != hidden:
            raise _Declined(f"its matrices are not between {hidden} residual channels")
        inner, outer = first.shape[0], second.shape[1]
        if inner == outer:
            yield Factors(_factor(first), _factor(second))
            continue
        head = _head(resolved, inner, outer)
        if first.role is not Role.VALUE or head is None or outer % inner or inner % head:
            raise _Declined("its heads could not be told apart")
        yield Factors(_factor(first), _factor(second), head, outer // inner)


def _head(resolved: ResolvedRoles, inner: int, outer: int) -> int | None:
    """Rows of one value head, of which there are `inner` rows for `outer` inputs of the output projection."""
    if resolved.n_heads and outer % resolved.n_heads == 0:
        return outer // resolved.n_heads
    if resolved.n_kv_heads and inner % resolved.n_kv_heads == 0:
        return inner // resolved.n_kv_heads
    return None


def _whole(tensor: LogicalTensor) -> MatrixPlan:
    return _rows_of(tensor, [(0, tensor.stored_shape[0])])


def _factor(tensor: LogicalTensor) -> MatrixPlan:
    """All of a matrix, or the stored rows of its part of a fused one; stored transposed, a part is no rows."""
    tensor = as_stored(tensor)
    if tensor.rows is None or tensor.transposed:
        return _whole(tensor)
    stored = np.sort(rows_index(tensor.rows))
    breaks = np.flatnonzero(np.diff(stored) != 1) + 1
    return _rows_of(tensor, [(int(run[0]), int(run[-1]) + 1) for run in np.split(stored, breaks)])


def _rows_of(tensor: LogicalTensor, spans: Iterable[tuple[int, int]]) -> MatrixPlan:
    entry, (rows, *columns) = tensor.entry, tensor.stored_shape
    if isinstance(entry, PackedEntry):
        return MatrixPlan(entry, (tensor,), entry.start, rows, columns[0], 0, packed_bands(entry, spans))
    width = columns[0] if columns else 1
    row_bytes = stored_bytes(entry.dtype, width)
    bands = tuple(piece for low, high in spans for piece in chunks(low, high, row_bytes, width))
    offset = entry.start + stored_bytes(entry.dtype, tensor.element_offset)
    return MatrixPlan(entry, (tensor,), offset, rows, width, row_bytes, bands)
