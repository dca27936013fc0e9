"""Conversions of typed results: to JSON, from a row of a table, and from rows to data frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from datetime import datetime
from enum import StrEnum
from html import escape
from types import UnionType
from typing import TYPE_CHECKING, Any, Self, TypeVar, get_args, get_origin, get_type_hints

from provenance.schemas.errors import ProvenanceError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

SHOWN_ROWS = 20
"""Rows that a notebook shows."""

FORMAT = 1
"""Version of the JSON objects that have a key `format`."""


@dataclass(frozen=True, slots=True)
class Record:
    """Base of the frozen dataclasses that the public API returns."""

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values, with the keys of `docs/json.md` in their order.

        Enumerations are plain strings, times ISO 8601, and numbers that JSON cannot represent (NaN, infinities) null.
        """
        return {_key(field): _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_attributes(cls, source: object) -> Self:
        """The record whose fields are the attributes of the same names of `source`."""
        return cls(**{field.name: getattr(source, field.name) for field in fields(cls)})

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The record of a row of a table: strings become enumerations, lists tuples.

        Raises:
            KeyError: a column is missing.
            ValueError: a string is not a member of its enumeration, and the field allows no other text.
        """
        return cls(**{name: convert(row[name]) for name, convert in _readers(cls)})


@dataclass(frozen=True, slots=True)
class Versioned(Record):
    """A record whose JSON object has a key `format`."""

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **Record.to_dict(self)}


R = TypeVar("R", bound=Record)


class Rows(tuple[R, ...]):
    """Records of one kind, in order: a tuple that can become a table.

    The columns of a table are the keys of `Record.to_dict`; those with objects or further rows are left out.

    Attributes:
        kind: the class of the records.
    """

    kind: type[R]

    def __new__(cls, kind: type[R], rows: Iterable[R] = ()) -> Self:
        self = super().__new__(cls, rows)
        self.kind = kind
        return self

    def __getnewargs__(self) -> tuple[type[R], tuple[R, ...]]:
        return self.kind, tuple(self)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Every record as JSON values."""
        return [row.to_dict() for row in self]

    def to_arrow(self) -> pa.Table:
        """An Arrow table."""
        import pyarrow as pa

        hints = get_type_hints(self.kind)
        columns = [(field, kind) for field in fields(self.kind) if (kind := _arrow_type(hints[field.name])) is not None]
        return pa.table(
            {_key(field): pa.array([getattr(row, field.name) for row in self], kind) for field, kind in columns}
        )

    def to_polars(self) -> pl.DataFrame:
        """A polars frame.

        Raises:
            ProvenanceError: polars is not installed.
        """
        return to_polars(self.to_arrow())

    def to_pandas(self) -> Any:
        """A pandas `DataFrame`.

        Raises:
            ProvenanceError: pandas is not installed.
        """
        return to_pandas(self.to_arrow())

    def _repr_html_(self) -> str:
        """The first rows as a table, for notebooks."""
        table = self.to_arrow()
        return html_table(table.column_names, table.slice(0, SHOWN_ROWS).to_pylist(), len(self))


def to_polars(table: pa.Table) -> pl.DataFrame:
    """An Arrow table as a polars frame.

    Raises:
        ProvenanceError: polars is not installed.
    """
    try:
        import polars as pl
    except ImportError:
        raise ProvenanceError("this needs polars; install it with `pip install polars`") from None
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def to_pandas(table: pa.Table) -> Any:
    """An Arrow table as a pandas `DataFrame`.

    Raises:
        ProvenanceError: pandas is not installed.
    """
    try:
        return table.to_pandas()
    except ImportError:
        raise ProvenanceError("this needs pandas; install it with `pip install pandas`") from None


def html_table(names: Sequence[str], rows: Sequence[Mapping[str, Any]], n: int) -> str:
    """Rows as an HTML table, with everything in them escaped, and how many of `n` rows these are."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_shown(row[name]))}</td>" for name in names) + "</tr>" for row in rows
    )
    rest = f"<p>{len(rows)} of {n} rows</p>" if len(rows) < n else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _key(field: Field[Any]) -> str:
    """A field's key in JSON, which need not be a Python identifier."""
    return str(field.metadata.get("key", field.name))


def _plain(value: object) -> object:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


_Readers = list[tuple[str, Callable[[Any], Any]]]
_READERS: dict[type[Record], _Readers] = {}


def _readers(kind: type[Record]) -> _Readers:
    """For each field of a record, the function from a table's value to its own; computed once per class."""
    if kind not in _READERS:
        hints = get_type_hints(kind)
        _READERS[kind] = [(field.name, _reader(hints[field.name])) for field in fields(kind)]
    return _READERS[kind]


def _reader(hint: Any) -> Callable[[Any], Any]:
    members = _members(hint)
    for member in members:
        if get_origin(member) is tuple:
            return lambda value: None if value is None else tuple(value)
        if isinstance(member, type) and issubclass(member, StrEnum):
            return _word(member, other_text=str in members)
    return lambda value: value


def _word(kind: type[StrEnum], *, other_text: bool) -> Callable[[Any], Any]:
    def read(value: str | None) -> str | None:
        if value is None:
            return None
        try:
            return kind(value)
        except ValueError:
            if other_text:
                return value
            raise

    return read


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union without null; the type itself if it is not a union."""
    return tuple(m for m in get_args(hint) if m is not type(None)) if isinstance(hint, UnionType) else (hint,)


def _arrow_type(hint: Any) -> pa.DataType | None:
    """The type of a column; null if the field is not a column."""
    import pyarrow as pa

    (member, *_) = _members(hint)
    if get_origin(member) is tuple:
        item = _arrow_type(get_args(member)[0])
        return None if item is None else pa.list_(item)
    if not isinstance(member, type):
        return None
    kinds = ((bool, pa.bool_()), (int, pa.int64()), (float, pa.float64()), (str, pa.string()))
    if issubclass(member, datetime):
        return pa.timestamp("us", tz="UTC")
    return next((arrow for python, arrow in kinds if issubclass(member, python)), None)
