"""The stored tensors that may make one packed matrix, and what the config says of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from provenance.crawler.formats.dtypes import is_float
from provenance.crawler.formats.packing.packed import require
from provenance.schemas.protocols import TensorReader
from provenance.schemas.tensors import TensorEntry

_MAX_NUMBER = 1 << 20


@dataclass(frozen=True, slots=True)
class Facts:
    """A config's `quantization_config`, whose values are untrusted: one of an unexpected type counts as absent."""

    values: Mapping[str, object]

    def number(self, *keys: str) -> int | None:
        """The first of these that is a small whole number."""
        found = (self.values.get(key) for key in keys)
        return next((v for v in found if type(v) is int and -1 <= v <= _MAX_NUMBER), None)

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        return value if isinstance(value, str) else None

    def section(self, key: str) -> Facts:
        """What is said of one matrix or layer alone."""
        value = self.values.get(key)
        return Facts(value if isinstance(value, Mapping) else {})

    def pair(self, key: str) -> tuple[int, int] | None:
        """Two small positive numbers, such as the size of a block."""
        value = self.values.get(key)
        if isinstance(value, list) and len(value) == 2 and all(type(v) is int and 0 < v <= _MAX_NUMBER for v in value):
            return value[0], value[1]
        return None


@dataclass(slots=True)
class Peeker:
    """Reads the beginning of small tensors, one for all that differ only in the numbers in their names.

    So the layers of a model cost one read each kind of matrix and not each matrix. What is concluded from it is
    checked when a matrix itself is read.
    """

    reader: TensorReader
    _seen: dict[tuple[str, str, tuple[int, ...], object], bytes] = field(default_factory=dict)

    def __call__(self, entry: TensorEntry, n_bytes: int, kind: object) -> bytes:
        key = (re.sub(r"[0-9]+", "*", entry.name), entry.dtype, entry.shape, kind)
        if key not in self._seen:
            stop = min(entry.stop, entry.start + n_bytes)
            (data,) = self.reader.read(entry.file, [(entry.start, stop)])
            self._seen[key] = bytes(data)
        return self._seen[key]


@dataclass(frozen=True, slots=True)
class Group:
    """A tensor of codes and the tensors whose names begin like its own.

    Attributes:
        codes: the tensor that holds the codes.
        parts: what the other tensors are to the codes (`scales`, `zeros`, ...) -> tensor.
        facts: what the config says.
    """

    codes: TensorEntry
    parts: Mapping[str, TensorEntry]
    facts: Facts
    peeker: Callable[[TensorEntry, int, object], bytes]

    def __getitem__(self, part: str) -> TensorEntry:
        return self.parts[part]

    def get(self, part: str) -> TensorEntry | None:
        return self.parts.get(part)

    def number(self, *keys: str) -> int | None:
        return self.facts.number(*keys)

    def text(self, key: str) -> str | None:
        return self.facts.text(key)

    def peek(self, entry: TensorEntry, n_bytes: int) -> bytes:
        """The first bytes of a small tensor of this group, or of the same tensor of another layer."""
        return self.peeker(entry, n_bytes, self.codes.shape)

    def check_scales(self, *scales: TensorEntry) -> None:
        """Refuse scales that are no floats.

        Raises:
            Unreadable: they are not.
        """
        for scale in scales:
            require(is_float(scale.dtype), f"scales of {scale.dtype}")
