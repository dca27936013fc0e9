"""Weights that `torch.save` wrote: a zip archive with a pickle, and the bytes of each storage as a member.

The pickle is read, never run (`pickled`). A tensor is a view of a storage: one whose elements follow each other in the
file becomes an ordinary entry, so that everything after the header is the same as for safetensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from provenance.crawler.formats.pickled import MAX_PICKLE_BYTES, OffListError, View, tensors_of
from provenance.crawler.formats.safetensors import DTYPE_BITS
from provenance.crawler.formats.zip_members import Member, data_starts, members_of
from provenance.schemas.enums import Stage
from provenance.schemas.errors import HeaderError, WeightsError
from provenance.schemas.protocols import TensorReader
from provenance.schemas.tensors import Order, TensorEntry

_PICKLE = "/data.pkl"
_FORMAT = "PyTorch"
_MAX_NAME, _MAX_FAULT = 80, 300  # characters in messages
_MAX_SHARING = 8
_MAX_ELEMENTS = 2**40  # a view may repeat bytes (strides of 0), so that its storage does not limit it


def read_pytorch(reader: TensorReader, path: str, repo: str) -> tuple[TensorEntry, ...]:
    """The tensors of a PyTorch zip archive: two or three reads, and one for every storage that is far from others.

    Raises:
        HeaderError: the archive or its pickle is not what `torch.save` writes.
        WeightsError: the pickle does more than list tensors; nothing of it was executed.
    """
    try:
        members = members_of(reader, path)
        prefix = _prefix(members)
        small = [member for name in ("data.pkl", "byteorder") if (member := members.get(prefix + name)) is not None]
        starts = data_starts(reader, path, small)
        contents = [
            b"".join(map(bytes, reader.read(path, [(starts[member.name], starts[member.name] + member.size)])))
            for member in small
        ]
        if contents[1:] and contents[1].strip() != b"little":
            raise ValueError("its numbers are big-endian; load and save it again on a usual machine")
        views = tensors_of(contents[0])
        if not views:
            raise ValueError("it holds no state dict: no texts that name tensors")
        storages = {view.storage: _member(members, prefix, view) for view in views.values()}
        starts = data_starts(reader, path, storages.values())
        entries = tuple(_entry(name, view, path, starts[storages[view.storage].name]) for name, view in views.items())
        if sum(entry.stop - entry.start for entry in entries) > _MAX_SHARING * reader.size(path):
            raise ValueError(f"its tensors share their bytes more than {_MAX_SHARING} times")
        return entries
    except OffListError as error:
        where = f"{repo}/{path}" if repo else path
        raise WeightsError(
            f"{where}: its pickle {error}, which no table of tensors needs; nothing of it was executed; "
            "save the state dict alone, best as safetensors",
            stage=Stage.HEADER,
        ) from error
    except ValueError as error:
        raise HeaderError(str(error)[:_MAX_FAULT], file=path, repo=repo, kind=_FORMAT) from error


def _prefix(members: Mapping[str, Member]) -> str:
    """The folder of the archive that everything lies in, with its slash."""
    pickles = [name for name in members if name.endswith(_PICKLE) and name.count("/") == 1]
    if len(pickles) != 1:
        raise ValueError("it is a zip archive without the data.pkl of PyTorch")
    if members[pickles[0]].size > MAX_PICKLE_BYTES:
        raise ValueError(f"its pickle is longer than {MAX_PICKLE_BYTES:,} bytes")
    byteorder = members.get(pickles[0].removesuffix("data.pkl") + "byteorder")
    if byteorder is not None and byteorder.size > len("little\n"):
        raise ValueError("its byte order is neither little nor big")
    return pickles[0].removesuffix("data.pkl")


def _member(members: Mapping[str, Member], prefix: str, view: View) -> Member:
    member = members.get(f"{prefix}data/{view.storage}")
    if member is None:
        raise ValueError(f"it lacks the storage {view.storage[:_MAX_NAME]!r}")
    if member.size < view.capacity * (DTYPE_BITS[view.dtype] // 8):
        raise ValueError(f"the storage {view.storage[:_MAX_NAME]!r} is shorter than its pickle says")
    return member


def _entry(name: str, view: View, path: str, start: int) -> TensorEntry:
    """A view as an entry. A view that is neither stored by rows nor by columns spans all bytes that it touches."""
    item = DTYPE_BITS[view.dtype] // 8
    last = sum((length - 1) * stride for length, stride in zip(view.shape, view.stride, strict=True))
    empty = 0 in view.shape
    if not empty and view.offset + last >= view.capacity:
        raise ValueError(f"tensor {name[:_MAX_NAME]!r} reaches past the end of its storage")
    if math.prod(view.shape) > _MAX_ELEMENTS:
        raise ValueError(f"tensor {name[:_MAX_NAME]!r} repeats its bytes more often than any tensor does")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("the name of a tensor holds a lone surrogate, which is no text") from error
    first = start + (0 if empty else view.offset * item)
    stop = first + (0 if empty else (last + 1) * item)
    return TensorEntry(name, view.dtype, view.shape, path, first, stop, order=_order(view))


def _order(view: View) -> Order:
    """How the elements of a view follow each other; the strides of lengths of 1 mean nothing."""
    rows, step = [], 1
    for length in reversed(view.shape):
        rows.append(step)
        step *= length
    steps = zip(view.shape, view.stride, reversed(rows), strict=True)
    if 0 in view.shape or all(stride == row for length, stride, row in steps if length > 1):
        return Order.ROWS
    if len(view.shape) == 2 and view.stride == (1, view.shape[0]):
        return Order.COLUMNS
    return Order.APART
