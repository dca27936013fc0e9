"""What there is to visit: checkpoints in local folders, and repos of a hub by name or by listing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from provenance.crawler.local.folders import LocalRepo, find_local, listed_checkpoints
from provenance.crawler.local.reader import LocalReader
from provenance.schemas.errors import CheckpointError, SourceError
from provenance.schemas.protocols import TensorReader
from provenance.schemas.records import ListedCheckpoint
from provenance.settings import HubListing

if TYPE_CHECKING:
    from provenance.crawler.hub.listing import HubRepo
    from provenance.crawler.hub.transport import HubTransport

_REPO = re.compile(r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True)
class Found:
    """One checkpoint, and a way to read it. Opening may complete what was listed (sizes, digests)."""

    listed: ListedCheckpoint
    open: Callable[[], AbstractContextManager[tuple[ListedCheckpoint, TensorReader]]]


@dataclass(frozen=True, slots=True)
class Visit:
    """One thing to visit.

    Attributes:
        repo_id: as far as known before the visit.
        revision: its commit, null where only the visit will tell.
        hub: a whole repo of a hub; else one checkpoint of a local folder.
        listed: a hub's listing named it, not the user.
        load: what is to be read there. May raise `CheckpointError`.
    """

    repo_id: str
    revision: str | None
    hub: bool
    load: Callable[[], list[Found]]
    listed: bool = False


def local_source(source: object) -> Path | None:
    """A crawl source as a local path; null for the id of a repo on a hub.

    Local paths are written with `./`, `../`, `/` or `~`, or exist.

    Raises:
        SourceError: a path that does not exist, or neither a path nor a repo id.
    """
    text = str(source)
    path = Path(text).expanduser()
    if path.exists():
        return path
    if isinstance(source, str) and not text.startswith((".", "/", "~")) and _REPO.fullmatch(text):
        return None
    raise SourceError(f"{text}: no such folder; local sources are folders or .safetensors files, others owner/name")


def local_visits(source: Path) -> Iterator[Visit]:
    """Every checkpoint of a local source, broken ones included."""
    for repo in find_local(source):
        try:
            for listed in listed_checkpoints(repo):
                found = Found(listed, partial(_open_local, repo, listed))
                yield Visit(repo.repo_id, repo.revision, False, partial(list, [found]))
        except CheckpointError as error:
            yield Visit(repo.repo_id, repo.revision, False, partial(_fail, error))


def named_visits(transport: HubTransport, sources: Iterable[str]) -> Iterator[Visit]:
    """Repos of a hub by name, `owner/name[@revision]`."""
    for source in sources:
        match = _REPO.fullmatch(source)
        if match is None:
            raise SourceError(f"{source}: neither a folder nor a repo id (owner/name[@revision])")
        yield Visit(match["repo"], None, True, partial(_load_named, transport, match["repo"], match["revision"]))


def listed_visits(transport: HubTransport, listing: HubListing) -> Iterator[Visit]:
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
        yield Visit(repo.repo_id, repo.revision, True, partial(_load_repo, repo, transport), listed=True)


def _load_named(transport: HubTransport, repo_id: str, revision: str | None) -> list[Found]:
    from provenance.crawler.hub.listing import named

    return _load_repo(named(transport, repo_id, revision), transport)


def _load_repo(repo: HubRepo, transport: HubTransport) -> list[Found]:
    from provenance.crawler.hub.listing import hub_checkpoints

    return [Found(listed, partial(_open_hub, repo, transport, listed)) for listed in hub_checkpoints(repo, transport)]


@contextmanager
def _open_hub(
    repo: HubRepo, transport: HubTransport, listed: ListedCheckpoint
) -> Iterator[tuple[ListedCheckpoint, TensorReader]]:
    reader = repo.reader(transport)
    yield reader.complete(listed), reader


@contextmanager
def _open_local(repo: LocalRepo, listed: ListedCheckpoint) -> Iterator[tuple[ListedCheckpoint, TensorReader]]:
    with LocalReader(repo.folder, repo.root) as reader:
        yield listed, reader


def _fail(error: CheckpointError) -> list[Found]:
    raise error
