"""The requests of `provenance doctor`: one try each, through the crawler's own clients where possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote, urljoin

from provenance.crawler.hub.answers import (
    Location,
    ResponseError,
    TransferError,
    TransportError,
    failure,
    host,
    signed_location,
)
from provenance.crawler.hub.api import ask, connect
from provenance.crawler.hub.listing import PAGE, HubRepo, list_hub, named
from provenance.crawler.hub.transport import SMALL_FILE
from provenance.schemas.errors import SourceError
from provenance.schemas.records import RepoFile

SAMPLE = 100
"""Repos on the page that is examined in detail."""

_TIMEOUT = (3.0, 15.0, 15.0, 3.0)  # seconds to connect (to each address of the host), to read, to write, in the pool


@dataclass(frozen=True, slots=True)
class Answer:
    """One response of the Hub, with any status; redirects are not followed. `body` is cut to the length asked for."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def target(self) -> str:
        """The target of a redirect.

        Raises:
            ResponseError: the target is not a URL.
        """
        try:
            return urljoin(self.url, self.headers.get("Location", ""))
        except ValueError:
            raise ResponseError("redirected to a malformed address") from None


class Probe:
    """The responses of one Hub about its listing and about one repo. Use as a context manager.

    Responses are kept. A failed request raises a `TransportError` at every use, so that each check that needs it fails.
    """

    def __init__(self, endpoint: str | None, repo_id: str) -> None:
        """Set up; nothing is sent yet.

        Args:
            endpoint: URL of the Hub; null for `HF_ENDPOINT`, else huggingface.co.
            repo_id: a public repo with a file in large storage and a small one.

        Raises:
            SourceError: offline mode is on, or the endpoint is not an http or https URL.
        """
        self.transport, self.repo_id = connect(endpoint, retries=0), repo_id
        self.host = host(self.transport.endpoint)

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *exc: object) -> None:
        self.transport.close()

    def reach(self) -> None:
        """Check that the server responds and accepts the token.

        Raises:
            SourceError: the server does not respond, or the token is not valid.
        """
        try:
            answer = self.get("api/models?limit=1")
        except TransferError as error:
            raise SourceError(f"{error}; check the network, HTTPS_PROXY and the endpoint") from error
        if answer.status == 401:
            raise SourceError(str(failure(answer.status, answer.headers, self.host)))

    def get(self, path: str, *, body: int = 0) -> Answer:
        """One unprocessed response, with at most about `body` bytes of its body.

        Raises:
            TransferError: there was no response.
        """
        from huggingface_hub import get_session
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

        url = urljoin(f"{self.transport.endpoint}/", path)
        headers = {**self.transport.headers, "Accept-Encoding": "identity"}
        content = bytearray()
        try:
            with get_session().stream(
                "GET", url, headers=headers, follow_redirects=False, timeout=_TIMEOUT
            ) as response:
                for chunk in response.iter_raw() if body else ():
                    content += chunk
                    if len(content) >= body:
                        break
        except HTTPError as error:
            raise TransferError(f"no answer from {self.host} ({type(error).__name__})") from error
        return Answer(url, response.status_code, response.headers, bytes(content))

    def page(self, query: Mapping[str, Any]) -> tuple[list[Any], str | None]:
        """A page of the listing, and the URL of the next one.

        Raises:
            TransportError: the page could not be read.
        """
        return self._page("api/models", query)

    @cached_property
    def newest(self) -> tuple[list[Any], str | None]:
        """The first page of a full listing, and the URL of the second."""
        return self.page({"sort": "createdAt", "limit": PAGE, "expand": ["createdAt"]})

    @cached_property
    def second(self) -> list[Any]:
        """The second page of that listing."""
        rows, following = self.newest
        if following is None:
            raise TransportError(f"the listing here ends after {len(rows):,} repos, there is no second page")
        return self._page(following, None)[0]

    @cached_property
    def changed(self) -> list[HubRepo]:
        """The repos that changed last, as a crawl reads the listing."""
        return list(list_hub(self.transport, sort="lastModified", limit=SAMPLE))

    @cached_property
    def repo(self) -> HubRepo:
        """The repo, as a crawl reads its description."""
        return named(self.transport, self.repo_id)

    @cached_property
    def large(self) -> tuple[RepoFile, Answer]:
        """A file in large storage, the smallest weight file if there is one, and the response of `resolve`."""
        files = [file for file in self.repo.files if file.sha256 is not None and file.size]
        if not files:
            raise TransportError(f"{self.repo_id} has no file in large storage, or hides its digest; give another repo")
        file = min(files, key=lambda file: (not file.path.endswith(".safetensors"), file.size))
        return file, self._served(file)

    @cached_property
    def small(self) -> tuple[RepoFile, Answer]:
        """A file that the Hub itself serves, config.json if there is one, and the response of `resolve`."""
        files = [file for file in self.repo.files if file.sha256 is None and 0 < file.size <= SMALL_FILE]
        if not files:
            raise TransportError(f"{self.repo_id} has no small file; give another repo")
        file = min(files, key=lambda file: (file.path != "config.json", file.size))
        return file, self._served(file)

    @cached_property
    def location(self) -> Location:
        """The location of the large file, as the crawler reads the redirect."""
        file, answer = self.large
        if answer.status != 302:
            raise ResponseError(f"{file.path}: the Hub answers {answer.status} in place of a redirect")
        return signed_location(
            answer.target,
            answer.headers,
            repo_id=self.repo.repo_id,
            revision=self.repo.revision or "",
            path=file.path,
            commit=answer.headers.get("X-Repo-Commit"),
        )

    def resolve(self, path: str, revision: str | None = None) -> Answer:
        """The response of `resolve`, by default at the commit of the repo.

        Raises:
            TransportError: there was no response, or a refusal that is not about the file.
        """
        commit = revision or self.repo.revision or ""
        answer = self.get(f"{quote(self.repo.repo_id)}/resolve/{commit}/{quote(path)}")
        if answer.status == 429 or answer.status >= 500:
            raise failure(answer.status, answer.headers, path)
        return answer

    def _served(self, file: RepoFile) -> Answer:
        answer = self.resolve(file.path)
        if answer.status in (401, 403):
            raise failure(answer.status, answer.headers, file.path)
        return answer

    def _page(self, address: str, query: Mapping[str, Any] | None) -> tuple[list[Any], str | None]:
        rows, following = ask(self.transport, address, query, what="the listing")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ResponseError("the listing: a page is not a list of objects")
        return rows, following
