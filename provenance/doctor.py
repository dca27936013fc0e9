"""Whether a Hub behaves as the crawler assumes: one check for each assumption that tests on loopback cannot verify.

A check asks the Hub through `Probe` and returns what it found. It raises `ResponseError` where that is not as assumed,
and any other `TransportError` where there was nothing to look at.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import urljoin, urlsplit

from crawler.answers import ResponseError, TransportError, failure, origin, rate_limits, renewal_time
from crawler.hub import PAGE, HubRepo
from crawler.metadata import metadata_from_listing, sha256_or_null
from provenance.probe import SAMPLE, Answer, Probe

REPO = "sentence-transformers/all-MiniLM-L6-v2"
"""A small public repo with files of both kinds."""

Result = Literal["ok", "differs", "could not be checked"]

_NOBODY, _NOTHING = "provenance-doctor/no-such-repo", "no-such-file.safetensors"
_NEVER = "0" * 40

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
    "cardData": lambda repo: repo.metadata.license is not None,
}
"""What `expand` must give: the Hub's name of a field, and whether a repo has it. cardData is known by its license."""


@dataclass(frozen=True, slots=True)
class Check:
    """One assumption: its name, what is assumed, what is asked to see it, and the examination."""

    name: str
    assumed: str
    how: str
    examine: Callable[[Probe], str]


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a check; `found` is one line, without addresses or anything secret."""

    check: str
    result: Result
    found: str
    assumed: str
    how: str


def diagnose(endpoint: str | None = None, repo_id: str = REPO) -> Iterator[Finding]:
    """Check every assumption about a Hub, one after the other.

    Args:
        endpoint: address of the Hub; null for `HF_ENDPOINT`, or else huggingface.co.
        repo_id: the repo whose files are asked for.

    Raises:
        SourceError: there is no answer at all, offline mode is on, or the endpoint is not an address.
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


def _listing_fields(probe: Probe) -> str:
    lacking = [name for name, has in _FIELDS.items() if not any(map(has, probe.changed))]
    if lacking:
        raise ResponseError(f"none of {len(probe.changed)} repos has {', '.join(lacking)}")
    return f"all {len(_FIELDS)} in a page of {len(probe.changed)} repos"


def _listing_base_models(probe: Probe) -> str:
    rows, _ = probe.page({"sort": "lastModified", "limit": SAMPLE, "expand": ["baseModels"]})
    declared = [base for row in rows if (base := row.get("baseModels"))]
    if not declared:
        raise TransportError(f"none of {len(rows)} repos declares a base model")
    for base in declared:
        models = base.get("models") if isinstance(base, dict) else None
        named = isinstance(models, list) and all(isinstance(m, dict) and isinstance(m.get("id"), str) for m in models)
        if not named or not isinstance(base.get("relation"), str):
            raise ResponseError("baseModels is not {relation, models: [{id}]}; crawls go by the tags alone")
    return f"{len(declared)} of {len(rows)} repos have it, as {{relation, models: [{{id}}]}}"


def _listing_page(probe: Probe) -> str:
    rows, following = probe.newest
    if following is None and len(rows) < PAGE:
        raise TransportError(f"only {len(rows):,} repos are listed here, no full page can be seen")
    if following is None or len(rows) != PAGE:
        raise ResponseError(
            f"{len(rows):,} repos where {PAGE:,} were asked for, {'a' if following else 'no'} next page"
        )
    return f"{PAGE:,} repos, and the address of the next page on the same server"


def _listing_order(probe: Probe) -> str:
    first, second = probe.newest[0], probe.second
    times = [metadata_from_listing(row).created_at for row in (*first, *second)]
    _check_descending(times, "createdAt")
    if repeated := {row.get("id") for row in first} & {row.get("id") for row in second}:
        raise ResponseError(f"{len(repeated)} repos of the first page come again on the second")
    return f"{len(times):,} repos on two pages, newest first, none twice"


def _listing_changes(probe: Probe) -> str:
    _check_descending([repo.metadata.last_modified for repo in probe.changed], "lastModified")
    return f"{len(probe.changed)} repos, the last changed first"


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


def _repo_files(probe: Probe) -> str:
    repo = probe.repo
    if not re.fullmatch(r"[0-9a-f]{40}", repo.revision or ""):
        raise ResponseError(f"{repo.repo_id}: no whole commit hash is given")
    if len(repo.files) != len(repo.paths) or not repo.files:
        raise ResponseError(f"{repo.repo_id}: {len(repo.files)} of {len(repo.paths)} files have a size")
    digests = sum(file.sha256 is not None for file in repo.files)
    return f"{len(repo.files)} files, all with a size, {digests} with a sha256"


def _large_file(probe: Probe) -> str:
    file, answer = probe.large
    location = probe.location
    _check_commit(probe, answer)
    if location.size != file.size:
        raise ResponseError(f"{file.path}: X-Linked-Size is {location.size:,}, {file.size:,} bytes are listed")
    if location.sha256 is None or location.sha256 != sha256_or_null(file.sha256):
        raise ResponseError(f"{file.path}: X-Linked-ETag is not the listed sha256")
    return f"{file.path}: 302 with commit, size ({file.size:,} bytes) and sha256"


def _large_file_address(probe: Probe) -> str:
    location, now = probe.location, time.time()
    if origin(location.url) == origin(probe.transport.endpoint):
        raise ResponseError("the file lies on the Hub's own server, which the token is sent to")
    # Read at the epoch, an expiry that is not absolute gives a few minutes, far in the past.
    renew_at = renewal_time(location.url, 0.0)
    if renew_at <= now:
        raise ResponseError("its expiry cannot be read, or has passed; check the clock of this machine")
    until = datetime.fromtimestamp(now, UTC) + timedelta(seconds=renew_at - now)
    return f"on another server, good until {until:%Y-%m-%d %H:%M} UTC at the least"


def _storage_range(probe: Probe) -> str:
    location = probe.location
    stop = min(8, location.size)
    # Raises unless it is a 206 with the right Content-Range and length. The transport sends no token there.
    (data,) = probe.transport.read_ranges(location, [(0, stop)])
    return f"bytes (0, {len(data)}) of {location.size:,} as 206, without a token"


def _small_file(probe: Probe) -> str:
    file, answer = probe.small
    if answer.status != 307:
        raise _unlike(answer, f"{file.path}: the Hub answers {answer.status} in place of 307")
    _check_commit(probe, answer)
    target = urljoin(answer.url, answer.headers.get("Location", ""))
    path = urlsplit(target).path.removeprefix(urlsplit(probe.transport.endpoint).path)
    if origin(target) != origin(answer.url) or not path.startswith("/api/resolve-cache/"):
        raise ResponseError(f"{file.path}: redirected to something else than /api/resolve-cache/ on the Hub")
    copy = probe.get(target, body=file.size + 1)
    if copy.status != 200 or len(copy.body) != file.size:
        raise _unlike(copy, f"{file.path}: {copy.status} and {len(copy.body):,} bytes, {file.size:,} are listed")
    return f"{file.path}: 307 to /api/resolve-cache, then 200 with {file.size:,} bytes"


def _budgets(probe: Probe) -> str:
    found = []
    for resource, answer in (("api", probe.get("api/models?limit=1")), ("resolvers", probe.resolve(_NOTHING, "main"))):
        limits = {limit.resource: limit for limit in rate_limits(answer.headers, time.time())}
        limit = limits.get(resource)
        if limit is None or limit.quota is None:
            raise ResponseError(f'no RateLimit and RateLimit-Policy for "{resource}" that can be read')
        found.append(f"{resource} {limit.left:,} of {limit.quota:,} left in {limit.window} s")
    return ", ".join(found)


def _missing_repo(probe: Probe) -> str:
    return _refusal(probe.get(f"api/models/{_NOBODY}"), "RepoNotFound")


def _missing_revision(probe: Probe) -> str:
    return _refusal(probe.resolve("config.json", _NEVER), "RevisionNotFound")


def _missing_file(probe: Probe) -> str:
    return _refusal(probe.resolve(_NOTHING), "EntryNotFound")


CHECKS = (
    Check(
        "listing-fields",
        "`expand` gives commit, files, times, counts, gating and tags of every repo in a listing",
        f"the {SAMPLE} repos that changed last",
        _listing_fields,
    ),
    Check(
        "listing-base-models",
        "`expand=baseModels` is accepted in a listing and gives {relation, models: [{id}]}",
        f"the {SAMPLE} repos that changed last",
        _listing_base_models,
    ),
    Check(
        "listing-page",
        f"a page has {PAGE:,} repos, and a Link with rel=next on the same server while more follow",
        f"a page of {PAGE:,} by createdAt",
        _listing_page,
    ),
    Check(
        "listing-order",
        "by createdAt, the newest come first, and the next page goes on where the last one ended",
        "two such pages",
        _listing_order,
    ),
    Check(
        "listing-changes",
        "by lastModified, the last changed come first, so that --since may stop",
        f"the {SAMPLE} repos that changed last",
        _listing_changes,
    ),
    Check("listing-end", "the last page has no Link", "all repos of the owner of REPO", _listing_end),
    Check(
        "repo-files",
        "a repo asked for by name with `blobs=true` gives its commit, and size and sha256 of its files",
        "REPO by name",
        _repo_files,
    ),
    Check(
        "large-file",
        "`resolve` answers 302 with X-Repo-Commit, X-Linked-Size and X-Linked-ETag as listed",
        "the smallest weight file of REPO",
        _large_file,
    ),
    Check(
        "large-file-address",
        "it leads to another server, by an address whose expiry can be read",
        "the same answer",
        _large_file_address,
    ),
    Check(
        "storage-range",
        "the storage gives a range as 206 with Content-Range, and wants no token",
        "the first 8 bytes of that file",
        _storage_range,
    ),
    Check(
        "small-file",
        "`resolve` answers 307 to /api/resolve-cache, which gives the file",
        "config.json of REPO, or its smallest file",
        _small_file,
    ),
    Check(
        "budgets",
        "RateLimit and RateLimit-Policy tell what is left of `api` and `resolvers`",
        "a page of one repo, and a file that is not there",
        _budgets,
    ),
    Check(
        "missing-repo",
        "X-Error-Code is RepoNotFound, with and without a token",
        f"{_NOBODY} by name",
        _missing_repo,
    ),
    Check(
        "missing-revision",
        "X-Error-Code is RevisionNotFound",
        "a commit of forty zeros in REPO",
        _missing_revision,
    ),
    Check("missing-file", "X-Error-Code is EntryNotFound", "a file that REPO does not have", _missing_file),
)
"""Every check, in the order of a crawl."""


def _check_descending(times: list[datetime | None], field: str) -> None:
    known = [time for time in times if time is not None]
    if len(known) < len(times) or not known:
        raise ResponseError(f"{len(times) - len(known)} of {len(times)} repos have no {field} that can be read")
    if any(after > before for before, after in zip(known, known[1:], strict=False)):
        raise ResponseError(f"the repos do not come in descending order of {field}")


def _check_commit(probe: Probe, answer: Answer) -> None:
    if answer.headers.get("X-Repo-Commit") != probe.repo.revision:
        raise ResponseError("X-Repo-Commit is not the commit that was asked for")


def _refusal(answer: Answer, expected: str) -> str:
    code = answer.headers.get("X-Error-Code")
    if code != expected:
        raise _unlike(answer, f"{answer.status} with X-Error-Code {(code or 'missing')[:40]!r}, not {expected!r}")
    return f"{answer.status} with X-Error-Code {code}"


def _unlike(answer: Answer, text: str) -> TransportError:
    """The error for an answer that is not as assumed; busy or over budget tells nothing about the assumption."""
    if answer.status == 429 or answer.status >= 500:
        return failure(answer.status, answer.headers, "the Hub")
    return ResponseError(text)
