"""A crawl of a hostile hub: one outcome for each attack, sound repos stored, no token elsewhere, and an end in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import provenance
from provenance.crawler.engine.options import CrawlOptions, HubListing
from provenance.crawler.engine.summary import CrawlSummary
from tests.hub.hostile import ATTACKS, GOOD, HostileHub

TOKEN = "hf_TokenThatOnlyTheHubMaySee"
ON_REPOS = [name for name, attack in ATTACKS.items() if attack.place != "listing"]
ON_LISTINGS = [name for name, attack in ATTACKS.items() if attack.place == "listing"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines and waits of a second or less."""
    crawler = "provenance.crawler.hub"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(f"{crawler}.transport.REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(f"{crawler}.api.MAX_SECONDS", 1.0)
    monkeypatch.setattr(f"{crawler}.transport.WAITS", (0.01, 0.01))
    monkeypatch.setattr(f"{crawler}.listing._PAGE_WAITS", (0.01, 0.01))


def crawl(hub: HostileHub, store: Path, names: list[str], **options: Any) -> tuple[CrawlSummary, list[dict[str, Any]]]:
    with provenance.open(store, create=True) as database:
        listing = None if names else HubListing()
        summary = database.crawl(names, CrawlOptions(endpoint=hub.endpoint, **options), listing=listing)
        return summary, database.store.read("outcomes").to_pylist()


def assert_harmless(hub: HostileHub, outcomes: list[dict[str, Any]]) -> None:
    """Nothing unexpected happened, and the token went to the hub alone."""
    assert not [outcome for outcome in outcomes if outcome["reason"] == "unexpected"]
    assert not [asked for asked in hub.asked if asked.port == hub.trap_port]
    assert not [asked for asked in hub.asked if asked.port != hub.port and TOKEN in str(asked)]
    for outcome in outcomes:
        text = str(outcome["message"])
        assert TOKEN not in text
        assert text.isprintable()
        assert len(text) < 1000


def test_every_attack_on_a_repo_is_one_outcome(tmp_path: Path) -> None:
    with HostileHub(*ON_REPOS) as hub:
        _, outcomes = crawl(hub, tmp_path / "store", [*hub.attacked, *GOOD], workers=24)
        assert_harmless(hub, outcomes)
        found = {name: [o["status"] for o in outcomes if o["repo_id"] == repo] for repo, name in hub.attacked.items()}
    assert found == {name: [ATTACKS[name].ends] for name in ON_REPOS}
    assert [o["status"] for o in outcomes if o["repo_id"] in GOOD] == ["done", "done"]


@pytest.mark.parametrize("attack", ON_LISTINGS)
def test_every_attack_on_a_listing_ends_it(attack: str, tmp_path: Path) -> None:
    with HostileHub(listing=attack) as hub:
        summary, outcomes = crawl(hub, tmp_path / "store", [])
        assert_harmless(hub, outcomes)
    assert summary.broke_off is (ATTACKS[attack].ends == "broke off")
    assert len(summary.stopped or "") < 1000


def test_a_sound_hub_is_crawled(tmp_path: Path) -> None:
    with HostileHub() as hub:
        summary, outcomes = crawl(hub, tmp_path / "store", [])
        assert_harmless(hub, outcomes)
    assert (summary.fingerprinted, summary.failed, summary.stopped) == (2, 0, None)
