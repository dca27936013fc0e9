"""Which walk along a hub's listing a crawl makes: all of it, or what changed since the last one that was complete.

A full walk goes by the time of creation, which never changes, so that nothing is skipped while repos change. A delta
walk goes by the time of the last change, newest first, and ends a day before the last complete walk began: the overlap
covers clocks that differ and listings that lag.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from provenance.indexer.store.store import Store
from provenance.schemas.tables import FINGERPRINT_VERSION
from provenance.settings import HubListing

log = logging.getLogger("provenance.crawl")

OVERLAP = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Walk:
    """One walk.

    Attributes:
        key: which listing of which hub is walked and what is read of its repos, as JSON; watermarks hold for it.
        listing: what to ask the hub for.
        watermark: what to store once the walk is complete; null where it leaves something out.
        delta: only what changed is listed, so that repos which failed are to be visited by name.
        whole: it is the listing of all repos; every failure is its business.
    """

    key: str
    listing: HubListing
    watermark: datetime | None
    delta: bool = False
    whole: bool = False


def plan_walk(store: Store, listing: HubListing, endpoint: str, mode: str, now: datetime, *, full: bool) -> Walk:
    """Plan the walk of a listing from the watermarks in the store.

    Args:
        listing: as asked for; with a sort, a limit or a time of its own it is walked as it is.
        endpoint: address of the hub.
        mode: `sampled` or `full`.
        full: walk all of it in any case.
    """
    which = {
        name: value for name, value in asdict(listing).items() if value and name in ("author", "search", "filters")
    }
    key = json.dumps({"endpoint": endpoint, "mode": mode, "version": FINGERPRINT_VERSION, **which}, sort_keys=True)
    if listing.limit or listing.sort or listing.since:
        return Walk(key, listing, None)
    rows = store.read("runs", ["listing", "watermark"]).to_pylist()
    known = [row["watermark"] for row in rows if row["listing"] == key and row["watermark"]]
    if ahead := [mark for mark in known if mark > now]:
        log.warning("a walk of this listing is dated %s, later than now: one of two clocks is wrong", max(ahead))
    last = max((mark for mark in known if mark <= now), default=None)
    if full or last is None:
        return Walk(key, listing, now, whole=not which)
    return Walk(key, replace(listing, since=last - OVERLAP), now, delta=True, whole=not which)
