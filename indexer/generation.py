"""One generation of the index on disk: vectors, dossiers, keys and backgrounds, memory-mapped and immutable.

`index/CURRENT` names the live generation and is replaced atomically; a reader keeps the generation that it opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from provenance.indexer.dossier_file import DossierFile, map_array
from provenance.indexer.dossier_meta import DossierMeta
from provenance.indexer.vectors import open_index
from provenance.schemas.errors import IndexMissingError, StoreCorruptError
from provenance.schemas.naming import repo_key, short_key

if TYPE_CHECKING:
    from provenance.schemas.protocols import VectorIndex

CURRENT = "CURRENT"
GENERATION_MANIFEST = "manifest.json"
"""The contents of a generation, with size and digest of its other files. Its own digest is in the folder name."""

SKETCH = "sketch"
"""Name of the index of weight-sample sketches; the other indexes have the names of signature specs."""

KEY = np.dtype([("hash", "<u8"), ("row", "<u4")])

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, SyntaxError, TokenError)


@dataclass(frozen=True)
class Generation:
    """A live generation.

    Attributes:
        name: folder name.
        info: its manifest: `checkpoints` (count), `parts` (parts of the table `checkpoints` it covers), `forgotten`
            (repos forgotten before it was built, with the time), `renamed` (new ids of repos by the key of the
            old one), `spec`, `kind`.
        dossiers: one per checkpoint.
        hidden: rows of repos forgotten since; only `dossiers` and `vectors` still contain them.
    """

    name: str
    folder: Path
    info: Mapping[str, Any]
    dossiers: DossierFile
    keys: NDArray[np.void]
    hidden: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.dossiers) - len(self.hidden)

    def __bool__(self) -> bool:
        return True  # also without any checkpoint

    @cached_property
    def parts(self) -> frozenset[str]:
        """Parts of the table `checkpoints` that this generation covers."""
        return frozenset(self.info["parts"])

    def without(self, forgotten: Mapping[str, datetime]) -> Generation:
        """This generation, without the repos that were forgotten after it was built.

        Args:
            forgotten: all forgotten repos of the store, each with the time of its newest tombstone.
        """
        since = [repo for repo, at in forgotten.items() if at.isoformat() != self.info["forgotten"].get(repo)]
        return replace(self, hidden=frozenset(row for repo in since for row in self.find("repo", repo)))

    def rows(self) -> Iterator[int]:
        """The rows of all checkpoints, in increasing order."""
        return (row for row in range(len(self.dossiers)) if row not in self.hidden)

    def nearest(self, name: str, vector: NDArray[np.float32], k: int) -> list[int]:
        """Rows of the `k` checkpoints whose vectors are nearest, nearest first.

        Args:
            name: as for `vectors`.
            vector: `[dimension]`.

        Raises:
            IndexMissingError: as `vectors`.
        """
        _, rows = self.vectors(name).search(vector[None, :], k + len(self.hidden))
        return [int(row) for row in rows[0] if int(row) not in self.hidden][:k]

    def find(self, kind: str, text: str) -> list[int]:
        """Rows of the checkpoints with `text` as their `kind` of key.

        The kinds are `id`, `repo`, `content`, `fingerprint`, `sha256`; `alias` and `short`, the keys of a repo's id
        (`schemas.naming`); and `parent`, the key of a declared one.
        """
        wanted = key_hash(kind, text)
        low = int(np.searchsorted(self.keys["hash"], wanted, side="left"))
        high = int(np.searchsorted(self.keys["hash"], wanted, side="right"))
        return [row for row in map(int, self.keys["row"][low:high]) if row not in self.hidden]

    def vectors(self, name: str) -> VectorIndex:
        """The vector index of a signature spec, or of the sketches (`SKETCH`).

        Raises:
            IndexMissingError: this generation has no vectors of that name.
        """
        files = self.info["vectors"]
        if name not in files:
            known = ", ".join(sorted(set(files) - {SKETCH}))
            raise IndexMissingError(f"the index holds no signatures {name!r}; name those that it has: {known}")
        return open_index(self.folder / files[name])

    def background(self) -> dict[str, NDArray[np.float64]]:
        """Sorted scores of unrelated pairs, by line of evidence.

        Raises:
            StoreCorruptError: they are missing or damaged.
        """
        try:
            # Opened here, because numpy does not close a file that it cannot read.
            with (self.folder / "background.npz").open("rb") as file, np.load(file) as stored:
                return {name: stored[name] for name in stored.files}
        except (*_UNREADABLE, AttributeError, BadZipFile) as error:  # numpy returns an array if it is not an archive
            raise _damaged(self.folder, error) from error


def key_hash(kind: str, text: str) -> np.uint64:
    """64-bit hash of a key, for `Generation.find`."""
    return np.uint64(int.from_bytes(hashlib.blake2b(f"{kind}:{text}".encode(), digest_size=8).digest(), "little"))


def names_of(meta: DossierMeta) -> set[tuple[str, str]]:
    """All keys of a checkpoint, as `(kind, text)`."""
    names = {("id", meta.checkpoint_id), ("repo", meta.repo_id), ("content", meta.content_digest)}
    names.add(("fingerprint", meta.fingerprint_id))
    names |= {("sha256", digest) for digest in meta.sha256}
    names |= {("alias", repo_key(meta.repo_id)), ("short", short_key(meta.repo_id))}
    names |= {("parent", repo_key(parent)) for parent in meta.declared_parents or ()}
    return {(kind, text) for kind, text in names if text}


def keys_of(metas: Iterable[DossierMeta]) -> NDArray[np.void]:
    """The table for `Generation.find`, sorted by hash."""
    keys = [(key_hash(*name), row) for row, meta in enumerate(metas) for name in names_of(meta)]
    return np.array(sorted(keys), dtype=KEY) if keys else np.zeros(0, dtype=KEY)


def generation_name(sequence: int, digest: str) -> str:
    """Folder name of a generation.

    Args:
        sequence: sequence number of the store's manifest that it covers.
        digest: SHA-256 of its own manifest, in hex.
    """
    return f"generation-{sequence:08d}-{digest[:16]}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_generation(index_path: Path) -> Generation:
    """Open the live generation.

    Raises:
        IndexMissingError: there is none yet.
        StoreCorruptError: the one that `CURRENT` names is missing or damaged.
    """
    try:
        name = (index_path / CURRENT).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        raise IndexMissingError(f"{index_path.parent}: not indexed yet; run `provenance index`") from None
    folder = index_path / name
    try:
        info = json.loads((folder / GENERATION_MANIFEST).read_text(encoding="utf-8"))
        renamed = dict(info).get("renamed", {})  # an earlier version did not keep them
        info = {field: info[field] for field in ("checkpoints", "parts", "forgotten", "spec", "kind", "vectors")}
        info["renamed"] = renamed
        return Generation(name, folder, info, DossierFile(folder), map_array(folder / "keys.npy", KEY))
    except _UNREADABLE as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> StoreCorruptError:
    return StoreCorruptError(f"{folder}: damaged index ({error}); run `provenance index`")
