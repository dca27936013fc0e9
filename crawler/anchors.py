"""Anchor tokens: the rows of the token embedding in which two checkpoints' products are compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from provenance.crawler.hub.answers import AbandonedError
from provenance.schemas.errors import CheckpointError
from provenance.schemas.products import ANCHORS
from provenance.schemas.protocols import TensorReader

SPAN = 1 << 14
"""Anchors lie below this id, however large the vocabulary: every model of 16,384 tokens or more has the same ones."""

_MAX_TOKENIZER = 64 * 1024 * 1024
_MAX_TOKEN = 64


def spread_anchors(vocabulary: int, count: int = ANCHORS) -> tuple[int, ...]:
    """Ids spread evenly over a vocabulary, or over the smaller one of two whose ids mean the same tokens.

    They are the middles of `count` equal parts of the largest power of two that fits, `SPAN` at most. So a vocabulary
    that was extended, padded or cut keeps its anchors, and a stored sketch can be compared as it is.

    Args:
        vocabulary: rows of the embedding.
        count: how many ids.

    Returns:
        `count` rising ids.

    Raises:
        ValueError: the vocabulary is smaller than `count`.
    """
    if vocabulary < count:
        raise ValueError(f"a vocabulary of {vocabulary} tokens has no {count} anchors")
    span = min(SPAN, 1 << (vocabulary.bit_length() - 1))
    return tuple((2 * i + 1) * span // (2 * count) for i in range(count))


def shared_anchors(
    tokenizer_a: Mapping[str, Any], tokenizer_b: Mapping[str, Any], count: int = ANCHORS
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The same tokens in two vocabularies, by their strings.

    A word begins with `▁` in SentencePiece's vocabularies and with `Ġ` in byte-level ones: both are read as a space.
    Of the shared strings those are taken that are spread evenly over the first vocabulary's ids.

    Args:
        tokenizer_a: a `tokenizer.json` as parsed.
        tokenizer_b: the other one.
        count: how many tokens.

    Returns:
        ids in the first and in the second vocabulary, pairwise of one token; null where fewer than `count` tokens
        are shared.
    """
    a, b = token_ids(tokenizer_a), token_ids(tokenizer_b)
    shared = sorted((a[token], b[token]) for token in a.keys() & b.keys())
    if len(shared) < count:
        return None
    chosen = [shared[(2 * i + 1) * len(shared) // (2 * count)] for i in range(count)]
    return tuple(pair[0] for pair in chosen), tuple(pair[1] for pair in chosen)


def common_anchors(
    vocabularies: tuple[int, int],
    tokenizers: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None],
    count: int = ANCHORS,
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The same tokens in two checkpoints: by equal ids, unless their tokenizers say that those are other tokens.

    Args:
        vocabularies: rows of both embeddings.
        tokenizers: both `tokenizer.json` as parsed; where one is null or has no vocabulary, equal ids are taken for
            equal tokens.
        count: how many tokens.

    Returns:
        ids in the first and in the second vocabulary; null where too few tokens are shared.
    """
    by_id = spread_anchors(min(vocabularies), count) if min(vocabularies) >= count else None
    a, b = (one or {} for one in tokenizers)
    first, second = ({place: token for token, place in token_ids(one).items()} for one in (a, b))
    if first and second and (by_id is None or any(first.get(place) != second.get(place) for place in by_id)):
        return shared_anchors(a, b, count)
    return None if by_id is None else (by_id, by_id)


def anchor_tokens(tokenizer: Mapping[str, Any] | None, anchors: Sequence[int]) -> tuple[str, ...] | None:
    """The strings of some tokens, cut to a stored length, empty for an id without; null without a vocabulary."""
    wanted, found = set(anchors), dict[int, str]()
    for token, place in token_ids(tokenizer or {}).items():
        if place in wanted:
            found[place] = token[:_MAX_TOKEN].encode("utf-8", "backslashreplace").decode()
    return tuple(found.get(place, "") for place in anchors) if found else None


def read_tokenizer(reader: TensorReader, path: str) -> Mapping[str, Any] | None:
    """A `tokenizer.json` as parsed; null where there is none that can be used.

    Raises:
        AbandonedError: the crawl was stopped.
    """
    try:
        length = reader.size(path)
        if length > _MAX_TOKENIZER:
            return None
        (data,) = reader.read(path, [(0, length)])
        found = json.loads(bytes(data))
    except AbandonedError:
        raise
    except (CheckpointError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def token_ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id of a `tokenizer.json`; empty where it holds no vocabulary that can be read.

    BPE and WordPiece map tokens to ids, Unigram lists `[token, score]` in the order of the ids. Added tokens are left
    out: a fine-tune adds its own.
    """
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    found: dict[str, int] = {}
    if isinstance(vocabulary, Mapping):
        pairs = [(token, place) for token, place in vocabulary.items() if type(place) is int and place >= 0]
    elif isinstance(vocabulary, list):
        pairs = [(row[0], place) for place, row in enumerate(vocabulary) if isinstance(row, list) and row]
    else:
        pairs = []
    added = tokenizer.get("added_tokens")
    special = (
        {token.get("content") for token in added if isinstance(token, Mapping)} if isinstance(added, list) else set()
    )
    for token, place in pairs:
        if isinstance(token, str) and token not in special:
            found.setdefault(token.replace("▁", " ").replace("Ġ", " "), place)
    return found
