"""Anchors are the same tokens in both vocabularies, whichever way they are found."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.crawler.anchors import ANCHORS, common_anchors, shared_anchors, spread_anchors, token_ids


@given(st.integers(ANCHORS, 300_000))
def test_anchors_are_spread_and_inside(vocabulary: int) -> None:
    anchors = spread_anchors(vocabulary)
    steps = {b - a for a, b in pairwise(anchors)}
    assert len(set(anchors)) == ANCHORS
    assert len(steps) == 1
    assert 0 <= anchors[0] < anchors[-1] < vocabulary


def test_an_extended_vocabulary_keeps_its_anchors() -> None:
    assert spread_anchors(32_000) == spread_anchors(32_001) == spread_anchors(32_064)
    assert spread_anchors(256, 4) == (32, 96, 160, 224)
    assert spread_anchors(128_256) == spread_anchors(262_144) == spread_anchors(16_384)


def test_a_vocabulary_may_be_too_small() -> None:
    with pytest.raises(ValueError, match="15 tokens has no 16 anchors"):
        spread_anchors(15)


def bpe(tokens: list[str], added: tuple[str, ...] = ()) -> dict[str, Any]:
    vocabulary = {token: i for i, token in enumerate([*tokens, *added])}
    return {"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": [{"content": token} for token in added]}


WORDS = [f"▁word{i}" for i in range(100)]


@given(st.permutations(WORDS[20:]))
def test_shared_anchors_are_the_same_strings(order: list[str]) -> None:
    a, b = bpe(WORDS, ("<eos>",)), bpe([*(t.replace("▁", "Ġ") for t in order), "Ġother"], ("<eos>",))
    found = shared_anchors(a, b)
    assert found is not None
    names_a, names_b = ({i: token for token, i in token_ids(each).items()} for each in (a, b))
    assert [names_a[i] for i in found[0]] == [names_b[i] for i in found[1]]
    assert list(found[0]) == sorted(set(found[0]))
    assert "<eos>" not in {names_a[i] for i in found[0]}
    # Spread over all that is shared, not bunched at its beginning.
    assert found[0][0] < 30
    assert found[0][-1] > 90


def test_unigram_vocabularies_list_tokens_by_id() -> None:
    unigram = {"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["▁a", -1.5], ["b", -2.0]]}}
    assert token_ids(unigram) == {"<unk>": 0, " a": 1, "b": 2}


def test_few_shared_tokens_are_no_anchors() -> None:
    assert shared_anchors(bpe(WORDS[:15]), bpe(WORDS)) is None
    assert shared_anchors(bpe(WORDS[:16]), bpe(WORDS)) == (tuple(range(16)), tuple(range(16)))


def test_equal_ids_serve_unless_tokenizers_disagree() -> None:
    by_id = (spread_anchors(100), spread_anchors(100))
    plain, longer, turned = bpe(WORDS), bpe([*WORDS, "more"]), bpe(WORDS[::-1])
    assert common_anchors((100, 101), (plain, longer)) == by_id
    for unknown in (None, {}, {"model": {"vocab": {}}}):
        assert common_anchors((100, 100), (turned, unknown)) == by_id
    found = common_anchors((100, 100), (plain, turned))
    assert found is not None
    assert all(a + b == 99 for a, b in zip(*found, strict=True))
    assert common_anchors((0, 100), (None, plain)) is None
    assert common_anchors((100, 100), (plain, bpe([f"x{i}" for i in range(100)]))) is None


@pytest.mark.parametrize(
    "hostile",
    [
        {},
        {"model": None},
        {"model": {"vocab": "text"}},
        {"model": {"vocab": {"a": -1, "b": True, "c": "1", "d": 2.0}}},
        {"model": {"vocab": [[], 3, None, [5, 1.0]]}, "added_tokens": "no"},
        {"model": {"vocab": {}}, "added_tokens": [1, None, {}]},
    ],
)
def test_what_is_no_vocabulary_is_empty(hostile: dict[str, Any]) -> None:
    assert token_ids(hostile) == {}
