"""Requests to the Hub and to its storage: where a file lies, and ranges of its bytes.

The token goes to the Hub's own origin only. A large file lies elsewhere, behind a signed address that is kept in
memory for as long as it is valid, so that a file costs one request to the Hub however many ranges are read of it.
Answers are checked before their bodies are read; what is temporary is tried again a few times.
"""

from __future__ import annotations

import logging
import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions as faults

from crawler.answers import (
    AbandonedError,
    Location,
    Origin,
    RefusedError,
    ResponseError,
    TransferError,
    check_range,
    failure,
    origin,
    signed_location,
)
from crawler.budget import Budgets
from schemas.errors import WeightsError

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
BODY_SECONDS, SLOWEST = 30.0, 32 * 1024
"""A body may take so many seconds, and as many more as its length takes at the slowest pace, in bytes a second."""

LONGEST_WAIT = 330.0
"""Seconds that a server may ask us to wait: a window of the Hub's budgets, and a little."""

SMALL_FILE = 16 * 1024 * 1024
"""Bytes of a file that the Hub may serve by itself; it keeps larger ones in its storage."""

WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try."""
MAX_RETRIES = len(WAITS)
_REDIRECTS, _MAX_HOPS = (301, 302, 303, 307, 308), 5
_REST = 16 * 1024  # bytes of an unwanted body that are read rather than to give the connection up
_FAULTS = (  # the more special ones first
    (faults.NameResolutionError, "its name is not known; check the network and the endpoint"),
    (faults.NewConnectionError, "no connection; check the network and the endpoint"),
    (faults.ConnectTimeoutError, f"no connection within {CONNECT_SECONDS:.0f} s"),
    (faults.ReadTimeoutError, f"nothing came for {READ_SECONDS:.0f} s"),
    (faults.ProxyError, "the proxy does not answer; check HTTPS_PROXY"),
    (faults.SSLError, "TLS failed; check the clock and the certificates of this machine"),
    (faults.HTTPError, "the connection broke, or the answer was cut short"),
)

T = TypeVar("T")


@dataclass(slots=True)
class Traffic:
    """Requests that were sent, failed tries included, and bytes of bodies that were read."""

    api_requests: int = 0
    resolve_requests: int = 0
    range_requests: int = 0
    bytes: int = 0


class HubTransport:
    """Connections to one Hub and to its storage, shared by all workers of a crawl.

    Attributes:
        endpoint: address of the Hub.
        headers: what is sent to the Hub, the token among them; nothing of it but the user agent goes elsewhere.
        traffic: requests and bytes so far.
        retries: how often what failed for now is tried again.
        budgets: what the Hub grants, shared by all workers.
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
            connections: how many are kept open to each host.
            retries: how often what failed for now is tried again, `MAX_RETRIES` at the most.
            pause: waits so many seconds, true where the crawl was stopped meanwhile: `Event.wait`, or `time.sleep`.

        Raises:
            ResponseError: `endpoint` is not an http or https address.
        """
        self.endpoint, self.headers = endpoint.rstrip("/"), dict(headers)
        self.traffic = Traffic()
        self.budgets = Budgets(pause)
        self._origin = origin(endpoint)
        self._public = {name: value for name, value in headers.items() if name.lower() == "user-agent"}
        self._pause, self._lock, self.retries = pause, threading.Lock(), retries
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        once = urllib3.Retry(False, redirect=False)  # what urllib3 makes of `retries=False`, anew for each request
        self._direct = urllib3.PoolManager(maxsize=connections, timeout=timeout, retries=once)
        self._proxies = {
            scheme: urllib3.ProxyManager(proxy, maxsize=connections, timeout=timeout, retries=once)
            for scheme, proxy in getproxies().items()
            if scheme in ("http", "https") and proxy.startswith("http")
        }
        # At DEBUG level urllib3 logs what it asks for, signatures included.
        logging.getLogger("urllib3.connectionpool").addFilter(_without_queries)

    def resolve(self, repo_id: str, revision: str, path: str) -> Location:
        """Ask the Hub where a file lies: one request, two for a small file or a renamed repo.

        Raises:
            RefusedError: there is no such file, or this login may not read it.
            ResponseError: the answer leads somewhere else, in a circle, or to another commit.
            TransferError: no answer after several tries.
        """
        if any(part in ("", ".", "..") for part in (*path.split("/"), *repo_id.split("/"), revision)):
            raise ResponseError(f"{path!r} in {repo_id!r} is not the path of a file inside the repo; refused")
        url = f"{self.endpoint}/{quote(repo_id)}/resolve/{quote(revision, safe='')}/{quote(path)}"
        return self.persist(lambda: self._resolve(url, repo_id, revision, path))

    def read_ranges(self, location: Location, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Yield the bytes of each half-open `(start, stop)` range, in the order asked.

        One request a range; an address that has expired is renewed, once a range.

        Raises:
            WeightsError: a range does not lie inside the file.
            RefusedError: the storage refuses a fresh address too.
            ResponseError: the answer is not the range that was asked for; its body was not read.
            TransferError: no whole answer after several tries.
        """
        for start, stop in ranges:
            if not 0 <= start <= stop <= location.size:
                raise WeightsError(
                    f"{location.path} has {location.size} bytes, ({start}, {stop}) are needed; it is incomplete",
                    stage="read",
                )
            if location.body is not None:
                yield location.body[start:stop]
            else:
                yield self._read(location, start, stop) if start < stop else b""

    @contextmanager
    def api_request(self) -> Iterator[Callable[[Mapping[str, str]], None]]:
        """Count a request to the Hub's API that is sent by other means, once the budget has room for it.

        The context is to hand over the headers of the answer.

        Raises:
            AbandonedError: the crawl was stopped.
        """
        if self._pause(0.0):
            # A listing may go on for hours without a repo that anybody would be told of.
            raise AbandonedError("the crawl was stopped")
        with self.budgets.request("api") as answered:
            self._count(api_requests=1)
            yield answered

    def persist(self, attempt: Callable[[], T], waits: Sequence[float] | None = None) -> T:
        """Try until it works, waiting longer each time, or for as long as the server asks.

        Args:
            waits: seconds before each further try; null for `WAITS`. None is made where `retries` is 0.

        Raises:
            AbandonedError: the crawl was stopped.
        """
        for wait in (WAITS[: self.retries] if waits is None else waits) if self.retries else ():
            try:
                return attempt()
            except TransferError as error:
                if (error.retry_after or 0.0) > LONGEST_WAIT:
                    raise
                # Spread over time, or all workers would come back in the same moment.
                if self._pause((error.retry_after or 0.0) + wait * random.uniform(0.5, 1.0)):
                    raise AbandonedError("the crawl was stopped before the answer came") from None
        return attempt()

    def close(self) -> None:
        """Close all idle connections."""
        for pool in (self._direct, *self._proxies.values()):
            pool.clear()

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
                    raise ResponseError(text, reason="changed")
                if response.status == 200:
                    body = self._small_body(response, what)
                    return Location(final_id, revision, path, commit, len(body), body=body)
                if response.status not in _REDIRECTS:
                    raise failure(response.status, headers, what)
                try:
                    url = urljoin(url, headers.get("Location", ""))
                except ValueError:
                    raise ResponseError(f"{what}: redirected to a malformed address; not followed") from None
                target = origin(url)
                if target != self._origin:
                    if target[0] == "http" and self._origin[0] == "https":
                        raise ResponseError(f"{what}: redirected from https to http; not followed")
                    return signed_location(url, headers, repo_id=final_id, revision=revision, path=path, commit=commit)
                final_id = self._followed(url, final_id, revision, path)
        raise ResponseError(f"{what}: the Hub redirects in a circle, or more than {_MAX_HOPS} times")

    @contextmanager
    def _ask(self, url: str, what: str) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send one GET to the Hub, when its budget has room; the copy of a small file is not counted."""
        if "/resolve/" not in urlsplit(url).path:
            with self._get(url, self.headers, what) as response:
                yield response
            return
        with self.budgets.request("resolvers") as answered, self._get(url, self.headers, what) as response:
            answered(response.headers)
            yield response

    def _followed(self, url: str, repo_id: str, revision: str, path: str) -> str:
        """The repo that a redirect on the Hub itself leads to: the same file of a renamed repo, or its cached copy."""
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
        body = _read_body(response, SMALL_FILE + 1, what) if small else None
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
            if error.reason != "expired":
                raise
            self._renew(location)
            return self.persist(lambda: self._read_range(location, start, stop))

    def _renew(self, location: Location) -> None:
        fresh = self.resolve(location.repo_id, location.revision, location.path)
        same = (fresh.commit, fresh.size, fresh.sha256) == (location.commit, location.size, location.sha256)
        if not fresh.url or not same:
            text = f"{location.repo_id}/{location.path} changed while it was read; list the repo again"
            raise ResponseError(text, reason="changed")
        location.url, location.renew_at = fresh.url, fresh.renew_at

    def _read_range(self, location: Location, start: int, stop: int) -> bytes:
        what = f"{location.repo_id}/{location.path}"
        asked = self._public | {"Range": f"bytes={start}-{stop - 1}"}
        with self._get(location.url, asked, what) as response:
            check_range(response.status, response.headers, location, start, stop)
            data = _read_body(response, stop - start + 1, what)
            self._count(bytes=len(data))
            if len(data) > stop - start:
                raise ResponseError(f"{what}: the storage sends more than bytes ({start}, {stop})")
            if len(data) < stop - start:
                raise TransferError(f"{what}: bytes ({start}, {stop}) were cut short after {len(data)}")
            return data

    @contextmanager
    def _get(self, url: str, headers: Mapping[str, str], what: str) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send one GET. The body is for the caller to read; redirects are not followed."""
        target = origin(url)
        if target != self._origin:
            self._count(range_requests=1)
        elif "/resolve/" in urlsplit(url).path:  # the Hub does not count the copy of a small file that it leads to
            self._count(resolve_requests=1)
        headers = {**headers, "Accept-Encoding": "identity"}
        response: urllib3.BaseHTTPResponse | None = None
        try:
            pool, asked = self._pool(url, target)
            response = pool.urlopen("GET", asked, headers=headers, preload_content=False, redirect=False)
            yield response
        except faults.HTTPError as error:
            # Not chained: some of urllib3's errors carry the address.
            text = next(text for kind, text in _FAULTS if isinstance(error, kind))
            raise TransferError(f"{what}: reading from {target[1]} failed: {text}") from None
        finally:
            if response is not None:
                _give_back(response)

    def _pool(self, url: str, target: Origin) -> tuple[urllib3.HTTPConnectionPool | urllib3.PoolManager, str]:
        """Connections that lead to a URL, and what they are to be asked for."""
        scheme, name, port = target
        proxied = scheme in self._proxies and not proxy_bypass(name)
        if proxied and scheme == "http":
            return self._proxies[scheme], url  # a proxy of plain HTTP is told the whole address
        manager = self._proxies[scheme] if proxied else self._direct
        parts = urlsplit(url)  # which keeps what it found: urllib3 would take a signed address apart for every range
        path = parts.path or "/"
        return manager.connection_from_host(name, port, scheme), f"{path}?{parts.query}" if parts.query else path

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, count in more.items():
                setattr(self.traffic, name, getattr(self.traffic, name) + count)


def _read_body(response: urllib3.BaseHTTPResponse, limit: int, what: str) -> bytes:
    """The whole body, or its first `limit` bytes.

    The timeout of a read starts anew with every byte that comes: without an end to it all, a server that sends one now
    and then would hold a worker for ever.
    """
    began, pieces, missing = time.monotonic(), list[bytes](), limit
    while missing and (piece := response.read1(missing, decode_content=False)):
        pieces.append(piece)
        missing -= len(piece)
        if missing and time.monotonic() - began > BODY_SECONDS + limit / SLOWEST:
            text = f"{what}: the server was too slow, {limit - missing} of {limit} bytes came; try again later"
            raise TransferError(text, retry_after=math.inf)  # at once it would only take as long again
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _give_back(response: urllib3.BaseHTTPResponse) -> None:
    """Return a connection to its pool; close it where more is left on it than the few words of a redirect or error."""
    if response.status >= 300:
        rest = response.headers.get("Content-Length", "")
        if rest.isdecimal() and int(rest) <= _REST:
            response.drain_conn()
    response.close()
    response.release_conn()


def _without_queries(record: logging.LogRecord) -> bool:
    """Cut the queries out of what urllib3 is about to log."""
    if isinstance(record.args, tuple):
        record.args = tuple(arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args)
    return True
