"""Copies of a model of which it is open who was first, and what is known of them, in words."""

from __future__ import annotations

from collections.abc import Sequence

from provenance.indexer.dossier_meta import DossierMeta
from provenance.query.verdict.rule import Assessment
from provenance.schemas.enums import Direction, NoteKind, Relation
from provenance.schemas.naming import licenses_differ
from provenance.schemas.results import Note


def copy_notes(model: DossierMeta, candidates: Sequence[Assessment]) -> list[Note]:
    """A note for each candidate with the same weights of which it is open who was first."""
    copies = (one for one in candidates if one.relation is Relation.IDENTICAL and one.direction is Direction.UNKNOWN)
    return [_note(model, copy.meta) for copy in copies]


def _note(model: DossierMeta, copy: DossierMeta) -> Note:
    if model.created_at is None or copy.created_at is None:
        why = "neither" if model.created_at == copy.created_at else "that one" if model.created_at else "this one"
        missing = f"{why} has {'a' if why == 'neither' else 'no'} date"
    elif model.created_at == copy.created_at:
        missing = "both have the same date"
    else:
        missing = "dates and cards contradict each other"
    text = f"the same weights as {copy.repo_id}; who was first is not known ({missing})"
    if licenses_differ(model.license, copy.license):
        text += f"; licenses differ: {model.license} here, {copy.license} there"
    return Note(model.checkpoint_id, NoteKind.SAME_WEIGHTS, text)
