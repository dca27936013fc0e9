"""Single GET requests over pooled connections: proxies, timeouts, bounded bodies, and errors without URLs.

This module neither follows redirects nor retries: `crawler.hub.transport` interprets the answers.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions as faults

from provenance.crawler.hub.answers import Origin, TransferError, origin

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
BODY_SECONDS, SLOWEST = 30.0, 32 * 1024
"""Time limit for a body: `BODY_SECONDS` plus its length divided by `SLOWEST`, in bytes per second."""

_DRAIN_LIMIT = 16 * 1024  # an unwanted body of up to so many bytes is read, so that its connection can be reused
_FAULTS = (  # subclasses before their base classes
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

    def __init__(self, kept: int) -> None:
        """`kept` is the number of connections kept open to each host."""
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        once = urllib3.Retry(False, redirect=False)  # urllib3 would build this from `retries=False` on every request
        self._direct = urllib3.PoolManager(maxsize=kept, timeout=timeout, retries=once)
        self._proxies = {
            scheme: urllib3.ProxyManager(proxy, maxsize=kept, timeout=timeout, retries=once)
            for scheme, proxy in getproxies().items()
            if scheme in ("http", "https") and proxy.startswith("http")
        }
        # At DEBUG level urllib3 logs request paths, signatures included.
        logging.getLogger("urllib3.connectionpool").addFilter(_without_queries)

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str], what: str) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send one GET request. The caller reads the body with `read_body`.

        Args:
            url: absolute address.
            headers: request headers.
            what: what is requested; messages begin with it.

        Raises:
            TransferError: no answer, or the connection broke inside the context.
            ResponseError: `url` is not an http or https address.
        """
        target = origin(url)
        headers = {**headers, "Accept-Encoding": "identity"}
        response: urllib3.BaseHTTPResponse | None = None
        try:
            pool, asked = self._pool(url, target)
            response = pool.urlopen("GET", asked, headers=headers, preload_content=False, redirect=False)
            yield response
        except faults.HTTPError as error:
            # Not chained: some of urllib3's errors contain the URL.
            text = next(text for kind, text in _FAULTS if isinstance(error, kind))
            raise TransferError(f"{what}: reading from {target[1]} failed: {text}") from None
        finally:
            if response is not None:
                _give_back(response)

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

    def close(self) -> None:
        """Close all idle connections."""
        for pool in (self._direct, *self._proxies.values()):
            pool.clear()


def read_body(response: urllib3.BaseHTTPResponse, limit: int, what: str) -> bytes:
    """The whole body, or its first `limit` bytes.

    The read timeout restarts with every byte received. Without an overall limit, a server that sends a byte now and
    then would block a worker for ever.

    Raises:
        TransferError: the body took too long.
    """
    began, pieces, missing = time.monotonic(), list[bytes](), limit
    while missing and (piece := response.read1(missing, decode_content=False)):
        pieces.append(piece)
        missing -= len(piece)
        if missing and time.monotonic() - began > BODY_SECONDS + limit / SLOWEST:
            text = f"{what}: the server was too slow, {limit - missing} of {limit} bytes came; try again later"
            raise TransferError(text, retry_after=math.inf)  # an immediate retry would only take as long again
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
    """Remove query strings from what urllib3 is about to log."""
    if isinstance(record.args, tuple):
        record.args = tuple(arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args)
    return True
