"""A hub of repos that are computed: its listing is one listing, however it is cut, and its repos are what it lists."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import provenance
from provenance.crawler.engine.options import CrawlOptions, HubListing
from provenance.crawler.hub.api import connect
from provenance.crawler.hub.listing import list_hub
from provenance.demo_hub import Request
from tests.hub.endless import EndlessHub

SORTS = ("createdAt", "lastModified")


def get(hub: EndlessHub, target: str) -> tuple[Any, str | None]:
    """An answer of the hub, and the target of the next page."""
    answer = hub.answer(Request("GET", "hub", target, {}))
    assert answer.status == 200, b"".join(answer.body)
    link = answer.headers.get("Link", "").partition(">")[0].removeprefix("<")
    parts = urlsplit(link)
    return json.loads(b"".join(answer.body)), f"{parts.path}?{parts.query}" if link else None


def walk(hub: EndlessHub, target: str) -> Iterator[list[dict[str, Any]]]:
    following: str | None = target
    while following:
        page, following = get(hub, following)
        yield page


@settings(max_examples=40)
@given(
    count=st.integers(0, 60),
    every=st.integers(1, 9),
    limit=st.integers(1, 70),
    page_size=st.integers(1, 30),
    sort=st.sampled_from(SORTS),
    label=st.sampled_from(["", "safetensors", "pytorch", "transformers", "text-generation", "nothing"]),
)
def test_pages_join_without_gap_or_repeat(
    count: int, every: int, limit: int, page_size: int, sort: str, label: str
) -> None:
    with EndlessHub(count, every=every, page_size=page_size) as hub:
        query = f"sort={sort}&limit={limit}&expand={sort}" + (f"&filter={label}" if label else "")
        pages = list(walk(hub, f"/api/models?{query}"))
    wanted = {"": (True, True), "safetensors": (True, False), "pytorch": (False, True), "nothing": (False, False)}
    safe, pickled = wanted.get(label, (True, True))
    positions = [at for at in range(count) if (safe if at % every == 0 else pickled)]
    rows = [row for page in pages for row in page]
    assert [row["id"] for row in rows] == [f"org-{at % 1000}/model-{at:06}" for at in positions]
    times = [row[sort] for row in rows]
    assert times == sorted(set(times), reverse=True)
    assert all(len(page) == min(limit, page_size) for page in pages[:-1])


@pytest.fixture
def hub() -> Iterator[EndlessHub]:
    with EndlessHub() as hub:
        yield hub


def test_a_cursor_deep_in_the_listing_goes_on_from_there(hub: EndlessHub) -> None:
    first, following = get(hub, "/api/models?limit=2")
    assert following is not None
    assert [row["id"] for row in first] == ["org-0/model-000000", "org-1/model-000001"]
    page, last = get(hub, "/api/models?limit=3&cursor=WyIiLCAib3JnLTk5Ni9tb2RlbC05OTk5OTYiXQ==")  # after 999,996
    assert ([row["id"] for row in page], last) == ([f"org-{at}/model-999{at}" for at in (997, 998, 999)], None)


@pytest.mark.parametrize("position", [0, 1, 20, 999_980, 999_999])
def test_a_repo_is_what_is_listed(hub: EndlessHub, position: int) -> None:
    repo_id = hub.repo_id(position)
    repo = hub.find(repo_id)
    assert repo is not None
    names = "author cardData config createdAt disabled downloads gated lastModified likes pipeline_tag private sha tags"
    expand = "&".join(f"expand={name}" for name in (*names.split(), "siblings"))
    before = json.dumps(["", hub.repo_id(position - 1)]) if position else ""
    cursor = f"&cursor={base64_of(before)}" if before else ""
    (row,), _ = get(hub, f"/api/models?limit=1&{expand}{cursor}")
    assert row["id"] == repo_id
    assert {name: repo.property(name) for name in row} == row
    info, _ = get(hub, f"/api/models/{repo_id}?{expand}")
    assert info == row
    weights = "model.safetensors" if hub.has_weights(position) else "last.ckpt"
    assert sorted(repo.files) == ["config.json", weights]


def base64_of(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def test_what_is_not_listed_is_not_there(hub: EndlessHub) -> None:
    for repo_id in ("org-0/model-000001", "org-0/model-0000000", "org-0/model-1000000", "org-00/model-000000", "org-0"):
        assert hub.find(repo_id) is None
        assert hub.answer(Request("GET", "hub", f"/api/models/{repo_id}", {})).status == 401


@pytest.mark.parametrize(
    "query",
    ["author=org-1", "search=model", "sort=downloads", "direction=1", "cursor=WyIiLCAib3JnLTAvbW9kZWwtMDAwMDAxIl0="],
)
def test_what_it_cannot_compute_is_refused(hub: EndlessHub, query: str) -> None:
    assert hub.answer(Request("GET", "hub", f"/api/models?{query}", {})).status == 400


def test_changes_since_a_time(hub: EndlessHub) -> None:
    newest = datetime(2025, 6, 1, tzinfo=UTC)
    transport = connect(hub.endpoint)
    try:
        for seconds, expected in ((0, 1), (100, 2), (199, 2), (123_400, 1235)):
            found = list(list_hub(transport, since=newest - timedelta(seconds=seconds)))
            assert [repo.repo_id for repo in found] == [hub.repo_id(at) for at in range(expected)]
    finally:
        transport.close()
    assert len(hub.requests) == 1 + 1 + 1 + 2


def test_a_crawl_meets_weights_and_pickles(tmp_path: Path) -> None:
    with EndlessHub(every=4) as hub, provenance.open(tmp_path / "s", create=True) as database:
        summary = database.crawl([], CrawlOptions(endpoint=hub.endpoint), listing=HubListing(limit=10))
        assert (summary.fingerprinted, summary.skipped, summary.failed) == (3, 7, 0)
        stored = database.store.read("checkpoints", ["repo_id"]).to_pydict()["repo_id"]
        assert sorted(stored) == [hub.repo_id(at) for at in (0, 4, 8)]
