"""What could not be read is said in words, and nothing is said of a whole model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from provenance.indexer.dossier import Dossier
from provenance.query.unread import notes_of
from provenance.schemas.enums import NoteKind
from provenance.schemas.roles import ROLE_CODE, Role
from tests.conftest import llama
from tests.support.dossiers import dossier


@pytest.fixture
def whole() -> Dossier:
    return dossier(llama(1))


def changed(model: Dossier, roles: tuple[Role, ...] | None, meta: dict[str, Any]) -> Dossier:
    """The dossier with other metadata, and with the tensors of some roles only."""
    facts = model.facts
    if roles is not None:
        facts = facts[np.isin(facts["role"], [ROLE_CODE[role] for role in roles])]
    return replace(model, meta=replace(model.meta, **meta), facts=facts)


def test_a_whole_model_has_no_notes(whole: Dossier) -> None:
    assert notes_of(whole) == []


@pytest.mark.parametrize(
    ("roles", "meta", "kind", "text"),
    [
        ((), {"architecture": "LSTM"}, NoteKind.NO_ATTENTION, "no attention was found in this checkpoint: LSTM"),
        ((), {"architecture": None, "model_type": None}, NoteKind.NO_ATTENTION,
         "no attention was found in this checkpoint"),
        ((Role.UP, Role.DOWN), {"architecture": None, "model_type": "rwkv"}, NoteKind.NO_ATTENTION,
         "no attention was found in this checkpoint: rwkv"),
        ((), {"quantization": "eetq"}, NoteKind.PACKED,
         "no attention could be read in this checkpoint: its weights are packed (eetq)"),
        (None, {"adapter": True, "declared_parents": ()}, NoteKind.ADAPTER_ALONE,
         "an adapter alone: its weights say nothing of its base"),
        (None, {"adapter": True, "declared_parents": ("org/base",)}, NoteKind.ADAPTER_ALONE,
         "an adapter alone: its weights say nothing of its base, which is declared to be org/base"),
    ],
)  # fmt: skip
def test_every_reason(
    whole: Dossier, roles: tuple[Role, ...] | None, meta: dict[str, Any], kind: NoteKind, text: str
) -> None:
    (note,) = notes_of(changed(whole, roles, meta))
    assert (note.checkpoint_id, note.kind, note.text) == (whole.checkpoint_id, kind, text)


def test_too_few_matrices(whole: Dossier) -> None:
    queries = whole.facts[whole.facts["role"] == ROLE_CODE[Role.QUERY]]
    assert len(queries) > 2
    (note,) = notes_of(replace(whole, facts=queries[:2]))
    assert note.kind is NoteKind.FEW_MATRICES
    assert note.text == "only 2 matrices of layers could be read; it takes 4 to judge a checkpoint"
