"""Copies of tables: whole, in bounded pieces, at once, and never over what is there."""

from __future__ import annotations

import csv
import io
import json
import resource
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import provenance
from provenance.indexer.store import parts
from provenance.indexer.store.store import Store
from provenance.indexer.store.views import DERIVED
from provenance.schemas.errors import StoreError
from provenance.schemas.tables import TABLES, from_rows, schema
from tests.support.command_line import CHILD, SCRIPT, Run, environment
from tests.support.store_rows import NOW, fingerprint, full_and_null

LOGS = ("outcomes", "runs", "lineage", "verdicts", "tombstones")
"""Tables that show every row."""


@pytest.mark.parametrize("table", [*TABLES, *DERIVED])
def test_parquet_has_the_rows_and_columns_of_the_view(run: Run, store: Path, tmp_path: Path, table: str) -> None:
    done = run("export", table, "copy.parquet")
    assert (done.status, done.raw, done.err) == (0, b"", "")
    copy = pq.read_table(tmp_path / "copy.parquet")
    like = "checkpoints" if table == "latest_checkpoints" else table
    if like in TABLES:
        assert copy.schema == schema(like)
    with Store.open(store).connect() as connection:
        rows = connection.sql(f"FROM {table}").to_arrow_table()
    assert copy.column_names == rows.column_names
    assert sorted(copy.to_pylist(), key=str) == sorted(rows.cast(copy.schema).to_pylist(), key=str)
    assert [path.name for path in tmp_path.iterdir()] == ["copy.parquet"]


@pytest.mark.parametrize("table", LOGS)
def test_every_kind_of_value_survives(run: Run, tmp_path: Path, table: str) -> None:
    made = Store.create(tmp_path / "full")
    made.commit({table: full_and_null(table)})
    run("export", table, "copy.parquet", "--store", "full")
    assert pq.read_table("copy.parquet").to_pylist() == made.read(table).to_pylist()
    printed = list(csv.reader(io.StringIO(run("export", table, "--store", "full").out)))
    assert printed[0] == schema(table).names
    assert [len(row) for row in printed] == [len(schema(table))] * len(printed)


def test_csv_has_nested_columns_as_json_and_bytes_as_hexadecimal(run: Run, store: Path, tmp_path: Path) -> None:
    assert run("export", "samples", "copy.csv").raw == b""
    (first, *_) = csv.DictReader(io.StringIO((tmp_path / "copy.csv").read_text(), newline=""))
    (row, *_) = Store.open(store).read("samples").to_pylist()
    assert first["data"] == row["data"].hex()
    assert json.loads(first["entries"]) == row["entries"]
    checkpoints = run("export", "checkpoints").out
    assert checkpoints == run("sql", "from checkpoints", "--format", "csv").out


def test_pieces_are_small_and_lose_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_GROUP_BYTES", 1)
    made = Store.create(tmp_path / "many")
    made.commit({"runs": from_rows("runs", [{"run_id": str(n), "source": "a\nb"} for n in range(5_000)])})
    with provenance.open(made.path) as database:
        pieces = list(database.stream("runs"))
    assert pieces[0].num_rows == 0
    assert len(pieces) > 2
    assert pa.concat_tables(pieces)["run_id"].to_pylist() == [str(n) for n in range(5_000)]
    printed = list(csv.DictReader(io.StringIO(run("export", "runs", "--store", "many").out, newline="")))
    assert [row["run_id"] for row in printed] == [str(n) for n in range(5_000)]
    assert {row["source"] for row in printed} == {"a\nb"}


def test_without_rows_there_are_columns(run: Run) -> None:
    assert run("export", "tombstones").out == "repo_id,forgotten_at\n"
    columns = pq.read_table(io.BytesIO(run("export", "descendants", "-", "--format", "parquet").raw))
    assert (columns.num_rows, columns.column_names) == (0, ["root", "descendant", "depth", "path"])


def test_parquet_through_a_pipe(store: Path) -> None:
    done = subprocess.run(
        [SCRIPT, "export", "latest_checkpoints", "--format", "parquet"],
        env=environment(store),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert CHILD in pq.read_table(io.BytesIO(done.stdout))["repo_id"].to_pylist()


def test_what_is_there_stays_unless_forced(run: Run, tmp_path: Path) -> None:
    (tmp_path / "copy.csv").write_text("mine")
    refused = run("export", "runs", "copy.csv")
    assert (refused.status, (tmp_path / "copy.csv").read_text()) == (2, "mine")
    assert "--force" in refused.err
    assert run("export", "runs", "copy.csv", "--force").status == 0
    assert (tmp_path / "copy.csv").read_text().startswith("run_id,")


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["runs", "copy.txt"], 2, "neither .parquet nor .csv"),
        (["runs", "copy"], 2, "say which with --format"),
        (["runs", "."], 2, "is a directory"),
        (["runs", "copy.csv", "--format", "json"], 2, "json"),
        (["models", "copy.csv"], 1, "no table 'models'; there is checkpoints, "),
        (["chekpoints", "copy.csv"], 1, "no table 'chekpoints'; did you mean checkpoints"),
        (["runs; drop table runs", "copy.csv"], 1, "no table"),
        (["runs", "nowhere/copy.csv"], 1, "nowhere"),
    ],
)
def test_refusals(run: Run, tmp_path: Path, arguments: list[str], status: int, reason: str) -> None:
    done = run("export", *arguments)
    assert (done.status, done.raw) == (status, b"")
    assert reason in done.err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_what_was_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "copy.parquet").write_text("mine")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        done = run("export", "samples", "copy.parquet", "--force")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.status == 1
    assert [path.name for path in tmp_path.iterdir()] == ["copy.parquet"]
    assert (tmp_path / "copy.parquet").read_text() == "mine"


def test_hidden_rows_are_not_copied(run: Run, tmp_path: Path) -> None:
    made = Store.create(tmp_path / "hidden")
    for number in (1, 2):
        made.commit(fingerprint(number, fingerprinted_at=NOW))
    made.commit({"files": fingerprint(3)["files"]})
    made.commit({"outcomes": from_rows("outcomes", [{"repo_id": f"org/model-{n}", "at": NOW} for n in (1, 2)])})
    run("forget", "org/model-1", "--yes", "--store", "hidden")
    for table, n in (("files", 1), ("tensors", 3), ("outcomes", 1), ("checkpoints", 1), ("latest_checkpoints", 1)):
        run("export", table, f"{table}.parquet", "--store", "hidden")
        assert pq.read_table(f"{table}.parquet").num_rows == n


def test_a_store_compacted_meanwhile(tmp_path: Path) -> None:
    made = Store.create(tmp_path / "store", grace=0)
    for number in (1, 2):
        made.commit({"runs": from_rows("runs", [{"listed": number}])})
    with provenance.open(made.path) as database:
        pieces = database.stream("runs")
        assert next(pieces).num_rows == 0
        assert next(pieces)["listed"].to_pylist() == [1]
        made.compact()
        with pytest.raises(StoreError, match="compacted during the read"):
            next(pieces)


def test_no_such_view(store: Path) -> None:
    with provenance.open(store) as database, pytest.raises(StoreError, match="no table 'x'"):
        next(iter(database.stream("x")))


def test_ndjson_is_one_object_a_line(run: Run) -> None:
    lines = run("export", "latest_checkpoints", "--format", "ndjson").out.splitlines()
    assert [json.loads(line) for line in lines] == run("sql", "from latest_checkpoints").json
    assert run("export", "outcomes", "all.ndjson").status == 0
    assert Path("all.ndjson").read_text() == run("sql", "from outcomes", "--format", "ndjson").out
