"""What goes wrong with a repo on a hub, as a table: `FAULTS`.

A lasting fault stays, and the repo cannot be fingerprinted as long as it is there. A passing one goes away when the
same is asked for again, or is none for a client that knows the hub's conventions: the repo must end up stored.

A fault is any of: another repo from the start; what became of a repo after it was listed; other answers to
`resolve`; other answers of the storage behind it. All are about weight files, of repos with one checkpoint each.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from provenance.demo_hub.files import HubFile, MemoryFile, pointer
from provenance.demo_hub.messages import Request, Response, refusal, text_response
from provenance.demo_hub.repos import HubRepo

WEIGHTS = ".safetensors"
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x0b\x1c\x85\x9d31m\xe9" * 200
"""Thousands of control and non-ASCII characters: all that an HTTP header can carry over."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request for where a weight file is, or for bytes of it, that meets a fault.

    Attributes:
        request: as it came in.
        answer: what an undisturbed hub says; its body has not been read.
        ask: an undisturbed answer to any other request.
        before: how often this file was asked for on this origin before, whatever the range.
        pause: seconds between two pieces of a slow body.
    """

    request: Request
    answer: Response
    ask: Callable[[Request], Response]
    before: int
    pause: float


Spoil = Callable[[Call], Response]


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        kind: its name.
        ends: how a crawl of the repo has to end: `stored`, or with an outcome `failed` or `skipped`.
        does: what it does, in words.
        made: the repo with the fault, as it is listed and served.
        became: what is served in place of the repo that is listed; null where nothing is.
        resolve: answers requests for where a weight file is. A ConnectionError closes the connection unanswered.
        storage: answers requests for its bytes, likewise.
    """

    kind: str
    ends: Literal["stored", "failed", "skipped"]
    does: str
    made: Callable[[HubRepo], HubRepo] | None = None
    became: Callable[[HubRepo], HubRepo | None] | None = None
    resolve: Spoil | None = None
    storage: Spoil | None = None


def draw(repo_id: str, *, seed: int, share: float, kinds: Sequence[str]) -> Fault | None:
    """The fault of a repo, null for most: decided by its id and the seed, and by nothing else.

    Args:
        repo_id: its id.
        seed: of the draw.
        share: of all repos that have a fault, from 0 to 1.
        kinds: keys of `FAULTS` to draw from.
    """
    digest = hashlib.sha256(f"{seed} {repo_id}".encode()).digest()
    if int.from_bytes(digest[:8], "big") >= share * 2**64:
        return None
    return FAULTS[kinds[int.from_bytes(digest[8:16], "big") % len(kinds)]]


# ---------------------------------------------------------------- other repos


def _weights(repo: HubRepo) -> list[str]:
    return sorted(path for path in repo.files if path.endswith(WEIGHTS))


def _with_weights(repo: HubRepo, weights: Mapping[str, HubFile]) -> HubRepo:
    """The repo with these weight files in place of its own, and without an index of them."""
    rest = {path: file for path, file in repo.files.items() if WEIGHTS not in path}
    return replace(repo, files={**rest, **weights})


def _listed_as(**listing: Any) -> Callable[[HubRepo], HubRepo]:
    return lambda repo: replace(repo, listing={**repo.listing, **listing})


def _holding(content: Callable[[HubFile], bytes]) -> Callable[[HubRepo], HubRepo]:
    return lambda repo: _with_weights(repo, {path: MemoryFile(content(repo.files[path])) for path in _weights(repo)})


def _under(prefix: str) -> Callable[[HubRepo], HubRepo]:
    return lambda repo: _with_weights(repo, {prefix + path: repo.files[path] for path in _weights(repo)})


def _indexed_as(path: str) -> Callable[[HubRepo], HubRepo]:
    index = MemoryFile(json.dumps({"weight_map": {"model.norm.weight": path}}).encode())
    return lambda repo: _with_weights(repo, {f"model{WEIGHTS}.index.json": index})


def _without_a_shard(repo: HubRepo) -> HubRepo:
    *first, last = _weights(repo)
    paths = first or [f"{last.removesuffix(WEIGHTS)}-00001-of-00002{WEIGHTS}"]
    return _with_weights(repo, {path: repo.files.get(path, repo.files[last]) for path in paths})


def _pickled(repo: HubRepo) -> HubRepo:
    return _with_weights(repo, {"last.ckpt": repo.files[_weights(repo)[0]]})


def _renamed(repo: HubRepo) -> HubRepo:
    name = f"{repo.id}-renamed"
    return replace(repo, id=name, listing={**repo.listing, "id": name, "modelId": name}, former_ids=(repo.id,))


def _header(text: str, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + data


def _overlapping(_: HubFile) -> bytes:
    spans = {"a": [0, 8], "b": [4, 12]}
    tensors = {name: {"dtype": "U8", "shape": [8], "data_offsets": span} for name, span in spans.items()}
    return _header(json.dumps(tensors), bytes(12))


# ---------------------------------------------------------------- other answers


def _refused(status: int, code: str | None = None, **headers: str) -> Spoil:
    """An error of the hub, or of the storage."""
    return lambda call: refusal(status, "Refused", code, {n.replace("_", "-"): v for n, v in headers.items()}).response


def _bare(status: int) -> Spoil:
    return lambda call: text_response(status, "", "text/plain")


def _sent_with(**headers: str) -> Spoil:
    """The right answer with other headers."""
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda call: replace(call.answer, headers={**call.answer.headers, **changed})


def _without_size(call: Call) -> Response:
    headers = {name: value for name, value in call.answer.headers.items() if name != "X-Linked-Size"}
    return replace(call.answer, headers=headers)


def _to_hostile_host(call: Call) -> Response:
    host = HOSTILE[:99].translate({ord(sign): None for sign in "[];"})
    return replace(call.answer, headers={"Location": f"https://{host}.invalid/lfs"})


def _larger(call: Call) -> Response:
    size = int(call.answer.headers["X-Linked-Size"]) + 8
    return replace(call.answer, headers={**call.answer.headers, "X-Linked-Size": str(size)})


def _to_itself(call: Call) -> Response:
    return replace(call.answer, headers={**call.answer.headers, "Location": call.request.target})


def _badly_signed(call: Call) -> Response:
    location = call.answer.headers["Location"].replace("Signature=", "Signature=0")
    return replace(call.answer, headers={**call.answer.headers, "Location": location})


def _dropped(call: Call) -> Response:
    raise ConnectionResetError


def _cut(call: Call) -> Response:
    return replace(call.answer, body=(_body(call)[: call.answer.length // 2],))


def _whole(call: Call) -> Response:
    return call.ask(replace(call.request, headers={}))


def _overlong(call: Call) -> Response:
    body = _body(call) + b"more"
    return replace(call.answer, length=len(body), body=(body,))


def _trickling(call: Call) -> Response:
    return replace(call.answer, body=_in_pieces(call, 1, call.answer.length - 1))


def _slow(call: Call) -> Response:
    return replace(call.answer, body=_in_pieces(call, call.answer.length // 8 + 1, call.answer.length))


def _in_pieces(call: Call, size: int, stop: int) -> Iterator[bytes]:
    body = _body(call)
    for start in range(0, stop, size):
        time.sleep(call.pause)
        yield body[start : min(start + size, stop)]


def _body(call: Call) -> bytes:
    return b"".join(call.answer.body)


def _first(spoil: Spoil, times: int = 1) -> Spoil:
    """Only so many times for each file, and then no more."""
    return lambda call: spoil(call) if call.before < times else call.answer


# ---------------------------------------------------------------- the table

_LASTING = (
    Fault("gated", "failed", "needs a permission", made=_listed_as(gated="manual")),
    Fault("disabled", "failed", "taken down by the hub", became=_listed_as(disabled=True)),
    Fault("deleted", "failed", "gone since it was listed", became=lambda repo: None),
    Fault("revision-gone", "failed", "its commit is gone", resolve=_refused(404, "RevisionNotFound")),
    Fault("file-gone", "failed", "its weights are gone", resolve=_refused(404, "EntryNotFound")),
    Fault("login", "failed", "401 without a reason", resolve=_bare(401)),
    Fault("forbidden", "failed", "403 without a reason", resolve=_bare(403)),
    Fault("hub-down", "failed", "500 from resolve, always", resolve=_bare(500)),
    Fault("storage-down", "failed", "502 from the storage, always", storage=_bare(502)),
    Fault("address-refused", "failed", "no signed address is ever good", resolve=_badly_signed),
    Fault("cut-short", "failed", "every body ends half-way", storage=_cut),
    Fault("trickle", "failed", "a byte a pause, and never the last one", storage=_trickling),
    Fault("whole-file", "failed", "Range is ignored", storage=_whole),
    Fault("other-range", "failed", "another range than asked", storage=_sent_with(Content_Range="bytes 0-0/1")),
    Fault("encoded", "failed", "a body with a Content-Encoding", storage=_sent_with(Content_Encoding="gzip")),
    Fault("overlong", "failed", "more bytes than asked", storage=_overlong),
    Fault("foreign", "failed", "to another host without the size of the file", resolve=_without_size),
    Fault("other-page", "failed", "to another page of the hub", resolve=_sent_with(Location="/login?next=/")),
    Fault("circle", "failed", "redirected to itself", resolve=_to_itself),
    Fault("other-size", "failed", "another size than the storage says", resolve=_larger),
    Fault("other-commit", "failed", "changed since it was listed", resolve=_sent_with(X_Repo_Commit="0f" * 20)),
    Fault("hostile-headers", "failed", "every header is garbage", resolve=_sent_with(
        X_Repo_Commit=HOSTILE, X_Linked_Size=HOSTILE, X_Linked_ETag=HOSTILE, X_Xet_Hash=HOSTILE, RateLimit=HOSTILE
    )),
    Fault("hostile-size", "failed", "a size of thousands of digits", resolve=_sent_with(X_Linked_Size="9" * 4000)),
    Fault("hostile-location", "failed", "to no address at all", resolve=_sent_with(Location=f"http://[{HOSTILE}:-1")),
    Fault("hostile-host", "failed", "to a host with control characters", resolve=_to_hostile_host),
    Fault("hostile-error", "failed", "an error in control characters", resolve=_refused(
        404, HOSTILE, X_Error_Message=HOSTILE, Retry_After=HOSTILE
    )),
    Fault("lfs-pointer", "failed", "git's pointer in place of the weights", made=_holding(pointer)),
    Fault("overlap", "failed", "two tensors share bytes", made=_holding(_overlapping)),
    Fault("bad-json", "failed", "a header that is no JSON", made=_holding(lambda file: _header('{"a":'))),
    Fault("deep-nesting", "failed", "a header of 100,000 lists", made=_holding(
        lambda file: _header('{"a":' + "[" * 100_000)
    )),
    Fault("path-above", "failed", "weights above the repo", made=_under("../../")),
    Fault("path-absolute", "failed", "weights at an absolute path", made=_under("/etc/")),
    Fault("index-above", "failed", "an index that names a file above", made=_indexed_as(f"../model{WEIGHTS}")),
    Fault("index-absolute", "failed", "an index of absolute paths", made=_indexed_as(f"/etc/model{WEIGHTS}")),
    Fault("missing-shard", "failed", "the last shard is missing", made=_without_a_shard),
    Fault("no-safetensors", "skipped", "only pickled weights", made=_pickled),
)  # fmt: skip

_PASSING = (
    Fault("busy", "stored", "429 once", resolve=_first(_refused(429, Retry_After="1"))),
    Fault("hub-down-once", "stored", "503 once", resolve=_first(_bare(503))),
    Fault("hub-down-twice", "stored", "503 twice", resolve=_first(_bare(503), 2)),
    Fault("hub-drops", "stored", "closes a connection unanswered", resolve=_first(_dropped)),
    Fault("expired", "stored", "the first signed address is no good", resolve=_first(_badly_signed)),
    Fault("storage-down-once", "stored", "503 from the storage once", storage=_first(_bare(503))),
    Fault("storage-drops", "stored", "the storage closes a connection unanswered", storage=_first(_dropped)),
    Fault("cut-once", "stored", "the first body ends half-way", storage=_first(_cut)),
    Fault("slow", "stored", "every body comes in pieces", storage=_slow),
    Fault("renamed", "stored", "has another id since it was listed", became=_renamed),
)  # fmt: skip

FAULTS: Mapping[str, Fault] = {fault.kind: fault for fault in (*_LASTING, *_PASSING)}
"""All faults by kind. Those that end `stored` are the passing ones."""
