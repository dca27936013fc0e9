"""What is called identical, and what was changed beside the layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from provenance.indexer.dossier import Dossier
from provenance.query.evidence.pair import Pair, Subject
from provenance.query.statistics.background import Background
from provenance.query.verdict.relation import relation_of
from provenance.query.verdict.rule import assess, settle
from provenance.schemas.enums import Direction, Relation
from tests.conftest import Tensors, llama
from tests.support.dossiers import dossier

ROOT = llama(1)


def changed(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Tensors:
    assert any(name in key for key in ROOT)
    return {key: change(tensor).astype(tensor.dtype) if name in key else tensor for key, tensor in ROOT.items()}


def longer(tensor: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([tensor, tensor[:40]])


CASES = {
    "copy": (ROOT, Relation.IDENTICAL),
    "embedding cast": (changed("embed_tokens", lambda t: t.astype(np.float16)), Relation.IDENTICAL),
    "embedding": (changed("embed_tokens", lambda t: t * 1.02), Relation.FINETUNE),
    "tokens": (changed("embed_tokens", longer), Relation.FINETUNE),
    "norms": (changed("layernorm", lambda t: t + np.linspace(0, 0.1, len(t))), Relation.FINETUNE),
}


def dated(weights: Tensors, name: str, day: int) -> Dossier:
    found = dossier(weights, name)
    return replace(found, meta=replace(found.meta, created_at=f"2025-01-{day:02}"))


@pytest.mark.parametrize("case", CASES)
def test_equal_layers_alone_are_not_called_identical(case: str) -> None:
    weights, expected = CASES[case]
    pair = Pair(Subject(dated(weights, "org/child", 9)), Subject(dated(ROOT, "org/root", 1)), Background({}))
    assert relation_of(pair, Direction.PARENT) is expected
    (told,) = settle([assess(pair, 10)])
    assert (told.direction, told.relation) == (Direction.PARENT, expected)
