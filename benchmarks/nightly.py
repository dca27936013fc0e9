"""A nightly crawl's budget and its memory: `python -m benchmarks.nightly`, about four minutes.

Two hubs on loopback addresses, each in a separate process. One allows few requests in short windows: no request may
be refused after the first one, and the crawl should last little longer than its budget requires. The other lists a
million repos, of which one in a thousand has safetensors. Only ratios of times are comparable between machines.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

import provenance
from benchmarks.soak import TINY
from provenance.crawler.engine.options import CrawlOptions, HubListing
from provenance.demo_hub import LoopbackHub
from tests.hub.endless import EndlessHub
from tests.hub.generated import generated_repo
from tests.hub.quotas import Meter, Quotas

if TYPE_CHECKING:
    from provenance.crawler.hub.transport import HubTransport
    from provenance.schemas.records import Outcome

SPAWN = multiprocessing.get_context("spawn")
WORKERS = 16

REPOS, QUOTAS = 400, Quotas(api=50, resolvers=60, window=10)
LISTED, KEPT = 1_000_000, 1_000
STEP = 100_000


@contextmanager
def served(make: Callable[[], LoopbackHub]) -> Iterator[tuple[str, Connection]]:
    """A hub in another process: its endpoint, and a line with the number of refused requests on demand."""
    line, other = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(make, other))
    process.start()
    other.close()
    try:
        yield line.recv(), line
    finally:
        line.close()  # which ends the process
        process.join()


def _serve(make: Callable[[], LoopbackHub], line: Connection) -> None:
    with make() as hub:
        line.send(hub.endpoint)
        while True:
            try:
                line.recv()
            except EOFError:
                return
            line.send([(exchange.status, exchange.path) for exchange in hub.requests])


def rationed() -> LoopbackHub:
    """Repos of one file each, and few requests a window."""
    return LoopbackHub([generated_repo(f"org/model-{i}", TINY, seed=i) for i in range(REPOS)], meter=Meter(QUOTAS))


def endless() -> LoopbackHub:
    """A million repos, few of which have weights to read."""
    return EndlessHub(LISTED, every=LISTED // KEPT)


class Marks:
    """Time and memory at every hundred thousand repos."""

    def __init__(self) -> None:
        self.done, self.marks = 0, [(0, perf_counter(), _resident())]

    def found(self, total: int | None) -> None:
        """Nothing to note."""

    def visited(self, outcome: Outcome) -> None:
        self.done += 1
        if self.done % STEP == 0:
            self.marks.append((self.done, perf_counter(), _resident()))

    def passed(self, listed: int) -> None:
        self.visited(None)  # type: ignore[arg-type]

    def budgets(self, transport: HubTransport) -> None:
        """Nothing to note."""


def _resident() -> float:
    """Resident memory of this process now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def budget() -> tuple[float, float, int]:
    """Seconds of a crawl within a small budget, the least that the budget allows, and requests that were refused."""
    with served(rationed) as (endpoint, line), TemporaryDirectory() as folder:
        with provenance.open(Path(folder, "store"), create=True) as database:
            began = perf_counter()
            summary = database.crawl([], CrawlOptions(endpoint=endpoint, workers=WORKERS), listing=HubListing())
            seconds = perf_counter() - began
        if summary.fingerprinted != REPOS:
            raise RuntimeError(f"{REPOS} repos, {summary.fingerprinted} fingerprinted: {summary.failures[:3]}")
        line.send("requests")
        refused = sum(status == 429 for status, _ in line.recv())
    windows = math.ceil(REPOS / QUOTAS.resolvers)
    return seconds, float((windows - 1) * QUOTAS.window), refused


def million() -> list[tuple[str, Marks, Any]]:
    """Two nights over the same million repos, each crawl in a process of its own."""
    nights = []
    with served(endless) as (endpoint, _), TemporaryDirectory() as folder:
        for night, full in (("first", False), ("second, whole", True), ("third, changes", False)):
            line, other = SPAWN.Pipe()
            process = SPAWN.Process(target=_night, args=(endpoint, Path(folder, "store"), full, other))
            process.start()
            other.close()
            marks, summary = line.recv()
            process.join()
            nights.append((night, marks, summary))
    return nights


def _night(endpoint: str, store: Path, full: bool, line: Connection) -> None:
    options = CrawlOptions(endpoint=endpoint, workers=4)
    with provenance.open(store, create=True) as database:
        marks = Marks()
        summary = database.crawl([], replace(options, full_walk=full), marks, listing=HubListing())
    marks.marks.append((marks.done, perf_counter(), _resident()))
    line.send((marks, summary))


def main() -> None:
    seconds, bound, refused = budget()
    print("| repos | requests a window | seconds a window | refused | crawl, s | bound of the budget, s | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    row = (REPOS, QUOTAS.resolvers, QUOTAS.window, refused, f"{seconds:.1f}", f"{bound:.0f}", f"{seconds / bound:.2f}")
    print(f"| {' | '.join(map(str, row))} |\n", flush=True)

    print("| night | listed | fingerprinted | s a 100,000 | last / first 100,000 | MiB after 100,000 | at the end |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for night, marks, summary in million():
        steps = [b[1] - a[1] for a, b in pairwise(marks.marks[:-1])]
        pace = (f"{median(steps):.1f}", f"{steps[-1] / steps[0]:.2f}") if steps else ("–", "–")
        memory = (f"{mark[2]:.0f}" for mark in (marks.marks[1], marks.marks[-1]))
        row = (night, f"{summary.listed:,}", f"{summary.fingerprinted:,}", *pace, *memory)
        print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
