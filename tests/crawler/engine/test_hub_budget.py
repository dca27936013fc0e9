"""What crawling models of real size costs a hub, and that its secrets stay where they belong.

One crawl in a process of its own, by a user who is logged in, judged by what the hub recorded and by what was left on
disk. The weights are computed by the hub as they are asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from provenance.demo_hub import Exchange, HubRepo, LoopbackHub, Request, Response
from tests.hub.generated import LLAMA_7B, QWEN3_30B_A3B, Geometry, generated_repo

TOKEN = "hf_BudgetTokenThatNobodyElseMaySee"
TINY = Geometry(2, 64, 4, 2, 96, 128, head_size=16)
DENSE, MIXTURE, REFUSED, BROKEN = "acme/dense-7b", "acme/mixture", "acme/refused", "acme/broken"

CRAWL = """
import logging, sys
store, log, endpoint, *repos = sys.argv[1:]
logging.basicConfig(filename=log, level=logging.DEBUG)
import provenance
from provenance.crawler.engine.options import CrawlOptions
with provenance.open(store, create=True) as database:
    summary = database.crawl(repos, CrawlOptions(endpoint=endpoint))
print(summary)
"""


class FaultyHub(LoopbackHub):
    """A hub whose storage refuses the weights of one repo, and ends all answers about another's too early."""

    def answer(self, request: Request) -> Response:
        answer = super().answer(request)
        if request.origin == "cdn":
            if request.path in storage_paths(self.repos[REFUSED]):
                return Response(403, {})
            if request.path in storage_paths(self.repos[BROKEN]):
                return replace(answer, body=())
        return answer


@dataclass(frozen=True)
class Crawled:
    """One crawl: what the hub saw, and what it left behind."""

    repos: dict[str, HubRepo]
    requests: list[Exchange]
    store: Path
    log: str
    out: str
    err: str

    def resolves(self, repo: str, suffix: str = "") -> list[Exchange]:
        """Requests to the hub for where a file of a repo lies."""
        start = f"/{repo}/resolve/"
        return [e for e in self.requests if e.origin == "hub" and e.path.startswith(start) and e.path.endswith(suffix)]

    def ranges(self, repo: str) -> list[Exchange]:
        """Requests to the storage for the weights of a repo."""
        paths = storage_paths(self.repos[repo])
        return [e for e in self.requests if e.origin == "cdn" and e.path.partition("?")[0] in paths]

    def signatures(self) -> set[str]:
        """The secret of every signed address that was used."""
        return {e.path.partition("Signature=")[2].partition("&")[0] for e in self.requests if e.origin == "cdn"}

    def left_behind(self) -> str:
        """Everything that was written, cells of tables decoded: Parquet compresses what a search would look for."""
        texts = [self.log, self.out, self.err]
        for path in self.store.rglob("*"):
            if path.suffix == ".parquet":
                texts.append(str(pq.read_table(path).to_pylist()))
            if path.is_file():
                texts.append(f"{path} {path.read_bytes().decode('latin-1')}")
        return "\n".join(texts)


def storage_paths(repo: HubRepo) -> set[str]:
    return {f"/lfs/{file.sha256}" for path, file in repo.files.items() if path.endswith(".safetensors")}


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crawled]:
    """All repos crawled once, sampled as by default."""
    folder = tmp_path_factory.mktemp("budget")
    repos = [
        # Meta's own 7B comes in shards of 10 GB.
        generated_repo(
            DENSE, LLAMA_7B, seed=1, shard_bytes=10_000_000_000, listing={"gated": "manual"}, tokens=frozenset([TOKEN])
        ),
        generated_repo(MIXTURE, QWEN3_30B_A3B, seed=2),
        generated_repo(REFUSED, TINY, seed=3),
        generated_repo(BROKEN, TINY, seed=4),
    ]
    store, log = folder / "store", folder / "log"
    with FaultyHub(repos) as hub:
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment |= {"HF_TOKEN": TOKEN, "HF_HUB_VERBOSITY": "debug", "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", CRAWL, str(store), str(log), hub.endpoint, *hub.repos]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        yield Crawled(hub.repos, hub.requests, store, log.read_text(), done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("repo", "megabytes", "ranges", "resolves"), [(DENSE, 28, 850, 2), (MIXTURE, 150, 2_100, 30)], ids=["7B", "MoE"]
)
def test_a_model_costs_no_more_than_its_budget(
    crawled: Crawled, repo: str, megabytes: int, ranges: int, resolves: int
) -> None:
    assert "fingerprinted=2, skipped=0, failed=2" in crawled.out
    read = crawled.ranges(repo)
    assert {e.status for e in read} == {206}
    small = [e for e in crawled.requests if f"/{repo}/" in e.path and e.origin == "hub"]
    assert sum(e.bytes for e in [*read, *small]) <= megabytes * 1e6
    # Every layer was read, though no more than the budget.
    n_layers = {DENSE: LLAMA_7B, MIXTURE: QWEN3_30B_A3B}[repo].layers
    assert n_layers * 8 < len(read) <= ranges
    assert len(crawled.resolves(repo, ".safetensors")) <= resolves


@pytest.mark.parametrize("repo", [DENSE, MIXTURE])
def test_the_repo_and_every_needed_file_are_asked_for_once(crawled: Crawled, repo: str) -> None:
    files = crawled.repos[repo].files
    asked = [e.path.removeprefix(f"/{repo}/resolve/{crawled.repos[repo].sha}/") for e in crawled.resolves(repo)]
    assert len(set(asked)) == len(asked)
    assert {path for path in files if path.endswith(".safetensors")} <= set(asked) <= set(files)
    assert sum(e.path.startswith(f"/api/models/{repo}?") for e in crawled.requests) == 1


def test_the_token_goes_to_the_hub_alone(crawled: Crawled) -> None:
    with_token = {e.origin for e in crawled.requests if TOKEN in f"{e.path} {dict(e.headers)}"}
    assert with_token == {"hub"}
    allowed = {"host", "accept-encoding", "user-agent", "range"}
    assert {name for e in crawled.requests if e.origin == "cdn" for name in e.headers} == allowed


def test_no_secret_is_left_behind(crawled: Crawled) -> None:
    signatures, text = crawled.signatures(), crawled.left_behind()
    assert len(signatures) >= len(crawled.repos)
    assert all(len(signature) == 64 for signature in signatures)
    # What could have held them is there: a log at its finest, errors of the storage, and the store's rows.
    assert "DEBUG:urllib3" in crawled.log
    assert "/lfs/" in crawled.log
    for repo in (REFUSED, BROKEN):
        assert f"{repo}/model.safetensors" in crawled.out
        assert f"'repo_id': '{repo}'" in text
    assert [secret for secret in (TOKEN, *signatures) if secret in text] == []


def test_faults_of_the_storage_were_met(crawled: Crawled) -> None:
    assert {e.status for e in crawled.ranges(REFUSED)} == {403}
    assert len(crawled.resolves(REFUSED, ".safetensors")) == 2  # a fresh address was tried, once
    assert len({e.range for e in crawled.ranges(BROKEN)}) == 1
    assert len(crawled.ranges(BROKEN)) > 1  # it was tried again before it was given up
