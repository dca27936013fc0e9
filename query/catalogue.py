"""The catalogue: all checkpoints that a query searches, indexed or not, at one point in time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from provenance.indexer.dossier import Dossier
from provenance.indexer.dossier_meta import DossierMeta
from provenance.indexer.generation import Generation, open_generation
from provenance.query.candidates import newest
from provenance.query.evidence.pair import Subject
from provenance.query.identity import same_weights
from provenance.query.names import StoredNames
from provenance.query.statistics.background import Background
from provenance.schemas.errors import IndexMissingError
from provenance.schemas.naming import repo_key, short_key

if TYPE_CHECKING:
    from provenance.indexer.store.store import Store

MAX_SUBJECTS = 256
"""Maximum number of checkpoints with a cached grid."""


class Catalogue:
    """The latest checkpoints of a store.

    Attributes:
        generation: the live index without repos forgotten since it was built; null if there is no index yet.
        unindexed: the latest checkpoints that are not in it.
        names: which stored repo a name means.
    """

    def __init__(
        self,
        generation: Generation | None = None,
        unindexed: Sequence[Dossier] = (),
        background: Background | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        """Set up.

        Args:
            generation: the live index.
            unindexed: checkpoints that are not in the index.
            background: scores of unrelated pairs; by default those of the index, else the bundled ones.
            renamed: new ids of repos by the key of the old one; by default as of the index.
        """
        self.generation, self.unindexed = generation, unindexed
        known = generation.info["renamed"] if generation and renamed is None else renamed or {}
        self.names = StoredNames(self._repos_with, known)
        self._background = background
        self._subjects: dict[DossierMeta, Subject] = {}

    @property
    def n_checkpoints(self) -> int:
        """Number of checkpoints that a query searches."""
        return (len(self.generation) if self.generation else 0) + len(self.unindexed)

    @property
    def has_products(self) -> bool:
        """Whether the products of any checkpoint are known."""
        indexed = self.generation is not None and self.generation.dossiers.has_products
        return indexed or any(dossier.products is not None for dossier in self.unindexed)

    @property
    def background(self) -> Background:
        """Scores of unrelated pairs."""
        if self._background is None:
            self._background = Background(self.generation.background() if self.generation else {})
        return self._background

    def dossiers(self) -> Sequence[Dossier]:
        """Every latest checkpoint, indexed or not."""
        generation = self.generation
        indexed = [generation.dossiers[row] for row in generation.rows()] if generation else []
        return newest([*self.unindexed, *indexed])

    def find(self, name: str) -> Dossier | None:
        """The checkpoint with a checkpoint id or repo id, in any spelling that is clear; null if there is none."""
        return self._named(name) or ((stored := self.names.stored(name)) and self._named(stored)) or None

    def same_weights(self, model: Dossier) -> list[Dossier]:
        """The checkpoints with the weights of a model."""
        keys = [("content", str(model.meta.content_digest)), *(("sha256", digest) for digest in model.meta.sha256)]
        found = newest([*self.unindexed, *(dossier for key in keys for dossier in self._indexed(*key))])
        return [dossier for dossier in found if same_weights(model, dossier)]

    def _named(self, name: str) -> Dossier | None:
        # Unindexed checkpoints are newer than indexed ones of the same repo.
        for dossier in self.unindexed:
            if name in (dossier.repo_id, dossier.checkpoint_id):
                return dossier
        indexed = self._indexed("id", name) or self._indexed("repo", name)
        return min(indexed, key=lambda dossier: dossier.checkpoint_id, default=None)

    def revision(self, repo_id: str, revision: str) -> list[Dossier]:
        """The checkpoints of one revision of a repo."""
        unindexed = [dossier for dossier in self.unindexed if dossier.repo_id == repo_id]
        return [d for d in (*unindexed, *self._indexed("repo", repo_id)) if d.meta.revision == revision]

    def subject(self, dossier: Dossier) -> Subject:
        """A checkpoint prepared for comparison, its declared parents by their stored ids.

        Up to `MAX_SUBJECTS` are cached.
        """
        key = dossier.meta
        if key not in self._subjects:
            if len(self._subjects) >= MAX_SUBJECTS:
                self._subjects.clear()
            self._subjects[key] = Subject(self.names.joined(dossier))
        return self._subjects[key]

    def _repos_with(self, kind: str, key: str) -> Iterator[str]:
        spell = repo_key if kind == "alias" else short_key
        found = (*self.unindexed, *self._indexed(kind, key))
        return (dossier.repo_id for dossier in found if spell(dossier.repo_id) == key)

    def _indexed(self, kind: str, name: str) -> list[Dossier]:
        generation = self.generation
        return [generation.dossiers[row] for row in generation.find(kind, name)] if generation else []


def open_catalogue(store: Store) -> Catalogue:
    """The current catalogue of a store.

    Raises:
        StoreCorruptError: its index is damaged.
    """
    manifest = store.manifest()
    generation = open_live(store)
    if generation is not None and all(map(generation.covers, manifest.parts["checkpoints"])):
        return Catalogue(generation)
    # Imported here: a query of an indexed store reads no tables.
    from provenance.indexer.build import load_dossiers, renamed_repos, unindexed_fingerprints

    ids = unindexed_fingerprints(store, manifest, generation)
    return Catalogue(
        generation, load_dossiers(store, manifest, ids) if ids else (), renamed=renamed_repos(store, manifest)
    )


def open_live(store: Store) -> Generation | None:
    """The live index of a store without repos forgotten since it was built; null if there is no index yet.

    Raises:
        StoreCorruptError: it is damaged.
    """
    try:
        return open_generation(store.index_path).without(store.tombstones())
    except IndexMissingError:
        return None
