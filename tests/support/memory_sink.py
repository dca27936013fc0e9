"""A history and a sink of crawls in memory, with only the methods of the protocols."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from provenance.schemas.enums import Mode, Reason, Source, Status
from provenance.schemas.identity import CheckpointId, short_revision
from provenance.schemas.records import CrawlRun, EarlierFailure, Fingerprint, Outcome, RepoFile


def digests(files: Iterable[RepoFile]) -> tuple[str, ...] | None:
    values = [file.sha256 or file.xet_hash for file in files]
    return None if None in values else tuple(sorted(map(str, values)))


@dataclass
class MemoryHistory:
    """A `schemas.protocols.CrawlHistory`."""

    checkpoints: set[tuple[str, Mode]] = field(default_factory=set)
    repos: set[tuple[str, str, Mode]] = field(default_factory=set)
    empty: set[tuple[str, str]] = field(default_factory=set)
    failures: dict[str, EarlierFailure] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    marks: dict[str, list[datetime]] = field(default_factory=dict)
    files: dict[tuple[tuple[str, ...] | None, Mode], Fingerprint] = field(default_factory=dict)

    def has_checkpoint(self, checkpoint_id: str, mode: Mode) -> bool:
        return (checkpoint_id, mode) in self.checkpoints

    def has_repo(self, repo_id: str, revision: str, mode: Mode) -> bool:
        return (repo_id, short_revision(revision), mode) in self.repos

    def has_no_weights(self, repo_id: str, revision: str) -> bool:
        return (repo_id, short_revision(revision)) in self.empty

    def fingerprint_of(self, files: Sequence[RepoFile], mode: Mode) -> Fingerprint | None:
        return self.files.get((digests(files), mode))

    def local_before(
        self, identity: CheckpointId, mode: Mode, *, changed_at: datetime, size: int
    ) -> Fingerprint | None:
        return None

    def watermarks(self, listing: str) -> list[datetime]:
        return self.marks.get(listing, [])

    def learn(self, sink: MemorySink) -> None:
        """Add all results of a crawl."""
        for outcome, fingerprint in sink.kept:
            if fingerprint is not None:
                row = fingerprint.checkpoint
                mode = row.mode
                self.checkpoints.add((row.checkpoint_id, mode))
                if outcome.source is Source.HUB:
                    self.repos.add((outcome.repo_id, short_revision(str(outcome.revision)), mode))
            if outcome.reason is Reason.NO_WEIGHTS:
                self.empty.add((outcome.repo_id, short_revision(str(outcome.revision))))
            self.failures.pop(outcome.repo_id, None)
            if outcome.status is Status.FAILED:
                listings = frozenset(run.listing for run in sink.runs[:1] if run.listing is not None)
                self.failures[outcome.repo_id] = EarlierFailure(
                    outcome.revision, outcome.reason, outcome.attempts, outcome.next_attempt_at, listings
                )
        for run in sink.runs:
            if run.listing is not None and run.watermark is not None:
                self.marks.setdefault(run.listing, []).append(run.watermark)


@dataclass
class MemorySink:
    """A `schemas.protocols.FingerprintSink`; `taken_out` are repos that are forgotten during the crawl."""

    taken_out: frozenset[str] = frozenset()
    run_id: str = "in-memory"
    left_out: int = 0
    runs: list[CrawlRun] = field(default_factory=list)
    kept: list[tuple[Outcome, Fingerprint | None]] = field(default_factory=list)
    waiting: list[tuple[Outcome, Fingerprint | None, bool]] = field(default_factory=list)

    def begin(self, run: CrawlRun) -> None:
        assert not self.runs
        self.runs.append(run)

    def add(self, results: Sequence[tuple[Outcome, Fingerprint | None]], *, named: bool) -> None:
        self.waiting += [(outcome, fingerprint, named) for outcome, fingerprint in results]

    def commit_if_due(self) -> None:
        if len(self.waiting) >= 3:
            self.commit()

    def commit(self) -> None:
        for outcome, fingerprint, named in self.waiting:
            if named or outcome.repo_id not in self.taken_out:
                self.kept.append((outcome, fingerprint))
            else:
                self.left_out += fingerprint is not None
        self.waiting = []

    def finish(self, run: CrawlRun) -> None:
        self.commit()
        assert len(self.runs) == 1
        self.runs.append(run)

    def statuses(self) -> dict[str, Status]:
        """The last outcome of every repo."""
        return {outcome.repo_id: outcome.status for outcome, _ in self.kept}
