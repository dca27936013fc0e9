"""Defaults, options and the environment: the one place that reads it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

STORE_VARIABLE = "PROVENANCE_STORE"
MODES = ("sampled", "full")
SAMPLES = ("small", "default", "large")
DEFAULT_STORE = "./provenance-store"


def store_path(given: str | os.PathLike[str] | None) -> Path:
    """The store to use: the one given, else `PROVENANCE_STORE`, else `./provenance-store`."""
    return Path(given or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE)


@dataclass(frozen=True, slots=True)
class HubListing:
    """Which part of a hub's listing to crawl; all of it by default.

    `sort` is the hub's name of a field, `since` a timezone-aware time of last change.
    """

    author: str | None = None
    search: str | None = None
    filters: tuple[str, ...] = ()
    sort: str | None = None
    limit: int | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class CrawlOptions:
    """How to crawl; the fields are the options of `provenance crawl`.

    `mode` is `full` or `sampled`; null means full for local folders and sampled for a hub. `endpoint` is the address of
    another hub than the one that huggingface_hub is set up for. `max_bytes` and `max_time` (seconds) stop the
    crawl before another checkpoint is started. `retry_failed` visits every repo again whose last visit failed, due or
    not; `full_walk` walks a listing from end to end although a complete walk is on record; `refingerprint` reads again
    what is stored.
    """

    mode: str | None = None
    sample: str = "default"
    workers: int = 2
    max_bytes: int | None = None
    max_time: float | None = None
    refingerprint: bool = False
    endpoint: str | None = None
    retry_failed: bool = False
    full_walk: bool = False

    def __post_init__(self) -> None:
        if self.mode not in (None, *MODES):
            raise ValueError(f"mode {self.mode!r}: expected one of {', '.join(MODES)}")
        if self.sample not in SAMPLES:
            raise ValueError(f"sample {self.sample!r}: expected one of {', '.join(SAMPLES)}")
