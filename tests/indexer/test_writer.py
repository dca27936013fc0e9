"""Results on their way into a store: when they are committed, and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from provenance.indexer import writer as writer_module
from provenance.indexer.history import History
from provenance.indexer.store.store import Store
from provenance.indexer.writer import Writer
from provenance.ingest import fingerprint_local
from provenance.schemas.enums import Mode, Reason, Source, Stage, Status
from provenance.schemas.protocols import FingerprintSink
from provenance.schemas.records import CrawlRun, Fingerprint, Outcome
from provenance.schemas.tables import from_rows, schema
from tests.conftest import Tensors, llama

STARTED = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


def tiny(seed: int) -> Tensors:
    return llama(seed, layers=2, hidden=32, heads=2, kv_heads=1, ffn=48, vocabulary=16)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture
def results(write_repo: Callable[..., Path]) -> list[tuple[Outcome, Fingerprint | None]]:
    """Four checkpoints that were read."""
    found: list[tuple[Outcome, Fingerprint | None]] = []
    for i in range(4):
        (made,) = fingerprint_local(write_repo(f"org/model-{i}", tiny(i)))
        repo_id = made.checkpoint.repo_id
        found.append((Outcome(repo_id, None, Status.DONE, source=Source.LOCAL, seconds=0.5), made))
    return found


def begun(store: Store) -> tuple[Writer, CrawlRun]:
    writer = Writer(store, History(store, now=STARTED), started=STARTED)
    run = CrawlRun(writer.run_id, STARTED, None, "./models", "{}", 4, 0, 0, 0, 0, 0, 0, 0, 0.0, "{}", None, None, None)
    writer.begin(run)
    return writer, run


def rows(store: Store, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = store.read(table).to_pylist()
    return found


def stored(store: Store) -> list[str]:
    return sorted(row["repo_id"] for row in rows(store, "checkpoints"))


def test_a_run_has_a_row_from_its_start_and_one_from_its_end(store: Store) -> None:
    sink: FingerprintSink
    sink, run = begun(store)
    assert sink.run_id.startswith("20260101T123000-")
    assert [row["finished_at"] for row in rows(store, "runs")] == [None]
    ended = replace(run, finished_at=STARTED + timedelta(hours=1), fingerprinted=3, watermark=STARTED, stopped="x")
    sink.finish(ended)
    assert [row for row in rows(store, "runs") if row["finished_at"]] == [
        {name: getattr(ended, name) for name in schema("runs").names}
    ]
    assert (store.path / "provenance.duckdb").exists()


def test_what_is_committed_is_an_outcome_and_a_fingerprint(store: Store, results: list[Any]) -> None:
    writer, _ = begun(store)
    failed = Outcome("org/broken", None, Status.FAILED, Stage.HEADER, "HeaderError", "cut", Reason.MALFORMED)
    writer.add(results[:1], named=True)
    writer.add([(failed, None)], named=True)
    assert rows(store, "outcomes") == []
    writer.commit()
    one, other = sorted(rows(store, "outcomes"), key=lambda row: row["repo_id"])
    assert (one["status"], one["stage"], one["reason"], one["error"]) == (
        "failed",
        "header",
        "malformed",
        "HeaderError",
    )
    assert (other["repo_id"], other["status"], other["source"], other["seconds"]) == (
        "org/model-0",
        "done",
        "local",
        0.5,
    )
    assert one["run_id"] == other["run_id"] == writer.run_id
    assert stored(store) == ["org/model-0"]
    assert store.verify() == []
    assert History(store, now=STARTED).has_checkpoint(results[0][1].checkpoint.checkpoint_id, Mode.FULL)
    writer.commit()
    assert len(rows(store, "outcomes")) == 2  # once


@pytest.mark.parametrize(
    ("limit", "value", "after"), [("COMMIT_EVERY", 2, 2), ("COMMIT_OUTCOMES", 3, 3), ("COMMIT_SECONDS", -1.0, 1)]
)
def test_a_commit_is_due(
    store: Store, results: list[Any], monkeypatch: pytest.MonkeyPatch, limit: str, value: float, after: int
) -> None:
    monkeypatch.setattr(writer_module, limit, value)
    writer, _ = begun(store)
    for number, result in enumerate(results[:after], start=1):
        assert stored(store) == []
        writer.add([result], named=True)
        writer.commit_if_due()
        assert len(stored(store)) == (number if number == after else 0)
    manifest = store.manifest()
    writer.commit_if_due()  # nothing waits
    assert store.manifest() == manifest


def test_what_is_forgotten_meanwhile_is_left_out_unless_it_was_named(store: Store, results: list[Any]) -> None:
    history = History(store, now=STARTED)
    writer = Writer(store, history, started=STARTED)
    failed = Outcome("org/model-1", None, Status.FAILED, source=Source.HUB)
    writer.add([results[0], results[1], (failed, None)], named=False)
    writer.add([results[2]], named=True)
    gone = [{"repo_id": f"org/model-{i}", "forgotten_at": STARTED + timedelta(minutes=1)} for i in (1, 2)]
    long_ago = {"repo_id": "org/model-0", "forgotten_at": STARTED - timedelta(days=1)}
    store.commit({"tombstones": from_rows("tombstones", [*gone, long_ago])})
    writer.commit()
    assert writer.left_out == 1
    assert stored(store) == ["org/model-0", "org/model-2"]
    assert {row["repo_id"] for row in rows(store, "outcomes")} == {"org/model-0", "org/model-2"}
    assert {"org/model-1", "org/model-2"} <= history.forgotten
    writer.add([results[3]], named=False)
    writer.commit()
    assert writer.left_out == 1
    assert stored(store) == ["org/model-0", "org/model-2", "org/model-3"]


def test_small_parts_are_merged_now_and_then(store: Store, results: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "COMPACT_EVERY", 3)
    writer, _ = begun(store)
    for result in results:
        writer.add([result], named=True)
        writer.commit()
    assert len(store.manifest().parts["checkpoints"]) < len(results)
    assert stored(store) == [f"org/model-{i}" for i in range(4)]
    assert store.verify() == []
