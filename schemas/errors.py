"""Every error this project raises on purpose.

ProvenanceError                 something the user can read in one line: what, why, what next
├── IdentityError               a checkpoint id that does not parse
├── CheckpointError             one checkpoint cannot be fingerprinted; becomes one row in `outcomes`
│   ├── HeaderError             an invalid header of a weight file (names repo, file and fault)
│   ├── WeightsError            weights named by the checkpoint are missing, partial or unreadable
│   └── SkippedCheckpoint       no error, but there is nothing to read (ONNX only, a GGUF projector, an old pickle, …)
├── SourceError                 a crawl source (folder, listing) that cannot be used at all
├── StoreError                  the store on disk
│   ├── StoreFormatError        written by an unknown version of this software
│   ├── StoreBusyError          another process holds the writer's lock
│   └── StoreCorruptError       a part named in the manifest is missing or damaged
├── IndexMissingError           a command needs `provenance index` to have run
├── UnknownModelError           the queried model is neither stored nor a readable folder
├── NotAMergeError              a recipe was asked for of a model that no stored checkpoints were merged into
└── TruthError                  a truth table for `provenance evaluate` that cannot be used
"""

from __future__ import annotations

from provenance.schemas.enums import Reason, Stage


class ProvenanceError(Exception):
    """Base of all errors raised on purpose. `str(error)` is one line fit for a user."""


class IdentityError(ProvenanceError, ValueError):
    """A checkpoint id that does not parse."""


class CheckpointError(ProvenanceError):
    """One checkpoint cannot be fingerprinted.

    Attributes:
        stage: where it stopped.
        reason: why, in one word, for programs.
    """

    stage = Stage.READ
    reason = Reason.UNREADABLE

    def __init__(self, message: str, *, stage: Stage | None = None, reason: Reason | None = None) -> None:
        super().__init__(message)
        if stage is not None:
            self.stage = stage
        if reason is not None:
            self.reason = reason


class HeaderError(CheckpointError):
    """An invalid header of a weight file.

    Attributes:
        repo: repo id or folder of the file.
        file: path of the file inside the repo.
        fault: what is wrong, in words.
    """

    stage = Stage.HEADER
    reason = Reason.MALFORMED

    def __init__(self, fault: str, *, file: str, repo: str = "", kind: str = "safetensors") -> None:
        self.repo, self.file, self.fault = repo, file, fault
        where = f"{repo}/{file}" if repo else file
        super().__init__(f"{where}: not a valid {kind} file: {fault}")


class WeightsError(CheckpointError):
    """Weights named by the checkpoint are missing, partial or unreadable."""

    stage = Stage.PLAN
    reason = Reason.BAD_WEIGHTS


class SkippedCheckpoint(CheckpointError):
    """There is nothing to read here. This is not a failure."""

    stage = Stage.PLAN
    reason = Reason.NO_WEIGHTS


class SourceError(ProvenanceError):
    """A crawl source that cannot be used at all."""


class StoreError(ProvenanceError):
    """The store on disk cannot do what was asked."""


class StoreFormatError(StoreError):
    """The store was written in a format that this version does not know."""


class StoreBusyError(StoreError):
    """Another process holds the writer's lock."""


class StoreCorruptError(StoreError):
    """A part that the manifest names is missing or damaged."""


class IndexMissingError(ProvenanceError):
    """The command needs an index and the store has none."""


class UnknownModelError(ProvenanceError):
    """The queried model is neither in the store nor a readable folder."""


class NotAMergeError(ProvenanceError):
    """A recipe was asked for of a model that is no merge of stored checkpoints."""


class TruthError(ProvenanceError):
    """A truth table that cannot be used."""
