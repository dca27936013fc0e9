"""One crawl at a time: the lock that a crawl holds on its store, and its owner."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from provenance.indexer.store.files import try_lock
from provenance.schemas.errors import StoreBusyError

LEASE = "CRAWL"


@contextmanager
def crawl_lease(store: Path) -> Iterator[str | None]:
    """Lock a store for one crawl. The kernel releases the lock when its process ends, also if it is killed.

    Yields:
        the previous owner, in words, if it was killed; null if the last crawl ended by itself.

    Raises:
        StoreBusyError: another crawl holds the lock; the message gives its owner and age.
    """
    with (store / LEASE).open("a+", encoding="utf-8", errors="replace") as file:
        if not try_lock(file.fileno()):
            owner = _owner(file) or "it has just begun"
            raise StoreBusyError(f"another crawl writes to {store}: {owner}; wait until it ends, or stop it")
        killed = _owner(file)
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat()}
        _write(file, json.dumps(mine))
        try:
            yield killed
        finally:
            _write(file, "")


def _owner(file: TextIO) -> str | None:
    """The owner in the file and its age, in words; null if the file has none."""
    file.seek(0)
    try:
        owner = json.load(file)
        since = datetime.fromisoformat(owner["since"])
        age = _words((datetime.now(UTC) - since).total_seconds())
        return f"process {int(owner['pid'])} on {owner['host']!s:.64}, since {since:%Y-%m-%d %H:%M} UTC ({age})"
    except (ValueError, KeyError, TypeError):
        return None


def _words(seconds: float) -> str:
    minutes = max(0, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _write(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()
