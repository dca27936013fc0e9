"""Taking over another store: what comes, what stays behind, and that a kill leaves whole checkpoints only."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import provenance
from provenance.indexer.store import transfer
from provenance.indexer.store.lease import crawl_lease
from provenance.indexer.store.store import Store
from provenance.indexer.store.transfer import COPIED, Taken, take_over
from provenance.schemas.errors import StoreBusyError, StoreCorruptError, StoreError, StoreFormatError
from provenance.schemas.sampling import SAMPLE_VERSION
from provenance.schemas.tables import from_rows
from tests.support.command_line import CHILD, MINIATURE, PARENT, Run
from tests.support.store_rows import NOW, fingerprint

HOUR = timedelta(hours=1)
SPAWN = multiprocessing.get_context("spawn")
WHOLE = """
    SELECT (SELECT count(*) FROM checkpoints), (SELECT count(*) FROM files), (SELECT count(*) FROM samples),
           (SELECT count(*) FROM tensors)
"""


def sound(number: int, **checkpoint: Any) -> dict[str, pa.Table]:
    """The rows of a fingerprint of our versions."""
    rows = fingerprint(number, **{"sample_version": SAMPLE_VERSION, "fingerprinted_at": NOW, **checkpoint})
    roles = pa.array(["q"] * rows["tensors"].num_rows)
    column = rows["tensors"].column_names.index("role")
    return {**rows, "tensors": rows["tensors"].set_column(column, "role", roles)}


@pytest.fixture
def target(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "target")


@pytest.fixture
def source(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "source")


def content(store: Store, table: str) -> list[dict[str, Any]]:
    return sorted(store.read(table).to_pylist(), key=str)


def test_all_rows_of_the_unknown_checkpoints_come(source: Store, target: Store) -> None:
    for number in range(6):
        source.commit(sound(number))
    source.commit({"outcomes": from_rows("outcomes", [{"repo_id": "x"}]), "runs": from_rows("runs", [{"run_id": "r"}])})
    assert take_over(target, source) == Taken(imported=6)
    assert target.verify() == []
    for table in COPIED:
        assert content(target, table) == content(source, table)
    assert target.read("outcomes").num_rows == target.read("runs").num_rows == 0
    before = target.manifest()
    assert take_over(target, source) == Taken(known=6)
    assert target.manifest() == before


def test_what_is_here_is_left(source: Store, target: Store) -> None:
    target.commit(sound(1, license="ours"))
    source.commit(sound(1, license="theirs", fingerprint_id="other"))
    source.commit(sound(2))
    full = {"mode": "full", "repo_id": "org/model-1", "revision": f"{1:012x}"}
    source.commit({name: _renamed(rows, "f3", sound(1)) for name, rows in sound(3, **full).items()})
    assert take_over(target, source) == Taken(imported=2, known=1)
    rows = target.read("checkpoints", ["fingerprint_id", "mode", "license"]).to_pylist()
    assert [(row["fingerprint_id"], row["mode"], row["license"]) for row in rows] == [
        ("f1", "sampled", "ours"),
        ("f2", "sampled", None),
        ("f3", "full", None),
    ]


def _renamed(rows: pa.Table, fingerprint_id: str, like: dict[str, pa.Table]) -> pa.Table:
    """Rows under the checkpoint id of another fingerprint."""
    name = like["checkpoints"]["checkpoint_id"][0].as_py()
    return rows.set_column(rows.column_names.index("checkpoint_id"), "checkpoint_id", pa.array([name] * rows.num_rows))


@pytest.mark.parametrize("scattered", [False, True])
def test_batches_find_their_rows_wherever_they_lie(
    source: Store, target: Store, monkeypatch: pytest.MonkeyPatch, scattered: bool
) -> None:
    monkeypatch.setattr(transfer, "BATCH", 4)
    numbers = list(range(22))
    for number in numbers:
        source.commit(sound(number))
        if number in (5, 9):
            source.compact(target_bytes=1 << 16)
    if scattered:
        rows = source.read("tensors")
        source.replace("tensors", rows.take(pa.array(list(reversed(range(rows.num_rows))))))
    before = target.manifest().sequence
    assert take_over(target, source) == Taken(imported=22)
    assert target.manifest().sequence == before + 6, "a commit for every four"
    for table in COPIED:
        assert content(target, table) == content(source, table)
    assert target.verify() == []


def test_repos_forgotten_on_either_side_stay_behind(source: Store, target: Store) -> None:
    for number in range(3):
        source.commit(sound(number))
    # Here a repo stays forgotten even where the other store read it later; there only what was read before is hidden.
    for where, repo, at in ((target, "org/model-0", NOW - timedelta(days=9)), (source, "org/model-1", NOW + HOUR)):
        where.commit({"tombstones": from_rows("tombstones", [{"repo_id": repo, "forgotten_at": at}])})
    assert take_over(target, source) == Taken(imported=1, forgotten=1)
    assert target.read("checkpoints")["repo_id"].to_pylist() == ["org/model-2"]
    assert target.read("tombstones")["repo_id"].to_pylist() == ["org/model-0"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("fingerprint_version", 2),
        ("sample_version", "sample-v9"),
        ("sample_version", None),
        ("fingerprint_version", None),
    ],
)
def test_other_versions_are_refused_as_a_whole(source: Store, target: Store, column: str, value: object) -> None:
    source.commit(sound(1))
    source.commit(sound(2, **{column: value}))
    with pytest.raises(StoreFormatError, match=f"1 checkpoints with .*{value}.* nothing was imported"):
        take_over(target, source)
    assert target.manifest().sequence == 0


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("checkpoints", "checkpoint_id", "org/other@000000000001"),
        ("checkpoints", "repo_id", "../../etc"),
        ("checkpoints", "revision", None),
        ("checkpoints", "fingerprint_id", None),
        ("files", "checkpoint_id", "org/other@000000000001"),
        ("tensors", "role", "crown"),
        ("tensors", "role", None),
        ("tensors", "layer", -1),
        ("tensors", "expert", 1 << 20),
        ("tensors", "digest", "no digest"),
        ("tensors", "shape", [4, -4]),
        ("tensors", "shape", None),
        ("samples", "data", bytes(1 << 17)),
        ("samples", "data", b""),
        ("samples", "data", None),
        ("samples", "entries", {"offset": -1}),
        ("samples", "entries", {"count": 3}),
        ("samples", "entries", {"exponent": 1 << 20}),
    ],
)
def test_checkpoints_that_would_break_the_index_are_refused(
    source: Store, target: Store, table: str, column: str, value: Any
) -> None:
    source.commit(sound(1))
    rows = sound(2)
    if column == "entries":
        value = [{**rows["samples"]["entries"][0].as_py()[0], **value}]
    broken = [{**row, column: value} for row in rows[table].to_pylist()]
    source.commit({**rows, table: from_rows(table, broken)})
    assert take_over(target, source) == Taken(imported=1, malformed=1)
    assert target.read("checkpoints")["fingerprint_id"].to_pylist() == ["f1"]
    assert target.verify() == []


def test_one_fingerprint_id_for_two_checkpoints_is_refused(source: Store, target: Store) -> None:
    target.commit(sound(1))
    rows = {name: table.to_pylist() for name, table in sound(2).items()}
    for name, of in rows.items():
        source.commit({name: from_rows(name, [{**row, "fingerprint_id": "f1"} for row in of])})
    assert take_over(target, source) == Taken(malformed=1)


def test_a_store_is_not_imported_into_itself(source: Store, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(source.path)
    with pytest.raises(StoreError, match="is the store to import into"):
        take_over(source, Store.open(tmp_path / "alias"))


def test_no_import_beside_a_crawl(source: Store, target: Store) -> None:
    with provenance.open(target.path) as database, crawl_lease(target.path), pytest.raises(StoreBusyError):
        database.take_over(source.path)


def test_lost_and_damaged_parts_of_the_other_store(source: Store, target: Store) -> None:
    part = source.commit(sound(1)).parts["samples"][-1]
    data = (source.path / part.path).read_bytes()
    (source.path / part.path).write_bytes(b"x" * len(data))
    with pytest.raises(StoreCorruptError, match=f"{part.path} cannot be read"):
        take_over(target, source)
    (source.path / part.path).unlink()
    with pytest.raises(StoreError, match=r"compacted during the import .* import it again"):
        take_over(target, source)
    assert target.read("checkpoints").num_rows == 0
    (source.path / part.path).write_bytes(data)
    assert take_over(target, source) == Taken(imported=1)


def import_slowly(target: Path, source: Path) -> None:
    """Import one checkpoint a commit."""
    transfer.BATCH = 1
    take_over(Store.open(target), Store.open(source))


def test_a_killed_import_leaves_whole_checkpoints_and_goes_on(source: Store, target: Store) -> None:
    n = 120
    for start in range(0, n, 40):
        batch = [sound(number) for number in range(start, start + 40)]
        source.commit({name: pa.concat_tables([rows[name] for rows in batch]) for name in batch[0]})
    process = SPAWN.Process(target=import_slowly, args=(target.path, source.path))
    process.start()
    try:
        deadline = time.monotonic() + 60
        while target.manifest().sequence < 5:
            assert time.monotonic() < deadline, "it never committed"
            time.sleep(0.005)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ran until it was killed"
    finally:
        process.kill()
        process.join()
    assert target.verify() == []
    with target.connect() as connection:
        checkpoints, files, samples, tensors = connection.execute(WHOLE).fetchall()[0]
    assert 5 <= checkpoints < n
    assert (files, samples, tensors) == (checkpoints, checkpoints, 3 * checkpoints)
    assert take_over(target, source) == Taken(imported=n - checkpoints, known=checkpoints)
    assert target.read("checkpoints").num_rows == n
    assert target.verify() == []


# --- the command


def test_import_on_the_command_line(run: Run, store: Path, tmp_path: Path) -> None:
    run("crawl", str(MINIATURE / PARENT), "--store", "mine")
    run("forget", PARENT, "--yes", "--store", "mine")
    done = run("import", str(store), "--store", "mine")
    assert (done.status, done.raw) == (0, b"")
    assert done.err == "6 checkpoints imported, 0 were known; refused: 1 forgotten here, 0 malformed\n"
    assert run("verify", "--store", "mine").status == 0
    run("index", "--store", "mine")
    answer = run("query", CHILD, "--store", "mine").json
    assert PARENT not in [c["repo_id"] for c in answer["candidates"]]
    fresh = run("import", str(store), "--store", "new")
    assert fresh.err.startswith("7 checkpoints imported")
    run("index", "--store", "new")
    theirs, ours = run("query", CHILD).json, run("query", CHILD, "--store", "new").json
    assert theirs["candidates"] == ours["candidates"]


def test_import_of_what_is_no_store_leaves_nothing(run: Run, tmp_path: Path, store: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("import", "empty", "--store", "new")
    assert done.status == 1
    assert "no store at" in done.err
    assert run("import", "nowhere", "--store", "new").status == 2
    old = Path(shutil.copytree(store, tmp_path / "old"))
    (old / "FORMAT").write_text(json.dumps({"format": 1}))
    refused = run("import", "old", "--store", "new")
    assert refused.status == 1
    assert "has format 1" in refused.err
    assert not (tmp_path / "new").exists()
    assert "is the store to import into" in run("import", str(store)).err
