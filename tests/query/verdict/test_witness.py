"""What each witness says of a pair, and who is believed where they contradict each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from provenance.indexer.dossier import Dossier
from provenance.query.evidence.pair import Subject
from provenance.query.statistics.frame import frame_of
from provenance.query.verdict.witness import CLEAR, STRUCTURE, Member, Precedence, precedence
from tests.conftest import LLAMA_CONFIG, llama, trained
from tests.support.dossiers import MIXTRAL_CONFIG, dossier, layers_of, mapped, rounded, upcycled
from tests.support.layouts import bfloat16

ROOT = llama(1)
PACKED_CONFIG = {**LLAMA_CONFIG, "quantization_config": {"quant_method": "some method"}}
Change = Callable[[str, NDArray[Any]], NDArray[Any]]


def said(first: Dossier, second: Dossier) -> Precedence:
    members = [Member(found, Subject(found).grid) for found in (first, second)]
    return precedence(members[0], members[1], frame_of([m.grid for m in members]), 0, 1)


def depth(layers: list[int]) -> Dossier:
    return dossier(layers_of(ROOT, layers), config={**LLAMA_CONFIG, "num_hidden_layers": len(layers)})


def narrowed() -> Dossier:
    cut = {
        n: t[:64] if "gate_proj" in n or "up_proj" in n else t[:, :64] if "down_proj" in n else t
        for n, t in ROOT.items()
    }
    return dossier(cut, config={**LLAMA_CONFIG, "intermediate_size": 64})


CHILDREN: dict[str, Callable[[], Dossier]] = {
    "pruned": lambda: dossier(mapped(ROOT, lambda _, t: np.where(np.abs(t) < np.median(np.abs(t)), 0, t))),
    "int8": lambda: dossier(mapped(ROOT, rounded(127))),
    "int4": lambda: dossier(mapped(ROOT, rounded(7))),
    "packed": lambda: dossier(mapped(ROOT, rounded(300)), config=PACKED_CONFIG),
    "layers-dropped": lambda: depth([0, 1, 4, 5]),
    "layers-repeated": lambda: depth([0, 1, 2, 3, 2, 3, 4, 5]),
    "narrowed": narrowed,
    "upcycled": lambda: dossier(upcycled(ROOT, 5), config=MIXTRAL_CONFIG),
}


@pytest.mark.parametrize("kind", CHILDREN)
def test_structure_names_the_child_and_overrules_dates(kind: str) -> None:
    child = CHILDREN[kind]()
    found = said(dossier(ROOT), child)
    assert found.structure == STRUCTURE
    assert found.log_odds() == STRUCTURE
    assert said(child, dossier(ROOT)).structure == -STRUCTURE


def test_weights_that_a_cast_changed_are_the_later_ones() -> None:
    small = bfloat16(mapped(ROOT, lambda _, t: t * 1e-3))
    found = said(dossier(small), dossier(mapped(small, lambda _, t: t.astype(np.float16))))
    assert found.structure == STRUCTURE


def test_a_clear_asymmetry_overrules_dates_and_cards() -> None:
    old = dossier(trained(ROOT, 2, 0.5), "org/old", created=1)
    young = dossier(ROOT, "org/young", created=2, declares=["org/old"])
    found = said(old, young)
    assert found.asymmetry <= -CLEAR
    assert found.dates > 0
    assert found.declared > 0
    assert found.log_odds() == found.asymmetry
    assert found.against(found.clear) == ("dates", "declared")


def test_dates_and_cards_speak_where_the_weights_are_silent() -> None:
    light = trained(ROOT, 2, 0.01)
    assert said(dossier(ROOT, created=1), dossier(light, created=2)).log_odds() > 2
    assert said(dossier(ROOT, "org/root"), dossier(light, declares=["org/root"])).log_odds() > 2
    assert abs(said(dossier(ROOT), dossier(light)).log_odds()) < CLEAR
    assert said(dossier(ROOT, created=1), dossier(light, created=1)).dates == 0


def test_two_cards_that_name_each_other_say_nothing() -> None:
    one = dossier(ROOT, "org/one", declares=["org/other"])
    other = dossier(trained(ROOT, 2, 0.01), "org/other", declares=["org/one"])
    assert said(one, other).declared == 0


def test_nothing_is_read_from_slopes_of_rescaled_or_unrelated_weights() -> None:
    assert said(dossier(ROOT), dossier(mapped(ROOT, lambda _, t: 2 * t))).asymmetry == 0
    assert said(dossier(ROOT), dossier(llama(77))).asymmetry == 0
    assert said(dossier(ROOT), dossier(ROOT, "org/copy")).asymmetry == 0


@pytest.mark.parametrize("kind", ["pruned", "int8", "layers-dropped"])
def test_the_pair_turned_round_says_the_opposite(kind: str) -> None:
    first, second = dossier(ROOT, "org/one", created=2), CHILDREN[kind]()
    there, back = said(first, second), said(second, first)
    assert there.log_odds() == -back.log_odds()
    assert there.against(there.clear) == back.against(back.clear)
    assert there.reversed() == back


def with_rows(rows: int) -> dict[str, NDArray[Any]]:
    """The root with more tokens."""
    more = np.random.default_rng(8).normal(size=(rows, ROOT["model.embed_tokens.weight"].shape[1])) * 0.02
    return {
        name: np.concatenate([tensor, more.astype(tensor.dtype)])
        if "embed_tokens" in name or "lm_head" in name
        else tensor
        for name, tensor in ROOT.items()
    }


def test_added_tokens_name_the_child_and_padding_does_not() -> None:
    rows = len(ROOT["model.embed_tokens.weight"])
    assert said(dossier(ROOT), dossier(with_rows(40), "org/more")).structure == STRUCTURE
    padded = -rows % 64 or 64
    assert said(dossier(ROOT), dossier(with_rows(padded), "org/padded")).structure == (STRUCTURE if padded == 64 else 0)


def test_what_lacks_the_added_tokens_neither_descends_from_their_model_nor_came_before_it() -> None:
    pruned = CHILDREN["pruned"]()
    found = said(dossier(with_rows(40), "org/more"), pruned)
    assert found.apart
    assert found.structure == 0


def test_growth_of_the_embedding_is_a_light_witness() -> None:
    light = {name: tensor * 1.02 if "embed" in name else tensor for name, tensor in trained(ROOT, 2, 0.01).items()}
    light["lm_head.weight"] = ROOT["lm_head.weight"]
    found = said(dossier(ROOT), dossier(light, "org/light"))
    assert 0 < found.growth < CLEAR
    assert said(dossier(light, "org/light"), dossier(ROOT)).growth == -found.growth


def test_a_fine_tune_of_a_rounded_model_is_not_what_it_was_rounded_from() -> None:
    coarse = mapped(ROOT, rounded(127))
    assert said(dossier(coarse), dossier(trained(coarse, 3, 0.1), "org/tuned")).structure == 0
