"""Changing a store: stage parts without a lock, then make them live by one swap of MANIFEST under the lock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa

from provenance.indexer.store.files import exclusive, replace_text
from provenance.indexer.store.manifest import MANIFEST, Manifest
from provenance.indexer.store.parts import PartWriter
from provenance.schemas.errors import StoreCorruptError, StoreError
from provenance.schemas.tables import FORMAT_VERSION

FORMAT, LOCK = "FORMAT", "LOCK"

FORMAT_TEXT = json.dumps({"format": FORMAT_VERSION}) + "\n"

_LOCK_SECONDS = 60.0


def read_manifest(store: Path) -> Manifest:
    """The current manifest; needs no lock.

    Raises:
        StoreCorruptError: the MANIFEST file is missing or damaged.
    """
    try:
        return Manifest.parse((store / MANIFEST).read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError as error:
        raise StoreCorruptError(
            f"the store at {store} has no {MANIFEST} file; restore it from a backup, or crawl into a new store"
        ) from error


@contextmanager
def writing(store: Path) -> Iterator[ExitStack]:
    """A stack for staged parts, which discards those not published.

    Raises:
        StoreError: writing fails (disk full, read-only, not permitted).
    """
    try:
        with ExitStack() as stack:
            yield stack
    except OSError as error:
        raise StoreError(f"cannot write to the store at {store}: {error}; nothing of this was committed") from error


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold the writers' lock.

    Raises:
        StoreBusyError: another process held it for a minute.
    """
    with exclusive(store / LOCK, _LOCK_SECONDS):
        yield


def stage(stack: ExitStack, store: Path, table: str, pieces: Iterable[pa.Table]) -> PartWriter:
    """Write `pieces` as one durable part under a temporary name; `stack` discards it unless it is published."""
    writer = stack.enter_context(PartWriter(store, table))
    for piece in pieces:
        writer.write(piece)
    writer.finish()
    return writer


def swap(
    store: Path, grace: float, writers: Sequence[PartWriter], choose: Callable[[Manifest], frozenset[str]]
) -> Manifest:
    """Make the staged parts live, and retire the paths that `choose` selects from the current manifest.

    If one of those paths is no longer live, another process was first, and nothing is changed.

    Returns:
        the manifest now current.
    """
    with locked(store):
        current = read_manifest(store)
        replaced = choose(current)
        if not replaced <= current.paths():
            return current
        _convert(store)
        added = [(writer.table, writer.publish(current.sequence + 1)) for writer in writers]
        successor = current.successor(added, replaced, time.time())
        replace_text(store / MANIFEST, successor.to_json())
        return expire(store, grace, successor)


def _convert(store: Path) -> None:
    """Make a store of an earlier format one of this: its tables are the same, and versions that know fewer must not
    write to it, for they would lose the parts of the others.
    """
    if (store / FORMAT).read_text(encoding="utf-8", errors="replace") != FORMAT_TEXT:
        replace_text(store / FORMAT, FORMAT_TEXT)


def expire(store: Path, grace: float, manifest: Manifest) -> Manifest:
    """Unlink the parts retired longer ago than `grace` seconds; the lock must be held.

    Returns:
        the manifest now current.
    """
    kept, expired = manifest.expire(time.time() - grace)
    if expired:
        # Files first: after a kill in between they are still in the manifest, and the next call unlinks them.
        for path in expired:
            (store / path).unlink(missing_ok=True)
        replace_text(store / MANIFEST, kept.to_json())
    return kept
