"""A hub and a store for crawls night after night."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import provenance
from provenance.demo_hub import LoopbackHub
from tests.support.nights import Night, repo


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Night]:
    monkeypatch.setattr("provenance.crawler.hub.listing._OUT_OF_ORDER", 1)
    repos = [repo(f"org/model-{i}", i) for i in range(5)]
    with LoopbackHub(repos, page_size=3) as hub, provenance.open(tmp_path / "store", create=True) as database:
        yield Night(hub, database)
