"""The repos of the Hub: one by name, or page after page of its listing.

A listing names the files of a repo but not their sizes. The sizes come with the files themselves, which saves one API
request for each repo.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from urllib.parse import quote

from provenance.crawler.hub.answers import RefusedError, ResponseError
from provenance.crawler.hub.api import BadRequestError, ask
from provenance.crawler.hub.reader import HubReader
from provenance.crawler.hub.transport import HubTransport
from provenance.crawler.metadata import commit_from_listing, files_from_listing, metadata_from_listing
from provenance.crawler.selection import select_weights
from provenance.crawler.shards import read_index
from provenance.schemas.enums import Reason, Source, Stage
from provenance.schemas.errors import IdentityError, WeightsError
from provenance.schemas.identity import CheckpointId
from provenance.schemas.records import ListedCheckpoint, RepoFile, RepoMetadata

log = logging.getLogger("provenance.crawl")

PAGE = 1000
"""Models per page, the Hub's maximum."""

_EXPAND = (
    "author",
    "cardData",
    "config",
    "createdAt",
    "disabled",
    "downloads",
    "gated",
    "lastModified",
    "likes",
    "pipeline_tag",
    "private",
    "sha",
    "siblings",
    "tags",
)
_BASE_MODELS = "baseModels"  # not every version of the Hub includes it in a listing
_PAGE_WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 240.0, 240.0)
"""Seconds before each retry of a page, twelve minutes in total: a short outage must not end a listing of hours."""

_OUT_OF_ORDER = 100
"""A listing sorted by time of change ends after so many older repos in a row; fewer may be out of order."""

_BARREN = 20
"""A listing is broken off after so many pages in a row without a new repo."""

_REMEMBERED = 10 * PAGE
_LONGEST_ID = 200


@dataclass(frozen=True, slots=True)
class HubRepo:
    """One repo of the Hub at one commit.

    Attributes:
        repo_id: its final id, after any renaming.
        revision: the full commit hash, null if the Hub gave none.
        metadata: the Hub's metadata.
        paths: paths of all its files.
        files: the files of known size; empty for a repo from a listing.
        config: the Hub's extract of its config.json.
        fault: why it cannot be fingerprinted, as reason and message, if that is already known.
    """

    repo_id: str
    revision: str | None
    metadata: RepoMetadata
    paths: tuple[str, ...]
    files: tuple[RepoFile, ...]
    fault: tuple[Reason, str] | None = None
    config: Mapping[str, Any] | None = None

    def reader(self, transport: HubTransport) -> HubReader:
        """A reader of its files."""
        return HubReader(transport, self.repo_id, self.revision or "", self.files)


def list_hub(
    transport: HubTransport,
    *,
    author: str | None = None,
    search: str | None = None,
    filters: Sequence[str] = (),
    sort: str | None = None,
    limit: int | None = None,
    since: datetime | None = None,
) -> Iterator[HubRepo]:
    """The repos that the Hub lists; a page is fetched when the previous one is used up.

    A repo that moves within the listing while it is read is yielded once, unless it appears again after ten thousand
    others: the memory of seen repos is bounded.

    Args:
        author: only repos of this user or organisation.
        search: only repos with this text in the id.
        filters: only repos with all of these tags.
        sort: the Hub's name of a field, largest value first; null for `createdAt`, which never changes during a crawl,
            or with `since` for `lastModified`.
        limit: maximum number of repos.
        since: only repos changed at this time or later; timezone-aware.

    Raises:
        TransportError: a page could not be fetched; stage `listing`.
        SourceError: offline mode is on.
    """
    sort = sort or ("lastModified" if since else "createdAt")
    query = {
        "author": author,
        "search": search,
        "filter": list(filters),
        "sort": sort,
        "limit": min(limit or PAGE, PAGE),
    }
    repos = _listed_repos(transport, {name: value for name, value in query.items() if value})
    return islice(_changed_since(repos, since, in_order=sort == "lastModified"), limit)


def named(transport: HubTransport, repo_id: str, revision: str | None = None) -> HubRepo:
    """One repo with the sizes and digests of its files. Sends one request.

    Args:
        revision: a branch, tag or commit; null for the main branch.

    Raises:
        RefusedError: there is no such repo or revision, or this login may not see it; stage `listing`.
        TransportError: no usable answer; stage `listing`.
        SourceError: offline mode is on.
    """
    what = repo_id if revision is None else f"{repo_id} at {revision}"
    try:
        CheckpointId(repo_id, "0")
    except IdentityError as error:
        raise RefusedError(f"{error}; check its name", reason=Reason.NO_REPO, stage=Stage.LISTING) from error
    path = f"api/models/{quote(repo_id)}"
    if revision is not None:
        path += f"/revision/{quote(revision, safe='')}"
    listed, _ = ask(transport, path, {"blobs": "true"}, what=what)
    repo = _repo(listed)
    if repo is None:
        raise ResponseError(f"{what}: the Hub's answer is not the description of a repo", stage=Stage.LISTING)
    return repo


def hub_checkpoints(repo: HubRepo, transport: HubTransport) -> list[ListedCheckpoint]:
    """The checkpoints of a repo. Of its files only a shard index is read, if there is one.

    `files` of each checkpoint holds the files of known size; `HubReader.complete` adds the others.

    Raises:
        CheckpointError: as `select_weights`, the repo has a fault, or a shard index could not be fetched.
    """
    if repo.fault is not None:
        reason, text = repo.fault
        raise WeightsError(f"{repo.repo_id}: {text}", stage=Stage.LISTING, reason=reason)
    reader = repo.reader(transport)
    files = {file.path: file for file in repo.files}
    checkpoints = []
    for selection in select_weights(repo.paths, lambda path: read_index(reader, path)):
        try:
            identity = CheckpointId(repo.repo_id, repo.revision or "", selection.subfolder, selection.variant)
        except IdentityError as error:
            raise WeightsError(f"{error}; it cannot be named in the store", stage=Stage.LISTING) from error
        paths = (*selection.weight_files, *([selection.config_file] if selection.config_file else []))
        checkpoints.append(
            ListedCheckpoint(
                identity=identity,
                source=Source.HUB,
                weight_files=selection.weight_files,
                files=tuple(files[path] for path in paths if path in files),
                config_file=selection.config_file,
                metadata=repo.metadata,
                config=repo.config,
                commit=repo.revision,
                index_file=selection.index_file,
            )
        )
    return checkpoints


def _listed_repos(transport: HubTransport, query: Mapping[str, Any]) -> Iterator[HubRepo]:
    """The repos of all pages, without repeats, which occur if the sort field of a repo changes during the crawl."""
    fields = [*_EXPAND, _BASE_MODELS]
    page: str | None = "api/models"
    params: dict[str, Any] | None = {**query, "expand": fields}
    seen: OrderedDict[str, None] = OrderedDict()  # the newest last
    pages: set[int] = set()
    barren = 0  # pages in a row without a new repo
    while page is not None:
        if params is None and hash(page) in pages:
            raise ResponseError("the Hub's listing leads in a circle: a page comes again", stage=Stage.LISTING)
        pages.add(hash(page))
        try:
            listed, following = ask(transport, page, params, what="the Hub's listing", waits=_PAGE_WAITS)
        except BadRequestError:
            if _BASE_MODELS not in fields or params is None:
                raise
            fields.remove(_BASE_MODELS)
            continue
        if not isinstance(listed, list):
            raise ResponseError("the Hub's listing: a page is not a list of repos", stage=Stage.LISTING)
        strange, new = 0, False
        for repo in map(_repo, listed):
            if repo is None:
                strange += 1
                if strange % PAGE == 0:
                    transport.check_stop()  # a page may hold millions of them
            elif repo.repo_id not in seen:
                seen[repo.repo_id] = None
                if len(seen) > _REMEMBERED:
                    seen.popitem(last=False)
                new = True
                yield repo
        if strange:
            log.warning("a page of the Hub's listing holds %s things that are not repos; passed over", f"{strange:,}")
        barren = 0 if new else barren + 1
        if barren == _BARREN:
            text = f"the Hub's listing: {_BARREN} pages in a row without a new repo; it may have no end"
            raise ResponseError(text, stage=Stage.LISTING)
        page, params = following, None  # the next page's address contains the whole query


def _changed_since(repos: Iterator[HubRepo], since: datetime | None, *, in_order: bool) -> Iterator[HubRepo]:
    """The repos changed since; if sorted, stops after `_OUT_OF_ORDER` older ones: a lagging listing misplaces some."""
    older = 0
    for repo in repos:
        changed = repo.metadata.last_modified
        if since is None or changed is None or changed >= since:
            older = 0
            yield repo
        else:
            older += 1
            if in_order and older >= _OUT_OF_ORDER:
                return


def _repo(listed: object) -> HubRepo | None:
    """The repo that a listed JSON object describes; null for anything else."""
    if not isinstance(listed, dict) or not isinstance(repo_id := listed.get("id"), str) or len(repo_id) > _LONGEST_ID:
        return None
    try:
        CheckpointId(repo_id, "0")
    except IdentityError:
        return None
    siblings = value if isinstance(value := listed.get("siblings"), list) else None
    commit = commit_from_listing(listed)
    fault = None
    if listed.get("disabled") is True:
        fault = (Reason.DISABLED, "the Hub has disabled access to this repo")
    elif commit is None:
        fault = (Reason.NO_REVISION, "the Hub names no commit of it; it may be empty")
    elif not siblings:
        fault = (Reason.NO_FILES, "the Hub lists no files of it; crawl it by name")
    names = (sibling.get("rfilename") for sibling in siblings or [] if isinstance(sibling, dict))
    paths = tuple(name for name in names if isinstance(name, str))
    config = value if isinstance(value := listed.get("config"), dict) else None
    return HubRepo(repo_id, commit, metadata_from_listing(listed), paths, files_from_listing(listed), fault, config)
