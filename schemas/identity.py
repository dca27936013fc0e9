"""The identity of a checkpoint and its string form, which round-trips."""

from __future__ import annotations

import re
from dataclasses import dataclass

from provenance.schemas.errors import IdentityError

REVISION_DIGITS = 12

UNKNOWN_REVISION = "0"
"""Revision of a local folder before the digest of its content is known."""

_REPO = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_FORM = re.compile(r"(?P<repo>[^@:#]+)@(?P<revision>[0-9a-f]{1,40})(?::(?P<subfolder>[^#]+))?(?:#(?P<variant>.+))?")


def short_revision(revision: str) -> str:
    """A commit in the short form of checkpoint ids."""
    return revision[:REVISION_DIGITS]


@dataclass(frozen=True, slots=True, order=True)
class CheckpointId:
    """One set of weights: repo, commit, and position in the repo.

    `str(CheckpointId(...))` is `repo_id@revision[:subfolder][#variant]` with the revision cut to
    12 hex digits, and `CheckpointId.parse` reads it back: `parse(str(x)) == x`.

    Raises:
        IdentityError: a part contains a character that would make the string form ambiguous.
    """

    repo_id: str
    revision: str
    subfolder: str | None = None
    variant: str | None = None

    def __post_init__(self) -> None:
        if not _REPO.fullmatch(self.repo_id) or ".." in self.repo_id.split("/"):
            raise IdentityError(f"repo id {self.repo_id!r} is not of the form 'name' or 'owner/name'")
        if not re.fullmatch(r"[0-9a-f]+", self.revision):
            raise IdentityError(f"revision {self.revision!r} of {self.repo_id} is not a hexadecimal commit")
        object.__setattr__(self, "revision", self.revision[:REVISION_DIGITS])
        for label, part, reserved in (("subfolder", self.subfolder, "#"), ("variant", self.variant, "")):
            if part is None:
                continue
            if part == "" or not part.isprintable() or any(sign in part for sign in reserved):
                raise IdentityError(f"{label} {part!r} of {self.repo_id} is empty or holds a reserved character")

    def __str__(self) -> str:
        text = f"{self.repo_id}@{self.revision}"
        if self.subfolder is not None:
            text += f":{self.subfolder}"
        if self.variant is not None:
            text += f"#{self.variant}"
        return text

    @classmethod
    def parse(cls, text: str) -> CheckpointId:
        """Read `repo_id@revision[:subfolder][#variant]`.

        Raises:
            IdentityError: `text` does not have that form.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise IdentityError(f"{text!r} is not a checkpoint id; expected repo_id@revision[:subfolder][#variant]")
        return cls(match["repo"], match["revision"], match["subfolder"], match["variant"])
