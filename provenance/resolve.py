"""Models that a user names and that are not stored, or are to be saved: fingerprinted on demand, each once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from provenance.names import hub_name, short_id, similar_repos
from provenance.schemas.enums import Reason, Status
from provenance.schemas.errors import CheckpointError, SourceError, UnknownModelError
from provenance.schemas.identity import is_repo_id

if TYPE_CHECKING:
    from provenance.crawler.engine.options import CrawlOptions
    from provenance.crawler.hub.transport import HubTransport
    from provenance.indexer.dossier import Dossier
    from provenance.indexer.store.store import Store
    from provenance.query.catalogue import Catalogue
    from provenance.schemas.records import Fingerprint, Outcome


def is_path(model: str) -> bool:
    """Whether a model is named by its folder, and not by an id of the store."""
    return model.startswith(("./", "../", "/", "~")) or model in (".", "..")


def find(model: str, options: CrawlOptions | None, catalogue: Catalogue, store: Store, *, fetch: bool) -> Dossier:
    """The dossier of a model: stored, or fingerprinted now; see `Database.find`.

    Raises:
        UnknownModelError, CheckpointError: as `fingerprinted`.
    """
    from provenance.query.identity import identified

    model = hub_name(model)
    known = None if is_path(model) else catalogue.find(short_id(model))
    if known is None:
        found = _stated(fingerprinted(model, options, store, fetch=fetch), options)
        known = identified(found, catalogue.same_weights(found), mode=options.mode if options else None)
    return _stated(known, options)


def fingerprinted(model: str, options: CrawlOptions | None, store: Store, *, fetch: bool) -> Dossier:
    """The dossier of a model that is not stored: fingerprinted now, from a folder or the hub.

    Args:
        model: a folder, or the id of a repo.
        options: how it is read; by default as in `provenance crawl`.
        store: the store that does not have it, for the message.
        fetch: whether the hub may be asked.

    Raises:
        UnknownModelError: it is neither a folder with one checkpoint, nor a repo of the hub.
        CheckpointError: the folder's checkpoint cannot be fingerprinted.
    """
    if is_path(model) or Path(model).is_dir():
        return _from_folder(model, options)
    missing = f"{model}: not in the store ({store.path})"
    is_id = is_repo_id(model.partition("@")[0])
    if not fetch:
        hint = f"; `provenance crawl {model}` would put it there" if is_id else ", and no local folder"
        raise UnknownModelError(f"{missing}{similar_repos(store, model) or hint}")
    if is_id:
        return _from_hub(model, options, store, missing)
    raise UnknownModelError(f"{missing}, no local folder, and no repo id (owner/name){similar_repos(store, model)}")


class StoredByCrawl:
    """A `Progress` that collects what a crawl stored, or found stored already, by repo and revision."""

    def __init__(self) -> None:
        self._revisions: list[tuple[str, str]] = []

    def found(self, total: int | None) -> None:
        """Nothing to note."""

    def visited(self, outcome: Outcome) -> None:
        """Note a checkpoint that is now in the store."""
        if outcome.revision is not None and (outcome.status == Status.DONE or outcome.reason == Reason.KNOWN):
            self._revisions.append((outcome.repo_id, outcome.revision))

    def passed(self, listed: int) -> None:
        """Nothing to note."""

    def budgets(self, transport: HubTransport) -> None:
        """Nothing to note."""

    def dossier(self, catalogue: Catalogue, mode: str | None) -> Dossier | None:
        """The only checkpoint of the crawl.

        Null if there was not exactly one, or if the store prefers another revision of it or a fingerprint in another
        mode than `mode`.
        """
        found = [dossier for revision in set(self._revisions) for dossier in catalogue.revision(*revision)]
        return found[0] if len(found) == 1 and mode in (None, found[0].meta.mode) else None


def _stated(model: Dossier, options: CrawlOptions | None) -> Dossier:
    """A model with the date and the license that the options state."""
    from provenance.query.identity import stated

    created = options.created_at if options else None
    return stated(model, created.isoformat() if created else None, options.license if options else None)


def _from_folder(path: str, options: CrawlOptions | None) -> Dossier:
    from provenance.ingest import fingerprint_local

    if not Path(path).exists():
        raise UnknownModelError(f"{path}: no such folder")
    return _only(path, fingerprint_local(Path(path), options))


def _from_hub(repo: str, options: CrawlOptions | None, store: Store, missing: str) -> Dossier:
    from provenance.ingest import fingerprint_named

    try:
        found = fingerprint_named(repo, options)
    except (CheckpointError, SourceError) as error:
        # The chain below is of HTTP libraries; what they found is in the message.
        raise UnknownModelError(
            f"{missing}, no folder, and not to be had from the hub ({error}){similar_repos(store, repo)}"
        ) from None
    return _only(repo, found)


def _only(model: str, found: Sequence[Fingerprint]) -> Dossier:
    from provenance.indexer.dossier import dossier_of

    if len(found) != 1:
        names = ", ".join(f.checkpoint.checkpoint_id for f in found[:5])
        raise UnknownModelError(f"{model}: holds {len(found)} checkpoints, name one of them ({names} …)")
    return dossier_of(found[0])
