"""Connections whose requests have a deadline as a whole, and that keep out of private networks.

The timeouts of sockets restart with every byte. Alone, they let a server hold a worker for ever: with the headers of an
answer at a byte a second, with interim answers or trailers without end. So a thread breaks the connections of requests
that take too long.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread, local
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

_TICK = 0.25  # seconds between two looks at the running requests


class PrivateAddressError(HTTPError):
    """A name leads to an address of this machine or of a private network, and was not expected to."""


class Watch:
    """One request of one thread.

    Attributes:
        until: monotonic time of its deadline.
        private: whether it may go to a private address.
        broken: its deadline passed, or all requests were ended.
    """

    def __init__(self, until: float, *, private: bool, broken: bool) -> None:
        self.until, self.private, self.broken = until, private, broken
        self._carrier: socket.socket | None = None

    def carry(self, connected: socket.socket) -> None:
        """Take note of the connection that carries the request."""
        if self._carrier is None:
            # A second descriptor: TLS takes over the first, and a response may outlive its connection object.
            self._carrier = socket.socket(fileno=os.dup(connected.fileno()))
        if self.broken:
            self.cut()

    def cut(self) -> None:
        """End all reads and writes of the request, from any thread, also inside a TLS handshake."""
        self.broken = True
        if self._carrier is not None:
            with suppress(OSError):
                self._carrier.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Release the connection."""
        if self._carrier is not None:
            self._carrier.close()


_current = local()  # `watch`: of the thread's request


class Deadlines:
    """The running requests of a set of connections; shared by all threads."""

    def __init__(self) -> None:
        self._running: set[Watch] = set()
        self._lock, self._ended = Lock(), Event()
        self._thread: Thread | None = None

    @contextmanager
    def watch(self, seconds: float, *, private: bool) -> Iterator[Watch]:
        """Inside this context, the thread's request is broken off after so many seconds.

        It must be sent through pools of `watch_pools`. If a read fails or an answer ends early, `broken` says why.
        """
        watch = Watch(time.monotonic() + seconds, private=private, broken=self.ended)
        with self._lock:
            self._running.add(watch)
            if self._thread is None:
                self._thread = Thread(target=self._look, name="deadlines", daemon=True)
                self._thread.start()
        _current.watch = watch
        try:
            yield watch
        finally:
            _current.watch = None
            with self._lock:
                self._running.discard(watch)
            watch.close()

    @property
    def ended(self) -> bool:
        """Whether all requests were ended."""
        return self._ended.is_set()

    def end(self) -> None:
        """Break off all running requests, and every later one."""
        self._ended.set()
        with self._lock:
            for watch in self._running:
                watch.cut()

    def _look(self) -> None:
        while not self._ended.wait(_TICK):
            now = time.monotonic()
            with self._lock:
                for watch in self._running:
                    if now >= watch.until:
                        watch.cut()


class _Connection(HTTPConnection):
    """Tells the request of the thread what carries it."""

    def putrequest(self, *arguments: Any, **more: Any) -> None:
        watch: Watch | None = getattr(_current, "watch", None)
        if watch is not None and self.sock is not None:
            watch.carry(self.sock)
        super().putrequest(*arguments, **more)

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        watch: Watch | None = getattr(_current, "watch", None)
        if watch is not None:
            if not watch.private and self.proxy is None and _is_private(connected):
                connected.close()
                raise PrivateAddressError(self.host)
            watch.carry(connected)
        return connected


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def watch_pools(manager: urllib3.PoolManager) -> None:
    """Make `Deadlines.watch` apply to all requests of a pool manager."""
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}


def _is_private(connected: socket.socket) -> bool:
    address = ipaddress.ip_address(connected.getpeername()[0].partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return not (mapped or address).is_global
