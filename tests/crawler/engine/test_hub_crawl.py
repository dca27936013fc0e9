"""A crawl through the hub ends where a crawl of the same folders does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import provenance
from provenance.crawler.engine.options import CrawlOptions, HubListing
from provenance.demo_hub import HubRepo, LoopbackHub, MemoryFile, folder_repos
from provenance.query.engine import judge
from tests.support.malformed import malformed_files

MINIATURE = Path(provenance.__file__).parent / "miniature"

# Where it came from and when, and what only the hub or only the folder knows.
APART = {"fingerprint_id", "fingerprinted_at", "source", "bytes_read", "requests", "n_heads", "n_kv_heads", "notes"}


def rows(store: Path, table: str) -> list[dict[str, Any]]:
    with provenance.open(store) as database:
        found = database.store.read(table).to_pylist()
    kept = [{name: value for name, value in row.items() if name not in APART} for row in found]
    return sorted(kept, key=lambda row: (row["checkpoint_id"], row.get("name") or "", row.get("part") or ""))


def crawl_both(folder: Path, tmp_path: Path, sample: str) -> tuple[Path, Path]:
    local, hub = tmp_path / "local", tmp_path / "hub"
    with provenance.open(local, create=True) as database:
        database.crawl([folder], CrawlOptions(mode="sampled", sample=sample))
    with LoopbackHub(folder_repos(folder)) as served, provenance.open(hub, create=True) as database:
        summary = database.crawl([], CrawlOptions(sample=sample, endpoint=served.endpoint), listing=HubListing())
        assert summary.failed == 0
    return local, hub


@pytest.mark.parametrize("sample", ["small", "default"])
def test_miniature_is_the_same_through_the_hub(tmp_path: Path, sample: str) -> None:
    local, hub = crawl_both(MINIATURE, tmp_path, sample)
    for table in ("checkpoints", "tensors", "samples"):
        assert rows(hub, table) == rows(local, table)
    assert answers(hub) == answers(local)


def answers(store: Path, every: int = 1) -> list[tuple[str, str, set[tuple[object, ...]]]]:
    """What is said of every so many models of a store."""
    with provenance.open(store) as database:
        database.index()
        models = sorted(database.dossiers(), key=lambda dossier: dossier.repo_id)[::every]
        found = [judge(model, database.catalogue) for model in models]
    return [
        (
            answer.model.repo_id,
            answer.verdict,
            {(c.repo_id, c.verdict, c.direction, c.relation, c.merge_weight) for c in answer.candidates},
        )
        for answer in found
    ]


def test_zoo_is_the_same_through_the_hub(zoo: Path, tmp_path: Path) -> None:
    local, hub = crawl_both(zoo / "models", tmp_path, "default")
    for table in ("tensors", "samples"):
        assert rows(hub, table) == rows(local, table)
    assert answers(hub, every=8) == answers(local, every=8)


def test_unfused_models_need_no_config_and_an_unstored_repo_can_be_asked_about(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with LoopbackHub(folder_repos(MINIATURE)) as served, provenance.open(store, create=True) as database:
        options = CrawlOptions(endpoint=served.endpoint)
        database.crawl(["quillmarsh/sedge-200k", "vantorrel/basalt-200k"], options)
        assert not any("config.json" in exchange.path for exchange in served.requests)
        answer = database.query("ostrel/sedge-mail", options=options)
        assert (answer.verdict, answer.candidates[0].repo_id) == ("derived", "quillmarsh/sedge-200k")
        assert answer.store.checkpoints == 2
        saved = database.query("ostrel/sedge-mail", options=options, save=True)
        assert saved.store.checkpoints == 3


def test_a_second_run_over_an_unchanged_hub_asks_for_pages_only(tmp_path: Path) -> None:
    with LoopbackHub(folder_repos(MINIATURE)) as served, provenance.open(tmp_path / "s", create=True) as database:
        options = CrawlOptions(endpoint=served.endpoint)
        first = database.crawl([], options, listing=HubListing())
        before = len(served.requests)
        changed = database.crawl([], options, listing=HubListing())
        whole = database.crawl([], replace(options, full_walk=True), listing=HubListing())
        assert (first.fingerprinted, first.listed) == (7, 7)
        assert (changed.listed, changed.skipped) == (0, 0)
        assert (whole.listed, whole.skipped, whole.fingerprinted) == (7, 7, 0)
        assert [exchange.path.partition("?")[0] for exchange in served.requests[before:]] == ["/api/models"] * 2


def test_what_cannot_be_read_is_an_outcome(tmp_path: Path) -> None:
    with LoopbackHub(folder_repos(MINIATURE)) as served, provenance.open(tmp_path / "s", create=True) as database:
        summary = database.crawl(["nobody/nothing", "ostrel/sedge-mail"], CrawlOptions(endpoint=served.endpoint))
        assert (summary.listed, summary.fingerprinted, summary.failed) == (2, 1, 1)
        assert "nobody/nothing" in (summary.failures[0].message or "")


def test_every_malformed_header_is_one_outcome_of_a_crawl_that_goes_on(tmp_path: Path) -> None:
    malformed = malformed_files().values()
    repos = [HubRepo(f"broken/n{i}", {"model.safetensors": MemoryFile(data)}) for i, data in enumerate(malformed)]
    repos += folder_repos(MINIATURE)
    with LoopbackHub(repos) as served, provenance.open(tmp_path / "s", create=True) as database:
        options = CrawlOptions(endpoint=served.endpoint, workers=4)
        summary = database.crawl([], options, listing=HubListing())
        assert (summary.fingerprinted, summary.failed, summary.stopped) == (7, len(malformed), None)
        with database.connect() as connection:
            found = connection.execute("select status, stage, reason, count(*) from outcomes group by all").fetchall()
        assert set(found) == {("done", None, None, 7), ("failed", "header", "malformed", len(malformed))}
        assert database.crawl([], options, listing=HubListing()).listed == 0
