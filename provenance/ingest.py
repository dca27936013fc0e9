"""The only place that joins crawler and store: the store's history guides a crawl, and its writer takes the results."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from provenance.crawler.engine.crawl import crawl as run_crawl
from provenance.crawler.engine.engine import Progress
from provenance.crawler.engine.options import CrawlOptions, HubListing
from provenance.crawler.engine.summary import CrawlSummary
from provenance.crawler.engine.tasks import local_tasks, named_tasks, read_request
from provenance.crawler.engine.worker import read_task
from provenance.indexer.history import History
from provenance.indexer.store.lease import crawl_lease
from provenance.indexer.store.store import Store
from provenance.indexer.writer import Writer
from provenance.schemas.records import Fingerprint

log = logging.getLogger("provenance.crawl")


def crawl(
    store: Store,
    sources: Iterable[str | os.PathLike[str]],
    options: CrawlOptions | None = None,
    listing: HubListing | None = None,
    progress: Progress | None = None,
) -> CrawlSummary:
    """Crawl local folders, repos of a hub by name, and a hub's listing into a store.

    One bad checkpoint is one row of `outcomes`. Results are committed every few seconds, and also when the crawl is
    interrupted.

    Raises:
        SourceError: a source cannot be used at all; nothing was crawled.
        StoreBusyError: another crawl is writing to this store.
        StoreError: the store cannot be written.
    """
    request = read_request(sources, listing)
    with crawl_lease(store.path) as killed:
        if killed:
            log.warning("the last crawl was killed (%s); this one goes on where it ended", killed)
        now = datetime.now(UTC)
        history = History(store, now=now)
        writer = Writer(store, history, started=now)
        return run_crawl(request, options or CrawlOptions(), history, writer, progress, now=now)


def fingerprint_local(source: Path, options: CrawlOptions | None = None) -> list[Fingerprint]:
    """Fingerprint a local folder without storing it.

    Raises:
        SourceError: the folder cannot be used.
        CheckpointError: it cannot be fingerprinted.
    """
    return [found for task in local_tasks(source) for found in read_task(task, options or CrawlOptions())]


def fingerprint_named(repo: str, options: CrawlOptions | None = None) -> list[Fingerprint]:
    """Fingerprint a repo of a hub without storing it.

    Raises:
        SourceError: offline mode is on.
        CheckpointError: it cannot be read.
    """
    from provenance.crawler.hub.api import connect

    options = options or CrawlOptions()
    # A user waits for the answer: one try, and one line if it fails.
    transport = connect(options.endpoint, retries=0)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return [found for task in named_tasks(transport, [repo]) for found in read_task(task, options)]
    finally:
        transport.close()
