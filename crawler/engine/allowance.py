"""How much more a crawl may read, and for how long: checked before each checkpoint, by all workers."""

from __future__ import annotations

import time
from threading import Event, Lock

from provenance.crawler.engine.options import CrawlOptions


class Allowance:
    """What `--max-bytes` and `--max-time` leave of a crawl, and whether it was told to stop; thread-safe."""

    def __init__(self, options: CrawlOptions, stop: Event) -> None:
        """Start the clock."""
        self._options, self._stop = options, stop
        self._began, self._bytes, self._lock = time.monotonic(), 0, Lock()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def spend(self, n_bytes: int) -> None:
        """Count bytes that were read."""
        with self._lock:
            self._bytes += n_bytes

    def exhausted(self) -> str | None:
        """Why no further checkpoint is to be read; null if one may be."""
        options = self._options
        if self._stop.is_set():
            return "the crawl was stopped"
        if options.max_bytes is not None and self._bytes >= options.max_bytes:
            return "the byte budget is used up (--max-bytes)"
        if options.max_time is not None and self.seconds >= options.max_time:
            return "the time is up (--max-time)"
        return None
