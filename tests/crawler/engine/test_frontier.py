"""Whether something is known: one function, by table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from provenance.crawler.engine.frontier import Frontier, Skip
from provenance.crawler.engine.options import CrawlOptions
from provenance.crawler.engine.tasks import CrawlRequest, CrawlTask, local_source, read_request
from provenance.schemas.enums import Mode, Reason, Source
from provenance.schemas.errors import SourceError
from provenance.schemas.records import EarlierFailure, ListedCheckpoint
from tests.support.memory_sink import MemoryHistory

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER, BEFORE = NOW + timedelta(hours=1), NOW - timedelta(hours=1)
OLD, NEW = "a" * 40, "b" * 40


def nothing() -> Sequence[ListedCheckpoint]:
    return []


def task(revision: str | None = OLD, *, named: bool = False, source: Source = Source.HUB) -> CrawlTask:
    def unopened(listed: ListedCheckpoint) -> Any:
        raise AssertionError("deciding opens nothing")

    return CrawlTask("org/name", revision, source, named, nothing, unopened)


def frontier(history: MemoryHistory, *tasks: CrawlTask, **options: Any) -> Frontier:
    return Frontier(CrawlRequest(tasks, (), None, ""), CrawlOptions(**options), history, now=NOW)


def failed(reason: Reason, again: datetime | None) -> MemoryHistory:
    return MemoryHistory(failures={"org/name": EarlierFailure(OLD, reason, 1, again)})


STORED = MemoryHistory(repos={("org/name", OLD[:12], Mode.SAMPLED)})
EMPTY = MemoryHistory(empty={("org/name", OLD[:12])})
BROKEN, DOWN, DUE = failed(Reason.MALFORMED, None), failed(Reason.NETWORK, LATER), failed(Reason.NETWORK, BEFORE)
CLOSED = failed(Reason.GATED, LATER)
GONE = MemoryHistory(forgotten={"org/name"})


@pytest.mark.parametrize(
    ("history", "revision", "options", "expected"),
    [
        (MemoryHistory(), OLD, {}, None),
        (STORED, OLD, {}, Skip.STORED),
        (STORED, NEW, {}, None),
        (STORED, None, {}, None),
        (STORED, OLD, {"mode": "full"}, None),
        (STORED, OLD, {"refingerprint": True}, None),
        (EMPTY, OLD, {}, Skip.NO_WEIGHTS),
        (EMPTY, NEW, {}, None),
        (EMPTY, OLD, {"refingerprint": True}, None),
        (EMPTY, OLD, {"retry_failed": True}, None),
        (GONE, OLD, {}, Skip.FORGOTTEN),
        (GONE, OLD, {"refingerprint": True}, Skip.FORGOTTEN),
        (BROKEN, OLD, {}, Skip.NOT_DUE),
        (BROKEN, NEW, {}, None),
        (BROKEN, None, {}, Skip.NOT_DUE),
        (BROKEN, OLD, {"retry_failed": True}, None),
        (DOWN, OLD, {}, Skip.NOT_DUE),
        (DOWN, NEW, {}, None),
        (DUE, OLD, {}, None),
        (CLOSED, NEW, {}, Skip.NOT_DUE),
        (CLOSED, NEW, {"retry_failed": True}, None),
    ],
)
def test_what_a_listing_names(
    history: MemoryHistory, revision: str | None, options: dict[str, Any], expected: Skip | None
) -> None:
    assert frontier(history, **options).decide(task(revision)) is expected
    # The user's own word is never skipped: reading tells what of it is known.
    assert frontier(history, **options).decide(task(revision, named=True)) is None


@pytest.mark.parametrize(
    ("mode", "options", "expected"),
    [
        (Mode.SAMPLED, {}, Skip.STORED),
        (Mode.FULL, {}, None),
        (Mode.FULL, {"mode": "full"}, Skip.STORED),
        (Mode.SAMPLED, {"refingerprint": True}, None),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_what_reading_tells(mode: Mode, options: dict[str, Any], expected: Skip | None, named: bool) -> None:
    checkpoint = f"org/name@{OLD[:12]}"
    history = MemoryHistory(checkpoints={(checkpoint, mode)})
    assert frontier(history, **options).decide(task(named=named), checkpoint) is expected
    assert frontier(history, **options).decide(task(named=named), f"{checkpoint}:vae") is None


def test_a_repo_is_taken_once_and_only_from_a_hub() -> None:
    first = task(named=True)
    known = frontier(MemoryHistory(), first, task(), task())
    assert list(known.tasks()) == [first, 2]
    assert known.decide(task()) is Skip.TAKEN
    copies = [task(named=True, source=Source.LOCAL)] * 2
    local = frontier(MemoryHistory(), *copies)
    assert list(local.tasks()) == copies
    assert (local.n_local, local.expected) == (2, 2)


def test_what_is_skipped_is_told_in_numbers_and_in_its_place() -> None:
    fresh = task(NEW)
    known = frontier(STORED, *[task()] * 1234, fresh, *[task()] * 3)
    assert list(known.tasks()) == [500, 500, 234, fresh, 3]


def test_without_a_hub_nothing_is_tried_again() -> None:
    assert list(frontier(DUE, retry_failed=True).retries()) == []


def test_a_request_tells_folders_from_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    request = read_request(["org/name", "org/other@main", "org"])
    assert request.names == ("org/name", "org/other@main")
    assert [one.source for one in request.local] == [Source.LOCAL]  # an empty folder is a task too
    assert request.described == "org/name org/other@main org"
    assert local_source("org") == Path("org")
    for wrong in ("./nowhere", "a/b/c", tmp_path / "nowhere"):
        with pytest.raises(SourceError, match="no such folder"):
            read_request([wrong])
