"""Faults that nightly crawls once had: wrong clocks, listings without end, signals, strange names, lost retries."""

from __future__ import annotations

import gzip
import itertools
import json
import signal
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import provenance
from provenance.cli import main
from provenance.crawler.engine.options import HubListing
from provenance.crawler.hub.listing import _OUT_OF_ORDER
from provenance.demo_hub import HubRepo, LoopbackHub, Request, Response
from provenance.demo_hub.messages import json_response, refusal
from provenance.indexer.store.files import replace_text
from provenance.schemas.records import Outcome
from provenance.schemas.tables import from_rows
from tests.hub.generated import Geometry, generated_repo
from tests.support.nights import ALL, LONG_AGO, PAGE, Night, age, interrupted, now, pickled, repo

Change = Callable[[Request, Response], Response]

WIDE = Geometry(2, 512, 4, 2, 1024, 2000, head_size=128)
"""Of its tensors `--sample large` reads more than `default`."""


@contextmanager
def answering(night: Night, change: Change) -> Iterator[None]:
    """While this is open, every answer of the hub passes through `change`."""
    answer = night.hub.answer
    night.hub.answer = lambda request: change(request, answer(request))  # type: ignore[method-assign]
    try:
        yield
    finally:
        night.hub.answer = answer  # type: ignore[method-assign]


def relisting(change: Callable[[list[dict[str, Any]]], object]) -> Change:
    """Another listing: `change` is given the repos of each page, and changes them in place."""

    def changed(request: Request, response: Response) -> Response:
        if request.path != "/api/models":
            return response
        listed = json.loads(b"".join(response.body))
        change(listed)
        page = json_response(listed)
        return replace(response, body=page.body, length=page.length)

    return changed


def refusing(status: int, inside: str = "/resolve/") -> Change:
    """An error in answer to every request whose target holds `inside`."""
    return lambda request, response: refusal(status, "no").response if inside in request.target else response


def paged(headers: Callable[[Request], dict[str, str]], body: bytes | None = None) -> Change:
    """Pages of the listing with other headers, and another body where one is given."""

    def changed(request: Request, response: Response) -> Response:
        if request.path != "/api/models":
            return response
        changed = replace(response, headers={**response.headers, **headers(request)})
        return changed if body is None else replace(changed, body=(body,), length=len(body))

    return changed


def fresh(name: str, seed: int, **listing: Any) -> HubRepo:
    """A repo that was made an hour ago."""
    return repo(name, seed, createdAt=now(hours=-1), lastModified=now(hours=-1), **listing)


def two_folders(name: str) -> HubRepo:
    """A repo of two checkpoints, in `a` and in `b`."""
    parts = {folder: repo(name, seed).files for seed, folder in enumerate("ab", start=1)}
    return HubRepo(name, {f"{folder}/{path}": file for folder, files in parts.items() for path, file in files.items()})


def pages_asked(night: Night) -> int:
    return sum(exchange.path.startswith("/api/models?") for exchange in night.hub.requests)


# ---------------------------------------------------------------- what is walked


def test_a_run_dated_in_the_future_stops_no_later_walk(night: Night, caplog: pytest.LogCaptureFixture) -> None:
    night.crawl()
    rows = night.database.store.read("runs").to_pylist()
    (walked,) = [row for row in rows if row["watermark"]]
    ahead = {**walked, "run_id": "ahead", "watermark": walked["watermark"] + timedelta(days=1500)}
    for seed, others in ((5, rows), (6, [])):
        night.database.store.replace("runs", from_rows("runs", [ahead, *others]))
        night.change(fresh(f"org/model-{seed}", seed))
        caplog.clear()
        assert night.crawl().fingerprinted == 1
        assert "one of two clocks is wrong" in caplog.text


def test_a_full_walk_that_met_nothing_is_no_watermark(night: Night) -> None:
    with answering(night, relisting(list.clear)):
        assert night.crawl().listed == 0
    assert night.rows("select count(*) from runs where watermark is not null") == [(0,)]
    assert night.crawl().fingerprinted == 5


def test_one_stale_row_does_not_end_a_delta_walk(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provenance.crawler.hub.listing._OUT_OF_ORDER", _OUT_OF_ORDER)
    night.crawl()
    night.change(fresh("org/new", 9))

    def stale(listed: list[dict[str, Any]]) -> None:
        listed.insert(0, {**listed[0], "id": "org/model-0", "lastModified": "2020-01-01T00:00:00.000Z"})

    with answering(night, relisting(stale)):
        found = night.crawl()
    assert (found.listed, found.fingerprinted) == (1, 1)


def test_a_repo_without_a_time_of_change_is_listed_in_a_delta_walk(night: Night) -> None:
    night.crawl()
    night.change(fresh("org/new", 9))
    with answering(night, relisting(lambda listed: [row.pop("lastModified") for row in listed])):
        assert night.crawl().fingerprinted == 1


def test_the_same_repo_named_and_listed_is_read_once(night: Night) -> None:
    found = night.crawl(sources=("org/model-2",))
    assert (found.fingerprinted, found.skipped, found.listed) == (5, 1, 6)
    assert sum("model-2/resolve" in path for path in night.asked) == 1
    assert night.rows("select status from outcomes where repo_id = 'org/model-2'") == [("done",)]


def test_a_local_copy_of_one_checkpoint_hides_no_others(night: Night, tmp_path: Path) -> None:
    whole = two_folders("org/two")
    for path, file in whole.files.items():
        if path.startswith("a/"):
            copy = tmp_path / "copy" / whole.id / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read(0, file.size))
    listed = {"id": whole.id, "sha": whole.listing["sha"], "lastModified": LONG_AGO}
    (tmp_path / "copy" / "listing.jsonl").write_text(json.dumps(listed) + "\n")
    assert night.crawl(None, (str(tmp_path / "copy"),), mode="sampled").fingerprinted == 1

    night.change(whole)
    assert night.crawl().fingerprinted == 5 + 1
    stored = "select source, split_part(checkpoint_id, ':', 2) from checkpoints where repo_id = 'org/two' order by 2"
    assert night.rows(stored) == [("local", "a"), ("hub", "b")]


# ---------------------------------------------------------------- listings without end


def test_a_listing_that_leads_in_a_circle_breaks_off(night: Night) -> None:
    def itself(request: Request) -> dict[str, str]:
        return {"Link": f'<{night.hub.endpoint}{request.target}>; rel="next"'}

    with answering(night, paged(itself)):
        found = night.crawl()
    assert "leads in a circle" in found.stopped
    assert found.fingerprinted == 3
    assert pages_asked(night) == 2


def endless(night: Night, listed: Callable[[int], list[dict[str, Any]]]) -> Change:
    """Pages without end, of which the crawl can use nothing; page n lists what `listed(n)` says."""
    numbers = itertools.count(1)

    def change(request: Request, response: Response) -> Response:
        time.sleep(0.01)
        number = next(numbers)
        following = {"Link": f'<{night.hub.endpoint}/api/models?n={number}>; rel="next"'}
        return paged(lambda _: following, json.dumps(listed(number)).encode())(request, response)

    return change


def assert_listing_ended(night: Night) -> None:
    """The thread that lists has ended, or does so at once."""
    for thread in threading.enumerate():
        if thread.name.startswith("listing"):
            thread.join(30)
            assert not thread.is_alive()
    assert pages_asked(night) > 3


def old(number: int) -> list[dict[str, Any]]:
    return [{"id": f"org/old-{number}", "sha": "a" * 40, "siblings": [], "lastModified": LONG_AGO}]


def test_a_listing_that_yields_nothing_ends_with_the_time(night: Night) -> None:
    listing = HubListing(sort="downloads", since=datetime(2026, 1, 1, tzinfo=UTC))
    with answering(night, endless(night, old)):
        found = night.crawl(listing, max_time=0.5)
        assert_listing_ended(night)
    assert (found.stopped, found.listed) == ("the time is up (--max-time)", 0)
    assert not found.broke_off


def test_a_listing_that_yields_nothing_ends_with_a_stop(night: Night) -> None:
    with answering(night, endless(night, old)):
        found = interrupted(night, lambda request: "n=3" in request.target)
        assert_listing_ended(night)
    assert (found.stopped, found.broke_off) == ("interrupted", False)


@pytest.mark.parametrize("listed", [[], [{"id": "../no-repo"}], [{"id": "org/same", "sha": "a" * 40}]])
def test_a_listing_that_leads_to_nothing_new_is_broken_off(night: Night, listed: list[dict[str, Any]]) -> None:
    with answering(night, endless(night, lambda number: listed)):
        found = night.crawl()
    assert found.broke_off
    assert "20 pages in a row without a new repo" in found.stopped


def test_an_answer_that_trickles_is_given_up(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provenance.crawler.hub.api.MAX_SECONDS", 0.3)

    def trickle() -> Iterator[bytes]:
        while True:
            time.sleep(0.02)
            yield b" "

    with answering(night, lambda request, response: replace(response, body=trickle(), length=1 << 20)):
        found = night.crawl()
    assert found.broke_off
    assert "was too slow" in found.stopped
    assert pages_asked(night) == 1


def test_an_answer_that_is_too_long_is_given_up(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provenance.crawler.hub.api.MAX_BODY", 1000)
    found = night.crawl()
    assert found.broke_off
    assert "the answer is longer than 1,000 bytes" in found.stopped


def test_a_small_answer_does_not_unpack_to_a_large_one(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provenance.crawler.hub.api.MAX_BODY", 1 << 20)
    bomb = gzip.compress(bytes(128 << 20), compresslevel=1)
    with answering(night, paged(lambda request: {"Content-Encoding": "gzip"}, bomb)):
        tracemalloc.start()
        try:
            found = night.crawl()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert "the answer is longer than 1,048,576 bytes" in found.stopped
    assert peak < 64 << 20  # what one read from the socket can unpack to, and a copy of it


def test_a_listing_that_broke_off_is_asked_for_patiently_and_is_a_failure(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("provenance.crawler.hub.listing._PAGE_WAITS", (0.0,) * 6)
    with answering(night, refusing(503, "cursor=")):
        found = night.crawl()
        assert found.broke_off
        assert found.fingerprinted == 3
        assert pages_asked(night) == 1 + 7
        command = ["crawl", "--all", "--endpoint", night.hub.endpoint, "--store", str(tmp_path / "other")]
        monkeypatch.setattr(sys, "argv", ["provenance", *command])
        with pytest.raises(SystemExit) as left:
            main()
    assert left.value.code == 1
    assert "stopped early: the listing broke off: the Hub's listing: the server is down" in capsys.readouterr().err


# ---------------------------------------------------------------- signals and commits


def test_a_signal_inside_a_commit_stores_nothing_twice(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provenance.indexer.writer.COMMIT_EVERY", 2)
    swaps = itertools.count(1)

    def signalled(path: Path, text: str) -> None:
        replace_text(path, text)
        if next(swaps) == 2:  # the first one is of the row in `runs`
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("provenance.indexer.store.swap.replace_text", signalled)
    first = night.crawl(workers=1)
    assert first.stopped == "interrupted"
    assert first.fingerprinted >= 2
    assert night.database.store.verify() == []
    stored = "select count(*), count(distinct fingerprint_id), count(distinct repo_id) from checkpoints"
    assert night.rows(stored) == [(first.fingerprinted,) * 3]
    assert night.rows("select count(*) from outcomes") == [(first.fingerprinted,)]
    assert night.crawl().fingerprinted == 5 - first.fingerprinted
    assert night.rows(stored) == [(5, 5, 5)]


class Signalling:
    """A `Progress` that presses Ctrl-C when it is told of the first outcome."""

    told = 0

    def found(self, total: int | None) -> None: ...

    def passed(self, listed: int) -> None: ...

    def budgets(self, transport: object) -> None: ...

    def visited(self, outcome: Outcome) -> None:
        self.told += 1
        if self.told == 1:
            signal.raise_signal(signal.SIGINT)


def test_a_signal_between_two_checkpoints_of_a_repo_loses_none(night: Night) -> None:
    night.change(two_folders("org/two"))
    found = night.database.crawl(["org/two"], night.options, Signalling())
    assert (found.stopped, found.fingerprinted) == ("interrupted", 2)
    assert night.rows("select count(distinct checkpoint_id) from checkpoints") == [(2,)]


def test_small_parts_are_merged_during_a_crawl(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provenance.indexer.writer.COMMIT_EVERY", 1)
    monkeypatch.setattr("provenance.indexer.writer.COMPACT_EVERY", 2)
    night.crawl(workers=1)
    manifest = night.database.store.manifest()
    assert len(manifest.parts["checkpoints"]) < 5  # each of the five came as a part of its own
    assert any(part.path.startswith("checkpoints/") for part in manifest.retired)
    assert night.database.store.verify() == []
    assert night.rows("select count(*), count(distinct repo_id) from checkpoints") == [(5, 5)]


# ---------------------------------------------------------------- what a listing says of a repo


@pytest.mark.parametrize(
    "spoil",
    [lambda row: row.pop("siblings"), lambda row: row.update(siblings=[])],
    ids=["missing", "empty"],
)
def test_a_repo_listed_without_files_once_is_tried_again(
    night: Night, spoil: Callable[[dict[str, Any]], object]
) -> None:
    with answering(night, relisting(lambda listed: spoil(listed[0]) if len(listed) == 3 else None)):
        found = night.crawl()
    assert (found.fingerprinted, found.failed) == (4, 1)
    assert night.rows("select reason from outcomes where status = 'failed'") == [("no-files",)]
    assert night.crawl(full_walk=True).fingerprinted == 0  # not yet due
    age(night.database, days=8)
    assert night.crawl().fingerprinted == 1
    assert night.rows("select count(distinct repo_id) from checkpoints") == [(5,)]


def test_a_disabled_repo_is_told_by_the_listing(night: Night) -> None:
    night.change(repo("org/model-1", 1, disabled=True))
    assert night.crawl().failed == 1
    assert night.rows("select repo_id, reason from outcomes where status = 'failed'") == [("org/model-1", "disabled")]
    assert not any("model-1" in path for path in night.asked)


def test_a_repo_without_weights_is_looked_at_again_on_demand(night: Night) -> None:
    night.change(pickled("org/pickled"))
    night.crawl()
    for options, looked in (({}, 1), ({"retry_failed": True}, 2), ({"refingerprint": True}, 3)):
        night.crawl(ALL, (), full_walk=True, **options)
        assert night.rows("select count(*) from outcomes where reason = 'no-weights'") == [(looked,)]


def test_strange_ids_are_passed_over(night: Night, caplog: pytest.LogCaptureFixture) -> None:
    strange = ["org/\ud800x", "org/" + "a" * 1_000_000, "../model", "org/..", ""]
    with answering(night, relisting(lambda listed: listed.extend({**listed[0], "id": name} for name in strange))):
        found = night.crawl()
    assert (found.stopped, found.listed, found.fingerprinted, found.failed) == (None, 5, 5, 0)
    assert caplog.text.count(f"{len(strange)} things that are not repos; passed over") == 2  # on two pages
    assert len(caplog.text) < 10_000


@pytest.mark.parametrize("link", ["http://[::1", "http://127.0.0.1:99999/x", "ftp://127.0.0.1/x"])
def test_a_malformed_link_breaks_the_listing_off(night: Night, link: str) -> None:
    with answering(night, paged(lambda request: {"Link": f'<{link}>; rel="next"'})):
        found = night.crawl()
    assert found.stopped.startswith("the listing broke off: ")
    assert (found.broke_off, pages_asked(night)) == (True, 1)
    assert night.rows("select count(*) from runs where finished_at is not null and watermark is null") == [(1,)]


# ---------------------------------------------------------------- what failed


def test_a_failed_repo_that_was_renamed_is_not_visited_for_ever(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provenance.crawler.hub.transport.WAITS", (0.0,))
    with answering(night, refusing(500, "/org/model-1/resolve/")):
        assert night.crawl().failed == 1
    moved = night.hub.repos.pop("org/model-1")
    named = {**moved.listing, "id": "org/renamed", "modelId": "org/renamed"}
    night.change(replace(moved, id="org/renamed", former_ids=("org/model-1",), listing=named))
    age(night.database, days=8)
    assert night.crawl().fingerprinted == 1
    last = "select reason from outcomes where repo_id = 'org/model-1' order by \"at\" desc limit 1"
    assert night.rows(last) == [("renamed",)]
    for _ in range(2):
        age(night.database, days=8)
        night.crawl()
        assert night.asked == PAGE


def test_a_failure_of_one_authors_walk_is_due_for_the_whole_listing(night: Night) -> None:
    night.change(repo("org/model-1", 1, gated="auto"))
    assert night.crawl(HubListing(author="org")).failed == 1
    assert night.crawl().skipped == 5
    night.change(repo("org/model-1", 1))  # access is granted, without a new commit
    age(night.database, days=31)
    found = night.crawl()
    assert (found.listed, found.fingerprinted) == (1, 1)


def test_a_forbidden_repo_is_tried_again_within_days_and_at_a_new_revision_at_once(night: Night) -> None:
    with answering(night, refusing(403)):
        assert night.crawl().failed == 5
    assert night.rows("select distinct reason from outcomes") == [("forbidden",)]
    assert night.crawl().listed == 0
    night.change(repo("org/model-0", 10, sha="0" * 40, createdAt=LONG_AGO, lastModified=now(hours=-1)))
    assert night.crawl().fingerprinted == 1
    age(night.database, days=7)
    assert night.crawl().fingerprinted == 4


def test_a_repo_that_was_not_there_is_read_as_soon_as_it_is(night: Night) -> None:
    assert night.crawl(None, ("org/new",)).failed == 1
    assert night.rows("select reason from outcomes") == [("no-repo",)]
    night.change(fresh("org/new", 9))
    assert night.crawl().fingerprinted == 6


# ---------------------------------------------------------------- what is known


def test_a_larger_sample_of_known_files_is_read(tmp_path: Path) -> None:
    def read(crawled: Night, name: str) -> int:
        return int(crawled.rows(f"select sum(n_read) from tensors where checkpoint_id like 'org/{name}@%'")[0][0])

    with (
        LoopbackHub([generated_repo(f"org/{name}", WIDE, seed=7) for name in ("first", "copy", "again")]) as hub,
        provenance.open(tmp_path / "store", create=True) as database,
        provenance.open(tmp_path / "empty", create=True) as empty,
    ):
        known, alone = Night(hub, database), Night(hub, empty)
        known.crawl(None, ("org/first",))
        assert known.crawl(None, ("org/again",)).bytes_read < 100_000  # of known files, the headers
        known.crawl(None, ("org/copy",), sample="large")
        alone.crawl(None, ("org/copy",), sample="large")
        assert read(known, "first") == read(known, "again") < read(known, "copy") == read(alone, "copy")


def test_files_that_are_forgotten_during_a_crawl_are_read_again(night: Night) -> None:
    night.crawl()
    night.change(replace(fresh("other/copy", 3), files=night.hub.repos["org/model-3"].files))
    gone = threading.Event()

    def forgetting(request: Request, response: Response) -> Response:
        if "/other/copy/" in request.path and not gone.is_set():
            gone.set()
            with provenance.open(night.database.store.path) as other:
                other.forget(["org/model-3"])
                other.compact()
        return response

    with answering(night, forgetting):
        found = night.crawl()
    assert gone.is_set()
    assert (found.fingerprinted, found.failed) == (1, 0)
    assert found.bytes_read > 100_000  # not the headers alone
    assert ("unexpected",) not in night.rows("select reason from outcomes")
    assert night.database.store.verify() == []


def test_a_repo_taken_back_by_name_is_followed_by_later_listings(night: Night) -> None:
    night.crawl()
    night.database.forget(["org/model-0"])
    assert night.crawl(full_walk=True).fingerprinted == 0
    assert night.crawl(None, ("org/model-0",)).fingerprinted == 1
    night.change(repo("org/model-0", 10, sha="0" * 40, createdAt=LONG_AGO, lastModified=now(hours=-1)))
    assert night.crawl().fingerprinted == 1
    assert night.rows("select count(*) from checkpoints where repo_id = 'org/model-0'") == [(2,)]
