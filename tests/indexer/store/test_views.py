"""Views over the store: what they show, and what the SQL of a user cannot do."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.indexer.store.sandbox import _ReadOnlyFiles, address
from provenance.indexer.store.store import Store
from provenance.indexer.store.views import DERIVED, DESCENDANTS, LATEST_CHECKPOINTS
from provenance.schemas.tables import TABLES, from_rows
from tests.support.store_rows import NOW, fingerprint, full_and_null


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that no test changes, nor can."""
    store = Store.create(tmp_path_factory.mktemp("guarded") / "store")
    store.commit({"runs": full_and_null("runs")})
    return store


def rows_of(store: Store, sql: str) -> list[Any]:
    with store.connect() as connection:
        return connection.execute(sql).fetchall()


def test_every_table_has_a_view_with_its_columns(store: Store) -> None:
    for table in TABLES:
        with store.connect() as connection:
            assert connection.sql(f"FROM {table}").columns == Store.open(store.path).read(table).column_names
    assert {row[0] for row in rows_of(store, "SHOW TABLES")} == {*TABLES, *DERIVED}


def test_views_give_back_the_rows(store: Store) -> None:
    for table in ("checkpoints", "lineage", "runs", "outcomes"):
        rows = full_and_null(table)
        store.commit({table: rows})
        with store.connect() as connection:
            assert connection.sql(f"FROM {table}").to_arrow_table().cast(rows.schema).to_pylist() == rows.to_pylist()


def test_rows_without_their_checkpoint_are_hidden(store: Store) -> None:
    hidden = fingerprint(1)
    del hidden["checkpoints"]
    store.commit({**hidden, "signatures": from_rows("signatures", [{"fingerprint_id": "f1", "spec": "s"}])})
    tables = ("files", "tensors", "samples", "signatures")
    assert [rows_of(store, f"SELECT count(*) FROM {table}") for table in tables] == [[(0,)]] * 4
    assert store.read("tensors").num_rows == 3, "read gives raw rows"
    store.commit(fingerprint(2))
    store.commit({"checkpoints": fingerprint(1)["checkpoints"]})
    counts = "SELECT fingerprint_id, count(*) FROM tensors GROUP BY ALL ORDER BY ALL"
    assert rows_of(store, counts) == [("f1", 3), ("f2", 3)]
    assert rows_of(store, "SELECT fingerprint_id FROM signatures") == [("f1",)]


def test_a_connection_stays_on_its_state(store: Store) -> None:
    store.commit(fingerprint(1))
    old = store.manifest()
    with store.connect() as connection:
        store.commit(fingerprint(2))
        store.compact()
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (1,)
        assert connection.cursor().execute("SELECT count(*) FROM checkpoints").fetchone() == (1,)
    with store.connect(old) as connection:
        assert connection.execute("SELECT count(*) FROM tensors").fetchone() == (3,)
    assert rows_of(store, "SELECT count(*) FROM checkpoints") == [(2,)]


# --- latest_checkpoints

versions = st.fixed_dictionaries(
    {
        "repo_id": st.sampled_from(["a", "b"]),
        "subfolder": st.sampled_from([None, "unet"]),
        "variant": st.sampled_from([None, "fp16"]),
        "revision": st.sampled_from(["1", "2"]),
        "last_modified": st.sampled_from([None, NOW, NOW + timedelta(days=1)]),
        "fingerprinted_at": st.sampled_from([NOW + timedelta(hours=hour) for hour in range(3)]),
        "mode": st.sampled_from(["full", "sampled"]),
        "fingerprint_version": st.integers(1, 2),
    }
)


def latest(rows: list[dict[str, Any]]) -> set[str]:
    """`latest_checkpoints` in plain Python."""
    never = NOW - timedelta(days=9999)
    chosen = set()
    for key in {(row["repo_id"], row["subfolder"], row["variant"]) for row in rows}:
        mine = [row for row in rows if (row["repo_id"], row["subfolder"], row["variant"]) == key]

        def age(revision: str, mine: list[dict[str, Any]] = mine) -> tuple[Any, Any]:
            same = [row for row in mine if row["revision"] == revision]
            return max(row["last_modified"] or never for row in same), max(row["fingerprinted_at"] for row in same)

        newest = min(
            {row["revision"] for row in mine}, key=lambda revision: (*(never - at for at in age(revision)), revision)
        )
        best = sorted((row for row in mine if row["revision"] == newest), key=lambda row: row["fingerprint_id"])
        best.sort(key=lambda row: row["fingerprinted_at"], reverse=True)
        best.sort(key=lambda row: (row["mode"] != "full", -row["fingerprint_version"]))
        chosen.add(best[0]["fingerprint_id"])
    return chosen


@settings(max_examples=30, deadline=None)
@given(st.lists(versions, max_size=12))
def test_latest_checkpoints(rows: list[dict[str, Any]]) -> None:
    rows = [{**row, "fingerprint_id": f"f{i:02}"} for i, row in enumerate(rows)]
    with duckdb.connect() as connection:
        connection.register("checkpoints", from_rows("checkpoints", rows))
        found = [row[0] for row in connection.execute(f"SELECT fingerprint_id FROM ({LATEST_CHECKPOINTS})").fetchall()]
    assert len(found) == len(set(found))
    assert set(found) == latest(rows)


def test_latest_prefers_full_within_a_revision_even_when_older(store: Store) -> None:
    day = timedelta(days=1)
    same = {"repo_id": "org/m", "revision": "aa"}
    store.commit(fingerprint(1, **same, mode="full", fingerprinted_at=NOW))
    store.commit(fingerprint(2, **same, mode="sampled", fingerprinted_at=NOW + day))
    assert rows_of(store, "SELECT fingerprint_id FROM latest_checkpoints") == [("f1",)]
    store.commit(fingerprint(3, repo_id="org/m", revision="bb", mode="sampled", fingerprinted_at=NOW + 2 * day))
    assert rows_of(store, "SELECT fingerprint_id, n_tensors FROM latest_checkpoints") == [("f3", 3)]


# --- descendants


def descendants(edges: set[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Depth of every (root, descendant) by breadth-first search in plain Python."""
    found = {}
    for root in {parent for parent, _ in edges}:
        level, seen, depth = {root}, {root}, 0
        while level:
            depth += 1
            level = {child for parent, child in edges if parent in level} - seen
            seen |= level
            found |= {(root, child): depth for child in level}
    return found


@settings(max_examples=30, deadline=None)
@given(st.sets(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=14))
def test_descendants_of_any_graph(edges: set[tuple[str, str]]) -> None:
    rows = [{"parent": parent, "child": child, "verdict": "derived"} for parent, child in sorted(edges)]
    with duckdb.connect() as connection:
        connection.register("lineage", from_rows("lineage", rows))
        found = connection.execute(DESCENDANTS).fetchall()
    assert {(root, descendant): depth for root, descendant, depth, _ in found} == descendants(edges)
    assert len(found) == len(descendants(edges)), "one row a pair"
    for root, descendant, depth, path in found:
        assert (path[0], path[-1], len(path)) == (root, descendant, depth + 1)
        assert edges >= set(itertools.pairwise(path))


def test_descendants_follow_only_what_is_derived_downwards(store: Store) -> None:
    rows = [
        {"parent": "a", "child": "b", "verdict": "derived", "direction": "parent"},
        {"parent": "b", "child": "c", "verdict": "derived"},
        {"parent": "c", "child": "d", "verdict": "related", "direction": "sibling"},
        {"parent": "c", "child": "e", "verdict": "derived", "direction": "child"},
        {"parent": "c", "child": "f"},
    ]
    store.commit({"lineage": from_rows("lineage", rows)})
    sql = "SELECT descendant, depth, path FROM descendants WHERE root = 'a' ORDER BY depth"
    assert rows_of(store, sql) == [("b", 1, ["a", "b"]), ("c", 2, ["a", "b", "c"])]


def test_descendants_stay_small_where_every_ancestor_is_an_edge(store: Store) -> None:
    chain = [f"m{i:02}" for i in range(60)]
    rows = [{"parent": p, "child": c, "verdict": "derived"} for p, c in itertools.combinations(chain, 2)]
    store.commit({"lineage": from_rows("lineage", rows)})
    assert rows_of(store, "SELECT count(*), max(depth) FROM descendants") == [(60 * 59 // 2, 1)]
    links = [{"parent": p, "child": c, "verdict": "derived"} for p, c in itertools.pairwise(chain)]
    store.replace("lineage", from_rows("lineage", links))
    assert rows_of(store, "SELECT max(depth) FROM descendants") == [(50,)]


# --- the sandbox


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM glob('part://*')",
        "SELECT * FROM read_text('{store}/MANIFEST')",
        "SELECT * FROM read_text('part://MANIFEST')",
        "SELECT * FROM read_text('part://tensors/../MANIFEST')",
        "SELECT * FROM read_parquet('{store}/{part}')",
        "COPY (SELECT 1) TO '{store}/x.csv'",
        "COPY (SELECT 1) TO '/tmp/provenance-x.csv'",
        "COPY (SELECT 1) TO '{store}/{part}' (USE_TMP_FILE false)",
        "COPY (SELECT 1) TO '{address}' (USE_TMP_FILE false)",
        "COPY (SELECT 1) TO '{address}'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{address}' (USE_TMP_FILE false)",
        "WITH x AS (COPY (SELECT 1) TO '{store}/{part}' (USE_TMP_FILE false)) SELECT 1",
        "WITH x AS (COPY (SELECT 1) TO '{address}' (USE_TMP_FILE false)) SELECT 1",
        "COPY runs FROM '/etc/passwd'",
        "ATTACH '{store}/other.duckdb' AS other",
        "EXPORT DATABASE '{store}/dump'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CREATE PERSISTENT SECRET s (TYPE http)",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "RESET lock_configuration",
        "SET temp_directory = '/tmp'",
        "SELECT * FROM python_variable",
        "INSERT INTO runs (run_id) VALUES ('x')",
        "DELETE FROM runs",
        "DROP TABLE runs",
    ],
)
def test_sql_cannot_leave_the_sandbox(guarded: Store, sql: str) -> None:
    store, python_variable = guarded, full_and_null("runs")
    assert python_variable.num_rows == 2
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    path = store.manifest().parts["runs"][-1].path
    with store.connect() as connection:
        with pytest.raises(duckdb.Error):
            connection.execute(sql.format(store=store.path, part=path, address=address(path))).fetchall()
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,), "and the session goes on"
    assert {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()} == before


def test_threads_that_share_a_file_get_their_own_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    with closing(_ReadOnlyFiles(tmp_path, ["x"]).open(address("x"))) as file:
        file.seek(4)
        with ThreadPoolExecutor(1) as other:  # DuckDB's threads seek and read one and the same file object
            assert other.submit(lambda: (file.seek(1), file.read(2))).result() == (1, b"12")
        assert file.read(3) == b"456"
        assert file.read(9) == b"789"


def test_scratch_of_a_session_dies_with_it(store: Store) -> None:
    with store.connect() as connection:
        connection.execute("CREATE TABLE notes AS SELECT 1 AS x")
        connection.execute("CREATE OR REPLACE VIEW runs AS SELECT 2 AS x")
    assert rows_of(store, "SELECT count(*) FROM runs") == [(0,)]
    assert store.verify() == []


# --- provenance.duckdb


def test_any_client_reads_the_written_views(store: Store) -> None:
    store.commit(fingerprint(1))
    store.write_views()
    file = store.path / "provenance.duckdb"
    with duckdb.connect(file, read_only=True) as client:
        store.commit(fingerprint(2))
        store.compact()
        store.write_views()
        assert client.execute("SELECT count(*) FROM tensors").fetchone() == (3,), "the old file stays usable"
    with duckdb.connect(file, read_only=True) as client:
        names = {row[0] for row in client.execute("SHOW TABLES").fetchall()}
        assert names == {*TABLES, *DERIVED}
        for name, n in (("tensors", 6), ("latest_checkpoints", 2), ("descendants", 0)):
            assert client.execute(f"SELECT count(*) FROM {name}").fetchone() == (n,)
    assert sorted(path.name for path in store.path.iterdir() if path.name.startswith((".tmp", "provenance"))) == [
        "provenance.duckdb"
    ]
