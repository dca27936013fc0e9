"""Forgetting a repo: nothing shows it from then on, the next index and compaction drop it, and a later crawl may bring
it back."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import provenance
from provenance.database import Database
from provenance.indexer.generation import open_generation
from provenance.indexer.signature import SPEC, signature
from provenance.indexer.store.store import Store
from provenance.indexer.store.tombstones import DATED
from provenance.schemas.errors import StoreCorruptError, UnknownModelError
from provenance.schemas.figures import RepoFigures
from provenance.schemas.lineage import LineageRow
from provenance.schemas.results import Answer
from provenance.schemas.tables import FINGERPRINT_TABLES, from_rows
from tests.conftest import llama, trained
from tests.support.command_line import CHILD, MINIATURE, PARENT, STRANGER, Run
from tests.support.store_rows import NOW, fingerprint

SPAWN = multiprocessing.get_context("spawn")
HOUR = timedelta(hours=1)
GONE, STAYS = "org/model-1", "org/model-2"


@pytest.fixture
def small(tmp_path: Path) -> Store:
    """A store with two repos, in every table."""
    made = Store.create(tmp_path / "store")
    for number in (1, 2):
        rows = fingerprint(number, fingerprinted_at=NOW)
        repo, at = f"org/model-{number}", {"at": NOW}
        rows["signatures"] = from_rows("signatures", [{"fingerprint_id": f"f{number}", "spec": "s"}])
        rows["outcomes"] = from_rows("outcomes", [{"repo_id": repo, "status": "done", **at}])
        rows["verdicts"] = from_rows("verdicts", [{"repo_id": repo, "verdict": "derived", "examined_at": NOW}])
        made.commit(rows)
    edges = [(STAYS, GONE), (GONE, "org/root"), (STAYS, "org/root")]
    made.commit({"lineage": from_rows("lineage", [{"child": c, "parent": p, "detected_at": NOW} for c, p in edges])})
    return made


def bury(store: Store, repo: str, at: datetime | None = NOW + HOUR) -> None:
    store.commit({"tombstones": from_rows("tombstones", [{"repo_id": repo, "forgotten_at": at}])})


def counts(store: Store) -> dict[str, int]:
    """Visible rows by table."""
    with store.connect() as connection:
        return {table: count_of(connection, table) for table in (*DATED, *FINGERPRINT_TABLES)}


def count_of(connection: duckdb.DuckDBPyConnection, source: str) -> int:
    found = connection.execute(f"SELECT count(*) FROM {source}").fetchone()
    assert found is not None
    return int(found[0])


ONE_LEFT = dict.fromkeys((*DATED, *FINGERPRINT_TABLES), 1) | {"tensors": 3}


# --- the store


def test_every_view_and_every_read_passes_over_a_forgotten_repo(small: Store) -> None:
    bury(small, GONE)
    assert counts(small) == ONE_LEFT
    assert {
        table: small.read(table, ["fingerprint_id"] if table == "files" else None).num_rows for table in ONE_LEFT
    } == ONE_LEFT
    assert small.read("lineage", ["rank"]).column_names == ["rank"]
    assert small.tombstones() == {GONE: NOW + HOUR}
    assert small.verify() == []
    small.write_views()
    with duckdb.connect(small.path / "provenance.duckdb", read_only=True) as client:
        assert [client.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ONE_LEFT] == [
            (n,) for n in ONE_LEFT.values()
        ]


def test_a_repo_that_is_crawled_again_shows_its_newer_rows_only(small: Store) -> None:
    bury(small, GONE)
    small.commit(fingerprint(7, repo_id=GONE, fingerprinted_at=NOW + 2 * HOUR))
    small.commit(fingerprint(8, repo_id=GONE, fingerprinted_at=NOW))  # read before, committed after
    with small.connect() as connection:
        rows = connection.execute("SELECT fingerprint_id FROM checkpoints ORDER BY ALL").fetchall()
    assert rows == [("f2",), ("f7",)]
    bury(small, GONE, NOW + 3 * HOUR)
    assert counts(small) == ONE_LEFT


def test_a_row_of_unknown_age_is_forgotten(small: Store) -> None:
    small.commit(fingerprint(9, repo_id=GONE))
    bury(small, GONE)
    assert counts(small) == ONE_LEFT


def test_views_look_for_tombstones_only_where_there_are_any(small: Store) -> None:
    def sql(store: Store) -> str:
        with store.connect() as connection:
            return str(connection.execute("SELECT string_agg(sql) FROM duckdb_views() WHERE NOT internal").fetchone())

    assert "forgotten_at" not in sql(small)
    for part in small.manifest().parts["tombstones"]:
        (small.path / part.path).rename(small.path / "away")
    assert small.tombstones() == {}, "no file was opened"
    assert small.read("checkpoints").num_rows == 2
    (small.path / "away").rename(small.path / small.manifest().parts["tombstones"][0].path)
    bury(small, GONE)
    assert "forgotten_at" in sql(small)


times = st.sampled_from([None, NOW, NOW + HOUR, NOW + 2 * HOUR])
repos = st.sampled_from(["a", "b", "c", None])


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(st.tuples(repos, repos, times), max_size=8),
    graves=st.lists(st.tuples(st.sampled_from("abc"), times.filter(bool)), max_size=4),
)
def test_sql_arrow_and_purge_follow_one_rule(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, Any, Any]], graves: list[tuple[str, datetime]]
) -> None:
    def is_forgotten(repo: str | None, at: datetime | None) -> bool:
        return any(repo == grave and (at is None or at < when) for grave, when in graves)

    wanted = [
        number
        for number, (child, parent, at) in enumerate(rows)
        if not is_forgotten(child, at) and not is_forgotten(parent, at)
    ]
    made = Store.create(tmp_path_factory.mktemp("rule") / "store", grace=0)
    edges = [{"child": c, "parent": p, "detected_at": at, "rank": n} for n, (c, p, at) in enumerate(rows)]
    made.commit({"lineage": from_rows("lineage", list(edges))})
    for grave, when in graves:
        bury(made, grave, when)
    with made.connect() as connection:
        assert connection.execute("SELECT rank FROM lineage ORDER BY rank").fetchall() == [(n,) for n in wanted]
    assert made.read("lineage", ["rank"])["rank"].to_pylist() == wanted
    dropped = made.purge()
    assert dropped == ({"lineage": len(rows) - len(wanted)} if len(wanted) < len(rows) else {})
    assert sum(part.rows for part in made.manifest().parts["lineage"]) == len(wanted)
    shutil.rmtree(made.path)


def test_purge_drops_the_rows_from_the_files(small: Store) -> None:
    assert small.purge() == {}, "nothing is forgotten yet"
    bury(small, GONE)
    held = small.manifest()
    dropped = small.purge()
    assert dropped == ONE_LEFT | {"lineage": 2}
    assert counts(small) == ONE_LEFT
    assert {table: sum(p.rows for p in small.manifest().parts[table]) for table in ONE_LEFT} == ONE_LEFT
    assert small.verify() == []
    assert small.purge() == {}
    with small.connect(held) as connection:
        assert count_of(connection, "tensors") == 3, "a reader of the old state is not disturbed"
    hurried = Store.open(small.path, grace=0)
    hurried.compact()
    for path in small.path.glob("*/*.parquet"):
        if path.parent.name != "tombstones":
            assert GONE not in str(pq.read_table(path).to_pylist())
    assert hurried.tombstones() == {GONE: NOW + HOUR}, "the tombstone stays"


def test_purge_keeps_the_order_of_parts_and_leaves_the_others_alone(small: Store) -> None:
    before = small.manifest().parts["tensors"]
    bury(small, GONE)
    small.purge()
    after = small.manifest().parts["tensors"]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert after[1].rows == 0


def test_purge_killed_halfway_goes_on(small: Store) -> None:
    bury(small, GONE)
    lost = small.manifest().parts["samples"][1]
    (small.path / lost.path).rename(small.path / "away")
    with pytest.raises(StoreCorruptError, match="a live part of samples is missing"):
        small.purge()
    (small.path / "away").rename(small.path / lost.path)
    assert small.read("tensors").num_rows == 3
    assert sum(part.rows for part in small.manifest().parts["tensors"]) == 3, "the first half was done"
    assert small.verify() == [], "what is half gone is not torn"
    assert small.purge() == {"samples": 1, "signatures": 1, "products": 1, "checkpoints": 1}
    assert small.verify() == []


def test_verify_names_what_is_still_visible(small: Store) -> None:
    small.write_views()
    os.utime(small.path / "provenance.duckdb", (0, 0))
    assert small.verify() == []
    odd = {"child": "org/other", "parent": "org/root", "child_id": f"{GONE}@000000000001", "detected_at": NOW}
    small.commit({"lineage": from_rows("lineage", [odd])})
    small.commit({"files": from_rows("files", [{"fingerprint_id": "f2", "checkpoint_id": f"{GONE}@0", "path": "x"}])})
    bury(small, GONE)
    assert small.verify() == [
        "files: 1 rows of a forgotten repo are still visible; forget it once more",
        "lineage: 1 rows of a forgotten repo are still visible; forget it once more",
        "provenance.duckdb is older than the last `provenance forget` and may show what was forgotten; "
        "run `provenance compact`",
    ]


# --- several processes


def bury_and_purge(path: Path) -> None:
    """Forget one repo after the other, and drop what is forgotten, until killed."""
    store = Store.open(path, grace=3)
    for number in itertools.count():
        store.commit(fingerprint(number, fingerprinted_at=NOW))
        if number >= 2:
            bury(store, f"org/model-{number - 2}")
        if number % 5 == 4:
            store.purge()
        if number % 7 == 6:
            store.compact()


@pytest.fixture
def gravedigger(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A process that forgets and purges in the store `tmp_path / "busy"`; call it to kill it."""
    busy = Store.create(tmp_path / "busy", grace=3)
    process = SPAWN.Process(target=bury_and_purge, args=(busy.path,))
    process.start()

    def kill() -> None:
        assert process.pid is not None
        assert process.exitcode is None, "it was at work all the time"
        os.kill(process.pid, signal.SIGKILL)
        process.join()

    yield kill
    process.kill()
    process.join()


def wait_for_parts(store: Store, sequence: int) -> None:
    deadline = time.monotonic() + 60
    while store.manifest().sequence < sequence:
        assert time.monotonic() < deadline, "nothing was committed"
        time.sleep(0.02)


def test_readers_beside_forgetting_and_purging_see_whole_checkpoints(
    tmp_path: Path, gravedigger: Callable[[], None]
) -> None:
    busy = Store.open(tmp_path / "busy", grace=3)
    wait_for_parts(busy, 3)
    for _ in range(12):
        with busy.connect() as connection:
            found = connection.execute(
                "SELECT (SELECT count(*) FROM checkpoints), (SELECT count(*) FROM tensors), "
                "(SELECT count(*) FROM checkpoints SEMI JOIN tombstones USING (repo_id))"
            ).fetchone()
        assert found is not None
        assert found[0] <= 3
        assert found[1:] == (3 * found[0], 0)
    wait_for_parts(busy, busy.manifest().sequence + 10)
    gravedigger()
    again = Store.open(busy.path, grace=0)
    assert again.verify() == []
    again.purge()
    again.compact()
    assert again.verify() == []
    rows = {table: sum(part.rows for part in again.manifest().parts[table]) for table in ("checkpoints", "tensors")}
    assert rows["checkpoints"] <= 3
    assert rows["tensors"] == 3 * rows["checkpoints"]


def test_a_connection_opened_before_keeps_its_state(small: Store) -> None:
    with small.connect() as connection:
        bury(small, GONE)
        small.purge()
        small.compact()
        assert count_of(connection, "tensors") == 6
    assert counts(small) == ONE_LEFT


# --- the facade and the index


@pytest.fixture
def database(store: Path, tmp_path: Path) -> Iterator[Database]:
    """A copy of the miniature family's store, indexed."""
    with provenance.open(shutil.copytree(store, tmp_path / "copy")) as opened:
        yield opened


def named(answer: Answer) -> set[str]:
    return {candidate.repo_id for candidate in answer.candidates}


def test_nothing_returns_a_forgotten_repo_before_the_next_index(database: Database) -> None:
    assert len(list(database.refresh_lineage())) == 7
    before = database.query(CHILD)
    assert PARENT in named(before)
    assert database.forget([PARENT]) == (RepoFigures(PARENT, 1),)
    after = database.query(CHILD)
    assert named(after) == named(before) - {PARENT}
    assert after.store.checkpoints == 6
    assert after.store.unindexed == 0
    for ask in (database.query, database.show, lambda model: database.compare(CHILD, model)):
        with pytest.raises(UnknownModelError, match="not in the store"):
            ask(PARENT)
    assert PARENT not in str(database.lineage())
    assert len(database.dossiers()) == database.status().store.checkpoints == 6
    assert database.store.verify() == []


def test_the_next_index_and_compaction_leave_it_out(database: Database) -> None:
    database.forget([PARENT])
    generation = open_generation(database.store.index_path)
    assert len(generation) == 7, "its vectors are still there"
    assert len(generation.without(database.store.tombstones())) == 6
    assert database.compact().still_indexed == 1
    answer = database.query(CHILD)
    database.index()
    assert len(open_generation(database.store.index_path).without(database.store.tombstones())) == 6
    assert not open_generation(database.store.index_path).without(database.store.tombstones()).hidden
    again = database.query(CHILD)
    assert [c.repo_id for c in again.candidates] == [c.repo_id for c in answer.candidates]
    done = database.compact()
    assert (done.rows_dropped, done.still_indexed) == (0, 0)
    assert len(list(database.store.index_path.glob("generation-*"))) == 2, "a reader may still hold the old one"
    with provenance.open(database.store.path) as hurried:
        hurried.store.grace = 0
        time.sleep(0.02)
        hurried.compact()
    assert len(list(database.store.index_path.glob("generation-*"))) == 1
    assert f'"repo_id": "{PARENT}"'.encode() not in b"".join(
        p.read_bytes() for p in database.store.index_path.rglob("*.jsonl")
    )
    assert database.query(CHILD).verdict == again.verdict


def test_crawled_again_it_comes_back(database: Database) -> None:
    database.forget([PARENT])
    database.compact()
    assert database.crawl([MINIATURE / PARENT]).fingerprinted == 1
    assert PARENT in named(database.query(CHILD))
    database.index()
    assert PARENT in named(database.query(CHILD))
    assert database.query(PARENT).store.checkpoints == 7
    assert database.store.verify() == []
    database.forget([PARENT])
    assert PARENT not in named(database.query(CHILD))


def test_a_query_of_a_stored_model_reads_no_parquet_without_tombstones(database: Database) -> None:
    parts = list(database.store.path.glob("*/*.parquet"))
    for part in parts:
        part.rename(part.with_suffix(".away"))
    assert PARENT in named(database.query(CHILD))


def test_forgetting_beats_a_clock_that_was_ahead(tmp_path: Path) -> None:
    made = Store.create(tmp_path / "store")
    later = datetime.now(NOW.tzinfo) + 24 * HOUR
    made.commit(fingerprint(1, fingerprinted_at=later))
    with provenance.open(made.path) as opened:
        assert opened.forget([GONE]) == (RepoFigures(GONE, 1),)
    assert made.read("checkpoints").num_rows == 0


def claims(database: Database) -> tuple[list[LineageRow], dict[str, str]]:
    """What `lineage` and `verdicts` say, but for when and beside how many others."""
    rows = [replace(row, detected_at=None) for row in database.lineage()]
    return rows, {row["repo_id"]: row["verdict"] for row in database.store.read("verdicts").to_pylist()}


def claimed(database: Database) -> set[str]:
    """Repos that `lineage` and `verdicts` name."""
    rows, verdicts = claims(database)
    return {name for row in rows for name in (row.child, row.parent)} | verdicts.keys()


def test_children_of_a_forgotten_parent_are_examined_again(database: Database) -> None:
    list(database.refresh_lineage())
    children = {row.child_id for row in database.lineage() if row.parent == PARENT}
    assert children
    database.forget([PARENT])
    database.compact()  # its rows leave the files, and with them the names of its children
    assert children <= set(database.refresh_lineage())
    updated = claims(database)
    assert PARENT not in claimed(database)
    assert list(database.refresh_lineage()) == []
    for table in ("lineage", "verdicts"):
        database.store.replace(table, from_rows(table, []))
    assert len(list(database.refresh_lineage())) == 6
    assert claims(database) == updated, "as from the beginning"
    assert database.store.verify() == []


def test_a_repo_forgotten_while_lineage_is_refreshed_stays_away(database: Database) -> None:
    examining = iter(database.refresh_lineage())
    next(examining)
    with provenance.open(database.store.path) as other:
        other.forget([PARENT])
        assert len(list(examining)) == 6
        assert PARENT not in claimed(other)
        assert database.store.verify() == []
        examined = {row["repo_id"] for row in other.store.read("verdicts").to_pylist()}
        assert len(examined) < 6, "some were compared with it"
        again = set(other.refresh_lineage())
        assert len(claims(other)[1]) == 6
        assert {name.partition("@")[0] for name in again} >= claims(other)[1].keys() - examined


def test_a_store_without_claims_about_a_repo_keeps_all_its_verdicts(database: Database) -> None:
    list(database.refresh_lineage())
    before = database.store.manifest().parts["verdicts"]
    leaf = ({d.repo_id for d in database.dossiers()} - {row.parent for row in database.lineage()}).pop()
    database.forget([leaf])
    assert database.store.manifest().parts["verdicts"] == before


def test_hidden_rows_take_no_place_among_the_nearest(tmp_path: Path, write_repo: Callable[..., Path]) -> None:
    base = llama(1)
    for number in range(4):
        folder = write_repo(f"org/m{number}", trained(base, number))
    with provenance.open(tmp_path / "store", create=True) as opened:
        opened.crawl([folder.parents[1]])
        opened.index()
        opened.forget(["org/m1", "org/m2"])
        generation = open_generation(opened.store.index_path).without(opened.store.tombstones())
        nearest = generation.nearest(SPEC, signature(opened.find("org/m0").curves()).vector, 2)
        assert sorted(generation.dossiers.meta(row).repo_id for row in nearest) == ["org/m0", "org/m3"]
        assert [generation.dossiers.meta(row).repo_id for row in generation.rows()] == ["org/m0", "org/m3"]


def test_a_repo_that_only_failed_or_is_only_named_can_be_forgotten(small: Store) -> None:
    small.commit({"outcomes": from_rows("outcomes", [{"repo_id": "org/broken", "status": "failed", "at": NOW}])})
    with provenance.open(small.path) as opened:
        assert set(opened.forget(["org/broken", "org/root", "org/broken"])) == {
            RepoFigures("org/broken", 0),
            RepoFigures("org/root", 0),
        }
        assert counts(small)["outcomes"] == 2
        with pytest.raises(UnknownModelError, match=r"org/root, org/never: not in the store .* nothing was changed"):
            opened.forget([STAYS, "org/root", "org/never"])
        assert counts(small)["checkpoints"] == 2


# --- the command


def test_forget_and_compact_on_the_command_line(run: Run, store: Path, tmp_path: Path) -> None:
    copy = str(shutil.copytree(store, tmp_path / "copy"))
    done = run("forget", PARENT, STRANGER, "--yes", "--store", copy)
    assert (done.status, done.raw) == (0, b"")
    assert done.err.startswith(f"{PARENT}: 1 checkpoints\n{STRANGER}: 1 checkpoints\n2 repos forgotten")
    assert PARENT not in [c["repo_id"] for c in run("query", CHILD, "--store", copy).json["candidates"]]
    assert run("sql", "select count(*) as n from latest_checkpoints", "--store", copy).json == [{"n": 5}]
    compacted = run("compact", "--store", copy)
    assert "dropped of forgotten repos: 2 checkpoints, " in compacted.err
    assert "still holds 2 forgotten checkpoints" in compacted.err
    assert run("verify", "--store", copy).status == 0
    again = run("forget", PARENT, "--yes", "--store", copy)
    assert again.status == 1
    assert again.err.startswith(f"provenance: {PARENT}: not in the store")


def test_forget_asks_first(run: Run) -> None:
    done = run("forget", PARENT)
    assert done.status == 2
    assert "use --yes" in done.err
    assert run("show", PARENT).status == 0, "nothing was done"


@pytest.mark.parametrize("repo", ["a/b/c", "org/name@1234", "org/name:sub", "../x/y", ""])
def test_only_whole_repos_are_forgotten(run: Run, repo: str) -> None:
    done = run("forget", repo, "--yes")
    assert (done.status, done.raw) == (2, b"")
