"""Requests to the Hub's API: JSON, and pages that follow each other. `huggingface_hub` gives endpoint and token."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urljoin

from provenance.crawler.hub.answers import ResponseError, TransportError, failure, origin
from provenance.crawler.hub.transport import MAX_RETRIES, HubTransport
from provenance.schemas.enums import Stage
from provenance.schemas.errors import SourceError

# `huggingface_hub` is imported inside functions: a crawl of local folders must not wait for it.

MAX_BODY, MAX_SECONDS = 64 * 1024 * 1024, 300.0
"""Limits of one answer; a page of a thousand repos has one or two megabytes."""

_NEXT = re.compile(r'<([^<>]*)>\s*;\s*(?:[^,<>]*;\s*)?rel="?next"?', re.IGNORECASE)


class BadRequestError(ResponseError):
    """The Hub does not understand the request (400)."""


def connect(
    endpoint: str | None = None,
    *,
    connections: int = 16,
    retries: int = MAX_RETRIES,
    pause: Callable[[float], object] = time.sleep,
) -> HubTransport:
    """A transport to the Hub that `huggingface_hub` is configured for: its endpoint, token and user agent.

    Args:
        endpoint: another Hub; null for `HF_ENDPOINT`, or else huggingface.co.
        connections, retries, pause: as for `HubTransport`.

    Raises:
        SourceError: offline mode is on, or the endpoint is not an http or https address.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    if is_offline():
        raise SourceError("the Hub cannot be crawled: HF_HUB_OFFLINE is set; unset it, or crawl a local folder")
    address = endpoint or constants.ENDPOINT
    try:
        headers = build_hf_headers(library_name="model-provenance")
        return HubTransport(address, headers, connections=connections, retries=retries, pause=pause)
    except ResponseError as error:
        raise SourceError(f"{address!r} cannot be the endpoint of a Hub; give an http or https address") from error


def ask(
    transport: HubTransport,
    path: str,
    params: Mapping[str, Any] | None = None,
    *,
    what: str,
    waits: Sequence[float] | None = None,
) -> tuple[Any, str | None]:
    """One answer of the API, and the address of its next page.

    Args:
        transport: counts the request and keeps the rate limits that the answer reports.
        path: relative to the endpoint, or the absolute address of a next page.
        params: the query, lists as repeated keys; null keeps the query of `path`.
        what: what is requested; messages begin with it.
        waits: as for `HubTransport.persist`.

    Returns:
        the parsed JSON, and the next page's address or null.

    Raises:
        RefusedError, TransferError: as `failure`; stage `listing`.
        BadRequestError: status 400.
        ResponseError: the answer is not JSON, or comes from or leads to another server.
        SourceError: offline mode is on.
    """
    if is_offline():
        raise SourceError("the Hub cannot be asked: HF_HUB_OFFLINE is set; unset it")
    url = urljoin(f"{transport.endpoint}/", path)
    if params is not None:
        url += "?" + urlencode(params, doseq=True)
    return transport.persist(lambda: _ask_once(transport, url, what), waits)


def is_offline() -> bool:
    """Whether `huggingface_hub` is in offline mode."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def _ask_once(transport: HubTransport, url: str, what: str) -> tuple[Any, str | None]:
    try:
        answer = transport.ask_api(url, what, limit=MAX_BODY, seconds=MAX_SECONDS)
    except TransportError as error:
        error.stage = Stage.LISTING
        raise
    if len(answer.body) > MAX_BODY:
        raise ResponseError(f"{what}: the answer is longer than {MAX_BODY:,} bytes; not read", stage=Stage.LISTING)
    if answer.status == 400:
        text = f"{what}: the Hub does not understand the request (400); check its options"
        raise BadRequestError(text, stage=Stage.LISTING)
    if answer.status != 200:
        raise failure(answer.status, answer.headers, what, stage=Stage.LISTING)
    try:
        content = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise ResponseError(f"{what}: the answer is not valid JSON", stage=Stage.LISTING) from error
    return content, _next_page(answer.headers.get("Link", ""), url, what)


def _next_page(links: str, url: str, what: str) -> str | None:
    """The address that a `Link` header (RFC 8288) gives as the next page, null for none."""
    match = _NEXT.search(links)
    if match is None:
        return None
    try:
        following: str = urljoin(url, match[1])
    except ValueError:
        raise ResponseError(f"{what}: the address of its next page is malformed", stage=Stage.LISTING) from None
    if origin(following) != origin(url):
        # The next request would carry the token there.
        raise ResponseError(f"{what}: its next page is on another server; not followed", stage=Stage.LISTING)
    return following
