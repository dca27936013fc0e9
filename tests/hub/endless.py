"""A hub of any number of repos, none of which exists before it is asked for: everything follows from a position.

Position 0 is the newest. Times fall with the position, so that a page begins where the cursor says, and costs the same
however deep it lies in the listing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from provenance.demo_hub.files import MemoryFile
from provenance.demo_hub.listing import has_labels, page_query
from provenance.demo_hub.messages import Request, Response, refusal
from provenance.demo_hub.pages import page_response
from provenance.demo_hub.repos import HubRepo
from provenance.demo_hub.server import LoopbackHub
from tests.hub.generated import Geometry, generated_repo

TINY = Geometry(layers=2, hidden=64, heads=4, kv_heads=2, ffn=96, vocabulary=128, head_size=16)
NEWEST = datetime(2025, 6, 1, tzinfo=UTC)
"""When the repo at position 0 was last changed."""

_STEP, _AGE = timedelta(seconds=100), timedelta(days=1)
_OWNERS = 1000
_ID = re.compile(r"org-\d{1,3}/model-(\d{6,})", re.ASCII)
_COMMON: dict[str, Any] = {
    "downloads": 0,
    "likes": 0,
    "trendingScore": 0,
    "gated": False,
    "private": False,
    "disabled": False,
    "cardData": {},
    "config": {name: TINY.config()[name] for name in ("architectures", "model_type")},
    "library_name": "transformers",
    "pipeline_tag": "text-generation",
}
_SAFE, _PICKLED = (
    {**_COMMON, "tags": ["transformers", kind], "siblings": [{"rfilename": "config.json"}, {"rfilename": path}]}
    for kind, path in (("safetensors", "model.safetensors"), ("pytorch", "last.ckpt"))
)


class EndlessHub(LoopbackHub):
    """A hub that lists `count` repos, of which one in `every` has a `model.safetensors`; the others are pickled.

    The listing is sorted by `createdAt` or `lastModified`, newest first, and narrowed by `filter` alone. Changed a
    day after it was created, each repo has the same place in both.
    """

    def __init__(self, count: int = 1_000_000, *, every: int = 20, **arguments: Any) -> None:
        """List `count` repos; `arguments` as for `LoopbackHub`."""
        super().__init__((), **arguments)
        self.count, self.every = count, every

    def repo_id(self, position: int) -> str:
        """The id of the repo at a position of the listing."""
        return f"org-{position % _OWNERS}/model-{position:06}"

    def has_weights(self, position: int) -> bool:
        """Whether the repo at a position has weights that a crawler reads."""
        return position % self.every == 0

    def find(self, repo_id: str) -> HubRepo | None:
        position = self._position(repo_id)
        if position is None:
            return None
        listing = {name: value for name, value in self._listing(position).items() if name != "siblings"}
        if self.has_weights(position):
            return generated_repo(repo_id, TINY, seed=position, listing=listing)
        files = {name["rfilename"]: MemoryFile(b"") for name in _PICKLED["siblings"]}
        return HubRepo(repo_id, files, listing)

    def listing(self, request: Request) -> Response:
        page = page_query(request, self.page_size)
        unknown = [name for name in ("author", "search") if request.value(name)]
        if unknown or page.sort not in ("createdAt", "lastModified") or not page.descending:
            raise refusal(400, "this listing is by time, newest first, and narrowed by filter alone")
        start = 0
        if page.after is not None:
            position = self._position(page.after[1])
            if position is None:
                raise refusal(400, "Invalid cursor")
            start = position + 1
        found = list(islice(self._positions(request, start), page.limit + 1))
        rows = [self._listing(position) for position in found[: page.limit]]
        last = (rows[-1][page.sort], rows[-1]["id"]) if len(found) > page.limit else None
        shown = [{name: row[name] for name in page.names if name in row} for row in rows]
        return page_response(request, self.endpoint, shown, last)

    def _positions(self, request: Request, start: int) -> Iterable[int]:
        """Where the repos lie that a request asks for, from `start` on."""
        safe, pickled = has_labels(_SAFE, request), has_labels(_PICKLED, request)
        if safe and not pickled:
            return range(start + -start % self.every, self.count, self.every)
        return (at for at in range(start, self.count) if safe or not self.has_weights(at)) if pickled else ()

    def _position(self, repo_id: str) -> int | None:
        match = _ID.fullmatch(repo_id)
        position = int(match[1]) if match else self.count
        return position if position < self.count and self.repo_id(position) == repo_id else None

    def _listing(self, position: int) -> dict[str, Any]:
        """All that is listed of a repo."""
        repo_id = self.repo_id(position)
        changed = NEWEST - position * _STEP
        digest = hashlib.sha1(repo_id.encode()).hexdigest()
        return {
            **(_SAFE if self.has_weights(position) else _PICKLED),
            "_id": digest[:24],
            "id": repo_id,
            "modelId": repo_id,
            "author": repo_id.partition("/")[0],
            "sha": digest,
            "createdAt": _text(changed - _AGE),
            "lastModified": _text(changed),
        }


def _text(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z")
