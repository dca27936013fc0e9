"""One generation of the index on disk: vectors, dossiers, keys and backgrounds, memory-mapped and immutable.

`index/CURRENT` names the live generation and is replaced atomically; a reader keeps the generation that it opened.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from io import BytesIO
from itertools import takewhile
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from provenance.indexer.dossier_file import DossierFile
from provenance.indexer.dossier_meta import DossierMeta
from provenance.indexer.pages import CHECKSUMS, CheckedArray, CheckedFile, read_checksums
from provenance.indexer.vectors import open_index
from provenance.schemas.errors import IndexMissingError, StoreCorruptError
from provenance.schemas.naming import repo_key, short_key
from provenance.schemas.products import PRODUCTS_SPEC

if TYPE_CHECKING:
    from provenance.indexer.store.manifest import Part
    from provenance.schemas.protocols import VectorIndex

CURRENT = "CURRENT"
GENERATION_MANIFEST = "manifest.json"
"""The contents of a generation, with size and digest of its other files. Its own digest is in the folder name."""

SKETCH = "sketch"
"""Name of the index of weight-sample sketches. That of products is `PRODUCTS_SPEC`, others are signature specs."""

DIGITS = 16
"""Of the digest of a generation's manifest, in its name."""

_CHECKED_AT_ONCE = 256 << 20
"""Vectors of up to so many bytes are checked when they are first searched. Of more, only `verify` checks all: damaged
vectors hide candidates, but no evidence is taken from them."""

KEY = np.dtype([("hash", "<u8"), ("row", "<u4")])

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, SyntaxError, TokenError)


@dataclass(frozen=True)
class Generation:
    """A live generation.

    Attributes:
        name: folder name.
        info: its manifest: `checkpoints` (count), `sequence` (of the store's manifest it covers), `forgotten`
            (repos forgotten before it was built, with the time), `renamed` (new ids of repos by the key of the
            old one), `spec`, `kind`.
        dossiers: one per checkpoint.
        keys: see `find`.
        sums: checksums of its files.
        hidden: rows of repos forgotten since; only `dossiers` and `vectors` still contain them.
    """

    name: str
    folder: Path
    info: Mapping[str, Any]
    dossiers: DossierFile
    keys: CheckedArray
    sums: Mapping[str, NDArray[np.uint32]]
    hidden: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.dossiers) - len(self.hidden)

    def __bool__(self) -> bool:
        return True  # also without any checkpoint

    def covers(self, part: Part) -> bool:
        """Whether all rows of a part of `checkpoints` were there when this generation was built."""
        return part.newest <= int(self.info["sequence"])

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

    def nearest(self, name: str, vector: NDArray[np.float32], k: int, least: float = -np.inf) -> list[int]:
        """Rows of the `k` checkpoints whose vectors are nearest, nearest first.

        Args:
            name: as for `vectors`.
            vector: `[dimension]`.
            k: at most so many.
            least: only those whose inner product is as large.

        Raises:
            IndexMissingError: as `vectors`.
        """
        scores, rows = self.vectors(name).search(vector[None, :], k + len(self.hidden))
        near = zip(scores[0].tolist(), rows[0].tolist(), strict=True)
        return [row for score, row in near if row not in self.hidden and score >= least][:k]

    def find(self, kind: str, text: str) -> list[int]:
        """Rows of the checkpoints with `text` as their `kind` of key.

        The kinds are `id`, `repo`, `content`, `fingerprint`, `sha256`; `alias` and `short`, the keys of a repo's id
        (`schemas.naming`); and `parent`, the key of a declared one.
        """
        wanted = key_hash(kind, text)
        places = range(len(self.keys))
        low = bisect_left(places, wanted, key=lambda place: self.keys[place]["hash"])
        found = takewhile(lambda key: key["hash"] == wanted, (self.keys[place] for place in places[low:]))
        return [row for key in found if (row := int(key["row"])) not in self.hidden]

    def vectors(self, name: str) -> VectorIndex:
        """The vector index of a signature spec, of the sketches (`SKETCH`), or of the products (`PRODUCTS_SPEC`).

        Raises:
            IndexMissingError: this generation has no vectors of that name.
            StoreCorruptError: they are damaged.
        """
        files = self.info["vectors"]
        if name not in files:
            known = ", ".join(sorted(set(files) - {SKETCH, PRODUCTS_SPEC}))
            raise IndexMissingError(f"the index holds no signatures {name!r}; name those that it has: {known}")
        path = self.folder / files[name]
        file = CheckedFile(path, self.sums)
        if len(file) <= _CHECKED_AT_ONCE:
            file.read(0, len(file))
        return open_index(path)

    def background(self) -> dict[str, NDArray[np.float64]]:
        """Sorted scores of unrelated pairs, by line of evidence.

        Raises:
            StoreCorruptError: they are missing or damaged.
        """
        try:
            file = CheckedFile(self.folder / "background.npz", self.sums)
            with np.load(BytesIO(file.read(0, len(file)).tobytes())) as stored:
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
    return f"generation-{sequence:08d}-{digest[:DIGITS]}"


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
        content = (folder / GENERATION_MANIFEST).read_bytes()
        if not name.endswith(hashlib.sha256(content).hexdigest()[:DIGITS]):
            raise ValueError(f"{GENERATION_MANIFEST} is not what was written")
        info = json.loads(content)
        if CHECKSUMS not in info["files"] or "renamed" not in info:
            raise IndexMissingError(f"{folder}: built by an earlier version; run `provenance index`")
        sums = read_checksums(folder, info["files"])
        keys = CheckedArray(folder / "keys.npy", sums, KEY)
        return Generation(name, folder, info, DossierFile(folder, sums), keys, sums)
    except _UNREADABLE as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> StoreCorruptError:
    return StoreCorruptError(f"{folder}: damaged index ({error}); run `provenance index`")
