"""One crawl, put together: what it was asked for, its frontier, its connections, and the engine that runs it."""

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
        options: how to.
        history: what earlier crawls left.
        sink: takes outcomes and fingerprints.
        progress: is told of every outcome.
        now: the time at which the crawl starts.

    Raises:
        SourceError: a hub is needed and offline mode is on, or its address is none; nothing was crawled.
        StoreError: the sink cannot keep what it was given; what it had committed stays.
    """
    stop, transport = Event(), None
    if request.names or request.listing or options.retry_failed:
        from provenance.crawler.hub.api import connect  # an HTTP client: a crawl of local folders needs none

        transport = connect(options.endpoint, connections=options.workers, pause=stop.wait)
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
