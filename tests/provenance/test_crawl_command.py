"""`provenance crawl` as a process of its own: signals, a second crawl, a full disk, kills, and what it says."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import provenance
from benchmarks.soak import TINY, soak
from provenance.crawler.hub.answers import RateLimit
from provenance.crawler.hub.transport import HubTransport
from provenance.demo_hub import LoopbackHub, Request, Response
from provenance.indexer.store.lease import crawl_lease
from provenance.output import progress
from provenance.schemas.records import Outcome
from tests.hub.faults import FAULTS
from tests.hub.generated import generated_repo

N_REPOS = 12
SLOW = ("trickle", "cut-short", "hub-down", "storage-down", "hub-down-twice", "storage-down-once", "hub-drops", "busy")
"""Faults that are waited for."""


class SlowHub(LoopbackHub):
    """Takes its time for every range."""

    pause = 0.05

    def answer(self, request: Request) -> Response:
        if request.origin == "cdn":
            time.sleep(self.pause)
        return super().answer(request)


@pytest.fixture
def hub() -> Iterator[SlowHub]:
    with SlowHub([generated_repo(f"org/model-{i}", TINY, seed=i) for i in range(N_REPOS)]) as hub:
        yield hub


def crawl(hub: LoopbackHub, store: Path, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from provenance.cli import main; main()", "crawl", "--all", "--workers", "2"]
    return subprocess.Popen(
        [*command, "--endpoint", hub.endpoint, "--store", str(store)],
        env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def stored(store: Path) -> int:
    with provenance.open(store) as database:
        assert database.store.verify() == []
        return database.store.read("checkpoints", ["checkpoint_id"]).num_rows


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_crawl_with_what_is_in_hand(hub: LoopbackHub, tmp_path: Path, sign: signal.Signals) -> None:
    process = crawl(hub, tmp_path / "store")
    while sum(e.origin == "cdn" for e in list(hub.requests)) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(sign)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped early: interrupted; run the same command again to go on" in said
    assert "Traceback" not in said
    done = stored(tmp_path / "store")
    assert 1 <= done < N_REPOS
    process = crawl(hub, tmp_path / "store")
    _, said = process.communicate(timeout=60)
    assert (process.returncode, stored(tmp_path / "store")) == (0, N_REPOS)
    assert f"{N_REPOS - done} fingerprinted, {done} skipped, 0 failed of {N_REPOS} listed" in said


def test_two_signals_end_the_reads_too(hub: SlowHub, tmp_path: Path) -> None:
    hub.pause = 0.7
    process = crawl(hub, tmp_path / "store")
    while not any(e.origin == "cdn" for e in list(hub.requests)):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "0 fingerprinted, 0 skipped, 0 failed of " in said
    assert "Traceback" not in said
    assert stored(tmp_path / "store") == 0


def test_a_second_crawl_is_one_line(hub: LoopbackHub, tmp_path: Path) -> None:
    with provenance.open(tmp_path / "store", create=True) as database, crawl_lease(database.store.path):
        process = crawl(hub, tmp_path / "store")
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = said.splitlines()
    assert line.startswith("provenance: another crawl writes to ")
    assert f"process {os.getpid()}" in line
    assert hub.requests == []


def test_after_a_kill_the_next_crawl_says_so_and_goes_on(hub: LoopbackHub, tmp_path: Path) -> None:
    process = crawl(hub, tmp_path / "store")
    while not (tmp_path / "store" / "CRAWL").exists() or not any(e.origin == "cdn" for e in list(hub.requests)):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    killed = process.pid
    process = crawl(hub, tmp_path / "store")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"the last crawl was killed (process {killed} on " in said
    assert stored(tmp_path / "store") == N_REPOS


def test_a_full_disk_is_one_line_and_the_store_is_whole(hub: LoopbackHub, tmp_path: Path) -> None:
    def full() -> None:
        # No file may grow past this: the parts of an empty store fit, those of some fingerprints do not.
        resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, 16 * 1024))

    process = crawl(hub, tmp_path / "store", full)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("provenance: cannot write to the store at ")
    assert "nothing of this was committed" in said
    before = stored(tmp_path / "store")
    assert before < N_REPOS
    process = crawl(hub, tmp_path / "store")
    process.communicate(timeout=60)
    assert (process.returncode, stored(tmp_path / "store")) == (0, N_REPOS)


def test_killed_again_and_again() -> None:
    """The soak of `benchmarks.soak`, small."""
    found = soak(120, 3, seed=1, kinds=[kind for kind in FAULTS if kind not in SLOW])
    assert found.problems == []
    assert found.faulty >= 5
    assert found.kills >= 2


def test_progress_without_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    transport = HubTransport("http://127.0.0.1:9", {})
    transport.budgets.limits["api"] = RateLimit("api", 7, 30, 0.0, 1000, 300)
    with progress.CrawlProgress() as seen:
        seen.found(None)
        seen.visited(Outcome("a/b", None, "failed", bytes_read=2048))
        seen.budgets(transport)
    first, second = capsys.readouterr().err.splitlines()
    assert "1 visited" in first
    assert "2.0 KiB  0 skipped  1 failed" in first
    assert "api 7 of 1,000" in second
