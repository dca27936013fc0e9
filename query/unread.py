"""What could not be read of a checkpoint, and why, in words: instead of figures that are not there."""

from __future__ import annotations

from provenance.indexer.dossier_meta import DossierMeta
from provenance.schemas.enums import NoteKind
from provenance.schemas.results import Note


def crawl_notes(model: DossierMeta) -> list[Note]:
    """What the crawl of a model could not make out."""
    return [Note(model.checkpoint_id, NoteKind.UNRESOLVED, text) for text in model.notes]
