"""What the line `products` may change of a verdict, and what it may not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from provenance.query.evidence.pair import Pair, Subject
from provenance.query.verdict.again import settled_again
from provenance.query.verdict.deep import deepen, rerank
from provenance.query.verdict.rule import Assessment, assess, model_verdict
from provenance.schemas.enums import Direction, ModelVerdict, Relation, Verdict
from provenance.schemas.products import DeepReading, ProductSketch
from tests.conftest import llama, trained
from tests.support.dossiers import dossier

ROOT = llama(1, layers=4)
root, child, stranger = dossier(ROOT, "org/root"), dossier(trained(ROOT, 2), "org/child"), dossier(llama(3), "else/x")


def reading(layers: int = 12, noise: float = 0.3, bytes_read: int = 1234, seed: int = 1) -> DeepReading:
    """Two models whose layers agree but for so much noise; null noise for a stranger."""
    rng = np.random.default_rng(seed)
    vo, fu, *change = rng.normal(size=(4, layers, 16, 16)).astype(np.float32)
    own = tuple(range(layers))
    other = [(each + noise * more).astype(np.float32) for each, more in zip((vo, fu), change, strict=True)]
    anchors = tuple(range(16))
    return DeepReading(ProductSketch(own, vo, fu, anchors), ProductSketch(own, *other, anchors), bytes_read)


def judged(n_store: int = 100) -> Assessment:
    return assess(Pair(Subject(child), Subject(stranger)), n_store)


def test_agreement_raises_to_related_and_no_further() -> None:
    plain = judged()
    found = deepen(plain, reading(), 100)
    assert plain.verdict is Verdict.UNRELATED
    assert (found.verdict, found.relation, found.direction) == (
        Verdict.RELATED,
        Relation.TRANSFORMED,
        Direction.UNKNOWN,
    )
    assert found.evidence[:-1] == plain.evidence
    line = found.evidence[-1]
    assert (line.kind, line.n) == ("products", 12)
    assert "12 of 12 layers" in line.note
    assert "1,234 bytes read" in line.note
    # Two products, five lines, a hundred checkpoints.
    assert found.log10_p == pytest.approx(-12 * math.log10(12) + math.log10(2 * 5))
    assert found.log10_p_adjusted == pytest.approx(found.log10_p + 2)
    assert found.probability > 0.99
    assert found.score == line.value


@pytest.mark.parametrize(
    ("read", "n_store", "verdict"),
    [
        pytest.param(reading(noise=100), 100, Verdict.UNRELATED, id="stranger"),
        pytest.param(reading(noise=2.5), 1, Verdict.UNRELATED, id="too small an effect"),
        pytest.param(reading(layers=5), 1, Verdict.UNRELATED, id="too few layers"),
        pytest.param(reading(layers=8), 100, Verdict.RELATED, id="enough for the store"),
        pytest.param(reading(layers=8), 5_000, Verdict.INCONCLUSIVE, id="a doubt in a large store"),
        pytest.param(reading(layers=8), 500_000, Verdict.UNRELATED, id="nothing in a huge one"),
    ],
)
def test_value_depth_and_the_size_of_the_store_decide(read: DeepReading, n_store: int, verdict: Verdict) -> None:
    plain = judged(n_store)
    found = deepen(plain, read, n_store)
    assert found.verdict is verdict
    if verdict is Verdict.UNRELATED:
        assert replace(found, pair=plain.pair, evidence=plain.evidence) == plain


def test_a_relative_keeps_its_verdict() -> None:
    plain = assess(Pair(Subject(child), Subject(root)), 10)
    assert plain.verdict is Verdict.RELATED
    for read in (reading(), reading(noise=100)):
        found = deepen(plain, read, 10)
        assert found.evidence[-1].kind == "products"
        assert replace(found, pair=plain.pair, evidence=plain.evidence) == plain


def test_what_was_not_read_says_why_and_changes_nothing() -> None:
    found = deepen(judged(), DeepReading(None, None, note="the repo is gated"), 100)
    line = found.evidence[-1]
    assert (line.kind, line.value, line.p_value, line.log10_p, line.n) == ("products", None, None, None, 0)
    assert line.note.startswith("the repo is gated")
    assert found.verdict is Verdict.UNRELATED


NONE, OTHER, CARD = (), ("else/x",), ("org/child",)


@pytest.mark.parametrize(
    ("dates", "cards", "direction", "verdict"),
    [
        ((None, None), (NONE, NONE), Direction.UNKNOWN, ModelVerdict.INCONCLUSIVE),
        (("2025-02", "2025-01"), (NONE, NONE), Direction.UNKNOWN, ModelVerdict.INCONCLUSIVE),
        (("2025-01", "2025-02"), (NONE, NONE), Direction.UNKNOWN, ModelVerdict.NO_PARENT_FOUND),
        (("2025-01", "2025-01"), (OTHER, NONE), Direction.PARENT, ModelVerdict.INCONCLUSIVE),
        ((None, "2025-01"), (NONE, CARD), Direction.CHILD, ModelVerdict.NO_PARENT_FOUND),
    ],
)
def test_cards_alone_say_the_order_and_a_younger_relative_is_no_ancestor(
    dates: tuple[str | None, str | None],
    cards: tuple[tuple[str, ...], tuple[str, ...]],
    direction: Direction,
    verdict: ModelVerdict,
) -> None:
    a, b = (
        Subject(replace(each, meta=replace(each.meta, created_at=date, declared_parents=parents)))
        for each, date, parents in zip((child, stranger), dates, cards, strict=True)
    )
    found = deepen(assess(Pair(a, b), 100), reading(), 100)
    assert found.disguised
    assert found.direction is direction
    assert model_verdict([found], judgeable=True) is verdict


def test_settled_again_a_disguised_relative_stays_one_and_loses_its_card() -> None:
    a, b = (
        Subject(replace(each, meta=replace(each.meta, declared_parents=parents)))
        for each, parents in zip((child, stranger), (OTHER, NONE), strict=True)
    )
    found = deepen(assess(Pair(a, b), 100), reading(), 100)

    def bare(subject: Subject) -> Subject:
        return Subject(replace(subject.dossier, meta=replace(subject.dossier.meta, declared_parents=())))

    assert found.direction is Direction.PARENT
    (again,) = settled_again([found], bare, {})
    assert (again.verdict, again.relation, again.direction) == (
        Verdict.RELATED,
        Relation.TRANSFORMED,
        Direction.UNKNOWN,
    )


def test_raised_candidates_stand_among_the_relatives() -> None:
    plain = judged()
    weak, strong = deepen(plain, reading(noise=0.8), 100), deepen(plain, reading(noise=0.1), 100)
    derived = replace(plain, verdict=Verdict.DERIVED, score=0.1)
    doubt = replace(plain, verdict=Verdict.INCONCLUSIVE)
    assert rerank([derived, doubt, weak, plain, strong]) == [derived, strong, weak, doubt, plain]
