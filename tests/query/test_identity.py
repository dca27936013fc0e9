"""A folder with the weights of a stored checkpoint is that checkpoint, unless it says something else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from provenance.crawler.plan import SAMPLE_SIZES
from provenance.indexer.dossier import Dossier
from provenance.query.identity import identified, same_weights, stated
from tests.conftest import Tensors, llama
from tests.support.dossiers import dossier

ROOT = llama(1)
stored = dossier(ROOT, "org/name", created=3, declares=["a/base"])


def saying(model: Dossier, **meta: Any) -> Dossier:
    return replace(model, meta=replace(model.meta, **meta))


def bare(model: Dossier) -> Dossier:
    """As a folder of the file system: no digest of its files."""
    return saying(model, sha256=())


def changed(tensors: Tensors, name: str) -> Tensors:
    return tensors | {name: tensors[name] + 0.01}


def test_the_same_weights() -> None:
    assert same_weights(stored, bare(dossier(ROOT, "x/y")))
    assert same_weights(stored, dossier(ROOT, "x/y", size=SAMPLE_SIZES["default"]))
    assert same_weights(stored, saying(dossier(llama(2)), sha256=stored.meta.sha256))


@pytest.mark.parametrize("name", ["lm_head.weight", "model.embed_tokens.weight", "model.layers.3.mlp.up_proj.weight"])
def test_any_change_makes_other_weights(name: str) -> None:
    assert not same_weights(stored, bare(dossier(changed(ROOT, name), "x/y")))


def test_without_digests_nothing_is_the_same() -> None:
    empty = {name: tensor * 0 for name, tensor in ROOT.items()}
    assert not same_weights(bare(dossier(empty, "a/b")), bare(dossier(empty, "c/d")))


def test_the_stored_row_of_the_same_repo_is_taken_as_it_is() -> None:
    older = dossier(ROOT, "a/older", created=1)
    assert identified(dossier(ROOT, "Org/Name"), [older, stored]) is stored
    assert identified(dossier(ROOT, "x/y"), []).repo_id == "x/y"


def test_under_another_name_the_oldest_one_is_meant_and_said() -> None:
    older = dossier(ROOT, "a/older", created=1)
    found = identified(dossier(ROOT, "x/y"), [stored, older, dossier(ROOT, "b/undated")])
    assert (found.repo_id, found.meta.created_at) == ("a/older", older.meta.created_at)
    assert found.meta.notes[-1].startswith("identity: the same weights as the stored a/older@")


@pytest.mark.parametrize("said", [{"license": "mit"}, {"declared_parents": ("c/d",)}, {"created_at": "2020-01-01"}])
def test_a_folder_that_says_otherwise_keeps_its_word(said: dict[str, Any]) -> None:
    known = saying(stored, license="apache-2.0")
    own = identified(saying(dossier(ROOT, "org/name"), **said), [known])
    assert {name: getattr(own.meta, name) for name in said} == said
    assert own.meta.created_at == said.get("created_at", known.meta.created_at)
    other = saying(dossier(ROOT, "x/y"), **said)
    assert identified(other, [known]) is other


def test_a_folder_that_says_the_same_in_other_words_does_not() -> None:
    known = saying(stored, license="apache-2.0")
    assert identified(saying(dossier(ROOT, "org/name", declares=["A/Base"]), license="Apache 2.0"), [known]) is known


def test_what_the_user_states_counts() -> None:
    assert stated(stored, "2020-01-01", None).meta.created_at == "2020-01-01"
    assert stated(stored, None, "mit").meta.license == "mit"
    assert stated(stored, None, None) == stored
