"""The integrity check of the index: every byte of the live generation against the digests taken when it was built."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from provenance.indexer.generation import CURRENT, GENERATION_MANIFEST
from provenance.indexer.store.files import sha256_of

_NEXT = "run `provenance index`, which rebuilds the index"

# The name in CURRENT ends with the digest of the generation's manifest, which contains those of the other files.
_LIVE = re.compile(r"(?P<name>generation-\d{8,}-(?P<digest>[0-9a-f]{16}))\n")


def index_problems(index_path: Path) -> list[str]:
    """The problems of the index, one line per file; empty if there are none, or if there is no index.

    A damaged index may give wrong answers without an error, so every byte is read, in pieces. The previous generation,
    which only queries that are already running use, is not checked.
    """
    current = _read(index_path / CURRENT)
    if current is None:
        built = any(index_path.glob("generation-*"))
        return [f"{index_path.name}/{CURRENT} is missing, though an index was built; {_NEXT}"] if built else []
    problems = [f"{index_path.name}/{problem}; {_NEXT}" for problem in _problems(index_path, current)]
    if problems and _read(index_path / CURRENT) != current:
        return index_problems(index_path)  # a new generation replaced it during the check
    return problems


def _problems(index_path: Path, current: str) -> Iterator[str]:
    live = _LIVE.fullmatch(current)
    if live is None:
        yield f"{CURRENT} names no generation ({current.strip()[:80]!r})"
        return
    name, manifest = live["name"], index_path / live["name"] / GENERATION_MANIFEST
    if not manifest.parent.is_dir():
        yield f"{CURRENT} names {name}, which does not exist"
        return
    fault = _fault(manifest, None, live["digest"])
    if fault:  # then its digests of the other files cannot be trusted
        yield f"{name}/{GENERATION_MANIFEST} {fault}"
        return
    files: dict[str, dict[str, Any]] = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    for file, written in files.items():
        if fault := _fault(manifest.with_name(file), int(written["bytes"]), str(written["sha256"])):
            yield f"{name}/{file} {fault}"
    for extra in sorted({path.name for path in manifest.parent.iterdir()} - files.keys() - {GENERATION_MANIFEST}):
        yield f"{name}/{extra} is not named in the manifest"


def _fault(path: Path, size: int | None, digest: str) -> str | None:
    """How a file differs from its size and the first digits of its SHA-256 in the manifest; null if it does not."""
    try:
        actual = path.stat().st_size
        if size is not None and actual != size:
            return f"has {actual} bytes, the manifest says {size}"
        return None if sha256_of(path).startswith(digest) else "is not what was written: its SHA-256 differs"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
