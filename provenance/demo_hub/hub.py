"""The hub's own routes: the API for models, and `resolve`, which gives the location of a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

from provenance.demo_hub.cdn import Cdn
from provenance.demo_hub.files import HubFile, blob_id, is_lfs, xet_hash
from provenance.demo_hub.listing import EXPANDABLE, expanded, properties
from provenance.demo_hub.messages import Refusal, Request, Response, content, json_response, redirect, refusal
from provenance.demo_hub.pages import cursor_key, cut, page_response
from provenance.demo_hub.repos import HubRepo

MAIN = "main"

_REPO = r"(?P<repo>[^/]+(?:/[^/]+)??)"  # non-greedy: `name/tree/main` is not a repo `name/tree`
_MODEL = re.compile(rf"/api/models/{_REPO}(?:/(?P<action>revision|tree|refs|safetensors-metadata)(?:/(?P<rest>.+))?)?")
RESOLVE = re.compile(rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
"""Path of a request for the location of a file."""

_CACHE = re.compile(r"/api/resolve-cache/models/(?P<repo>.+?)/(?P<revision>[0-9a-f]{40})/(?P<path>.+)")


class HubRoutes:
    """Answers the requests to the hub's origin.

    Args:
        find: the repo that has, or had, an id. Called for every request.
        listing: answers `/api/models`.
        cdn: signs for the large files.
        endpoint, cdn_url: the two origins.
        page_size: entries on a page of a tree.
    """

    def __init__(
        self,
        find: Callable[[str], HubRepo | None],
        listing: Callable[[Request], Response],
        cdn: Cdn,
        *,
        endpoint: str,
        cdn_url: str,
        page_size: int,
    ) -> None:
        self._find, self._listing, self._cdn = find, listing, cdn
        self._endpoint, self._cdn_url, self._page_size = endpoint, cdn_url, page_size

    def answer(self, request: Request) -> Response:
        """The response to one request.

        Raises:
            Refusal: the response is an error, or the redirect of a renamed repo.
        """
        path = request.path
        if path == "/api/models":
            return self._listing(request)
        if match := _CACHE.fullmatch(path):
            return self._cached(request, match)
        if match := _MODEL.fullmatch(path):
            return self._model(request, match)
        if match := RESOLVE.fullmatch(path):
            return self._resolve(request, match)
        raise refusal(404, "Sorry, we can't find the page you are looking for.")

    # ------------------------------------------------------------ the API

    def _model(self, request: Request, match: re.Match[str]) -> Response:
        action, rest = match["action"], match["rest"]
        repo = self._repo(request, match)
        if action == "refs":
            main = {"name": MAIN, "ref": f"refs/heads/{MAIN}", "targetCommit": repo.sha}
            return json_response({"branches": [main], "converts": [], "tags": [], "pullRequests": []})
        if action == "safetensors-metadata":
            self._check_access(repo, request)
            return json_response(_safetensors_metadata(repo, unquote(rest or "")))
        revision, _, folder = (rest or MAIN).partition("/")
        _check_revision(repo, unquote(revision))
        if action == "tree":
            return self._tree(request, repo, unquote(folder))
        return json_response(_model_info(repo, request))

    def _tree(self, request: Request, repo: HubRepo, folder: str) -> Response:
        entries = repo.tree(folder, request.token, recursive=request.is_set("recursive"))
        if not entries:
            raise refusal(404, f"{folder} does not exist on {repo.sha}", "EntryNotFound")
        page, last = cut(
            entries, lambda entry: (entry["path"], ""), limit=self._page_size, after=cursor_key(request, str)
        )
        return page_response(request, self._endpoint, page, last)

    # ------------------------------------------------------------ files

    def _resolve(self, request: Request, match: re.Match[str]) -> Response:
        """The location of a file: on the CDN if it is large, else in the hub's own cache."""
        repo = self._repo(request, match)
        path, file = self._file(request, repo, match)
        headers = {"X-Repo-Commit": repo.sha, "Accept-Ranges": "bytes"}
        if not is_lfs(path, file):
            return redirect(307, f"/api/resolve-cache/models/{quote(repo.id)}/{repo.sha}/{quote(path)}", headers)
        headers["X-Linked-Size"] = str(file.size)
        headers["X-Linked-ETag"] = f'"{file.sha256}"'
        headers["X-Xet-Hash"] = xet_hash(file)
        return redirect(302, self._cdn_url + self._cdn.sign(file), headers)

    def _cached(self, request: Request, match: re.Match[str]) -> Response:
        repo = self._repo(request, match)
        path, file = self._file(request, repo, match)
        return content(file, request, {"X-Repo-Commit": repo.sha, "ETag": f'"{blob_id(path, file)}"'})

    def _file(self, request: Request, repo: HubRepo, match: re.Match[str]) -> tuple[str, HubFile]:
        self._check_access(repo, request)
        _check_revision(repo, unquote(match["revision"]))
        path = unquote(match["path"])
        return path, _entry(repo, path)

    # ------------------------------------------------------------ access

    def _repo(self, request: Request, match: re.Match[str]) -> HubRepo:
        repo_id = unquote(match["repo"])
        repo = self._find(repo_id)
        if repo is None or not repo.visible_to(request.token):
            if request.token is None:
                raise refusal(401, "Invalid username or password.", "RepoNotFound")
            raise refusal(404, "Repository not found", "RepoNotFound")
        if repo.id != repo_id:
            start, end = match.span("repo")
            raise Refusal(redirect(307, request.target[:start] + quote(repo.id) + request.target[end:]))
        if repo.listing["disabled"]:
            raise refusal(403, "Access to this resource is disabled.")
        return repo

    @staticmethod
    def _check_access(repo: HubRepo, request: Request) -> None:
        if not repo.readable_by(request.token):
            message = f"Access to model {repo.id} is restricted and you are not in the authorized list."
            raise refusal(401 if request.token is None else 403, message, "GatedRepo")


def _check_revision(repo: HubRepo, revision: str) -> None:
    if revision not in (MAIN, repo.sha):
        raise refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def _entry(repo: HubRepo, path: str) -> HubFile:
    if path not in repo.files:
        raise refusal(404, "Entry not found", "EntryNotFound")
    return repo.files[path]


def _model_info(repo: HubRepo, request: Request) -> dict[str, Any]:
    names = expanded(request)
    info = properties(repo, ("_id", "id", *names) if names else ("_id", "id", "modelId", *sorted(EXPANDABLE)))
    if request.is_set("blobs") and "siblings" in info:
        info["siblings"] = repo.siblings(request.token)
    return info


def _safetensors_metadata(repo: HubRepo, path: str) -> dict[str, Any]:
    """The index without its weight map, and the header of every shard: one request in place of one per shard."""
    file = _entry(repo, path)
    try:
        index = json.loads(file.read(0, file.size))
        shards = sorted(set(index.pop("weight_map").values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise refusal(400, f"{path} is not an index of safetensors files") from None
    return {"index": index, "headers": {shard: _header(_entry(repo, shard)) for shard in shards}}


def _header(file: HubFile) -> Any:
    return json.loads(file.read(8, 8 + int.from_bytes(file.read(0, 8), "little")))
