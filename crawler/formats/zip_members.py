"""The members of a zip archive, from ranges of it: its central directory first, then the local header of each.

`zipfile` reads the directory (zip64 too), from the end of the file only. Nothing is extracted: a member that is stored
without compression is a range of bytes of the archive.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from provenance.schemas.protocols import TensorReader

MAGIC = b"PK\x03\x04"

MAX_DIRECTORY_BYTES = 8 * 1024 * 1024
"""Maximum length of a central directory: 100,000 members of PyTorch's."""

_TAIL_BYTES = 64 * 1024
_GAP_BYTES = 32 * 1024  # of local headers that are read as one range
_LOCAL = struct.Struct("<4s5H3I2H")


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive: the offset of its local header, its bytes, and the offset at which they must end."""

    name: str
    header: int
    size: int
    limit: int


def members_of(reader: TensorReader, path: str) -> dict[str, Member]:
    """The members of an archive by name.

    Raises:
        ValueError: it is no archive of stored members that lie one after the other.
        CheckpointError: as the reader.
    """
    tail = _Tail(reader, path)
    try:
        with zipfile.ZipFile(tail) as archive:
            listed, stop = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, struct.error, OverflowError, OSError) as error:
        raise ValueError(f"its list of members cannot be read: {error}") from error
    listed = sorted(listed, key=lambda info: info.header_offset)
    if not listed or listed[0].header_offset != 0:
        raise ValueError("its first member does not lie at the start of the file")
    ends = [later.header_offset for later in listed[1:]] + [stop]
    members: dict[str, Member] = {}
    for info, end in zip(listed, ends, strict=True):
        name = info.filename
        if name in members:
            raise ValueError(f"it has two members of the name {name[:60]!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(f"its member {name[:60]!r} is compressed, and only stored ones can be read in part")
        if info.flag_bits & 1:
            raise ValueError(f"its member {name[:60]!r} is encrypted")
        if info.header_offset + _LOCAL.size + info.file_size > end:
            raise ValueError(f"its member {name[:60]!r} overlaps what follows it")
        members[name] = Member(name, info.header_offset, info.file_size, end)
    return members


def data_starts(reader: TensorReader, path: str, members: Iterable[Member]) -> dict[str, int]:
    """Offset in the file of the first byte of each member, by name, from the local headers.

    The central directory does not give it: PyTorch pads the local header, so that the bytes lie at a multiple of 64.

    Raises:
        ValueError: a local header does not fit the directory.
        CheckpointError: as the reader.
    """
    groups = list(_grouped(sorted(members, key=lambda member: member.header)))
    ranges = [(group[0].header, group[-1].header + _LOCAL.size) for group in groups]
    starts: dict[str, int] = {}
    for group, data in zip(groups, reader.read(path, ranges), strict=True):
        for member in group:
            fields = _LOCAL.unpack_from(data, member.header - group[0].header)
            start = member.header + _LOCAL.size + fields[9] + fields[10]
            if fields[0] != MAGIC or start + member.size > member.limit:
                raise ValueError(f"the header of its member {member.name[:60]!r} does not fit its list of members")
            starts[member.name] = start
    return starts


def _grouped(members: list[Member]) -> Iterator[list[Member]]:
    """Members in order of their offsets, whose headers are close enough to be read together."""
    group = members[:1]
    for before, member in pairwise(members):
        if member.header - before.header > _GAP_BYTES:
            yield group
            group = []
        group.append(member)
    if group:
        yield group


class _Tail:
    """The end of a file as the file object that `zipfile` needs; the rest reads as a refusal."""

    def __init__(self, reader: TensorReader, path: str) -> None:
        self._reader, self._path, self._size = reader, path, reader.size(path)
        self._first, self._data, self._position = self._size, b"", 0

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("before the start of the file")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, n: int = -1, /) -> bytes:
        stop = self._size if n < 0 else min(self._size, self._position + n)
        start, self._position = self._position, max(self._position, stop)
        if start >= stop:
            return b""
        if self._size - start > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"it is longer than {MAX_DIRECTORY_BYTES:,} bytes")
        if start < self._first:
            first = max(0, min(start, self._size - _TAIL_BYTES))
            (more,) = self._reader.read(self._path, [(first, self._first)])
            self._first, self._data = first, bytes(more) + self._data
        return self._data[start - self._first : stop - self._first]
