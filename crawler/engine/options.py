"""How to crawl, and which part of a hub's listing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from provenance.crawler.plan import SAMPLE_SIZES, SampleSize
from provenance.schemas.enums import Mode, Source
from provenance.schemas.records import ListedCheckpoint


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

    `mode` is a `Mode`; null means full for local folders and sampled for a hub. `endpoint` is the address of a hub
    other than the one that huggingface_hub is configured for. `max_bytes` and `max_time` (seconds) stop the crawl
    before another checkpoint is started. `retry_failed` retries every repo whose last attempt failed, due or not;
    `full_walk` crawls a listing from start to end even if that was done before; `refingerprint` reads stored
    checkpoints again. `created_at` (timezone-aware) and `license` are said of local checkpoints of which neither a
    listing nor a card says them.

    Raises:
        ValueError: `mode` or `sample` is unknown.
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
    created_at: datetime | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in (None, *Mode):
            raise ValueError(f"mode {self.mode!r}: expected one of {', '.join(Mode)}")
        if self.sample not in SAMPLE_SIZES:
            raise ValueError(f"sample {self.sample!r}: expected one of {', '.join(SAMPLE_SIZES)}")

    def mode_of(self, source: Source) -> Mode:
        """What is read of a checkpoint; by default bands from a hub, and all of a local folder."""
        if self.mode is not None:
            return Mode(self.mode)
        return Mode.SAMPLED if source is Source.HUB else Mode.FULL

    def stated(self, listed: ListedCheckpoint) -> ListedCheckpoint:
        """A checkpoint with what the user says of it, where it is local and nothing else says it."""
        known = listed.metadata
        if listed.source is not Source.LOCAL:
            return listed
        said = replace(known, created_at=known.created_at or self.created_at, license=known.license or self.license)
        return replace(listed, metadata=said)

    def sample_size(self, source: Source) -> SampleSize | None:
        """How much is read of a checkpoint; null for all of it."""
        return SAMPLE_SIZES[self.sample] if self.mode_of(source) is Mode.SAMPLED else None
