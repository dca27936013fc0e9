"""Single GET requests over pooled connections: proxies, deadlines, bounded bodies, and errors without URLs.

This module neither follows redirects nor retries: `crawler.hub.transport` interprets the answers.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions as faults

from provenance.crawler.hub.answers import AbandonedError, Origin, TransferError, TransportError, host, origin
from provenance.crawler.hub.deadlines import Deadlines, PrivateAddressError, watch_pools

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
REQUEST_SECONDS, SLOWEST = 60.0, 32 * 1024
"""Time limit of a request, from its connection to the last byte: `REQUEST_SECONDS`, and the length of the body divided
by `SLOWEST`, in bytes per second."""

PRIVATE_HOSTS = "PROVENANCE_PRIVATE_HOSTS"
"""Environment variable: hosts, separated by commas, that may have private addresses. The endpoint always may."""

_DRAIN_LIMIT = 16 * 1024  # an unwanted body of up to so many bytes is read, so that its connection can be reused
_DRAIN_SECONDS = 1.0
_FAULTS = (  # subclasses before their base classes
    (PrivateAddressError, f"its address is private, and not the endpoint's; to allow it, list it in {PRIVATE_HOSTS}"),
    (faults.NameResolutionError, "its name is not known; check the network and the endpoint"),
    (faults.NewConnectionError, "no connection; check the network and the endpoint"),
    (faults.ConnectTimeoutError, f"no connection within {CONNECT_SECONDS:.0f} s"),
    (faults.ReadTimeoutError, f"nothing came for {READ_SECONDS:.0f} s"),
    (faults.ProxyError, "the proxy does not answer; check HTTPS_PROXY"),
    (faults.SSLError, "TLS failed; check the clock and the certificates of this machine"),
    (faults.HTTPError, "the connection broke, or the answer was cut short"),
)


class Connections:
    """Connections to any host, direct or through the environment's proxies; shared by all threads."""

    def __init__(self, endpoint: str, kept: int) -> None:
        """Set up; nothing is connected yet.

        Args:
            endpoint: address of the Hub. Other hosts may have private addresses only if `PRIVATE_HOSTS` lists them.
            kept: the number of connections kept open to each host.

        Raises:
            ResponseError: `endpoint` is not an http or https address.
        """
        listed = os.environ.get(PRIVATE_HOSTS, "").lower().split(",")
        self._private = {host(endpoint), *(name.strip() for name in listed)}
        self._deadlines = Deadlines()
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        once = urllib3.Retry(False, redirect=False)  # urllib3 would build this from `retries=False` on every request
        self._direct = urllib3.PoolManager(maxsize=kept, timeout=timeout, retries=once)
        self._proxies = {
            scheme: urllib3.ProxyManager(proxy, maxsize=kept, timeout=timeout, retries=once)
            for scheme, proxy in getproxies().items()
            if scheme in ("http", "https") and proxy.startswith("http")
        }
        for manager in (self._direct, *self._proxies.values()):
            watch_pools(manager)
        # urllib3 logs request paths, signatures included: all at DEBUG level, those of malformed answers as warnings.
        for name in ("urllib3.connectionpool", "urllib3.connection"):
            logging.getLogger(name).addFilter(_without_queries)

    @contextmanager
    def get(
        self, url: str, headers: Mapping[str, str], what: str, *, seconds: float
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send one GET request. The caller reads the body with `read_body`.

        Args:
            url: absolute address.
            headers: request headers.
            what: what is requested; messages begin with it.
            seconds: time limit from the connection to the end of the context.

        Raises:
            TransferError: no answer in time, or the connection broke inside the context.
            AbandonedError: all requests were ended.
            ResponseError: `url` is not an http or https address.
        """
        target = origin(url)
        headers = {"Accept-Encoding": "identity", **headers}
        response: urllib3.BaseHTTPResponse | None = None
        fault: faults.HTTPError | TransportError | None = None
        with self._deadlines.watch(seconds, private=target[1] in self._private) as watch:
            try:
                pool, asked = self._pool(url, target)
                response = pool.urlopen("GET", asked, headers=headers, preload_content=False, redirect=False)
                yield response
            except (faults.HTTPError, TransportError) as error:
                fault = error
            finally:
                broken = watch.broken
                watch.until = min(watch.until, time.monotonic() + _DRAIN_SECONDS)
                if response is not None:
                    _give_back(response)
        # Not chained: some of urllib3's errors contain the URL.
        if broken and self._deadlines.ended:
            raise AbandonedError(f"{what}: the crawl was stopped") from None
        if broken:
            text = f"{what}: {target[1]} was too slow, no complete answer within {seconds:.0f} s; try again later"
            raise TransferError(text, retry_after=math.inf) from None  # an immediate retry would only take as long
        if isinstance(fault, TransportError):
            raise fault
        if fault is not None:
            text = next(text for kind, text in _FAULTS if isinstance(fault, kind))
            raise TransferError(f"{what}: reading from {target[1]} failed: {text}") from None

    def _pool(self, url: str, target: Origin) -> tuple[urllib3.HTTPConnectionPool | urllib3.PoolManager, str]:
        """The pool for a URL, and the request target to send."""
        scheme, name, port = target
        proxied = scheme in self._proxies and not proxy_bypass(name)
        if proxied and scheme == "http":
            return self._proxies[scheme], url  # a plain HTTP proxy needs the absolute URL
        manager = self._proxies[scheme] if proxied else self._direct
        parts = urlsplit(url)  # cached by urllib: urllib3 would parse a signed address again for every range
        path = parts.path or "/"
        return manager.connection_from_host(name, port, scheme), f"{path}?{parts.query}" if parts.query else path

    def end(self) -> None:
        """Break off all running requests, from any thread; every later one fails too."""
        self._deadlines.end()

    def close(self) -> None:
        """Close all idle connections."""
        self._deadlines.end()
        for pool in (self._direct, *self._proxies.values()):
            pool.clear()


def read_body(response: urllib3.BaseHTTPResponse, limit: int, *, unpack: bool = False) -> bytes:
    """The whole body, or its first `limit` bytes, unpacked on demand. `Connections.get` limits the time."""
    pieces, missing = list[bytes](), limit
    while missing and (piece := response.read1(missing, decode_content=unpack)):
        pieces.append(piece)
        missing -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _give_back(response: urllib3.BaseHTTPResponse) -> None:
    """Return a connection to its pool; close it if more is left on it than the short body of a redirect or error."""
    if response.status >= 300:
        rest = response.headers.get("Content-Length", "")
        if rest.isdecimal() and int(rest) <= _DRAIN_LIMIT:
            response.drain_conn()
    response.close()
    response.release_conn()


def _without_queries(record: logging.LogRecord) -> bool:
    """Remove query strings and tracebacks from what urllib3 is about to log."""
    record.exc_info = None
    if isinstance(record.args, tuple):
        record.args = tuple(arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args)
    return True
