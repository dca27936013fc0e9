"""Requests per fixed window of time, in the two kinds that the hub counts apart."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Literal

from provenance.demo_hub.messages import Request, refusal

Kind = Literal["api", "resolvers"]


def quota_of(path: str) -> Kind | None:
    """What a request counts against. The cache behind `resolve` is free, as the `resolve` was counted already."""
    if path.startswith("/api/"):
        return None if path.startswith("/api/resolve-cache/") else "api"
    return "resolvers"


@dataclass(frozen=True, slots=True)
class Quotas:
    """What each user may ask for in one window; all anonymous requests count as one user's.

    The defaults are the documented ones for a free account: 1,000 and 5,000 requests in 300 seconds.
    """

    api: int = 1000
    resolvers: int = 5000
    window: int = 300


class Meter:
    """Counts the requests of a running hub. A window starts with a user's first request after the last one ended."""

    def __init__(self, quotas: Quotas, clock: Callable[[], float] = time.time) -> None:
        self._quotas, self._clock = quotas, clock
        self._windows: dict[tuple[Kind, str | None], tuple[float, int]] = {}
        self._lock = Lock()

    def __call__(self, request: Request) -> dict[str, str]:
        """Count a request: the `meter` of a `LoopbackHub`.

        Returns:
            the RateLimit headers of its response; none where it counts against no quota.

        Raises:
            Refusal: 429 with Retry-After, the quota is used up. Such requests do not count.
        """
        kind = quota_of(request.path)
        if kind is None:
            return {}
        quota, window = getattr(self._quotas, kind), self._quotas.window
        with self._lock:
            now = self._clock()
            started, used = self._windows.get((kind, request.token), (now, 0))
            if now - started >= window:
                started, used = now, 0
            admitted = used < quota
            used += admitted
            self._windows[kind, request.token] = started, used
        seconds = math.ceil(started + window - now)
        headers = {
            "RateLimit": f'"{kind}";r={quota - used};t={seconds}',
            "RateLimit-Policy": f'"fixed window";"{kind}";q={quota};w={window}',
        }
        if not admitted:
            headers["Retry-After"] = str(seconds)
            raise refusal(429, f"We had to rate limit you, retry in {seconds} seconds", None, headers)
        return headers
