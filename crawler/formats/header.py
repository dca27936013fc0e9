"""Which tensors a weight file holds: its format is told by its first bytes, never by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from provenance.crawler.formats.gguf import MAGIC as GGUF
from provenance.crawler.formats.gguf import Value, read_gguf
from provenance.crawler.formats.pytorch import read_pytorch
from provenance.crawler.formats.safetensors import MAX_HEADER_BYTES, PREFIX_BYTES, header_stop, parse_header
from provenance.crawler.formats.zip_members import MAGIC as ZIP
from provenance.schemas.enums import Stage
from provenance.schemas.errors import SkippedCheckpoint
from provenance.schemas.protocols import TensorReader
from provenance.schemas.tensors import TensorEntry

_GUESS_BYTES = 32 * 1024
_MAGIC_BYTES = 512  # a tar archive shows what it is in its first block
_OLD = "save it again with a newer torch, best as safetensors"
_UNREAD = (
    (re.compile(rb"\x80[\x02-\x05]"), f"a plain pickle, as PyTorch wrote before version 1.6; {_OLD}"),
    (re.compile(rb".{257}ustar", re.DOTALL), f"a tar archive, as PyTorch wrote before version 0.1.10; {_OLD}"),
    (re.compile(rb"\x89HDF"), "an HDF5 file, which is not read"),
    (re.compile(rb"lmgg|tjgg|fmgg|algg|ggml"), "an old GGML file, from before GGUF; convert it"),
)
"""First bytes of formats that are met under the names of weight files."""


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What one weight file says of itself: its tensors in file order, and the metadata of a GGUF file, else null."""

    entries: tuple[TensorEntry, ...]
    gguf: Mapping[str, Value] | None = None


def read_header(reader: TensorReader, path: str, repo: str) -> FileHeader:
    """The validated header of one weight file.

    A safetensors file takes one read, or two for a long header, a GGUF file a few; a PyTorch file is read as
    `formats.pytorch` says.

    Raises:
        HeaderError: the header violates the format.
        WeightsError: it holds more than a table of tensors.
        SkippedCheckpoint: the file has a format that is not read.
    """
    file_size = reader.size(path)
    # A small file has a small header, so the guess never costs much more than the header itself.
    guess = min(file_size, max(_MAGIC_BYTES, min(_GUESS_BYTES, file_size // 128)))
    (first,) = reader.read(path, [(0, guess)])
    start = bytes(first[:_MAGIC_BYTES])
    if not _is_safetensors(start):
        if start.startswith(GGUF):
            return FileHeader(*read_gguf(reader, path, repo, bytes(first)))
        if start.startswith(ZIP):
            return FileHeader(read_pytorch(reader, path, repo))
        where = f"{repo}/{path}" if repo else path
        for magic, what in _UNREAD:
            if magic.match(start):
                raise SkippedCheckpoint(f"{where} is {what}", stage=Stage.HEADER)
        if not path.endswith(".safetensors"):
            shown = f"its first bytes are {start[:8].hex(' ')}" if start else "it is empty"
            raise SkippedCheckpoint(f"{where} has no format that is read: {shown}", stage=Stage.HEADER)
    stop = header_stop(first, file_size=file_size, file=path, repo=repo)
    data = bytes(first[:stop])
    if len(data) < stop:
        (rest,) = reader.read(path, [(len(data), stop)])
        data += bytes(rest)
    return FileHeader(parse_header(data, file_size=file_size, file=path, repo=repo).entries)


def _is_safetensors(start: bytes) -> bool:
    """Whether a file begins with the length of a header and the header; a short length can look like other magic."""
    return int.from_bytes(start[:PREFIX_BYTES], "little") <= MAX_HEADER_BYTES and start[PREFIX_BYTES:][:1] == b"{"
