"""Records and the columns of the tables are two views of one thing."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pytest

from provenance.schemas import enums, identity, records, roles
from provenance.schemas.records import CheckpointRow, RepoFile, SampleEntry, TensorRow
from provenance.schemas.tables import INT, SAMPLE_ENTRY, STRINGS, TIME, schema

# The table that holds a record's fields, and the columns that the store adds.
STORED: dict[str, tuple[type[Any], pa.Schema, list[str]]] = {
    "checkpoints": (CheckpointRow, schema("checkpoints"), ["fingerprint_id"]),
    "files": (RepoFile, schema("files"), ["fingerprint_id", "checkpoint_id"]),
    "tensors": (TensorRow, schema("tensors"), ["fingerprint_id", "checkpoint_id"]),
    "entries of samples": (SampleEntry, pa.schema(list(SAMPLE_ENTRY)), []),
}
NAMES = {**vars(enums), **vars(identity), **vars(roles), **vars(records), "datetime": datetime}


def stored_as(hint: object) -> set[pa.DataType]:
    """The column types that hold values of a field."""
    plain = {kind for kind in get_args(hint) if kind is not type(None)} or {hint}
    if tuple[str, ...] in {hint, *plain} or hint == tuple[str, ...]:
        return {STRINGS}
    if hint == tuple[int, ...]:
        return {pa.list_(INT)}
    (kind,) = plain
    assert isinstance(kind, type)
    if issubclass(kind, str):
        return {pa.string()}
    return {bool: {pa.bool_()}, int: {INT, pa.int32()}, float: {pa.float64()}, datetime: {TIME}}[kind]


@pytest.mark.parametrize("name", STORED)
def test_the_fields_of_a_record_are_the_columns_of_its_table(name: str) -> None:
    record, table, added = STORED[name]
    assert [field.name for field in fields(record)] == [column for column in table.names if column not in added]
    hints = get_type_hints(record, NAMES)
    for field in fields(record):
        assert table.field(field.name).type in stored_as(hints[field.name]), field.name


@pytest.mark.parametrize("name", STORED)
def test_records_cannot_be_changed(name: str) -> None:
    record = STORED[name][0]
    assert not hasattr(record.__new__(record), "__dict__")
    with pytest.raises(AttributeError, match="cannot assign"):
        setattr(record.__new__(record), fields(record)[0].name, "x")
