"""Several processes and one store: writers killed at any instant, readers beside a writer and a compactor."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import duckdb
import pytest

from provenance.indexer.store.store import Store
from provenance.schemas.tables import FINGERPRINT_TABLES, from_rows
from tests.support.store_rows import fingerprint

SPAWN = multiprocessing.get_context("spawn")
N_TENSORS = 4
SOUND = f"""
    SELECT count(*) FROM checkpoints LEFT JOIN (SELECT fingerprint_id, count(*) AS n FROM tensors GROUP BY ALL) AS t
    USING (fingerprint_id) WHERE n IS DISTINCT FROM {N_TENSORS}
"""


def write_for_ever(path: Path, offset: int) -> None:
    """Commit, replace, compact and rewrite the views until killed."""
    store = Store.open(path, grace=0.5)
    for number in itertools.count(offset):
        store.commit(fingerprint(number, N_TENSORS))
        if number % 7 == 3:
            store.replace("lineage", from_rows("lineage", [{"child": str(number)}]))
        if number % 10 == 5:
            store.compact()
        if number % 25 == 7:
            store.write_views()


def create_one(path: Path) -> None:
    Store.create(path)


def read_for(path: Path, seconds: float) -> None:
    """Check in every state seen that checkpoints and tensors fit each other, through both kinds of views.

    Ends without an error when every read was sound and several states were seen.
    """
    store, seen = Store.open(path), set()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or len(seen) < 3:
        with store.connect() as connection:
            found = connection.execute(
                f"SELECT (SELECT count(*) FROM checkpoints), (SELECT count(*) FROM tensors), ({SOUND})"
            ).fetchone()
        assert found is not None
        assert found[1:] == (found[0] * N_TENSORS, 0), found
        assert store.read("lineage").num_rows <= 1
        seen.add(found[0])
        with duckdb.connect(path / "provenance.duckdb", read_only=True) as client:
            assert client.execute(SOUND).fetchone() == (0,)


@contextmanager
def running(*processes: BaseProcess) -> Iterator[None]:
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def wait_for_commit(store: Store, after: int) -> None:
    deadline = time.monotonic() + 60
    while store.manifest().sequence <= after:
        assert time.monotonic() < deadline, "the writer never committed"
        time.sleep(0.01)


@pytest.mark.parametrize("seed", range(3))
def test_killed_writer_leaves_nothing_torn(tmp_path: Path, seed: int) -> None:
    store = Store.create(tmp_path / "store", grace=0.5)
    store.write_views()
    pause = random.Random(seed)
    writers = [SPAWN.Process(target=write_for_ever, args=(store.path, offset)) for offset in (0, 1_000_000)]
    with running(*writers):
        wait_for_commit(store, 3)
        for writer in writers:
            # A lock that died with the writer before must not stop this one.
            wait_for_commit(store, store.manifest().sequence)
            time.sleep(pause.random() * 0.3)
            assert writer.pid is not None
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
            assert writer.exitcode == -signal.SIGKILL, "it ran until it was killed"
    again = Store.open(store.path, grace=0)
    assert again.verify() == []
    with again.connect() as connection:
        assert connection.execute(SOUND).fetchone() == (0,)
    with duckdb.connect(store.path / "provenance.duckdb", read_only=True) as client:
        client.execute("SHOW TABLES")
    before = again.read("checkpoints").num_rows
    again.commit(fingerprint(5_000_000, N_TENSORS))
    again.compact()
    assert again.read("checkpoints").num_rows == before + 1
    assert again.verify() == []
    assert not list(store.path.rglob(".tmp-*")), "what the killed writers left is gone"
    on_disk = {str(path.relative_to(store.path)) for path in store.path.glob("*/part-*")}
    assert on_disk == again.manifest().paths()


def test_readers_beside_a_writer_and_a_compactor(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    store.commit(fingerprint(999_999, N_TENSORS))
    store.write_views()
    readers = [SPAWN.Process(target=read_for, args=(store.path, 4.0)) for _ in range(2)]
    writer = SPAWN.Process(target=write_patiently, args=(store.path,))
    with running(writer, *readers):
        for reader in readers:
            reader.join(60)
            assert reader.exitcode == 0
        assert writer.exitcode is None, "the writer was at work all the time"
    assert store.manifest().sequence > 3
    assert store.verify() == []


def write_patiently(path: Path) -> None:
    """As `write_for_ever`, with a grace that outlives one read; views are renewed with every compaction."""
    store = Store.open(path, grace=3)
    for number in itertools.count():
        store.commit(fingerprint(number, N_TENSORS))
        if number % 5 == 4:
            store.compact()
            store.write_views()


def test_processes_creating_one_store_agree(tmp_path: Path) -> None:
    processes = [SPAWN.Process(target=create_one, args=(tmp_path / "store",)) for _ in range(3)]
    with running(*processes):
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
    store = Store.open(tmp_path / "store")
    assert store.verify() == []
    assert all(len(list((store.path / table).iterdir())) == 1 for table in FINGERPRINT_TABLES)


def test_creation_killed_at_any_instant_can_be_repeated(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"store-{number}"
        process = SPAWN.Process(target=create_one, args=(path,))
        with running(process):
            deadline = time.monotonic() + 60
            while not path.exists():
                assert time.monotonic() < deadline
            time.sleep(0.01 * number)
        store = Store.create(path)
        store.commit(fingerprint(1))
        assert store.verify() == []
