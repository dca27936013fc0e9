"""Tasks of a crawl, made from local folders, from names of hub repos, and from a hub's listing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from provenance.crawler.engine.options import HubListing
from provenance.crawler.local.folders import LocalRepo, find_local, listed_checkpoints
from provenance.schemas.enums import Source
from provenance.schemas.errors import CheckpointError, SourceError
from provenance.schemas.identity import REPO
from provenance.schemas.protocols import TensorReader
from provenance.schemas.records import ListedCheckpoint

if TYPE_CHECKING:
    from provenance.crawler.hub.listing import HubRepo
    from provenance.crawler.hub.transport import HubTransport

_REPO = re.compile(rf"(?P<repo>{REPO})(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True)
class CrawlTask:
    """One thing to crawl: a whole repo of a hub, or one checkpoint of a local folder.

    Attributes:
        repo_id: its id before the task is done; a renamed repo gets another one.
        revision: its commit, null if it is known only once the task is done.
        source: hub or local.
        named: the user named it or a folder that contains it; otherwise it comes from a listing or earlier failure.
        given: the source that it belongs to, as the user gave it; null for one of a listing or an earlier failure.
        checkpoints: lists its checkpoints. May raise `CheckpointError`.
        open: opens one of them for reading, and may complete its listed data (sizes, digests). May raise
            `CheckpointError`.
    """

    repo_id: str
    revision: str | None
    source: Source
    named: bool
    checkpoints: Callable[[], Sequence[ListedCheckpoint]]
    open: Callable[[ListedCheckpoint], AbstractContextManager[tuple[ListedCheckpoint, TensorReader]]]
    given: str | None = None


@dataclass(frozen=True, slots=True)
class CrawlRequest:
    """What a crawl is to read.

    Attributes:
        local: tasks of the local sources.
        names: repos of a hub, `owner/name[@revision]`.
        listing: which part of a hub's listing, null for none.
        described: the whole request, in words.
    """

    local: tuple[CrawlTask, ...]
    names: tuple[str, ...]
    listing: HubListing | None
    described: str


def read_request(sources: Iterable[str | os.PathLike[str]], listing: HubListing | None = None) -> CrawlRequest:
    """Parse the sources of a crawl, and search the local ones.

    Raises:
        SourceError: a source cannot be used.
    """
    paths = [(str(source), local_source(source)) for source in sources]
    local = tuple(replace(task, given=name) for name, path in paths if path is not None for task in local_tasks(path))
    names = tuple(name for name, path in paths if path is None)
    described = [*(name for name, _ in paths), *([str(listing)] if listing else [])]
    return CrawlRequest(local, names, listing, " ".join(described))


def local_source(source: str | os.PathLike[str]) -> Path | None:
    """A crawl source as a local path; null for the id of a repo on a hub.

    A local path exists, or starts with `./`, `../`, `/` or `~`.

    Raises:
        SourceError: the path does not exist, or the text is neither a path nor a repo id.
    """
    text = str(source)
    path = Path(text).expanduser()
    if path.exists():
        return path
    if isinstance(source, str) and not text.startswith((".", "/", "~")) and _REPO.fullmatch(text):
        return None
    raise SourceError(
        f"{text}: no such folder; local sources are folders, .safetensors or .gguf files, others owner/name"
    )


def local_tasks(source: Path) -> Iterator[CrawlTask]:
    """Every checkpoint of a local source, broken ones included."""
    for repo in find_local(source):
        opened = partial(_open_local, repo)
        try:
            for listed in listed_checkpoints(repo):
                yield CrawlTask(repo.repo_id, repo.revision, Source.LOCAL, True, partial(list, [listed]), opened)
        except CheckpointError as error:
            yield CrawlTask(repo.repo_id, repo.revision, Source.LOCAL, True, partial(_fail, error), opened)


def named_tasks(transport: HubTransport, names: Iterable[str], *, named: bool = True) -> Iterator[CrawlTask]:
    """Repos of a hub by name, `owner/name[@revision]`; `named` says whether the user named them.

    Raises:
        SourceError: a name is not a repo id.
    """
    for name in names:
        match = _REPO.fullmatch(name)
        if match is None:
            raise SourceError(f"{name}: neither a folder nor a repo id (owner/name[@revision])")
        checkpoints = partial(_named_checkpoints, transport, match["repo"], match["revision"])
        given = name if named else None
        yield CrawlTask(match["repo"], None, Source.HUB, named, checkpoints, partial(_open_hub, transport), given)


def listed_tasks(transport: HubTransport, listing: HubListing) -> Iterator[CrawlTask]:
    """Repos of a hub as its listing gives them, page after page."""
    from provenance.crawler.hub.listing import list_hub

    for repo in list_hub(
        transport,
        author=listing.author,
        search=listing.search,
        filters=listing.filters,
        sort=listing.sort,
        limit=listing.limit,
        since=listing.since,
    ):
        checkpoints = partial(_hub_checkpoints, transport, repo)
        yield CrawlTask(repo.repo_id, repo.revision, Source.HUB, False, checkpoints, partial(_open_hub, transport))


def _named_checkpoints(transport: HubTransport, repo_id: str, revision: str | None) -> Sequence[ListedCheckpoint]:
    from provenance.crawler.hub.listing import named

    return _hub_checkpoints(transport, named(transport, repo_id, revision))


def _hub_checkpoints(transport: HubTransport, repo: HubRepo) -> Sequence[ListedCheckpoint]:
    from provenance.crawler.hub.listing import hub_checkpoints

    return hub_checkpoints(repo, transport)


def _fail(error: CheckpointError) -> Sequence[ListedCheckpoint]:
    raise error


@contextmanager
def _open_hub(transport: HubTransport, listed: ListedCheckpoint) -> Iterator[tuple[ListedCheckpoint, TensorReader]]:
    from provenance.crawler.hub.reader import HubReader

    reader = HubReader(transport, listed.identity.repo_id, listed.commit or "", listed.files)
    yield reader.complete(listed), reader


@contextmanager
def _open_local(repo: LocalRepo, listed: ListedCheckpoint) -> Iterator[tuple[ListedCheckpoint, TensorReader]]:
    with repo.reader() as reader:
        yield listed, reader
