"""The facade: one object with everything that can be done with a store. Commands call its methods."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from provenance.indexer.store.store import Store
from provenance.maintenance import Maintained
from provenance.names import hub_name
from provenance.resolve import StoredByCrawl, find
from provenance.settings import store_path
from provenance.tables import Tables

if TYPE_CHECKING:
    from provenance.crawler.engine.engine import Progress
    from provenance.crawler.engine.options import CrawlOptions, HubListing
    from provenance.crawler.engine.summary import CrawlSummary
    from provenance.indexer.dossier import Dossier
    from provenance.query.catalogue import Catalogue
    from provenance.query.lineage.refresh import LineageRefresh
    from provenance.schemas.comparison import Comparison
    from provenance.schemas.evaluation import DeclaredEvaluation, Evaluation
    from provenance.schemas.figures import IndexFigures, StoreStatus
    from provenance.schemas.protocols import Advance
    from provenance.schemas.results import Answer, ModelDescription


def open_database(store: str | os.PathLike[str] | None = None, *, create: bool = False) -> Database:
    """Open a store.

    Args:
        store: its folder; by default `PROVENANCE_STORE`, else `./provenance-store`.
        create: create it if it does not exist.

    Raises:
        StoreError: there is no store there, or one that this version cannot read.
    """
    path = store_path(store)
    return Database(Store.create(path) if create else Store.open(path))


class Database(Maintained, Tables):
    """A store of fingerprints, with its index. Use as a context manager or call `close`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._catalogue: Catalogue | None = None

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the index; the store itself keeps no file open."""
        self.refresh()

    def refresh(self) -> None:
        """Drop everything that was read: the next query sees the store as it is then."""
        self._catalogue = None

    @property
    def catalogue(self) -> Catalogue:
        """What queries search: the store as it was at the first query after the last `refresh`.

        Raises:
            StoreCorruptError: the index is damaged.
        """
        from provenance.query.catalogue import open_catalogue

        if self._catalogue is None:
            self._catalogue = open_catalogue(self.store)
        return self._catalogue

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

        named = [hub_name(source) if isinstance(source, str) else source for source in sources]
        try:
            return crawl(self.store, named, options, listing, progress)
        finally:
            self.refresh()

    def index(
        self, *, kind: str = "auto", spec: str | None = None, skip_damaged: bool = False, advance: Advance | None = None
    ) -> IndexFigures:
        """Build a new generation of the index over all latest checkpoints; see `indexer.build.build_index`.

        `advance`, here and in other methods that may take long, is called with how much is done and how much there is.

        Raises:
            ProvenanceError: an unknown signature spec.
        """
        from provenance.indexer.build import build_index
        from provenance.indexer.signature import SPEC
        from provenance.query.evidence.backgrounds import learn_backgrounds
        from provenance.schemas.figures import IndexFigures

        self.refresh()
        generation = build_index(
            self.store, learn_backgrounds, kind=kind, spec=spec or SPEC, skip_damaged=skip_damaged, advance=advance
        )
        self.store.write_views()
        return IndexFigures(generation.name, len(generation), generation.info["spec"])

    def query(
        self,
        model: str,
        *,
        k: int = 10,
        spec: str | None = None,
        min_probability: float = 0.0,
        save: bool = False,
        options: CrawlOptions | None = None,
        deep: bool = False,
        before_reading: Callable[[int], object] | None = None,
    ) -> Answer:
        """The `k` most suspected parents of a model.

        Args:
            model: as in `find`.
            k: maximum number of candidates.
            spec: signature to search with; by default that of the index.
            min_probability: candidates below it are left out.
            save: store the model, which then counts as one of the store's checkpoints.
            options: how a model that is not stored is read.
            deep: read what is not stored of the products of the model and of its best undecided candidates.
            before_reading: called with the number of bytes of weights that `deep` will read, before each stage.

        Raises:
            UnknownModelError: the model is neither stored, nor a folder with a checkpoint, nor a repo of the hub.
            IndexMissingError: the index holds no signatures of this spec.
            SourceError, CheckpointError: as `compare`, of the model.
        """
        from provenance.query.engine import judge

        model = hub_name(model)
        dossier = self._save(model, options) if save else self.find(model, options)
        found = judge(dossier, self.catalogue, spec=spec)
        if deep:
            from provenance.deep import Weigher

            with Weigher(self.store, options) as weigher:
                found = weigher.examine(found, model, self.catalogue, before_reading)
        return found.at_least(min_probability).answer(k)

    def find(self, model: str, options: CrawlOptions | None = None, *, fetch: bool = True) -> Dossier:
        """The dossier of a model: stored (checkpoint id or repo id), or fingerprinted now from a folder or the hub.

        A folder with the weights of a stored checkpoint is that checkpoint, unless its own card says otherwise. Date
        and license of `options` count where they are given.

        Args:
            model: an id, the address of a model's page on the hub, or a folder.
            options: how a model that is not stored is read.
            fetch: whether a model that is neither stored nor a folder is read from the hub.

        Raises:
            UnknownModelError: the model is neither stored, nor a folder with a checkpoint, nor a repo of the hub. The
                message has similar ids of the store.
        """
        return find(model, options, self.catalogue, self.store, fetch=fetch)

    def _save(self, model: str, options: CrawlOptions | None) -> Dossier:
        """Crawl a model and return what was stored, which may have another id than `model`."""
        listener = StoredByCrawl()
        self.crawl([model], options, listener)
        return listener.dossier(self.catalogue, options.mode if options else None) or self.find(model, options)

    def dossiers(self) -> Sequence[Dossier]:
        """Every latest checkpoint, indexed or not."""
        return self.catalogue.dossiers()

    def compare(
        self,
        a: str,
        b: str,
        *,
        plot: str | None = None,
        deep: bool = False,
        fetch: bool = False,
        options: CrawlOptions | None = None,
        options_b: CrawlOptions | None = None,
        before_reading: Callable[[int], object] | None = None,
    ) -> Comparison:
        """Every line of evidence for `b` as a parent of `a`.

        Args:
            a: as in `find`.
            b: as in `find`.
            plot: a `.png` or `.svg` file for curves and cells.
            deep: read the weights of both again where their products are not stored, and compare these.
            fetch: read a model that is not stored from the hub.
            options: how a model that is not stored is read, and what is said of `a`.
            options_b: the same of `b`; by default as for `a`, without a date or license.
            before_reading: called with the number of bytes of weights that `deep` will read.

        Raises:
            UnknownModelError: one of them is neither stored nor a folder with a checkpoint.
            SourceError: `deep`, and one was crawled from a folder and is not named by it.
            CheckpointError: `deep`, and one cannot be read any more.
            ProvenanceError: the plot cannot be drawn.
        """
        from provenance.query.compare import compare
        from provenance.query.evidence.pair import Pair, Subject

        a, b = hub_name(a), hub_name(b)
        if options is not None and options_b is None:
            options_b = replace(options, created_at=None, license=None)
        model, other = Subject(self.find(a, options, fetch=fetch)), Subject(self.find(b, options_b, fetch=fetch))
        pair = Pair(model, other, self.catalogue.background)
        reading = None
        if deep and pair.stored is not None and before_reading is not None:
            before_reading(0)
        elif deep and pair.stored is None:
            from provenance.deep import Weigher

            with Weigher(self.store, options) as weigher:
                opened = weigher.open(pair.a.dossier, a), weigher.open(pair.b.dossier, b)
                (reading,) = weigher.read(opened[0], [opened[1]], before_reading)
        found = compare(pair, self.catalogue, reading)
        if plot is not None:
            from provenance.plot import plot_pair

            plot_pair(pair, plot)
        return found

    def status(self) -> StoreStatus:
        """Figures of the store, the last runs, the reasons of failures, and model types without roles."""
        from provenance.query.status import status

        return status(self.store, self.catalogue)

    def show(self, model: str, options: CrawlOptions | None = None, *, fetch: bool = False) -> ModelDescription:
        """What is known about a model: metadata, roles, curves.

        Args:
            model: as in `find`.
            options: how a model that is not stored is read, and what is said of it.
            fetch: as in `find`.

        Raises:
            UnknownModelError: the model is neither stored nor a folder with a checkpoint.
        """
        from provenance.query.description import describe

        dossier = self.find(model, options, fetch=fetch)
        with self.connect() as connection:
            return describe(dossier, connection)

    def refresh_lineage(self) -> LineageRefresh:
        """Bring the table `lineage` up to date, while the result is iterated over.

        New checkpoints are examined, and what may descend from them. What was examined is written every five minutes
        and at the end; a refresh that is killed goes on from there.
        """
        from provenance.query.lineage.refresh import LineageRefresh

        return LineageRefresh(self.store, self.catalogue)

    def recipe(self, model: str, options: CrawlOptions | None = None) -> str:
        """The configuration with which mergekit would make a merge from its stored parents.

        Args:
            model: as in `find`.
            options: how a model that is not stored is read.

        Raises:
            UnknownModelError: the model is neither stored, nor a folder with a checkpoint, nor a repo of the hub.
            NotAMergeError: it is no merge of stored checkpoints.
        """
        from provenance.query.engine import judge
        from provenance.query.lineage.recipe import recipe

        return recipe(judge(self.find(model, options), self.catalogue))

    def evaluate(self, truth: str | os.PathLike[str], advance: Advance | None = None) -> Evaluation:
        """Measure the answers about every checkpoint of a truth table.

        Raises:
            TruthError: the table cannot be used.
        """
        from provenance.query.evaluation.evaluate import evaluate
        from provenance.query.evaluation.truth import read_truth

        return evaluate(read_truth(Path(truth)), self.catalogue, advance)

    def evaluate_declared(self) -> DeclaredEvaluation:
        """Measure how often the answers find what the cards declare, where there is no table of truth.

        Raises:
            TruthError: no stored card declares a base model.
        """
        from provenance.query.evaluation.declared import evaluate_declared

        return evaluate_declared(self.catalogue)
