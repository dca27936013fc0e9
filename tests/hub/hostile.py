"""A hostile hub: raw sockets that follow HTTP as far as an attack wants. Shares no code with the demo hub.

Each attacked repo is attacked at one place: its description, the location of its weights, or the storage. A listing can
be attacked too. Every other request is answered as the Hub answers it.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from safetensors.numpy import save

SHA = "5" * 40
GOOD = ("org/good-1", "org/good-2")
_REPO = re.compile(r"org/(?:bad|good)-\d+")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: its target, its headers with names in lower case, and the port that it came to."""

    target: str
    headers: dict[str, str]
    port: int


Send: TypeAlias = "Callable[[HostileHub, socket.socket, Asked], None]"


@dataclass(frozen=True, slots=True)
class Attack:
    """What a server does at one place.

    Attributes:
        place: `listing`, `api`, `resolve` or `storage`.
        send: writes the answer; the connection is closed after it.
        ends: how the attacked repo ends, `failed` or `done`; of a listing `broke off`, `done`, or `time` if only
            `--max-time` ends it.
    """

    place: str
    send: Send
    ends: str = "failed"


class HostileHub:
    """A hub with two sound repos, `GOOD`, and an attacked one for each attack. `with` starts and stops it.

    Attributes:
        attacked: repo ids, and the name of the attack on each.
        endpoint, storage: addresses of the hub and of its storage.
        trap: another private address, which nothing may be asked for.
        asked: every request so far.
        ended: set when the hub stops.
    """

    def __init__(self, *attacks: str, listing: str | None = None) -> None:
        self.attacked = {f"org/bad-{number}": name for number, name in enumerate(attacks)}
        self.asked: list[Asked] = []
        self.ended = threading.Event()
        self._listing = None if listing is None else ATTACKS[listing]
        self._doors = [socket.create_server((host, 0)) for host in ("127.0.0.1", "127.0.0.1", "127.0.0.2")]
        self.port, self.storage_port, self.trap_port = (door.getsockname()[1] for door in self._doors)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.storage = f"http://127.0.0.1:{self.storage_port}"
        self.trap = f"http://127.0.0.2:{self.trap_port}"
        self.weights: bytes = _weights()

    def __enter__(self) -> Self:
        for door in self._doors:
            threading.Thread(target=self._accept, args=(door,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for door in self._doors:
            with suppress(OSError):
                door.shutdown(socket.SHUT_RDWR)
            door.close()

    def drip(self, wire: socket.socket, data: bytes, *, seconds: float = 0.05) -> None:
        """Send one byte after the other, without end: `data` again and again."""
        while not self.ended.wait(seconds):
            wire.sendall(data[:1])
            data = data[1:] + data[:1]

    def flood(self, wire: socket.socket, data: bytes) -> None:
        """Send `data` again and again, as fast as it is taken."""
        while not self.ended.is_set():
            wire.sendall(data)

    def _accept(self, door: socket.socket) -> None:
        while not self.ended.is_set():
            try:
                wire, _ = door.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(wire, door), daemon=True).start()

    def _serve(self, wire: socket.socket, door: socket.socket) -> None:
        with closing(wire), suppress(OSError):
            port = door.getsockname()[1]
            wire.settimeout(30)
            while (asked := _read_request(wire, port)) is not None:
                self.asked.append(asked)
                attack = self._attack_on(asked)
                if attack is not None:
                    attack.send(self, wire, asked)
                    return
                self.answer(wire, asked)

    def _attack_on(self, asked: Asked) -> Attack | None:
        if asked.port == self.port and asked.target.startswith("/api/models?"):
            return self._listing
        attack = self.attacked.get(repo_of(asked))
        place = "storage" if asked.port != self.port else "api" if asked.target.startswith("/api/") else "resolve"
        return ATTACKS[attack] if attack is not None and ATTACKS[attack].place == place else None

    def answer(self, wire: socket.socket, asked: Asked) -> None:
        """What the Hub would say."""
        path = asked.target.partition("?")[0]
        if asked.port == self.storage_port:
            start, stop = map(int, asked.headers["range"].removeprefix("bytes=").split("-"))
            total = len(self.weights)
            reply(
                wire, 206, self.weights[start : stop + 1], f"Content-Range: bytes {start}-{stop}/{total}", 'ETag: "1"'
            )
        elif path == "/api/models":
            reply(wire, 200, json.dumps([described(name) for name in (*self.attacked, *GOOD)]).encode())
        elif path.startswith("/api/models/"):
            reply(wire, 200, json.dumps(described(path.removeprefix("/api/models/"))).encode())
        else:
            reply(wire, 302, b"", *self.location(f"{self.storage}{path}"))

    def location(self, url: str, **other: str) -> list[str]:
        """The headers of a redirect to the storage."""
        headers = {"X-Repo-Commit": SHA, "X-Linked-Size": str(len(self.weights)), "X-Linked-ETag": '"1"'}
        headers |= {name.replace("_", "-"): value for name, value in other.items()}
        return [f"Location: {url}", *(f"{name}: {value}" for name, value in headers.items())]


def repo_of(asked: Asked) -> str:
    """The repo that a request is about, empty for none."""
    match = _REPO.search(asked.target)
    return match[0] if match else ""


def described(repo: str) -> dict[str, object]:
    """A repo as the API describes it."""
    return {"id": repo, "sha": SHA, "siblings": [{"rfilename": "model.safetensors"}], "tags": [], "private": False}


def reply(wire: socket.socket, status: int, body: bytes, *headers: str) -> None:
    """A whole answer; the connection stays open."""
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", *headers, "", ""]
    wire.sendall("\r\n".join(lines).encode("latin-1", "replace") + body)


def start(wire: socket.socket, status: int, *headers: str) -> None:
    """The head of an answer, whatever follows."""
    wire.sendall("\r\n".join([f"HTTP/1.1 {status} x", *headers, "", ""]).encode("latin-1", "replace"))


def _read_request(wire: socket.socket, port: int) -> Asked | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = wire.recv(65536)
        if not piece:
            return None
        data += piece
    first, *lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    return Asked(first.split(" ")[1], {name.strip().lower(): value.strip() for name, _, value in fields}, port)


def _weights() -> bytes:
    rng = np.random.default_rng(0)
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    return save(
        {
            f"model.layers.{layer}.self_attn.{name}.weight": rng.normal(0, 0.02, (64, 64)).astype(np.float32)
            for layer in range(4)
            for name in names
        }
    )


# ---------------------------------------------------------------- attacks


def _range_of(asked: Asked) -> tuple[int, int]:
    first, last = map(int, asked.headers["range"].removeprefix("bytes=").split("-"))
    return first, last


def _drip_headers(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
    wire.sendall(b"HTTP/1.1 200 x\r\n")
    hub.drip(wire, b"x-y: z\r\n")


def _drip_status(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
    hub.drip(wire, b"HTTP/1.1 200 x")


def _continue_for_ever(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
    while not hub.ended.wait(0.01):
        wire.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def _flood_headers(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
    wire.sendall(b"HTTP/1.1 200 x\r\n")
    hub.flood(wire, b"x-y: " + b"z" * 1000 + b"\r\n")


def _silence(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
    hub.ended.wait(60)


def _reset(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _no_http(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
    wire.sendall(b"SSH-2.0-OpenSSH_9.6\r\n" * 3)


def _slow_body(status: int) -> Send:
    def send(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
        headers = hub.location(f"{hub.storage}/{repo_of(asked)}") if status == 302 else []
        start(wire, status, "Content-Length: 9000", *headers)
        hub.drip(wire, b" ")

    return send


def _body(data: bytes, *headers: str, endless: bool = False) -> Send:
    """A 200 with a body that ends with the connection."""

    def send(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
        start(wire, 200, "Connection: close", *headers)
        wire.sendall(data)
        if endless:
            hub.flood(wire, data[-1:] * 65536)

    return send


def _chunked(kind: str) -> Send:
    def send(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
        first, last = _range_of(asked) if "range" in asked.headers else (0, 1)
        where = f"Content-Range: bytes {first}-{last}/{len(hub.weights)}"
        start(wire, 206 if "range" in asked.headers else 200, "Transfer-Encoding: chunked", where)
        if kind == "size":
            hub.drip(wire, b"0")
        elif kind == "trailers":
            body = hub.weights[first : last + 1]
            wire.sendall(b"%x\r\n%b\r\n0\r\n" % (len(body), body))
            hub.drip(wire, b"x-y: z\r\n")
        else:
            hub.flood(wire, b"1\r\nx\r\n" * 1000)

    return send


def _ranged(
    change: Callable[[HostileHub, int, int], tuple[int, bytes, list[str]]],
) -> Send:
    def send(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
        status, body, headers = change(hub, *_range_of(asked))
        with suppress(OSError):
            reply(wire, status, body, *headers)

    return send


def _says(hub: HostileHub, first: int, last: int, total: int | None = None) -> list[str]:
    return [f"Content-Range: bytes {first}-{last}/{total or len(hub.weights)}"]


def _changing_etag(hub: HostileHub, first: int, last: int) -> tuple[int, bytes, list[str]]:
    etag = f'ETag: "{sum(asked.port == hub.storage_port for asked in hub.asked)}"'
    return 206, hub.weights[first : last + 1], [*_says(hub, first, last), etag]


def _truncated(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
    first, last = _range_of(asked)
    start(wire, 206, *_says(hub, first, last), f"Content-Length: {last + 1 - first}")
    wire.sendall(hub.weights[first : max(first, last - 1)])


def _redirect(url: str, status: int = 302, **headers: str) -> Send:
    def send(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
        places = {"{storage}": hub.storage, "{trap}": hub.trap, "{self}": f"{hub.endpoint}{asked.target}"}
        target = url
        for name, place in places.items():
            target = target.replace(name, place)
        reply(wire, status, b"", *hub.location(target.replace("{bare}", hub.storage.partition("//")[2]), **headers))

    return send


def _bare_redirect(url: str) -> Send:
    return lambda hub, wire, asked: reply(wire, 302, b"", "Location: " + url.replace("{storage}", hub.storage))


def _status(status: int, *headers: str) -> Send:
    return lambda hub, wire, asked: reply(wire, status, b"", *headers)


def _json(content: bytes, *headers: str) -> Send:
    return lambda hub, wire, asked: reply(wire, 200, content, *headers)


def _named(**changes: object) -> Send:
    return lambda hub, wire, asked: reply(wire, 200, json.dumps({**described(repo_of(asked)), **changes}).encode())


def _twice(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
    reply(wire, 200, json.dumps(described(repo_of(asked))).encode()[:-1] + b', "sha": 7}')


def _linked(link: str, *, new: bool = False) -> Send:
    """A page of the listing that names the next one: `{n}` is a number of its own."""

    def send(hub: HostileHub, wire: socket.socket, asked: Asked) -> None:
        number = len(hub.asked)
        url = link.replace("{hub}", hub.endpoint).replace("{trap}", hub.trap).replace("{n}", str(number))
        repos = [described(f"org/new-{number}" if new else GOOD[0])]
        reply(wire, 200, json.dumps(repos).encode(), f'Link: <{url.replace("{self}", asked.target)}>; rel="next"')

    return send


_EVERYWHERE: dict[str, Send] = {
    "headers at a few bytes a second": _drip_headers,
    "a status line that does not end": _drip_status,
    "100 Continue without end": _continue_for_ever,
    "headers without end": _flood_headers,
    "no answer": _silence,
    "a reset": _reset,
    "no HTTP": _no_http,
    "chunk size at a few bytes a second": _chunked("size"),
    "chunks without end": _chunked("flood"),
    "429 with Retry-After 10^12": _status(429, "Retry-After: 1000000000000"),
    "429 with Retry-After -5": _status(429, "Retry-After: -5"),
    "429 with Retry-After NaN": _status(429, "Retry-After: NaN"),
    "429 with absurd RateLimit": _status(429, 'RateLimit: "api";r=-1;t=1e9, "resolvers";r=NaN;t=-7'),
    "500 without end": _status(500, "Retry-After: 0"),
    "404 with a slow body": _slow_body(404),
    "a status of 999": _status(999),
    "a redirect to itself": _redirect("{self}"),
}
_STORAGE: dict[str, Send] = {
    "trailers without end": _chunked("trailers"),
    "200 to a range": _body(b"x", endless=True),
    "another range": _ranged(lambda hub, a, b: (206, hub.weights[a : b + 1], _says(hub, a + 1, b + 1))),
    "another file": _ranged(lambda hub, a, b: (206, hub.weights[a : b + 1], _says(hub, a, b, 7))),
    "several ranges": _ranged(lambda hub, a, b: (206, b"--x", ["Content-Type: multipart/byteranges; boundary=x"])),
    "a range that was not asked for": _ranged(
        lambda hub, a, b: (206, hub.weights[a : b + 1] + b"xxx", _says(hub, a, b))
    ),
    "gzip under identity": _ranged(
        lambda hub, a, b: (206, bytes(b + 1 - a), [*_says(hub, a, b), "Content-Encoding: gzip"])
    ),
    "another ETag for every range": _ranged(_changing_etag),
    "a body that is cut": _truncated,
    "416": _status(416),
    "403 for ever": _status(403),
    "a redirect elsewhere": _bare_redirect("http://169.254.169.254/latest"),
}
_RESOLVE: dict[str, Send] = {
    "a redirect to a file": _redirect("file:///etc/passwd"),
    "a redirect to a link-local address": _redirect("http://169.254.169.254/latest/meta-data"),
    "a redirect to another private address": _redirect("{trap}/x"),
    "a redirect without a size": _bare_redirect("{storage}/x"),
    "a redirect to no address": _redirect("http://[::1"),
    "a redirect to a port of 99999": _redirect("http://127.0.0.1:99999/x"),
    "a redirect of 100,000 characters": _redirect("{storage}/" + "x" * 100_000),
    "a redirect to another page": _redirect("/settings/tokens"),
    "a size of -1": _redirect("{storage}/x", X_Linked_Size="-1"),
    "a size of 10^30": _redirect("{storage}/x", X_Linked_Size="1" + "0" * 30),
    "a size of 10^17": _redirect("{storage}/x", X_Linked_Size="1" + "0" * 17),
    "another commit": _redirect("{storage}/x", X_Repo_Commit="6" * 40),
    "a small file without end": _body(b" ", endless=True),
    "403 and cookies": _status(403, "Set-Cookie: a=b; Domain=.example", "X-Error-Message: \x1b[31mred"),
}
_API: dict[str, Send] = {
    "JSON without end": _body(b'{"id": "', endless=True),
    "JSON nested a million times": _json(b"[" * 1_000_000),
    "a number of 100,000 digits": _json(b'{"id": ' + b"1" * 100_000 + b"}"),
    "keys given twice": _twice,
    "no JSON": _json(b"<html>"),
    "not UTF-8": _json(b"\xff\xfe"),
    "an id with ..": _named(id="../../etc/passwd"),
    "an id with NUL": _named(id="org/\0bad"),
    "an id with a newline": _named(id="org/bad\nX: y"),
    "an id with percent codes": _named(id="org%2f..%2fbad"),
    "an id of 10,000 characters": _named(id="org/" + "x" * 10_000),
    "files above": _named(siblings=[{"rfilename": "../../../model.safetensors"}]),
    "files of the wrong type": _named(siblings={"rfilename": 7}),
    "a sha of the wrong type": _named(sha=["x"]),
    "a redirect elsewhere": _redirect("{storage}/api"),
    "a redirect to another private address": _redirect("{trap}/api"),
}
_LISTING: dict[str, Send] = {
    "JSON without end": _body(b'["', endless=True),
    "JSON nested a million times": _json(b"[" * 1_000_000),
    "an object": _json(b"{}"),
    "a next page that is this one": _linked("{hub}{self}", new=True),
    "next pages with nothing new": _linked("{hub}/api/models?n={n}"),
    "a next page elsewhere": _linked("{trap}/api/models?n={n}", new=True),
    "a redirect elsewhere": _redirect("{storage}/api"),
}
ATTACKS = {
    f"{place}: {name}": Attack(place, send, "broke off" if place == "listing" else "failed")
    for place, own in (("listing", _LISTING), ("api", _API), ("resolve", _RESOLVE), ("storage", _STORAGE))
    for name, send in {**_EVERYWHERE, **own}.items()
} | {
    # The headers of the redirect say all that is needed.
    "resolve: 302 with a slow body": Attack("resolve", _slow_body(302), "done"),
    "listing: a million numbers": Attack("listing", _json(json.dumps([7] * 1_000_000).encode()), "done"),
}
"""All attacks, by their names."""
