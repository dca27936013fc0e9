"""`/api/models`: which repos, in which order, with which properties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from provenance.demo_hub.messages import Request, Response, refusal
from provenance.demo_hub.pages import Key, cursor_key, cut, page_response
from provenance.demo_hub.repos import HubRepo

SORTS: dict[str, type[str] | type[int]] = {
    "createdAt": str,
    "lastModified": str,
    "downloads": int,
    "likes": int,
    "trendingScore": int,
}
"""The keys by which a listing can be sorted. Times are ISO 8601 in UTC, which sort as strings."""

_SHORT = (
    *("_id", "id", "modelId", "likes", "trendingScore", "private", "downloads"),
    *("tags", "pipeline_tag", "library_name", "createdAt"),
)
_FULL = (*_SHORT, "author", "gated", "disabled", "lastModified", "sha", "siblings")

EXPANDABLE = frozenset(
    {*_FULL, "baseModels", "cardData", "config", "gguf", "inference", "safetensors", "transformersInfo", "usedStorage"}
) - {"_id", "id", "modelId"}
"""Properties that can be named in `expand`."""


def expanded(request: Request) -> tuple[str, ...]:
    """The properties that `expand=…` or `expand[]=…` name; empty where nothing is expanded.

    Raises:
        Refusal: 400, there is no such property.
    """
    names = tuple(value for name, value in request.query if name in ("expand", "expand[]"))
    if unknown := set(names) - EXPANDABLE:
        raise refusal(400, f'"expand" must be one of {sorted(EXPANDABLE)}, not {sorted(unknown)}')
    return names


def properties(repo: HubRepo, names: Iterable[str]) -> dict[str, Any]:
    """Those of the named properties that a repo has."""
    return {name: value for name in names if (value := repo.property(name)) is not None}


@dataclass(frozen=True, slots=True)
class PageQuery:
    """The page of a listing that is requested.

    Attributes:
        sort: a key of `SORTS`.
        descending: largest first.
        limit: maximum number of rows on the page.
        names: the properties of each row.
        after: the last key of the page before, null for the first page.
    """

    sort: str
    descending: bool
    limit: int
    names: tuple[str, ...]
    after: Key | None


def page_query(request: Request, page_size: int) -> PageQuery:
    """The parameters of a listing: `sort`, by `createdAt` unless given; `direction`, largest first unless it is 1;
    `limit`, `page_size` at most; `expand`, or else `full`, `cardData` and `config`; `cursor`.

    Raises:
        Refusal: 400, a parameter has no such value.
    """
    sort = request.value("sort") or "createdAt"
    if sort not in SORTS:
        raise refusal(400, f'"sort" must be one of {sorted(SORTS)}, not {sort!r}')
    direction = request.value("direction") or "-1"
    if direction not in ("1", "-1"):
        raise refusal(400, f'"direction" must be 1 or -1, not {direction!r}')
    limit = request.value("limit") or str(page_size)
    if not limit.isdecimal() or int(limit) == 0:
        raise refusal(400, f'"limit" must be a positive number, not {limit!r}')
    after = cursor_key(request, SORTS[sort])
    return PageQuery(sort, direction == "-1", min(int(limit), page_size), _columns(request), after)


def list_models(repos: Iterable[HubRepo], request: Request, endpoint: str, page_size: int) -> Response:
    """One page of the repos that match a request and that its user may see.

    Parameters: those of `page_query`, and which repos: `author`; `search` in ids, ignoring case; `filter`, as
    `has_labels`.

    Raises:
        Refusal: 400, a parameter has no such value.
    """
    page = page_query(request, page_size)
    kind = SORTS[page.sort]

    def key(repo: HubRepo) -> Key:
        value = repo.listing[page.sort]
        return value if isinstance(value, kind) else kind(), repo.id

    chosen, last = cut(
        (repo for repo in repos if repo.visible_to(request.token) and _matches(repo, request)),
        key,
        limit=page.limit,
        after=page.after,
        descending=page.descending,
    )
    return page_response(request, endpoint, [properties(repo, page.names) for repo in chosen], last)


def has_labels(listing: Mapping[str, Any], request: Request) -> bool:
    """Whether a repo passes every `filter` of a request: each is a tag, library or task that it must have."""
    labels = {*listing["tags"], listing.get("library_name"), listing.get("pipeline_tag")}
    return all(part in labels for name, value in request.query if name == "filter" for part in value.split(","))


def _columns(request: Request) -> tuple[str, ...]:
    if names := expanded(request):
        return ("_id", "id", *names)
    extra = tuple(name for name in ("cardData", "config") if request.is_set(name))
    return (*(_FULL if request.is_set("full") else _SHORT), *extra)


def _matches(repo: HubRepo, request: Request) -> bool:
    author, search = request.value("author"), request.value("search")
    if author and author != repo.listing.get("author"):
        return False
    if search and search.lower() not in repo.id.lower():
        return False
    return has_labels(repo.listing, request)
