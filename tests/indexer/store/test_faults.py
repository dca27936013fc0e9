"""Faults of a store: absent, foreign, damaged, full or busy. Each is named, and none destroys anything."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from provenance.indexer.store import files, swap
from provenance.indexer.store.manifest import Manifest
from provenance.indexer.store.store import Store
from provenance.schemas.errors import StoreBusyError, StoreCorruptError, StoreError, StoreFormatError
from provenance.schemas.tables import FORMAT_VERSION, empty, from_rows
from tests.support.store_rows import fingerprint, full_and_null


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def parquet_files(store: Store) -> set[str]:
    return {str(path.relative_to(store.path)) for path in store.path.glob("*/*.parquet")}


def test_open_without_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(StoreError, match=r"no store at .*; make one with `provenance crawl"):
            Store.open(path)


def test_create_opens_what_exists(store: Store) -> None:
    store.commit(fingerprint(1))
    assert Store.create(store.path).read("tensors").num_rows == 3


def test_create_takes_an_empty_folder_and_refuses_any_other(tmp_path: Path) -> None:
    Store.create(tmp_path / "a" / "b")
    (tmp_path / "empty").mkdir()
    assert Store.create(tmp_path / "empty").verify() == []
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"not empty \(it holds 'thesis.tex'\)"):
        Store.create(full)
    assert [path.name for path in full.iterdir()] == ["thesis.tex"], "nothing was put there"
    with pytest.raises(StoreError, match="cannot write"):
        Store.create(full / "thesis.tex")


def test_creation_cut_short_is_taken_up_again(store: Store) -> None:
    (store.path / "MANIFEST").unlink()
    shutil.rmtree(store.path / "tensors")
    assert Store.create(store.path).verify() == []


def test_lost_manifest_never_becomes_an_empty_store(store: Store) -> None:
    store.commit(fingerprint(1))
    (store.path / "MANIFEST").unlink()
    for way in (Store.open, Store.create):
        with pytest.raises(StoreCorruptError, match="no MANIFEST"):
            way(store.path)


def test_unknown_format(store: Store) -> None:
    (store.path / "FORMAT").write_text(json.dumps({"format": 99}))
    with pytest.raises(StoreFormatError, match=f"format 99, this version reads format {FORMAT_VERSION}; use"):
        Store.open(store.path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format"', "\xff"])
def test_damaged_format(store: Store, text: str) -> None:
    (store.path / "FORMAT").write_text(text, encoding="latin-1")
    with pytest.raises(StoreCorruptError, match="FORMAT is damaged"):
        Store.open(store.path)


def test_manifest_cut_anywhere_is_noticed(store: Store) -> None:
    text = (store.path / "MANIFEST").read_text().rstrip()
    for length in range(0, len(text), 97):
        (store.path / "MANIFEST").write_text(text[:length])
        with pytest.raises(StoreCorruptError, match=r"MANIFEST file is damaged.*restore"):
            Store.open(store.path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"path": "tensors/part', '"path": "../tensors/part'),
        ('"path": "tensors/part', '"path": "files/part'),
        ('"tensors": [', '"tansors": ['),
        ('"rows": 0', '"rows": "many"'),
        ('"retired": []', '"retired": [{"path": "/etc/passwd", "at": 0}]'),
    ],
)
def test_manifest_cannot_point_elsewhere(store: Store, old: str, new: str) -> None:
    text = without_digest(store)
    assert old in text
    Manifest.parse(text)
    with pytest.raises(StoreCorruptError):
        Manifest.parse(text.replace(old, new))


def without_digest(store: Store) -> str:
    """The manifest as format 2 had it."""
    manifest = json.loads((store.path / "MANIFEST").read_text())
    del manifest["sha256"]
    return json.dumps(manifest, indent=1) + "\n"


def test_every_flipped_byte_of_the_manifest_is_found(store: Store) -> None:
    store.commit(fingerprint(1))
    written = (store.path / "MANIFEST").read_bytes()
    for place in range(len(written)):
        damaged = bytearray(written)
        damaged[place] ^= 1 << (place % 8)
        (store.path / "MANIFEST").write_bytes(damaged)
        with pytest.raises(StoreCorruptError, match="MANIFEST"):
            store.manifest()


def test_every_flipped_byte_of_a_part_is_found(store: Store) -> None:
    part = store.commit(fingerprint(1)).parts["checkpoints"][-1]
    path = store.path / part.path
    written = path.read_bytes()
    for place in range(0, len(written), 97):
        damaged = bytearray(written)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        assert any(part.path in problem for problem in store.verify())


def test_missing_part(store: Store) -> None:
    part = store.commit(fingerprint(1)).parts["tensors"][-1]
    (store.path / part.path).unlink()
    assert store.verify() == [f"{part.path} is missing"]
    for act in (lambda: store.read("tensors"), store.connect, store.compact):
        with pytest.raises(StoreCorruptError, match=r"missing.*provenance verify"):
            act()
    with pytest.raises(StoreCorruptError):
        store.write_views()
    assert not list(store.path.glob(".tmp-*"))


def test_damaged_part(store: Store) -> None:
    part = store.commit(fingerprint(1)).parts["tensors"][-1]
    path = store.path / part.path
    path.write_bytes(b"no parquet" * 100)
    assert any(part.path in problem for problem in store.verify())
    path.write_bytes(b"n" * part.bytes)
    assert any("SHA-256 differs" in problem for problem in store.verify())
    for act in (lambda: store.read("tensors"), store.compact):
        with pytest.raises(StoreCorruptError, match=f"{part.path} cannot be read"):
            act()


def test_damaged_first_part_is_named_on_connecting(store: Store) -> None:
    (part,) = store.manifest().parts["runs"]
    (store.path / part.path).write_bytes(b"x" * part.bytes)
    for act in (store.connect, store.write_views):
        with pytest.raises(StoreCorruptError, match="cannot be read"):
            act()


def test_one_flipped_bit_in_the_data_is_found(store: Store) -> None:
    text = os.urandom(3_000).hex()
    part = store.commit({"outcomes": from_rows("outcomes", [{"message": text}])}).parts["outcomes"][-1]
    path = store.path / part.path
    damaged = bytearray(path.read_bytes())
    damaged[1_000] ^= 1
    path.write_bytes(damaged)
    assert len(store.verify()) == 1


def test_part_with_other_columns_or_other_rows(store: Store) -> None:
    part = store.commit(fingerprint(1)).parts["tensors"][-1]
    path = store.path / part.path

    def exchange(rows: pa.Table) -> list[str]:
        pq.write_table(rows, path)
        manifest = json.loads((store.path / "MANIFEST").read_text())
        manifest.pop("sha256", None)
        manifest["tables"]["tensors"][-1] |= {"bytes": path.stat().st_size, "sha256": None}
        (store.path / "MANIFEST").write_text(json.dumps(manifest))
        return store.verify()

    assert exchange(from_rows("tensors", [{}])) == [f"{part.path} has 1 rows, the manifest says 3"]
    (problem,) = exchange(pa.table({"name": ["x"]}))
    assert "does not have the columns of the table tensors" in problem
    with pytest.raises(StoreCorruptError, match="does not have the columns"):
        store.read("tensors")


def test_verify_finds_orphans_and_duplicates(store: Store) -> None:
    tables = fingerprint(1)
    store.commit(tables)
    store.commit({"samples": tables["samples"]})
    store.commit({"files": fingerprint(2)["files"]})
    assert store.verify() == [
        "samples: 1 keys (fingerprint_id) occur more than once",
        "files: 1 rows belong to no stored checkpoint",
    ]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (pa.table({"path": ["a"]}), "missing columns"),
        (from_rows("files", [{}]).append_column("colour", pa.array(["red"])), "unknown columns ['colour']"),
        (from_rows("files", [{}]).append_column("path", pa.array(["b"])), "do not fit"),
        (from_rows("files", [{}]).set_column(3, "size", pa.array(["large"])), "do not fit the table files"),
        (from_rows("files", [{}]).set_column(3, "size", pa.array([[1]])), "do not fit the table files"),
    ],
)
def test_rows_that_do_not_fit(store: Store, rows: pa.Table, fault: str) -> None:
    before = parquet_files(store)
    for act in (
        lambda: store.commit({"files": rows, "runs": full_and_null("runs")}),
        lambda: store.replace("files", rows),
    ):
        with pytest.raises(StoreError) as caught:
            act()
        assert fault in str(caught.value)
    assert parquet_files(store) == before
    assert store.manifest().sequence == 0


def test_unknown_names(store: Store) -> None:
    for act in (
        lambda: store.commit({"models": empty("runs")}),
        lambda: store.replace("models", empty("runs")),
        lambda: store.read("models"),
    ):
        with pytest.raises(StoreError, match="no table 'models'; the tables are checkpoints"):
            act()
    with pytest.raises(StoreError, match=r"no columns \['colour'\]"):
        store.read("files", ["path", "colour"])


def test_disk_that_refuses(store: Store) -> None:
    (store.path / "tensors").rename(store.path / "away")
    with pytest.raises(StoreError, match="cannot write to the store"):
        store.commit(fingerprint(1))
    (store.path / "away").rename(store.path / "tensors")
    assert store.verify() == []
    assert not list(store.path.glob("*/.tmp-*")), "the parts staged before are discarded"


def test_full_disk(store: Store) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    long = from_rows("outcomes", [{"message": os.urandom(200_000).hex()}])
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        with pytest.raises(StoreError, match=r"cannot write to the store.*nothing of this was committed"):
            store.commit({**fingerprint(1), "outcomes": long})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    gc.collect()
    assert store.manifest().sequence == 0
    assert not list(store.path.glob("*/.tmp-*"))
    store.commit({"outcomes": long})
    assert store.verify() == []


def test_busy_lock(store: Store) -> None:
    lock = store.path / swap.LOCK
    with (
        files.exclusive(lock, 1),
        pytest.raises(StoreBusyError, match="wait until it ends"),
        files.exclusive(lock, 0.05),
    ):
        pass
    started = time.monotonic()
    with files.exclusive(lock, 1):
        assert time.monotonic() - started < 1, "it is free again"
