"""A crawl of a hub with one repo of every kind of fault, and the hub that injects them."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

import provenance
from provenance.crawler.engine.options import CrawlOptions, HubListing
from provenance.demo_hub import Exchange, HubRepo, LoopbackHub, Request
from tests.hub.faults import FAULTS, draw
from tests.hub.faulty import FaultyHub
from tests.hub.generated import Geometry, generated_repo

TINY = Geometry(layers=2, hidden=64, heads=4, kv_heads=2, ffn=96, vocabulary=128, head_size=16)
TOKEN = "hf_FaultyTokenThatNobodyElseMaySee"
KINDS = tuple(FAULTS)
DRAW: dict[str, Any] = {"seed": 7, "share": 0.5, "kinds": KINDS}
LASTING = [kind for kind in KINDS if FAULTS[kind].ends != "stored"]
PASSING = [kind for kind in KINDS if FAULTS[kind].ends == "stored"]

REASONS = {
    **dict.fromkeys(("hub-down", "storage-down", "cut-short", "trickle"), "network"),
    **dict.fromkeys(("lfs-pointer", "overlap", "bad-json", "deep-nesting"), "malformed"),
    **dict.fromkeys(("index-above", "index-absolute", "missing-shard"), "bad-weights"),
    "gated": "gated",
    "disabled": "disabled",
    "deleted": "no-repo",
    "revision-gone": "no-revision",
    "file-gone": "no-file",
    "login": "login",
    "forbidden": "forbidden",
    "address-refused": "expired",
    "other-commit": "changed",
    "hostile-headers": "changed",
    "no-safetensors": "no-weights",
}
"""Of an answer that breaks the hub's conventions: `bad-answer`."""

# When it was read, and what it cost.
APART = {"fingerprint_id", "fingerprinted_at", "source", "bytes_read", "requests"}


def name_of(kind: str | None) -> str:
    """An id that draws this fault, or none."""
    names = (f"acme/{kind or 'sound'}-{number}" for number in count())
    return next(name for name in names if draw(name, **DRAW) is (FAULTS[kind] if kind else None))


REPOS = {kind: name_of(kind) for kind in KINDS}
SOUND = name_of(None)


def sound_repos() -> list[HubRepo]:
    return [generated_repo(name, TINY, seed=seed) for seed, name in enumerate([*REPOS.values(), SOUND])]


@dataclass(frozen=True)
class Crawled:
    """What one crawl left in its store, and what the hub saw."""

    outcomes: dict[str, list[dict[str, Any]]]
    tables: dict[str, dict[str, list[dict[str, Any]]]]
    requests: list[Exchange]
    stopped: str | None

    def of(self, repo_id: str) -> dict[str, list[dict[str, Any]]]:
        """All rows about a repo."""
        return {table: rows[repo_id] for table, rows in self.tables.items() if repo_id in rows}


def crawl(hub: LoopbackHub, store: Path) -> Crawled:
    with pytest.MonkeyPatch.context() as patch, provenance.open(store, create=True) as database:
        patch.setenv("HF_TOKEN", TOKEN)
        summary = database.crawl([], CrawlOptions(endpoint=hub.endpoint, workers=24), listing=HubListing())
        tables: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for table in ("checkpoints", "files", "tensors", "samples"):
            found = tables.setdefault(table, {})
            for row in database.store.read(table).to_pylist():
                repo_id = row["checkpoint_id"].partition("@")[0]
                found.setdefault(repo_id, []).append({name: row[name] for name in row if name not in APART})
        outcomes: dict[str, list[dict[str, Any]]] = {}
        for row in database.store.read("outcomes").to_pylist():
            outcomes.setdefault(row["repo_id"], []).append(row)
    return Crawled(outcomes, tables, hub.requests, summary.stopped)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Crawled:
    with pytest.MonkeyPatch.context() as patch, FaultyHub(sound_repos(), **DRAW) as hub:
        patch.setattr(
            "provenance.crawler.hub.transport.REQUEST_SECONDS", 1.0
        )  # which slow bodies keep, and trickling ones do not
        return crawl(hub, tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Crawled:
    """The same repos without faults, under the ids that they have in the end."""
    repos = []
    for repo in sound_repos():
        name = final_id(repo.id)
        repos.append(replace(repo, id=name, listing={**repo.listing, "id": name, "modelId": name}))
    with LoopbackHub(repos) as hub:
        return crawl(hub, tmp_path_factory.mktemp("undisturbed"))


def final_id(repo_id: str) -> str:
    return f"{repo_id}-renamed" if repo_id == REPOS["renamed"] else repo_id


@pytest.mark.parametrize("kind", LASTING)
def test_a_lasting_fault_is_one_outcome(faulty: Crawled, kind: str) -> None:
    (outcome,) = faulty.outcomes[REPOS[kind]]
    message = outcome["message"]
    assert outcome["status"] == FAULTS[kind].ends
    assert outcome["reason"] == REASONS.get(kind, "bad-answer")
    assert not message.startswith("unexpected")
    assert REPOS[kind] in message
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 400
    assert not [secret for secret in (TOKEN, "://", "Signature", "Expires") if secret in message]
    assert faulty.of(REPOS[kind]) == {}


@pytest.mark.parametrize("kind", PASSING)
def test_a_passing_fault_leaves_no_trace(faulty: Crawled, undisturbed: Crawled, kind: str) -> None:
    name = final_id(REPOS[kind])
    found = faulty.of(name)
    assert set(found) == {"checkpoints", "files", "tensors", "samples"}
    assert found == undisturbed.of(name)


def test_the_crawl_goes_on_to_the_end(faulty: Crawled, undisturbed: Crawled) -> None:
    assert faulty.stopped is None
    assert set(faulty.tables["checkpoints"]) == {SOUND, *(final_id(REPOS[kind]) for kind in PASSING)}
    assert faulty.of(SOUND) == undisturbed.of(SOUND)


def test_no_secret_leaves_the_hub_and_nothing_hostile_is_followed(faulty: Crawled) -> None:
    assert all(e.headers["authorization"] == f"Bearer {TOKEN}" for e in faulty.requests if e.origin == "hub")
    assert not [e for e in faulty.requests if e.origin == "cdn" and "authorization" in e.headers]
    paths = {e.path.partition("?")[0] for e in faulty.requests if e.origin == "hub"}
    assert {path for path in paths if not {"resolve", "resolve-cache"} & set(path.split("/"))} == {"/api/models"}
    for kind in ("foreign", "other-page", "circle", "other-commit", "hostile-location", "gated", "file-gone"):
        assert asked(faulty, kind, "cdn") == []


def asked(crawled: Crawled, kind: str, origin: str) -> list[Exchange]:
    """Requests for the weights of the repo with this fault."""
    (repo,) = [repo for repo in sound_repos() if repo.id == REPOS[kind]]
    starts = tuple(
        f"/lfs/{f.sha256}" if origin == "cdn" else f"/{name}/resolve/"
        for f in repo.files.values()
        for name in (repo.id, final_id(repo.id))
    )
    return [e for e in crawled.requests if e.origin == origin and e.path.startswith(starts)]


@pytest.mark.parametrize(
    ("kind", "origin", "more"),
    [
        ("busy", "hub", [429]),
        ("hub-down-once", "hub", [503]),
        ("hub-down-twice", "hub", [503, 503]),
        ("expired", "hub", [302]),
        ("expired", "cdn", [403]),
        ("storage-down-once", "cdn", [503]),
        ("cut-once", "cdn", [206]),
        ("renamed", "hub", [307]),
    ],
)
def test_a_passing_fault_costs_a_request_more_for_each_try(
    faulty: Crawled, undisturbed: Crawled, kind: str, origin: str, more: list[int]
) -> None:
    seen, usual = ([e.status for e in asked(crawled, kind, origin)] for crawled in (faulty, undisturbed))
    assert seen == more + usual


# ---------------------------------------------------------------- the hub itself


@given(st.integers(), st.text(max_size=20), st.lists(st.sampled_from(KINDS), min_size=1), st.floats(0, 1))
def test_a_fault_is_drawn_by_id_and_seed(seed: int, name: str, kinds: list[str], share: float) -> None:
    fault = draw(name, seed=seed, share=share, kinds=kinds)
    always = draw(name, seed=seed, share=1.0, kinds=kinds)
    assert always is not None
    assert always.kind in kinds
    assert fault in (None, always)
    assert draw(name, seed=seed, share=0.0, kinds=kinds) is None


def test_the_share_is_kept_and_the_order_does_not_matter() -> None:
    repos = [HubRepo(f"o/m{number}", {}) for number in range(2000)]
    kinds = ("busy", "login", "deleted")
    one, other = (FaultyHub(order, seed=3, share=0.25, kinds=kinds) for order in (repos, repos[::-1]))
    faults = [one.fault_of(repo.id) for repo in repos]
    assert faults == [other.fault_of(repo.id) for repo in repos]
    counts = [sum(fault is FAULTS[kind] for fault in faults) for kind in kinds]
    assert sum(counts) == 2000 - faults.count(None)
    # Five standard deviations of a binomial count.
    assert all(abs(n - 2000 / 12) < 5 * (2000 / 12 * 11 / 12) ** 0.5 for n in counts)
    assert len(one.repos) == 2000 - counts[2]


def answers(hub: LoopbackHub, tries: int = 4) -> list[tuple[int, bytes] | str]:
    """Status and body of so many answers to a client that wants a range, or what came instead."""
    (repo,) = hub.repos.values()
    found: list[tuple[int, bytes] | str] = []
    target, origin = f"/{repo.id}/resolve/main/model.safetensors", hub.endpoint
    for _ in range(tries):
        connection = http.client.HTTPConnection(urlsplit(origin).netloc, timeout=20)
        try:
            connection.request("GET", target, headers={"Range": "bytes=4-43"})
            response = connection.getresponse()
            body = response.read()
            found.append((response.status, body))
            if response.status == 302:
                origin, target = hub.cdn, response.headers["Location"].removeprefix(hub.cdn)
        except http.client.IncompleteRead as error:
            found.append((206, error.partial))
        except http.client.RemoteDisconnected as error:
            found.append(type(error).__name__)
        finally:
            connection.close()
    return found


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("hub-drops", ["RemoteDisconnected", 302, 40, 40]),
        ("storage-drops", [302, "RemoteDisconnected", 40, 40]),
        ("cut-once", [302, 20, 40, 40]),
        ("cut-short", [302, 20, 20, 20]),
        ("slow", [302, 40, 40, 40]),
        ("trickle", [302, 39, 39, 39]),
        ("overlong", [302, 44, 44, 44]),
        ("whole-file", [302, 158_424, 158_424, 158_424]),
    ],
)
def test_faults_of_connections_and_bodies(kind: str, expected: list[str | int]) -> None:
    """Lengths of the bodies from the storage, and what came instead of an answer."""
    repo = generated_repo("o/m", TINY)
    weights = repo.files["model.safetensors"]
    with FaultyHub([repo], share=1.0, kinds=[kind], pause=0.001) as hub:
        found = answers(hub)
    lengths = [got if isinstance(got, str) else 302 if got[0] == 302 else len(got[1]) for got in found]
    assert lengths == expected
    bodies = [got[1] for got in found if not isinstance(got, str) and got[0] == 206]
    assert all(weights.read(4, 44).startswith(body[:40]) for body in bodies)
    assert {e.status for e in hub.requests} <= {200, 206, 302}


def test_a_slow_body_comes_in_pieces() -> None:
    repo = generated_repo("o/m", TINY)
    path = f"/lfs/{repo.files['model.safetensors'].sha256}"
    for kind, size in (("slow", 6), ("trickle", 1)):
        with FaultyHub([repo], share=1.0, kinds=[kind], pause=0.0) as hub:
            found = hub.answer(Request("GET", "hub", "/o/m/resolve/main/model.safetensors", {}))
            signed = found.headers["Location"].removeprefix(hub.cdn)
            assert signed.startswith(path)
            pieces = list(hub.answer(Request("GET", "cdn", signed, {"range": "bytes=0-39"})).body)
        assert {len(piece) for piece in pieces[:-1]} == {size}


def test_what_a_client_cannot_see_in_advance_is_listed_as_it_was() -> None:
    repo = generated_repo("o/m", TINY)
    for kind, status in (("deleted", 401), ("renamed", 307), ("disabled", 403)):
        with FaultyHub([repo], share=1.0, kinds=[kind]) as hub:
            page = hub.answer(Request("GET", "hub", "/api/models?expand=disabled&expand=sha", {}))
            row = {"_id": repo.listing["_id"], "id": "o/m", "disabled": False, "sha": repo.sha}
            assert json.loads(b"".join(page.body)) == [row]
            assert hub.answer(Request("GET", "hub", "/api/models/o/m", {})).status == status
