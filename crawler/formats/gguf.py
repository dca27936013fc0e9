"""Read and validate the header of a GGUF file by ranges, safe on hostile input.

A file is the magic `GGUF`, a version, the numbers of tensors and of metadata pairs, the pairs, the table of tensors,
then the data, aligned (docs/gguf.md in https://github.com/ggml-org/ggml). Versions 2 and 3 are read, little-endian.
The metadata holds the tokenizer, several megabytes in arrays of short strings: their lengths are walked over, arrays of
numbers are jumped over, and neither is kept.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import replace

from provenance.crawler.formats.dtypes import BLOCKS, is_numeric, stored_bytes, unit
from provenance.schemas.errors import HeaderError
from provenance.schemas.protocols import TensorReader
from provenance.schemas.tensors import TensorEntry

MAGIC = b"GGUF"
MAX_HEADER_BYTES = 64 * 1024 * 1024
MAX_TENSORS = 1 << 18
MAX_PAIRS = 1 << 16
MAX_STRINGS = 1 << 22
"""In one array; the largest tokenizers have half a million merges."""

TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
"""Number of a tensor type -> dtype. Types that are not read are missing: the dtype of one is `GGML_<number>`."""

Value = int | float | bool | str | tuple[int | float | bool | str, ...]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DEPTH = 4  # of arrays in arrays, which no writer nests
_MAX_ARRAYS = 4096  # in an array
_MAX_DIMENSIONS = 4
_MAX_NAME = 1024
_MAX_LENGTH = 2**63 - 1
_MAX_ALIGNMENT = 65_536
_KEPT_STRING = 4096  # bytes
_KEPT_NUMBERS, _KEPT_STRINGS = 4096, 64  # elements of an array
_TOKENIZER = "tokenizer."
_PAIR_BYTES, _TENSOR_BYTES, _STRING_BYTES, _ARRAY_BYTES = 13, 24, 8, 12  # of the shortest ones
_READ, _MOST_READ = 64 * 1024, 4 * 1024 * 1024


def read_gguf(
    reader: TensorReader, path: str, repo: str, first: bytes
) -> tuple[tuple[TensorEntry, ...], dict[str, Value]]:
    """Read and validate the header of a GGUF file.

    Args:
        reader: reads the file, in ranges that grow with what the header announces.
        path: path of the file inside the repo; becomes `TensorEntry.file`.
        repo: repo id or folder, for messages.
        first: the first bytes of the file, read already.

    Returns:
        the tensors in the order of their data, with shapes outermost dimension first, as in safetensors (one of a type
        that is not read stops where the next one starts); and the metadata, but for the tokenizer and long arrays.

    Raises:
        HeaderError: the header violates the format, or is of a version or byte order that is not read.
    """
    try:
        return _header(_Cursor(reader, path, first), path)
    except ValueError as error:
        raise HeaderError(str(error), file=path, repo=repo, kind="GGUF") from error


class _Cursor:
    """A position in the file, and the last bytes that were read."""

    def __init__(self, reader: TensorReader, path: str, first: bytes) -> None:
        self._reader, self._path = reader, path
        self.size = reader.size(path)
        self._limit = min(self.size, MAX_HEADER_BYTES)
        self._data, self._start, self.position = first, 0, 0
        self._n_reads = 0

    def take(self, n: int, ahead: int = 0) -> bytes:
        """The next `n` bytes; `ahead` guesses how many the header has from here."""
        at = self.position - self._start
        if at + n > len(self._data):
            self._read(n, ahead)
            at = 0
        self.position += n
        return self._data[at : at + n]

    def number(self, code: str, ahead: int = 0) -> int:
        value: int = struct.unpack("<" + code, self.take(struct.calcsize(code), ahead))[0]
        return value

    def skip(self, n: int) -> None:
        self._within(n)
        self.position += n

    def skip_strings(self, count: int) -> None:
        """Step over strings: most of the bytes of a header, so without a call for each."""
        while count:
            if self.position + 8 - self._start > len(self._data):
                self._read(8, 16 * count)
            data, at = self._data, self.position - self._start
            last = len(data) - 8
            while count and at <= last:
                at += 8 + int.from_bytes(data[at : at + 8], "little")
                count -= 1
            self.skip(self._start + at - self.position)

    def fits(self, count: int, size: int, what: str, most: int | None = None) -> int:
        """A count of things of at least `size` bytes, if the rest of the file can hold them, and there are few enough.

        Raises:
            ValueError: it is impossible or absurd.
        """
        if count * size > self.size - self.position:
            raise ValueError(f"it announces {count:,} {what}, and {self.size - self.position:,} bytes are left")
        if most is not None and count > most:
            raise ValueError(f"it announces {count:,} {what}; no model has so many")
        return count

    def _within(self, n: int) -> None:
        if self.position + n > self.size:
            raise ValueError(f"its header goes on to byte {self.position + n:,} but the file has {self.size:,} bytes")
        if self.position + n > self._limit:
            raise ValueError(f"its header has more than {MAX_HEADER_BYTES:,} bytes, which is none of a model")

    def _read(self, n: int, ahead: int) -> None:
        self._within(n)
        # Reads grow, so that a header of any size takes few of them.
        least = min(_READ << self._n_reads // 4, _MOST_READ)
        stop = min(self._limit, self.position + max(n, least, min(ahead, _MOST_READ)))
        (data,) = self._reader.read(self._path, [(self.position, stop)])
        self._data, self._start, self._n_reads = bytes(data), self.position, self._n_reads + 1


def _header(cursor: _Cursor, path: str) -> tuple[tuple[TensorEntry, ...], dict[str, Value]]:
    cursor.skip(len(MAGIC))
    version = cursor.number("I")
    if version not in (2, 3):
        if version in (2 << 24, 3 << 24):
            raise ValueError("it is big-endian, which is not read; convert it with gguf-convert-endian")
        raise ValueError(f"it is GGUF of version {version}; versions 2 and 3 are read. Convert it again")
    n_tensors = cursor.fits(cursor.number("Q"), _TENSOR_BYTES, "tensors", MAX_TENSORS)
    n_pairs = cursor.fits(cursor.number("Q"), _PAIR_BYTES, "metadata pairs", MAX_PAIRS)
    metadata: dict[str, Value] = {}
    seen = set()
    for _ in range(n_pairs):
        key = _text(cursor, "a metadata key")
        if key in seen:
            raise ValueError(f"it gives the metadata {key!r} twice")
        seen.add(key)
        value = _value(cursor, cursor.number("I"), not key.startswith(_TOKENIZER))
        if value is not None:
            metadata[key] = value
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise ValueError(f"its alignment is {str(alignment)[:20]}; it must be a power of two")
    entries = [_entry(cursor, path, 64 * (n_tensors - i)) for i in range(n_tensors)]
    if len({entry.name for entry in entries}) < n_tensors:
        raise ValueError("it has two tensors of one name")
    start = -(-cursor.position // alignment) * alignment
    return tuple(_placed(entries, start, alignment, cursor.size)), metadata


def _text(cursor: _Cursor, what: str, ahead: int = 0) -> str:
    length = cursor.number("Q", ahead)
    if length > _MAX_NAME:
        raise ValueError(f"{what} has {length:,} bytes; {_MAX_NAME:,} are enough for any")
    try:
        return cursor.take(length).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is not UTF-8") from error


def _value(cursor: _Cursor, kind: int, keep: bool, depth: int = 0) -> Value | None:
    """One metadata value; null if it is not to be kept."""
    if kind == _STRING:
        length = cursor.number("Q")
        if keep and length <= _KEPT_STRING:
            return cursor.take(length).decode("utf-8", "replace")
        cursor.skip(length)
        return None
    if kind == _ARRAY:
        return _array(cursor, keep, depth)
    code, size = _code(kind)
    value: int | float | bool = struct.unpack("<" + code, cursor.take(size))[0]
    return value if keep else None


def _array(cursor: _Cursor, keep: bool, depth: int) -> Value | None:
    if depth == _MAX_DEPTH:
        raise ValueError(f"its metadata has arrays nested more than {_MAX_DEPTH} deep")
    kind, count = cursor.number("I"), cursor.number("Q")
    if kind == _STRING:
        cursor.fits(count, _STRING_BYTES, "strings", MAX_STRINGS)
        if not keep or count > _KEPT_STRINGS:
            cursor.skip_strings(count)
            return None
        texts = [_value(cursor, kind, keep) for _ in range(count)]
        return tuple(text for text in texts if isinstance(text, str))
    if kind == _ARRAY:
        for _ in range(cursor.fits(count, _ARRAY_BYTES, "arrays", _MAX_ARRAYS)):
            _array(cursor, False, depth + 1)
        return None
    code, size = _code(kind)
    cursor.fits(count, size, "numbers")
    if keep and count <= _KEPT_NUMBERS:
        return struct.unpack(f"<{count}{code}", cursor.take(count * size))
    cursor.skip(count * size)
    return None


def _code(kind: int) -> tuple[str, int]:
    """Code in `struct` and bytes of a number."""
    if kind not in _SCALARS:
        raise ValueError(f"its metadata has a value of the unknown type {kind}")
    return _SCALARS[kind], struct.calcsize("<" + _SCALARS[kind])


def _entry(cursor: _Cursor, path: str, ahead: int) -> TensorEntry:
    """One row of the table of tensors, with the offset from the start of the data."""
    name = _text(cursor, "the name of a tensor", ahead)
    n_dimensions = cursor.number("I")
    if n_dimensions > _MAX_DIMENSIONS:
        raise ValueError(f"tensor {name[:60]!r} has {n_dimensions:,} dimensions; the format allows {_MAX_DIMENSIONS}")
    lengths = struct.unpack(f"<{n_dimensions}Q", cursor.take(8 * n_dimensions))
    number, offset = struct.unpack("<IQ", cursor.take(12))
    dtype = TYPES.get(number, f"GGML_{number}")
    if math.prod(max(length, 1) for length in lengths) > _MAX_LENGTH:
        raise ValueError(f"the size of tensor {name[:60]!r} with the dimensions {list(lengths)} overflows")
    if dtype in BLOCKS and (not lengths or lengths[0] % unit(dtype)[0]):
        raise ValueError(f"tensor {name[:60]!r} has rows of {lengths[:1]}, which are no whole blocks of {dtype}")
    size = stored_bytes(dtype, math.prod(lengths)) if is_numeric(dtype) else 0
    return TensorEntry(name, dtype, lengths[::-1], path, offset, offset + size)


def _placed(entries: list[TensorEntry], data: int, alignment: int, file_size: int) -> Iterator[TensorEntry]:
    """The tensors by increasing offset, with offsets from the start of the file.

    Raises:
        ValueError: they overlap, or lie outside of the data.
    """
    ordered = sorted(entries, key=lambda entry: (entry.start, entry.stop))
    for i, entry in enumerate(ordered):
        following = ordered[i + 1].start if i + 1 < len(ordered) else max(file_size - data, 0)
        stop = entry.stop if is_numeric(entry.dtype) else max(following, entry.start)
        if entry.start % alignment:
            raise ValueError(
                f"tensor {entry.name[:60]!r} starts at offset {entry.start:,}, not a multiple of {alignment}"
            )
        if data + stop > file_size:
            raise ValueError(
                f"tensor {entry.name[:60]!r} stops at byte {data + stop:,} but the file has {file_size:,} bytes"
            )
        if stop > following:
            raise ValueError(f"tensor {entry.name[:60]!r} overlaps the next one, which starts at offset {following:,}")
        yield replace(entry, start=data + entry.start, stop=data + stop)
