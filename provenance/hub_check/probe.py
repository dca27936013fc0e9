"""What `provenance doctor` asks a Hub: with one try, and through the crawler's own clients where it can."""

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
"""Repos on the page that is looked at closely."""

_TIMEOUT = (3.0, 15.0, 15.0, 3.0)  # seconds to connect (to each address of the host), to read, to write, in the pool


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the Hub, whatever its status; redirects are not followed. `body` is no more than was asked for."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def target(self) -> str:
        """Where a redirect leads to.

        Raises:
            ResponseError: to something that is not an address.
        """
        try:
            return urljoin(self.url, self.headers.get("Location", ""))
        except ValueError:
            raise ResponseError("redirected to a malformed address") from None


class Probe:
    """The answers of one Hub about its listing and about one repo. Use as a context manager.

    What came is kept; what did not raises a `TransportError` at every use, so that each check that needs it says so.
    """

    def __init__(self, endpoint: str | None, repo_id: str) -> None:
        """Set up; nothing is sent yet.

        Args:
            endpoint: address of the Hub; null for `HF_ENDPOINT`, or else huggingface.co.
            repo_id: a public repo with a file in large storage and a small one.

        Raises:
            SourceError: offline mode is on, or the endpoint is not an http or https address.
        """
        self.transport, self.repo_id = connect(endpoint, retries=0), repo_id
        self.host = host(self.transport.endpoint)

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *exc: object) -> None:
        self.transport.close()

    def reach(self) -> None:
        """Make sure that there is a server at all, and that it accepts the login.

        Raises:
            SourceError: nothing answers, or the token is not valid.
        """
        try:
            answer = self.get("api/models?limit=1")
        except TransferError as error:
            raise SourceError(f"{error}; check the network, HTTPS_PROXY and the endpoint") from error
        if answer.status == 401:
            raise SourceError(str(failure(answer.status, answer.headers, self.host)))

    def get(self, path: str, *, body: int = 0) -> Answer:
        """One answer as it comes, of its body about `body` bytes at the most.

        Raises:
            TransferError: none came.
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
        """A page of the listing, and the address of the next one.

        Raises:
            TransportError: it did not come.
        """
        return self._page("api/models", query)

    @cached_property
    def newest(self) -> tuple[list[Any], str | None]:
        """The first page of a walk over all repos, and the address of the second."""
        return self.page({"sort": "createdAt", "limit": PAGE, "expand": ["createdAt"]})

    @cached_property
    def second(self) -> list[Any]:
        """The second page of that walk."""
        rows, following = self.newest
        if following is None:
            raise TransportError(f"the listing here ends after {len(rows):,} repos, there is no second page")
        return self._page(following, None)[0]

    @cached_property
    def changed(self) -> list[HubRepo]:
        """The repos that changed last, as a crawl understands the listing."""
        return list(list_hub(self.transport, sort="lastModified", limit=SAMPLE))

    @cached_property
    def repo(self) -> HubRepo:
        """The repo, as a crawl understands its description."""
        return named(self.transport, self.repo_id)

    @cached_property
    def large(self) -> tuple[RepoFile, Answer]:
        """A file in large storage, the smallest weight file where there is one, and the answer to `resolve`."""
        files = [file for file in self.repo.files if file.sha256 is not None and file.size]
        if not files:
            raise TransportError(f"{self.repo_id} has no file in large storage, or hides its digest; give another repo")
        file = min(files, key=lambda file: (not file.path.endswith(".safetensors"), file.size))
        return file, self._served(file)

    @cached_property
    def small(self) -> tuple[RepoFile, Answer]:
        """A file that the Hub serves itself, config.json where there is one, and the answer to `resolve`."""
        files = [file for file in self.repo.files if file.sha256 is None and 0 < file.size <= SMALL_FILE]
        if not files:
            raise TransportError(f"{self.repo_id} has no small file; give another repo")
        file = min(files, key=lambda file: (file.path != "config.json", file.size))
        return file, self._served(file)

    @cached_property
    def location(self) -> Location:
        """Where the large file lies, as the crawler reads the redirect."""
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
        """The answer to `resolve`, at the commit of the repo unless told.

        Raises:
            TransportError: none came, or a refusal that has nothing to do with the file.
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
