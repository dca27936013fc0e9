"""Requests to the Hub and to its storage: the location of a file, and ranges of its bytes.

The token is sent to the Hub's own origin only. A large file is stored elsewhere, behind a signed address that is kept
in memory while it is valid, so that a file costs one request to the Hub however many ranges of it are read. Answers are
checked before their bodies are read; temporary failures are retried a few times.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

import urllib3

from provenance.crawler.hub.answers import (
    AbandonedError,
    Location,
    RefusedError,
    ResponseError,
    TransferError,
    check_range,
    failure,
    origin,
    signed_location,
)
from provenance.crawler.hub.budget import Budgets
from provenance.crawler.hub.connections import REQUEST_SECONDS, SLOWEST, Connections, read_body
from provenance.schemas.enums import Reason, Stage
from provenance.schemas.errors import WeightsError

LONGEST_WAIT = 330.0
"""Seconds that a server may ask a client to wait: a little more than one window of the Hub's rate limits."""

SMALL_FILE = 16 * 1024 * 1024
"""Maximum size in bytes of a file that the Hub may serve itself; larger ones are in its storage."""

WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each retry."""
MAX_RETRIES = len(WAITS)
_REDIRECTS, _MAX_HOPS = (301, 302, 303, 307, 308), 5

T = TypeVar("T")


@dataclass(slots=True)
class Traffic:
    """Requests sent, failed attempts included, and bytes of bodies read."""

    api_requests: int = 0
    resolve_requests: int = 0
    range_requests: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the API, whatever it means."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HubTransport:
    """Connections to one Hub and to its storage, shared by all workers of a crawl.

    Attributes:
        endpoint: address of the Hub.
        headers: sent to the Hub, including the token; only the user agent is sent elsewhere.
        traffic: requests and bytes so far.
        retries: how often a temporary failure is retried.
        budgets: the Hub's rate limits, shared by all workers.
    """

    def __init__(
        self,
        endpoint: str,
        headers: Mapping[str, str],
        *,
        connections: int = 16,
        retries: int = MAX_RETRIES,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """Set up; nothing is sent yet.

        Args:
            endpoint: address of the Hub, with or without a path.
            headers: headers for the Hub, as `huggingface_hub.utils.build_hf_headers` returns them.
            connections: number of connections kept open to each host.
            retries: how often a temporary failure is retried, at most `MAX_RETRIES`.
            pause: waits for the given number of seconds and returns true if the crawl was stopped during the wait:
                `Event.wait`, or `time.sleep`.

        Raises:
            ResponseError: `endpoint` is not an http or https address.
        """
        self.endpoint, self.headers = endpoint.rstrip("/"), dict(headers)
        self.traffic = Traffic()
        self.budgets = Budgets(pause)
        self._origin = origin(endpoint)
        self._public = {name: value for name, value in headers.items() if name.lower() == "user-agent"}
        self._pause, self._lock, self.retries = pause, threading.Lock(), retries
        self._connections = Connections(endpoint, connections)

    def resolve(self, repo_id: str, revision: str, path: str) -> Location:
        """Ask the Hub for the location of a file: one request, two for a small file or a renamed repo.

        Raises:
            RefusedError: there is no such file, or this login may not read it.
            ResponseError: the answer leads to another page, in a circle, or to another commit.
            TransferError: no answer after several attempts.
        """
        if any(part in ("", ".", "..") for part in (*path.split("/"), *repo_id.split("/"), revision)):
            raise ResponseError(f"{path!r} in {repo_id!r} is not the path of a file inside the repo; refused")
        url = f"{self.endpoint}/{quote(repo_id)}/resolve/{quote(revision, safe='')}/{quote(path)}"
        return self.persist(lambda: self._resolve(url, repo_id, revision, path))

    def read_ranges(self, location: Location, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Yield the bytes of each half-open `(start, stop)` range, in the given order.

        One request per range; an expired address is renewed once per range.

        Raises:
            WeightsError: a range is not inside the file.
            RefusedError: the storage refuses a new address too.
            ResponseError: the answer is not the requested range; its body was not read.
            TransferError: no complete answer after several attempts.
        """
        for start, stop in ranges:
            if not 0 <= start <= stop <= location.size:
                raise WeightsError(
                    f"{location.path} has {location.size} bytes, ({start}, {stop}) are needed; it is incomplete",
                    stage=Stage.READ,
                )
            if location.body is not None:
                yield location.body[start:stop]
            else:
                yield self._read(location, start, stop) if start < stop else b""

    def ask_api(self, url: str, what: str, *, limit: int, seconds: float) -> Answer:
        """One answer of the Hub's API, when the rate limit allows it; redirects are followed within the Hub.

        Args:
            url: absolute address, of the Hub's own origin: the token is sent there.
            what: what is requested; messages begin with it.
            limit: maximum bytes of the body; of a longer one, one byte more is returned.
            seconds: time limit of one request.

        Raises:
            AbandonedError: the crawl was stopped.
            ResponseError: redirected to another server, or in a circle.
            TransferError: no complete answer.
        """
        for _ in range(_MAX_HOPS):
            self.check_stop()
            if origin(url) != self._origin:
                raise ResponseError(f"{what}: redirected away from the Hub; not followed")
            with self.budgets.request("api") as answered:
                self._count(api_requests=1)
                asked = {**self.headers, "Accept-Encoding": "gzip"}
                with self._connections.get(url, asked, what, seconds=seconds) as response:
                    answered(response.headers)
                    if response.status not in _REDIRECTS:
                        return Answer(response.status, response.headers, read_body(response, limit + 1, unpack=True))
                    url = _redirected(url, response.headers, what)
        raise ResponseError(f"{what}: the Hub redirects more than {_MAX_HOPS} times")

    def check_stop(self) -> None:
        """Raise if the crawl was stopped: a listing may run for hours without yielding a repo.

        Raises:
            AbandonedError: the crawl was stopped.
        """
        if self._pause(0.0):
            raise AbandonedError("the crawl was stopped")

    def persist(self, attempt: Callable[[], T], waits: Sequence[float] | None = None) -> T:
        """Call `attempt` until it succeeds, waiting longer each time, or for as long as the server asks.

        Args:
            waits: seconds before each retry; null for `WAITS`. There is no retry if `retries` is 0.

        Raises:
            AbandonedError: the crawl was stopped.
            TransportError: of the last attempt.
        """
        for wait in (WAITS[: self.retries] if waits is None else waits) if self.retries else ():
            try:
                return attempt()
            except TransferError as error:
                if (error.retry_after or 0.0) > LONGEST_WAIT:
                    raise
                # Random, so that the workers do not all retry at the same moment.
                if self._pause((error.retry_after or 0.0) + wait * random.uniform(0.5, 1.0)):
                    raise AbandonedError("the crawl was stopped before the answer came") from None
        return attempt()

    def end(self) -> None:
        """Break off all running requests, from any thread; every later one fails too."""
        self._connections.end()

    def close(self) -> None:
        """Close all idle connections."""
        self._connections.close()

    def _resolve(self, url: str, repo_id: str, revision: str, path: str) -> Location:
        what, commit, final_id = f"{repo_id}/{path}", None, repo_id
        seen: set[str] = set()
        while url not in seen and len(seen) < _MAX_HOPS:
            seen.add(url)
            with self._ask(url, what) as response:
                headers = response.headers
                commit = headers.get("X-Repo-Commit", commit)
                if re.fullmatch(r"[0-9a-f]{40}", revision) and commit not in (None, revision):
                    text = (
                        f"{what}: asked for commit {revision}, the Hub answered with another one; list the repo again"
                    )
                    raise ResponseError(text, reason=Reason.CHANGED)
                if response.status == 200:
                    body = self._small_body(response, what)
                    return Location(final_id, revision, path, commit, len(body), body=body)
                if response.status not in _REDIRECTS:
                    raise failure(response.status, headers, what)
                url = _redirected(url, headers, what)
                target = origin(url)
                if target != self._origin:
                    if target[0] == "http" and self._origin[0] == "https":
                        raise ResponseError(f"{what}: redirected from https to http; not followed")
                    return signed_location(url, headers, repo_id=final_id, revision=revision, path=path, commit=commit)
                final_id = self._followed(url, final_id, revision, path)
        raise ResponseError(f"{what}: the Hub redirects in a circle, or more than {_MAX_HOPS} times")

    @contextmanager
    def _ask(self, url: str, what: str) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send one GET to the Hub when its rate limit allows; the cached copy of a small file is not counted."""
        if "/resolve/" not in urlsplit(url).path:
            with self._connections.get(url, self.headers, what, seconds=REQUEST_SECONDS) as response:
                yield response
            return
        with self.budgets.request("resolvers") as answered:
            self._count(resolve_requests=1)
            with self._connections.get(url, self.headers, what, seconds=REQUEST_SECONDS) as response:
                answered(response.headers)
                yield response

    def _followed(self, url: str, repo_id: str, revision: str, path: str) -> str:
        """The repo that a redirect within the Hub leads to: the same file of a renamed repo, or its cached copy."""
        target = unquote(urlsplit(url).path).removeprefix(urlsplit(self.endpoint).path)
        if target.startswith("/api/resolve-cache/"):
            return repo_id
        renamed = re.fullmatch(r"/([\w.-]+(?:/[\w.-]+)?)" + re.escape(f"/resolve/{revision}/{path}"), target)
        if renamed is None:
            raise ResponseError(f"{repo_id}/{path}: redirected to another page of the Hub, not to the file; refused")
        return renamed[1]

    def _small_body(self, response: urllib3.BaseHTTPResponse, what: str) -> bytes:
        announced = response.headers.get("Content-Length", "0")
        small = announced.isdecimal() and int(announced) <= SMALL_FILE
        body = read_body(response, SMALL_FILE + 1) if small else None
        if body is None or len(body) > SMALL_FILE:
            raise ResponseError(f"{what}: the Hub sends more than {SMALL_FILE:,} bytes itself; they are not read")
        self._count(bytes=len(body))
        return body

    def _read(self, location: Location, start: int, stop: int) -> bytes:
        if time.time() >= location.renew_at:
            self._renew(location)
        try:
            return self.persist(lambda: self._read_range(location, start, stop))
        except RefusedError as error:
            if error.reason != Reason.EXPIRED:
                raise
            self._renew(location)
            return self.persist(lambda: self._read_range(location, start, stop))

    def _renew(self, location: Location) -> None:
        fresh = self.resolve(location.repo_id, location.revision, location.path)
        same = (fresh.commit, fresh.size, fresh.sha256) == (location.commit, location.size, location.sha256)
        if not fresh.url or not same:
            text = f"{location.repo_id}/{location.path} changed while it was read; list the repo again"
            raise ResponseError(text, reason=Reason.CHANGED)
        location.url, location.renew_at, location.etag = fresh.url, fresh.renew_at, None

    def _read_range(self, location: Location, start: int, stop: int) -> bytes:
        what = f"{location.repo_id}/{location.path}"
        asked = self._public | {"Range": f"bytes={start}-{stop - 1}"}
        self._count(range_requests=1)
        seconds = REQUEST_SECONDS + (stop - start) / SLOWEST
        with self._connections.get(location.url, asked, what, seconds=seconds) as response:
            check_range(response.status, response.headers, location, start, stop)
            data = read_body(response, stop - start + 1)
            self._count(bytes=len(data))
            if len(data) > stop - start:
                raise ResponseError(f"{what}: the storage sends more than bytes ({start}, {stop})")
            if len(data) < stop - start:
                raise TransferError(f"{what}: bytes ({start}, {stop}) were cut short after {len(data)}")
            return data

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, count in more.items():
                setattr(self.traffic, name, getattr(self.traffic, name) + count)


def _redirected(url: str, headers: Mapping[str, str], what: str) -> str:
    try:
        return urljoin(url, headers.get("Location", ""))
    except ValueError:
        raise ResponseError(f"{what}: redirected to a malformed address; not followed") from None
