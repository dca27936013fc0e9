"""The cost of a crawl of a hub, and the models per day: `python -m benchmarks.hub`, about two minutes.

A hub on loopback addresses, in a separate process, serves repos whose weights are computed and not stored. Requests
and bytes are exactly those that the Hub would see. Only ratios of times are comparable between machines. The weights
are independent of each other, so `std_error` is smaller than it would be for trained matrices, whose rows differ.
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import urllib3

import provenance
from provenance.crawler.engine.options import CrawlOptions
from provenance.database import Database
from provenance.demo_hub import Exchange, LoopbackHub
from provenance.schemas.roles import ATTENTION
from tests.hub.generated import LLAMA_7B, LLAMA_70B, QWEN3_30B_A3B, Geometry, generated_repo

SMALL = Geometry(28, 1024, 16, 8, 3072, 32_000)
GEOMETRIES = {"0.5B": SMALL, "7B": LLAMA_7B, "70B": LLAMA_70B, "30B-A3B": QWEN3_30B_A3B}
COSTS = [*((name, "default") for name in GEOMETRIES), ("7B", "small"), ("7B", "large")]

PACE = {"0.5B": 8, "7B": 4}
"""Number of repos of a geometry in a timed crawl."""
WORKERS, REPEATS = 4, 3

PLANS = {"free": (1_000, 5_000), "PRO": (2_500, 12_000)}
"""Requests to the API, and to `resolve`, that a plan allows in each of a day's 288 windows of five minutes."""
WINDOWS, WINDOW_SECONDS = 288, 300
MARGIN = 0.8
"""Share of a budget that is used, so that no request is refused."""
PAGE = 1_000
"""Models on a page of the listing, which costs one request."""

MEMORY = [("0.5B", 1), ("0.5B", 16), ("7B", 16), ("70B", 16)]
"""Number of repos of a geometry crawled in parallel to measure memory."""
MEMORY_WORKERS = 16

SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Hub:
    """A hub in another process that serves the same geometry under many names."""

    endpoint: str
    cdn: str
    names: list[str]
    line: Connection

    def traffic(self) -> list[Exchange]:
        """The requests since the last call."""
        self.line.send("traffic")
        found: list[Exchange] = self.line.recv()
        return found


@dataclass(frozen=True)
class Cost:
    """What one checkpoint cost: requests by kind, bytes; and the median relative `std_error` of each projection."""

    api: int
    resolves: int
    ranges: int
    bytes: int
    total: int
    errors: list[float]


@contextmanager
def serve(geometry: Geometry, count: int) -> Iterator[Hub]:
    """Serve `count` repos that differ only in their weights."""
    line, other = SPAWN.Pipe()
    names = [f"bench/model-{seed}" for seed in range(count)]
    process = SPAWN.Process(target=_serve, args=(geometry, names, other))
    process.start()
    other.close()
    try:
        endpoint, cdn = line.recv()
        yield Hub(endpoint, cdn, names, line)
    finally:
        line.close()  # which ends the process
        process.join()


def _serve(geometry: Geometry, names: Sequence[str], line: Connection) -> None:
    repos = [generated_repo(name, geometry, seed=seed) for seed, name in enumerate(names)]
    with LoopbackHub(repos) as hub:
        line.send((hub.endpoint, hub.cdn))
        while True:
            try:
                line.recv()
            except EOFError:
                return
            line.send(hub.requests)
            hub.requests.clear()


def crawl(endpoint: str, names: Sequence[str], sample: str, workers: int) -> tuple[float, int, list[float], float]:
    """Crawl into a new store.

    Returns:
        seconds; bytes of all weight files; the median over layers of `std_error / std` of q, k, v and o; bytes by which
        the store grew per checkpoint.

    Raises:
        RuntimeError: not every repo was fingerprinted.
    """
    with TemporaryDirectory() as folder, provenance.open(Path(folder, "store"), create=True) as database:
        empty = size_of(database)
        start = perf_counter()
        summary = database.crawl(names, CrawlOptions(sample=sample, workers=workers, endpoint=endpoint))
        seconds = perf_counter() - start
        if summary.fingerprinted < len(names):
            raise RuntimeError(f"{len(names)} repos, {summary.fingerprinted} fingerprinted: {summary.failures}")
        with database.connect() as connection:
            rows = connection.sql("SELECT role, median(std_error / std) FROM tensors GROUP BY role").fetchall()
            total = connection.sql("SELECT sum(total_bytes) FROM checkpoints").fetchall()[0][0]
        errors = dict(rows)
        stored = (size_of(database) - empty) / len(names)
        return seconds, int(total), [errors[role] for role in ATTENTION], stored


def size_of(database: Database) -> int:
    """Bytes of all live parts of a store."""
    return sum(part.bytes for parts in database.store.manifest().parts.values() for part in parts)


def cost(geometry: Geometry, sample: str) -> Cost:
    """What the hub saw while one repo was crawled by name."""
    with serve(geometry, 1) as hub:
        _, total, errors, _ = crawl(hub.endpoint, hub.names, sample, 1)
        seen = hub.traffic()
    # The hub does not count the cached copy of a small file that a redirect leads to.
    api = sum(e.path.startswith("/api/models") for e in seen)
    resolves = sum(e.origin == "hub" and "/resolve/" in e.path for e in seen)
    ranges = sum(e.origin == "cdn" for e in seen)
    return Cost(api, resolves, ranges, sum(e.bytes for e in seen), total, errors)


def pace(geometry: Geometry, count: int) -> tuple[float, float]:
    """Median seconds of a crawl, and of a loop that reads the same ranges from the same URLs and discards them."""
    crawled, looped = [], []
    with serve(geometry, count) as hub:
        for _ in range(REPEATS):
            hub.traffic()
            crawled.append(crawl(hub.endpoint, hub.names, "default", WORKERS)[0])
            looped.append(loop(hub.cdn, [e for e in hub.traffic() if e.origin == "cdn"]))
    return float(np.median(crawled)), float(np.median(looped))


def loop(cdn: str, ranges: Sequence[Exchange]) -> float:
    """Seconds that plain urllib3 takes, with as many threads and connections as the crawl."""
    with urllib3.PoolManager(maxsize=WORKERS) as pool, ThreadPoolExecutor(WORKERS) as threads:

        def fetch(exchange: Exchange) -> int:
            return len(pool.request("GET", cdn + exchange.path, headers={"Range": exchange.range or ""}).data)

        start = perf_counter()
        read = sum(threads.map(fetch, ranges))
        seconds = perf_counter() - start
    if read != (expected := sum(e.bytes for e in ranges)):
        raise RuntimeError(f"the loop read {read} bytes, the crawl {expected}")
    return seconds


def peak_mib(geometry: Geometry, count: int) -> tuple[float, float]:
    """Peak resident memory of a process that only runs one crawl, in MiB; bytes of a stored checkpoint."""
    line, other = SPAWN.Pipe()
    with serve(geometry, count) as hub:
        process = SPAWN.Process(target=_peak, args=(hub.endpoint, hub.names, other))
        process.start()
        other.close()
        kib, stored = line.recv()
        process.join()
    return kib / 1024, stored


def _peak(endpoint: str, names: Sequence[str], line: Connection) -> None:
    *_, stored = crawl(endpoint, names, "default", MEMORY_WORKERS)
    line.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, stored))


def table(title: str, columns: str, rows: Sequence[Sequence[str]]) -> None:
    """Print Markdown; `columns` are separated by bars."""
    print(f"\n### {title}\n\n| {columns} |\n|{' --- |' * len(columns.split('|'))}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    # First, because a new process inherits the peak of its parent, which would later hide its own.
    peaks = [(name, n, *peak_mib(GEOMETRIES[name], n)) for name, n in MEMORY]
    costs = {(name, sample): cost(GEOMETRIES[name], sample) for name, sample in COSTS}
    paces = {name: pace(GEOMETRIES[name], count) for name, count in PACE.items()}

    table(
        "One checkpoint, sampled, by name",
        "model | sample | weights GB | API | resolve | ranges | MB read | share | std_error / std of q, k, v, o",
        [
            [
                *(name, sample, f"{c.total / 1e9:.1f}", str(c.api), str(c.resolves), f"{c.ranges:,}"),
                *(f"{c.bytes / 1e6:.1f}", f"{c.bytes / c.total:.3%}", ", ".join(f"{e:.2%}" for e in c.errors)),
            ]
            for (name, sample), c in costs.items()
        ],
    )
    table(
        f"Crawl against plain urllib3 over the same ranges, {WORKERS} threads, medians of {REPEATS}",
        "model | repos | crawl, checkpoints/s | urllib3, checkpoints/s | crawl / urllib3",
        [
            [name, str(n), f"{n / ours:.2f}", f"{n / plain:.2f}", f"{plain / ours:.2f}"]
            for (name, n), (ours, plain) in zip(PACE.items(), paces.values(), strict=True)
        ],
    )
    table(
        f"Models a day within {MARGIN:.0%} of the Hub's budgets",
        "model | plan | by name | bound by | from the listing | MB/s for that",
        [projection(name, costs[name, "default"], plan) for name in GEOMETRIES for plan in PLANS],
    )
    table(
        f"Peak resident memory of a crawl with {MEMORY_WORKERS} workers, and what a checkpoint takes in the store",
        "model | repos, all at a time | weights GB a repo | peak MiB | KiB a checkpoint",
        [
            [name, str(n), f"{costs[name, 'default'].total / 1e9:.1f}", f"{mib:.0f}", f"{stored / 1024:.0f}"]
            for name, n, mib, stored in peaks
        ],
    )


def projection(name: str, spent: Cost, plan: str) -> list[str]:
    """A row: what the two budgets of a plan allow, by name and with a page of the listing for every 1,000 models."""
    api, resolves = PLANS[plan]
    by_api, by_resolve = api / spent.api, resolves / spent.resolves
    listed = MARGIN * min(api * PAGE, by_resolve)
    return [
        name,
        plan,
        f"{WINDOWS * MARGIN * min(by_api, by_resolve):,.0f}",
        "API" if by_api < by_resolve else "resolve",
        f"{WINDOWS * listed:,.0f}",
        f"{listed * spent.bytes / 1e6 / WINDOW_SECONDS:,.0f}",
    ]


if __name__ == "__main__":
    main()
