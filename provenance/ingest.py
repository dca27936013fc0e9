"""The only wiring of the crawler to the store: what is visited, through which connections, into which store."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from threading import Event

from provenance.indexer.store.lease import crawl_lease
from provenance.indexer.store.store import Store
from provenance.journal import RunSummary
from provenance.ledger import Ledger
from provenance.run import Progress, Run
from provenance.schemas.records import Fingerprint
from provenance.settings import CrawlOptions, HubListing
from provenance.sources import Visit, listed_visits, local_source, local_visits, named_visits
from provenance.visiting import mode_of, read_found, sample_size
from provenance.walk import Walk, plan_walk

log = logging.getLogger("provenance.crawl")


def crawl(
    store: Store,
    sources: Sequence[str | os.PathLike[str]],
    options: CrawlOptions,
    listing: HubListing | None = None,
    progress: Progress | None = None,
) -> RunSummary:
    """Crawl local folders, repos of a hub by name, and a hub's listing into a store.

    One bad checkpoint is one row of `outcomes`; what is done is committed every few seconds, and also when
    the crawl is interrupted.

    Raises:
        SourceError: a source cannot be used at all; nothing was crawled.
        StoreBusyError: another crawl is writing to this store.
        StoreError: the store cannot be written.
    """
    paths = [(source, local_source(source)) for source in sources]
    local = [visit for _, path in paths if path is not None for visit in local_visits(path)]
    names = [str(source) for source, path in paths if path is None]
    described = [*map(str, sources), *([str(listing)] if listing else [])]
    stop = Event()
    with crawl_lease(store.path) as killed:
        if killed:
            log.warning("the last crawl was killed (%s); this one goes on where it ended", killed)
        now = datetime.now(UTC)
        ledger = Ledger(store, now=now, refingerprint=options.refingerprint, retry_failed=options.retry_failed)
        if not names and listing is None and not options.retry_failed:
            run = Run(store, options, described, progress, ledger=ledger, stop=stop)
            return run.crawl(local, listed=len(local), expected=len(local))
        from provenance.crawler.hub.api import connect

        transport = connect(options.endpoint, connections=options.workers, pause=stop.wait)
        walk: Walk | None = None
        if listing is not None:
            full = options.full_walk or options.refingerprint
            walk = plan_walk(store, listing, transport.endpoint, mode_of(options, hub=True), now, full=full)

        listed = listed_visits(transport, walk.listing) if walk else iter(())

        def retries() -> Iterator[Visit]:
            """Failed repos that are due again, and that the walk did not meet."""
            everything = options.retry_failed or (walk is not None and walk.whole)
            if everything or (walk is not None and walk.delta):
                yield from named_visits(transport, ledger.due(None if everything or walk is None else walk.key))

        expected = len(local) + len(names) if listing is None else listing.limit
        run = Run(store, options, described, progress, ledger=ledger, stop=stop, transport=transport, walk=walk)
        try:
            visits = chain(local, named_visits(transport, names), listed)
            return run.crawl(visits, afterwards=retries, listed=len(local), expected=expected)
        finally:
            transport.close()


def fingerprint_local(source: Path, options: CrawlOptions) -> list[Fingerprint]:
    """Fingerprint a local folder without storing it.

    Raises:
        SourceError: there is nothing there.
        CheckpointError: it cannot be fingerprinted.
    """
    size = sample_size(options, hub=False)
    return [read_found(found, size) for visit in local_visits(source) for found in visit.load()]


def fingerprint_named(repo: str, options: CrawlOptions) -> list[Fingerprint]:
    """Fingerprint a repo of a hub without storing it.

    Raises:
        SourceError: offline mode is on.
        CheckpointError: it cannot be read.
    """
    from provenance.crawler.hub.api import connect

    # Somebody is waiting for the answer: one try, and one line if it fails.
    transport = connect(options.endpoint, retries=0)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        visits = list(named_visits(transport, [repo]))
        size = sample_size(options, hub=True)
        return [read_found(found, size) for visit in visits for found in visit.load()]
    finally:
        transport.close()
