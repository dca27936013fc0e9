"""The loopback hub: what the unmodified huggingface_hub client makes of it, and the wire itself."""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
import torch
from huggingface_hub.utils._http import parse_ratelimit_headers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from provenance.crawler.formats.safetensors import parse_header
from provenance.demo_hub import HubRepo, LoopbackHub, MemoryFile, Request, Response, folder_repos
from provenance.schemas.errors import SourceError
from tests.hub.generated import LLAMA_7B, LLAMA_70B, QWEN3_30B_A3B, Geometry, generated_repo
from tests.hub.quotas import Meter, Quotas

MINIATURE = Path(__file__).resolve().parents[2] / "provenance" / "miniature"
SEDGE = "quillmarsh/sedge-200k"
LFS_SEDGE = f"/{SEDGE}/resolve/main/model.safetensors"
TINY = Geometry(layers=2, hidden=24, heads=2, kv_heads=1, ffn=40, vocabulary=31, head_size=12)
TOKEN = "hf_reader"


class Clock:
    """A clock that tests set forward."""

    now = 1_750_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection to an origin, kept open, that follows nothing and retries nothing."""

    def __init__(self, url: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)

    def send(self, target: str, *, method: str = "GET", token: str | None = None, **headers: str) -> Reply:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self.connection.request(method, target, headers=headers)
        response = self.connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, fields, response.read())


@pytest.fixture
def wires() -> Iterator[Any]:
    """Opens connections by URL and closes them at the end."""
    opened: dict[str, Wire] = {}

    def wire(url: str) -> Wire:
        return opened.setdefault(url, Wire(url))

    yield wire
    for each in opened.values():
        each.connection.close()


def repos() -> list[HubRepo]:
    """The miniature family, generated repos, and one of each kind that a crawler may not read."""
    small = {"README.md": MemoryFile(b"# text"), "onnx/model.onnx": MemoryFile(b"onnx" * 9)}
    return [
        *folder_repos(MINIATURE),
        generated_repo("big/llama-70b", LLAMA_70B),
        generated_repo("tiny/sharded", TINY, shard_bytes=4096, listing={"downloads": 7}),
        HubRepo("new/name", small, former_ids=("old-name", "old/name")),
        HubRepo("no/gated", small, {"gated": "manual"}, frozenset((TOKEN,))),
        HubRepo("no/private", small, {"private": True}, frozenset((TOKEN,)), ("no/was-private",)),
        HubRepo("no/disabled", small, {"disabled": True}),
        HubRepo("rootless", small),
    ]


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub(repos(), clock=Clock()) as hub:
        yield hub


# ---------------------------------------------------------------- the unmodified client

PROBES = {
    "all": "[m.id for m in api.list_models()]",
    "limit": "[m.id for m in api.list_models(limit=3, sort='downloads')]",
    "limit over a page": "[m.id for m in api.list_models(limit=6)]",
    "author": "[m.id for m in api.list_models(author='quillmarsh')]",
    "search": "[m.id for m in api.list_models(search='SHARDED')]",
    "filter": "[m.id for m in api.list_models(filter=['llama', 'license:mit'])]",
    "expand": "[(m.id, m.sha, m.last_modified.isoformat(), len(m.siblings), m.gated, m.base_models, m.likes)"
    " for m in api.list_models(expand=['sha', 'lastModified', 'siblings', 'gated', 'baseModels'],"
    " author='thriftbyte')]",
    "unknown expand": "list(api.list_models(expand=['nothing']))",
    "full": "next(iter(api.list_models(full=True, cardData=True, author='quillmarsh'))).card_data.license",
    "info": "[(s.rfilename, s.size, s.blob_id, s.lfs and s.lfs.sha256)"
    f" for s in api.model_info({SEDGE!r}, files_metadata=True).siblings]",
    "info at sha": "api.model_info('tiny/sharded', revision=api.model_info('tiny/sharded').sha).safetensors.total",
    "root id": "api.model_info('rootless').id",
    "refs": "[(b.name, b.target_commit) for b in api.list_repo_refs('new/name').branches]",
    "tree": "[(type(e).__name__, e.path) for e in api.list_repo_tree('new/name')]",
    "tree recursive": "[e.path for e in api.list_repo_tree('new/name', recursive=True)]",
    "tree folder": "[(e.path, e.lfs.sha256) for e in api.list_repo_tree('new/name', 'onnx')]",
    "no folder": "list(api.list_repo_tree('new/name', 'absent'))",
    "small file": f"open(api.hf_hub_download({SEDGE!r}, 'config.json')).read()",
    "lfs file": f"digest(api.hf_hub_download({SEDGE!r}, 'model.safetensors'))",
    "generated file": "digest(api.hf_hub_download('tiny/sharded', 'model-00001-of-00006.safetensors'))",
    "file in a folder": "digest(api.hf_hub_download('new/name', 'onnx/model.onnx'))",
    "single header": f"api.get_safetensors_metadata({SEDGE!r}).parameter_count",
    "sharded headers": "sum(api.get_safetensors_metadata('tiny/sharded').parameter_count.values())",
    "70B headers": "sum(api.get_sharded_safetensors_metadata('big/llama-70b').parameter_count.values())",
    "metadata of no index": "api.get_sharded_safetensors_metadata('tiny/sharded', filename='config.json')",
    "missing repo": "api.model_info('no/body')",
    "missing repo, token": "api.model_info('no/body', token='hf_other')",
    "missing revision": "api.model_info('new/name', revision='v9')",
    "missing revision, file": "api.hf_hub_download('new/name', 'README.md', revision='v9')",
    "missing file": "api.hf_hub_download('new/name', 'absent.txt')",
    "gated info": "[s.lfs and s.lfs.sha256 for s in api.model_info('no/gated', files_metadata=True).siblings]",
    "gated info, reader": "[s.lfs and s.lfs.sha256"
    f" for s in api.model_info('no/gated', files_metadata=True, token={TOKEN!r}).siblings]",
    "gated": "api.hf_hub_download('no/gated', 'onnx/model.onnx')",
    "gated, other": "api.hf_hub_download('no/gated', 'onnx/model.onnx', token='hf_other')",
    "gated, reader": f"digest(api.hf_hub_download('no/gated', 'onnx/model.onnx', token={TOKEN!r}))",
    "private": "api.model_info('no/private')",
    "private, reader": f"api.model_info('no/private', token={TOKEN!r}).private",
    "private listed": f"[m.id for m in api.list_models(author='no', token={TOKEN!r})]",
    "disabled": "api.model_info('no/disabled')",
    "renamed": "api.model_info('old/name').id",
    "renamed root": "api.model_info('old-name', revision='main').id",
    "renamed file": "digest(api.hf_hub_download('old/name', 'README.md'))",
    "renamed private": "api.model_info('no/was-private')",
}

CLIENT = """
import hashlib, json, sys
from huggingface_hub import HfApi
api = HfApi()
digest = lambda path: hashlib.sha256(open(path, "rb").read()).hexdigest()
for name, probe in json.load(sys.stdin).items():
    try:
        answer = {"value": eval(probe)}
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        cause = error.__cause__ if type(error).__name__ == "LocalEntryNotFoundError" else None
        answer = {"error": type(cause or error).__name__, "status": status}
    print(json.dumps([name, answer]))
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], LoopbackHub]:
    """What a process with the client answered to every probe, and the hub that it talked to."""
    home = tmp_path_factory.mktemp("hf")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    switches = dict.fromkeys(
        ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "NO_PROXY"), "1"
    )
    with LoopbackHub(repos(), page_size=4) as hub:
        environment = {**kept, **switches, "NO_PROXY": "*", "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home)}
        done = subprocess.run(
            [sys.executable, "-c", CLIENT],
            input=json.dumps(PROBES),
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines()), hub


def value(session: tuple[dict[str, Any], LoopbackHub], name: str) -> Any:
    answer = session[0][name]
    assert "value" in answer, f"{name}: {answer}"
    return answer["value"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_client_walks_all_pages_by_creation(session: Any) -> None:
    public = [repo for repo in repos() if not repo.listing["private"]]
    expected = sorted(((repo.listing["createdAt"], repo.id) for repo in public), reverse=True)
    assert value(session, "all") == [name for _, name in expected]
    assert len(value(session, "limit over a page")) == 6
    by_downloads = sorted(((repo.listing["downloads"], repo.id) for repo in public), reverse=True)
    assert value(session, "limit") == [name for _, name in by_downloads[:3]]


def test_client_narrows_the_listing(session: Any) -> None:
    listed = [json.loads(line) for line in (MINIATURE / "listing.jsonl").read_text().splitlines()]
    assert sorted(value(session, "author")) == sorted(r["id"] for r in listed if r["author"] == "quillmarsh")
    assert value(session, "search") == ["tiny/sharded"]
    wanted = [r["id"] for r in listed if {"llama", "license:mit"} <= set(r["tags"])]
    assert wanted
    assert sorted(value(session, "filter")) == sorted(wanted)


def test_client_expands_the_listing(session: Any) -> None:
    (repo,) = [repo for repo in folder_repos(MINIATURE) if repo.listing["author"] == "thriftbyte"]
    ((name, sha, modified, n_files, gated, parents, likes),) = value(session, "expand")
    assert (name, sha, n_files, gated, likes) == (repo.id, repo.sha, len(repo.files), False, None)
    assert modified == repo.listing["lastModified"].replace(".000Z", "+00:00")
    assert parents is None or parents["models"]
    assert session[0]["unknown expand"] == {"error": "BadRequestError", "status": 400}
    assert value(session, "full") == "apache-2.0"


def test_client_reads_what_a_repo_holds(session: Any) -> None:
    weights = MINIATURE / SEDGE / "model.safetensors"
    config = (MINIATURE / SEDGE / "config.json").read_bytes()
    files = {name: rest for name, *rest in value(session, "info")}
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    assert files["config.json"] == [
        len(config),
        hashlib.sha1(b"blob %d\0" % len(config) + config).hexdigest(),  # as `git hash-object` computes it
        None,
    ]
    assert files["model.safetensors"][0] == weights.stat().st_size
    assert files["model.safetensors"][2] == sha256(weights)
    assert value(session, "info at sha") == TINY.parameters
    assert value(session, "root id") == "rootless"
    assert value(session, "refs") == [["main", session[1].repos["new/name"].sha]]
    assert value(session, "tree") == [["RepoFile", "README.md"], ["RepoFolder", "onnx"]]
    assert value(session, "tree recursive") == ["README.md", "onnx", "onnx/model.onnx"]
    assert value(session, "tree folder") == [["onnx/model.onnx", hashlib.sha256(b"onnx" * 9).hexdigest()]]
    assert session[0]["no folder"] == {"error": "RemoteEntryNotFoundError", "status": 404}


def test_client_downloads(session: Any) -> None:
    assert value(session, "small file") == (MINIATURE / SEDGE / "config.json").read_text()
    assert value(session, "lfs file") == sha256(MINIATURE / SEDGE / "model.safetensors")
    shard = session[1].repos["tiny/sharded"].files["model-00001-of-00006.safetensors"]
    assert value(session, "generated file") == hashlib.sha256(shard.read(0, shard.size)).hexdigest()
    assert value(session, "file in a folder") == hashlib.sha256(b"onnx" * 9).hexdigest()


def test_client_reads_headers(session: Any) -> None:
    tensors = load((MINIATURE / SEDGE / "model.safetensors").read_bytes())
    assert sum(value(session, "single header").values()) == sum(tensor.numel() for tensor in tensors.values())
    assert value(session, "sharded headers") == TINY.parameters
    assert value(session, "70B headers") == 68_976_648_192  # as the card of Llama 2 70B counts
    assert session[0]["metadata of no index"] == {"error": "BadRequestError", "status": 400}


def test_client_tells_refusals_apart(session: Any) -> None:
    expected = {
        "missing repo": ("RepositoryNotFoundError", 401),
        "missing repo, token": ("RepositoryNotFoundError", 404),
        "missing revision": ("RevisionNotFoundError", 404),
        "missing revision, file": ("RevisionNotFoundError", 404),
        "missing file": ("RemoteEntryNotFoundError", 404),
        "gated": ("GatedRepoError", 401),
        "gated, other": ("GatedRepoError", 403),
        "private": ("RepositoryNotFoundError", 401),
        "renamed private": ("RepositoryNotFoundError", 401),
        "disabled": ("DisabledRepoError", 403),
    }
    assert {name: session[0][name] for name in expected} == {
        name: {"error": error, "status": status} for name, (error, status) in expected.items()
    }


def test_client_is_let_in_with_the_right_token(session: Any) -> None:
    digest = hashlib.sha256(b"onnx" * 9).hexdigest()
    assert value(session, "gated info") == [None, "****"]
    assert value(session, "gated info, reader") == [None, digest]
    assert value(session, "gated, reader") == digest
    assert value(session, "private, reader") is True
    assert sorted(value(session, "private listed")) == ["no/disabled", "no/gated", "no/private"]


def test_client_follows_a_rename(session: Any) -> None:
    assert value(session, "renamed") == "new/name"
    assert value(session, "renamed root") == "new/name"
    assert value(session, "renamed file") == hashlib.sha256(b"# text").hexdigest()


def test_traffic_is_recorded_and_no_token_reaches_the_cdn(session: Any) -> None:
    traffic = session[1].requests
    assert {exchange.origin for exchange in traffic} == {"hub", "cdn"}
    assert any(e.headers.get("authorization") == f"Bearer {TOKEN}" for e in traffic if e.origin == "hub")
    assert not [e for e in traffic if e.origin == "cdn" and "authorization" in e.headers]
    assert [e.range for e in traffic if e.range] == ["bytes=0-100000"] * len([e for e in traffic if e.range])
    weights = hashlib.sha256((MINIATURE / SEDGE / "model.safetensors").read_bytes()).hexdigest()
    whole = [e for e in traffic if weights in e.path and e.range is None]
    assert [(e.method, e.status, e.bytes) for e in whole] == [
        ("GET", 200, (MINIATURE / SEDGE / "model.safetensors").stat().st_size)
    ]


# ---------------------------------------------------------------- files on the wire


def location(wire: Wire, target: str, **options: Any) -> str:
    reply = wire.send(target, **options)
    assert reply.status == 302
    where = urlsplit(reply.headers["location"])
    return f"{where.path}?{where.query}"


def test_resolve_of_a_large_file(hub: LoopbackHub, wires: Any) -> None:
    path = MINIATURE / SEDGE / "model.safetensors"
    for method in ("HEAD", "GET"):
        reply = wires(hub.endpoint).send(LFS_SEDGE, method=method)
        assert reply.status == 302
        assert reply.headers["location"].startswith(f"{hub.cdn}/")
        assert reply.headers["x-repo-commit"] == hub.repos[SEDGE].sha
        assert reply.headers["x-linked-size"] == str(path.stat().st_size)
        assert reply.headers["x-linked-etag"] == f'"{sha256(path)}"'
        assert len(reply.headers["x-xet-hash"]) == 64
        assert int(reply.headers["content-length"]) > 0
        assert (reply.body == b"") == (method == "HEAD")
    assert urlsplit(hub.endpoint).port != urlsplit(hub.cdn).port


def test_resolve_of_a_small_file(hub: LoopbackHub, wires: Any) -> None:
    wire = wires(hub.endpoint)
    config = (MINIATURE / SEDGE / "config.json").read_bytes()
    reply = wire.send(f"/{SEDGE}/resolve/main/config.json")
    assert reply.status == 307
    assert reply.headers["location"].startswith("/api/resolve-cache/")
    cached = wire.send(reply.headers["location"])
    assert (cached.status, cached.body) == (200, config)
    assert cached.headers["etag"] == f'"{hashlib.sha1(b"blob %d" % len(config) + bytes(1) + config).hexdigest()}"'
    part = wire.send(reply.headers["location"], Range="bytes=3-9")
    assert (part.status, part.body) == (206, config[3:10])
    head = wire.send(reply.headers["location"], method="HEAD")
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(config)), b"")


def test_ranges_are_slices(hub: LoopbackHub, wires: Any) -> None:
    content = (MINIATURE / SEDGE / "model.safetensors").read_bytes()
    target, wire, size = location(wires(hub.endpoint), LFS_SEDGE), wires(hub.cdn), len(content)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, size - 1), st.one_of(st.integers(0, 4096), st.integers(size - 2, size + 2)))
    def check(start: int, length: int) -> None:
        reply = wire.send(target, Range=f"bytes={start}-{start + length}")
        expected = content[start : start + length + 1]
        assert (reply.status, reply.body) == (206, expected)
        assert reply.headers["content-range"] == f"bytes {start}-{start + len(expected) - 1}/{size}"
        assert reply.headers["content-length"] == str(len(expected))

    check()
    assert wire.send(target, Range=f"bytes={size - 5}-").body == content[-5:]
    assert wire.send(target, Range="bytes=-7").body == content[-7:]
    assert wire.send(target, Range=f"bytes=-{2 * size}").body == content
    assert wire.send(target).headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("several", ["bytes=0-1,4-5", "bytes=9-3", "bytes=-", "rows=0-1"])
def test_a_range_that_is_not_understood_is_ignored(hub: LoopbackHub, wires: Any, several: str) -> None:
    reply = wires(hub.cdn).send(location(wires(hub.endpoint), LFS_SEDGE), Range=several)
    assert reply.status == 200
    assert len(reply.body) == (MINIATURE / SEDGE / "model.safetensors").stat().st_size


@pytest.mark.parametrize("beyond", ["bytes={size}-", "bytes={size}-{size}", "bytes=-0"])
def test_a_range_beyond_the_end(hub: LoopbackHub, wires: Any, beyond: str) -> None:
    size = (MINIATURE / SEDGE / "model.safetensors").stat().st_size
    reply = wires(hub.cdn).send(location(wires(hub.endpoint), LFS_SEDGE), Range=beyond.format(size=size))
    assert (reply.status, reply.headers["content-range"]) == (416, f"bytes */{size}")


def test_signed_urls_expire(wires: Any) -> None:
    clock = Clock()
    with LoopbackHub(repos(), clock=clock) as hub:
        target = location(wires(hub.endpoint), LFS_SEDGE)
        expires = int(parse_qs(urlsplit(target).query)["Expires"][0])
        assert expires == int(clock.now) + 3600
        clock.now = expires - 1
        assert wires(hub.cdn).send(target, Range="bytes=0-7").status == 206
        clock.now = expires
        expired = wires(hub.cdn).send(target, Range="bytes=0-7")
        assert (expired.status, expired.headers["content-type"]) == (403, "application/xml; charset=utf-8")
        assert b"Request has expired" in expired.body
        assert wires(hub.cdn).send(location(wires(hub.endpoint), LFS_SEDGE)).status == 200


def test_a_signature_is_for_one_file_one_time_and_get(hub: LoopbackHub, wires: Any) -> None:
    target = location(wires(hub.endpoint), LFS_SEDGE)
    other = location(wires(hub.endpoint), "/big/llama-70b/resolve/main/model-00001-of-00029.safetensors")
    path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
    later = urlencode({**{name: values[0] for name, values in query.items()}, "Expires": "9999999999"})
    of_another = f"{urlsplit(other).path}?{urlsplit(target).query}"
    for wrong in (of_another, f"{path}?{later}", path, target.replace("Signature=", "Signature=0"), "/"):
        reply = wires(hub.cdn).send(wrong)
        assert reply.status == 403
        assert b"SignatureDoesNotMatch" in reply.body
    head = wires(hub.cdn).send(target, method="HEAD")
    assert (head.status, head.body) == (403, b"")
    assert wires(hub.cdn).send(target).status == 200  # on the same connection: nothing was left in it


def test_no_path_leads_out_of_a_repo(hub: LoopbackHub, wires: Any) -> None:
    for path in ("../sedge-200k-suite/config.json", "%2e%2e/%2e%2e/listing.jsonl", "/etc/passwd", "%2Fetc%2Fpasswd"):
        reply = wires(hub.endpoint).send(f"/{SEDGE}/resolve/main/{path}")
        assert (reply.status, reply.headers["x-error-code"]) == (404, "EntryNotFound")


def test_a_rename_is_relative_and_keeps_path_and_query(hub: LoopbackHub, wires: Any) -> None:
    reply = wires(hub.endpoint).send("/api/models/old/name/tree/main?recursive=true")
    assert (reply.status, reply.headers["location"]) == (307, "/api/models/new/name/tree/main?recursive=true")
    reply = wires(hub.endpoint).send("/old-name/resolve/main/README.md", method="HEAD")
    assert (reply.status, reply.headers["location"]) == (307, "/new/name/resolve/main/README.md")


def test_gated_trees_are_masked(hub: LoopbackHub, wires: Any) -> None:
    target = "/api/models/no/gated/tree/main/onnx"
    (masked,) = wires(hub.endpoint).send(target).json
    assert (masked["lfs"]["oid"], masked["xetHash"]) == ("****", "****")
    (shown,) = wires(hub.endpoint).send(target, token=TOKEN).json
    assert len(shown["xetHash"]) == 64


def test_nothing_leaks_of_what_a_user_may_not_see(hub: LoopbackHub, wires: Any) -> None:
    wire = wires(hub.endpoint)
    former = wire.send("/api/models/no/was-private")
    assert (former.status, "location" in former.headers) == (401, False)
    assert wire.send("/api/models/no/was-private", token=TOKEN).headers["location"] == "/api/models/no/private"
    headers = wire.send("/api/models/no/gated/safetensors-metadata/README.md")
    assert (headers.status, headers.headers["x-error-code"]) == (401, "GatedRepo")
    cached = wire.send(f"/api/resolve-cache/models/no/gated/{hub.repos['no/gated'].sha}/README.md", token="hf_other")
    assert (cached.status, cached.headers["x-error-code"]) == (403, "GatedRepo")


def test_there_is_no_other_page(hub: LoopbackHub, wires: Any) -> None:
    for target in ("/", "/api/datasets", "/new/name", "/api/models/"):
        reply = wires(hub.endpoint).send(target)
        assert (reply.status, "x-error-code" in reply.headers) == (404, False)


def test_access_needs_a_bearer_token(hub: LoopbackHub, wires: Any) -> None:
    for scheme in ("Basic hf_reader", "Bearer", "Bearer "):
        assert wires(hub.endpoint).send("/api/models/no/private", Authorization=scheme).status == 401
    assert wires(hub.endpoint).send("/api/models/no/private", token=TOKEN).status == 200


# ---------------------------------------------------------------- the listing on the wire


def walk(wire: Wire, target: str) -> list[list[dict[str, Any]]]:
    pages = []
    while True:
        reply = wire.send(target)
        assert reply.status == 200, reply.body
        pages.append(reply.json)
        if "link" not in reply.headers:
            return pages
        url = reply.headers["link"].removeprefix("<").removesuffix('>; rel="next"')
        target = f"{urlsplit(url).path}?{urlsplit(url).query}"
        assert url.startswith("http://127.0.0.1:")


@settings(max_examples=25, deadline=None)
@given(
    downloads=st.lists(st.integers(0, 3), max_size=9),
    limit=st.integers(1, 5),
    page_size=st.integers(1, 4),
    sort=st.sampled_from(["downloads", "createdAt", "lastModified", "likes"]),
    ascending=st.booleans(),
)
def test_pages_join_to_one_sorted_listing(
    downloads: list[int], limit: int, page_size: int, sort: str, ascending: bool
) -> None:
    listed = [{"downloads": n, "likes": -n % 3, "createdAt": f"2025-01-0{n + 1}T00:00:00.000Z"} for n in downloads]
    served = [HubRepo(f"o/m{i}", {}, each) for i, each in enumerate(listed)]
    hub = LoopbackHub(served, page_size=page_size)
    with hub:
        wire = Wire(hub.endpoint)
        direction = 1 if ascending else -1
        pages = walk(wire, f"/api/models?sort={sort}&direction={direction}&limit={limit}&expand[]={sort}&expand=sha")
        wire.connection.close()
    rows = [row for page in pages for row in page]
    key = [(repo.listing[sort], repo.id) for repo in served]
    assert [(row[sort], row["id"]) for row in rows] == sorted(key, reverse=not ascending)
    assert all(set(row) == {"_id", "id", "sha", sort} for row in rows)
    assert all(len(page) == min(limit, page_size) for page in pages[:-1])


def test_a_listing_that_changes_under_the_walk_skips_and_repeats(wires: Any) -> None:
    served = [HubRepo(f"o/m{n}", {}, {"downloads": n}) for n in range(4)]
    with LoopbackHub(served, page_size=2) as hub:
        first = wires(hub.endpoint).send("/api/models?sort=downloads")
        assert [row["id"] for row in first.json] == ["o/m3", "o/m2"]
        hub.repos["o/m0"] = replace(served[0], listing={"downloads": 9})
        hub.repos["o/m3"] = replace(served[3], listing={"downloads": 1})
        rest = walk(wires(hub.endpoint), urlsplit(first.headers["link"].split(">")[0][1:])._replace(netloc="").geturl())
    assert [[row["id"] for row in page] for page in rest] == [["o/m3", "o/m1"]]  # m3 again, m0 never


def test_parameters_that_mean_nothing_are_refused(hub: LoopbackHub, wires: Any) -> None:
    wire = wires(hub.endpoint)
    for query in ("sort=size", "direction=up", "limit=0", "limit=-1", "limit=x", "expand=nothing", "expand[]=id"):
        assert wire.send(f"/api/models?{query}").status == 400
    not_given_out = ("x", "%ff", "W10=", "WzEsImEiXQ==", "eyJhIjoxfQ==", "bnVsbA==")  # [], [1,"a"], an object, null
    for cursor in not_given_out:
        assert wire.send(f"/api/models?cursor={cursor}").status == 400
    assert wire.send("/api/models/new/name/tree/main?cursor=x").status == 400


def test_base_models_come_from_the_card(wires: Any) -> None:
    card = {"base_model": ["o/base", "o/other"], "base_model_relation": "merge"}
    tagged = {"tags": ["base_model:quantized:o/base"]}
    served = [HubRepo("o/a", {}, {"cardData": card}), HubRepo("o/b", {}, tagged), HubRepo("o/c", {})]
    served.append(HubRepo("o/d", {}, {"cardData": {"base_model": "o/base"}}))
    with LoopbackHub(served) as hub:
        rows = wires(hub.endpoint).send("/api/models?expand=baseModels").json
    by_id = {row["id"]: row.get("baseModels") for row in rows}
    assert by_id["o/c"] is None
    relations = {name: (b["relation"], [m["id"] for m in b["models"]]) for name, b in by_id.items() if b}
    assert relations == {
        "o/a": ("merge", ["o/base", "o/other"]),
        "o/b": ("quantized", ["o/base"]),
        "o/d": ("finetune", ["o/base"]),
    }


# ---------------------------------------------------------------- quotas, faults and connections


def test_quotas_are_fixed_windows_for_each_kind_and_user(wires: Any) -> None:
    clock = Clock()
    with LoopbackHub(repos(), meter=Meter(Quotas(api=2, resolvers=1, window=60), clock), clock=clock) as hub:
        wire = wires(hub.endpoint)
        first = wire.send("/api/models")
        assert first.headers["ratelimit"] == '"api";r=1;t=60'
        assert first.headers["ratelimit-policy"] == '"fixed window";"api";q=2;w=60'
        told = parse_ratelimit_headers(first.headers)
        assert told is not None
        assert (told.resource_type, told.remaining, told.reset_in_seconds) == ("api", 1, 60)
        assert (told.limit, told.window_seconds) == (2, 60)
        clock.now += 20.5
        missing = wire.send("/api/models/no/body")
        assert (missing.status, missing.headers["ratelimit"]) == (401, '"api";r=0;t=40')
        for _ in range(2):
            refused = wire.send("/api/models")
            assert (refused.status, refused.headers["retry-after"]) == (429, "40")
            assert refused.headers["ratelimit"] == '"api";r=0;t=40'
        assert wire.send("/api/models", token="hf_other").headers["ratelimit"] == '"api";r=1;t=60'
        resolved = wire.send(f"/{SEDGE}/resolve/main/config.json")
        assert (resolved.status, resolved.headers["ratelimit"]) == (307, '"resolvers";r=0;t=60')
        assert "ratelimit" not in wire.send(resolved.headers["location"]).headers
        assert wire.send(LFS_SEDGE, method="HEAD").status == 429
        clock.now += 39.5
        assert wire.send("/api/models").headers["ratelimit"] == '"api";r=1;t=60'


def test_the_documented_quotas_are_the_default_and_none_is_no_limit(hub: LoopbackHub, wires: Any) -> None:
    assert Quotas() == Quotas(api=1000, resolvers=5000, window=300)
    assert "ratelimit" not in wires(hub.endpoint).send("/api/models").headers


class FaultyHub(LoopbackHub):
    """Cuts every body of the CDN short, and answers the API with 503."""

    def answer(self, request: Request) -> Response:
        response = super().answer(request)
        if request.origin == "cdn":
            return replace(response, body=(b"cut",))
        return response if "/resolve/" in request.path else Response(503, {})


def test_faults_come_in_by_overriding_one_method(wires: Any) -> None:
    with FaultyHub(repos()) as hub:
        assert wires(hub.endpoint).send("/api/models").status == 503
        target = location(wires(hub.endpoint), LFS_SEDGE)
        with pytest.raises(http.client.IncompleteRead) as caught:
            wires(hub.cdn).send(target)
    assert caught.value.partial == b"cut"
    assert [(e.origin, e.status, e.bytes) for e in hub.requests][-1] == ("cdn", 200, 3)


def test_one_connection_serves_many_requests(hub: LoopbackHub, wires: Any) -> None:
    wire = wires(hub.endpoint)
    wire.send("/api/models")
    local = wire.connection.sock.getsockname()
    for target in ("/nothing", "/api/models/no/body", LFS_SEDGE, f"/{SEDGE}/resolve/main/config.json"):
        for method in ("HEAD", "GET"):
            reply = wire.send(target, method=method)
            assert "content-length" in reply.headers
    assert wire.connection.sock.getsockname() == local


def test_connections_are_served_side_by_side(hub: LoopbackHub) -> None:
    content = (MINIATURE / SEDGE / "model.safetensors").read_bytes()

    def read(start: int) -> bool:
        hub_wire, cdn_wire = Wire(hub.endpoint), Wire(hub.cdn)
        try:
            target = location(hub_wire, LFS_SEDGE)
            return all(
                cdn_wire.send(target, Range=f"bytes={at}-{at + 999}").body == content[at : at + 1000]
                for at in range(start, start + 5000, 1000)
            )
        finally:
            hub_wire.connection.close()
            cdn_wire.connection.close()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(0, 2400, 100)))
    assert [e.bytes for e in hub.requests if e.origin == "cdn"] == [1000] * 24 * 5


def test_closing_ends_every_thread_though_a_client_reads_no_further() -> None:
    before = set(threading.enumerate())
    hub = LoopbackHub(repos())
    with hub:
        idle, greedy = Wire(hub.endpoint), Wire(hub.cdn)
        target = location(idle, "/big/llama-70b/resolve/main/model-00001-of-00029.safetensors")
        greedy.connection.request("GET", target)  # 5 GB, never read
        assert greedy.connection.getresponse().status == 200
    assert set(threading.enumerate()) == before
    for wire in (idle, greedy):
        wire.connection.close()
    assert hub.requests[-1].bytes < 1e9


# ---------------------------------------------------------------- what is served


def test_counts_of_parameters_are_the_published_ones() -> None:
    assert LLAMA_7B.parameters == 6_738_415_616
    assert LLAMA_70B.parameters == 68_976_648_192
    assert QWEN3_30B_A3B.parameters == 30_532_122_624


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F8_E4M3"])
@pytest.mark.parametrize("experts", [0, 3])
def test_generated_files_are_safetensors_with_finite_weights(dtype: Any, experts: int) -> None:
    geometry = replace(TINY, dtype=dtype, experts=experts)
    shapes = dict(geometry.tensors())
    repo = generated_repo("o/m", geometry, shard_bytes=5000)
    index = json.loads(repo.files["model.safetensors.index.json"].read(0, 10**6))
    found: dict[str, torch.Tensor] = {}
    for path in sorted(set(index["weight_map"].values())):
        file = repo.files[path]
        content = file.read(0, file.size)
        assert len(content) == file.size
        tensors = load(content)
        assert set(tensors) == {name for name, where in index["weight_map"].items() if where == path}
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 5000
        found |= tensors
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == shapes
    assert sum(tensor.nbytes for tensor in found.values()) == index["metadata"]["total_size"]
    weights = torch.cat([tensor.float().flatten() for tensor in found.values()])
    assert torch.isfinite(weights).all()
    assert weights.abs().max() <= 2
    assert abs(weights.mean() / weights.std()) < 4 / math.sqrt(len(weights))
    assert len({float(tensor.float().std()) for tensor in found.values()}) == len(found)


def test_one_file_has_no_index() -> None:
    repo = generated_repo("o/m", TINY, listing={"likes": 3})
    assert sorted(repo.files) == ["config.json", "model.safetensors"]
    assert repo.listing["likes"] == 3
    assert repo.property("safetensors") == {"parameters": {"BF16": TINY.parameters}, "total": TINY.parameters}


def splitmix(position: int, seed: int) -> int:
    """The hash in Python's own integers, written from the paper's definition."""
    z = (position * 0x9E3779B97F4A7C15 + seed) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


BIG = generated_repo("o/big", LLAMA_70B, seed=5).files["model-00003-of-00029.safetensors"]


@settings(max_examples=150, deadline=None)
@given(start=st.integers(0, BIG.size), lengths=st.lists(st.integers(0, 100), max_size=6))
def test_bytes_depend_on_their_position_alone(start: int, lengths: list[int]) -> None:
    check_split(start, lengths)


@settings(max_examples=60, deadline=None)
@given(back=st.integers(-100, 100), lengths=st.lists(st.integers(0, 100), min_size=1, max_size=6))
def test_ranges_meet_around_the_end_of_the_header(back: int, lengths: list[int]) -> None:
    length = 8 + int.from_bytes(BIG.read(0, 8), "little")
    check_split(length + back, lengths)
    check_split(BIG.size - 100 + back, lengths)


def check_split(start: int, lengths: list[int]) -> None:
    """Pieces of any lengths join to the whole, and the whole is the header and then the hash."""
    start = min(start, BIG.size)
    edges = [start]
    for length in lengths:
        edges.append(min(edges[-1] + length, BIG.size))
    pieces = [BIG.read(a, b) for a, b in pairwise(edges)]
    whole = BIG.read(start, edges[-1])
    assert [len(piece) for piece in pieces] == list(np.diff(edges))
    assert b"".join(pieces) == whole
    header = 8 + int.from_bytes(BIG.read(0, 8), "little")
    seed = int.from_bytes(hashlib.sha256(b"5 model-00003-of-00029.safetensors").digest()[:8], "little")
    for at in range(max(start, header), edges[-1]):
        word = splitmix(at // 8, seed) & 0x81FF_81FF_81FF_81FF | 0x3C00_3C00_3C00_3C00
        assert whole[at - start] == word.to_bytes(8, "little")[at % 8]


def test_the_header_of_a_generated_shard_describes_the_whole_file() -> None:
    for path, file in generated_repo("o/moe", QWEN3_30B_A3B).files.items():
        if path.endswith(".safetensors"):
            length = int.from_bytes(file.read(0, 8), "little")
            entries = parse_header(file.read(0, 8 + length), file_size=file.size, file=path).entries
            assert max(entry.stop for entry in entries) == file.size


def test_seeds_and_shards_differ_and_equal_repos_agree() -> None:
    def files(seed: int) -> dict[str, Any]:
        repo = generated_repo(f"o/m{seed}", TINY, seed=seed, shard_bytes=4096)
        return {path: file for path, file in repo.files.items() if path.endswith(".safetensors")}

    assert {p: f.sha256 for p, f in files(1).items()} == {p: f.sha256 for p, f in files(1).items()}
    tails = [file.read(file.size - 64, file.size) for seed in (1, 2) for file in files(seed).values()]
    assert len(set(tails)) == len(tails)
    assert len({file.sha256 for seed in (1, 2) for file in files(seed).values()}) == len(tails)


def write_listing(root: Path, *lines: dict[str, Any]) -> None:
    (root / "listing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_folder_repos_leave_links_and_hidden_files_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (tmp_path / "o/m/deep").mkdir(parents=True)
    (tmp_path / "o/m/.git").mkdir()
    for path in ("a.txt", "deep/b.txt", ".hidden", ".git/config"):
        (tmp_path / "o/m" / path).write_text(path)
    (tmp_path / "o/m/link.txt").symlink_to(tmp_path / "secret")
    (tmp_path / "o/m/linked").symlink_to(tmp_path)
    write_listing(tmp_path, {"id": "o/m", "downloads": None})
    (repo,) = folder_repos(tmp_path)
    assert sorted(repo.files) == ["a.txt", "deep/b.txt"]
    assert (repo.listing["downloads"], repo.listing["author"]) == (0, "o")


def test_a_file_written_anew_has_a_new_digest(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    path = tmp_path / "m/model.safetensors"
    write_listing(tmp_path, {"id": "m"})
    for stamp, content in enumerate((b"first", b"other")):
        path.write_bytes(content)
        os.utime(path, (stamp, stamp))
        (repo,) = folder_repos(tmp_path)
        assert repo.files["model.safetensors"].sha256 == hashlib.sha256(content).hexdigest()


def test_folders_that_cannot_be_served(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "o/m").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "o/linked").symlink_to(tmp_path / "outside")
    with pytest.raises(SourceError, match=r"listing.jsonl' cannot be read: No such file"):
        folder_repos(root)
    for line, message in (
        ({"id": "../outside"}, r"repo id '../outside'"),
        ({"id": "o/absent"}, "is no folder"),
        ({"id": "o/linked"}, "is no folder"),
        ({"id": "o/m", "sha": "abc"}, "40 hexadecimal digits"),
        ({"no": "id"}, "line 1"),
    ):
        write_listing(root, line)
        with pytest.raises(SourceError, match=message):
            folder_repos(root)
