"""Which tensors a weight file holds, whatever its format, which its first bytes tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from provenance.crawler.formats.gguf import MAGIC, Value, read_gguf
from provenance.crawler.formats.safetensors import PREFIX_BYTES, header_stop, parse_header
from provenance.schemas.errors import HeaderError
from provenance.schemas.protocols import TensorReader
from provenance.schemas.tensors import TensorEntry

_GUESS_BYTES = 32 * 1024
_BEFORE_GGUF = (b"lmgg", b"fmgg", b"tjgg", b"algg", b"ggml")


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What one weight file says of itself: its tensors in file order, and the metadata of a GGUF file, else null."""

    entries: tuple[TensorEntry, ...]
    gguf: Mapping[str, Value] | None = None


def read_header(reader: TensorReader, path: str, repo: str) -> FileHeader:
    """The validated header of one weight file: safetensors in one read, or two for a long header; GGUF in a few.

    Raises:
        HeaderError: the header violates its format, or the format is not read.
    """
    file_size = reader.size(path)
    # A small file has a small header, so the guess never costs much more than the header itself.
    guess = min(file_size, max(PREFIX_BYTES, min(_GUESS_BYTES, file_size // 128)))
    (first,) = reader.read(path, [(0, guess)])
    if first[: len(MAGIC)] == MAGIC:
        return FileHeader(*read_gguf(reader, path, repo, bytes(first)))
    if bytes(first[:4]) in _BEFORE_GGUF:
        raise HeaderError("it is from before GGUF; convert it", file=path, repo=repo, kind="GGUF")
    stop = header_stop(first, file_size=file_size, file=path, repo=repo)
    data = bytes(first[:stop])
    if len(data) < stop:
        (rest,) = reader.read(path, [(len(data), stop)])
        data += bytes(rest)
    return FileHeader(parse_header(data, file_size=file_size, file=path, repo=repo).entries)
