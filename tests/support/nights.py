"""A hub and a store for crawls night after night."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from provenance.crawler.engine.options import CrawlOptions, HubListing
from provenance.database import Database
from provenance.demo_hub import HubRepo, LoopbackHub, MemoryFile
from provenance.demo_hub.messages import Request, Response
from provenance.schemas.tables import from_rows
from tests.hub.generated import Geometry, generated_repo

TINY = Geometry(2, 64, 2, 2, 96, 100, head_size=32)
ALL = HubListing()
PAGE, PAGES = ["hub /api/models"], ["hub /api/models"] * 2
LONG_AGO = "2025-01-01T00:00:00.000Z"


def repo(name: str, seed: int = 0, **listing: Any) -> HubRepo:
    return generated_repo(name, TINY, seed=seed, listing=listing)


def pickled(name: str) -> HubRepo:
    return HubRepo(name, {"last.ckpt": MemoryFile(b"never read")})


def now(**ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).strftime("%Y-%m-%dT%H:%M:%S.000Z")


class Night:
    """A hub, a store, and the requests of the last crawl."""

    def __init__(self, hub: LoopbackHub, database: Database) -> None:
        self.hub, self.database = hub, database
        self.options = CrawlOptions(endpoint=hub.endpoint)
        self.asked: list[str] = []

    def crawl(self, listing: HubListing | None = ALL, sources: tuple[str, ...] = (), **options: Any) -> Any:
        before = len(self.hub.requests)
        summary = self.database.crawl(sources, replace(self.options, **options), listing=listing)
        self.asked = [f"{e.origin} {e.path.partition('?')[0]}" for e in self.hub.requests[before:]]
        return summary

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.database.connect() as connection:
            return connection.execute(query).fetchall()

    def change(self, repo: HubRepo) -> None:
        self.hub.repos[repo.id] = repo


def age(database: Database, **by: float) -> None:
    """Let time pass: every outcome becomes older."""
    rows = database.store.read("outcomes")
    by_ = timedelta(**by)
    aged = [
        {**row, "at": row["at"] - by_, "next_attempt_at": row["next_attempt_at"] and row["next_attempt_at"] - by_}
        for row in rows.to_pylist()
    ]
    database.store.replace("outcomes", from_rows("outcomes", aged))


def interrupted(night: Night, when: Callable[[Request], bool]) -> Any:
    """Crawl, and press Ctrl-C at the first request that fits."""
    answer, main = night.hub.answer, threading.main_thread().ident
    pressed = threading.Event()

    def pressing(request: Request) -> Response:
        if when(request) and not pressed.is_set():
            pressed.set()
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.2)
        return answer(request)

    night.hub.answer = pressing  # type: ignore[method-assign]
    try:
        return night.crawl(workers=2)
    finally:
        night.hub.answer = answer  # type: ignore[method-assign]
