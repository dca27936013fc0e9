"""Interpret answers of the Hub and its storage: locations, rate limits, errors. Pure functions; nothing is sent here.

TransportError      a request failed
├── RefusedError    the Hub says no: gated, disabled, not there, no login; asking again does not help
├── ResponseError   an answer that breaks HTTP or the Hub's own conventions, and is not used
├── TransferError   the network, or a server that is down or busy, after all tries; later may help
└── AbandonedError  the crawl was stopped before the answer came; says nothing about the repo

No message contains a URL: the location of a large file is signed, and anyone who has it can read the file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from provenance.crawler.metadata import sha256_or_null
from provenance.schemas.enums import Reason, Stage
from provenance.schemas.errors import CheckpointError

Origin = tuple[str, str, int | None]

UNKNOWN_LIFETIME = 600.0
"""Seconds for which a signed location without an expiry time is used."""

_RENEW_EARLY = 60.0
_HOST = re.compile(r"[a-z0-9_.-]+|[0-9a-f:.]+", re.ASCII)  # the only part of a URL that messages show
_PORTS = {"http": 80, "https": 443}
_LIMIT = re.compile(r'"(?P<resource>[\w-]+)"\s*;\s*r=(?P<left>\d{1,12})\s*;\s*t=(?P<reset>\d{1,12})')
_POLICY = re.compile(r'"(?P<resource>[\w-]+)"\s*;\s*q=(?P<quota>\d{1,12})\s*;\s*w=(?P<window>\d{1,12})')
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_DISABLED = "Access to this resource is disabled."
_LOGIN = "log in with `hf auth login` or set HF_TOKEN"
_REFUSALS = {
    "GatedRepo": (Reason.GATED, f"the repo is gated; ask for access on its page and {_LOGIN}"),
    "RepoNotFound": (Reason.NO_REPO, f"there is no such repo, or it is private; check its name, or {_LOGIN}"),
    "RevisionNotFound": (
        Reason.NO_REVISION,
        "the repo has no such revision; it may have been rewritten: list it again",
    ),
    "EntryNotFound": (Reason.NO_FILE, "the repo has no such file at this revision; list it again"),
}


class TransportError(CheckpointError):
    """A request failed."""


class RefusedError(TransportError):
    """The Hub refuses; asking again does not help.

    Attributes:
        reason: gated, disabled, no repo, revision or file, login, forbidden, or expired when the storage refuses a
            signed address.
    """

    stage = Stage.PLAN

    def __init__(self, message: str, *, reason: Reason, stage: Stage | None = None) -> None:
        super().__init__(message, stage=stage, reason=reason)


class ResponseError(TransportError):
    """An answer that breaks HTTP or the Hub's own conventions; it was not used."""

    reason = Reason.BAD_ANSWER


class TransferError(TransportError):
    """The network failed, or the server is down or busy.

    Attributes:
        retry_after: seconds that the server asks to wait, null if it does not say.
    """

    reason = Reason.NETWORK

    def __init__(self, message: str, *, retry_after: float | None = None, stage: Stage | None = None) -> None:
        super().__init__(message, stage=stage)
        self.retry_after = retry_after


class AbandonedError(TransportError):
    """The crawl was stopped before an answer came. This is no outcome: the next crawl repeats the request."""

    reason = Reason.STOPPED


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What is left of one rate limit of the Hub, as reported by an answer at the time `at` (seconds since the epoch).

    `left` requests until the window ends in `reset` seconds; `quota` requests in each window of `window` seconds.
    """

    resource: str
    left: int
    reset: int
    at: float
    quota: int | None = None
    window: int | None = None


@dataclass(slots=True)
class Location:
    """Where the bytes of one file are: at a signed address outside the Hub, or in `body` for a small file.

    The address is renewed in place, so that callers need not handle its expiry.

    Attributes:
        repo_id: the repo's final id, which differs from the requested one if the repo was renamed.
        revision: the requested revision.
        commit: the commit that the Hub answered with, null if it did not say.
        size: bytes of the whole file.
        sha256: digest of the file, null for a small file or if masked.
        xet_hash: the Hub's storage hash, null if unknown.
        body: the whole content of a small file, else null.
        url: the signed address, empty for a small file. A secret: never logged, shown or stored.
        renew_at: when to request another address, in seconds since the epoch.
        etag: what the storage calls the content at this address, null before the first range.
    """

    repo_id: str
    revision: str
    path: str
    commit: str | None
    size: int
    sha256: str | None = None
    xet_hash: str | None = None
    body: bytes | None = field(default=None, repr=False)
    url: str = field(default="", repr=False)
    renew_at: float = float("inf")
    etag: str | None = None


def signed_location(
    url: str, headers: Mapping[str, str], *, repo_id: str, revision: str, path: str, commit: str | None
) -> Location:
    """The location that a redirect from the Hub to its storage describes.

    Raises:
        ResponseError: the redirect does not give the size of the file, so it does not lead to the Hub's storage.
    """
    size = headers.get("X-Linked-Size", "")
    if not re.fullmatch(r"[0-9]{1,18}", size):
        raise ResponseError(
            f"{repo_id}/{path}: redirected to {host(url)} without the size of the file; such redirects are not followed"
        )
    etag = headers.get("X-Linked-ETag", "").removeprefix("W/").strip('"')
    return Location(
        repo_id=repo_id,
        revision=revision,
        path=path,
        commit=commit,
        size=int(size),
        sha256=sha256_or_null(etag),
        xet_hash=sha256_or_null(headers.get("X-Xet-Hash")),
        url=url,
        renew_at=renewal_time(url, time.time()),
    )


def renewal_time(url: str, now: float) -> float:
    """When to renew a signed address: a minute before it expires, or after 9/10 of a short lifetime.

    Read from `Expires` (CloudFront) or from `X-Amz-Date` and `X-Amz-Expires` (S3). If the address seems to have
    expired already, the local clock is probably wrong: the address is used, and the storage decides.
    """
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    expires = now + UNKNOWN_LIFETIME
    try:
        if "Expires" in query:
            expires = float(int(query["Expires"]))
        elif "X-Amz-Expires" in query:
            signed = datetime.strptime(query.get("X-Amz-Date", ""), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            expires = signed.timestamp() + int(query["X-Amz-Expires"])
    except (ValueError, OverflowError):
        pass
    lifetime = expires - now if expires > now else UNKNOWN_LIFETIME
    return now + lifetime - min(_RENEW_EARLY, lifetime / 10)


def rate_limits(headers: Mapping[str, str], now: float) -> Iterator[RateLimit]:
    """The limits in `RateLimit` and `RateLimit-Policy` (IETF draft-ietf-httpapi-ratelimit-headers)."""
    policies = {policy["resource"]: policy for policy in _POLICY.finditer(headers.get("RateLimit-Policy", ""))}
    for limit in _LIMIT.finditer(headers.get("RateLimit", "")):
        policy = policies.get(limit["resource"])
        quota, window = (int(policy["quota"]), int(policy["window"])) if policy else (None, None)
        yield RateLimit(limit["resource"], int(limit["left"]), int(limit["reset"]), now, quota, window)


def failure(status: int, headers: Mapping[str, str], what: str, *, stage: Stage | None = None) -> TransportError:
    """The error that an answer means. `X-Error-Code` takes precedence over the status, which varies with the login.

    Args:
        what: what was requested; the message begins with it.
    """
    code = headers.get("X-Error-Code", "")
    if code in _REFUSALS:
        reason, text = _REFUSALS[code]
        return RefusedError(f"{what}: {text}", reason=reason, stage=stage)
    if headers.get("X-Error-Message") == _DISABLED:
        return RefusedError(f"{what}: the Hub has disabled access to this repo", reason=Reason.DISABLED, stage=stage)
    if status == 401:
        return RefusedError(f"{what}: the Hub asks for a valid login (401); {_LOGIN}", reason=Reason.LOGIN, stage=stage)
    if status == 403:
        return RefusedError(f"{what}: forbidden (403) to this login; {_LOGIN}", reason=Reason.FORBIDDEN, stage=stage)
    if status == 429:
        return TransferError(
            f"{what}: too many requests (429); wait for the next window, or log in for a larger budget",
            retry_after=_wait(headers),
            stage=stage,
        )
    if status == 408 or status >= 500:
        text = f"{what}: the server is down or busy ({status}); try again later"
        return TransferError(text, retry_after=_retry_after(headers), stage=stage)
    return ResponseError(f"{what}: unexpected answer, status {status}", stage=stage)


def check_range(status: int, headers: Mapping[str, str], location: Location, start: int, stop: int) -> None:
    """Check the status and headers of an answer to a request for the bytes `(start, stop)` of a file.

    Called before the body is read. Keeps the first `ETag` in `location`: bytes of two contents must not be mixed.

    Raises:
        RefusedError: the signed address has expired (reason `expired`).
        ResponseError: the answer is not that range.
        TransportError: as `failure`.
    """
    what = f"{location.repo_id}/{location.path}"
    length = str(stop - start)
    if status == 403:
        text = f"{what}: the storage refuses the address that the Hub signed (403); try again later"
        raise RefusedError(text, reason=Reason.EXPIRED, stage=Stage.READ)
    if status == 200:
        raise ResponseError(f"{what}: the storage ignores Range and sends the whole file; it is not read")
    if status == 416:
        raise ResponseError(f"{what}: the storage has no bytes ({start}, {stop}), of {location.size} listed (416)")
    if status != 206:
        raise failure(status, headers, what, stage=Stage.READ)
    sent = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if sent is None or tuple(map(int, sent.groups())) != (start, stop - 1, location.size):
        raise ResponseError(f"{what}: asked for bytes ({start}, {stop}) of {location.size}, the storage sends others")
    if headers.get("Content-Encoding", "identity") != "identity" or headers.get("Content-Length", length) != length:
        raise ResponseError(f"{what}: the storage sends bytes ({start}, {stop}) encoded, or in a wrong length")
    etag = headers.get("ETag", location.etag)
    if location.etag is not None and etag != location.etag:
        text = f"{what} changed in the storage while it was read; list the repo again"
        raise ResponseError(text, reason=Reason.CHANGED)
    location.etag = etag


def origin(url: str) -> Origin:
    """Scheme, host and port of an absolute URL.

    Raises:
        ResponseError: it is not an http or https URL.
    """
    try:
        parts = urlsplit(url)
        scheme, name, port = parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        scheme, name, port = "", "", None
    if scheme not in _PORTS or not _HOST.fullmatch(name):
        raise ResponseError("redirected to something that is not an http or https address; not followed") from None
    return scheme, name, port


def host(url: str) -> str:
    """The host of a URL, the only part of it that a message may contain."""
    return origin(url)[1]


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait after a 429: `Retry-After`, else the time until the exhausted window ends."""
    if (seconds := _retry_after(headers)) is not None:
        return seconds
    return max((float(limit.reset) for limit in rate_limits(headers, 0.0) if limit.left == 0), default=None)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "")
    return float(value) if re.fullmatch(r"[0-9]{1,9}", value) else None
