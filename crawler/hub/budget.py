"""The Hub's budgets, kept ahead of a refusal: one account for all workers of a crawl.

The Hub grants so many requests in a fixed window of time, apart for its API and for files, and says with every answer
how many are left. A request that would be one too many waits for the next window instead of being refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from provenance.crawler.hub.answers import AbandonedError, RateLimit, rate_limits

_ROUNDING = 1.0
"""Seconds that a window is given more than announced: its end comes in whole ones."""

LONGEST_WINDOW = 900
"""Seconds; the Hub's windows last 300. A server that announces more is asked again all the same."""

_UNKNOWN_WINDOW = 60
"""Seconds that a window lasts where the Hub does not say so."""


@dataclass(slots=True)
class _Window:
    """What is known of one budget's current window.

    The smallest number that an answer named as left was true before the requests that were then unanswered, so what
    may be sent is `left - unanswered`, in whatever order answers come. Each also tells when the window ends, rightly
    or, if it came slowly, too late: the earliest counts. `ends` is null before the first answer of a window, `ended`
    (the end of the window before) in the first.
    """

    left: float = float("inf")
    ends: float | None = None
    ended: float | None = None
    unanswered: int = 0


class Budgets:
    """Admits requests to the Hub; one for all threads.

    Attributes:
        limits: the newest answer about each budget, by resource (`api`, `resolvers`).
        waited: seconds that requests waited for a next window, in sum.
    """

    def __init__(self, pause: Callable[[float], object], clock: Callable[[], float] = time.monotonic) -> None:
        """Set up, with nothing known.

        Args:
            pause: waits so many seconds; true when the crawl was stopped meanwhile.
            clock: seconds since any time; it must not be set back.
        """
        self.limits: dict[str, RateLimit] = {}
        self.waited = 0.0
        self._pause, self._clock, self._lock = pause, clock, Lock()
        self._windows: dict[str, _Window] = {}

    @contextmanager
    def request(self, resource: str) -> Iterator[Callable[[Mapping[str, str]], None]]:
        """Wait until one more request fits; the context is to send it, and to hand over the headers of its answer.

        Raises:
            AbandonedError: the crawl was stopped while it waited.
        """
        while (seconds := self._admit(resource)) > 0:
            began = self._clock()
            stopped = self._pause(seconds)
            with self._lock:
                self.waited += self._clock() - began
            if stopped:
                raise AbandonedError("the crawl was stopped while it waited for the Hub's next window")
        try:
            yield self._report
        finally:
            with self._lock:
                self._windows[resource].unanswered -= 1

    def waiting(self) -> float:
        """Seconds until the next window of a budget that is used up; zero where none is."""
        with self._lock:
            now = self._clock()
            return max(
                (w.ends - now for w in self._windows.values() if w.ends is not None and w.left <= w.unanswered),
                default=0.0,
            )

    def _admit(self, resource: str) -> float:
        """Zero, and the request is counted; or the seconds to wait."""
        with self._lock:
            window, now = self._windows.setdefault(resource, _Window()), self._clock()
            if window.ends is not None and now >= window.ends:
                quota = self.limits[resource].quota
                window.left, window.ends, window.ended = quota or float("inf"), None, window.ends
            if window.left - window.unanswered > 0:
                window.unanswered += 1
                return 0.0
            # Before the first answer of a window nobody knows when it ends; the answers that are on their way tell.
            return 0.1 if window.ends is None else window.ends - now

    def _report(self, headers: Mapping[str, str]) -> None:
        with self._lock:
            for limit in rate_limits(headers, time.time()):
                window = self._windows.get(limit.resource)
                if window is None:
                    continue  # nothing was asked for that counts against it
                ends = self._clock() + min(limit.reset, LONGEST_WINDOW) + _ROUNDING
                half = min(limit.window or _UNKNOWN_WINDOW, LONGEST_WINDOW) / 2
                if window.ended is not None and ends < window.ended + half:
                    continue  # a late answer of the window before
                if window.ends is not None and ends > window.ends + half:
                    # The next one has begun while requests of this one were left.
                    window.ended, window.ends, window.left = window.ends, None, float("inf")
                window.ends = min(window.ends or ends, ends)
                window.left = min(window.left, limit.left)
                self.limits[limit.resource] = limit
