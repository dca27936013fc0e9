"""Parse and validate a safetensors header, safe on hostile input. Pure: no file is opened here.

A file is an 8-byte little-endian length `n`, `n` bytes of JSON, then the data of the tensors. Everything that the
reference implementation (the `safetensors` crate) refuses is refused. Four things that it accepts are refused too,
because the format's description forbids them: a header that does not start with `{`, a duplicate key, a tensor written
as an array instead of an object, and a dtype written as an object. Unknown fields of a tensor are ignored, as in the
reference.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from provenance.schemas.errors import HeaderError
from provenance.schemas.tensors import TensorEntry

PREFIX_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 500_000
"""Of one file. The largest checkpoints known have 140,000 tensors in all; the objects of a million take gigabytes."""

DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one element of every dtype that the format knows."""

_METADATA = "__metadata__"
_LFS_POINTER = b"version https://git-lfs"
_PREFIX = 64
"""Bytes from which another kind of file is recognised."""
_MAX_U64 = 2**64 - 1
_MAX_NESTING = 127
"""Maximum nesting depth of the reference's JSON reader."""


@dataclass(frozen=True, slots=True)
class Header:
    """The content of a header: the tensors in the order of their data, and the free-form metadata."""

    entries: tuple[TensorEntry, ...]
    metadata: dict[str, str]


def header_stop(prefix: bytes | memoryview, *, file_size: int, file: str, repo: str = "") -> int:
    """Offset in the file at which the header stops and the data of the tensors starts.

    Args:
        prefix: the first bytes of the file, 8 or more.
        file_size: size of the whole file in bytes.
        file: path of the file inside the repo, for messages.
        repo: repo id or folder, for messages.

    Raises:
        HeaderError: `prefix` is too short, is the start of a git-lfs pointer, or announces an impossible header.
    """
    try:
        return _header_stop(bytes(prefix[:_PREFIX]), file_size)
    except ValueError as error:
        raise HeaderError(str(error), file=file, repo=repo) from error


def parse_header(data: bytes | memoryview, *, file_size: int, file: str, repo: str = "") -> Header:
    """Read and validate the header of a safetensors file.

    Args:
        data: the first bytes of the file, up to `header_stop` or further.
        file_size: size of the whole file in bytes.
        file: path of the file inside the repo; becomes `TensorEntry.file`.
        repo: repo id or folder, for messages.

    Returns:
        the tensors by increasing offset, with offsets from the start of the file.

    Raises:
        HeaderError: the header violates the format, or `data` ends inside it.
    """
    try:
        stop = _header_stop(bytes(data[:_PREFIX]), file_size)
        if len(data) < stop:
            raise ValueError(f"only {len(data):,} bytes could be read of a header that stops at byte {stop:,}")
        raw = bytes(data[PREFIX_BYTES:stop])
        if (objects := raw.count(b"{")) > MAX_TENSORS:  # before they are made
            raise ValueError(f"its header describes about {objects:,} tensors; at most {MAX_TENSORS:,} are read")
        document = _document(raw)
        metadata = _metadata(document.pop(_METADATA, None))
        entries = [_entry(name, fields, file) for name, fields in document.items()]
        return Header(tuple(_placed(entries, stop, file_size)), metadata)
    except ValueError as error:
        raise HeaderError(str(error), file=file, repo=repo) from error


def _header_stop(prefix: bytes, file_size: int) -> int:
    if file_size == 0:
        raise ValueError("the file is empty; its download was cut off, so fetch it again")
    fits = len(prefix) >= PREFIX_BYTES and PREFIX_BYTES + int.from_bytes(prefix[:PREFIX_BYTES], "little") <= file_size
    if not fits and (kind := _other_kind(prefix)) is not None:
        raise ValueError(kind)
    if len(prefix) < PREFIX_BYTES:
        raise ValueError(
            f"the file has {file_size:,} bytes, of which {len(prefix)} could be read; "
            f"the length of the header alone takes {PREFIX_BYTES}"
        )
    if _LFS_POINTER.startswith(prefix[: len(_LFS_POINTER)]):
        raise ValueError("it is a git-lfs pointer, not the file that it points to; fetch the file with git lfs pull")
    length = int.from_bytes(prefix[:PREFIX_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"it announces a header of {length:,} bytes; the format allows {MAX_HEADER_BYTES:,}")
    if PREFIX_BYTES + length > file_size:
        raise ValueError(f"its header stops at byte {PREFIX_BYTES + length:,} but the file has {file_size:,} bytes")
    return PREFIX_BYTES + length


def _other_kind(prefix: bytes) -> str | None:
    """What a file is by its first bytes, and what to do, where it is another well-known kind of file."""
    text = prefix.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!docty", b"<html", b"<?xml")):
        return "it is a web page, which a failed download left in its place; fetch the file again"
    if prefix.startswith(b"\x00\x05\x16\x07"):
        return "it is a side file of macOS (AppleDouble) without weights; remove it"
    if prefix.startswith(b"\x1f\x8b"):
        return "it is compressed with gzip; unpack it"
    if text[:1] in (b"{", b"[") and b"\x00" not in prefix:
        return "it is JSON text, perhaps the answer of a server or an index, not weights; fetch the file again"
    return None


def _document(raw: bytes) -> dict[str, object]:
    """The header's JSON object, parsed as strictly as by the reference."""
    if raw[:1] != b"{":
        raise ValueError(f"the header must start with '{{', not with {raw[:8]!r}")
    try:
        document: dict[str, object] = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_refuse_constant,
        )
        if b"\\u" in raw:
            # An escape can encode a lone surrogate, which is no valid text and cannot be written to the store.
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise ValueError(f"the header is not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"the header is not UTF-8: {error.reason} at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise ValueError("the header holds a lone surrogate, which is no text") from error
    except RecursionError as error:
        raise ValueError("the header is nested too deeply") from error
    return document


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the header gives {_quoted(twice)} twice")
    return document


def _integer(text: str) -> int | float:
    """As in the reference, anything but an unsigned 64-bit integer (also `-0`) is read as a floating-point number."""
    if text[0] != "-" and len(text) <= len(str(_MAX_U64)) and (number := int(text)) <= _MAX_U64:
        return number
    return _number(text)


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} in the header is out of range")
    return number


def _refuse_constant(text: str) -> None:
    raise ValueError(f"the header is not JSON: {text} is no number")


def _metadata(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"{_METADATA} must map strings to strings")
    return value


def _entry(name: str, fields: object, file: str) -> TensorEntry:
    """One tensor, with offsets from the end of the header."""
    tensor = f"tensor {_quoted(name)}"
    if not isinstance(fields, dict):
        raise ValueError(f"{tensor} must be an object, not {_quoted(fields)}")
    for key in ("dtype", "shape", "data_offsets"):
        if key not in fields:
            raise ValueError(f"{tensor} has no {key}")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ValueError(f"{tensor} has the unknown dtype {_quoted(dtype)}")
    if not _are_sizes(shape):
        raise ValueError(f"{tensor} has the shape {_quoted(shape)}; it must be a list of unsigned 64-bit integers")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{tensor} has the data_offsets {_quoted(offsets)}; they must be two unsigned 64-bit integers")
    if len(fields) > 3 and 1 + _nesting(fields) > _MAX_NESTING:
        raise ValueError(f"{tensor} is nested too deeply")
    start, stop = offsets
    if stop < start:
        raise ValueError(f"{tensor} stops at offset {stop}, before its start {start}")
    size = _size(tensor, dtype, shape)
    if size != stop - start:
        raise ValueError(
            f"{tensor} has {stop - start:,} bytes of data, but dtype {dtype} and shape {_quoted(shape)} make {size:,}"
        )
    return TensorEntry(name, dtype, tuple(shape), file, start, stop)


def _are_sizes(value: object) -> bool:
    # `type(...) is int` excludes bool, a subclass of int. `_integer` returns only unsigned 64-bit integers.
    return isinstance(value, list) and all(type(item) is int for item in value)


def _size(tensor: str, dtype: str, shape: list[int]) -> int:
    """Bytes of a tensor; overflow is checked after each step, in the order of the reference."""
    bits = 1
    for length in (*shape, DTYPE_BITS[dtype]):
        bits *= length
        if bits > _MAX_U64:
            raise ValueError(f"the size of {tensor} with dtype {dtype} and shape {_quoted(shape)} overflows 64 bits")
    if bits % 8:
        raise ValueError(f"{tensor} with dtype {dtype} and shape {_quoted(shape)} does not end on a whole byte")
    return bits // 8


def _nesting(value: object) -> int:
    """Nesting depth of lists and objects in a JSON value; 0 for a scalar. Iterative, as recursion could overflow."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _placed(entries: list[TensorEntry], data_start: int, file_size: int) -> Iterator[TensorEntry]:
    """The tensors by increasing offset, with offsets from the start of the file.

    Raises:
        ValueError: they do not cover the data without gap or overlap.
    """
    position = 0
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.stop)):
        if entry.start != position:
            fault = "leaves a hole" if entry.start > position else "overlaps"
            raise ValueError(
                f"tensor {_quoted(entry.name)} starts at offset {entry.start:,} and {fault}: "
                f"the data before it stops at {position:,}"
            )
        position = entry.stop
        yield TensorEntry(
            entry.name, entry.dtype, entry.shape, entry.file, data_start + entry.start, data_start + entry.stop
        )
    if data_start + position != file_size:
        what = (
            "cut short; fetch it again"
            if data_start + position > file_size
            else "followed by other bytes; save it again"
        )
        raise ValueError(
            f"its tensors stop at byte {data_start + position:,} but the file has {file_size:,} bytes: it is {what}"
        )


def _quoted(value: object) -> str:
    """`repr`, which escapes control characters, limited in length and depth for messages."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    return short.repr(value)
