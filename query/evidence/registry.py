"""The lines of evidence. A new line is one module with `measure(pair) -> Evidence | None`, and one record here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from provenance.query.evidence import (
    adapter,
    architecture,
    file_digest,
    layer_alignment,
    norm_correlation,
    products,
    profile_correlation,
    tensor_digest,
    weight_correlation,
)
from provenance.query.evidence.pair import Pair
from provenance.schemas.enums import Null
from provenance.schemas.results import Evidence


@dataclass(frozen=True, slots=True)
class Line:
    """A line of evidence.

    Attributes:
        name: the `kind` of its evidence.
        meaning: what it says, in one sentence for non-experts; `docs/method.md` has the same sentence.
        convicts: whether it alone may lead to an accusation. Only a line with a theoretical null may.
        null: the kind of its null distribution over unrelated pairs.
        measure: returns the evidence about a pair; null if the line does not apply to it.
    """

    name: str
    meaning: str
    convicts: bool
    null: Null
    measure: Callable[[Pair], Evidence | None]


LINES = (
    Line(
        "file_digest",
        "The two repos hold the same weight files, byte for byte.",
        True,
        Null.THEORETICAL,
        file_digest.measure,
    ),
    Line(
        "tensor_digest",
        "Some matrices of the layers hold exactly the same numbers.",
        True,
        Null.THEORETICAL,
        tensor_digest.measure,
    ),
    Line(
        "weight_correlation",
        "The weights at the same places of the same layers rise and fall together.",
        True,
        Null.THEORETICAL,
        weight_correlation.measure,
    ),
    Line(
        "layer_alignment",
        "The models differ in depth, and a run of layers of the one agrees with a run of the other.",
        True,
        Null.THEORETICAL,
        layer_alignment.measure,
    ),
    Line(
        "norm_correlation",
        "The norms and biases, which start constant and are learnt, vary alike.",
        False,
        Null.EMPIRICAL,
        norm_correlation.measure,
    ),
    Line(
        "profile_correlation",
        "The size and the shape of the weights' distribution change alike from layer to layer.",
        False,
        Null.EMPIRICAL,
        profile_correlation.measure,
    ),
    Line(
        "published_score",
        "The size of the weights changes alike from layer to layer, measured as the literature does.",
        False,
        Null.EMPIRICAL,
        profile_correlation.measure_published,
    ),
    Line(
        "architecture",
        "The models have the same shapes and settings, which many unrelated models have too.",
        False,
        Null.NONE,
        architecture.measure,
    ),
)

DEEP = Line(
    "products",
    "The layers compute alike, however their weights were permuted, rotated or rescaled.",
    True,
    Null.THEORETICAL,
    products.measure,
)
"""What sketches of products add, stored by the crawl or read by `--deep`. It is none of `LINES`, because it is judged
by its size too, after the family is settled: the cells of a disguised copy do not correspond."""

CONVICTING = tuple(line.name for line in (*LINES, DEEP) if line.convicts)
"""Lines whose null distribution is known well enough to convict. p-values are corrected for their number, for a pair
without sketches too, so that the same pair has the same p-value whatever is stored."""

SUPPORTING = tuple(line.name for line in LINES if line.null is Null.EMPIRICAL)
"""Lines whose p-values are at least 1 / (n + 1), so that they support but never convict."""


def gather(pair: Pair) -> list[Evidence]:
    """The evidence of every line that applies to the pair; of an adapter and a model only whether they fit."""
    if not pair.of_one_kind:
        return [evidence for evidence in (file_digest.measure(pair), adapter.measure(pair)) if evidence is not None]
    return [evidence for line in LINES if (evidence := line.measure(pair)) is not None]
