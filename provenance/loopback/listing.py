"""`/api/models`: which repos, in which order, with which properties."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from provenance.loopback.messages import Request, Response, refusal
from provenance.loopback.pages import Key, cursor_key, cut, page_response
from provenance.loopback.repos import HubRepo

SORTS: dict[str, type[str] | type[int]] = {
    "createdAt": str,
    "lastModified": str,
    "downloads": int,
    "likes": int,
    "trendingScore": int,
}
"""What a listing may be sorted by. Times are ISO 8601 in UTC, which sort as strings."""

_SHORT = (
    *("_id", "id", "modelId", "likes", "trendingScore", "private", "downloads"),
    *("tags", "pipeline_tag", "library_name", "createdAt"),
)
_FULL = (*_SHORT, "author", "gated", "disabled", "lastModified", "sha", "siblings")

EXPANDABLE = frozenset(
    {*_FULL, "baseModels", "cardData", "config", "gguf", "inference", "safetensors", "transformersInfo", "usedStorage"}
) - {"_id", "id", "modelId"}
"""Properties that `expand` may name."""


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
    """The named properties of a repo that it has."""
    return {name: value for name in names if (value := repo.property(name)) is not None}


def list_models(repos: Iterable[HubRepo], request: Request, endpoint: str, page_size: int) -> Response:
    """One page of the repos that a request asks for and its user may see.

    Parameters: `author`; `search` in ids, ignoring case; `filter`, any number of them, each a tag, library or task
    that the repo must have; `sort`, by `createdAt` unless given; `direction`, largest first unless it is 1; `limit`,
    rows on a page; `expand`, or else `full`, `cardData` and `config`; `cursor`.

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
    names = _columns(request)

    kind = SORTS[sort]

    def key(repo: HubRepo) -> Key:
        value = repo.listing[sort]
        return value if isinstance(value, kind) else kind(), repo.id

    chosen, last = cut(
        (repo for repo in repos if repo.visible_to(request.token) and _matches(repo, request)),
        key,
        limit=min(int(limit), page_size),
        after=cursor_key(request, kind),
        descending=direction == "-1",
    )
    return page_response(request, endpoint, [properties(repo, names) for repo in chosen], last)


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
    labels = {*repo.listing["tags"], repo.listing.get("library_name"), repo.listing.get("pipeline_tag")}
    return all(part in labels for name, value in request.query if name == "filter" for part in value.split(","))
