"""A model that the store holds already, though it is asked for by its folder or its file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from provenance.indexer.dossier import Dossier
from provenance.indexer.dossier_meta import DossierMeta
from provenance.schemas.naming import licenses_differ, repo_key

_PLACE = ["role", "layer", "expert", "rows", "columns", "digest"]


def same_weights(a: Dossier, b: Dossier) -> bool:
    """Whether two checkpoints hold the same weights, as far as both were read.

    Equal are the files, or else all sampled tensors, and the moments of what was read whole: embeddings and heads.
    Of an adapter nothing is sampled: one of the same repo and size is taken for the same.
    """
    hollow = len(a.matrices.facts) > 0 and not a.facts["digest"].any()
    if hollow:
        return False
    if a.meta.sha256 and a.meta.sha256 == b.meta.sha256:
        return True
    if a.meta.adapter and b.meta.adapter and repo_key(a.repo_id) == repo_key(b.repo_id):
        return (a.meta.n_parameters, a.meta.dtype) == (b.meta.n_parameters, b.meta.dtype)
    if a.meta.content_digest != b.meta.content_digest or not a.facts["digest"].any() or len(a.facts) != len(b.facts):
        return False
    if not np.array_equal(a.facts[_PLACE], b.facts[_PLACE]):
        return False
    whole = (a.facts["std_error"] == 0) & (b.facts["std_error"] == 0)
    return all(np.array_equal(a.facts[name][whole], b.facts[name][whole], equal_nan=True) for name in ("mean", "std"))


def identified(found: Dossier, stored: Iterable[Dossier], *, mode: str | None = None) -> Dossier:
    """What the store knows of a model that was fingerprinted from a folder.

    Args:
        found: the model, with what its folder says about it.
        stored: checkpoints with the same weights.
        mode: how much was asked to be read of it; null for no preference.

    Returns:
        the stored checkpoint of the same repo, else the oldest one, unless the folder says something else than that:
        then the folder's own license and base models stay, and of the same repo the date is taken.
    """
    own_first = sorted(
        stored,
        key=lambda one: (
            repo_key(one.repo_id) != repo_key(found.repo_id),
            one.meta.created_at or "9999",
            one.checkpoint_id,
        ),
    )
    if not own_first:
        return found
    row = own_first[0]
    same_repo = repo_key(row.repo_id) == repo_key(found.repo_id)
    if _says_otherwise(found.meta, row.meta):
        if not same_repo:
            return found
        note = f"card: the folder says otherwise than the stored {row.checkpoint_id}, of which only the date is taken"
        created = found.meta.created_at or row.meta.created_at
        return replace(found, meta=replace(found.meta, created_at=created, notes=(*found.meta.notes, note)))
    if mode not in (None, row.meta.mode) or (row.products is None and found.products is not None):
        row = replace(found, meta=replace(row.meta, mode=found.meta.mode, fingerprint_id=None))
    if same_repo:
        return row
    note = f"identity: the same weights as the stored {row.checkpoint_id}, whose dates, card and license are taken"
    return replace(row, meta=replace(row.meta, notes=(*row.meta.notes, note)))


def stated(model: Dossier, created_at: str | None, license_: str | None) -> Dossier:
    """A model with a date and a license that the user states."""
    meta = model.meta
    return replace(
        model, meta=replace(meta, created_at=created_at or meta.created_at, license=license_ or meta.license)
    )


def _says_otherwise(folder: DossierMeta, row: DossierMeta) -> bool:
    declared, known = ({repo_key(name) for name in meta.declared_parents or ()} for meta in (folder, row))
    dated = folder.created_at is not None and folder.created_at != row.created_at
    return dated or bool(declared - known) or licenses_differ(folder.license, row.license) is True
