"""The words of results and outcomes, as enumerations. Each is a string: its value is what tables and JSON hold."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What is claimed of a candidate."""

    DERIVED = "derived"
    """It is an ancestor of the model."""
    RELATED = "related"
    """They have a common origin; the candidate is no ancestor, or nobody can tell."""
    INCONCLUSIVE = "inconclusive"
    """The weights that were read do not suffice."""
    UNRELATED = "unrelated"
    """Nothing in the weights speaks for a common origin."""


class ModelVerdict(StrEnum):
    """What is claimed of the model that was asked about."""

    DERIVED = "derived"
    """A stored checkpoint is an ancestor of it."""
    NO_PARENT_FOUND = "no-parent-found"
    """No stored checkpoint is."""
    INCONCLUSIVE = "inconclusive"
    """Its weights do not suffice to say."""


class Direction(StrEnum):
    """What a candidate is to the model."""

    PARENT = "parent"
    CHILD = "child"
    SIBLING = "sibling"
    UNKNOWN = "unknown"


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


class Null(StrEnum):
    """What a line of evidence is held against: how it is distributed over unrelated pairs."""

    THEORETICAL = "theoretical"
    """Known from the statistic itself."""
    EMPIRICAL = "empirical"
    """Known from the scores of unrelated pairs alone: no p-value is below 1 / (n + 1)."""
    NONE = "none"
    """Not known: the line describes."""


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
    """Where an attempt stopped."""

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
    """It is stored already."""
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
    """The hub wants a valid one."""
    FORBIDDEN = "forbidden"
    EXPIRED = "expired"
    """The storage refuses a signed address."""
    CHANGED = "changed"
    """Other files than were listed, or another commit."""
    MALFORMED = "malformed"
    BAD_WEIGHTS = "bad-weights"
    UNREADABLE = "unreadable"
    BAD_ANSWER = "bad-answer"
    NETWORK = "network"
    STOPPED = "stopped"
    """The crawl ended first; no outcome."""
    UNEXPECTED = "unexpected"
