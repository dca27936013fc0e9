"""The folder of a store: create it, and check that this version can read it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from provenance.indexer.store.files import TEMPORARY, replace_text
from provenance.indexer.store.manifest import MANIFEST, Manifest
from provenance.indexer.store.swap import FORMAT, FORMAT_TEXT, LOCK, locked, read_manifest, stage, writing
from provenance.schemas.errors import StoreCorruptError, StoreError, StoreFormatError
from provenance.schemas.tables import FORMAT_VERSION, READ_FORMATS, TABLES, empty

INDEX, VIEWS = "index", "provenance.duckdb"

_FIRST_SEQUENCE = 0


def check_format(store: Path) -> None:
    """Refuse a folder that is not a store, or has an unknown format.

    Raises:
        StoreError: there is no store.
        StoreFormatError: its version is unknown.
        StoreCorruptError: its FORMAT file is damaged.
    """
    try:
        text = (store / FORMAT).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(
            f"no store at {store}; make one with `provenance crawl SOURCE --store {store}`, "
            "or name another with --store or PROVENANCE_STORE"
        ) from error
    try:
        version = json.loads(text)["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreCorruptError(
            f"{store / FORMAT} is damaged; if the store was written by this version, "
            f'put {{"format": {FORMAT_VERSION}}} into that file'
        ) from error
    if version not in READ_FORMATS:
        raise StoreFormatError(
            f"the store at {store} has format {version!r}, this version reads format {FORMAT_VERSION}; "
            "use the version that wrote it, or crawl into a new store"
        )


def make(store: Path) -> None:
    """Make `store` a store, if it is not one yet. Safe in several processes at once, and to repeat after a kill.

    Raises:
        StoreError: the folder contains something else, or cannot be written.
        StoreFormatError, StoreCorruptError: as `check_format`.
    """
    if (store / FORMAT).exists() and (store / MANIFEST).exists():
        return
    with writing(store):
        store.mkdir(parents=True, exist_ok=True)
        _refuse_other_files(store)
        with locked(store):
            _initialise(store)


def _refuse_other_files(store: Path) -> None:
    names = sorted(entry.name for entry in store.iterdir())
    others = [name for name in names if name != LOCK and not name.startswith(TEMPORARY)]
    # FORMAT is checked after the listing: another process that makes the same store writes it first.
    if others and not (store / FORMAT).exists():
        raise StoreError(
            f"{store} is not a store and not empty (it holds {others[0]!r}); name a new or an empty folder with --store"
        )


def _initialise(store: Path) -> None:
    if not (store / FORMAT).exists():
        replace_text(store / FORMAT, FORMAT_TEXT)
    check_format(store)
    if (store / MANIFEST).exists() or _was_written(store):
        read_manifest(store)  # raises if MANIFEST was lost: a new one would orphan every row
        return
    (store / INDEX).mkdir(exist_ok=True)
    with ExitStack() as stack:
        for table in TABLES:
            (store / table).mkdir(exist_ok=True)
        staged = {table: stage(stack, store, table, [empty(table)]) for table in TABLES}
        parts = {table: (writer.publish(_FIRST_SEQUENCE),) for table, writer in staged.items()}
        replace_text(store / MANIFEST, Manifest(_FIRST_SEQUENCE, parts).to_json())


def _was_written(store: Path) -> bool:
    first = f"part-{_FIRST_SEQUENCE:08d}-"
    return any(not path.name.startswith(first) for table in TABLES for path in (store / table).glob("part-*"))
