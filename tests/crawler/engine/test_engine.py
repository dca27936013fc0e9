"""Crawls without a store: the two protocols are all that the engine needs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from provenance.crawler.engine.crawl import crawl
from provenance.crawler.engine.options import CrawlOptions, HubListing
from provenance.crawler.engine.summary import CrawlSummary
from provenance.crawler.engine.tasks import read_request
from provenance.demo_hub import HubRepo, LoopbackHub
from provenance.schemas.enums import Mode, Reason, Source, Stage, Status
from provenance.schemas.errors import SourceError, StoreError
from provenance.schemas.records import EarlierFailure, Fingerprint, Outcome, RepoFile
from tests.conftest import Tensors, llama
from tests.support.memory_sink import MemoryHistory, MemorySink, digests
from tests.support.nights import LONG_AGO, pickled, repo

WriteRepo = Callable[..., Path]

SHA = "a1" * 20
ALL = HubListing()
NAMES = [f"org/model-{i}" for i in range(4)]


def tiny(seed: int) -> Tensors:
    return llama(seed, layers=2, hidden=32, heads=2, kv_heads=1, ffn=48, vocabulary=16)


def run(
    history: MemoryHistory,
    sources: Sequence[str | Path] = (),
    listing: HubListing | None = None,
    *,
    sink: MemorySink | None = None,
    now: datetime | None = None,
    **options: Any,
) -> tuple[CrawlSummary, MemorySink]:
    """One crawl; the history is told of it."""
    sink = sink or MemorySink()
    request = read_request(sources, listing)
    summary = crawl(request, CrawlOptions(**options), history, sink, now=now or datetime.now(UTC))
    history.learn(sink)
    return summary, sink


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """Four repos with weights and one without."""
    repos = [repo(name, i, createdAt=LONG_AGO, lastModified=LONG_AGO) for i, name in enumerate(NAMES)]
    with LoopbackHub([*repos, pickled("org/pickled")], page_size=3) as hub:
        yield hub


def asked(hub: LoopbackHub, since: int) -> list[str]:
    return [exchange.path.partition("?")[0] for exchange in hub.requests[since:]]


# ---------------------------------------------------------------- local folders


def test_a_folder_is_crawled_into_memory(write_repo: WriteRepo, tmp_path: Path) -> None:
    write_repo("org/one", tiny(1), listing={"sha": SHA})
    write_repo("org/two", tiny(2))
    (tmp_path / "models" / "org" / "broken").mkdir()
    (tmp_path / "models" / "org" / "broken" / "model.safetensors").write_bytes(b"x")
    history = MemoryHistory()
    summary, sink = run(history, [tmp_path / "models"])

    assert sink.statuses() == {"org/one": Status.DONE, "org/two": Status.DONE, "org/broken": Status.FAILED}
    assert (summary.listed, summary.fingerprinted, summary.skipped, summary.failed) == (3, 2, 0, 1)
    (failure,) = summary.failures
    assert (failure.stage, failure.reason, failure.source) == (Stage.HEADER, Reason.MALFORMED, Source.LOCAL)
    begun, ended = sink.runs
    assert (begun.listed, begun.fingerprinted, begun.finished_at) == (3, 0, None)
    assert (ended.listed, ended.fingerprinted, ended.failed, ended.stopped) == (3, 2, 1, None)
    assert ended.finished_at is not None
    assert ended.finished_at >= ended.started_at == begun.started_at
    assert (ended.bytes_read, ended.range_requests) == (summary.bytes_read, summary.requests)
    assert ended.source == str(tmp_path / "models")
    assert json.loads(ended.arguments)["workers"] == 2

    # What has a commit needs no read, what has none is told by its content; both are known, by the same question.
    again, second = run(history, [tmp_path / "models"])
    assert (again.fingerprinted, again.skipped, again.failed) == (0, 2, 1)
    known = {o.repo_id: (o.reason, o.stage, o.bytes_read > 0) for o, _ in second.kept if o.status is Status.SKIPPED}
    assert known == {"org/one": (Reason.KNOWN, Stage.PLAN, False), "org/two": (Reason.KNOWN, Stage.STORE, True)}
    fresh, _ = run(history, [tmp_path / "models"], refingerprint=True)
    assert fresh.fingerprinted == 2


def test_the_engine_loads_no_store() -> None:
    code = (
        "import sys, provenance.crawler.engine.crawl, provenance.crawler.hub.listing;"
        "print([name for name in sys.modules if name.startswith(('provenance.indexer', 'duckdb', 'pyarrow'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    # The version of fingerprints stands beside the tables, which Arrow describes.
    assert "provenance.indexer" not in done.stdout, done.stdout
    assert "duckdb" not in done.stdout
    assert done.returncode == 0, done.stderr


def test_a_summary_is_plain_values(write_repo: WriteRepo, tmp_path: Path) -> None:
    write_repo("org/one", tiny(1))
    (tmp_path / "models" / "org" / "empty").mkdir()
    (tmp_path / "models" / "org" / "empty" / "model.safetensors").write_bytes(b"")
    summary, _ = run(MemoryHistory(), [tmp_path / "models"])
    told = json.loads(json.dumps(summary.to_dict()))
    assert told["fingerprinted"] == summary.fingerprinted == 1
    assert [failure["reason"] for failure in told["failures"]] == ["malformed"]
    assert told.keys() == set(CrawlSummary.__slots__)


class FullSink(MemorySink):
    """Takes two commits."""

    def commit(self) -> None:
        if self.kept:
            raise StoreError("the disk is full")
        super().commit()


def test_a_sink_that_is_full_ends_the_crawl(write_repo: WriteRepo, tmp_path: Path) -> None:
    for i in range(8):
        write_repo(f"org/name-{i}", tiny(i))
    sink = FullSink()
    with pytest.raises(StoreError, match="the disk is full"):
        run(MemoryHistory(), [tmp_path / "models"], sink=sink, workers=1)
    assert len(sink.kept) == 3  # what was committed
    assert len(sink.runs) == 1  # and no word of an end


def test_a_hub_that_cannot_be_asked_begins_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = MemorySink()
    with pytest.raises(SourceError, match="endpoint"):
        run(MemoryHistory(), ["org/name"], sink=sink, endpoint="ftp://nowhere")
    assert sink.runs == []


# ---------------------------------------------------------------- a hub, night after night


def test_the_second_night_reads_nothing(hub: LoopbackHub) -> None:
    history = MemoryHistory()
    first, sink = run(history, listing=ALL, endpoint=hub.endpoint)
    assert (first.listed, first.fingerprinted, first.skipped) == (5, 4, 1)
    assert sink.runs[1].watermark == sink.runs[1].started_at
    assert sink.runs[0].watermark is None
    assert sink.runs[1].api_requests == 2

    before = len(hub.requests)
    changed, _ = run(history, listing=ALL, endpoint=hub.endpoint)
    assert (changed.listed, changed.skipped) == (0, 0)
    whole, second = run(history, listing=ALL, endpoint=hub.endpoint, full_walk=True)
    assert (whole.listed, whole.skipped, whole.fingerprinted) == (5, 5, 0)
    assert second.kept == []  # nothing happened to them
    assert set(asked(hub, before)) == {"/api/models"}


def test_a_failure_waits_for_its_time(hub: LoopbackHub) -> None:
    hub.repos[NAMES[1]] = repo(NAMES[1], 1, gated="auto", createdAt=LONG_AGO, lastModified=LONG_AGO)
    history, now = MemoryHistory(), datetime.now(UTC)
    first, _ = run(history, listing=ALL, endpoint=hub.endpoint, now=now)
    assert first.failed == 1
    failure = history.failures[NAMES[1]]
    assert (failure.reason, failure.next_attempt_at) == (Reason.GATED, now + timedelta(days=30))
    hub.repos[NAMES[1]] = repo(NAMES[1], 1, createdAt=LONG_AGO, lastModified=LONG_AGO)

    day, month = now + timedelta(days=1), now + timedelta(days=30)
    assert run(history, listing=ALL, endpoint=hub.endpoint, now=day, full_walk=True)[0].skipped == 5
    assert run(history, listing=ALL, endpoint=hub.endpoint, now=day)[0].listed == 0
    before = len(hub.requests)
    due, sink = run(history, listing=ALL, endpoint=hub.endpoint, now=month)  # it is not listed: it is tried by name
    assert (due.listed, due.fingerprinted) == (1, 1)
    assert f"/api/models/{NAMES[1]}" in asked(hub, before)
    assert sink.statuses() == {NAMES[1]: Status.DONE}


def test_one_listings_failures_are_not_anothers(hub: LoopbackHub) -> None:
    history, past = MemoryHistory(), datetime(2026, 1, 1, tzinfo=UTC)
    org = HubListing(author="org")
    run(history, listing=org, endpoint=hub.endpoint, now=past)
    (key,) = history.marks
    failed = EarlierFailure(None, Reason.NETWORK, 1, past, frozenset({key}))
    history.failures = {
        NAMES[0]: failed,
        NAMES[1]: EarlierFailure(None, Reason.NETWORK, 1, past, frozenset({"another"})),
    }
    found, sink = run(history, listing=org, endpoint=hub.endpoint)
    assert (found.listed, sink.statuses().keys()) == (1, {NAMES[0]})
    assert run(history, endpoint=hub.endpoint, retry_failed=True)[1].statuses().keys() == {NAMES[1]}


def test_what_was_taken_out_comes_back_by_name_only(hub: LoopbackHub) -> None:
    history = MemoryHistory(forgotten={NAMES[2]})
    listed, sink = run(history, listing=ALL, endpoint=hub.endpoint)
    assert (listed.fingerprinted, listed.skipped) == (3, 2)
    assert NAMES[2] not in sink.statuses()
    assert run(history, [NAMES[2]], endpoint=hub.endpoint)[0].fingerprinted == 1


def test_what_is_taken_out_meanwhile_is_counted_as_skipped(hub: LoopbackHub) -> None:
    sink = MemorySink(taken_out=frozenset(NAMES[:2]))
    found, _ = run(MemoryHistory(), [NAMES[0]], ALL, sink=sink, endpoint=hub.endpoint)
    assert sink.statuses().keys() == {*NAMES, "org/pickled"} - {NAMES[1]}  # the first one was named
    assert (found.listed, found.fingerprinted, found.skipped) == (6, 3, 3)
    assert (sink.runs[1].fingerprinted, sink.runs[1].skipped) == (3, 3)


def test_a_known_checkpoint_of_several_is_not_read(hub: LoopbackHub) -> None:
    parts = {folder: repo("org/two", seed).files for seed, folder in enumerate("ab", start=1)}
    two = HubRepo("org/two", {f"{part}/{path}": file for part, files in parts.items() for path, file in files.items()})
    hub.repos["org/two"] = two
    sha = str(two.listing["sha"])
    history = MemoryHistory(checkpoints={(f"org/two@{sha[:12]}:a", Mode.SAMPLED)})
    before = len(hub.requests)
    found, sink = run(history, ["org/two"], endpoint=hub.endpoint)
    assert (found.fingerprinted, found.skipped) == (1, 1)
    assert [(outcome.status, outcome.reason) for outcome, _ in sink.kept] == [
        (Status.SKIPPED, Reason.KNOWN),
        (Status.DONE, None),
    ]
    assert not any("/a/" in path for path in asked(hub, before))


def test_files_that_are_known_are_not_read_again(hub: LoopbackHub) -> None:
    first, sink = run(MemoryHistory(), [NAMES[0]], endpoint=hub.endpoint)
    ((_, fingerprint),) = sink.kept
    assert fingerprint is not None
    (file,) = [hub.repos[NAMES[0]].files["model.safetensors"]]
    history = MemoryHistory(files={((file.sha256,), Mode.SAMPLED): fingerprint})
    again, second = run(history, [NAMES[0]], endpoint=hub.endpoint)
    ((_, copied),) = second.kept
    assert copied is not None
    assert copied.tensors == fingerprint.tensors
    assert again.bytes_read < first.bytes_read / 10  # the header alone
    assert run(history, [NAMES[0]], endpoint=hub.endpoint, refingerprint=True)[0].bytes_read == first.bytes_read


def test_digests_that_are_not_all_known_are_no_key() -> None:
    assert digests([RepoFile("a", 1, "x"), RepoFile("b", 1)]) is None


def test_a_renamed_repo_leaves_a_word_under_its_old_name(hub: LoopbackHub) -> None:
    hub.repos["org/renamed"] = replace(hub.repos.pop(NAMES[0]), id="org/renamed", former_ids=(NAMES[0],))
    found, sink = run(MemoryHistory(), [NAMES[0]], endpoint=hub.endpoint)
    assert (found.fingerprinted, found.skipped) == (1, 0)  # the word is no checkpoint
    (done, _), (word, none) = sink.kept
    assert (done.repo_id, done.status) == ("org/renamed", Status.DONE)
    assert (word.repo_id, word.status, word.reason, none) == (NAMES[0], Status.SKIPPED, Reason.RENAMED, None)


class Told:
    """A `Progress` that notes what it is told."""

    def __init__(self) -> None:
        self.total: int | None = -1
        self.outcomes: list[Outcome] = []
        self.skipped = 0

    def found(self, total: int | None) -> None:
        self.total = total

    def visited(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def passed(self, listed: int) -> None:
        self.skipped = listed

    def budgets(self, transport: object) -> None: ...


@pytest.mark.parametrize(("limit", "total"), [(None, None), (5, 5)])
def test_progress_is_told_of_every_outcome(hub: LoopbackHub, limit: int | None, total: int | None) -> None:
    history, told = MemoryHistory(), Told()
    run(history, [NAMES[0]], endpoint=hub.endpoint)
    request = read_request([], HubListing(limit=limit))
    summary = crawl(request, CrawlOptions(endpoint=hub.endpoint), history, MemorySink(), told, now=datetime.now(UTC))
    assert told.total == total
    assert told.skipped == 1
    assert len(told.outcomes) == summary.listed - 1


def test_results_of_a_task_stay_together(hub: LoopbackHub) -> None:
    """A repo of several checkpoints reaches the sink in one piece, however often the sink commits."""
    parts = {folder: repo("org/five", seed).files for seed, folder in enumerate("abcde", start=1)}
    files = {f"{part}/{path}": file for part, held in parts.items() for path, file in held.items()}
    hub.repos["org/five"] = HubRepo("org/five", files)
    sizes: list[int] = []

    class Noting(MemorySink):
        def add(self, results: Sequence[tuple[Outcome, Fingerprint | None]], *, named: bool) -> None:
            sizes.append(len(results))
            super().add(results, named=named)

    found, _ = run(MemoryHistory(), ["org/five"], sink=Noting(), endpoint=hub.endpoint)
    assert (found.fingerprinted, sizes) == (5, [5])
