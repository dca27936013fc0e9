"""Crawls night after night: what is walked, what is passed over, what is tried again, and who may crawl."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import provenance
from provenance.crawler.engine.options import CrawlOptions, HubListing
from provenance.demo_hub import HubRepo, LoopbackHub, MemoryFile
from provenance.demo_hub.messages import Request, Response, refusal
from provenance.indexer.store.lease import LEASE, crawl_lease
from provenance.schemas.errors import StoreBusyError
from tests.hub.generated import generated_repo
from tests.hub.hostile import GOOD, HostileHub
from tests.hub.quotas import Meter, Quotas
from tests.support.nights import LONG_AGO, PAGE, PAGES, TINY, Night, age, interrupted, now, pickled, repo

SPAWN = multiprocessing.get_context("spawn")


# ---------------------------------------------------------------- what is walked


def test_the_second_night_asks_for_changes_only(night: Night) -> None:
    assert night.crawl().fingerprinted == 5
    assert night.crawl().listed == 0
    assert night.asked == PAGE

    night.change(repo("org/model-3", 33, sha="3" * 40, createdAt=LONG_AGO, lastModified=now(hours=-1)))
    night.change(repo("org/model-5", 5, createdAt=now(hours=-2), lastModified=now(hours=-2)))
    changed = night.crawl()
    assert (changed.listed, changed.fingerprinted, changed.skipped) == (2, 2, 0)
    assert {path.split("/")[1:3] == ["org", "model-3"] or "model-5" in path or "api" in path or "cdn" in path
            for path in night.asked} == {True}  # fmt: skip
    assert night.rows("select count(*), count(distinct repo_id) from checkpoints") == [(7, 6)]

    # The overlap of a day lists both again, and both are known.
    again = night.crawl()
    assert (again.listed, again.skipped, again.fingerprinted) == (2, 2, 0)
    assert night.asked == PAGE


def test_what_needs_no_visit_leaves_no_row(night: Night) -> None:
    night.change(pickled("org/pickled"))
    assert night.crawl().skipped == 1
    before = night.rows("select count(*) from outcomes")
    whole = night.crawl(full_walk=True)
    assert (whole.listed, whole.skipped) == (6, 6)
    assert night.asked == PAGES
    assert night.rows("select count(*) from outcomes") == before
    assert night.rows("select reason from outcomes where status = 'skipped'") == [("no-weights",)]


@pytest.mark.parametrize(
    "partial",
    [HubListing(limit=3), HubListing(sort="downloads"), HubListing(since=datetime(2024, 1, 1, tzinfo=UTC))],
    ids=["limit", "sort", "since"],
)
def test_a_part_of_the_listing_is_no_watermark(night: Night, partial: HubListing) -> None:
    night.crawl(partial)
    assert night.rows("select count(*) from runs where watermark is not null") == [(0,)]
    assert night.crawl().listed == 5


def test_watermarks_hold_for_their_own_listing(night: Night) -> None:
    night.crawl(HubListing(author="org"))
    assert night.crawl(HubListing(author="org")).listed == 0
    assert night.crawl().listed == 5
    assert night.crawl(mode="full").fingerprinted == 5
    assert night.crawl(mode="full").listed == 0


def test_a_walk_that_was_cut_short_is_walked_again(night: Night) -> None:
    first = night.crawl(max_bytes=1, workers=1)
    assert first.stopped is not None
    assert first.fingerprinted < 5
    second = night.crawl()
    assert second.listed == 5
    assert second.fingerprinted == 5 - first.fingerprinted
    assert night.crawl().listed == 0


def test_a_listing_that_breaks_off_is_walked_again(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = night.hub.answer

    def broken(request: Request) -> Response:
        if request.value("cursor"):
            return refusal(404, "gone").response
        return answer(request)

    monkeypatch.setattr(night.hub, "answer", broken)
    first = night.crawl()
    assert "the listing broke off" in (first.stopped or "")
    assert first.fingerprinted == 3
    assert night.rows("select stopped is not null, watermark from runs where finished_at is not null") == [(True, None)]
    monkeypatch.setattr(night.hub, "answer", answer)
    assert night.crawl().fingerprinted == 2


# ---------------------------------------------------------------- what failed


def test_what_the_network_broke_is_tried_again_when_due(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = night.hub.answer
    down = {"org/model-1"}

    def failing(request: Request) -> Response:
        if any(f"/{name}/resolve/" in request.path for name in down):
            return refusal(500, "down").response
        return answer(request)

    monkeypatch.setattr(night.hub, "answer", failing)
    monkeypatch.setattr("provenance.crawler.hub.transport.WAITS", (0.0,))
    assert (night.crawl().failed, night.crawl().failed) == (1, 0)  # the second time it was not due
    assert night.asked == PAGE
    for attempts in (2, 3):
        age(night.database, days=8)
        assert night.crawl().failed == 1
        assert night.rows("select max(attempts) from outcomes") == [(attempts,)]
    assert night.crawl(listing=None, retry_failed=True).failed == 1  # due or not
    assert night.crawl(full_walk=True).failed == 0
    down.clear()
    age(night.database, days=8)
    found = night.crawl()
    assert (found.listed, found.fingerprinted) == (1, 1)
    assert night.asked[:2] == ["hub /api/models", "hub /api/models/org/model-1"]
    age(night.database, days=80)
    assert night.crawl(retry_failed=True).listed == 0
    assert night.rows("select count(distinct repo_id) from checkpoints") == [(5,)]


def test_a_closed_repo_is_left_alone_for_a_month_whatever_its_revision(night: Night) -> None:
    night.change(repo("org/model-2", 2, gated="auto"))
    first = night.crawl()
    assert (first.fingerprinted, first.failed) == (4, 1)
    assert night.rows(
        "select reason, next_attempt_at - \"at\" > interval 29 days from outcomes where reason = 'gated'"
    ) == [("gated", True)]
    night.change(repo("org/model-2", 2, gated="auto", sha="2" * 40, createdAt=LONG_AGO, lastModified=now(hours=-1)))
    assert (night.crawl().skipped, night.asked) == (1, PAGE)
    age(night.database, days=31)
    night.change(repo("org/model-2", 2, sha="2" * 40, createdAt=LONG_AGO, lastModified=now(hours=-1)))
    assert night.crawl().fingerprinted == 1


def test_a_malformed_file_waits_for_a_new_revision(night: Night) -> None:
    broken = HubRepo("org/model-0", {"model.safetensors": MemoryFile(b"version https://git-lfs" + b"x" * 100)})
    night.change(broken)
    assert night.crawl().failed == 1
    assert night.rows("select reason, next_attempt_at from outcomes where status = 'failed'") == [("malformed", None)]
    age(night.database, days=400)
    assert night.crawl(full_walk=True).failed == 0
    night.change(repo("org/model-0", 0, sha="0" * 40))
    assert night.crawl(full_walk=True).fingerprinted == 1


def test_a_failure_is_tried_again_by_name_and_others_stay(night: Night) -> None:
    night.change(repo("org/model-2", 2, gated="auto"))
    night.crawl()
    assert night.crawl(None, ("org/model-2",)).failed == 1  # asked for by name: no schedule keeps it
    assert night.rows("select max(attempts) from outcomes") == [(2,)]


# ---------------------------------------------------------------- forgotten meanwhile


def test_what_is_forgotten_during_a_crawl_comes_back_only_by_name(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = "org/model-1"
    assert night.crawl(None, (gone,)).fingerprinted == 1
    for name in ("org/model-0", gone):
        night.change(repo(name, 11, sha="1" * 40, createdAt=LONG_AGO, lastModified=now(hours=-1)))
    answer, forgotten = night.hub.answer, threading.Event()

    def forgetting(request: Request) -> Response:
        # The history is loaded, and the repo is not yet read.
        if request.path.startswith("/api/models") and not forgotten.is_set():
            forgotten.set()
            with provenance.open(night.database.store.path) as other:
                other.forget([gone])
        return answer(request)

    monkeypatch.setattr(night.hub, "answer", forgetting)
    monkeypatch.setattr("provenance.indexer.writer.COMMIT_SECONDS", 1e6)  # all is committed at the end
    first = night.crawl()
    assert forgotten.is_set()
    assert (first.listed, first.fingerprinted, first.skipped) == (5, 4, 1)
    assert any(gone in path for path in night.asked), "it was read"
    shown = "select repo_id from checkpoints union all select repo_id from outcomes"
    assert (gone,) not in night.rows(shown)
    assert night.database.store.verify() == []
    assert night.crawl(full_walk=True).fingerprinted == 0
    assert (gone,) not in night.rows(shown)
    assert night.crawl(None, (gone,)).fingerprinted == 1
    assert night.rows(f"select count(*) from checkpoints where repo_id = '{gone}'") == [(1,)]


def test_a_failure_forgotten_during_a_crawl_is_not_tried_again_to_be_kept(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = "org/model-2"
    night.change(repo(gone, 2, gated="auto"))
    night.crawl()
    night.change(repo(gone, 2))
    answer = night.hub.answer

    def forgetting(request: Request) -> Response:
        if gone in request.path and gone not in night.database.store.tombstones():
            with provenance.open(night.database.store.path) as other:
                other.forget([gone])
        return answer(request)

    monkeypatch.setattr(night.hub, "answer", forgetting)
    assert night.crawl(None, retry_failed=True).fingerprinted == 0
    assert any(gone in path for path in night.asked)
    assert (gone,) not in night.rows("select repo_id from checkpoints union all select repo_id from outcomes")


# ---------------------------------------------------------------- names


def test_a_renamed_repo_is_stored_under_its_final_id(night: Night) -> None:
    del night.hub.repos["org/model-1"]
    night.change(replace(repo("org/renamed", 1), former_ids=("org/model-1",)))
    assert night.crawl(None, ("org/model-1",)).fingerprinted == 1
    assert night.rows("select repo_id from checkpoints") == [("org/renamed",)]


def test_a_repo_renamed_while_it_was_crawled_too(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = night.hub.answer

    def renaming(request: Request) -> Response:
        response = answer(request)
        if request.value("cursor") and "org/model-1" in night.hub.repos:
            moved = night.hub.repos.pop("org/model-1")
            night.change(replace(moved, id="org/renamed", former_ids=("org/model-1",),
                                 listing={**moved.listing, "id": "org/renamed", "modelId": "org/renamed"}))  # fmt: skip
        return response

    monkeypatch.setattr(night.hub, "answer", renaming)
    assert night.crawl().fingerprinted == 5
    assert ("org/renamed",) in night.rows("select repo_id from checkpoints")
    assert ("org/model-1",) not in night.rows("select repo_id from checkpoints")
    assert night.crawl(full_walk=True).fingerprinted == 0


# ---------------------------------------------------------------- one crawl at a time


def hold(store: str, entered: Any, leave: Any) -> None:
    with crawl_lease(Path(store)):
        entered.set()
        leave.wait(60)


def test_a_second_crawl_is_told_who_holds_the_store(night: Night) -> None:
    entered, leave = SPAWN.Event(), SPAWN.Event()
    store = night.database.store.path
    process = SPAWN.Process(target=hold, args=(str(store), entered, leave))
    process.start()
    assert entered.wait(60)
    with pytest.raises(StoreBusyError, match=rf"another crawl writes to .*: process {process.pid} on .* \(0 min\)"):
        night.crawl()
    assert night.rows("select count(*) from runs") == [(0,)]
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with crawl_lease(store) as killed:
        assert killed is not None
        assert f"process {process.pid}" in killed
    with crawl_lease(store) as killed:
        assert killed is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "host": "h", "since": "now"}', "\udcff"])
def test_a_damaged_lease_is_nobodys(tmp_path: Path, text: str) -> None:
    (tmp_path / LEASE).write_bytes(text.encode("utf-8", "surrogateescape"))
    with crawl_lease(tmp_path) as killed:
        assert killed is None
        assert json.loads((tmp_path / LEASE).read_text())["pid"] == os.getpid()


# ---------------------------------------------------------------- stopping


def test_ctrl_c_finishes_what_is_in_hand(night: Night) -> None:
    summary = interrupted(night, lambda request: request.origin == "cdn")
    assert summary.stopped == "interrupted"
    assert 1 <= summary.fingerprinted < 5
    assert night.database.store.verify() == []
    assert night.crawl().fingerprinted == 5 - summary.fingerprinted


def test_ctrl_c_ends_the_wait_for_a_budget(tmp_path: Path) -> None:
    repos = [repo(f"org/model-{i}", i) for i in range(4)]
    quotas = Quotas(api=100, resolvers=2, window=3600)
    with (
        LoopbackHub(repos, meter=Meter(quotas)) as hub,
        provenance.open(tmp_path / "store", create=True) as database,
    ):
        night = Night(hub, database)
        timer = threading.Timer(1.5, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
        timer.start()
        summary = night.crawl()
        timer.join()
        assert (summary.stopped, summary.fingerprinted, summary.failed) == ("interrupted", 2, 0)
        assert summary.seconds < 60
        assert night.rows("select repo_id, status from outcomes where status <> 'done'") == []


# ---------------------------------------------------------------- files that are known


def test_known_files_are_not_read_again(night: Night) -> None:
    night.crawl()
    copied = generated_repo("other/copy", TINY, seed=3, listing={"lastModified": now(hours=-1)})
    card = repo("org/model-4", 4, sha="4" * 40, lastModified=now(hours=-1), tags=["license:mit"])
    night.change(copied)
    night.change(card)  # a new commit that left the weights alone
    summary = night.crawl()
    assert (summary.fingerprinted, night.rows("select count(*) from checkpoints")) == (2, [(7,)])
    ranges = [path for path in night.asked if path.startswith("cdn")]
    assert len(ranges) == 2 * 2  # the headers, which for so small a file take two reads
    read = "select repo_id, max(bytes_read) < 4000, count(distinct content_digest) from checkpoints group by all"
    assert {repo: row for repo, *row in night.rows(f"{read} order by 1, 2")}["other/copy"] == [True, 1]
    for table in ("tensors", "samples"):
        columns = f"{table}.* exclude (fingerprint_id, checkpoint_id)"
        rows = f"select {columns} from {table} join checkpoints c using (fingerprint_id)"
        for one, other in (("other/copy", "org/model-3"), ("org/model-4", "org/model-4")):
            found = [
                sorted(map(repr, night.rows(f"{rows} where c.repo_id = '{repo}' and c.bytes_read {sign} 4000")))
                for repo, sign in ((one, "<"), (other, ">"))
            ]
            assert found[0] == found[1] != []
    assert night.crawl(refingerprint=True).bytes_read > 5 * 100_000


def test_equal_files_under_another_config_are_read(tmp_path: Path) -> None:
    """Heads decide how a fused projection is cut: equal bytes can hold other roles."""
    geometry = {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_size": 64}
    header = {"dtype": "F32", "shape": [192, 64], "data_offsets": [0, 192 * 64 * 4]}
    text = json.dumps({"gpt_neox.layers.0.attention.query_key_value.weight": header}).encode()
    weights = np.random.default_rng(0).normal(size=192 * 64).astype("<f4").tobytes()
    file = MemoryFile(len(text).to_bytes(8, "little") + text + weights)
    repos = [
        HubRepo(
            f"org/heads-{heads}",
            {
                "model.safetensors": file,
                "config.json": MemoryFile(json.dumps({**geometry, "num_attention_heads": heads}).encode()),
            },
            {"lastModified": now(hours=-1), "config": geometry},
        )
        for heads in (4, 8)
    ]
    with LoopbackHub(repos[:1]) as hub, provenance.open(tmp_path / "store", create=True) as database:
        night = Night(hub, database)
        night.crawl()
        night.change(repos[1])
        assert night.crawl().fingerprinted == 1
        stds = night.rows(
            "select c.repo_id, role, std from tensors join checkpoints c using (fingerprint_id) where role = 'q'"
        )
        assert len({std for _, _, std in stds}) == 2


def test_an_outcome_of_a_wrong_clock_does_not_outrank_later_visits(night: Night) -> None:
    night.change(repo("org/model-2", 2, gated="auto"))
    night.crawl()
    age(night.database, days=-900)  # that crawl believed to be years ahead
    night.change(repo("org/model-2", 2))
    assert night.crawl(None, ("org/model-2",)).fingerprinted == 1
    again = night.crawl(full_walk=True)
    assert (again.failed, again.fingerprinted, again.skipped) == (0, 0, 5)


def test_ctrl_c_in_the_last_visit_is_noticed(night: Night) -> None:
    for name in list(night.hub.repos)[1:]:
        del night.hub.repos[name]
    summary = interrupted(night, lambda request: request.origin == "cdn")
    assert summary.stopped == "interrupted"
    assert night.rows("select count(*) from runs where watermark is not null") == [(0,)]


def test_a_stop_ends_an_answer_that_trickles(night: Night) -> None:
    answer = night.hub.answer

    def trickling(request: Request) -> Response:
        response = answer(request)
        if request.path != "/api/models":
            return response

        def body() -> Iterator[bytes]:
            for byte in b"".join(response.body):
                time.sleep(0.02)
                yield bytes([byte])

        return replace(response, body=body())

    night.hub.answer = trickling  # type: ignore[method-assign]
    try:
        summary = night.crawl(max_time=0.5)
    finally:
        night.hub.answer = answer  # type: ignore[method-assign]
    assert "--max-time" in (summary.stopped or "")
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("listing") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "the listing is still read"
        time.sleep(0.02)


def test_a_repo_larger_than_a_night_makes_progress(night: Night) -> None:
    """Budgets hold between the checkpoints of a repo, and the next crawl goes on where one ended."""
    parts = {folder: repo("org/many", seed).files for seed, folder in enumerate("abcde", start=1)}
    files = {f"{part}/{path}": file for part, held in parts.items() for path, file in held.items()}
    night.change(HubRepo("org/many", files))
    many = "select count(*) from checkpoints where repo_id = 'org/many'"
    for stored in (1, 2, 3, 4):
        summary = night.crawl(None, ("org/many",), max_bytes=1)
        assert (summary.fingerprinted, summary.failed) == (1, 1)
        assert night.rows(many) == [(stored,)]
        failed = "select reason, message from outcomes where status = 'failed' order by \"at\" desc limit 1"
        why = f"the byte budget is used up (--max-bytes) after {stored} of its 5 checkpoints; the next crawl goes on"
        assert night.rows(failed) == [("unfinished", f"org/many: {why}")]
    night.crawl(max_bytes=1 << 40)  # listed, it is due
    assert night.rows(many) == [(5,)]
    night.crawl()
    assert not any("org/many" in path for path in night.asked)


def test_an_interrupt_ends_a_read_that_hangs(tmp_path: Path) -> None:
    with HostileHub("storage: no answer") as hub, provenance.open(tmp_path / "store", create=True) as database:
        (bad,) = hub.attacked

        def press() -> None:
            deadline = time.monotonic() + 30
            while len({asked.target for asked in hub.asked if asked.port == hub.storage_port}) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            for _ in range(2):
                time.sleep(1)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        thread = threading.Thread(target=press)
        thread.start()
        began = time.monotonic()
        summary = database.crawl([bad, *GOOD], CrawlOptions(endpoint=hub.endpoint, workers=3))
        thread.join()
        assert (summary.stopped, summary.fingerprinted, summary.failed) == ("interrupted", 2, 0)
        assert time.monotonic() - began < 25  # far from the deadline of a request
