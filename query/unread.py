"""What could not be read of a checkpoint, and why, in words: instead of figures that are not there."""

from __future__ import annotations

import numpy as np

from provenance.indexer.dossier import Dossier
from provenance.indexer.dossier_meta import DossierMeta
from provenance.schemas.enums import NoteKind
from provenance.schemas.results import Note
from provenance.schemas.roles import ATTENTION, LATENT_ATTENTION, ROLE_CODE

MIN_MATRICES = 4
"""Checkpoints with fewer sampled layer matrices cannot be judged."""

_ATTENTION = [ROLE_CODE[role] for role in ATTENTION + LATENT_ATTENTION]


def notes_of(dossier: Dossier) -> list[Note]:
    """At most one note: the first reason why the checkpoint cannot be judged, or not as a whole model."""
    meta = dossier.meta
    what = meta.architecture or meta.model_type
    if meta.adapter:
        declared = " and ".join(meta.declared_parents or ())
        text = "an adapter alone: its weights say nothing of its base"
        text += f", which is declared to be {declared}" if declared else ""
        return [Note(dossier.checkpoint_id, NoteKind.ADAPTER_ALONE, text)]
    if not np.isin(dossier.facts["role"], _ATTENTION).any():
        if meta.quantization:
            text = f"no attention could be read in this checkpoint: its weights are packed ({meta.quantization})"
            return [Note(dossier.checkpoint_id, NoteKind.PACKED, text)]
        text = "no attention was found in this checkpoint"
        return [Note(dossier.checkpoint_id, NoteKind.NO_ATTENTION, f"{text}: {what}" if what else text)]
    if (n := len(dossier.matrices.facts)) < MIN_MATRICES:
        text = f"only {n} matrices of layers could be read; it takes {MIN_MATRICES} to judge a checkpoint"
        return [Note(dossier.checkpoint_id, NoteKind.FEW_MATRICES, text)]
    return []


def crawl_notes(model: DossierMeta) -> list[Note]:
    """What the crawl of a model could not make out."""
    return [Note(model.checkpoint_id, NoteKind.UNRESOLVED, text) for text in model.notes]
