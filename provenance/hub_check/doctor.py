"""Whether a Hub behaves as the crawler assumes: one check for each assumption that tests on loopback cannot verify.

A check sends requests through `Probe` and returns what it found. It raises `ResponseError` if that differs from the
assumption, and any other `TransportError` if it could not be checked.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Literal
from urllib.parse import urlsplit

from provenance.crawler.hub.answers import (
    RefusedError,
    ResponseError,
    TransportError,
    failure,
    origin,
    rate_limits,
    renewal_time,
)
from provenance.crawler.hub.listing import PAGE, HubRepo
from provenance.crawler.metadata import metadata_from_listing, sha256_or_null
from provenance.hub_check.probe import SAMPLE, Answer, Probe

REPO = "sentence-transformers/all-MiniLM-L6-v2"
"""A small public repo with files of both kinds."""

Examination = Callable[[Probe], str]

CHECKS: list[Check] = []
"""All checks, in the order in which a crawl depends on them."""

Result = Literal["ok", "differs", "could not be checked"]

_NO_REPO, _NO_FILE = "provenance-doctor/no-such-repo", "no-such-file.safetensors"
_NO_COMMIT = "0" * 40

_FIELDS: dict[str, Callable[[HubRepo], bool]] = {
    "sha": lambda repo: repo.revision is not None,
    "siblings": lambda repo: bool(repo.paths),
    "createdAt": lambda repo: repo.metadata.created_at is not None,
    "lastModified": lambda repo: repo.metadata.last_modified is not None,
    "downloads": lambda repo: repo.metadata.downloads is not None,
    "likes": lambda repo: repo.metadata.likes is not None,
    "gated": lambda repo: repo.metadata.gated is not None,
    "private": lambda repo: repo.metadata.private is not None,
    "tags": lambda repo: bool(repo.metadata.tags),
}
"""What `expand` must give: the Hub's name of a field, and whether a repo has it."""


@dataclass(frozen=True, slots=True)
class Check:
    """One assumption: its name, what is assumed, how it is checked, and the function that checks it."""

    name: str
    assumed: str
    how: str
    examine: Examination


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check; `found` is one line, without URLs or secrets."""

    check: str
    result: Result
    found: str
    assumed: str
    how: str


def _check(assumed: str, how: str) -> Callable[[Examination], Examination]:
    def add(examine: Examination) -> Examination:
        CHECKS.append(Check(examine.__name__.strip("_").replace("_", "-"), assumed, how, examine))
        return examine

    return add


def diagnose(endpoint: str | None = None, repo_id: str = REPO) -> Iterator[Finding]:
    """Check every assumption about a Hub, one after the other.

    Args:
        endpoint: URL of the Hub; null for `HF_ENDPOINT`, else huggingface.co.
        repo_id: the repo whose files are requested.

    Raises:
        SourceError: the Hub does not respond, offline mode is on, or the endpoint is not a URL.
    """
    with Probe(endpoint, repo_id) as probe:
        probe.reach()
        for check in CHECKS:
            result: Result = "ok"
            try:
                found = check.examine(probe)
            except TransportError as error:
                result = "differs" if isinstance(error, ResponseError) else "could not be checked"
                found = str(error)
            yield Finding(check.name, result, found, check.assumed, check.how)


@_check(
    "`expand` gives commit, files, times, counts, gating and tags of every repo in a listing",
    f"the {SAMPLE} repos that changed last",
)
def _listing_fields(probe: Probe) -> str:
    lacking = [name for name, has in _FIELDS.items() if not any(map(has, probe.changed))]
    if lacking:
        raise ResponseError(f"none of {len(probe.changed)} repos has {', '.join(lacking)}")
    return f"all {len(_FIELDS)} in a page of {len(probe.changed)} repos"


@_check(
    "`expand` gives cardData, and baseModels as {relation, models: [{id}]}", f"the {SAMPLE} repos that changed last"
)
def _listing_cards(probe: Probe) -> str:
    rows, _ = probe.page({"sort": "lastModified", "limit": SAMPLE, "expand": ["baseModels", "cardData"]})
    if not any(isinstance(row.get("cardData"), dict) for row in rows):
        raise ResponseError(f"none of {len(rows)} repos has cardData as an object")
    declared = [base for row in rows if (base := row.get("baseModels"))]
    if not declared:
        raise TransportError(f"none of {len(rows)} repos declares a base model")
    for base in declared:
        models = base.get("models") if isinstance(base, dict) else None
        named = isinstance(models, list) and all(isinstance(m, dict) and isinstance(m.get("id"), str) for m in models)
        if not named or not isinstance(base.get("relation"), str):
            raise ResponseError("baseModels is not {relation, models: [{id}]}; crawls go by the tags alone")
    return f"{len(declared)} of {len(rows)} repos have it, as {{relation, models: [{{id}}]}}"


@_check(
    f"a page has {PAGE:,} repos, and a Link with rel=next on the same server while more follow",
    f"a page of {PAGE:,} by createdAt",
)
def _listing_page(probe: Probe) -> str:
    rows, following = probe.newest
    if following is None and len(rows) < PAGE:
        raise TransportError(f"only {len(rows):,} repos are listed here, no full page can be seen")
    if following is None or len(rows) != PAGE:
        more = "with" if following else "without"
        raise ResponseError(f"{len(rows):,} repos where {PAGE:,} were asked for, {more} a next page")
    return f"{PAGE:,} repos, and the address of the next page on the same server"


@_check("by createdAt, the newest come first, and the next page goes on where the last one ended", "two such pages")
def _listing_order(probe: Probe) -> str:
    first, second = probe.newest[0], probe.second
    times = [metadata_from_listing(row).created_at for row in (*first, *second)]
    _check_descending(times, "createdAt")
    if repeated := {row.get("id") for row in first} & {row.get("id") for row in second}:
        raise ResponseError(f"{len(repeated)} repos of the first page come again on the second")
    return f"{len(times):,} repos on two pages, newest first, none twice"


@_check(
    "by lastModified, the last changed come first, so that --since may stop", f"the {SAMPLE} repos that changed last"
)
def _listing_changes(probe: Probe) -> str:
    _check_descending([repo.metadata.last_modified for repo in probe.changed], "lastModified")
    return f"{len(probe.changed)} repos, the last changed first"


@_check("the last page has no Link", "all repos of the owner of REPO")
def _listing_end(probe: Probe) -> str:
    author, slash, _ = probe.repo_id.partition("/")
    if not slash:
        raise TransportError(f"{probe.repo_id} has no owner whose repos could be listed; give another repo")
    rows, following = probe.page({"author": author, "limit": PAGE, "expand": ["createdAt"]})
    if following is not None and len(rows) >= PAGE:
        raise TransportError(f"{author} has more repos than fit on a page; give a repo of a smaller owner")
    if following is not None:
        raise ResponseError(f"a next page is announced after {len(rows)} of {PAGE:,} repos")
    if not rows:
        raise ResponseError(f"no repo of {author} is listed")
    return f"{len(rows)} repos of {author}, no next page"


@_check("a repo asked for by name with `blobs=true` gives its commit, and size and sha256 of its files", "REPO by name")
def _repo_files(probe: Probe) -> str:
    repo = probe.repo
    if not re.fullmatch(r"[0-9a-f]{40}", repo.revision or ""):
        raise ResponseError(f"{repo.repo_id}: no whole commit hash is given")
    if len(repo.files) != len(repo.paths) or not repo.files:
        raise ResponseError(f"{repo.repo_id}: {len(repo.files)} of {len(repo.paths)} files have a size")
    digests = sum(file.sha256 is not None for file in repo.files)
    return f"{len(repo.files)} files, all with a size, {digests} with a sha256"


@_check(
    "`resolve` answers 302 with X-Repo-Commit, X-Linked-Size and X-Linked-ETag as listed",
    "the smallest weight file of REPO",
)
def _large_file(probe: Probe) -> str:
    file, answer = probe.large
    location = probe.location
    _check_commit(probe, answer)
    if location.size != file.size:
        raise ResponseError(f"{file.path}: X-Linked-Size is {location.size:,}, {file.size:,} bytes are listed")
    if location.sha256 is None or location.sha256 != sha256_or_null(file.sha256):
        raise ResponseError(f"{file.path}: X-Linked-ETag is not the listed sha256")
    return f"{file.path}: 302 with commit, size ({file.size:,} bytes) and sha256"


@_check("the address is on another server than the Hub, and its expiry can be read", "the same answer")
def _large_file_address(probe: Probe) -> str:
    location, now = probe.location, time.time()
    if origin(location.url) == origin(probe.transport.endpoint):
        raise ResponseError("the file lies on the Hub's own server, which the token is sent to")
    # With the epoch as current time, a relative expiry gives a time in 1970, far in the past.
    renew_at = renewal_time(location.url, 0.0)
    if renew_at <= now:
        raise ResponseError("its expiry cannot be read, or has passed; check the clock of this machine")
    return f"on another server, to be renewed after {renew_at - now:,.0f} s"


@_check("the storage gives a range as 206 with Content-Range, and wants no token", "the first 8 bytes of that file")
def _storage_range(probe: Probe) -> str:
    location = probe.location
    stop = min(8, location.size)
    try:
        # Raises unless the response is a 206 with the right Content-Range and length. No token is sent to the storage.
        (data,) = probe.transport.read_ranges(location, [(0, stop)])
    except RefusedError as error:
        raise ResponseError(f"{location.path}: the storage refuses a fresh address without a token") from error
    return f"bytes (0, {len(data)}) of {location.size:,} as 206, without a token"


@_check(
    "`resolve` answers 307 to /api/resolve-cache, which gives the file", "config.json of REPO, or its smallest file"
)
def _small_file(probe: Probe) -> str:
    file, answer = probe.small
    if answer.status != 307:
        raise _unlike(answer, f"{file.path}: the Hub answers {answer.status} in place of 307")
    _check_commit(probe, answer)
    target = answer.target
    path = urlsplit(target).path.removeprefix(urlsplit(probe.transport.endpoint).path)
    if origin(target) != origin(answer.url) or not path.startswith("/api/resolve-cache/"):
        raise ResponseError(f"{file.path}: redirected to something else than /api/resolve-cache/ on the Hub")
    copy = probe.get(target, body=file.size + 1)
    if copy.status != 200 or len(copy.body) != file.size:
        raise _unlike(copy, f"{file.path}: {copy.status} and {len(copy.body):,} bytes, {file.size:,} are listed")
    return f"{file.path}: 307 to /api/resolve-cache, then 200 with {file.size:,} bytes"


@_check(
    "RateLimit and RateLimit-Policy tell what is left of `api` and `resolvers`",
    "a page of one repo, and a file that is not there",
)
def _budgets(probe: Probe) -> str:
    found = []
    for resource, answer in (("api", probe.get("api/models?limit=1")), ("resolvers", probe.resolve(_NO_FILE, "main"))):
        limits = {limit.resource: limit for limit in rate_limits(answer.headers, time.time())}
        limit = limits.get(resource)
        if limit is None or limit.quota is None:
            raise ResponseError(f'no RateLimit and RateLimit-Policy for "{resource}" that can be read')
        found.append(f"{resource} {limit.left:,} of {limit.quota:,} left in {limit.window} s")
    return ", ".join(found)


@_check("X-Error-Code is RepoNotFound, with and without a token", f"{_NO_REPO} by name")
def _missing_repo(probe: Probe) -> str:
    return _refusal(probe.get(f"api/models/{_NO_REPO}"), "RepoNotFound")


@_check("X-Error-Code is RevisionNotFound", "a commit of forty zeros in REPO")
def _missing_revision(probe: Probe) -> str:
    return _refusal(probe.resolve("config.json", _NO_COMMIT), "RevisionNotFound")


@_check("X-Error-Code is EntryNotFound", "a file that REPO does not have")
def _missing_file(probe: Probe) -> str:
    return _refusal(probe.resolve(_NO_FILE), "EntryNotFound")


def _check_descending(times: list[datetime | None], field: str) -> None:
    known = [time for time in times if time is not None]
    if len(known) < len(times) or not known:
        raise ResponseError(f"{len(times) - len(known)} of {len(times)} repos have no {field} that can be read")
    if any(after > before for before, after in pairwise(known)):
        raise ResponseError(f"the repos do not come in descending order of {field}")


def _check_commit(probe: Probe, answer: Answer) -> None:
    if answer.headers.get("X-Repo-Commit") != probe.repo.revision:
        raise ResponseError("X-Repo-Commit is not the commit that was asked for")


def _refusal(answer: Answer, expected: str) -> str:
    code = answer.headers.get("X-Error-Code")
    if code != expected or answer.status < 400:
        raise _unlike(answer, f"{answer.status} with X-Error-Code {(code or 'missing')[:40]!r}, not {expected!r}")
    return f"{answer.status} with X-Error-Code {code}"


def _unlike(answer: Answer, text: str) -> TransportError:
    """The error for an unexpected response. A 429 or 5xx says nothing about the assumption."""
    if answer.status == 429 or answer.status >= 500:
        return failure(answer.status, answer.headers, "the Hub")
    return ResponseError(text)
