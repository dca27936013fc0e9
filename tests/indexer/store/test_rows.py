"""A fingerprint comes back from the store as it went in, types and all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from provenance.crawler.fingerprint import fingerprint
from provenance.crawler.local.folders import find_local, listed_checkpoints
from provenance.indexer.store.rows import fingerprint_rows, stored_fingerprint
from provenance.indexer.store.store import Store
from provenance.schemas.enums import Mode, Source
from provenance.schemas.errors import StoreError
from provenance.schemas.records import Fingerprint
from provenance.schemas.roles import Role
from provenance.schemas.tables import from_rows
from tests.conftest import llama

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def made(write_repo: Callable[..., Path]) -> Fingerprint:
    """A fingerprint with every kind of value: lists, times, vectors, a tensor without a role."""
    tensors = llama(1) | {"buffer": np.arange(6, dtype=np.float32).reshape(1, 2, 3)}
    (repo,) = find_local(write_repo("acme/m", tensors))
    (listed,) = listed_checkpoints(repo)
    metadata = replace(listed.metadata, created_at=NOW, tags=("a", "b"), declared_parents=("acme/base",), likes=3)
    with repo.reader() as reader:
        return fingerprint(replace(listed, metadata=metadata), reader, size=None, now=NOW)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def put(store: Store, *fingerprints: Fingerprint) -> list[str]:
    """Store fingerprints.

    Returns:
        their fingerprint ids.
    """
    batch = fingerprint_rows(fingerprints, "run")
    store.commit({table: from_rows(table, rows) for table, rows in batch.items()})
    return [row["fingerprint_id"] for row in batch["checkpoints"]]


def test_a_fingerprint_comes_back_as_it_was(store: Store, made: Fingerprint) -> None:
    sampled = replace(made, checkpoint=replace(made.checkpoint, mode=Mode.SAMPLED, tags=(), n_heads=None), tensors=())
    for id_, wanted in zip(put(store, made, sampled), (made, sampled), strict=True):
        back = stored_fingerprint(store, id_)
        assert back.checkpoint == wanted.checkpoint
        assert back.files == wanted.files
        assert back.tensors == wanted.tensors
        assert back.sample.version == wanted.sample.version
        assert back.sample.entries == wanted.sample.entries
        np.testing.assert_array_equal(back.sample.values, wanted.sample.values)
        assert wanted.products is not None
        assert back.products is not None
        for name in ("layers", "anchors", "notes", "tokens"):
            assert getattr(back.products, name) == getattr(wanted.products, name)
        np.testing.assert_array_equal(back.products.vo, wanted.products.vo)
        np.testing.assert_array_equal(back.products.fu, wanted.products.fu)


@pytest.mark.parametrize(
    "change",
    [
        {"spec": "products-v9"},
        {"layers": None},
        {"layers": [0, None]},
        {"anchors": list(range(15))},
        {"vo": b"short"},
        {"fu": None},
    ],
)
def test_a_sketch_of_another_rule_or_length_is_passed_over(
    store: Store, made: Fingerprint, change: dict[str, object]
) -> None:
    batch = fingerprint_rows([made], "run")
    batch["products"][0] |= change
    store.commit({name: from_rows(name, rows) for name, rows in batch.items()})
    assert stored_fingerprint(store, batch["checkpoints"][0]["fingerprint_id"]).products is None


def test_words_come_back_as_members_and_lists_as_tuples(store: Store, made: Fingerprint) -> None:
    (id_,) = put(store, made)
    back = stored_fingerprint(store, id_)
    assert (type(back.checkpoint.mode), type(back.checkpoint.source)) == (Mode, Source)
    assert {type(tensor.role) for tensor in back.tensors} == {type(e.role) for e in back.sample.entries} == {Role}
    assert {type(tensor.shape) for tensor in back.tensors} == {type(e.shape) for e in back.sample.entries} == {tuple}
    assert {type(back.checkpoint.tags), type(back.checkpoint.notes)} == {tuple}
    assert Role.OTHER in {tensor.role for tensor in back.tensors}


def test_a_fingerprint_that_is_not_there(store: Store, made: Fingerprint) -> None:
    put(store, made)
    with pytest.raises(StoreError, match="there is no fingerprint 12345"):
        stored_fingerprint(store, "12345")


@pytest.mark.parametrize(("table", "column"), [("checkpoints", "mode"), ("checkpoints", "source"), ("tensors", "role")])
def test_a_word_of_another_version_is_named(store: Store, made: Fingerprint, table: str, column: str) -> None:
    batch = fingerprint_rows([made], "run")
    batch[table][0][column] = "tomorrow"
    store.commit({name: from_rows(name, rows) for name, rows in batch.items()})
    id_ = batch["checkpoints"][0]["fingerprint_id"]
    with pytest.raises(StoreError, match=f"{id_}.*'tomorrow'.*--refingerprint"):
        stored_fingerprint(store, id_)
