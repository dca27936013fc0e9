"""A hub of which a share of the repos is faulty, each with a fault that its id and a seed decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import Any
from urllib.parse import unquote

from provenance.demo_hub.hub import RESOLVE
from provenance.demo_hub.listing import list_models
from provenance.demo_hub.messages import Request, Response
from provenance.demo_hub.repos import HubRepo
from provenance.demo_hub.server import LoopbackHub
from tests.hub.faults import FAULTS, WEIGHTS, Call, Fault, draw


class FaultyHub(LoopbackHub):
    """A hub with faults. They do not depend on the order of requests, nor on who asks: a crawl that is killed and
    resumed meets the same hub, but for the passing faults that are behind it.

    Args:
        repos: what it would serve without faults; no two with the same weights, since the storage knows only those.
        seed: which repos have which fault.
        share: of the repos that have one, from 0 to 1.
        kinds: keys of `FAULTS` to draw from.
        pause: seconds between two pieces of a slow body.
        arguments: as for `LoopbackHub`.
    """

    def __init__(
        self,
        repos: Iterable[HubRepo],
        *,
        seed: int = 0,
        share: float = 0.1,
        kinds: Sequence[str] = tuple(FAULTS),
        pause: float = 0.05,
        **arguments: Any,
    ) -> None:
        self._faults: dict[str, Fault] = {}
        self._listed: list[HubRepo] = []
        self._stored: dict[str, str] = {}  # path on the CDN -> id, of faulty repos
        self._asked: Counter[tuple[str, str]] = Counter()
        self._pause, self._lock = pause, Lock()
        served = []
        for repo in repos:
            fault = draw(repo.id, seed=seed, share=share, kinds=kinds)
            if fault is not None:
                self._faults[repo.id] = fault
                repo = fault.made(repo) if fault.made else repo
                if fault.storage:
                    paths = [f"/lfs/{file.sha256}" for path, file in repo.files.items() if path.endswith(WEIGHTS)]
                    self._stored |= dict.fromkeys(paths, repo.id)
            self._listed.append(repo)
            now = fault.became(repo) if fault and fault.became else repo
            if now is not None:
                served.append(now)
        super().__init__(served, **arguments)

    def fault_of(self, repo_id: str) -> Fault | None:
        """The fault of the repo that is listed with this id; null for a sound one."""
        return self._faults.get(repo_id)

    def listing(self, request: Request) -> Response:
        return list_models(self._listed, request, self.endpoint, self.page_size)

    def answer(self, request: Request) -> Response:
        answer = super().answer(request)
        fault = self._faults.get(self._repo_of(request) or "")
        spoil = fault and (fault.storage if request.origin == "cdn" else fault.resolve)
        if not spoil or answer.status >= 400:
            return answer
        with self._lock:
            key = request.origin, request.path
            before = self._asked[key]
            self._asked[key] += 1
        return spoil(Call(request, answer, super().answer, before, self._pause))

    def _repo_of(self, request: Request) -> str | None:
        """The id of the repo whose weights are asked for, null for all other requests."""
        if request.origin == "cdn":
            return self._stored.get(request.path)
        match = RESOLVE.fullmatch(request.path)
        return unquote(match["repo"]) if match and request.path.endswith(WEIGHTS) else None
