"""What a store tells the next crawl."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import provenance
from provenance.demo_hub import LoopbackHub
from provenance.indexer.history import History
from provenance.indexer.store.store import Store
from provenance.schemas.enums import Mode, Reason
from provenance.schemas.protocols import CrawlHistory
from provenance.schemas.records import EarlierFailure, RepoFile
from provenance.schemas.tables import FINGERPRINT_VERSION, from_rows
from tests.support import store_rows
from tests.support.nights import Night, repo

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REVISION = "c" * 40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    repos = [repo(f"org/model-{i}", i) for i in range(2)]
    with LoopbackHub(repos) as hub, provenance.open(tmp_path / "crawled", create=True) as database:
        yield Night(hub, database)


def add(store: Store, table: str, *rows: dict[str, Any]) -> None:
    store.commit({table: from_rows(table, list(rows))})


def outcome(repo_id: str, days: float, **columns: Any) -> dict[str, Any]:
    """A row of `outcomes`, so many days old."""
    at = NOW - timedelta(days=days)
    return {"run_id": f"run-{days}", "repo_id": repo_id, "source": "hub", "status": "done", "at": at, **columns}


def failed(repo_id: str, days: float, **columns: Any) -> dict[str, Any]:
    return outcome(repo_id, days, **{"status": "failed", "reason": "network", "attempts": 1, **columns})


def test_an_empty_store_knows_nothing(store: Store) -> None:
    history: CrawlHistory = History(store, now=NOW)
    assert not history.has_checkpoint("org/name@c", Mode.FULL)
    assert not history.has_repo("org/name", REVISION, Mode.FULL)
    assert not history.has_no_weights("org/name", REVISION)
    assert history.fingerprint_of([RepoFile("model.safetensors", 1, "d" * 64)], Mode.FULL) is None
    assert (dict(history.failures), set(history.forgotten), list(history.watermarks("all"))) == ({}, set(), [])


@pytest.mark.parametrize(("source", "whole"), [("hub", True), ("local", False)])
def test_a_stored_checkpoint_is_known_in_its_mode(store: Store, source: str, whole: bool) -> None:
    columns = {"fingerprint_version": FINGERPRINT_VERSION, "source": source, "mode": "sampled"}
    store.commit(store_rows.fingerprint(7, **columns, revision="7" * 40))
    history = History(store, now=NOW)
    identity = f"org/model-7@{7:012x}"
    assert history.has_checkpoint(identity, Mode.SAMPLED)
    assert not history.has_checkpoint(identity, Mode.FULL)
    # A local copy may be of one checkpoint of several: it says nothing of the whole repo.
    assert history.has_repo("org/model-7", "7" * 40, Mode.SAMPLED) is whole
    assert not history.has_repo("org/model-7", "7" * 40, Mode.FULL)
    assert not history.has_repo("org/model-7", "8" * 40, Mode.SAMPLED)


def test_fingerprints_of_another_version_are_to_be_made_anew(store: Store) -> None:
    store.commit(store_rows.fingerprint(7, fingerprint_version=FINGERPRINT_VERSION + 1, source="hub"))
    history = History(store, now=NOW)
    assert not history.has_checkpoint(f"org/model-7@{7:012x}", Mode.SAMPLED)
    assert not history.has_repo("org/model-7", f"{7:012x}", Mode.SAMPLED)


def test_a_repo_without_weights_is_known_at_its_revision(store: Store) -> None:
    add(
        store,
        "outcomes",
        outcome("org/pickled", 1, status="skipped", reason="no-weights", revision=REVISION),
        outcome("org/copy", 1, status="skipped", reason="no-weights", revision=REVISION, source="local"),
    )
    history = History(store, now=NOW)
    assert history.has_no_weights("org/pickled", REVISION)
    assert not history.has_no_weights("org/pickled", "d" * 40)
    assert not history.has_no_weights("org/copy", REVISION)


def test_only_a_last_attempt_that_failed_is_a_failure(store: Store) -> None:
    again = NOW + timedelta(hours=2)
    add(store, "runs", *({"run_id": f"run-{days}", "listing": f"listing-{days}"} for days in (1, 2)))
    add(
        store,
        "outcomes",
        failed("org/down", 2),
        failed("org/down", 1, attempts=2, revision=REVISION, next_attempt_at=again),
        failed("org/mended", 2),
        outcome("org/mended", 1),
        outcome("org/broken", 2),
        failed("org/broken", 1, reason="malformed"),
        failed("org/local", 1, source="local"),
        failed("org/ahead", -900, reason="gated"),  # a wrong clock
        failed("org/strange", 3, reason="from the future"),
    )
    both = frozenset({"listing-1", "listing-2"})
    assert dict(History(store, now=NOW).failures) == {
        "org/down": EarlierFailure(REVISION, Reason.NETWORK, 2, again, both),
        "org/broken": EarlierFailure(None, Reason.MALFORMED, 1, None, both),
        "org/strange": EarlierFailure(None, Reason.UNEXPECTED, 1, None),
    }


def test_watermarks_are_those_of_their_listing(store: Store) -> None:
    marks = [NOW - timedelta(days=days) for days in (3, 1)]
    rows = [{"run_id": f"run-{i}", "listing": "one", "watermark": mark} for i, mark in enumerate(marks)]
    add(store, "runs", *rows, {"run_id": "x", "listing": "one"}, {"run_id": "y", "listing": "two", "watermark": NOW})
    history = History(store, now=NOW)
    assert sorted(history.watermarks("one")) == marks
    assert history.watermarks("two") == [NOW]
    assert history.watermarks("three") == []


def test_what_was_taken_out_is_forgotten_until_it_is_stored_again(store: Store) -> None:
    add(store, "tombstones", *({"repo_id": f"org/model-{i}", "forgotten_at": NOW} for i in (1, 2)))
    later = NOW + timedelta(days=1)
    columns = {"fingerprint_version": FINGERPRINT_VERSION, "source": "hub", "fingerprinted_at": later}
    store.commit(store_rows.fingerprint(2, **columns))
    history = History(store, now=NOW)
    assert history.forgotten == {"org/model-1"}
    history.forget(["org/model-3"])
    assert history.forgotten == {"org/model-1", "org/model-3"}


def test_a_fingerprint_that_is_gone_is_nothing_to_go_by(night: Night) -> None:
    night.crawl()
    store = night.database.store
    files = store.read("files").to_pylist()
    known = [RepoFile(f["path"], f["size"], f["sha256"]) for f in files if f["checkpoint_id"].startswith("org/model-0")]
    history = History(store, now=datetime.now(UTC))
    assert history.fingerprint_of(known, Mode.SAMPLED) is not None
    assert history.fingerprint_of(known, Mode.FULL) is None
    assert history.fingerprint_of([RepoFile("model.safetensors", 1)], Mode.SAMPLED) is None
    night.database.forget(["org/model-0"])
    night.database.compact()
    assert history.fingerprint_of(known, Mode.SAMPLED) is None
