"""The facade: one object with everything that can be done with a store. The command line calls nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provenance import maintenance as upkeep
from provenance.indexer.store.store import Store
from provenance.lookup import Lookup
from provenance.schemas.errors import IndexMissingError
from provenance.settings import store_path

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from provenance.crawler.engine.engine import Progress
    from provenance.crawler.engine.options import CrawlOptions, HubListing
    from provenance.crawler.engine.summary import CrawlSummary
    from provenance.indexer.dossier import Dossier
    from provenance.indexer.store.transfer import Taken
    from provenance.query.engine import Answer
    from provenance.query.evidence.pair import Pair


def open_database(store: str | os.PathLike[str] | None = None, *, create: bool = False) -> Database:
    """Open a store.

    Args:
        store: its folder; by default `PROVENANCE_STORE`, else `./provenance-store`.
        create: make it when it does not exist.

    Raises:
        StoreError: there is no store there, or one that this version cannot read.
    """
    path = store_path(store)
    return Database(Store.create(path) if create else Store.open(path))


class Database:
    """A store of fingerprints, with its index. Use as a context manager or call `close`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lookup = Lookup(store)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the index; the store itself holds nothing open."""
        self._lookup.refresh()

    def crawl(
        self,
        sources: Iterable[str | os.PathLike[str]],
        options: CrawlOptions | None = None,
        progress: Progress | None = None,
        *,
        listing: HubListing | None = None,
    ) -> CrawlSummary:
        """Crawl local folders and repos of a hub into the store; see `provenance crawl --help`.

        Raises:
            SourceError: a source cannot be used at all.
        """
        from provenance.ingest import crawl

        try:
            return crawl(self.store, sources, options, listing, progress)
        finally:
            self._lookup.refresh()

    def index(self, *, kind: str = "auto", spec: str | None = None) -> Mapping[str, Any]:
        """Build a new generation of the index over all latest checkpoints; returns its figures.

        Raises:
            ProvenanceError: an unknown signature spec.
        """
        from provenance.indexer.build import build_index
        from provenance.indexer.signature import SPEC
        from provenance.query.evidence.calibration import learn_backgrounds

        self._lookup.refresh()
        generation = build_index(self.store, learn_backgrounds, kind=kind, spec=spec or SPEC)
        self.store.write_views()
        return {"generation": generation.name, "checkpoints": len(generation), "spec": generation.info["spec"]}

    def query(
        self,
        model: str,
        *,
        k: int = 10,
        spec: str | None = None,
        min_probability: float = 0.0,
        save: bool = False,
        options: CrawlOptions | None = None,
    ) -> dict[str, Any]:
        """The `k` most suspected parents of a model, as the JSON object of `provenance query`.

        Raises:
            UnknownModelError: the model is neither stored nor a folder with a checkpoint.
            IndexMissingError: the index holds no signatures of this spec.
        """
        if save:
            self.crawl([model], options)
        return self.answer(self.find(model, options), spec=spec, min_probability=min_probability).to_json(k)

    def answer(self, model: Dossier, *, spec: str | None = None, min_probability: float = 0.0) -> Answer:
        """Judge every candidate for a model, best first."""
        from provenance.query.engine import answer

        return answer(
            model,
            self._lookup.generation(),
            self._lookup.unindexed(),
            self._lookup.background(),
            spec=spec,
            min_probability=min_probability,
            subject=self._lookup.subject,
        )

    def find(self, model: str, options: CrawlOptions | None = None) -> Dossier:
        """The dossier of a model: stored (checkpoint id or repo id), or fingerprinted now from a folder or the hub.

        Raises:
            UnknownModelError: the model is neither stored, nor a folder with a checkpoint, nor a repo of the hub.
        """
        return self._lookup.find(model, options)

    def dossiers(self) -> Sequence[Dossier]:
        """Every latest checkpoint, indexed or not."""
        return self._lookup.dossiers()

    def pair(self, a: str, b: str) -> Pair:
        """Two models laid on each other, with all lines of evidence at hand."""
        from provenance.query.evidence.pair import Pair, Subject

        return Pair(Subject(self.find(a)), Subject(self.find(b)), self._lookup.background())

    def compare(self, a: str, b: str) -> dict[str, Any]:
        """Every line of evidence for `b` as a parent of `a`, as the JSON object of `provenance compare`.

        Raises:
            UnknownModelError: one of them is neither stored nor a folder with a checkpoint.
        """
        from provenance.query.compare import compare
        from provenance.query.evidence.pair import Subject

        dossiers = self.dossiers()
        return compare(self.pair(a, b), map(Subject, dossiers), len(dossiers))

    def sql(self) -> duckdb.DuckDBPyConnection:
        """A read-only DuckDB connection over the views of the store as it is now; close it after use."""
        return self.store.connect()

    def status(self) -> dict[str, Any]:
        """Figures of the store, the last runs, the reasons of failures, and model types without roles."""
        from provenance.query.overview import status

        manifest = self.store.manifest()
        with self.sql() as connection:
            found = status(connection)
        found["store"] = {
            "path": str(self.store.path),
            **found["store"],
            "unindexed": len(self._lookup.unindexed()),
            "generation": (generation := self._lookup.generation()) and generation.name,
            "bytes_on_disk": sum(part.bytes for parts in manifest.parts.values() for part in parts),
        }
        return found

    def arrivals(self, since: str) -> pa.Table:
        """Checkpoints fingerprinted since a date or time (ISO 8601, UTC), a run (its id), or the `last` run.

        Raises:
            ProvenanceError: `since` is none of these.
        """
        from provenance.query.overview import arrivals

        with self.sql() as connection:
            return arrivals(connection, since)

    def stream(self, view: str) -> Iterator[pa.Table]:
        """All rows of a view of the store, in pieces of some tens of megabytes; see `indexer.store.stream`."""
        from provenance.indexer.store.stream import stream_view

        return stream_view(self.store, view)

    def mentions(self, repos: Iterable[str]) -> dict[str, int]:
        """How many checkpoints the store has of each of some repos, all of which it knows, if only by a failed visit.

        Raises:
            UnknownModelError: it says nothing of one of them.
        """
        return upkeep.mentions(self.store, repos)

    def forget(self, repos: Iterable[str]) -> dict[str, int]:
        """Take repos out of the store: nothing shows them from now on, and `index` and `compact` drop what is left.

        One that is crawled again by name comes back.

        Returns:
            how many checkpoints of each were taken out.

        Raises:
            UnknownModelError: the store says nothing of one of them; none was taken out.
        """
        try:
            return upkeep.forget(self.store, repos)
        finally:
            self._lookup.refresh()

    def compact(self) -> dict[str, int]:
        """Drop what was forgotten, merge small parts, and remove what nobody uses any more.

        Returns:
            `parts_before` and `parts`; rows of forgotten repos that were dropped, of those `checkpoints`; and how many
            such checkpoints the index still holds.
        """
        try:
            return upkeep.compact(self.store)
        finally:
            self._lookup.refresh()

    def take_over(self, store: str | os.PathLike[str]) -> Taken:
        """Copy the checkpoints of another store that this one does not have, a few hundred a commit.

        Raises:
            StoreFormatError: it was written by a version that makes other fingerprints; nothing was copied.
            StoreBusyError: a crawl, or another import, is writing to this store.
            StoreError: there is no store, or it is this one.
        """
        try:
            return upkeep.take_over(self.store, store)
        finally:
            self._lookup.refresh()

    def verify(self) -> list[str]:
        """What is wrong with the store and its index, one line each; empty when both are sound.

        Reads every byte of every live part and of the live index, in pieces.
        """
        from provenance.indexer.check_index import index_problems

        return [*self.store.verify(), *index_problems(self.store.index_path)]

    def show(self, model: str) -> dict[str, Any]:
        """What is known of a model: metadata, roles, curves.

        Raises:
            UnknownModelError: the model is neither stored nor a folder with a checkpoint.
        """
        from provenance.query.overview import describe

        dossier = self.find(model)
        with self.sql() as connection:
            return describe(dossier, connection)

    def refresh_lineage(self) -> Iterable[str]:
        """Bring the table `lineage` up to date; yields the checkpoint id of each model as it has been examined.

        Examined are checkpoints that never were, and the stored relatives of those: a new arrival may be their parent.
        Everything is written at the end, so that a reader never sees half of it.
        """
        from provenance.query.lineage.refresh import refresh_lineage

        return refresh_lineage(self.store, self.dossiers(), self.answer)

    def lineage(self) -> list[dict[str, Any]]:
        """The rows of the table `lineage`, `evidence` as JSON text.

        Raises:
            IndexMissingError: it was never computed.
        """
        rows: list[dict[str, Any]] = self.store.read("lineage").to_pylist()
        if not rows and not self.store.read("verdicts", ["repo_id"]).num_rows:
            raise IndexMissingError(f"{self.store.path}: no lineage yet; run `provenance lineage --refresh`")
        return rows

    def evaluate(self, truth: str | os.PathLike[str]) -> dict[str, Any]:
        """Measure the answers about every checkpoint of a truth table.

        Raises:
            TruthError: the table cannot be used.
        """
        from provenance.query.evaluation.evaluate import evaluate
        from provenance.query.evaluation.truth import read_truth

        return evaluate(read_truth(Path(truth)), {d.repo_id: d for d in self.dossiers()}, self.answer)
