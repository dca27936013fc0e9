"""The Hub's rate limits, observed before it refuses a request: one account for all workers of a crawl.

The Hub grants a number of requests in each fixed time window, separately for its API and for files, and every answer
says how many are left. A request that would exceed the limit waits for the next window.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from provenance.crawler.hub.answers import AbandonedError, RateLimit, rate_limits

_ROUNDING = 1.0
"""Seconds added to the announced end of a window, which is rounded to whole seconds."""

LONGEST_WINDOW = 900
"""Seconds; the Hub's windows last 300. If a server announces more, requests resume after this time."""

_UNKNOWN_WINDOW = 60
"""Seconds that a window is assumed to last if the Hub does not say."""


@dataclass(slots=True)
class _Window:
    """What is known about the current window of one rate limit.

    `left` is the smallest remaining count that an answer reported. It does not include the requests that were
    unanswered at that time, so `left - unanswered` more may be sent, in any order of answers. Every answer also says
    when the window ends; a slow answer puts the end too late, so the earliest one is used. `ends` is null before the
    first answer of a window; `ended`, the end of the previous window, is null in the first window.
    """

    left: float = float("inf")
    ends: float | None = None
    ended: float | None = None
    unanswered: int = 0


class Budgets:
    """Admits requests to the Hub; shared by all threads.

    Attributes:
        limits: the latest report on each rate limit, by resource (`api`, `resolvers`).
        waited: total seconds that requests waited for a next window.
    """

    def __init__(self, pause: Callable[[float], object], clock: Callable[[], float] = time.monotonic) -> None:
        """Start with no known limit.

        Args:
            pause: waits for the given number of seconds; returns true if the crawl was stopped during the wait.
            clock: monotonic time in seconds.
        """
        self.limits: dict[str, RateLimit] = {}
        self.waited = 0.0
        self._pause, self._clock, self._lock = pause, clock, Lock()
        self._windows: dict[str, _Window] = {}

    @contextmanager
    def request(self, resource: str) -> Iterator[Callable[[Mapping[str, str]], None]]:
        """Wait until one more request is allowed.

        The body of the `with` statement sends it and passes the headers of its answer to the yielded function.

        Raises:
            AbandonedError: the crawl was stopped during the wait.
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
        """Seconds until the next window of an exhausted limit; zero if none is exhausted."""
        with self._lock:
            now = self._clock()
            return max(
                (w.ends - now for w in self._windows.values() if w.ends is not None and w.left <= w.unanswered),
                default=0.0,
            )

    def _admit(self, resource: str) -> float:
        """Count the request and return zero, or return the seconds to wait."""
        with self._lock:
            window, now = self._windows.setdefault(resource, _Window()), self._clock()
            if window.ends is not None and now >= window.ends:
                quota = self.limits[resource].quota
                window.left, window.ends, window.ended = quota or float("inf"), None, window.ends
            if window.left - window.unanswered > 0:
                window.unanswered += 1
                return 0.0
            # The end of a window is unknown before its first answer, so wait for an outstanding request to be answered.
            return 0.1 if window.ends is None else window.ends - now

    def _report(self, headers: Mapping[str, str]) -> None:
        with self._lock:
            for limit in rate_limits(headers, time.time()):
                window = self._windows.get(limit.resource)
                if window is None:
                    continue  # no request counted against this limit
                ends = self._clock() + min(limit.reset, LONGEST_WINDOW) + _ROUNDING
                half = min(limit.window or _UNKNOWN_WINDOW, LONGEST_WINDOW) / 2
                if window.ended is not None and ends < window.ended + half:
                    continue  # a late answer from the previous window
                if window.ends is not None and ends > window.ends + half:
                    # The next window has begun before this one was exhausted.
                    window.ended, window.ends, window.left = window.ends, None, float("inf")
                window.ends = min(window.ends or ends, ends)
                window.left = min(window.left, limit.left)
                self.limits[limit.resource] = limit
