"""Products of a layer's matrices that no inner disguise changes, sketched between anchor tokens.

Permuting or mixing the inner units of a layer, flipping their signs, scaling one matrix against the next, shuffling
heads and folding a norm's gain into what follows all leave two products `[hidden, hidden]` as they were:

    VO = sum over heads of o_h · v_h · diag(gain of the attention norm)
    FU = down · up · diag(gain of the feed-forward norm)

A change of the residual basis by an orthogonal R (the only one that an RMS norm lets pass) turns a product M into
RᵀMR and the token embedding E into ER, so `S = E M Eᵀ` between a few anchor rows of E stays. S is double-centred, for
all tokens share a direction that says nothing, and scaled to unit norm. Neither product is ever made: both factors
are projected on the anchors while they are read.

A LayerNorm reads its input less its mean over the residual channels, so anchors are centred over them.
Of a mixture the sum over all experts is taken, which no shuffle of the experts changes. A norm after attention
(Gemma 2, OLMo 2) divides by the output's own size and lets no rotation pass: its gain is not folded in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from provenance.crawler.architectures.rows import rows_index
from provenance.crawler.bands import read_bands
from provenance.crawler.plan import ByteRange, MatrixPlan
from provenance.crawler.product_plan import Factors, ProductPlan
from provenance.schemas.products import Product, ProductSketch
from provenance.schemas.protocols import TensorReader

Matrix = NDArray[np.float64]
Rows = NDArray[np.float32] | NDArray[np.float64]


def read_products(reader: TensorReader, plan: ProductPlan) -> ProductSketch:
    """Read what was planned, layer after layer, and sketch the products.

    In memory at a time are one range of a file and the projections of one layer: `k` rows of each of its factors.

    Raises:
        CheckpointError: a file is shorter than its header says, or cannot be read.
    """
    vectors = _read_whole(reader, plan.first_ranges())
    anchors = _anchor_rows(plan, vectors[plan.embedding])
    k = len(plan.anchors)
    sketches = {product: np.full((len(plan.layers), k, k), np.nan, np.float32) for product in Product}
    for row, layer in enumerate(plan.layers):
        projections = dict[MatrixPlan, _Projection]()
        for product in Product:
            gain = _gain(plan, vectors, layer, product)
            for term in plan.terms.get((layer, product), ()):
                projections[term.reads] = _Projection(term.reads, anchors * gain, reads=True)
                projections[term.writes] = _Projection(term.writes, anchors, reads=False)
        for ranges in plan.layer_ranges(layer):
            for matrix, band, data in read_bands(reader, ranges):
                projections[matrix].add(band[0], matrix.decode([band], [data]))
        for product, found in sketches.items():
            terms = plan.terms.get((layer, product), ())
            if terms:
                found[row] = standard(np.sum([_product(term, projections) for term in terms], axis=0))
    notes = [
        f"{product}: no finite product (layer {layer})"
        for product, found in sketches.items()
        for layer, sketch in zip(plan.layers, found, strict=True)
        if (layer, product) in plan.terms and np.isnan(sketch).any()
    ]
    return ProductSketch(plan.layers, sketches[Product.VO], sketches[Product.FU], plan.anchors, (*plan.notes, *notes))


def standard(product: Matrix) -> NDArray[np.float32]:
    """`[k, k]` less its rows' and columns' means, scaled to unit norm; NaN where nothing is left."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
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
        index = np.arange(tensor.shape[0]) if tensor.rows is None else rows_index(tensor.rows)
        self._columns = index if tensor.transposed and tensor.rows is not None else slice(None)
        self._place = np.arange(plan.rows)
        if not tensor.transposed:
            self._place[index] = np.arange(len(index))
        self.values = np.zeros((len(anchors), tensor.shape[0 if reads else 1]))

    def add(self, first_row: int, rows: Rows) -> None:
        rows = rows[:, self._columns]
        place = self._place[first_row : first_row + len(rows)]
        with np.errstate(invalid="ignore", over="ignore"):  # weights may be infinite: the sketch is NaN then
            if self._along_rows:
                self.values += self._anchors[:, place] @ rows
            else:
                self.values[:, place] = self._anchors @ rows.T


def _product(term: Factors, projections: Mapping[MatrixPlan, _Projection]) -> Matrix:
    """`E o v diag(gain) Eᵀ`; query heads that share a value head are added up first."""
    read, written = projections[term.reads].values, projections[term.writes].values
    with np.errstate(invalid="ignore", over="ignore"):
        heads = written.reshape(len(written), -1, term.shared_by, term.head).sum(axis=2)
        product: Matrix = heads.reshape(read.shape) @ read.T
    return product


def _read_whole(reader: TensorReader, ranges: Mapping[str, Sequence[ByteRange]]) -> dict[MatrixPlan, Matrix]:
    found: dict[MatrixPlan, list[Matrix]] = {}
    for plan, band, data in read_bands(reader, ranges):
        found.setdefault(plan, []).append(plan.decode([band], [data]).astype(np.float64))
    return {plan: np.concatenate(parts) for plan, parts in found.items()}
