"""Two listeners on loopback addresses, HTTP/1.1 with persistent connections, and a record of all traffic."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self

from provenance.demo_hub.cdn import Cdn
from provenance.demo_hub.hub import HubRoutes
from provenance.demo_hub.listing import list_models
from provenance.demo_hub.messages import Exchange, Origin, Refusal, Request, Response
from provenance.demo_hub.repos import HubRepo

HOST = "127.0.0.1"


class LoopbackHub:
    """A hub that runs while its context manager is open.

    Args:
        repos: what it serves.
        meter: counts a request to the hub's origin and returns headers for its response; may raise a `Refusal`. By
            default there is no limit.
        page_size: rows on a page of a listing, and the maximum of `limit`.
        clock: the time in seconds since the epoch, for the expiry of signed URLs.

    Attributes:
        repos: by id. May be changed while the hub runs, as repos on a hub change.
        requests: all traffic so far, in the order of the responses.
        endpoint: URL of the hub, without a trailing slash: the value for HF_ENDPOINT.
        cdn: URL of the CDN.
        page_size: as given.
    """

    endpoint: str
    cdn: str

    def __init__(
        self,
        repos: Iterable[HubRepo],
        *,
        meter: Callable[[Request], Mapping[str, str]] | None = None,
        page_size: int = 1000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.repos = {repo.id: repo for repo in repos}
        self.requests: list[Exchange] = []
        self._meter = meter
        self._cdn = Cdn(clock)
        self.page_size = page_size
        self._listeners: list[_Listener] = []

    def __enter__(self) -> Self:
        hub, cdn = self._listeners = [_Listener(self, "hub"), _Listener(self, "cdn")]
        self.endpoint, self.cdn = hub.url, cdn.url
        self._routes = HubRoutes(
            self.find,
            self.listing,
            self._cdn,
            endpoint=self.endpoint,
            cdn_url=self.cdn,
            page_size=self.page_size,
        )
        for listener in self._listeners:
            listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for listener in self._listeners:
            listener.stop()

    def find(self, repo_id: str) -> HubRepo | None:
        """The repo that has, or had, this id; null if there is none."""
        repos = list(self.repos.values())
        return self.repos.get(repo_id) or next((repo for repo in repos if repo_id in repo.former_ids), None)

    def listing(self, request: Request) -> Response:
        """A page of `/api/models`.

        Raises:
            Refusal: 400, as `list_models`.
        """
        return list_models(list(self.repos.values()), request, self.endpoint, self.page_size)

    def answer(self, request: Request) -> Response:
        """The response to a request to either origin.

        It is called once per request, from the thread of its connection: this is the method to override in order
        to inject faults. A body that ends before its `length` makes the listener close the connection; so does a
        `ConnectionError` raised here, before anything was sent or recorded.
        """
        limits: Mapping[str, str] = {}
        try:
            if request.origin == "cdn":
                return self._cdn.answer(request)
            if self._meter is not None:
                limits = self._meter(request)
            response = self._routes.answer(request)
        except Refusal as refused:
            response = refused.response
        return replace(response, headers={**response.headers, **limits})


class _Listener(ThreadingTCPServer):
    """One origin. Its threads end with it."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, hub: LoopbackHub, origin: Origin) -> None:
        super().__init__((HOST, 0), _Handler)
        self.hub, self.origin = hub, origin
        self.url = f"http://{HOST}:{self.server_address[1]}"
        self._open: set[socket.socket] = set()
        self._thread = Thread(target=self.serve_forever, args=(0.05,), name=f"loopback {origin}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        for connection in list(self._open):
            # Its thread may be waiting for the next request, or for a client that no longer reads.
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client is closing it at the same time
        self.server_close()
        self._thread.join()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.server.origin, self.path, headers)
        response = self.server.hub.answer(request)
        exchange = Exchange(
            self.command, request.origin, request.target, headers, headers.get("range"), response.status
        )
        # Recorded, and counted below, before the client can see it: the record is never behind the client.
        self.server.hub.requests.append(exchange)
        try:
            self._send(response, exchange)
        except ConnectionError:
            self.close_connection = True  # the client closed the connection

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def _send(self, response: Response, exchange: Exchange) -> None:
        self.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(response.length)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for chunk in response.body:
            exchange.bytes += len(chunk)
            self.wfile.write(chunk)
        if exchange.bytes < response.length:
            self.close_connection = True

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            return  # reset by the client between two requests

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Print nothing: the traffic is recorded."""
