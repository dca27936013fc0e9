"""The metadata of a dossier: some columns of `checkpoints`, and one JSON line of an index."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from provenance.schemas.naming import repo_key
from provenance.schemas.results import ModelMetadata


@dataclass(frozen=True, slots=True)
class DossierMeta(ModelMetadata):
    """What a query knows about a checkpoint apart from its weights; times are ISO strings.

    Attributes:
        fingerprint_id: its fingerprint in the store, null if it is not stored.
        sha256: the known digests of its weight files, sorted.
        notes: what its crawl could not make out, and what was done about it.
    """

    fingerprint_id: str | None
    sha256: tuple[str, ...]
    notes: tuple[str, ...]

    def declares(self, repo_id: str) -> bool:
        """Whether its card names a repo as its base."""
        return repo_key(repo_id) in map(repo_key, self.declared_parents or ())

    def to_line(self) -> str:
        """The metadata as one line of JSON."""
        return json.dumps({name: getattr(self, name) for name in (*META_COLUMNS, "sha256")})

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """The metadata in a line of JSON.

        Raises:
            ValueError: it is not a JSON object, or a value is missing or unknown.
        """
        try:
            return cls.from_row(json.loads(line))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no metadata of a checkpoint ({error!r})") from error


META_COLUMNS = ("checkpoint_id", "fingerprint_id", *[field.name for field in fields(ModelMetadata)][1:], "notes")
"""Columns of `checkpoints` in the metadata, in the order of its JSON line."""


def meta_of(checkpoint: Mapping[str, Any], sha256: Sequence[str | None]) -> DossierMeta:
    """The metadata of a dossier from a row of `checkpoints` and the digests of its files."""
    created = checkpoint.get("created_at")
    return DossierMeta.from_row(
        {name: checkpoint.get(name) for name in META_COLUMNS}
        | {"notes": checkpoint.get("notes") or ()}
        | {"created_at": created and created.isoformat(), "sha256": sorted(digest for digest in sha256 if digest)}
    )
