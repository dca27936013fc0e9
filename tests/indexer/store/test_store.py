"""The store: what is committed is what is read, whatever is compacted in between."""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.indexer.store import compaction, files, swap
from provenance.indexer.store.compaction import groups
from provenance.indexer.store.store import Part, Store
from provenance.schemas.errors import StoreError
from provenance.schemas.tables import TABLES, empty, from_rows, schema
from tests.support.store_rows import fingerprint, full_and_null


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def parquet_files(store: Store) -> set[str]:
    return {str(path.relative_to(store.path)) for path in store.path.glob("*/*.parquet")}


def grow_old(path: Path) -> None:
    os.utime(path, (0, 0))


# --- commit and read


@pytest.mark.parametrize("table", TABLES)
def test_round_trip(store: Store, table: str) -> None:
    rows = full_and_null(table)
    store.commit({table: rows})
    read = Store.open(store.path).read(table)
    assert read.schema == schema(table)
    assert read.to_pylist() == rows.to_pylist()


def test_new_store_is_sound_and_empty(store: Store) -> None:
    assert store.verify() == []
    assert store.manifest().sequence == 0
    assert {table: store.read(table).num_rows for table in TABLES} == dict.fromkeys(TABLES, 0)
    assert store.index_path.is_dir()


def test_commit_of_several_tables_is_one_step(store: Store) -> None:
    before = store.manifest()
    after = store.commit(fingerprint(1))
    assert after == store.manifest()
    assert after.sequence == before.sequence + 1
    assert {table: len(after.parts[table]) for table in ("files", "tensors", "samples", "checkpoints", "runs")} == {
        "files": 2, "tensors": 2, "samples": 2, "checkpoints": 2, "runs": 1,
    }  # fmt: skip
    assert store.read("tensors", manifest=before).num_rows == 0


def test_commit_without_rows_changes_nothing(store: Store) -> None:
    before = parquet_files(store)
    assert store.commit({"runs": empty("runs")}).sequence == 0
    assert store.commit({}).sequence == 0
    assert parquet_files(store) == before


def test_commit_takes_columns_in_any_order_and_casts(store: Store) -> None:
    rows = from_rows("files", [{"path": "a", "size": 5}])
    backwards = rows.select(rows.column_names[::-1])
    narrow = backwards.set_column(backwards.column_names.index("size"), "size", pa.array([5], pa.int16()))
    store.commit({"files": narrow})
    assert store.read("files").to_pylist() == rows.to_pylist()


def test_read_of_columns_and_parts(store: Store) -> None:
    store.commit(fingerprint(1))
    last = store.commit(fingerprint(2)).parts["tensors"][-1:]
    some = store.read("tensors", ["name", "fingerprint_id"], parts=last)
    assert some.column_names == ["name", "fingerprint_id"]
    assert some.to_pylist() == [{"name": f"t{i}", "fingerprint_id": "f2"} for i in range(3)]
    assert store.read("tensors", ["name"], parts=[]).num_rows == 0


def test_manifest_paths_are_relative_so_a_store_may_move(store: Store, tmp_path: Path) -> None:
    store.commit(fingerprint(1))
    moved = tmp_path / "elsewhere" / "kind=x" / "o'store"
    moved.parent.mkdir(parents=True)
    store.path.rename(moved)
    again = Store.open(moved)
    again.write_views()
    assert again.read("tensors").num_rows == 3
    with again.connect() as connection:
        assert connection.execute("SELECT count(*) FROM tensors").fetchone() == (3,)
        assert "kind" not in [row[0] for row in connection.execute("DESCRIBE tensors").fetchall()]


def test_replace_swaps_the_whole_table(store: Store) -> None:
    for parent in ("a", "b"):
        store.commit({"lineage": from_rows("lineage", [{"child": "c", "parent": parent}])})
    old = store.manifest()
    new = store.replace("lineage", from_rows("lineage", [{"child": "d", "parent": "e"}]))
    assert store.read("lineage", ["child"]).to_pylist() == [{"child": "d"}]
    assert {part.path for part in new.retired} == {part.path for part in old.parts["lineage"]}
    assert store.read("lineage", manifest=old).num_rows == 2, "a reader of the old state is not disturbed"
    store.replace("lineage", empty("lineage"))
    assert store.read("lineage").num_rows == 0
    assert store.verify() == []


# --- compaction


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("commit"), st.lists(st.integers(0, 99), max_size=5)),
            st.tuples(st.just("compact"), st.sampled_from([1, 2_500, 6_000, 1 << 20])),
            st.tuples(st.just("reopen"), st.none()),
        ),
        max_size=8,
    )
)
def test_rows_survive_any_interleaving(steps: list[tuple[str, object]]) -> None:
    expected: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store", grace=0)
        for kind, value in steps:
            if kind == "commit" and isinstance(value, list):
                store.commit({"runs": from_rows("runs", [{"run_id": "r", "listed": n} for n in value])})
                expected.update(value)
            elif kind == "compact" and isinstance(value, int):
                store.compact(target_bytes=value)
            else:
                store = Store.open(store.path, grace=0)
            assert Counter(store.read("runs")["listed"].to_pylist()) == expected
        assert store.verify() == []
        store.compact()
        assert list(groups(store.manifest().parts["runs"], 1 << 20)) == []
        assert parquet_files(store) == store.manifest().paths(), "nothing is left of the replaced parts"


def test_compaction_leaves_large_parts_alone(store: Store) -> None:
    large = store.commit({"outcomes": from_rows("outcomes", [{"message": os.urandom(20_000).hex()}])})
    for number in range(3):
        store.commit({"outcomes": from_rows("outcomes", [{"attempts": number}])})
    after = store.compact(target_bytes=20_000)
    assert large.parts["outcomes"][-1] in after.parts["outcomes"]
    assert len(after.parts["outcomes"]) == 2
    assert store.compact(target_bytes=20_000).sequence == after.sequence, "there is nothing more to merge"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 3_000), max_size=4), max_size=60), st.sampled_from([50, 1_000, 20_000]))
def test_nightly_compaction_rewrites_a_row_a_logarithmic_number_of_times(nights: list[list[int]], target: int) -> None:
    """A model of the parts that are live: each with the sizes of the parts it was made of, and how often each moved."""
    live: list[tuple[Part, list[tuple[int, int]]]] = []
    for night in nights:
        live += [(Part("", 0, size), [(size, 0)]) for size in night]
        for group in groups([part for part, _ in live], target):
            members = [entry for entry in live if any(entry[0] is part for part in group)]
            bytes_ = sum(part.bytes for part in group)
            assert len(group) > 1
            assert all(part.bytes < target for part in group)
            assert bytes_ < 2 * target
            born = [(size, times + 1) for _, entries in members for size, times in entries]
            place = next(i for i, entry in enumerate(live) if entry is members[0])
            live = [entry for entry in live if not any(entry is member for member in members)]
            live.insert(place, (Part("", 0, bytes_), born))
        waiting = [part.bytes for part, _ in live if part.bytes < target]
        assert all(size >= 2 * sum(waiting[i + 1 :]) for i, size in enumerate(waiting[:-1]))
    for _, entries in live:
        for size, times in entries:
            assert times <= 2 + max(0.0, math.log(target / size) / math.log(1.5))


def test_a_large_waiting_part_is_not_rewritten_every_night(store: Store) -> None:
    def night(size: int) -> None:
        store.commit({"outcomes": from_rows("outcomes", [{"message": os.urandom(size).hex()}])})

    night(100_000)
    store.compact()
    (large,) = store.manifest().parts["outcomes"]
    for _ in range(4):
        night(10_000)
        store.compact()
    assert large in store.manifest().parts["outcomes"]
    night(40_000)
    store.compact()
    assert len(store.manifest().parts["outcomes"]) == 1, "those after it have half its size by now"


def test_merged_parts_stand_where_their_rows_stood(store: Store) -> None:
    for number in range(3):
        store.commit({"runs": from_rows("runs", [{"listed": number}])})
    parts = store.manifest().parts["runs"]
    assert compaction.rewrite(store.path, 0, "runs", parts[:2])
    store.commit({"runs": from_rows("runs", [{"listed": 3}])})
    assert store.read("runs")["listed"].to_pylist() == [0, 1, 2, 3]
    assert not compaction.rewrite(store.path, 0, "runs", parts[1:2]), "it was replaced before"


def test_merged_parts_stop_growing_at_the_target(store: Store) -> None:
    for _ in range(6):
        store.commit({"outcomes": from_rows("outcomes", [{"message": os.urandom(4_000).hex()}])})
    sizes = [part.bytes for part in store.compact(target_bytes=15_000).parts["outcomes"]]
    assert len(sizes) > 1
    assert max(sizes) < 2 * 15_000


def test_compaction_keeps_the_order_and_streams_many_pieces(store: Store) -> None:
    data = os.urandom(40_000)
    for start in (0, 1_500):
        rows = [{"fingerprint_id": str(start + i), "data": data, "entries": []} for i in range(1_500)]
        store.commit({"samples": from_rows("samples", rows)})
    part = store.compact().parts["samples"][0]
    assert store.read("samples", ["fingerprint_id"])["fingerprint_id"].to_pylist() == [str(i) for i in range(3_000)]
    assert pq.ParquetFile(store.path / part.path).metadata.num_row_groups > 1


def test_retired_parts_outlive_their_readers(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", grace=3600)
    store.commit(fingerprint(1))
    held = store.manifest()
    store.compact()
    store.compact()
    assert store.read("tensors", manifest=held).num_rows == 3
    hurried = Store.open(store.path, grace=0)
    hurried.commit(fingerprint(2))  # a commit removes what is due, too
    assert held.parts["tensors"][-1].path not in parquet_files(store)
    assert hurried.manifest().retired == ()
    with pytest.raises(StoreError, match="compacted away"):
        store.read("tensors", manifest=held)
    with pytest.raises(StoreError, match="compacted away"):
        store.read("tensors", parts=held.parts["tensors"])
    with pytest.raises(StoreError, match="compacted away"):
        store.connect(held)
    assert store.verify() == []


def test_compaction_gives_way_to_one_that_was_first(store: Store) -> None:
    before = store.commit({"lineage": from_rows("lineage", [{"child": "old"}])})
    with swap.writing(store.path) as stack:
        writer = swap.stage(stack, store.path, "lineage", [store.read("lineage")])
        store.replace("lineage", from_rows("lineage", [{"child": "new"}]))
        late = swap.swap(store.path, 0, [writer], lambda live: before.paths())
    assert late == store.manifest()
    assert store.read("lineage", ["child"]).to_pylist() == [{"child": "new"}]
    assert not list(store.path.glob("*/.tmp-*"))


def test_compaction_removes_what_killed_writers_left(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    leftovers = [store.path / ".tmp-dead", store.path / "tensors" / ".tmp-dead"]
    orphan = store.path / "tensors" / f"part-00000009-{'0' * 16}.parquet"
    young = store.path / "tensors" / ".tmp-young"
    held = store.path / "tensors" / ".tmp-held"
    stranger = store.path / "tensors" / "notes.txt"
    for path in (*leftovers, orphan, young, held, stranger):
        path.write_text("x")
        if path != young:
            grow_old(path)
    with held.open() as file:
        assert files.try_lock(file.fileno())
        store.compact()
    assert [path.exists() for path in (*leftovers, orphan)] == [False] * 3
    assert young.exists()
    assert held.read_text() == "x", "a live writer holds it"
    assert stranger.exists()
