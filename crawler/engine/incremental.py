"""Which part of a hub's listing a crawl asks for: all of it, or what changed since it was last crawled to its end.

A full listing goes by the time of creation, which never changes, so that nothing is skipped while repos change. An
incremental one goes by the time of the last change, newest first, and ends a day before the last crawl to the end
began: the overlap covers clocks that differ and listings that lag.
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
        key: which listing of which hub it is and what is read of its repos, as JSON; watermarks hold for it.
        listing: what to ask the hub for.
        watermark: what to keep once the listing was crawled to its end; null where it leaves something out.
        incremental: only what changed is listed, so that repos which failed are to be tried by name.
        whole: it is the listing of all repos; every failure is its business.
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
        history: knows the watermarks.
        listing: as asked for; one with a sort, a limit or a time of its own is crawled as it is.
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
