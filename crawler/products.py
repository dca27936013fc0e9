"""Products of a layer's matrices that no inner disguise changes, sketched between anchor tokens.

Permuting or mixing the inner units of a layer, flipping their signs, scaling one matrix against the next, shuffling
heads and folding a norm's gain into what follows all leave two products `[hidden, hidden]` as they were:

    VO = sum over heads of o_h · v_h · diag(gain of the attention norm)
    FU = down · up · diag(gain of the feed-forward norm)

A change of the residual basis by an orthogonal R (the only one that an RMS norm lets pass) turns a product M into
RᵀMR and the token embedding E into ER, so `S = E M Eᵀ` between a few anchor rows of E stays. S is double-centred, for
all tokens share a direction that says nothing, and scaled to unit norm. Neither product is ever made: both factors
are projected on the anchors while they are read, in any order, by a crawl in `full` mode too.

A LayerNorm reads its input less its mean over the residual channels, so anchors are centred over them.
Of a mixture the sum over all experts is taken, which no shuffle of the experts changes. A norm after attention
(Gemma 2, OLMo 2) divides by the output's own size and lets no rotation pass: its gain is not folded in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from provenance.crawler.architectures.rows import rows_index
from provenance.crawler.bands import read_bands
from provenance.crawler.plan import ByteRange, MatrixPlan
from provenance.crawler.product_plan import Factors, ProductPlan
from provenance.schemas.products import Product, ProductSketch
from provenance.schemas.protocols import TensorReader
from provenance.schemas.tensors import LogicalTensor

Matrix = NDArray[np.float64]
Places = NDArray[np.int64]
Rows = NDArray[np.float32] | NDArray[np.float64]


def read_products(reader: TensorReader, plan: ProductPlan) -> ProductSketch:
    """Read what was planned, layer after layer, and sketch the products.

    In memory at a time are one range of a file and the projections of one layer: `k` rows of each of its factors.

    Raises:
        CheckpointError: a file is shorter than its header says, or cannot be read.
    """
    sums = ProductSums(reader, plan)
    for layer in plan.layers:
        for ranges in plan.layer_ranges(layer):
            for matrix, band, data in read_bands(reader, ranges):
                sums.add(matrix.parts[0], band[0], matrix.decode([band], [data]))
    return sums.sketch()


class ProductSums:
    """The products of a checkpoint while its matrices pass by, in any order.

    In memory are `k` rows of each factor whose counterpart has not yet passed by whole: of one layer, where layers are
    stored one after the other.
    """

    def __init__(self, reader: TensorReader, plan: ProductPlan) -> None:
        """Read the anchors and the gains.

        Raises:
            CheckpointError: a file is shorter than its header says, or cannot be read.
        """
        self._plan, self._vectors = plan, _read_whole(reader, plan.first_ranges())
        with _strange():
            self._anchors = _anchor_rows(plan, self._vectors[plan.embedding])
        self._factors: dict[_Key, tuple[int, Product, Factors]] = {
            _key(factor.parts[0]): (layer, product, term)
            for (layer, product), terms in plan.terms.items()
            for term in terms
            for factor in (term.reads, term.writes)
        }
        self._open: dict[_Key, _Projection] = {}
        k = len(plan.anchors)
        self._sums = {place: np.zeros((k, k)) for place in plan.terms}
        self._left = {place: len(terms) for place, terms in plan.terms.items()}

    def add(self, tensor: LogicalTensor, first_row: int, rows: Rows) -> None:
        """Take some whole stored rows of a tensor, each once; of a tensor that is no factor nothing is taken."""
        key = _key(tensor)
        if (found := self._factors.get(key)) is None:
            return
        layer, product, term = found
        with _strange():
            if key not in self._open:
                reads = key == _key(term.reads.parts[0])
                gain = _gain(self._plan, self._vectors, layer, product) if reads else 1.0
                self._open[key] = _Projection(term.reads if reads else term.writes, self._anchors * gain, reads=reads)
            self._open[key].add(first_row, rows)
            pair = [self._open.get(_key(factor.parts[0])) for factor in (term.reads, term.writes)]
            if all(one is not None and one.missing == 0 for one in pair):
                read, written = (self._open.pop(_key(factor.parts[0])).values for factor in (term.reads, term.writes))
                self._sums[layer, product] += _product(term, read, written)
                self._left[layer, product] -= 1

    def sketch(self) -> ProductSketch:
        """What was made of it; NaN where a product is not finite, or not all of a factor passed by."""
        plan, k = self._plan, len(self._plan.anchors)
        sketches = {product: np.full((len(plan.layers), k, k), np.nan, np.float32) for product in Product}
        notes = []
        for product, found in sketches.items():
            for row, layer in enumerate(plan.layers):
                place = layer, product
                if self._left.get(place) == 0:
                    found[row] = standard(self._sums[place])
                if place in self._sums and np.isnan(found[row]).any():
                    notes.append(f"{product}: no finite product (layer {layer})")
        vo, fu = sketches[Product.VO], sketches[Product.FU]
        return ProductSketch(plan.layers, vo, fu, plan.anchors, (*plan.notes, *notes))


def _strange() -> np.errstate:
    """Weights may be infinite, or huge: the sketch is NaN then, without a warning."""
    return np.errstate(all="ignore")


# Stored name, part and expert, which identify a logical tensor of a checkpoint.
_Key: TypeAlias = tuple[str, str | None, int | None]


def _key(tensor: LogicalTensor) -> _Key:
    return tensor.name, tensor.part, tensor.expert


def standard(product: Matrix) -> NDArray[np.float32]:
    """`[k, k]` less its rows' and columns' means, scaled to unit norm; NaN where nothing is left."""
    with _strange():
        centred = product - product.mean(axis=0) - product.mean(axis=1, keepdims=True) + product.mean()
        scaled = centred / np.linalg.norm(centred)
    sketch: NDArray[np.float32] = np.where(np.isfinite(scaled).all(), scaled, np.nan).astype(np.float32)
    return sketch


def _anchor_rows(plan: ProductPlan, rows: Matrix) -> Matrix:
    """`[k, hidden]` in the order of the anchors, each of unit length."""
    order = np.argsort(np.argsort(plan.anchors))
    anchors = rows[order]
    if plan.centred:
        anchors -= anchors.mean(axis=1, keepdims=True)
    length = np.linalg.norm(anchors, axis=1, keepdims=True)
    unit: Matrix = anchors / np.where(length > 0, length, 1.0)
    return unit


def _gain(plan: ProductPlan, vectors: Mapping[MatrixPlan, Matrix], layer: int, product: Product) -> Matrix | float:
    norm = plan.gains.get((layer, product))
    return 1.0 if norm is None else plan.one_plus + vectors[norm][:, 0]


class _Projection:
    """Anchors times one factor, which comes in by bands of stored rows: `[k, inner]`.

    The residual stream runs along the stored columns of a matrix that reads it, along the stored rows of one that
    writes to it, and the other way round where it is stored transposed.
    """

    def __init__(self, plan: MatrixPlan, anchors: Matrix, *, reads: bool) -> None:
        (tensor,) = plan.parts
        self._anchors = anchors.astype(np.float32)
        self._along_rows = reads == tensor.transposed
        index = None if tensor.rows is None else rows_index(tensor.rows)
        self._columns = index if tensor.transposed else None
        self._place: Places | None = None  # of a stored row in the factor, -1 for a row of another part
        if index is not None and not tensor.transposed:
            self._place = np.full(plan.rows, -1)
            self._place[index] = np.arange(len(index))
        self.missing = plan.rows if self._place is None else tensor.shape[0]
        self.values = np.zeros((len(anchors), tensor.shape[0 if reads else 1]))

    def add(self, first_row: int, rows: Rows) -> None:
        place: slice | Places = slice(first_row, first_row + len(rows))
        if self._columns is not None:
            rows = rows[:, self._columns]
        if self._place is not None:
            place = self._place[place]
            rows, place = rows[place >= 0], place[place >= 0]
        self.missing -= len(rows)
        if self._along_rows:
            self.values += self._anchors[:, place] @ rows
        else:
            self.values[:, place] = self._anchors @ rows.T


def _product(term: Factors, read: Matrix, written: Matrix) -> Matrix:
    """`E o v diag(gain) Eᵀ`; query heads that share a value head are added up first."""
    heads = written.reshape(len(written), -1, term.shared_by, term.head).sum(axis=2)
    product: Matrix = heads.reshape(read.shape) @ read.T
    return product


def _read_whole(reader: TensorReader, ranges: Mapping[str, Sequence[ByteRange]]) -> dict[MatrixPlan, Matrix]:
    found: dict[MatrixPlan, list[Matrix]] = {}
    for plan, band, data in read_bands(reader, ranges):
        found.setdefault(plan, []).append(plan.decode([band], [data]).astype(np.float64))
    return {plan: np.concatenate(parts) for plan, parts in found.items()}
