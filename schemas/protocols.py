"""What the packages hand to each other, as protocols.

A reader of bytes and an index of vectors; and what a crawl goes by and where it delivers, so that the crawler knows no
store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from provenance.schemas.enums import Mode
    from provenance.schemas.records import CrawlRun, EarlierFailure, Fingerprint, Outcome, RepoFile


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
            CheckpointError: there is no such file, or it lies outside the repo.
        """
        ...

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes | memoryview]:
        """Yield the bytes of each half-open `(start, stop)` range, in the order asked.

        Raises:
            CheckpointError: the file is shorter than asked, or cannot be read.
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
            k: how many; at most `size` are returned.

        Returns:
            scores `[n, min(k, size)]` in falling order, and the row of each; equal scores by rising row.
        """
        ...

    def save(self, path: Path) -> None:
        """Write the index so that `load` of the same class maps it back."""
        ...


class CrawlHistory(Protocol):
    """What earlier crawls left, as of the start of a crawl. Every thread of the crawl may ask."""

    @property
    def failures(self) -> Mapping[str, EarlierFailure]:
        """Repos of a hub whose last attempt failed."""
        ...

    @property
    def forgotten(self) -> AbstractSet[str]:
        """Repos that were taken out of the store, even during this crawl, and not crawled by name since."""
        ...

    def has_checkpoint(self, checkpoint_id: str, mode: Mode) -> bool:
        """Whether a fingerprint of this checkpoint is known."""
        ...

    def has_repo(self, repo_id: str, revision: str, mode: Mode) -> bool:
        """Whether the checkpoints of a hub's repo at this commit are known."""
        ...

    def has_no_weights(self, repo_id: str, revision: str) -> bool:
        """Whether there was nothing to read in a hub's repo at this commit."""
        ...

    def fingerprint_of(self, files: Sequence[RepoFile], mode: Mode) -> Fingerprint | None:
        """A fingerprint of weight files with just these digests; null where there is none."""
        ...

    def watermarks(self, listing: str) -> Sequence[datetime]:
        """Times, in any order: every repo of this listing that changed before one of them was crawled or tried."""
        ...


class FingerprintSink(Protocol):
    """Where the results of one crawl go. One thread uses it."""

    @property
    def run_id(self) -> str:
        """Names the crawl in everything that is kept of it."""
        ...

    @property
    def left_out(self) -> int:
        """Fingerprints that were added and not kept: their repos were taken out of the store meanwhile."""
        ...

    def begin(self, run: CrawlRun) -> None:
        """Keep that a crawl begins.

        Raises:
            StoreError: nothing can be kept; so for all methods.
        """
        ...

    def add(self, results: Sequence[tuple[Outcome, Fingerprint | None]], *, named: bool) -> None:
        """Take the results of one task, which are kept together or not at all.

        Args:
            results: an outcome for each checkpoint, and its fingerprint where there is a new one.
            named: the user named the repo, which brings it back where it was taken out of the store.
        """
        ...

    def commit_if_due(self) -> None:
        """Keep what was added, when it is much or has waited for long."""
        ...

    def commit(self) -> None:
        """Keep what was added."""
        ...

    def finish(self, run: CrawlRun) -> None:
        """Keep what was added, and that the crawl has ended."""
        ...
