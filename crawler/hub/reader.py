"""Range reads of the files of one repo of the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from provenance.crawler.hub.answers import Location
from provenance.crawler.hub.transport import HubTransport
from provenance.schemas.enums import Reason
from provenance.schemas.errors import WeightsError
from provenance.schemas.records import ListedCheckpoint, RepoFile


class HubReader:
    """A `schemas.protocols.TensorReader` over the files of one repo at one commit.

    Each file is resolved once, at its first use. A reader must be used by one thread only.

    Attributes:
        bytes_read: bytes received.
        requests: files resolved, plus ranges read from the storage.
    """

    def __init__(self, transport: HubTransport, repo_id: str, revision: str, files: Sequence[RepoFile] = ()) -> None:
        """Read the files of `repo_id` at `revision`, a full commit hash.

        Args:
            files: as listed; a file whose size differs from the listed one is not read.
        """
        self.repo_id, self.revision = repo_id, revision
        self.bytes_read = 0
        self.requests = 0
        self._transport = transport
        self._listed = {file.path: file for file in files}
        self._locations: dict[str, Location] = {}

    def size(self, path: str) -> int:
        """Size of a file in bytes.

        Raises:
            WeightsError: it is not the listed file.
            TransportError: there is no such file, or the Hub does not serve it; see `HubTransport.resolve`.
        """
        return self._locate(path).size

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Yield the bytes of each half-open `(start, stop)` range, in the given order.

        Raises:
            WeightsError: as `size`, or a range ends after the end of the file.
            TransportError: as `size`, or a range could not be fetched; see `HubTransport.read_ranges`.
        """
        location = self._locate(path)
        for data in self._transport.read_ranges(location, ranges):
            if location.body is None and data:
                self.bytes_read += len(data)
                self.requests += 1
            yield data

    def complete(self, listed: ListedCheckpoint) -> ListedCheckpoint:
        """The checkpoint with its weight files as the Hub serves them: size, digests and commit.

        A listing names files without their sizes; a fingerprint needs them. If the repo was renamed, the result has
        its final id.

        Raises:
            WeightsError, TransportError: as `size`.
        """
        files = tuple(self._file(path) for path in listed.weight_files)
        final = {self._locations[path].repo_id for path in listed.weight_files}
        if len(final) > 1:
            raise WeightsError(f"{self.repo_id} was renamed while it was read; list it again", reason=Reason.CHANGED)
        return replace(listed, identity=replace(listed.identity, repo_id=final.pop()), files=files)

    def _file(self, path: str) -> RepoFile:
        location, listed = self._locate(path), self._listed.get(path)
        return RepoFile(
            path,
            location.size,
            location.sha256 or (listed.sha256 if listed else None),
            location.xet_hash or (listed.xet_hash if listed else None),
            location.commit or self.revision,
        )

    def _locate(self, path: str) -> Location:
        if path not in self._locations:
            location = self._transport.resolve(self.repo_id, self.revision, path)
            listed = self._listed.get(path)
            if listed is not None and listed.size != location.size:
                raise WeightsError(
                    f"{self.repo_id}/{path}: listed with {listed.size} bytes, served with {location.size}; "
                    "list the repo again",
                    reason=Reason.CHANGED,
                )
            self.requests += 1
            self.bytes_read += len(location.body or b"")
            self._locations[path] = location
        return self._locations[path]
