"""Durable file operations: atomic replacement, the writers' lock, and the removal of killed writers' files."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provenance.schemas.errors import StoreBusyError

TEMPORARY = ".tmp-"
"""Prefix of the names of unfinished files, which readers ignore."""

_RETRY = 0.01


def temporary_name(suffix: str = "") -> str:
    """A name for an unfinished file that no other writer uses."""
    return f"{TEMPORARY}{secrets.token_hex(8)}{suffix}"


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable: only then does a rename survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically and durably: a reader sees the whole old text or the whole new one."""
    temporary = path.with_name(temporary_name())
    with temporary.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def try_lock(descriptor: int) -> bool:
    """Take the advisory lock of an open file, unless another open file has it.

    The lock belongs to the descriptor: closing it releases the lock, and so does the end of the process by any signal.

    Returns:
        whether it is held now.
    """
    from filelock import lock_descriptor  # imported here to save readers, which lock nothing, 20 ms

    return lock_descriptor(descriptor, blocking=False)


@contextmanager
def exclusive(path: Path, timeout: float) -> Iterator[None]:
    """Hold the advisory lock of the file `path`, waiting for it at most `timeout` seconds.

    The kernel releases the lock when its process ends, so a killed writer never blocks the next one.

    Raises:
        StoreBusyError: another process still holds it.
    """
    deadline = time.monotonic() + timeout
    with path.open("a") as file:
        while not try_lock(file.fileno()):
            if time.monotonic() >= deadline:
                raise StoreBusyError(
                    f"another process has been writing to {path.parent} for {timeout:g} s; "
                    "wait until it ends and try again"
                )
            time.sleep(_RETRY)
        yield


def remove_abandoned(folder: Path, before: float) -> int:
    """Remove the temporary files in `folder` that were last written at or before `before` (Unix seconds).

    Writers lock their temporary files, so a file of a live writer is kept at any age.

    Returns:
        number of files removed.
    """
    removed = 0
    for path in folder.glob(f"{TEMPORARY}*"):
        try:
            with path.open("rb") as file:
                if path.stat().st_mtime <= before and try_lock(file.fileno()):
                    path.unlink()
                    removed += 1
        except FileNotFoundError:  # its writer has just finished or discarded it
            continue
    return removed


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
