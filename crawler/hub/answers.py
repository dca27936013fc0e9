"""What the answers of the Hub and of its storage mean: locations, budgets, refusals. Pure: nothing is sent here.

TransportError      a request that did not yield what was asked for
├── RefusedError    the Hub says no: gated, disabled, not there, no login; asking again does not help
├── ResponseError   an answer that breaks HTTP or the Hub's own conventions, and is not used
├── TransferError   the network, or a server that is down or busy, after all tries; later may help
└── AbandonedError  the crawl was stopped before the answer came; says nothing of the repo

No message carries a URL: the location of a large file is signed, and whoever has it can read the file.
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
"""Seconds for which a signed location is used when it does not say how long it is valid."""

_RENEW_EARLY = 60.0
_HOST = re.compile(r"[a-z0-9_.-]+|[0-9a-f:.]+", re.ASCII)  # what messages may repeat
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
    """A request did not yield what was asked for."""


class RefusedError(TransportError):
    """The Hub refuses; asking again does not help.

    Attributes:
        reason: gated, disabled, no repo, revision or file, login, forbidden, or expired where the storage refuses a
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
        retry_after: seconds to wait as the server asked, null where it did not say.
    """

    reason = Reason.NETWORK

    def __init__(self, message: str, *, retry_after: float | None = None, stage: Stage | None = None) -> None:
        super().__init__(message, stage=stage)
        self.retry_after = retry_after


class AbandonedError(TransportError):
    """The crawl was stopped before an answer came. It is no outcome: whatever was asked for is asked for again."""

    reason = Reason.STOPPED


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What is left of one budget of the Hub, as an answer said at the time `at` (seconds since the epoch).

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
    """Where the bytes of one file are: a signed address outside the Hub, or right here for a small file.

    The address is renewed in place, so that its users need not know that it ever expires.

    Attributes:
        repo_id: the repo's final id, which differs from the one asked for after a renaming.
        revision: the revision asked for.
        commit: the commit that the Hub answered with, null where it did not say.
        size: bytes of the whole file.
        sha256: digest of the file, null for a small file or where masked.
        xet_hash: the Hub's storage hash, null where unknown.
        body: the whole content of a small file, else null.
        url: the signed address, empty for a small file. A secret: never logged, shown or stored.
        renew_at: when to ask for another address, in seconds since the epoch.
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


def signed_location(
    url: str, headers: Mapping[str, str], *, repo_id: str, revision: str, path: str, commit: str | None
) -> Location:
    """The location that a redirect of the Hub to its storage describes.

    Raises:
        ResponseError: the redirect does not say how large the file is, and so is not one to the Hub's storage.
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
    """When a signed address is to be renewed: a minute before it expires, or after 9/10 of a short life.

    Read from `Expires` (CloudFront) or from `X-Amz-Date` and `X-Amz-Expires` (S3). One that seems to have expired
    already tells of a wrong clock here; it is used, and the storage has the last word.
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
    """The budgets in `RateLimit` and `RateLimit-Policy` (IETF draft-ietf-httpapi-ratelimit-headers)."""
    policies = {found["resource"]: found for found in _POLICY.finditer(headers.get("RateLimit-Policy", ""))}
    for found in _LIMIT.finditer(headers.get("RateLimit", "")):
        policy = policies.get(found["resource"])
        quota, window = (int(policy["quota"]), int(policy["window"])) if policy else (None, None)
        yield RateLimit(found["resource"], int(found["left"]), int(found["reset"]), now, quota, window)


def failure(status: int, headers: Mapping[str, str], what: str, *, stage: Stage | None = None) -> TransportError:
    """The error that an answer stands for. `X-Error-Code` is trusted before the status, which varies with the login.

    Args:
        what: what was asked for, to begin the message with.
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
    """Accept the answer to a request for the bytes `(start, stop)` of a file by its head, before its body is read.

    Raises:
        RefusedError: the signed address has expired (reason `expired`).
        ResponseError: what comes is not that range.
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
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None or tuple(map(int, found.groups())) != (start, stop - 1, location.size):
        raise ResponseError(f"{what}: asked for bytes ({start}, {stop}) of {location.size}, the storage sends others")
    if headers.get("Content-Encoding", "identity") != "identity" or headers.get("Content-Length", length) != length:
        raise ResponseError(f"{what}: the storage sends bytes ({start}, {stop}) encoded, or in a wrong length")


def origin(url: str) -> Origin:
    """Scheme, host and port of an absolute URL.

    Raises:
        ResponseError: there is no such thing as this URL.
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
    """The host of a URL, which is all that a message may tell of it."""
    return origin(url)[1]


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait after a 429: `Retry-After`, else the end of the window that is used up."""
    if (seconds := _retry_after(headers)) is not None:
        return seconds
    return max((float(limit.reset) for limit in rate_limits(headers, 0.0) if limit.left == 0), default=None)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "")
    return float(value) if re.fullmatch(r"[0-9]{1,9}", value) else None
