"""Protocols between the packages.

`TensorReader` reads bytes, `VectorIndex` searches vectors. `CrawlHistory` and `FingerprintSink` keep the crawler
independent of the store: one says what is known, the other takes the results. `Advance` hears how far long work is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from provenance.schemas.enums import Mode
    from provenance.schemas.identity import CheckpointId
    from provenance.schemas.records import CrawlRun, EarlierFailure, Fingerprint, Outcome, RepoFile

Advance = Callable[[int, int], object]
"""Called as long work goes on, with how many of its steps are done and how many there are."""


class TensorReader(Protocol):
    """Ranged reads of the files of one repo at one revision."""

    @property
    def bytes_read(self) -> int:
        """Bytes read so far."""
        ...

    @property
    def requests(self) -> int:
        """Reads made so far."""
        ...

    def size(self, path: str) -> int:
        """Size of a file in bytes.

        Raises:
            CheckpointError: there is no such file, or it is outside the repo.
        """
        ...

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes | memoryview]:
        """Yield the bytes of each half-open `(start, stop)` range, in the given order.

        Raises:
            CheckpointError: the file ends before a range does, or cannot be read.
        """
        ...


class VectorIndex(Protocol):
    """Inner-product search over unit vectors."""

    @property
    def size(self) -> int:
        """Number of vectors."""
        ...

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k` largest inner products of each query.

        Args:
            queries: `[n, dimension]`.
            k: number of results; at most `size` are returned.

        Returns:
            scores `[n, min(k, size)]` in descending order, and the row of each; equal scores in order of rows.
        """
        ...

    def save(self, path: Path) -> None:
        """Write the index so that `load` of the same class can memory-map it."""
        ...


class CrawlHistory(Protocol):
    """What earlier crawls left, as of the start of a crawl. All threads of the crawl may call it."""

    @property
    def failures(self) -> Mapping[str, EarlierFailure]:
        """Repos of a hub whose last attempt failed."""
        ...

    @property
    def forgotten(self) -> AbstractSet[str]:
        """Repos that were forgotten, even during this crawl, and not crawled by name since."""
        ...

    def has_checkpoint(self, checkpoint_id: str, mode: Mode) -> bool:
        """Whether a fingerprint of this checkpoint is known."""
        ...

    def has_repo(self, repo_id: str, revision: str, mode: Mode) -> bool:
        """Whether the checkpoints of a hub's repo at this commit are known."""
        ...

    def has_no_weights(self, repo_id: str, revision: str) -> bool:
        """Whether a hub's repo at this commit is known to have no weights to read."""
        ...

    def fingerprint_of(self, files: Sequence[RepoFile], mode: Mode) -> Fingerprint | None:
        """A fingerprint of weight files with exactly these digests; null if there is none."""
        ...

    def local_before(
        self, identity: CheckpointId, mode: Mode, *, changed_at: datetime, size: int
    ) -> Fingerprint | None:
        """The last fingerprint of a local checkpoint, if it was made before a file changed, or of another size.

        Args:
            identity: the checkpoint, at any revision.
            mode: of the fingerprint.
            changed_at: the newest time of change of its files.
            size: of its weight files, in bytes.
        """
        ...

    def watermarks(self, listing: str) -> Sequence[datetime]:
        """Times, in any order: every repo of this listing that changed before one of them was crawled or tried."""
        ...


class FingerprintSink(Protocol):
    """Takes the results of one crawl. Only one thread calls it."""

    @property
    def run_id(self) -> str:
        """The id of the crawl in everything that is stored about it."""
        ...

    @property
    def left_out(self) -> int:
        """Fingerprints that were added but not stored, because their repos were forgotten during the crawl."""
        ...

    def begin(self, run: CrawlRun) -> None:
        """Store the start of the crawl.

        Raises:
            StoreError: the store cannot be written. All methods may raise it.
        """
        ...

    def add(self, results: Sequence[tuple[Outcome, Fingerprint | None]], *, named: bool) -> None:
        """Take the results of one task, which are stored together or not at all.

        Args:
            results: an outcome for each checkpoint, and its fingerprint where there is a new one.
            named: the user named the repo, which brings it back if it was forgotten.
        """
        ...

    def commit_if_due(self) -> None:
        """Store what was added, if there is enough of it or it has waited long enough."""
        ...

    def commit(self) -> None:
        """Store what was added."""
        ...

    def finish(self, run: CrawlRun) -> None:
        """Store what was added, and the end of the crawl."""
        ...
