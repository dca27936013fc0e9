"""The files of a repo as git and its large file storage (LFS) know them: bytes, sizes and digests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

LFS_SUFFIXES = frozenset((".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack", ".npz"))
LFS_THRESHOLD = 10 * 1024 * 1024
"""Files of at least this many bytes are in large file storage, with any name."""


class HubFile(Protocol):
    """Bytes with random access."""

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    @property
    def sha256(self) -> str:
        """Digest of the content in hex."""
        ...

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`, for `0 <= start <= stop <= size`."""
        ...


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """A file held in memory."""

    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def read(self, start: int, stop: int) -> bytes:
        return self.content[start:stop]


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A file on disk. `size` is its size when it was found; its digest is computed once."""

    path: Path
    size: int

    @property
    def sha256(self) -> str:
        return _sha256_of(self.path, self.path.stat().st_mtime_ns)

    def read(self, start: int, stop: int) -> bytes:
        with self.path.open("rb") as stream:
            stream.seek(start)
            return stream.read(stop - start)


@cache
def _sha256_of(path: Path, modified: int) -> str:
    """The digest of a file; `modified` is part of the cache's key, so that a rewritten file is read again."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_lfs(path: str, file: HubFile) -> bool:
    """Whether the hub keeps a file in large file storage, and so serves it from the CDN."""
    return Path(path).suffix in LFS_SUFFIXES or file.size >= LFS_THRESHOLD


def pointer(file: HubFile) -> bytes:
    """The pointer that git stores in place of a file in large file storage."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.sha256}\nsize {file.size}\n".encode()


def blob_id(path: str, file: HubFile) -> str:
    """The git object id of a file, or of its pointer."""
    content = pointer(file) if is_lfs(path, file) else file.read(0, file.size)
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def xet_hash(file: HubFile) -> str:
    """A stand-in for the hub's own storage hash: equal for equal contents, and not the sha256."""
    return hashlib.sha256(f"xet {file.sha256}".encode()).hexdigest()
