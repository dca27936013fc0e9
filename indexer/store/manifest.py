"""The manifest: which parts of every table are live. Immutable in memory, swapped atomically on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from provenance.schemas.errors import StoreCorruptError
from provenance.schemas.tables import LATER_TABLES, TABLES

MANIFEST = "MANIFEST"

# Only such paths are ever opened or unlinked, so that an untrusted manifest cannot point out of its store.
_PART_PATH = re.compile(r"(?P<table>[a-z]+)/part-\d{8,}-[0-9a-f]{16}\.parquet")


def part_path(table: str, sequence: int, token: str) -> str:
    """Path of a part inside the store; `token` is 16 unique hex digits."""
    return f"{table}/part-{sequence:08d}-{token}.parquet"


@dataclass(frozen=True, slots=True)
class Part:
    """One immutable Parquet file of a table: `path` relative to the store, number of rows, size in bytes."""

    path: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RetiredPart:
    """A part that is no longer live but may still be read; `at` is when it was replaced, in Unix seconds."""

    path: str
    at: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """One state of the store.

    Attributes:
        sequence: increases by one with every change of the live parts.
        parts: live parts of every table of `schemas.tables.TABLES` in the order of publication; at least one each, but
            for tables that a store of an earlier format has not.
        retired: replaced parts that may still have readers.
    """

    sequence: int
    parts: Mapping[str, tuple[Part, ...]]
    retired: tuple[RetiredPart, ...] = ()

    def paths(self) -> frozenset[str]:
        """Paths of all live parts."""
        return frozenset(part.path for parts in self.parts.values() for part in parts)

    def successor(self, added: Iterable[tuple[str, Part]], replaced: Collection[str], now: float) -> Manifest:
        """The next manifest: `added` (table, part) live, the paths `replaced` retired at `now` (Unix seconds).

        A part takes the position of the first part that it replaces, else the last one, so that rows keep their order.
        """
        gone = frozenset(replaced)
        parts = {table: [part for part in self.parts[table] if part.path not in gone] for table in TABLES}
        for table, part in added:
            old = (place for place, live in enumerate(self.parts[table]) if live.path in gone)
            parts[table].insert(next(old, len(parts[table])), part)
        retired = self.retired + tuple(RetiredPart(path, now) for path in sorted(gone))
        return Manifest(self.sequence + 1, {table: tuple(live) for table, live in parts.items()}, retired)

    def expire(self, before: float) -> tuple[Manifest, list[str]]:
        """This manifest without the parts retired at or before `before` (Unix seconds), and their paths."""
        kept = tuple(part for part in self.retired if part.at > before)
        expired = [part.path for part in self.retired if part.at <= before]
        return Manifest(self.sequence, self.parts, kept), expired

    def to_json(self) -> str:
        """The text of the MANIFEST file."""
        tables = {table: [asdict(part) for part in parts] for table, parts in self.parts.items()}
        retired = [asdict(part) for part in self.retired]
        return json.dumps({"sequence": self.sequence, "tables": tables, "retired": retired}, indent=1) + "\n"

    @classmethod
    def parse(cls, text: str) -> Manifest:
        """Read the text of a MANIFEST file.

        Raises:
            StoreCorruptError: `text` is truncated, or not a manifest.
        """
        try:
            data = json.loads(text)
            tables = {**dict.fromkeys(LATER_TABLES, ()), **data["tables"]}
            parts = {table: tuple(_part(table, entry) for entry in tables[table]) for table in TABLES}
            retired = tuple(RetiredPart(_checked_path(entry["path"]), float(entry["at"])) for entry in data["retired"])
            return cls(int(data["sequence"]), parts, retired)
        except (ValueError, KeyError, TypeError) as error:
            fault = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise StoreCorruptError(
                f"the store's {MANIFEST} file is damaged ({fault}); the parts it names are not touched: "
                f"restore {MANIFEST} from a backup, or crawl into a new store"
            ) from error


def _part(table: str, entry: Mapping[str, Any]) -> Part:
    return Part(_checked_path(entry["path"], table), int(entry["rows"]), int(entry["bytes"]))


def _checked_path(path: str, table: str | None = None) -> str:
    match = _PART_PATH.fullmatch(path)
    if match is None or match["table"] not in ({table} if table else TABLES):
        raise ValueError(f"{path!r} is not the path of a part" + (f" of {table}" if table else ""))
    return path
