"""`provenance doctor` against the loopback hub as it is, as it should not be, and where there is none."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from provenance.crawler.hub.listing import PAGE
from provenance.demo_hub import HubRepo, LoopbackHub, MemoryFile, Request, Response
from provenance.hub_check.doctor import CHECKS, Finding, diagnose
from provenance.schemas.errors import SourceError
from tests.hub.quotas import Meter, Quotas
from tests.support.command_line import ROOT, Run

REPO = "acme/model"
WEIGHTS = (2).to_bytes(8, "little") + b"{}"
FILES = {"config.json": MemoryFile(b'{"a": 1}'), "model.safetensors": MemoryFile(WEIGHTS)}
RESOLVE, LISTING = f"/{REPO}/resolve/", "/api/models?"
TOKEN = "hf_TheTokenOfTheUser"

Change = Callable[[Request, Response], Response]


class ChangedHub(LoopbackHub):
    """A hub with more repos than fit on a page, whose answers pass through `changes` by the beginning of a target."""

    def __init__(self, repos: int = PAGE + 5) -> None:
        super().__init__([model(), *map(other, range(repos - 1))], meter=Meter(Quotas(10**6, 10**6)))
        self.changes: dict[str, Change] = {}

    def answer(self, request: Request) -> Response:
        response = super().answer(request)
        for start, change in self.changes.items():
            if request.target.startswith(start):
                response = change(request, response)
        return response


def model(**more: object) -> HubRepo:
    return HubRepo(REPO, FILES, {"tags": ["safetensors"], "cardData": {"base_model": "acme/base"}, **more})


def other(number: int) -> HubRepo:
    """One of many repos; none has weights, or the listing would be slow."""
    time = f"2024-{number // 672 + 1:02}-{number // 24 % 28 + 1:02}T{number % 24:02}:00:00.000Z"
    return HubRepo(f"crowd/m{number}", {}, {"createdAt": time})


def headers(**changed: str | None) -> Change:
    """Change or, where null, remove headers."""

    def change(request: Request, response: Response) -> Response:
        names = {name.replace("_", "-"): value for name, value in changed.items()}
        fields = {name: value for name, value in response.headers.items() if name not in names}
        return replace(response, headers=fields | {name: value for name, value in names.items() if value is not None})

    return change


def status(number: int, **fields: str) -> Change:
    return lambda request, response: Response(number, fields)


def body(change: Callable[[Request, Any], Any]) -> Change:
    """Change the JSON of an answer; errors stay as they are."""

    def changed(request: Request, response: Response) -> Response:
        if response.status != 200:
            return response
        content = json.dumps(change(request, json.loads(b"".join(response.body)))).encode()
        return replace(response, length=len(content), body=(content,))

    return changed


def without(*names: str) -> Change:
    def cut(request: Request, value: Any) -> Any:
        if isinstance(value, list):
            return [cut(request, row) for row in value]
        return {name: item for name, item in value.items() if name not in names}

    return body(cut)


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nonexistent")


@pytest.fixture(scope="module")
def running() -> Iterator[ChangedHub]:
    hub = ChangedHub()
    with hub:
        yield hub


@pytest.fixture
def hub(running: ChangedHub) -> ChangedHub:
    """The hub as it should be."""
    running.changes.clear()
    running.requests.clear()
    running.repos[REPO] = model()
    return running


def findings(hub: ChangedHub, repo: str = REPO) -> dict[str, Finding]:
    return {finding.check: finding for finding in diagnose(hub.endpoint, repo)}


def test_a_hub_as_assumed(hub: ChangedHub, run: Run) -> None:
    done = run("doctor", REPO, "--endpoint", hub.endpoint, "--format", "json")
    assert [row for row in done.json if row["result"] != "ok"] == []
    assert (done.status, done.err) == (0, f"{len(CHECKS)} checks: {len(CHECKS)} ok\n")
    assert [row["check"] for row in done.json] == [check.name for check in CHECKS]
    assert set(done.json[0]) == {"check", "result", "found", "assumed", "how"}
    found = {row["check"]: row["found"] for row in done.json}
    assert f"{len(WEIGHTS)} bytes" in found["large-file"]
    assert "of 1,000,000 left" in found["budgets"]
    assert f"{PAGE + 5:,} repos on two pages" in found["listing-order"]


def test_few_requests_and_bytes(hub: ChangedHub) -> None:
    list(diagnose(hub.endpoint, REPO))
    assert len(hub.requests) <= 20
    assert [exchange.range for exchange in hub.requests if exchange.origin == "cdn"] == ["bytes=0-7"]


def test_no_secret_is_shown_or_sent_away(hub: ChangedHub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = run("doctor", REPO, "--endpoint", hub.endpoint, "--format", "json")
    assert done.status == 0
    hub.changes["/lfs/"] = status(403)
    refused = run("doctor", REPO, "--endpoint", hub.endpoint, "--format", "table")
    assert refused.status == 1
    for text in (done.out, done.err, refused.out, refused.err):
        assert TOKEN not in text
        assert "Signature" not in text
    sent = {exchange.origin: "authorization" in exchange.headers for exchange in hub.requests}
    assert sent == {"hub": True, "cdn": False}


BACKWARDS = body(lambda request, page: page[::-1])
AGAIN = body(lambda request, page: [other(5).listing, *page] if request.value("cursor") else page)
SHORT = body(lambda request, page: page[:500])
NONE = body(lambda request, page: [])
TEXTS = body(lambda request, page: ["acme/model"])
BASE = body(lambda request, page: [{**row, "baseModels": ["acme/base"]} for row in page])
SIZELESS = body(lambda request, row: {**row, "siblings": [{"rfilename": "a"}]})
MANY = body(lambda request, page: page * PAGE)
FOLLOWED = headers(Link='</api/models?cursor=x>; rel="next"')


DIFFERENCES: list[tuple[str, Change, str, str]] = [
    (LISTING, without("sha", "likes"), "listing-fields", "has sha, likes"),
    (LISTING, without("siblings"), "listing-fields", "has siblings"),
    (LISTING, without("cardData"), "listing-cards", "cardData"),
    (LISTING, BASE, "listing-cards", "baseModels is not"),
    (LISTING, SHORT, "listing-page", "500 repos where 1,000 were asked for, with a next page"),
    (f"{LISTING}sort=createdAt", headers(Link=None), "listing-page", "1,000 were asked for, without a next page"),
    (f"{LISTING}sort=createdAt", BACKWARDS, "listing-order", "descending order of createdAt"),
    (f"{LISTING}sort=createdAt", without("createdAt"), "listing-order", "no createdAt"),
    (f"{LISTING}sort=createdAt", AGAIN, "listing-order", "1 repos of the first page come again"),
    (f"{LISTING}sort=lastModified", BACKWARDS, "listing-changes", "descending order of lastModified"),
    (f"{LISTING}author", FOLLOWED, "listing-end", "a next page"),
    (f"{LISTING}author", NONE, "listing-end", "no repo of acme is listed"),
    (f"{LISTING}author", TEXTS, "listing-end", "not a list of objects"),
    (f"{LISTING}author", status(400), "listing-end", "(400)"),
    (f"{LISTING}author", headers(Link='<http://127.0.0.2/x>; rel="next"'), "listing-end", "another server"),
    (f"/api/models/{REPO}", without("sha"), "repo-files", "no whole commit"),
    (f"/api/models/{REPO}", SIZELESS, "repo-files", "0 of 1 files have a size"),
    (RESOLVE, headers(X_Linked_Size=None), "large-file", "without the size"),
    (RESOLVE, headers(X_Linked_Size="7"), "large-file", "X-Linked-Size is 7"),
    (RESOLVE, headers(X_Linked_ETag='"abc"'), "large-file", "X-Linked-ETag"),
    (RESOLVE, headers(X_Repo_Commit="0" * 40), "large-file", "X-Repo-Commit"),
    (RESOLVE, status(200), "large-file", "answers 200 in place of a redirect"),
    (RESOLVE, headers(Location="http://[/"), "large-file", "malformed"),
    (RESOLVE, headers(Location="ftp://127.0.0.1/"), "large-file-address", "not an http"),
    (RESOLVE, headers(Location="/lfs/1?Expires=9999999999"), "large-file-address", "the Hub's own server"),
    (RESOLVE, headers(Location="http://127.0.0.1:9/f?until=tomorrow"), "large-file-address", "cannot be read"),
    (RESOLVE, headers(Location="http://127.0.0.1:9/f?Expires=1700000000"), "large-file-address", "has passed"),
    ("/lfs/", status(200), "storage-range", "ignores Range"),
    ("/lfs/", status(401), "storage-range", "without a token"),
    ("/lfs/", status(403), "storage-range", "without a token"),
    ("/lfs/", headers(Content_Range="bytes 1-8/10"), "storage-range", "sends others"),
    (RESOLVE, status(200), "small-file", "answers 200 in place of 307"),
    (RESOLVE, headers(Location="/settings/tokens"), "small-file", "something else than /api/resolve-cache/"),
    (RESOLVE, headers(X_Repo_Commit=None), "small-file", "X-Repo-Commit"),
    ("/api/resolve-cache/", status(404), "small-file", "404 and 0 bytes, 8 are listed"),
    (LISTING, headers(RateLimit="api: 12"), "budgets", '"api"'),
    (RESOLVE, headers(RateLimit_Policy=None), "budgets", '"resolvers"'),
    ("/api/models/provenance-doctor/", headers(X_Error_Code=None), "missing-repo", "'missing', not 'RepoNotFound'"),
    ("/api/models/provenance-doctor/", status(200), "missing-repo", "200 with X-Error-Code"),
    (RESOLVE, headers(X_Error_Code="EntryNotFound"), "missing-revision", "'EntryNotFound', not 'RevisionNotFound'"),
    (RESOLVE, headers(X_Error_Code="Gone\x1b[31m"), "missing-file", "not 'EntryNotFound'"),
]


@pytest.mark.parametrize(("start", "change", "check", "found"), DIFFERENCES)
def test_each_difference_is_reported(hub: ChangedHub, start: str, change: Change, check: str, found: str) -> None:
    hub.changes[start] = change
    finding = findings(hub)[check]
    assert finding.result == "differs", finding.found
    assert found in finding.found


def test_every_check_can_differ() -> None:
    assert {check for _, _, check, _ in DIFFERENCES} == {check.name for check in CHECKS}


def test_several_differences_at_once(hub: ChangedHub, run: Run) -> None:
    hub.changes[RESOLVE] = headers(X_Repo_Commit=None)
    hub.changes["/lfs/"] = status(200)
    done = run("doctor", REPO, "--endpoint", hub.endpoint, "--format", "table")
    assert (done.status, done.err) == (1, f"{len(CHECKS)} checks: {len(CHECKS) - 3} ok, 3 differs\n")
    differing = re.findall(r"^(\S+) +differs", done.out, re.MULTILINE)
    assert differing == ["large-file", "storage-range", "small-file"]


@pytest.mark.parametrize(
    ("start", "change", "check", "found"),
    [
        (RESOLVE, status(429), "large-file", "too many requests"),
        (RESOLVE, status(503), "missing-file", "down or busy"),
        (RESOLVE, status(403, **{"X-Error-Code": "GatedRepo"}), "small-file", "gated"),
        ("/api/resolve-cache/", status(503), "small-file", "down or busy"),
        ("/lfs/", status(503), "storage-range", "down or busy"),
        ("/api/models/provenance-doctor/", status(429), "missing-repo", "too many requests"),
        (LISTING, without("baseModels"), "listing-cards", "declares a base model"),
        (f"{LISTING}author", lambda *given: FOLLOWED(given[0], MANY(*given)), "listing-end", "a smaller owner"),
    ],
)
def test_what_tells_nothing_is_no_difference(
    hub: ChangedHub, start: str, change: Change, check: str, found: str
) -> None:
    hub.changes[start] = change
    finding = findings(hub)[check]
    assert (finding.result, found in finding.found) == ("could not be checked", True), finding.found


def test_a_small_hub_cannot_show_a_full_page() -> None:
    hub = ChangedHub(3)
    with hub:
        found = findings(hub)
    unchecked = {name for name, finding in found.items() if finding.result == "could not be checked"}
    assert unchecked == {"listing-page", "listing-order"}


def test_a_repo_that_is_not_there(hub: ChangedHub, run: Run) -> None:
    done = run("doctor", "acme/nothing", "--endpoint", hub.endpoint, "--format", "json")
    assert done.status == 1
    found = {row["check"]: row for row in done.json}
    assert found["large-file"]["result"] == "could not be checked"
    assert "acme/nothing: there is no such repo" in found["large-file"]["found"]
    assert found["listing-order"]["result"] == "ok"


@pytest.mark.parametrize(
    ("files", "check", "found"),
    [
        ({"config.json": FILES["config.json"]}, "large-file", "no file in large storage"),
        ({"model.safetensors": FILES["model.safetensors"]}, "small-file", "no small file"),
    ],
)
def test_a_repo_without_the_files(hub: ChangedHub, files: dict[str, MemoryFile], check: str, found: str) -> None:
    hub.repos[REPO] = HubRepo(REPO, files)
    finding = findings(hub)[check]
    assert (finding.result, found in finding.found) == ("could not be checked", True), finding.found


def test_a_repo_without_an_owner(hub: ChangedHub) -> None:
    hub.repos["model"] = HubRepo("model", FILES)
    try:
        found = findings(hub, "model")
    finally:
        del hub.repos["model"]
    assert {name for name, f in found.items() if f.result != "ok"} == {"listing-end"}


def test_the_smallest_weights_are_asked_for(hub: ChangedHub) -> None:
    more = {"big.safetensors": MemoryFile(WEIGHTS * 9), "a.bin": MemoryFile(b"1")}
    hub.repos[REPO] = HubRepo(REPO, FILES | more, {"tags": ["x"]})
    found = findings(hub)["large-file"]
    assert (found.result, found.found.partition(":")[0]) == ("ok", "model.safetensors")
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert [e.path.partition("?")[0] for e in hub.requests if e.origin == "cdn"] == [f"/lfs/{digest}"]


# No hub at all


def test_an_endpoint_where_nothing_listens(run: Run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        done = run("doctor", "--endpoint", f"http://127.0.0.1:{port}")
    assert (done.status, done.out) == (1, "")
    assert re.fullmatch(r"provenance: no answer from 127\.0\.0\.1 \(ConnectError\); check .*\n", done.err)


def test_an_answer_that_breaks_off(run: Run) -> None:
    hub = ChangedHub(1)
    with hub:
        hub.changes["/api/models"] = lambda request, response: Response(200, {}, 5, (b"x",))
        done = run("doctor", "--endpoint", hub.endpoint, "--format", "json")
    assert done.status == 1
    assert done.json[0]["result"] == "could not be checked"
    assert "the connection broke" in done.json[0]["found"]


def test_a_login_that_is_not_valid(hub: ChangedHub) -> None:
    hub.changes["/"] = status(401)
    with pytest.raises(SourceError, match="valid login"):
        list(diagnose(hub.endpoint, REPO))


@pytest.mark.parametrize("endpoint", ["hub.example.org", "ftp://hub.example.org"])
def test_an_endpoint_that_is_no_address(run: Run, endpoint: str) -> None:
    done = run("doctor", "--endpoint", endpoint)
    assert (done.status, done.out) == (1, "")
    assert "cannot be the endpoint of a Hub" in done.err


def test_offline_mode(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = run("doctor")
    assert (done.status, done.out) == (1, "")
    assert "HF_HUB_OFFLINE" in done.err


def test_the_page_lists_every_check() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.partition("\n## What could not be tested here\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| (.+?) \| `([\w-]+)` \|$", section, re.MULTILINE)
    assert listed == [(check.assumed, check.name) for check in CHECKS]
