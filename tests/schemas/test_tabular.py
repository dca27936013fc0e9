"""Typed results as JSON and as tables."""

from __future__ import annotations

import copy
import json
import math
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec

import pyarrow as pa
import pytest

from provenance.schemas import tables
from provenance.schemas.enums import Reason, Relation, Verdict
from provenance.schemas.errors import ProvenanceError
from provenance.schemas.lineage import LineageRow, VerdictRow
from provenance.schemas.tabular import Record, Rows, Versioned

NOW = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Inner(Record):
    value: float


@dataclass(frozen=True, slots=True)
class Example(Record):
    name: str
    verdict: Verdict | None
    reason: Reason | str | None
    share: float | None
    at_1: float | None = field(metadata={"key": "at@1"})
    when: datetime
    names: tuple[str, ...] | None
    known: bool
    inner: Inner
    by_name: Mapping[str, Inner]
    rows: Rows[Inner]


def example(**changed: object) -> Example:
    values: dict[str, object] = {
        "name": "naïve",
        "verdict": Verdict.DERIVED,
        "reason": Reason.GATED,
        "share": 0.5,
        "at_1": math.nan,
        "when": NOW,
        "names": ("a", "b"),
        "known": True,
        "inner": Inner(math.inf),
        "by_name": {"x": Inner(1.0)},
        "rows": Rows(Inner, [Inner(2.0)]),
    }
    return Example(**{**values, **changed})  # type: ignore[arg-type]


def test_a_record_becomes_plain_json() -> None:
    found = example().to_dict()
    assert found == {
        "name": "naïve",
        "verdict": "derived",
        "reason": "gated",
        "share": 0.5,
        "at@1": None,
        "when": "2026-11-20T06:30:00+00:00",
        "names": ["a", "b"],
        "known": True,
        "inner": {"value": None},
        "by_name": {"x": {"value": 1.0}},
        "rows": [{"value": 2.0}],
    }
    assert type(found["verdict"]) is str
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_versioned_record_says_its_format_first() -> None:
    @dataclass(frozen=True, slots=True)
    class Whole(Versioned):
        n: int

    assert list(Whole(3).to_dict().items()) == [("format", 1), ("n", 3)]


def test_rows_become_a_table_without_what_is_no_column() -> None:
    rows = Rows(Example, [example(), example(verdict=None, reason=None, share=None, names=None)])
    table = rows.to_arrow()
    assert table.schema == pa.schema(
        {
            "name": pa.string(),
            "verdict": pa.string(),
            "reason": pa.string(),
            "share": pa.float64(),
            "at@1": pa.float64(),
            "when": pa.timestamp("us", tz="UTC"),
            "names": pa.list_(pa.string()),
            "known": pa.bool_(),
        }
    )
    assert table["verdict"].to_pylist() == ["derived", None]
    assert table["when"].to_pylist() == [NOW, NOW]
    assert table["names"].to_pylist() == [["a", "b"], None]
    assert rows.to_polars()["share"].to_list() == [0.5, None]
    assert Rows(Example).to_arrow().schema == table.schema, "of no rows too"
    assert Rows(Example).to_polars().columns == table.column_names


def test_rows_are_a_tuple_that_travels() -> None:
    rows = Rows(Inner, [Inner(1.0), Inner(2.0)])
    assert list(rows) == [Inner(1.0), Inner(2.0)]
    assert rows.to_dicts() == [{"value": 1.0}, {"value": 2.0}]
    for other in (pickle.loads(pickle.dumps(rows)), copy.deepcopy(rows)):
        assert other == rows
        assert other.to_arrow() == rows.to_arrow()


def test_a_frame_without_its_library_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(Inner, [Inner(1.0)])
    if find_spec("pandas"):
        assert list(rows.to_pandas()["value"]) == [1.0]
    else:
        with pytest.raises(ProvenanceError, match="pip install pandas"):
            rows.to_pandas()
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ProvenanceError, match="pip install polars"):
        rows.to_polars()


@pytest.mark.parametrize(("table", "kind"), [("lineage", LineageRow), ("verdicts", VerdictRow)])
def test_records_of_a_table_have_its_columns(table: str, kind: type[Record]) -> None:
    found, wanted = Rows(kind).to_arrow().schema, tables.schema(table)
    assert found.names == wanted.names
    assert found.types == wanted.types


def test_words_of_a_table_become_enumerations() -> None:
    row: dict[str, object] = dict.fromkeys(tables.schema("lineage").names)
    row |= {"child": "org/a", "parent": "org/b", "relation": "finetune", "verdict": "derived", "detected_at": NOW}
    found = LineageRow.from_row(row)
    assert found.relation is Relation.FINETUNE
    assert found.verdict is Verdict.DERIVED
    assert LineageRow.from_row(row | {"relation": "a card's own word"}).relation == "a card's own word"
    with pytest.raises(ValueError, match="guilty"):
        LineageRow.from_row(row | {"verdict": "guilty"})
    with pytest.raises(KeyError):
        LineageRow.from_row({})
