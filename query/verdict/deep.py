"""The verdict on a pair whose products are known: what they may add to it, and what they may not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from provenance.query.evidence.pair import Pair
from provenance.query.evidence.registry import CONVICTING, DEEP
from provenance.query.statistics.products import ProductMatch
from provenance.query.statistics.significance import adjust_log10_p, combine_log10_p, probability
from provenance.query.verdict.rule import ALPHA, SUSPICION, Assessment
from provenance.query.verdict.witness import declared
from provenance.schemas.enums import Direction, Relation, Verdict, Witness
from provenance.schemas.products import DeepReading


def convicts(match: ProductMatch, n_store: int, level: float = ALPHA) -> bool:
    """Whether products alone prove a common origin, corrected over all convicting lines and over the store."""
    return match.convicts(len(CONVICTING) * n_store, level)


def by_products(found: Iterable[Assessment], n_store: int) -> list[Assessment]:
    """The assessments with what stored sketches say of them, ranked again."""
    return rerank(one if (read := one.pair.stored) is None else deepen(one, read, n_store) for one in found)


def deepen(found: Assessment, reading: DeepReading, n_store: int) -> Assessment:
    """Add the line `products`, and raise the verdict where it convicts: to `related` at most, and never lower it.

    Twins from one initialisation agree in their products nearly as much as copies do, so that common origin is all that
    they prove. Who came first is said by cards alone: the cells of a disguised copy do not correspond.

    Args:
        found: the pair as it was judged without, among its relatives.
        reading: what was stored or read of it.
        n_store: checkpoints that the candidate was picked from.
    """
    pair = replace(found.pair, reading=reading)
    evidence, match = DEEP.measure(pair), pair.products
    others = [line for line in found.evidence if line.kind != DEEP.name]
    deep = replace(found, pair=pair, evidence=(*others, *([evidence] if evidence else [])))
    if found.is_relative or match is None or match.best is None or not convicts(match, n_store, SUSPICION):
        return deep
    lines = [e.log10_p for e in others if e.kind in CONVICTING and e.log10_p is not None]
    log10_p = combine_log10_p([*lines, match.log10_p], len(CONVICTING))
    weighed = replace(
        deep,
        verdict=Verdict.INCONCLUSIVE,
        log10_p=log10_p,
        log10_p_adjusted=adjust_log10_p(log10_p, n_store),
        probability=probability(log10_p, n_store),
    )
    if not convicts(match, n_store):
        return weighed
    direction = order_of(pair)
    return replace(
        weighed,
        verdict=Verdict.RELATED,
        direction=direction,
        relation=Relation.TRANSFORMED,
        disguised=True,
        decided_by=None if direction is Direction.UNKNOWN else Witness.DECLARED,
        score=match.best.value,
    )


def rerank(candidates: Iterable[Assessment]) -> list[Assessment]:
    """Raised candidates among the relatives, by score; all others in the order that they had."""

    def key(one: Assessment) -> tuple[int, float]:
        if not one.is_relative:
            return 2, 0.0
        return (0, 0.0) if one.verdict is Verdict.DERIVED else (1, -round(one.score, 4))

    return sorted(candidates, key=key)


def order_of(pair: Pair) -> Direction:
    """What the candidate is to the model, where only products show that they are relatives: as a card says.

    An older relative may be a sibling, so that dates alone do not say.
    """
    odds = declared(pair.b.dossier, pair.a.dossier)
    if odds == 0:
        return Direction.UNKNOWN
    return Direction.PARENT if odds > 0 else Direction.CHILD
