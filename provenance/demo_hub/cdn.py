"""The content delivery network: large files, for any client with a valid signed URL.

A URL is signed for GET only. It is content-addressed, and names neither the repo nor its user.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from urllib.parse import urlencode

from provenance.demo_hub.files import HubFile
from provenance.demo_hub.messages import Refusal, Request, Response, content, text_response

LIFETIME = 3600
"""Seconds for which a signed URL is valid."""


class Cdn:
    """Signs URLs for the hub and serves them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._objects: dict[str, HubFile] = {}

    def sign(self, file: HubFile) -> str:
        """Path and query of a URL that serves a file for `LIFETIME` seconds from now."""
        path = f"/lfs/{file.sha256}"
        self._objects[path] = file
        expires = str(int(self._clock()) + LIFETIME)
        query = {"Expires": expires, "Signature": self._signature(path, expires), "Key-Pair-Id": "LOOPBACK"}
        return f"{path}?{urlencode(query)}"

    def answer(self, request: Request) -> Response:
        """The file that a signed URL names, or the requested range of it.

        Raises:
            Refusal: 403, as XML like the storage services behind a CDN: not a GET, or a signature that is wrong or
                has expired.
        """
        path, expires = request.path, request.value("Expires") or ""
        signature = self._signature(path, expires)
        if request.method != "GET" or not hmac.compare_digest(signature, (request.value("Signature") or "").encode()):
            raise _denied("SignatureDoesNotMatch", "The signature does not match the method and the URL")
        if int(expires) <= self._clock():
            raise _denied("AccessDenied", "Request has expired")
        file = self._objects[path]  # it has a valid signature, so the file exists
        return content(file, request, {"ETag": f'"{path.removeprefix("/lfs/")}"'})

    def _signature(self, path: str, expires: str) -> bytes:
        return hmac.digest(self._secret, f"GET {path} {expires}".encode(), "sha256").hex().encode()


def _denied(code: str, message: str) -> Refusal:
    xml = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Refusal(text_response(403, xml, "application/xml"))
