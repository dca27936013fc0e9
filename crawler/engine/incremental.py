"""Which part of a hub's listing to crawl: all of it, or what changed since the last complete crawl.

A full listing is sorted by time of creation, which never changes, so that no repo is missed while repos change. An
incremental listing is sorted by time of last change, newest first, and ends one day before the start of the last
complete crawl: the overlap covers clock differences and lagging listings.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from provenance.crawler.engine.options import HubListing
from provenance.schemas.enums import Mode
from provenance.schemas.protocols import CrawlHistory
from provenance.schemas.tables import FINGERPRINT_VERSION

log = logging.getLogger("provenance.crawl")

OVERLAP = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ListingPlan:
    """What a crawl asks a hub to list.

    Attributes:
        key: the hub, the filters of the listing and what is read of its repos, as JSON; the key of its watermarks.
        listing: the listing to request.
        watermark: the watermark to store once the listing was crawled to its end; null if it is only a part.
        incremental: only changed repos are listed, so failed repos are retried by name.
        whole: it is the listing of all repos, so all failed repos are retried.
    """

    key: str
    listing: HubListing
    watermark: datetime | None
    incremental: bool = False
    whole: bool = False


def plan_listing(
    history: CrawlHistory, listing: HubListing, endpoint: str, mode: Mode, now: datetime, *, full: bool
) -> ListingPlan:
    """Plan a listing from its watermarks.

    Args:
        history: has the watermarks.
        listing: as requested; a listing with `sort`, `limit` or `since` is crawled unchanged.
        endpoint: address of the hub.
        mode: what is read of its repos.
        full: list all of it in any case.
    """
    which = {
        name: value for name, value in asdict(listing).items() if value and name in ("author", "search", "filters")
    }
    key = json.dumps({"endpoint": endpoint, "mode": mode, "version": FINGERPRINT_VERSION, **which}, sort_keys=True)
    if listing.limit or listing.sort or listing.since:
        return ListingPlan(key, listing, None)
    known = history.watermarks(key)
    if ahead := [mark for mark in known if mark > now]:
        log.warning("a walk of this listing is dated %s, later than now: one of two clocks is wrong", max(ahead))
    last = max((mark for mark in known if mark <= now), default=None)
    if full or last is None:
        return ListingPlan(key, listing, now, whole=not which)
    return ListingPlan(key, replace(listing, since=last - OVERLAP), now, incremental=True, whole=not which)
