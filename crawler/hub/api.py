"""Requests to the Hub's API through `huggingface_hub`, with its endpoint, token, offline mode and proxies."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urljoin

from provenance.crawler.hub.answers import ResponseError, TransferError, failure, origin
from provenance.crawler.hub.connections import READ_SECONDS
from provenance.crawler.hub.transport import MAX_RETRIES, HubTransport
from provenance.schemas.enums import Stage
from provenance.schemas.errors import SourceError

# `huggingface_hub` is imported inside functions: a crawl of local folders must not wait for it. mypy needs the ignores
# because some documented names are not exported explicitly.


MAX_BODY, BODY_SECONDS = 128 * 1024 * 1024, 300.0
"""Limits of one answer, in bytes and seconds; a page of a thousand repos has one or two megabytes."""


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

    if constants.is_offline_mode():
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
    url = urljoin(f"{transport.endpoint}/", path)
    return transport.persist(lambda: _ask_once(transport, url, params, what), waits)


def _ask_once(transport: HubTransport, url: str, params: Mapping[str, Any] | None, what: str) -> tuple[Any, str | None]:
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]
    from huggingface_hub.utils import http_stream_backoff  # type: ignore[attr-defined]

    # A single attempt: the transport retries, because it knows the rate limits and can be interrupted.
    asked: dict[str, Any] = {"params": params, "headers": transport.headers, "timeout": READ_SECONDS}
    asked |= {"retry_on_exceptions": (), "retry_on_status_codes": ()}
    try:
        with transport.api_request() as answered, http_stream_backoff("GET", url, **asked) as response:
            answered(response.headers)
            body = _body(response, transport, what)
    except OfflineModeIsEnabled as error:
        raise SourceError("the Hub cannot be asked: HF_HUB_OFFLINE is set; unset it") from error
    except HTTPError as error:
        text = f"{what}: the Hub did not answer ({type(error).__name__}); check the network, or try later"
        raise TransferError(text, stage=Stage.LISTING) from error
    if origin(str(response.url)) != origin(url):
        raise ResponseError(f"{what}: redirected away from the Hub; the answer is not used", stage=Stage.LISTING)
    if response.status_code == 400:
        text = f"{what}: the Hub does not understand the request (400); check its options"
        raise BadRequestError(text, stage=Stage.LISTING)
    if response.status_code != 200:
        raise failure(response.status_code, response.headers, what, stage=Stage.LISTING)
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ResponseError(f"{what}: the answer is not valid JSON", stage=Stage.LISTING) from error
    return answer, _next_page(response.links, url, what)


def _body(response: Any, transport: HubTransport, what: str) -> bytes:
    """The whole body, limited in size and time: a server could send without end."""
    began, body = time.monotonic(), bytearray()
    for piece in response.iter_bytes():
        transport.check_stop()
        body += piece
        if len(body) > MAX_BODY or time.monotonic() - began > BODY_SECONDS:
            text = f"{what}: the answer is longer than {MAX_BODY:,} bytes, or takes longer than {BODY_SECONDS:.0f} s"
            raise ResponseError(text, stage=Stage.LISTING)
    return bytes(body)


def _next_page(links: Mapping[str | None, Mapping[str, str]], url: str, what: str) -> str | None:
    following = links.get("next", {}).get("url")
    if following is None:
        return None
    try:
        following = urljoin(url, following)
    except ValueError:
        raise ResponseError(f"{what}: the address of its next page is malformed", stage=Stage.LISTING) from None
    if origin(following) != origin(url):
        # The next request would carry the token there.
        raise ResponseError(f"{what}: its next page is on another server; not followed", stage=Stage.LISTING)
    return following
