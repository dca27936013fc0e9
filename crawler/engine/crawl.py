"""Assemble one crawl from its request, frontier and connections, and run its engine."""

from __future__ import annotations

from contextlib import closing, nullcontext
from datetime import datetime
from threading import Event

from provenance.crawler.engine.engine import Engine, Progress
from provenance.crawler.engine.frontier import Frontier
from provenance.crawler.engine.incremental import plan_listing
from provenance.crawler.engine.options import CrawlOptions
from provenance.crawler.engine.summary import CrawlSummary
from provenance.crawler.engine.tasks import CrawlRequest
from provenance.schemas.enums import Source
from provenance.schemas.protocols import CrawlHistory, FingerprintSink


def crawl(
    request: CrawlRequest,
    options: CrawlOptions,
    history: CrawlHistory,
    sink: FingerprintSink,
    progress: Progress | None = None,
    *,
    now: datetime,
) -> CrawlSummary:
    """Crawl local folders, repos of a hub by name, and a hub's listing.

    Args:
        request: what to crawl.
        options: how to crawl.
        history: the results of earlier crawls.
        sink: receives outcomes and fingerprints.
        progress: called with every outcome.
        now: the time at which the crawl starts.

    Raises:
        SourceError: a hub is needed and offline mode is on, or its address is invalid; nothing was crawled.
        StoreError: the sink cannot store a result; what it had committed stays.
    """
    stop, transport = Event(), None
    if request.names or request.listing or options.retry_failed:
        from provenance.crawler.hub.api import connect  # loads an HTTP client, which a local crawl does not need

        transport = connect(options.endpoint, connections=options.workers + 1, pause=stop.wait)  # and the listing
    with closing(transport) if transport else nullcontext():
        plan = None
        if transport and request.listing:
            full = options.full_walk or options.refingerprint
            mode = options.mode_of(Source.HUB)
            plan = plan_listing(history, request.listing, transport.endpoint, mode, now, full=full)
        frontier = Frontier(request, options, history, now=now, transport=transport, plan=plan)
        engine = Engine(
            frontier,
            options,
            sink,
            described=request.described,
            started=now,
            stop=stop,
            progress=progress,
            transport=transport,
            plan=plan,
        )
        return engine.run()
