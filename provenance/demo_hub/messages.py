"""Requests and responses, independent of sockets, and the record of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from provenance.demo_hub.files import HubFile

Origin = Literal["hub", "cdn"]

CHUNK = 256 * 1024
"""Bytes of a file in memory at a time, per connection."""

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


@dataclass(frozen=True)
class Request:
    """A request as received. `target` is the path with the query; names of `headers` are in lower case."""

    method: str
    origin: Origin
    target: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        """The path, still percent-encoded."""
        return urlsplit(self.target).path

    @cached_property
    def query(self) -> list[tuple[str, str]]:
        """Names and values, in the order given."""
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)

    def value(self, name: str) -> str | None:
        """The last value of a parameter."""
        return dict(self.query).get(name)

    def is_set(self, name: str) -> bool:
        """Whether a flag is set."""
        return (self.value(name) or "").lower() in ("1", "true")

    @property
    def token(self) -> str | None:
        """The access token, null for an anonymous request."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" and token else None


@dataclass(frozen=True, slots=True)
class Response:
    """A response. `body` yields `length` bytes, and is not read for a HEAD request."""

    status: int
    headers: Mapping[str, str]
    length: int = 0
    body: Iterable[bytes] = ()


class Refusal(Exception):
    """Ends the handling of a request with a response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


@dataclass(slots=True)
class Exchange:
    """One request and its response, as recorded.

    Attributes:
        method: GET or HEAD.
        origin: `hub` or `cdn`.
        path: path and query as sent.
        headers: of the request, names in lower case.
        range: the Range header, null where there is none.
        status: of the response.
        bytes: bytes of the body that were sent.
    """

    method: str
    origin: Origin
    path: str
    headers: Mapping[str, str]
    range: str | None
    status: int
    bytes: int = 0


def text_response(status: int, text: str, kind: str, headers: Mapping[str, str] | None = None) -> Response:
    """A response with a body of its own, of the content type `kind`."""
    body = text.encode()
    return Response(status, {"Content-Type": f"{kind}; charset=utf-8", **(headers or {})}, len(body), (body,))


def json_response(value: Any, headers: Mapping[str, str] | None = None) -> Response:
    """A successful response of the API."""
    return text_response(200, json.dumps(value), "application/json", headers)


def redirect(status: int, location: str, headers: Mapping[str, str] | None = None) -> Response:
    """A redirect; `location` is relative on the same origin and absolute to another."""
    text = f"Redirecting to {location}"
    return text_response(status, text, "text/plain", {**(headers or {}), "Location": location})


def refusal(status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None) -> Refusal:
    """An error of the hub, to be raised; clients read `code`, sent as X-Error-Code."""
    fields = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
    return Refusal(text_response(status, json.dumps({"error": message}), "application/json", fields))


def content(file: HubFile, request: Request, headers: Mapping[str, str]) -> Response:
    """A file or the requested range of it: 200, 206 or 416.

    A Range header that is malformed or names several ranges is ignored, as RFC 9110 (14.2) allows.
    """
    size = file.size
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    first, last = match.groups() if match else ("", "")
    if not (first or last) or (first and last and int(first) > int(last)):
        return Response(200, headers, size, _chunks(file, 0, size))
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
    else:
        start, stop = max(size - int(last), 0), size
    if start >= size:
        return text_response(416, "Range Not Satisfiable", "text/plain", {"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Response(206, headers, stop - start, _chunks(file, start, stop))


def _chunks(file: HubFile, start: int, stop: int) -> Iterator[bytes]:
    for at in range(start, stop, CHUNK):
        yield file.read(at, min(at + CHUNK, stop))
