"""The identity of a checkpoint and its string form, which round-trips."""

from __future__ import annotations

import re
from dataclasses import dataclass

from provenance.schemas.errors import IdentityError

REVISION_DIGITS = 12

UNKNOWN_REVISION = "0"
"""Revision of a local folder before the digest of its content is known."""

_NAME = r"(?:[\w.-]|[^\x00-\x7f\s])+"
REPO = rf"{_NAME}(?:/{_NAME})?"
"""A regular expression for the id of a repo: letters of any script, digits, and `._-`. See `is_repo_id`."""

_FORM = re.compile(r"(?P<repo>[^@:#]+)@(?P<revision>[0-9a-f]{1,40})(?::(?P<subfolder>[^#]+))?(?:#(?P<variant>.+))?")


def is_repo_id(text: str) -> bool:
    """Whether a text has the form of a repo id, `name` or `owner/name`; only printable text has."""
    return re.fullmatch(REPO, text) is not None and text.isprintable() and ".." not in text.split("/")


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
        if not is_repo_id(self.repo_id):
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
