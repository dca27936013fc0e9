"""The listing of a Hub and its repos, asked through the real client on loopback addresses."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from provenance.crawler.fingerprint import fingerprint
from provenance.crawler.hub.answers import RefusedError, ResponseError, TransferError
from provenance.crawler.hub.api import BadRequestError, connect
from provenance.crawler.hub.listing import HubRepo, hub_checkpoints, list_hub, named
from provenance.crawler.hub.transport import HubTransport
from provenance.crawler.local.folders import find_local, listed_checkpoints
from provenance.crawler.plan import SAMPLE_SIZES
from provenance.demo_hub import HubRepo as ServedRepo
from provenance.demo_hub import LoopbackHub, MemoryFile, Request, Response
from provenance.schemas.enums import Source
from provenance.schemas.errors import CheckpointError, SkippedCheckpoint, SourceError, WeightsError
from provenance.schemas.records import RepoMetadata
from tests.conftest import llama

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN = "hf_TheTokenOfTheUser"
EMPTY = (2).to_bytes(8, "little") + b"{}"
SHARDS = {f"model-0000{i}-of-00002.safetensors": EMPTY for i in (1, 2)}
INDEXED = {f"model-{part}.safetensors": EMPTY for part in ("base", "draft")}
INDEX = json.dumps({"weight_map": dict(zip("ab", INDEXED, strict=True))})


class ScriptedHub(LoopbackHub):
    """A hub that answers what `answers` has for the beginning of a target, before it answers by itself."""

    def __init__(self, *repos: ServedRepo, page_size: int = 1000) -> None:
        super().__init__(repos, page_size=page_size)
        self.answers: dict[str, Callable[[Request], Response | None]] = {}

    def answer(self, request: Request) -> Response:
        for start, answer in self.answers.items():
            if request.target.startswith(start) and (response := answer(request)) is not None:
                return response
        return super().answer(request)

    @property
    def paths(self) -> list[str]:
        return [exchange.path.partition("?")[0] for exchange in self.requests]


def served(repo_id: str, files: dict[str, bytes] | None = None, **more: Any) -> ServedRepo:
    contents = {"model.safetensors": EMPTY} if files is None else files
    special = {name: more.pop(name) for name in ("tokens", "former_ids") if name in more}
    return ServedRepo(repo_id, {path: MemoryFile(content) for path, content in contents.items()}, more, **special)


def response(status: int, body: bytes = b"", **headers: str) -> Callable[[Request], Response]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: Response(status, fields, len(body), (body,))


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[ScriptedHub, HubTransport]]]:
    """Start a hub with some repos, and connect to it as a user without a login."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", "/nonexistent")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nonexistent")
    running: list[tuple[ScriptedHub, HubTransport]] = []

    def start(*repos: ServedRepo, page_size: int = 1000) -> tuple[ScriptedHub, HubTransport]:
        hub = ScriptedHub(*repos, page_size=page_size)
        hub.__enter__()
        running.append((hub, connect(hub.endpoint, pause=lambda seconds: None)))
        return running[-1]

    yield start
    for hub, transport in running:
        transport.close()
        hub.__exit__(None, None, None)


Serve = Callable[..., tuple[ScriptedHub, HubTransport]]


def ids(repos: Iterator[HubRepo]) -> list[str]:
    return [repo.repo_id for repo in repos]


def suite(count: int) -> list[ServedRepo]:
    return [
        served(
            f"acme/m{i}", createdAt=f"2025-01-{i + 1:02}T00:00:00.000Z", lastModified=f"2025-02-{28 - i}T00:00:00.000Z"
        )
        for i in range(count)
    ]


# ---------------------------------------------------------------- listing


def test_a_listing_is_walked_page_by_page(serve: Serve) -> None:
    hub, transport = serve(*suite(7), page_size=3)
    repos = list_hub(transport)
    assert [next(repos).repo_id for _ in range(3)] == ["acme/m6", "acme/m5", "acme/m4"]
    assert len(hub.requests) == 1
    assert ids(repos) == ["acme/m3", "acme/m2", "acme/m1", "acme/m0"]
    assert hub.paths == ["/api/models"] * 3
    assert transport.traffic.api_requests == 3


def test_what_a_listing_says_of_a_repo(serve: Serve) -> None:
    files = {"model.safetensors": EMPTY, "config.json": b"{}", "README.md": b"hi"}
    card = {"license": "mit", "base_model": ["acme/base"], "base_model_relation": "quantized"}
    _, transport = serve(
        served(
            "acme/m", files, cardData=card, downloads=5, gated="auto", tags=["x"], createdAt="2025-01-01T00:00:00.000Z"
        )
    )
    (repo,) = list_hub(transport)
    assert repo.revision is not None
    assert len(repo.revision) == 40
    assert repo.paths == ("README.md", "config.json", "model.safetensors")
    assert repo.files == ()
    said = repo.metadata
    assert (said.author, said.license, said.downloads, said.gated) == ("acme", "mit", 5, "auto")
    assert (said.declared_parents, said.declared_relation) == (("acme/base",), "quantized")
    assert said.created_at == datetime(2025, 1, 1, tzinfo=UTC)
    (listed,) = hub_checkpoints(repo, transport)
    assert (listed.source, listed.weight_files, listed.config_file) == ("hub", ("model.safetensors",), "config.json")
    assert str(listed.identity) == f"acme/m@{repo.revision[:12]}"
    assert listed.metadata == said


def test_base_models_join_the_tags(serve: Serve) -> None:
    hub, transport = serve()
    base = {"relation": "adapter", "models": [{"id": "acme/new-name"}, {"id": "acme/base"}, "strange"]}
    listed = {
        "id": "acme/m",
        "sha": "a1" * 20,
        "siblings": [],
        "tags": ["base_model:adapter:acme/base"],
        "baseModels": base,
    }
    hub.answers["/api/models"] = response(200, json.dumps([listed]).encode())
    (repo,) = list_hub(transport)
    assert repo.metadata.declared_parents == ("acme/base", "acme/new-name")
    assert repo.metadata.declared_relation == "adapter"
    assert repo.metadata.tags == ("base_model:adapter:acme/base", "base_model:adapter:acme/new-name")


def test_a_hub_that_does_not_list_base_models(serve: Serve) -> None:
    hub, transport = serve(*suite(4), page_size=2)
    hub.answers["/api/models"] = lambda request: Response(400, {}) if "baseModels" in request.target else None
    assert len(ids(list_hub(transport))) == 4
    assert len(hub.requests) == 3


def test_a_request_that_is_not_understood(serve: Serve) -> None:
    _, transport = serve(*suite(2))
    with pytest.raises(BadRequestError, match="does not understand") as caught:
        ids(list_hub(transport, sort="nonsense"))
    assert caught.value.stage == "listing"


def test_a_listing_can_be_narrowed(serve: Serve) -> None:
    hub, transport = serve(*suite(3), served("other/m1", tags=["a", "b"]), served("other/big", tags=["b"]))
    assert ids(list_hub(transport, author="other", search="M1")) == ["other/m1"]
    assert ids(list_hub(transport, filters=["a", "b"])) == ["other/m1"]
    assert ids(list_hub(transport, author="acme", sort="lastModified")) == ["acme/m0", "acme/m1", "acme/m2"]
    hub.requests.clear()
    assert ids(list_hub(transport, author="acme", limit=2)) == ["acme/m2", "acme/m1"]
    assert len(hub.requests) == 1


def test_the_latest_changes_come_first_and_the_walk_ends_with_them(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provenance.crawler.hub.listing._OUT_OF_ORDER", 1)
    hub, transport = serve(*suite(9), page_size=2)
    since = datetime(2025, 2, 26, tzinfo=UTC)
    assert ids(list_hub(transport, since=since)) == ["acme/m0", "acme/m1", "acme/m2"]
    assert len(hub.requests) == 2
    assert ids(list_hub(transport, since=since, sort="createdAt")) == ["acme/m2", "acme/m1", "acme/m0"]


def test_a_repo_that_moves_during_the_walk_comes_once(serve: Serve) -> None:
    hub, transport = serve(*suite(4), page_size=2)
    repos = list_hub(transport, sort="lastModified")
    assert next(repos).repo_id == "acme/m0"
    hub.repos["acme/m0"] = served("acme/m0", lastModified="2025-02-01T00:00:00.000Z")
    assert ids(repos) == ["acme/m1", "acme/m2", "acme/m3"]


def test_strange_objects_do_not_end_a_listing(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    hub, transport = serve()
    sha = "a1" * 20
    page: list[Any] = [
        {"id": "acme/good", "sha": sha, "siblings": [{"rfilename": "model.safetensors"}, {"rfilename": 3}, "x"]},
        {"id": "acme/no-sha", "siblings": []},
        {"id": "acme/odd-sha", "sha": "../main", "siblings": []},
        {"id": "acme/no-files", "sha": sha},
        {"id": "acme/disabled", "sha": sha, "siblings": [], "disabled": True},
        {"id": "../escape", "sha": sha, "siblings": [{"rfilename": "model.safetensors"}]},
        {"id": "acme/odd-tags", "sha": sha, "siblings": [], "tags": 3, "baseModels": {"models": [{}]}},
        {"id": 7},
        "text",
    ]
    hub.answers["/api/models"] = response(200, json.dumps(page).encode())
    good, *others = list_hub(transport)
    assert good.paths == ("model.safetensors",)
    assert len(hub_checkpoints(good, transport)) == 1
    assert [other.repo_id for other in others] == [
        "acme/no-sha",
        "acme/odd-sha",
        "acme/no-files",
        "acme/disabled",
        "acme/odd-tags",
    ]
    for other in others:
        with pytest.raises(CheckpointError):
            hub_checkpoints(other, transport)
    assert "3 things that are not repos" in caplog.text
    assert hub.paths == ["/api/models"]


@pytest.mark.parametrize("body", [b"{}", b"[", b"<html>", b"[" * 100_000, b"\xff"])
def test_a_page_that_is_no_list(serve: Serve, body: bytes) -> None:
    hub, transport = serve()
    hub.answers["/api/models"] = response(200, body)
    with pytest.raises(ResponseError, match="the Hub's listing") as caught:
        ids(list_hub(transport))
    assert caught.value.stage == "listing"


def test_the_next_page_is_on_the_hub(serve: Serve) -> None:
    hub, transport = serve()
    hub.answers["/api/models"] = response(200, b"[]", Link=f'<{hub.cdn}/api/models?cursor=1>; rel="next"')
    with pytest.raises(ResponseError, match="another server"):
        ids(list_hub(transport))
    assert len(hub.requests) == 1


def test_an_answer_from_elsewhere_is_not_used(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, _ = serve()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    transport = connect(hub.endpoint)
    hub.answers["/api/models"] = response(302, Location=f"{hub.cdn}/elsewhere")
    hub.answers["/elsewhere"] = response(200, b"[]")
    with pytest.raises(ResponseError, match="away from the Hub"):
        ids(list_hub(transport))
    assert ["authorization" in exchange.headers for exchange in hub.requests] == [True]


def test_a_hub_that_is_down(serve: Serve) -> None:
    hub, transport = serve(*suite(1))
    down = [Response(503, {}), Response(500, {}), Response(429, {"Retry-After": "1"})]
    hub.answers["/api/models"] = lambda request: down.pop() if down else None
    assert ids(list_hub(transport)) == ["acme/m0"]
    hub.answers["/api/models"] = response(504)
    with pytest.raises(TransferError, match="504") as caught:
        ids(list_hub(transport))
    assert caught.value.stage == "listing"
    hub.__exit__(None, None, None)
    with pytest.raises(TransferError, match="no connection"):
        ids(list_hub(transport))
    hub.__enter__()


def test_offline_mode_is_respected(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, transport = serve(*suite(1))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE"):
        connect(hub.endpoint)
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE"):
        ids(list_hub(transport))
    assert hub.requests == []


def test_an_endpoint_that_is_none() -> None:
    with pytest.raises(SourceError, match="'ftp://hub' cannot be the endpoint"):
        connect("ftp://hub")


# ---------------------------------------------------------------- one repo


def test_a_repo_by_name_comes_with_sizes_and_digests(serve: Serve) -> None:
    hub, transport = serve(served("acme/m", {"model.safetensors": EMPTY, "config.json": b"{}"}, likes=3))
    repo = named(transport, "acme/m")
    assert hub.paths == ["/api/models/acme/m"]
    assert repo.metadata.likes == 3
    sizes = {file.path: (file.size, file.sha256) for file in repo.files}
    assert sizes == {"model.safetensors": (10, hashlib.sha256(EMPTY).hexdigest()), "config.json": (2, None)}
    (listed,) = hub_checkpoints(repo, transport)
    assert [file.path for file in listed.files] == ["model.safetensors", "config.json"]
    assert named(transport, "acme/m", repo.revision) == named(transport, "acme/m", "main") == repo
    assert transport.traffic.api_requests == 3


def test_a_renamed_repo_has_its_final_id(serve: Serve) -> None:
    _, transport = serve(served("acme/new", former_ids=("old",)))
    assert named(transport, "old").repo_id == "acme/new"


@pytest.mark.parametrize(
    ("repo_id", "revision", "reason"),
    [
        ("acme/absent", None, "no-repo"),
        ("acme/private", None, "no-repo"),
        ("acme/m", "refs/pr/9", "no-revision"),
        ("acme/disabled", None, "disabled"),
        ("acme/../m", None, "no-repo"),
        ("a/b/c", None, "no-repo"),
    ],
)
def test_a_repo_that_cannot_be_had(serve: Serve, repo_id: str, revision: str | None, reason: str) -> None:
    _, transport = serve(served("acme/m"), served("acme/private", private=True), served("acme/disabled", disabled=True))
    with pytest.raises(RefusedError) as caught:
        named(transport, repo_id, revision)
    assert (caught.value.reason, caught.value.stage) == (reason, "listing")
    assert repo_id in str(caught.value)


def test_an_answer_that_is_no_repo(serve: Serve) -> None:
    hub, transport = serve()
    hub.answers["/api/models/acme/m"] = response(200, b"[]")
    with pytest.raises(ResponseError, match="not the description of a repo"):
        named(transport, "acme/m")


def test_a_gated_repo_is_listed_but_not_read(serve: Serve) -> None:
    _, transport = serve(served("acme/m", gated="manual"))
    repo = named(transport, "acme/m")
    assert repo.files[0].sha256 is None
    (listed,) = hub_checkpoints(repo, transport)
    with pytest.raises(RefusedError, match="gated") as caught:
        repo.reader(transport).complete(listed)
    assert caught.value.stage == "plan"


def test_the_token_of_the_client_opens_private_repos(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, _ = serve(served("acme/m", private=True, tokens=frozenset([TOKEN])))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    transport = connect(hub.endpoint)
    repo = named(transport, "acme/m")
    reader = repo.reader(transport)
    assert list(reader.read("model.safetensors", [(0, 10)])) == [EMPTY]
    transport.close()
    assert [exchange.origin for exchange in hub.requests] == ["hub", "hub", "cdn"]
    assert ["authorization" in exchange.headers for exchange in hub.requests] == [True, True, False]
    assert "model-provenance" in hub.requests[0].headers["user-agent"]


# ---------------------------------------------------------------- checkpoints


def test_a_whole_set_of_shards_needs_no_index(serve: Serve) -> None:
    hub, transport = serve(served("acme/m", {"model.safetensors.index.json": b"never read", **SHARDS}))
    (repo,) = list_hub(transport)
    hub.requests.clear()
    (listed,) = hub_checkpoints(repo, transport)
    assert (listed.weight_files, hub.requests) == (tuple(SHARDS), [])


def test_files_that_only_an_index_tells_of_cost_one_more(serve: Serve) -> None:
    hub, transport = serve(served("acme/m", {"model.safetensors.index.json": INDEX.encode(), **INDEXED}))
    (repo,) = list_hub(transport)
    hub.requests.clear()
    (listed,) = hub_checkpoints(repo, transport)
    assert listed.weight_files == tuple(INDEXED)
    assert listed.files == ()
    assert [path.rpartition("/")[2] for path in hub.paths] == ["model.safetensors.index.json"] * 2
    assert transport.traffic.resolve_requests == 1


@pytest.mark.parametrize("index", [b"not JSON", b"\xff", b"{}", b"[" * 100_000])
def test_an_index_that_is_none(serve: Serve, index: bytes) -> None:
    _, transport = serve(served("acme/m", {"model.safetensors.index.json": index, **INDEXED}))
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json"):
        hub_checkpoints(named(transport, "acme/m"), transport)


def test_an_index_that_is_absurdly_long(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provenance.crawler.shards.MAX_INDEX_BYTES", 10)
    _, transport = serve(served("acme/m", {"model.safetensors.index.json": INDEX.encode(), **INDEXED}))
    with pytest.raises(WeightsError, match="at most 10 bytes"):
        hub_checkpoints(named(transport, "acme/m"), transport)


def test_pickles_are_skipped_without_a_request(serve: Serve) -> None:
    hub, transport = serve(served("acme/m", {"pytorch_model.bin": b"x"}))
    (repo,) = list_hub(transport)
    with pytest.raises(SkippedCheckpoint, match="pickled"):
        hub_checkpoints(repo, transport)
    assert hub.paths == ["/api/models"]


def test_a_folder_that_no_identity_can_name(serve: Serve) -> None:
    _, transport = serve()
    repo = HubRepo("acme/m", "a1" * 20, RepoMetadata(), ("a#b/model.safetensors",), ())
    with pytest.raises(WeightsError, match="cannot be named"):
        hub_checkpoints(repo, transport)


@pytest.mark.parametrize("mode", ["full", "sampled"])
def test_a_fingerprint_is_the_same_from_the_hub_and_from_disk(
    serve: Serve, write_repo: Callable[..., Path], mode: str
) -> None:
    folder = write_repo("acme/m", llama(1))
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub, transport = serve(served("acme/m", contents))
    (repo,) = list_hub(transport)
    (listed,) = hub_checkpoints(repo, transport)
    reader = repo.reader(transport)
    size = SAMPLE_SIZES["small"] if mode == "sampled" else None
    remote = fingerprint(reader.complete(listed), reader, size=size, now=NOW)

    (local_repo,) = find_local(folder)
    (local,) = listed_checkpoints(local_repo)
    local = replace(local, identity=listed.identity, source=Source.HUB, metadata=listed.metadata)
    with local_repo.reader() as local_reader:
        expected = fingerprint(local, local_reader, size=size, now=NOW)
    assert remote.tensors == expected.tensors
    assert remote.sample.values.tobytes() == expected.sample.values.tobytes()
    assert replace(remote.checkpoint, bytes_read=0, requests=0) == replace(
        expected.checkpoint, bytes_read=0, requests=0
    )
    assert remote.files[0].sha256 == hashlib.sha256(contents["model.safetensors"]).hexdigest()
    assert [file.path for file in remote.files] == ["model.safetensors"]

    ranges = [exchange for exchange in hub.requests if exchange.origin == "cdn"]
    assert all(exchange.status == 206 for exchange in ranges)
    assert remote.checkpoint.requests == len(ranges) + 2 == transport.traffic.range_requests + 2
    assert (
        remote.checkpoint.bytes_read
        == transport.traffic.bytes
        == sum(e.bytes for e in ranges) + len(contents["config.json"])
    )
    # Weights and config; a full crawl asks for the tokenizer too.
    assert transport.traffic.resolve_requests == (3 if mode == "full" else 2)
    assert transport.traffic.api_requests == 1


def test_local_crawls_do_not_wait_for_the_client() -> None:
    code = "import sys, provenance.crawler.hub.listing; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
