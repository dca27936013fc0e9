"""Whole answers about small families whose history is known, with nothing but dossiers in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from provenance.indexer.dossier import Dossier
from provenance.query.catalogue import Catalogue
from provenance.query.engine import Judgement, judge
from provenance.query.evidence.registry import SUPPORTING
from provenance.query.statistics.background import Background, Scores, key
from provenance.query.verdict.rule import Assessment
from provenance.schemas.roles import LAYER_MATRICES
from tests.conftest import LLAMA_CONFIG, Tensors, llama, trained
from tests.support.dossiers import MIXTRAL_CONFIG, dossier, layers_of, mapped, upcycled, without

ROOT = llama(1)
CHILD, SIBLING = trained(ROOT, 2, 0.2), trained(ROOT, 3, 0.2)
GRANDCHILD = trained(CHILD, 4, 0.1)
STRANGERS = [dossier(llama(50 + i), f"else/where-{i}", created=i) for i in range(3)]

root = dossier(ROOT, "org/root", created=1)
child = dossier(CHILD, "org/child", created=10)
sibling = dossier(SIBLING, "org/sibling", created=20)
grandchild = dossier(GRANDCHILD, "org/grandchild", created=30)
FAMILY = [root, child, sibling, grandchild]


def ask(model: Dossier, store: Sequence[Dossier], scores: Scores | None = None, minimum: float = 0.0) -> Judgement:
    catalogue = Catalogue(None, [*store, *STRANGERS], Background(scores or {}))
    found = judge(model, catalogue, min_probability=minimum)
    strangers = {d.repo_id for d in STRANGERS} - {model.repo_id}
    assert all(c.verdict == "unrelated" for c in found.candidates if c.repo_id in strangers)
    assert all(c.repo_id != model.repo_id for c in found.candidates)
    return found


def one(found: Judgement, repo_id: str) -> Assessment:
    return next(c for c in found.candidates if c.repo_id == repo_id)


def names(found: Judgement, *verdicts: str) -> list[str]:
    return [c.repo_id for c in found.candidates if c.verdict in verdicts]


def told(found: Judgement, repo_id: str) -> tuple[str, str, str]:
    candidate = one(found, repo_id)
    return candidate.verdict, candidate.direction, candidate.relation


def undated(found: Dossier) -> Dossier:
    return replace(found, meta=replace(found.meta, created_at=None))


def changed(tensors: Tensors, seed: int, amount: float) -> Tensors:
    """Matrices plus an independent change of `amount` times their spread; vectors as they are."""
    rng = np.random.default_rng(seed)
    return mapped(tensors, lambda _, t: t + rng.normal(0, amount * float(t.std()), t.shape))


# A family with dates.


def test_a_root_has_no_parent_and_its_descendants_are_children() -> None:
    found = ask(root, FAMILY)
    assert found.verdict == "no-parent-found"
    for repo_id in ("org/child", "org/sibling", "org/grandchild"):
        assert told(found, repo_id)[:2] == ("related", "child"), repo_id
    assert set(names(found, "related")) == {"org/child", "org/sibling", "org/grandchild"}


def test_a_child_descends_from_its_root_and_not_from_its_own_children() -> None:
    found = ask(child, FAMILY)
    assert found.verdict == "derived"
    assert names(found, "derived") == ["org/root"]
    assert told(found, "org/root") == ("derived", "parent", "finetune")
    assert told(found, "org/grandchild")[:2] == ("related", "child")
    assert told(found, "org/sibling")[:2] == ("related", "sibling")


def test_a_sibling_stored_earlier_is_no_parent() -> None:
    found = ask(sibling, FAMILY)
    assert names(found, "derived") == ["org/root"]
    assert told(found, "org/child") == ("related", "sibling", "unknown")
    assert told(found, "org/grandchild")[0] == "related"


def test_a_grandchild_names_its_parent_before_its_grandparent() -> None:
    found = ask(grandchild, FAMILY)
    assert names(found, "derived") == ["org/child", "org/root"]
    assert told(found, "org/sibling")[:2] == ("related", "sibling")


def test_an_answer_does_not_depend_on_the_order_of_the_store() -> None:
    first, second = ask(grandchild, FAMILY), ask(grandchild, FAMILY[::-1])
    assert [told(first, c.repo_id) for c in first.candidates] == [told(second, c.repo_id) for c in second.candidates]
    assert [c.repo_id for c in first.candidates] == [c.repo_id for c in second.candidates]


def test_without_its_parent_a_model_is_no_child_of_its_siblings_children() -> None:
    found = ask(grandchild, [root, sibling])
    assert names(found, "derived") == ["org/root"]


def test_longer_training_has_its_own_name() -> None:
    found = ask(dossier(trained(ROOT, 8, 0.8), "org/long", created=5), [root])
    assert told(found, "org/root") == ("derived", "parent", "continued-pretraining")


# Copies.


def test_copies_are_listed_oldest_first_and_the_later_copy_is_a_child() -> None:
    early, late = dossier(ROOT, "mirror/early", created=2), dossier(ROOT, "mirror/late", created=3)
    found = ask(late, [early, root, child])
    assert names(found, "derived") == ["org/root", "mirror/early"]
    assert {told(found, r) for r in ("org/root", "mirror/early")} == {("derived", "parent", "identical")}
    found = ask(root, [late, early, child])
    assert found.verdict == "no-parent-found"
    assert told(found, "mirror/late") == ("related", "child", "identical")


def test_copies_without_dates_are_related_and_nobody_says_who_was_first() -> None:
    copies = [dossier(ROOT, name) for name in ("mirror/b", "mirror/a")]
    found = ask(undated(root), copies)
    assert found.verdict == "inconclusive"
    assert names(found, "related") == ["mirror/a", "mirror/b"]
    assert told(found, "mirror/a") == ("related", "unknown", "identical")


def test_a_child_of_two_copies_derives_from_both() -> None:
    found = ask(child, [root, dossier(ROOT, "mirror/early", created=2)])
    assert names(found, "derived") == ["org/root", "mirror/early"]


# Ways to change a model.


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_a_merge_has_both_parents_with_their_weights(share: float) -> None:
    merged: Tensors = {n: (share * CHILD[n] + (1 - share) * SIBLING[n]).astype(np.float32) for n in CHILD}
    found = ask(dossier(merged, "org/merge", created=40), [root, child, sibling])
    assert found.verdict == "derived"
    for repo_id, weight in (("org/child", share), ("org/sibling", 1 - share)):
        assert told(found, repo_id)[::2] == ("derived", "merge")
        assert one(found, repo_id).merge_weight == pytest.approx(weight, abs=0.03)
    assert one(found, "org/root").merge_weight is None
    assert told(found, "org/root")[0] == "derived"


def test_a_fine_tune_is_no_merge() -> None:
    assert all(c.merge_weight is None for c in ask(grandchild, FAMILY).candidates)


def rounded(tensors: Tensors, levels: int) -> Tensors:
    def quantise(_: str, tensor: NDArray[Any]) -> NDArray[Any]:
        step = np.abs(tensor).max(axis=1, keepdims=True) / levels
        out: NDArray[Any] = np.round(tensor / step) * step
        return out

    return mapped(tensors, quantise)


def pruned(tensors: Tensors, share: float) -> Tensors:
    return mapped(tensors, lambda _, t: np.where(np.abs(t) < np.quantile(np.abs(t), share), 0, t))


@pytest.mark.parametrize("levels", [127, 7])
def test_a_quantised_model_comes_from_its_original(levels: int) -> None:
    found = ask(dossier(rounded(CHILD, levels), "org/small", created=40), FAMILY)
    assert names(found, "derived")[0] == "org/child"
    assert told(found, "org/child") == ("derived", "parent", "quantized")


@pytest.mark.parametrize("dated", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_a_pruned_model_comes_from_the_whole_one(share: float, dated: bool) -> None:
    thin = dossier(pruned(ROOT, share), "org/thin", created=5 if dated else None)
    whole = root if dated else undated(root)
    assert told(ask(thin, [whole]), "org/root") == ("derived", "parent", "pruned")
    assert told(ask(whole, [thin]), "org/thin") == ("related", "child", "pruned")


@pytest.mark.parametrize("layers", [[0, 1, 4, 5], [0, 1, 2, 3, 2, 3, 4, 5]], ids=["dropped", "repeated"])
def test_a_change_of_depth(layers: list[int]) -> None:
    config = {**LLAMA_CONFIG, "num_hidden_layers": len(layers)}
    other = dossier(layers_of(CHILD, layers), "org/depth", created=40, config=config)
    found = ask(other, [root, child])
    assert told(found, "org/child") == ("derived", "parent", "depth-changed")
    assert names(found, "derived")[0] == "org/child"
    assert told(ask(child, [root, other]), "org/depth")[:2] == ("related", "child")


@pytest.mark.parametrize("dated", [True, False])
def test_a_mixture_of_experts_comes_from_the_dense_model(dated: bool) -> None:
    sparse = dossier(upcycled(ROOT, 5), "org/experts", created=5 if dated else None, config=MIXTRAL_CONFIG)
    dense = root if dated else undated(root)
    assert told(ask(sparse, [dense]), "org/root") == ("derived", "parent", "upcycled")
    assert told(ask(dense, [sparse]), "org/experts") == ("related", "child", "upcycled")


def test_a_rescaled_model_is_transformed() -> None:
    louder = mapped(CHILD, lambda _, t: 2 * t)
    assert told(ask(dossier(louder, "org/loud", created=40), [child]), "org/child")[2] == "transformed"


# Common origin without descent.


@pytest.mark.parametrize("dates", [(5, 6), (6, 5), (None, None)])
@pytest.mark.parametrize("amount", [1.0, 1.5])
def test_twins_of_one_initialisation_never_derive_from_each_other(
    amount: float, dates: tuple[int | None, int | None]
) -> None:
    for seed in range(4):
        first = dossier(changed(ROOT, 100 + seed, amount), "twin/one", created=dates[0])
        second = dossier(changed(ROOT, 200 + seed, amount), "twin/two", created=dates[1])
        found = ask(first, [second])
        assert told(found, "twin/two")[0] == "related"
        assert found.verdict != "derived"


def test_a_change_as_large_as_the_parents_own_makes_no_chain_unless_a_card_says_so() -> None:
    # Two fine-tunes of the root on one text look the same.
    far = trained(CHILD, 40, 0.2)
    found = ask(dossier(far, "org/far", created=40), [root, child])
    assert told(found, "org/child")[:2] == ("related", "unknown")
    assert names(found, "derived") == ["org/root"]
    declared = ask(dossier(far, "org/far", created=40, declares=["org/child"]), [root, child])
    assert names(declared, "derived") == ["org/child", "org/root"]


def test_two_children_that_part_at_their_parent_make_it_likely_and_no_more() -> None:
    one, two = (dossier(trained(CHILD, 40 + i, 0.2), f"org/far-{i}", created=40 + i) for i in range(2))
    assert told(ask(one, [root, child, two]), "org/child")[:2] == ("related", "unknown")


def test_orphans_that_were_trained_long_do_not_derive_from_each_other() -> None:
    first = dossier(trained(ROOT, 5, 0.8), "orphan/one", created=3)
    found = ask(dossier(trained(ROOT, 6, 0.8), "orphan/two", created=9), [first])
    assert told(found, "orphan/one")[:2] == ("related", "sibling")
    assert found.verdict == "no-parent-found"


def test_a_stranger_finds_nobody() -> None:
    stranger = dossier(llama(99), "new/comer", created=50)
    found = ask(stranger, FAMILY)
    assert found.verdict == "no-parent-found"
    assert {c.verdict for c in found.candidates} == {"unrelated"}
    assert max(c.probability for c in found.candidates) < 0.5
    assert len(found.candidates) == len(FAMILY) + len(STRANGERS)


def test_a_stranger_of_another_depth_and_width_finds_nobody() -> None:
    other = dossier(llama(98, layers=9, hidden=96, heads=6, ffn=128), "new/shape", created=50)
    assert ask(other, FAMILY).verdict == "no-parent-found"


# What cannot be judged.


def test_an_adapter_alone_is_inconclusive() -> None:
    rng = np.random.default_rng(0)
    adapter: Tensors = {}
    for layer in range(6):
        for projection in ("q_proj", "v_proj"):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{projection}.lora_"
            adapter[f"{prefix}A.weight"] = rng.normal(0, 0.02, (4, 64)).astype(np.float32)
            adapter[f"{prefix}B.weight"] = rng.normal(0, 0.02, (64 if projection == "q_proj" else 32, 4)).astype("f4")
    found = ask_all(dossier(adapter, "org/lora", created=40, config={}, declares=["org/root"]), FAMILY)
    assert found.model.meta.adapter
    assert found.verdict == "inconclusive"
    assert {c.verdict for c in found.candidates} == {"inconclusive"}
    assert one(found, "org/root").declared


def ask_all(model: Dossier, store: Sequence[Dossier]) -> Judgement:
    return judge(model, Catalogue(None, store, Background({})))


def test_a_model_whose_tensors_nobody_knows_is_inconclusive() -> None:
    odd: Tensors = {f"blob.{i}": np.random.default_rng(i).normal(size=(64, 64)).astype(np.float32) for i in range(9)}
    found = ask_all(dossier(odd, "org/odd", created=40, config={}), FAMILY)
    assert found.verdict == "inconclusive"
    assert {(c.verdict, c.probability, c.score) for c in found.candidates} == {("inconclusive", 0.0, 0.0)}


def test_a_candidate_that_cannot_be_examined_stands_last_and_decides_nothing() -> None:
    bare = without(dossier(CHILD, "a/bare", created=2), *LAYER_MATRICES)
    found = ask_all(child, [bare, root, *STRANGERS])
    assert found.verdict == "derived"
    assert found.candidates[-1].repo_id == "a/bare"
    assert found.candidates[-1].verdict == "inconclusive"
    assert ask_all(root, [bare, *STRANGERS]).verdict == "no-parent-found"


def test_a_supporting_line_out_of_all_proportion_forbids_unrelated() -> None:
    rng = np.random.default_rng(1)
    order = rng.permutation(64)
    # A permuted residual stream: no cell corresponds, curves and spreads stay.
    moved: Tensors = {}
    for name, tensor in ROOT.items():
        if tensor.ndim == 1:
            moved[name] = tensor[order]
        else:
            moved[name] = tensor[order] if "o_proj" in name or "down_proj" in name else tensor[:, order]
    scores = {key(kind, "same-shape"): np.tanh(rng.normal(0, 0.1, 200)) for kind in SUPPORTING}
    found = ask(dossier(moved, "org/moved", created=5), [root], {name: np.sort(v) for name, v in scores.items()})
    assert told(found, "org/root")[0] == "inconclusive"
    assert found.verdict == "inconclusive"
    assert told(ask(dossier(moved, "org/moved", created=5), [root]), "org/root")[0] != "derived"


# No dates.


def test_without_dates_training_itself_says_who_came_first() -> None:
    parent, young = undated(root), dossier(trained(ROOT, 2, 0.5), "org/young")
    assert told(ask(young, [parent]), "org/root")[:2] == ("derived", "parent")
    assert told(ask(parent, [young]), "org/young")[:2] == ("related", "child")


def test_without_dates_a_card_says_who_came_first() -> None:
    light = trained(ROOT, 2, 0.02)
    declared = dossier(light, "org/light", declares=["org/root"])
    found = ask(declared, [undated(root)])
    assert told(found, "org/root")[:2] == ("derived", "parent")
    assert one(found, "org/root").declared
    assert told(ask(undated(root), [declared]), "org/light")[:2] == ("related", "child")


def test_without_dates_or_asymmetry_the_direction_is_unknown() -> None:
    found = ask(dossier(trained(ROOT, 2, 0.02), "org/light"), [undated(root)])
    assert told(found, "org/root")[:2] == ("related", "unknown")
    assert found.verdict == "inconclusive"


def test_a_lying_card_proves_nothing() -> None:
    liar = dossier(llama(77), "org/liar", created=40, declares=["org/root"])
    found = ask(liar, FAMILY)
    assert told(found, "org/root")[0] == "unrelated"
    assert one(found, "org/root").declared
    assert found.verdict == "no-parent-found"


# The answer as a whole.


def test_the_models_own_repo_is_never_listed() -> None:
    older = replace(child, meta=replace(child.meta, checkpoint_id="org/child@000000000001"))
    found = ask(child, [older, *FAMILY])
    assert "org/child" not in [c.repo_id for c in found.candidates]
    assert found.n_checkpoints == 1 + len(FAMILY) + len(STRANGERS)


def test_candidates_below_the_minimum_are_left_out_but_the_verdict_stays() -> None:
    found = ask(child, FAMILY, minimum=0.9)
    assert found.verdict == ask(child, FAMILY).verdict
    answered = found.answer(99).candidates
    assert answered
    assert all(c.probability >= 0.9 and c.verdict != "unrelated" for c in answered)
    assert ask(dossier(llama(99), "new/comer"), FAMILY, minimum=0.9).answer(99).candidates == ()


def test_ranking_puts_ancestors_before_relatives_before_strangers() -> None:
    order = {"derived": 0, "related": 1, "inconclusive": 2, "unrelated": 3}
    for model in FAMILY:
        ranks = [order[c.verdict] for c in ask(model, FAMILY).candidates]
        assert ranks == sorted(ranks)


def test_an_empty_store_has_no_parent_to_offer() -> None:
    found = judge(child, Catalogue(None, [], Background({})))
    assert (found.verdict, found.candidates, found.n_checkpoints) == ("no-parent-found", (), 0)


def test_the_json_of_an_answer() -> None:
    found = ask(child, FAMILY).answer(2).to_dict()
    assert found["verdict"] == "derived"
    assert found["store"] == {"checkpoints": 7, "unindexed": 7, "generation": None}
    assert [c["rank"] for c in found["candidates"]] == [1, 2]
    first = found["candidates"][0]
    assert (first["repo_id"], first["verdict"], first["merge_weight"]) == ("org/root", "derived", None)
    assert 0 <= first["p_value"] <= first["p_adjusted"] <= 1e-3
    assert {e["kind"] for e in first["evidence"]} >= {"weight_correlation", "tensor_digest", "architecture"}


def test_a_merge_that_is_dated_before_its_parents_says_so() -> None:
    other = trained(ROOT, 31, 0.2)
    blend = {name: (0.5 * CHILD[name] + 0.5 * other[name]).astype(np.float32) for name in ROOT}
    found = ask(dossier(blend, "org/blend", created=5), [root, child, dossier(other, "org/other", created=11)])
    for parent in ("org/child", "org/other"):
        assert told(found, parent) == ("derived", "parent", "merge")
        assert [line.kind for line in one(found, parent).evidence if line.kind == "dates"] == ["dates"]
    # Two of two are wrong: the dates of the others are no better.
    assert "of this family" in next(line.note for line in one(found, "org/root").evidence if line.kind == "dates")


def test_dates_that_contradict_a_whole_family_decide_nothing_in_it() -> None:
    """Children that the weights know, dated before their root, and one that they do not know."""
    heavy = [dossier(trained(ROOT, 70 + i, 0.8), f"org/heavy-{i}", created=i + 1) for i in range(4)]
    late_root = dossier(ROOT, "org/root", created=20)
    light = dossier(trained(ROOT, 80, 0.02), "org/light", created=10)
    found = ask(light, [late_root, *heavy])
    assert one(found, "org/root").direction != "child"
    notes = [line.note for line in one(found, "org/root").evidence if line.kind == "dates"]
    assert len(notes) == 1
    assert "contradict" in notes[0]
    # Nothing is held against the dates where the weights agree with them.
    assert not any(line.kind == "dates" for line in one(ask(child, FAMILY), "org/root").evidence)


def overwritten(tensors: Tensors, value: float, where: str = ".layers.2.") -> Tensors:
    return {name: np.full_like(t, value) if where in name else t for name, t in tensors.items()}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_layer_that_is_not_finite_is_a_layer_still(value: float) -> None:
    damaged = dossier(overwritten(CHILD, value), "org/damaged", created=40)
    found = one(ask(damaged, [root]), "org/root")
    assert (found.verdict, found.relation) == ("derived", "finetune")
    copy = one(ask(damaged, [child]), "org/child")
    assert (copy.verdict, copy.relation) == ("derived", "transformed")


def test_a_checkpoint_that_lacks_a_matrix_is_not_identical() -> None:
    gone = {name: t for name, t in CHILD.items() if name != "model.layers.2.self_attn.q_proj.weight"}
    found = one(ask(dossier(gone, "org/gone", created=40), [child]), "org/child")
    assert (found.verdict, found.relation) == ("derived", "transformed")


@pytest.mark.parametrize("value", [np.nan, 0.0, 1.0])
def test_strangers_without_information_are_not_related(value: float) -> None:
    empty = [dossier(overwritten(llama(80 + i), value, ""), f"empty/{i}") for i in range(2)]
    (found,) = judge(empty[0], Catalogue(None, empty[1:], Background({}))).candidates
    assert found.verdict == "inconclusive"
