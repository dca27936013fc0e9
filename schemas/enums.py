"""Enumerations of results and outcomes. Each member is a string: its value is stored in tables and JSON."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """The claim about a candidate."""

    DERIVED = "derived"
    """It is an ancestor of the model."""
    RELATED = "related"
    """They have a common origin; the candidate is not an ancestor, or it cannot be decided."""
    INCONCLUSIVE = "inconclusive"
    """The weights that were read do not suffice to decide."""
    UNRELATED = "unrelated"
    """There is no evidence of a common origin in the weights."""


class ModelVerdict(StrEnum):
    """The claim about the queried model."""

    DERIVED = "derived"
    """A stored checkpoint is an ancestor of it."""
    NO_PARENT_FOUND = "no-parent-found"
    """No stored checkpoint is."""
    INCONCLUSIVE = "inconclusive"
    """Its weights do not suffice to decide."""


class ClaimStatus(StrEnum):
    """What the weights say of a parent that a card declares."""

    CONFIRMED = "confirmed"
    """It is an ancestor."""
    CONTRADICTED = "contradicted"
    """It is unrelated."""
    NOT_STORED = "not-stored"
    """The store does not hold it."""
    CANNOT_TELL = "cannot-tell"
    """It is a relative but not shown to be an ancestor, or its weights do not suffice."""


class Direction(StrEnum):
    """The role of a candidate relative to the model."""

    PARENT = "parent"
    CHILD = "child"
    SIBLING = "sibling"
    UNKNOWN = "unknown"


class Witness(StrEnum):
    """What shows which of two relatives came first."""

    STRUCTURE = "structure"
    """An upcycled, pruned, cut, extended or quantised model is the child."""
    ASYMMETRY = "asymmetry"
    """One carries all of the other, and the other not all of the one."""
    DATES = "dates"
    DECLARED = "declared"
    """A card names it."""
    FAMILY = "family"
    """The distances between all relatives."""
    MERGE = "merge"
    """The weights are a weighted mean or sum of those of its parents."""


class Relation(StrEnum):
    """How a child was made from its parent."""

    IDENTICAL = "identical"
    FINETUNE = "finetune"
    CONTINUED_PRETRAINING = "continued-pretraining"
    ADAPTER = "adapter"
    MERGE = "merge"
    QUANTIZED = "quantized"
    PRUNED = "pruned"
    UPCYCLED = "upcycled"
    DEPTH_CHANGED = "depth-changed"
    TRANSFORMED = "transformed"
    UNKNOWN = "unknown"


class NoteKind(StrEnum):
    """What a note about a checkpoint is about."""

    ADAPTER_ALONE = "adapter-alone"
    """An adapter without the weights that it applies to."""
    NO_ATTENTION = "no-attention"
    """No projection of an attention was found in its layers."""
    PACKED = "packed"
    """Its numbers are packed in a way that is not read."""
    FEW_MATRICES = "few-matrices"
    """Too few matrices could be read to judge it."""
    SAME_WEIGHTS = "same-weights"
    """A stored checkpoint has the same weights, and who was first is not known."""
    UNRESOLVED = "unresolved"
    """Something that the crawl could not make out: a card, the order of shards, odd values, tensors without a role."""


class MergeMethod(StrEnum):
    """How a merge was made of its parents, in mergekit's words where it has one."""

    LINEAR = "linear"
    """A weighted mean."""
    SLERP = "slerp"
    """A point between two on a great circle."""
    TASK_ARITHMETIC = "task_arithmetic"
    """Changes of several children of a base, added to the base."""
    TIES = "ties"
    """Parts of such changes: cells trimmed, and elected by sign."""
    DARE_TIES = "dare_ties"
    """Cells of such changes dropped at random, the others scaled."""
    PASSTHROUGH = "passthrough"
    """Layers of several checkpoints one above the other."""


class Null(StrEnum):
    """The kind of a line's null distribution: its distribution over unrelated pairs."""

    THEORETICAL = "theoretical"
    """Known from the statistic itself."""
    EMPIRICAL = "empirical"
    """Known only from the scores of n unrelated pairs: no p-value is below 1 / (n + 1)."""
    NONE = "none"
    """Not known: the line is descriptive."""


class Mode(StrEnum):
    """How much of a checkpoint is read."""

    SAMPLED = "sampled"
    """Planned bands of the weights."""
    FULL = "full"
    """Every weight."""


class Status(StrEnum):
    """How one attempt to fingerprint a checkpoint ended."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


class Source(StrEnum):
    """Where a checkpoint was read."""

    HUB = "hub"
    LOCAL = "local"


class Stage(StrEnum):
    """The stage at which an attempt stopped."""

    LISTING = "listing"
    PLAN = "plan"
    HEADER = "header"
    ROLES = "roles"
    READ = "read"
    STATISTICS = "statistics"
    STORE = "store"


class Reason(StrEnum):
    """Why an attempt did not end with a fingerprint."""

    KNOWN = "known"
    """It is already stored."""
    RENAMED = "renamed"
    """The repo has another id now."""
    NO_WEIGHTS = "no-weights"
    NO_REPO = "no-repo"
    NO_REVISION = "no-revision"
    NO_FILE = "no-file"
    NO_FILES = "no-files"
    """The hub lists a repo without any."""
    GATED = "gated"
    DISABLED = "disabled"
    LOGIN = "login"
    """The hub requires a valid login."""
    FORBIDDEN = "forbidden"
    EXPIRED = "expired"
    """The storage refuses a signed URL."""
    CHANGED = "changed"
    """The files or the commit differ from the listing."""
    MALFORMED = "malformed"
    BAD_WEIGHTS = "bad-weights"
    UNREADABLE = "unreadable"
    BAD_ANSWER = "bad-answer"
    NETWORK = "network"
    UNFINISHED = "unfinished"
    """The crawl ended before all checkpoints of the repo were read."""
    STOPPED = "stopped"
    """The crawl ended first; no outcome."""
    UNEXPECTED = "unexpected"
