"""Requests to a Hub and its storage, played by two servers on loopback addresses that answer as each test says."""

from __future__ import annotations

import logging
import re
import socket
import struct
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.crawler.hub.answers import (
    UNKNOWN_LIFETIME,
    Location,
    RateLimit,
    RefusedError,
    ResponseError,
    TransferError,
    TransportError,
    failure,
    origin,
    rate_limits,
    renewal_time,
)
from provenance.crawler.hub.budget import Budgets
from provenance.crawler.hub.reader import HubReader
from provenance.crawler.hub.transport import LONGEST_WAIT, SMALL_FILE, HubTransport
from provenance.schemas.enums import Source
from provenance.schemas.errors import WeightsError
from provenance.schemas.identity import CheckpointId
from provenance.schemas.protocols import TensorReader
from provenance.schemas.records import ListedCheckpoint, RepoFile

SHA, SHA256 = "a1" * 20, "5f" * 32
TOKEN, SECRET = "hf_TheTokenOfTheUser", "TheSignatureOfTheStorage"
WEIGHTS = bytes(range(256)) * 40
FILE = "model.safetensors"
RESOLVE = f"/acme/model/resolve/{SHA}/{FILE}"


@dataclass(frozen=True)
class Reply:
    """An answer; `announced` is a Content-Length that is not the body's, `reset` breaks the connection instead."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    announced: int | None = None
    chunked: bool = False
    reset: bool = False


@dataclass(frozen=True)
class Asked:
    path: str
    headers: Mapping[str, str]


Script = Callable[[Asked], Reply]


class Stand(ThreadingHTTPServer):
    """One origin. `script` answers every request; all of them are kept in `asked`."""

    daemon_threads = True
    script: Script

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[Asked] = []
        self.connections = 0
        self.sent = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Stand

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        asked = Asked(self.path, {name.lower(): value for name, value in self.headers.items()})
        self.server.asked.append(asked)
        reply = self.server.script(asked)
        if reply.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(reply.body), reply.body) if reply.chunked else reply.body
        if reply.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body) if reply.announced is None else reply.announced))
        self.end_headers()
        try:
            self.wfile.write(body)
            self.server.sent += len(body)
        except ConnectionError:
            self.close_connection = True
        if reply.announced is not None:
            self.close_connection = True

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, ValueError):  # the client hung up, or the test broke the connection
            return

    def finish(self) -> None:
        try:
            super().finish()
        except (ConnectionError, ValueError):
            return

    def log_message(self, *args: Any) -> None:
        return


@pytest.fixture
def stands() -> Iterator[tuple[Stand, Stand]]:
    """A hub that redirects the weights to the storage, and the storage with them."""
    hub, storage = Stand(), Stand()
    hub.script = lambda asked: signed(storage)
    storage.script = ranged
    threads = [Thread(target=stand.serve_forever, args=(0.02,), daemon=True) for stand in (hub, storage)]
    for thread in threads:
        thread.start()
    yield hub, storage
    for stand, thread in zip((hub, storage), threads, strict=True):
        stand.shutdown()
        stand.server_close()
        thread.join()


@pytest.fixture
def hub(stands: tuple[Stand, Stand]) -> Stand:
    return stands[0]


@pytest.fixture
def storage(stands: tuple[Stand, Stand]) -> Stand:
    return stands[1]


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def transport(
    hub: Stand, storage: Stand, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> Iterator[HubTransport]:
    """A transport to the hub. Whatever the test does, no secret may end up in a log or with the storage."""
    caplog.set_level(logging.DEBUG)
    sent = {"authorization": f"Bearer {TOKEN}", "user-agent": "tests", "cookie": "session"}
    transport = HubTransport(hub.url, sent, pause=pauses.append)
    yield transport
    transport.close()
    logged = [record.getMessage() for record in caplog.get_records("call")]
    assert any("urllib3" in record.name for record in caplog.get_records("call")) or not hub.asked
    assert not any(TOKEN in message or SECRET in message for message in logged)
    for asked in storage.asked:
        assert TOKEN not in str(asked)
        assert "cookie" not in asked.headers
        assert asked.headers["user-agent"] == "tests"
    for asked in hub.asked:
        assert asked.headers["authorization"] == f"Bearer {TOKEN}"
        assert SECRET not in str(asked)
    of_files = [asked for asked in hub.asked if not asked.path.startswith("/api/")]
    assert all(asked.headers["accept-encoding"] == "identity" for asked in of_files + storage.asked)


def signed(storage: Stand, **headers: str) -> Reply:
    """The hub's redirect to the storage."""
    query = urlencode({"Expires": int(time.time()) + 3600, "Signature": SECRET})
    given = {
        "Location": f"{storage.url}/lfs/{SHA256}?{query}",
        "X-Repo-Commit": SHA,
        "X-Linked-Size": str(len(WEIGHTS)),
        "X-Linked-ETag": f'"{SHA256}"',
        "X-Xet-Hash": "e7" * 32,
    }
    return Reply(302, given | {name.replace("_", "-"): value for name, value in headers.items()})


def ranged(asked: Asked) -> Reply:
    """The storage's answer to a range of the weights."""
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers["range"])
    assert found is not None
    start, last = int(found[1]), int(found[2])
    return Reply(206, {"Content-Range": f"bytes {start}-{last}/{len(WEIGHTS)}"}, WEIGHTS[start : last + 1])


def script(*replies: Reply | Script) -> Script:
    """Each answer once, in this order, and the last one again and again."""
    left = list(replies)

    def answer(asked: Asked) -> Reply:
        reply = left.pop(0) if len(left) > 1 else left[0]
        return reply(asked) if callable(reply) else reply

    return answer


def refused(error: type[TransportError], act: Callable[[], object]) -> Any:
    """The error that `act` raises; neither it nor the errors behind it tell a secret."""
    with pytest.raises(error) as caught:
        act()
    told = "".join(traceback.format_exception(caught.value))
    behind: BaseException | None = caught.value
    while behind is not None:
        told += str(behind) + repr(behind)
        behind = behind.__cause__ or behind.__context__
    assert TOKEN not in told
    assert SECRET not in told
    assert "\n" not in str(caught.value)
    return caught.value


def locate(transport: HubTransport, path: str = FILE) -> Location:
    return transport.resolve("acme/model", SHA, path)


def read(transport: HubTransport, start: int = 10, stop: int = 50) -> bytes:
    (data,) = transport.read_ranges(locate(transport), [(start, stop)])
    return data


# ---------------------------------------------------------------- where a file lies


def test_a_large_file_lies_in_the_storage(transport: HubTransport, hub: Stand, storage: Stand) -> None:
    location = locate(transport)
    assert (location.repo_id, location.path, location.commit) == ("acme/model", FILE, SHA)
    assert (location.size, location.sha256, location.xet_hash) == (len(WEIGHTS), SHA256, "e7" * 32)
    assert location.body is None
    assert time.time() + 3000 < location.renew_at < time.time() + 3600
    assert SECRET in location.url
    assert SECRET not in repr(location) + str(location)
    assert [asked.path for asked in hub.asked] == [RESOLVE]
    assert storage.asked == []


def test_a_masked_digest_is_null(transport: HubTransport, hub: Stand, storage: Stand) -> None:
    hub.script = script(signed(storage, X_Linked_ETag='"****"', X_Xet_Hash="****"))
    location = locate(transport)
    assert location.sha256 is None
    assert location.xet_hash is None


def test_a_small_file_is_served_by_the_hub(transport: HubTransport, hub: Stand, storage: Stand) -> None:
    cached = f"/api/resolve-cache/models/acme/model/{SHA}/config.json?etag=1"
    hub.script = script(
        Reply(307, {"Location": cached, "X-Repo-Commit": SHA}), Reply(200, {"ETag": '"x"'}, b'{"a": 1}')
    )
    location = locate(transport, "config.json")
    assert location.body == b'{"a": 1}'
    assert (location.size, location.commit, location.sha256) == (8, SHA, None)
    assert list(transport.read_ranges(location, [(0, 8), (1, 4), (3, 3)])) == [b'{"a": 1}', b'"a"', b""]
    assert [asked.path for asked in hub.asked] == [f"/acme/model/resolve/{SHA}/config.json", cached]
    assert hub.connections == 1
    assert transport.traffic.resolve_requests == 1
    assert transport.traffic.bytes == 8


@pytest.mark.parametrize("absolute", [False, True])
def test_a_renamed_repo_is_followed_on_the_hub(
    transport: HubTransport, hub: Stand, storage: Stand, *, absolute: bool
) -> None:
    renamed = f"/acme/renamed/resolve/{SHA}/{FILE}"
    hub.script = script(Reply(307, {"Location": (hub.url if absolute else "") + renamed}), signed(storage))
    location = locate(transport)
    assert location.repo_id == "acme/renamed"
    assert [asked.path for asked in hub.asked] == [RESOLVE, renamed]
    hub.script = script(signed(storage))
    location.renew_at = 0
    assert list(transport.read_ranges(location, [(0, 4)])) == [WEIGHTS[:4]]
    assert hub.asked[-1].path == renamed


def test_an_endpoint_may_have_a_path(hub: Stand, storage: Stand) -> None:
    transport = HubTransport(f"{hub.url}/mirror/", {})
    hub.script = script(Reply(307, {"Location": f"/mirror/new/name/resolve/{SHA}/{FILE}"}), signed(storage))
    assert locate(transport).repo_id == "new/name"
    assert hub.asked[0].path == f"/mirror{RESOLVE}"
    transport.close()


def test_paths_and_revisions_are_quoted(transport: HubTransport, hub: Stand, storage: Stand) -> None:
    hub.script = script(signed(storage))
    transport.resolve("acme/model", "refs/pr/1", "a b/ü?#%41.safetensors")
    assert hub.asked[0].path == "/acme/model/resolve/refs%2Fpr%2F1/a%20b/%C3%BC%3F%23%2541.safetensors"


@pytest.mark.parametrize("path", ["../other/model.safetensors", "a/../../b", "/etc/passwd", "a//b", "", ".", "a/./b"])
def test_a_path_out_of_the_repo_is_refused(transport: HubTransport, hub: Stand, path: str) -> None:
    refused(ResponseError, lambda: transport.resolve("acme/model", SHA, path))
    refused(ResponseError, lambda: transport.resolve("../acme", SHA, FILE))
    refused(ResponseError, lambda: transport.resolve("acme/model", "..", FILE))
    assert hub.asked == []


def test_a_redirect_to_somewhere_else_is_refused(transport: HubTransport, hub: Stand, storage: Stand) -> None:
    hub.script = script(Reply(302, {"Location": f"{storage.url}/lfs?Signature={SECRET}"}))
    error = refused(ResponseError, lambda: locate(transport))
    assert "127.0.0.1" in str(error)
    assert "not followed" in str(error)
    assert storage.asked == []


@pytest.mark.parametrize(
    "target",
    [
        "/login?next=/acme/model",
        "/",
        f"/acme/model/resolve/{SHA}/other.safetensors",
        f"/acme/model/resolve/{'b2' * 20}/{FILE}",
        f"/acme/model/extra/resolve/{SHA}/{FILE}",
        "ftp://127.0.0.1/weights",
        "http://[broken/weights",
        "http:///weights",
        "http://127.0.0.1:99999/weights",
        "",
    ],
)
def test_a_redirect_to_something_else_is_refused(
    transport: HubTransport, hub: Stand, storage: Stand, target: str
) -> None:
    hub.script = script(Reply(302, {"Location": target}))
    refused(ResponseError, lambda: locate(transport))
    assert len(hub.asked) == 1


def test_a_redirect_in_a_circle_is_refused(transport: HubTransport, hub: Stand) -> None:
    other = f"/acme/other/resolve/{SHA}/{FILE}"
    hub.script = lambda asked: Reply(307, {"Location": other if asked.path == RESOLVE else RESOLVE})
    assert "circle" in str(refused(ResponseError, lambda: locate(transport)))
    assert len(hub.asked) == 2


def test_redirects_come_to_an_end(transport: HubTransport, hub: Stand) -> None:
    hub.script = lambda asked: Reply(307, {"Location": f"/acme/m{len(hub.asked)}/resolve/{SHA}/{FILE}"})
    refused(ResponseError, lambda: locate(transport))
    assert len(hub.asked) == 5


def test_https_never_leads_to_http(hub: Stand) -> None:
    transport = HubTransport("https://127.0.0.1:1", {})
    transport._origin = ("https", "hub.example", 443)  # so that the redirect seems to come from there
    hub.script = script(Reply(302, {"Location": f"http://127.0.0.1:1/lfs?Signature={SECRET}", "X-Linked-Size": "1"}))
    transport.endpoint = hub.url
    assert "https to http" in str(refused(ResponseError, lambda: locate(transport)))
    transport.close()


def test_another_commit_is_refused(transport: HubTransport, hub: Stand, storage: Stand) -> None:
    hub.script = script(signed(storage, X_Repo_Commit="b2" * 20))
    assert "another" in str(refused(ResponseError, lambda: locate(transport)))
    assert transport.resolve("acme/model", "main", FILE).commit == "b2" * 20


@pytest.mark.parametrize("chunked", [False, True])
def test_the_hub_is_not_read_without_bound(transport: HubTransport, hub: Stand, *, chunked: bool) -> None:
    if chunked:
        hub.script = script(Reply(200, body=bytes(SMALL_FILE + 1), chunked=True))
    else:
        hub.script = script(Reply(200, body=b"x", announced=SMALL_FILE + 1))
    assert "not read" in str(refused(ResponseError, lambda: locate(transport)))
    assert transport.traffic.bytes == 0


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, "gated"),
        (403, {"X-Error-Code": "GatedRepo"}, "gated"),
        (401, {"X-Error-Code": "RepoNotFound"}, "no-repo"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no-revision"),
        (404, {"X-Error-Code": "EntryNotFound"}, "no-file"),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, "disabled"),
        (401, {}, "login"),
        (403, {}, "forbidden"),
    ],
)
def test_a_refusal_says_why(
    transport: HubTransport, hub: Stand, pauses: list[float], status: int, headers: dict[str, str], reason: str
) -> None:
    hub.script = script(Reply(status, headers, b"<html>"))
    error = refused(RefusedError, lambda: locate(transport))
    assert (error.reason, error.stage) == (reason, "plan")
    assert str(error).startswith(f"acme/model/{FILE}: ")
    assert len(hub.asked) == 1
    assert pauses == []


# ---------------------------------------------------------------- ranges


def test_ranges_come_in_the_order_asked_over_one_connection(
    transport: HubTransport, hub: Stand, storage: Stand
) -> None:
    ranges = [(500, 900), (0, 8), (8, 8), (len(WEIGHTS) - 1, len(WEIGHTS)), (0, len(WEIGHTS))]
    location = locate(transport)
    assert list(transport.read_ranges(location, ranges)) == [WEIGHTS[start:stop] for start, stop in ranges]
    asked = [request.headers["range"] for request in storage.asked]
    assert asked == [
        "bytes=500-899",
        "bytes=0-7",
        f"bytes={len(WEIGHTS) - 1}-{len(WEIGHTS) - 1}",
        f"bytes=0-{len(WEIGHTS) - 1}",
    ]
    assert (len(hub.asked), hub.connections, storage.connections) == (1, 1, 1)
    traffic = transport.traffic
    assert (traffic.api_requests, traffic.resolve_requests, traffic.range_requests) == (0, 1, 4)
    assert traffic.bytes == 400 + 8 + 1 + len(WEIGHTS)


def test_workers_share_a_transport(transport: HubTransport, hub: Stand, storage: Stand) -> None:
    starts = range(0, 4000, 100)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda start: read(transport, start, start + 50), starts))
    assert found == [WEIGHTS[start : start + 50] for start in starts]
    traffic = transport.traffic
    assert (traffic.resolve_requests, traffic.range_requests, traffic.bytes) == (40, 40, 2000)
    assert max(hub.connections, storage.connections) <= 8


@pytest.mark.parametrize("bad", [(0, len(WEIGHTS) + 1), (5, 4), (-1, 4)])
def test_a_range_outside_the_file_is_not_asked_for(
    transport: HubTransport, storage: Stand, bad: tuple[int, int]
) -> None:
    with pytest.raises(WeightsError, match=rf"has {len(WEIGHTS)} bytes"):
        list(transport.read_ranges(locate(transport), [bad]))
    assert storage.asked == []


def test_an_ignored_range_is_refused_unread(transport: HubTransport, storage: Stand, pauses: list[float]) -> None:
    storage.script = script(Reply(200, body=bytes(64 * 1024 * 1024)))
    assert "ignores Range" in str(refused(ResponseError, lambda: read(transport)))
    assert transport.traffic.bytes == 0
    assert storage.sent < 64 * 1024 * 1024
    assert pauses == []


def test_nor_is_a_short_one_read(transport: HubTransport, storage: Stand) -> None:
    storage.script = script(Reply(200, body=WEIGHTS), ranged)
    refused(ResponseError, lambda: read(transport))
    assert read(transport) == WEIGHTS[10:50]
    assert storage.connections == 2  # what was left unread cannot be taken for the next answer


@pytest.mark.parametrize(
    "reply",
    [
        Reply(206, {}, WEIGHTS[10:50]),
        Reply(206, {"Content-Range": f"bytes 10-49/{len(WEIGHTS)}"}, WEIGHTS[10:49]),
        Reply(206, {"Content-Range": f"bytes 11-50/{len(WEIGHTS)}"}, WEIGHTS[10:50]),
        Reply(206, {"Content-Range": f"bytes 10-48/{len(WEIGHTS)}"}, WEIGHTS[10:50]),
        Reply(206, {"Content-Range": "bytes 10-49/*"}, WEIGHTS[10:50]),
        Reply(206, {"Content-Range": f"bytes 10-49/{len(WEIGHTS) + 1}"}, WEIGHTS[10:50]),
        Reply(206, {"Content-Range": f"bytes 10-49/{len(WEIGHTS)}"}, WEIGHTS[10:51]),
        Reply(206, {"Content-Range": f"bytes 10-49/{len(WEIGHTS)}"}, WEIGHTS[10:51], chunked=True),
        Reply(206, {"Content-Range": f"bytes 10-49/{len(WEIGHTS)}", "Content-Encoding": "gzip"}, WEIGHTS[10:50]),
        Reply(206, {"Content-Type": "multipart/byteranges; boundary=x"}, WEIGHTS[10:50]),
        Reply(416, {"Content-Range": f"bytes */{len(WEIGHTS)}"}),
        Reply(404, {}, f"no {SECRET} here".encode()),
        Reply(302, {"Location": "http://127.0.0.1:1/elsewhere"}),
        Reply(204),
    ],
)
def test_a_wrong_answer_is_not_used(transport: HubTransport, storage: Stand, pauses: list[float], reply: Reply) -> None:
    storage.script = script(reply)
    error = refused(ResponseError, lambda: read(transport))
    assert error.stage == "read"
    assert len(storage.asked) == 1
    assert pauses == []


def test_a_range_without_a_length_is_counted(transport: HubTransport, storage: Stand) -> None:
    headers = {"Content-Range": f"bytes 10-49/{len(WEIGHTS)}"}
    storage.script = script(
        Reply(206, headers, WEIGHTS[10:49], chunked=True), Reply(206, headers, WEIGHTS[10:50], chunked=True)
    )
    assert read(transport) == WEIGHTS[10:50]
    assert len(storage.asked) == 2


@pytest.mark.parametrize(
    "fault",
    [
        Reply(503, body=b"busy"),
        Reply(500, body=bytes(1 << 20)),
        Reply(408),
        Reply(429),
        Reply(reset=True),
        Reply(206, {"Content-Range": f"bytes 10-49/{len(WEIGHTS)}"}, WEIGHTS[10:30], announced=40),
    ],
)
def test_what_is_temporary_is_tried_again(
    transport: HubTransport, storage: Stand, pauses: list[float], fault: Reply
) -> None:
    storage.script = script(fault, fault, ranged)
    assert read(transport) == WEIGHTS[10:50]
    assert len(pauses) == 2
    assert transport.traffic.range_requests == len(storage.asked) == 3


@pytest.mark.parametrize(
    "fault",
    [
        Reply(503),
        Reply(reset=True),
        Reply(206, {"Content-Range": f"bytes 10-49/{len(WEIGHTS)}"}, b"short", announced=40),
    ],
)
def test_but_not_for_ever(transport: HubTransport, storage: Stand, pauses: list[float], fault: Reply) -> None:
    storage.script = script(fault)
    error = refused(TransferError, lambda: read(transport))
    assert error.retry_after is None
    assert len(storage.asked) == len(pauses) + 1 == 5
    assert pauses == sorted(pauses)


def test_resolving_is_tried_again_too(transport: HubTransport, hub: Stand, storage: Stand, pauses: list[float]) -> None:
    hub.script = script(Reply(reset=True), Reply(502), signed(storage))
    assert locate(transport).size == len(WEIGHTS)
    assert len(pauses) == 2
    assert transport.traffic.resolve_requests == 3


def test_a_dead_hub_is_a_failure(transport: HubTransport, stands: tuple[Stand, Stand]) -> None:
    free = socket.create_server(("127.0.0.1", 0))
    transport.endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    free.close()
    assert "no connection" in str(refused(TransferError, lambda: locate(transport)))


def test_a_silent_server_is_given_up(
    transport: HubTransport, storage: Stand, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    location = locate(transport)
    silent = socket.create_server(("127.0.0.1", 0))  # connects, and never says a word
    location.url = f"http://127.0.0.1:{silent.getsockname()[1]}/lfs?Signature={SECRET}"
    monkeypatch.setitem(transport._connections._direct.connection_pool_kw, "timeout", 0.1)
    assert "nothing came" in str(refused(TransferError, lambda: list(transport.read_ranges(location, [(0, 8)]))))
    assert len(pauses) == 4
    silent.close()


def test_the_server_says_how_long_to_wait(
    transport: HubTransport, hub: Stand, storage: Stand, pauses: list[float]
) -> None:
    window = {"RateLimit": '"resolvers";r=0;t=55', "RateLimit-Policy": '"fixed window";"resolvers";q=5000;w=300'}
    hub.script = script(Reply(429, {"Retry-After": "7"}), Reply(429, window), signed(storage))
    transport.budgets = Budgets(pauses.append, clock=lambda: 1e9 + sum(pauses))
    locate(transport)
    first, second, *rest = pauses
    assert 7 <= first < 8
    assert 55 <= second < 57
    assert sum(rest) <= 1  # the end of the window, rounded up
    assert transport.budgets.limits["resolvers"].left == 0


def test_but_not_too_long(transport: HubTransport, hub: Stand, pauses: list[float]) -> None:
    hub.script = script(Reply(429, {"Retry-After": str(int(LONGEST_WAIT) + 1)}))
    assert refused(TransferError, lambda: locate(transport)).retry_after == LONGEST_WAIT + 1
    assert pauses == []


# ---------------------------------------------------------------- signed addresses


def test_an_expired_address_is_renewed_once(transport: HubTransport, hub: Stand, storage: Stand) -> None:
    storage.script = script(Reply(403, {}, f"<Error>{SECRET}</Error>".encode()), ranged)
    location = locate(transport)
    assert list(transport.read_ranges(location, [(0, 4), (4, 8)])) == [WEIGHTS[:4], WEIGHTS[4:8]]
    assert (len(hub.asked), len(storage.asked)) == (2, 3)


def test_a_fresh_address_that_is_refused_too_is_an_error(transport: HubTransport, hub: Stand, storage: Stand) -> None:
    storage.script = script(Reply(403))
    error = refused(RefusedError, lambda: read(transport))
    assert (error.reason, error.stage) == ("expired", "read")
    assert (len(hub.asked), len(storage.asked)) == (2, 2)


def test_an_address_is_renewed_before_it_expires(transport: HubTransport, hub: Stand, storage: Stand) -> None:
    location = locate(transport)
    list(transport.read_ranges(location, [(0, 4)]))
    location.renew_at = time.time() - 1
    list(transport.read_ranges(location, [(0, 4), (4, 8)]))
    assert (len(hub.asked), len(storage.asked)) == (2, 3)
    assert location.renew_at > time.time()


@pytest.mark.parametrize("change", [{"X_Linked_Size": "9"}, {"X_Linked_ETag": f'"{"6e" * 32}"'}])
def test_a_file_that_changed_is_refused(
    transport: HubTransport, hub: Stand, storage: Stand, change: dict[str, str]
) -> None:
    hub.script = script(signed(storage), signed(storage, **change))
    storage.script = script(Reply(403))
    assert "changed" in str(refused(ResponseError, lambda: read(transport)))


@given(lifetime=st.floats(1, 1e6), now=st.integers(1_600_000_000, 1_900_000_000))
def test_addresses_are_renewed_in_good_time(lifetime: float, now: int) -> None:
    expires = now + int(lifetime)
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    for query in (f"Expires={expires}", f"X-Amz-Date={date}&X-Amz-Expires={int(lifetime)}"):
        renewal = renewal_time(f"https://cdn.example/x?{query}&Signature=s", float(now))
        early = expires - renewal
        assert 0 < early <= 60
        assert early == pytest.approx(min(60, int(lifetime) / 10))


@pytest.mark.parametrize(
    "query",
    ["", "Expires=soon", "Expires=1", "X-Amz-Expires=60", "X-Amz-Date=now&X-Amz-Expires=60", f"Expires={'9' * 400}"],
)
def test_without_a_usable_expiry_addresses_live_a_while(query: str) -> None:
    assert renewal_time(f"https://cdn.example/x?{query}", 1e9) == 1e9 + UNKNOWN_LIFETIME - 60


# ---------------------------------------------------------------- budgets, proxies, words


def test_budgets_are_kept_by_resource(transport: HubTransport, hub: Stand, storage: Stand) -> None:
    budget = {"RateLimit": '"resolvers";r=4999;t=120', "RateLimit-Policy": '"fixed window";"resolvers";q=5000;w=300'}
    hub.script = script(signed(storage, **budget))
    locate(transport)
    limit = transport.budgets.limits["resolvers"]
    assert limit == RateLimit("resolvers", 4999, 120, limit.at, 5000, 300)
    assert abs(limit.at - time.time()) < 60
    hub.script = script(Reply(200, {"RateLimit": '"api";r=1;t=2'}, b"[]"))
    assert transport.ask_api(f"{hub.url}/api/models", "a page", limit=9, seconds=9).body == b"[]"
    assert transport.budgets.limits["api"].quota is None
    assert set(transport.budgets.limits) == {"resolvers", "api"}
    assert transport.traffic.api_requests == 1


@given(text=st.text(max_size=80))
def test_malformed_budgets_are_passed_over(text: str) -> None:
    assert all(limit.left >= 0 for limit in rate_limits({"RateLimit": text, "RateLimit-Policy": text}, 0.0))


def test_several_budgets_in_one_header() -> None:
    headers = {"RateLimit": '"api"; r=3; t=4, "resolvers";r=1;t=2', "RateLimit-Policy": '"fixed window";"api";q=5;w=6'}
    assert list(rate_limits(headers, 9.0)) == [RateLimit("api", 3, 4, 9.0, 5, 6), RateLimit("resolvers", 1, 2, 9.0)]


def test_a_proxy_of_the_environment_is_used(hub: Stand, storage: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", storage.url)
    storage.script = script(Reply(200, {}, b"{}"))
    transport = HubTransport("http://hub.example", {"authorization": "x"})
    assert transport.resolve("acme/model", SHA, "config.json").body == b"{}"
    assert storage.asked[0].path == f"http://hub.example/acme/model/resolve/{SHA}/config.json"
    transport.close()


@pytest.mark.parametrize("url", ["", "hub.example", "file:///etc/passwd", "http://", "https://[::1", "http://a:port"])
def test_only_the_web_is_asked(url: str) -> None:
    with pytest.raises(ResponseError):
        HubTransport(url, {})


def test_origins_are_compared_as_browsers_do() -> None:
    assert origin("HTTPS://Hub.Example/a?b") == origin("https://hub.example:443") == ("https", "hub.example", 443)
    assert origin("http://hub.example") != origin("https://hub.example")


def test_every_status_has_an_error() -> None:
    kinds = {status: type(failure(status, {}, "acme/model")) for status in (401, 403, 404, 408, 418, 429, 500, 504)}
    assert kinds == {
        401: RefusedError,
        403: RefusedError,
        404: ResponseError,
        408: TransferError,
        418: ResponseError,
        429: TransferError,
        500: TransferError,
        504: TransferError,
    }


# ---------------------------------------------------------------- the reader


def test_the_reader_asks_the_hub_once_a_file(transport: HubTransport, hub: Stand, storage: Stand) -> None:
    hub.script = lambda asked: Reply(200, {"X-Repo-Commit": SHA}, b"{}") if "config" in asked.path else signed(storage)
    reader = HubReader(transport, "acme/model", SHA)
    tensors: TensorReader = reader
    assert tensors.size(FILE) == len(WEIGHTS)
    assert list(tensors.read(FILE, [(0, 8), (100, 300)])) == [WEIGHTS[:8], WEIGHTS[100:300]]
    assert list(tensors.read(FILE, [(4, 4)])) == [b""]
    assert (reader.requests, reader.bytes_read) == (3, 208)
    assert list(tensors.read("config.json", [(0, 2)])) == [b"{}"]
    assert (reader.requests, reader.bytes_read) == (4, 210)
    assert len(hub.asked) == 2


def test_the_reader_completes_what_was_listed(transport: HubTransport, hub: Stand, storage: Stand) -> None:
    listed = ListedCheckpoint(CheckpointId("acme/model", SHA), Source.HUB, (FILE,), (), "config.json")
    reader = HubReader(transport, "acme/model", SHA)
    (weights,) = reader.complete(listed).files
    assert weights == RepoFile(FILE, len(WEIGHTS), SHA256, "e7" * 32, SHA)
    reader.size(FILE)
    assert [asked.path for asked in hub.asked] == [RESOLVE]  # the config is asked for when it is read


def test_a_file_of_another_size_than_listed_is_not_read(transport: HubTransport, storage: Stand) -> None:
    reader = HubReader(transport, "acme/model", SHA, [RepoFile(FILE, 7)])
    with pytest.raises(WeightsError, match=f"listed with 7 bytes, served with {len(WEIGHTS)}"):
        list(reader.read(FILE, [(0, 4)]))
    assert storage.asked == []
