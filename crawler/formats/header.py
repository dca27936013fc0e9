"""Which tensors a weight file holds, whatever its format."""

from __future__ import annotations

from provenance.crawler.formats.safetensors import PREFIX_BYTES, header_stop, parse_header
from provenance.schemas.protocols import TensorReader
from provenance.schemas.tensors import TensorEntry

_GUESS_BYTES = 32 * 1024


def read_header(reader: TensorReader, path: str, repo: str) -> tuple[TensorEntry, ...]:
    """The validated header of one safetensors file: one read, or two for a long header.

    Raises:
        HeaderError: the header violates the format.
    """
    file_size = reader.size(path)
    # A small file has a small header, so the guess never costs much more than the header itself.
    guess = min(file_size, max(PREFIX_BYTES, min(_GUESS_BYTES, file_size // 128)))
    (first,) = reader.read(path, [(0, guess)])
    stop = header_stop(first, file_size=file_size, file=path, repo=repo)
    data = bytes(first[:stop])
    if len(data) < stop:
        (rest,) = reader.read(path, [(len(data), stop)])
        data += bytes(rest)
    return parse_header(data, file_size=file_size, file=path, repo=repo).entries
