"""What no inner disguise changes of a checkpoint's layers, as it travels from reading to comparing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


ANCHORS = 16
"""Tokens between which products are sketched."""

PRODUCTS_SPEC = "products-v1"
"""Names what a stored sketch is: which products, the rule of its anchors, centring, scale and dtype."""


class Product(StrEnum):
    """A product of two matrices of a layer, from the residual stream to the residual stream."""

    VO = "vo"
    """What attention writes of the values that it reads."""
    FU = "fu"
    """What the feed-forward part writes through its up projection."""


@dataclass(frozen=True, slots=True)
class ProductSketch:
    """The products of one checkpoint's layers between anchor tokens: see `crawler.products`.

    Two sketches may be compared where `anchors[i]` is the same token in both vocabularies. Those that a crawl stores
    have the anchors of `crawler.anchors.spread_anchors` and values of float16.

    Attributes:
        layers: layer numbers, rising.
        vo: float32 `[layers, k, k]` between `k` anchors, double-centred, of unit norm; NaN for a layer without.
        fu: the same of the feed-forward matrices.
        anchors: token ids of the `k` anchors.
        notes: why something is missing, in words.
        tokens: the strings of the anchors; null where no tokenizer was read.
    """

    layers: tuple[int, ...]
    vo: NDArray[np.float32]
    fu: NDArray[np.float32]
    anchors: tuple[int, ...]
    notes: tuple[str, ...] = ()
    tokens: tuple[str, ...] | None = None

    def comparable(self, other: ProductSketch) -> bool:
        """Whether both are between the same tokens, as far as is known: unknown strings of equal ids count as equal."""
        known = self.tokens is not None and other.tokens is not None
        return self.anchors == other.anchors and (not known or self.tokens == other.tokens)


@dataclass(frozen=True, slots=True)
class DeepReading:
    """What reading the weights of a pair anew gave.

    Attributes:
        a: products of the model asked about, null where they could not be read.
        b: products of the candidate, between the same tokens.
        bytes_read: bytes of weights that this pair cost; a model that was read for an earlier pair is not read again.
        note: what was left out, or why nothing was read; may be empty.
    """

    a: ProductSketch | None
    b: ProductSketch | None
    bytes_read: int = 0
    note: str = ""
