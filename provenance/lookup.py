"""The latest checkpoints of a store, indexed or not; and models by name: stored, or fingerprinted on the spot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from provenance.indexer.store.store import Store
from provenance.schemas.errors import CheckpointError, IndexMissingError, SourceError, UnknownModelError

if TYPE_CHECKING:
    from provenance.crawler.engine.options import CrawlOptions
    from provenance.indexer.dossier import Dossier
    from provenance.indexer.generation import Generation
    from provenance.query.evidence.pair import Subject
    from provenance.query.statistics.background import Background
    from provenance.schemas.records import Fingerprint

MAX_SUBJECTS = 256
REPO = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


class Lookup:
    """What the store and its index hold, as of the first question after the last `forget`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._generation: Generation | None = None
        self._fresh: list[Dossier] | None = None
        self._subjects: dict[str, Subject] = {}

    def refresh(self) -> None:
        """Let go of the index and of all that was read: the next question is about the store as it is then."""
        self._generation = self._fresh = None
        self._subjects.clear()

    def find(self, model: str, options: CrawlOptions | None = None) -> Dossier:
        """The dossier of a model: stored (checkpoint id or repo id), or fingerprinted now from a folder or the hub.

        Raises:
            UnknownModelError: the model is neither stored, nor a folder with a checkpoint, nor a repo of the hub.
        """
        if _is_path(model):
            return self._fingerprinted(model, options)
        # What was crawled since is newer than what the index may hold of the same repo.
        for dossier in self.unindexed():
            if model in (dossier.repo_id, dossier.checkpoint_id):
                return dossier
        generation = self.generation()
        if generation is not None:
            for kind in ("id", "repo"):
                rows = generation.find(kind, model)
                if rows:
                    return min((generation.dossiers[row] for row in rows), key=lambda d: d.checkpoint_id)
        if Path(model).is_dir():
            return self._fingerprinted(model, options)
        if REPO.fullmatch(model):
            return self._from_hub(model, options)
        raise UnknownModelError(
            f"{model}: not in the store ({self.store.path}), no local folder, and no repo id (owner/name)"
        )

    def dossiers(self) -> Sequence[Dossier]:
        """Every latest checkpoint, indexed or not."""
        from provenance.query.candidates import newest

        generation = self.generation()
        indexed = [generation.dossiers[row] for row in generation.rows()] if generation else []
        return newest([*self.unindexed(), *indexed])

    def generation(self) -> Generation | None:
        """The live generation of the index, without what was forgotten since it was built; null before the first."""
        from provenance.indexer.generation import open_generation

        if self._generation is None:
            try:
                self._generation = open_generation(self.store.index_path).without(self.store.tombstones())
            except IndexMissingError:
                return None
        return self._generation

    def unindexed(self) -> list[Dossier]:
        """The latest checkpoints that the index does not hold."""
        if self._fresh is None:
            manifest = self.store.manifest()
            generation = self.generation()
            if generation is not None and all(p.path in generation.parts for p in manifest.parts["checkpoints"]):
                self._fresh = []
            else:
                from provenance.indexer.build import load_dossiers, unindexed_fingerprints

                ids = unindexed_fingerprints(self.store, manifest, generation)
                self._fresh = load_dossiers(self.store, manifest, ids) if ids else []
        return self._fresh

    def background(self) -> Background:
        """Scores of unrelated pairs: those of the index, or the bundled ones."""
        from provenance.query.statistics.background import Background

        generation = self.generation()
        return Background(generation.background() if generation else {})

    def subject(self, dossier: Dossier) -> Subject:
        """The checkpoint laid out for comparison; the last few hundred are remembered."""
        from provenance.query.evidence.pair import Subject

        key = str(dossier.meta["fingerprint_id"] or dossier.checkpoint_id)
        if key not in self._subjects:
            if len(self._subjects) >= MAX_SUBJECTS:
                self._subjects.clear()
            self._subjects[key] = Subject(dossier)
        return self._subjects[key]

    def _fingerprinted(self, path: str, options: CrawlOptions | None) -> Dossier:
        from provenance.ingest import fingerprint_local

        if not Path(path).exists():
            raise UnknownModelError(f"{path}: no such folder")
        return _only(path, fingerprint_local(Path(path), options))

    def _from_hub(self, repo: str, options: CrawlOptions | None) -> Dossier:
        from provenance.ingest import fingerprint_named

        try:
            found = fingerprint_named(repo, options)
        except (CheckpointError, SourceError) as error:
            raise UnknownModelError(
                f"{repo}: not in the store ({self.store.path}), no folder, and not to be had from the hub ({error})"
            ) from error
        return _only(repo, found)


def _only(model: str, found: Sequence[Fingerprint]) -> Dossier:
    from provenance.indexer.dossier import dossier_of

    if len(found) != 1:
        names = ", ".join(f.checkpoint.checkpoint_id for f in found[:5])
        raise UnknownModelError(f"{model}: holds {len(found)} checkpoints, name one of them ({names} …)")
    return dossier_of(found[0])


def _is_path(model: str) -> bool:
    return model.startswith(("./", "../", "/", "~")) or model in (".", "..")
