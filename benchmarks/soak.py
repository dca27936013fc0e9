"""A crawl killed repeatedly, on a hub with faults: `python -m benchmarks.soak`, about five minutes.

A hub on loopback addresses, in a separate process, serves tiny repos, a tenth of them with the faults of
`tests.hub.faults`. The command line crawls it, is killed with SIGKILL at random times, and finally runs to its end.
The store must then equal that of an uninterrupted crawl of the same hub, row by row.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import provenance
from tests.hub.faults import FAULTS
from tests.hub.faulty import FaultyHub
from tests.hub.generated import Geometry, generated_repo

TINY = Geometry(2, 64, 4, 2, 96, 128, head_size=16)
SPAWN = multiprocessing.get_context("spawn")
WORKERS = 8
COMPARED = ("checkpoints", "files", "tensors", "samples")
VOLATILE = ("fingerprint_id", "fingerprinted_at")


@dataclass(frozen=True)
class Soak:
    """The result of a soak test.

    Attributes:
        healthy, faulty: repos that must be stored, and those that must have a failed outcome.
        kills: crawls that were killed while they ran.
        seconds, undisturbed_seconds: time of all crawls with kills, and of the uninterrupted one.
        problems: as text; empty if all is well.
    """

    healthy: int
    faulty: int
    kills: int
    seconds: float
    undisturbed_seconds: float
    problems: list[str]


def name(number: int) -> str:
    """The id of a repo of the soak."""
    return f"org-{number % 17}/model-{number:05d}"


@contextmanager
def served(n: int, seed: int, kinds: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """A faulty hub in a separate process: its endpoint, and the kind of fault by repo id."""
    line, other = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(n, seed, kinds, other))
    process.start()
    other.close()
    try:
        yield line.recv()
    finally:
        line.close()  # which ends the process
        process.join()


def _serve(n: int, seed: int, kinds: Sequence[str], line: Connection) -> None:
    repos = [generated_repo(name(number), TINY, seed=number) for number in range(n)]
    with FaultyHub(repos, seed=seed, share=0.1, kinds=kinds, pause=0.01) as hub:
        faults = {repo.id: fault.kind for repo in repos if (fault := hub.fault_of(repo.id))}
        line.send((hub.endpoint, faults))
        try:
            line.recv()
        except EOFError:
            return


def crawl(store: Path, endpoint: str, *options: str) -> subprocess.Popen[str]:
    """The command, started in a process group of its own."""
    command = [
        sys.executable,
        "-c",
        "from provenance.cli import main; main()",
        "crawl",
        "--all",
        "--workers",
        str(WORKERS),
    ]
    return subprocess.Popen(
        [*command, "--store", str(store), "--endpoint", endpoint, *options],
        env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def soak(n: int, kills: int, *, seed: int = 0, kinds: Sequence[str] = tuple(FAULTS)) -> Soak:
    """Crawl `n` repos with `kills` kills, and once undisturbed, and compare."""
    chance = random.Random(seed)
    problems: list[str] = []
    with served(n, seed, kinds) as (endpoint, faults), TemporaryDirectory() as folder:
        began = time.perf_counter()
        calm = Path(folder, "calm")
        process = crawl(calm, endpoint)
        _, complaints = process.communicate()
        calm_seconds = time.perf_counter() - began
        if process.returncode:
            problems.append(f"the undisturbed crawl ended with {process.returncode}: {complaints[-500:]}")

        began, killed, store = time.perf_counter(), 0, Path(folder, "store")
        for _ in range(kills):
            process = crawl(store, endpoint)
            # Some at the start, most later: together they last about as long as the crawl.
            time.sleep(chance.uniform(0.2, min(0.9 * calm_seconds, 1.2 + 2.0 * calm_seconds / kills)))
            killed += process.poll() is None
            process.kill()
            process.communicate()
            if (store / "MANIFEST").exists():
                with provenance.open(store) as database:
                    problems += database.store.verify()
        process = crawl(store, endpoint, "--full-walk", "--retry-failed")
        _, complaints = process.communicate()
        if process.returncode:
            problems.append(f"the last crawl ended with {process.returncode}: {complaints[-500:]}")
        seconds = time.perf_counter() - began
        problems += compare(store, calm)
        problems += ends_as_it_should(store, [name(number) for number in range(n)], faults)
    faulty = sum(FAULTS[kind].ends != "stored" for kind in faults.values())
    return Soak(n - faulty, faulty, killed, seconds, calm_seconds, problems)


def compare(one: Path, other: Path) -> list[str]:
    """Tables whose rows differ between two stores, apart from ids and times of the attempts."""
    problems = []
    with provenance.open(one) as a, provenance.open(other) as b, a.connect() as left, b.connect() as right:
        for table in COMPARED:
            query = f"select * exclude ({', '.join(c for c in VOLATILE if table == 'checkpoints' or c == VOLATILE[0])})"
            rows = [
                Counter(map(repr, side.sql(f"{query} from {table}").to_arrow_table().to_pylist()))
                for side in (left, right)
            ]
            if rows[0] != rows[1]:
                missing, more = rows[1] - rows[0], rows[0] - rows[1]
                problems.append(f"{table}: {missing.total()} rows are missing, {more.total()} are there in excess")
    return problems


def ends_as_it_should(store: Path, names: Sequence[str], faults: dict[str, str]) -> list[str]:
    """Healthy repos that are not stored exactly once, and faulty ones without their outcome."""
    problems = []
    with provenance.open(store) as database, database.connect() as connection:
        stored = Counter(repo for (repo,) in connection.execute("select repo_id from checkpoints").fetchall())
        query = """select repo_id, arg_max(status, "at") from outcomes group by repo_id"""
        last: dict[str, Any] = dict(connection.execute(query).fetchall())
    for repo in names:
        kind = faults.get(repo)
        ends = FAULTS[kind].ends if kind else "stored"
        final = f"{repo}-renamed" if kind == "renamed" else repo
        if ends == "stored" and stored[final] != 1:
            problems.append(f"{repo} ({kind or 'healthy'}) is stored {stored[final]} times; {last.get(repo)}")
        if ends != "stored" and (stored[repo] or last.get(repo) != ends):
            problems.append(f"{repo} ({kind}) should be {ends}: {last.get(repo)}, stored {stored[repo]} times")
    return problems


def main() -> None:
    n, kills = (int(argument) for argument in (*sys.argv[1:], "2000", "20")[:2])
    found = soak(n, kills)
    print("| repos | healthy | faulty | kills -9 | seconds with kills | undisturbed | problems |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(
        f"| {n} | {found.healthy} | {found.faulty} | {found.kills} | {found.seconds:.0f} "
        f"| {found.undisturbed_seconds:.0f} | {len(found.problems)} |"
    )
    for problem in found.problems[:20]:
        print(f"- {problem}")


if __name__ == "__main__":
    main()
