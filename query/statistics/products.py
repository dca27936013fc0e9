"""Whether two checkpoints compute alike layer by layer, whatever was permuted, rotated or rescaled inside.

Sketches of products (`schemas.products.ProductSketch`) of every layer of one checkpoint are correlated with those of
every layer of the other. Strangers' layers agree best with any layer; a disguised copy's agree with their own. The
number of layers that do is Binomial(n, 1/L) between strangers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenance.query.statistics.significance import adjust_log10_p, combine_log10_p
from provenance.schemas.products import Product, ProductSketch

Table = NDArray[np.float64]
Pairs = NDArray[np.int64]
Sketches = NDArray[np.float32] | NDArray[np.float16]

MIN_LAYERS = 6
"""With fewer layers no number of agreeing ones convicts."""

MIN_VALUE = 0.5
"""Smallest mean correlation of corresponding layers that convicts: strangers of the zoo reach 0.28, attacks 0.94."""

_TIE = 1e-6


@dataclass(frozen=True, slots=True)
class ProductAgreement:
    """How far the layers of two checkpoints agree in one product.

    Attributes:
        value: mean correlation of the sketches of corresponding layers.
        log10_p: tail of Binomial(layers, chance) at `agreeing`.
        layers: pairs of corresponding layers.
        agreeing: layers that agree best with their own.
        shifted: the most that agree best with the layer some fixed number of places further on, round the end.
        chance: what `log10_p` grants a stranger's layer: 1/L, or (shifted + 1) / (layers + 1) where that is larger.
    """

    value: float
    log10_p: float
    layers: int
    agreeing: int
    shifted: int
    chance: float


@dataclass(frozen=True, slots=True)
class ProductMatch:
    """Both products' agreement, null where a product could not be compared."""

    vo: ProductAgreement | None
    fu: ProductAgreement | None

    @property
    def best(self) -> ProductAgreement | None:
        """The product that agrees more: by p-value, then by value."""
        found = [agreement for agreement in (self.vo, self.fu) if agreement is not None]
        return min(found, key=lambda agreement: (agreement.log10_p, -agreement.value), default=None)

    @property
    def log10_p(self) -> float:
        """Bonferroni over the two products."""
        return combine_log10_p([a.log10_p for a in (self.vo, self.fu) if a is not None], len(Product))

    def convicts(self, n_store: int, level: float) -> bool:
        """Whether a common origin may be claimed of a candidate picked from a store of `n_store` checkpoints.

        Args:
            n_store: Bonferroni over as many candidates.
            level: largest p-value that convicts after it.
        """
        best = self.best
        return (
            best is not None
            and best.layers >= MIN_LAYERS
            and best.value >= MIN_VALUE
            and adjust_log10_p(self.log10_p, n_store) <= math.log10(level)
        )


def compare_products(a: ProductSketch, b: ProductSketch) -> ProductMatch:
    """Compare two sketches of the same anchor tokens; the same result whichever comes first.

    Where both have as many layers, each corresponds to the one of the same place. Where depths differ, the layers of
    the shallower one are aligned by the other product, so that an alignment is never judged by what it was fitted to.

    Raises:
        ValueError: the sketches have different numbers of anchors.
    """
    if a.vo.shape[1:] != b.vo.shape[1:]:
        raise ValueError(f"sketches of {len(a.anchors)} and of {len(b.anchors)} anchors cannot be compared")
    if len(a.layers) > len(b.layers):
        a, b = b, a
    vo, fu = correlations(a.vo, b.vo), correlations(a.fu, b.fu)
    same = np.stack([np.arange(len(a.layers))] * 2, axis=1)
    as_deep = len(a.layers) == len(b.layers)
    return ProductMatch(_symmetric(vo, same if as_deep else align(fu)), _symmetric(fu, same if as_deep else align(vo)))


def correlations(a: Sketches, b: Sketches) -> Table:
    """`[La, Lb]` Pearson correlation of every layer of `a` `[La, k, k]` with every one of `b`; NaN without a sketch."""
    x, y = (_standard(sketches.reshape(len(sketches), -1).astype(np.float64)) for sketches in (a, b))
    table: Table = x @ y.T
    return table


def _standard(rows: Table) -> Table:
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Table = np.divide(rows, length, out=np.full_like(rows, np.nan), where=length > 0)
    return scaled


def align(table: Table) -> Pairs:
    """The monotone matching of layers with the largest sum of correlations, by dynamic programming.

    Returns:
        `[n, 2]` pairs of rows and columns, both rising; only pairs of positive correlation.
    """
    gain = np.where(table > 0, table, 0.0)
    rows, columns = gain.shape
    best = np.zeros((rows + 1, columns + 1))
    for i in range(rows):
        matched = np.maximum(best[i, :-1] + gain[i], best[i, 1:])
        best[i + 1, 1:] = np.maximum.accumulate(matched)
    pairs: list[tuple[int, int]] = []
    i, j = rows, columns
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return np.array(pairs[::-1], dtype=np.int64).reshape(-1, 2)


def agreement(table: Table, pairs: Pairs) -> ProductAgreement | None:
    """How many rows agree best with the column that they are paired with.

    The null is checked by circular shifts: early layers of strangers may resemble early layers, and late ones late
    ones, and then the layers next to the own one collect nearly as many. A row is therefore granted the rate of the
    best shift, one row more counted, where that is larger than 1/L; equal columns (repeated layers) share theirs.

    Args:
        table: `[La, Lb]` correlations; rows and columns of NaN take no part.
        pairs: `[n, 2]` corresponding rows and columns.

    Returns:
        null where no pair is left.
    """
    columns = np.flatnonzero(np.isfinite(table).any(axis=0))
    n_columns = len(columns)
    pairs = pairs[np.isfinite(table[pairs[:, 0], pairs[:, 1]])]
    n = len(pairs)
    if n == 0:
        return None
    rows = table[np.ix_(pairs[:, 0], columns)]
    own = np.searchsorted(columns, pairs[:, 1])
    values = rows[np.arange(n), own]
    agrees = values >= rows.max(axis=1) - _TIE
    shifts = (rows.argmax(axis=1) - own)[~agrees] % n_columns
    shifted = int(np.bincount(shifts).max()) if len(shifts) else 0
    equal = np.abs(rows - values[:, None]) <= _TIE
    chance = max(float(equal.mean()), (shifted + 1) / (n + 1))
    agreeing = int(agrees.sum())
    return ProductAgreement(
        float(values.mean()), binomial_log10_tail(n, agreeing, chance), n, agreeing, shifted, chance
    )


def _symmetric(table: Table, pairs: Pairs) -> ProductAgreement | None:
    """The weaker agreement of rows with columns and of columns with rows."""
    both = agreement(table, pairs), agreement(table.T, pairs[:, ::-1])
    return max((found for found in both if found is not None), key=lambda found: found.log10_p, default=None)


def binomial_log10_tail(n: int, k: int, chance: float) -> float:
    """log10 of P(X >= k) for X ~ Binomial(n, chance), summed exactly, however small it is."""
    if k <= 0 or chance >= 1:
        return 0.0
    if chance <= 0:
        return -math.inf
    logs = [
        math.lgamma(n + 1)
        - math.lgamma(i + 1)
        - math.lgamma(n - i + 1)
        + i * math.log(chance)
        + (n - i) * math.log1p(-chance)
        for i in range(k, n + 1)
    ]
    peak = max(logs, default=-math.inf)
    return min(0.0, (peak + math.log(sum(math.exp(x - peak) for x in logs))) / math.log(10)) if logs else -math.inf
