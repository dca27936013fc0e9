"""Words that torch's wrappers put into names, anywhere in them, change no role."""

from __future__ import annotations

import numpy as np
import pytest

from provenance.crawler.architectures.stacks import plain_names
from provenance.schemas.tensors import TensorEntry
from tests.conftest import Tensors, llama
from tests.support.dossiers import dossier

ROOT = llama(1, layers=2)
WORDS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module")


def everywhere(word: str, place: int) -> Tensors:
    """The checkpoint with a word put before a part of every name that has so many parts."""
    return {
        ".".join([*(parts := name.split("."))[:place], word, *parts[place:]]) if name.count(".") >= place else name: t
        for name, t in ROOT.items()
    }


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("place", range(6))
def test_wrapped_names_have_the_roles_of_plain_ones(word: str, place: int) -> None:
    plain, wrapped = dossier(ROOT).meta, dossier(everywhere(word, place)).meta
    assert (wrapped.content_digest, wrapped.resolved, wrapped.notes) == (plain.content_digest, plain.resolved, ())


def test_a_wrapped_copy_beside_plain_tensors_is_another_stack() -> None:
    copy = llama(2, layers=2)
    both = dossier(ROOT | {f"_orig_mod.{name}": tensor for name, tensor in copy.items()})
    assert np.array_equal(both.facts["digest"], dossier(copy).facts["digest"])
    assert both.meta.notes == ()


def test_names_that_would_become_equal_stay() -> None:
    entries = [
        TensorEntry(name, "F32", (1,), "f", 0, 4) for name in ("module.a.b", "_orig_mod.a.b", "module._orig_mod.c")
    ]
    assert list(plain_names(entries).values()) == ["module.a.b", "_orig_mod.a.b", "c"]
