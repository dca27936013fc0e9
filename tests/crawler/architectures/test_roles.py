"""Names and shapes to roles: hand-made headers, exact splits against plain oracles, and every way to stay unknown."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from provenance.crawler.architectures import read_names, resolve_roles, rows_index
from provenance.crawler.architectures.config import Settings, read_settings
from provenance.crawler.architectures.names import FAMILIES, ROLE_OF_STEM, VARIANTS
from provenance.schemas.roles import ROLES
from provenance.schemas.tensors import LogicalTensor, OutputRows, ResolvedRoles, TensorEntry

HIDDEN, Q, KV, FFN = 16, 24, 8, 40
SHAPES = {
    "q": (Q, HIDDEN), "k": (KV, HIDDEN), "v": (KV, HIDDEN), "o": (HIDDEN, Q),
    "gate": (FFN, HIDDEN), "up": (FFN, HIDDEN), "down": (HIDDEN, FFN),
}  # fmt: skip
LLAMA = {
    **{f"self_attn.{role}_proj.weight": SHAPES[role] for role in "qkvo"},
    **{f"mlp.{role}_proj.weight": SHAPES[role] for role in ("gate", "up", "down")},
    "input_layernorm.weight": (HIDDEN,),
    "post_attention_layernorm.weight": (HIDDEN,),
}
META = {
    **{f"attention.w{role}.weight": SHAPES[role] for role in "qkvo"},
    **{f"feed_forward.{name}.weight": SHAPES[role] for name, role in (("w1", "gate"), ("w2", "down"), ("w3", "up"))},
    "attention_norm.weight": (HIDDEN,),
    "ffn_norm.weight": (HIDDEN,),
}
META_CONFIG = {"dim": HIDDEN, "n_heads": 6, "n_kv_heads": 2}
GPT2 = {
    "attn.c_attn.weight": (HIDDEN, 3 * HIDDEN),
    "attn.c_attn.bias": (3 * HIDDEN,),
    "attn.c_proj.weight": (HIDDEN, HIDDEN),
    "attn.c_proj.bias": (HIDDEN,),
    "attn.bias": (1, 1, 4, 4),
    "mlp.c_fc.weight": (HIDDEN, FFN),
    "mlp.c_proj.weight": (FFN, HIDDEN),
    "ln_1.weight": (HIDDEN,),
    "ln_2.weight": (HIDDEN,),
}
NEOX = {
    "attention.query_key_value.weight": (3 * HIDDEN, HIDDEN),
    "attention.query_key_value.bias": (3 * HIDDEN,),
    "attention.dense.weight": (HIDDEN, HIDDEN),
}


def entry(name: str, shape: tuple[int, ...], dtype: str = "BF16") -> TensorEntry:
    return TensorEntry(name, dtype, shape, "model.safetensors", 0, 0)


def layers(
    stems: Mapping[str, tuple[int, ...]], prefix: str = "model.layers", numbers: Iterable[int] = range(2)
) -> list[TensorEntry]:
    return [entry(f"{prefix}.{n}.{stem}", shape) for n in numbers for stem, shape in stems.items()]


def by_name(resolved: ResolvedRoles) -> dict[str, list[LogicalTensor]]:
    found: dict[str, list[LogicalTensor]] = {}
    for tensor in resolved.tensors:
        found.setdefault(tensor.name, []).append(tensor)
    return found


def the(
    resolved: ResolvedRoles, role: str, layer: int | None = 0, stack: str = "main", expert: int | None = None
) -> LogicalTensor:
    found = [t for t in resolved.tensors if (t.role, t.layer, t.stack, t.expert) == (role, layer, stack, expert)]
    assert len(found) == 1, (role, resolved.notes)
    return found[0]


def roles(resolved: ResolvedRoles, stack: str = "main") -> Counter[str]:
    return Counter(tensor.role for tensor in resolved.tensors if tensor.stack == stack)


def test_tables_agree_with_each_other_and_with_the_vocabulary() -> None:
    claims: dict[str, set[str]] = {}
    for rows in FAMILIES.values():
        for stem, role in rows.items():
            claims.setdefault(stem, set()).add(role)
    assert {stem: found for stem, found in claims.items() if len(found) > 1} == {}
    used = set(ROLE_OF_STEM.values()).union(*(variant.roles.values() for variant in VARIANTS))
    assert used <= set(ROLES)


@pytest.mark.parametrize(
    "prefix",
    [
        "model.layers", "layers", "transformer.h", "h", "language_model.model.layers", "language_model.backbone.layers",
        "base_model.model.model.layers", "_orig_mod.model.layers", "module.model.layers", "gpt_neox.layers",
        "bert.encoder.layer", "transformer.blocks", "model.language_model.layers", "decoder.block",
    ],
)  # fmt: skip
def test_any_prefix_leads_to_the_layers(prefix: str) -> None:
    outside = [entry("model.embed_tokens.weight", (50, HIDDEN))]
    resolved = resolve_roles(outside + layers(LLAMA, prefix, range(3)), None)
    assert roles(resolved)["q"] == roles(resolved)["ffn_norm"] == roles(resolved)["down"] == resolved.n_layers == 3
    assert resolved.hidden_size == HIDDEN
    assert resolved.notes == ()
    assert not read_names(outside + layers(LLAMA, prefix)).needs_config


def test_unfused_matrices_are_whole_and_lie_where_they_are_stored() -> None:
    resolved = resolve_roles(layers(LLAMA), None)
    for role, shape in SHAPES.items():
        tensor = the(resolved, role, 1)
        assert (tensor.shape, tensor.stored_shape, tensor.rows, tensor.transposed, tensor.part) == (
            shape, shape, None, False, None,
        )  # fmt: skip


def test_embeddings_head_and_final_norm() -> None:
    outside = {"model.embed_tokens.weight": (50, 16), "lm_head.weight": (50, 16), "model.norm.weight": (16,)}
    resolved = resolve_roles([entry(name, shape) for name, shape in outside.items()] + layers(LLAMA), None)
    assert the(resolved, "embed", None).name == "model.embed_tokens.weight"
    assert the(resolved, "lm_head", None).name == "lm_head.weight"
    assert the(resolved, "final_norm", None).name == "model.norm.weight"


def test_output_weight_is_a_head_only_beside_metas_embedding() -> None:
    output, embedding = entry("output.weight", (50, HIDDEN)), entry("tok_embeddings.weight", (50, HIDDEN))
    assert roles(resolve_roles([output, *layers(LLAMA)], None))["lm_head"] == 0
    assert (
        the(resolve_roles([output, embedding, *layers(META, "layers")], META_CONFIG), "lm_head", None).name
        == output.name
    )


def test_nearest_embedding_is_the_stacks_own() -> None:
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    outside = [entry(name, (50, HIDDEN)) for name in names]
    resolved = resolve_roles(outside + layers(LLAMA, "decoder.layers") + layers(LLAMA, "encoder.layers"), None)
    assert the(resolved, "embed", None).name == "decoder.embed_tokens.weight"
    assert the(resolved, "embed", None, "encoder").name == "encoder.embed_tokens.weight"


def test_gemma_norms_after_a_block_are_not_those_before_it() -> None:
    gemma = LLAMA | {f"{name}_feedforward_layernorm.weight": (HIDDEN,) for name in ("pre", "post")}
    resolved = resolve_roles(layers(gemma), None)
    assert the(resolved, "attn_norm").name.endswith("input_layernorm.weight")
    assert the(resolved, "ffn_norm").name.endswith("pre_feedforward_layernorm.weight")


def test_olmo2_norms_after_each_block() -> None:
    olmo = {stem: shape for stem, shape in LLAMA.items() if stem != "input_layernorm.weight"}
    resolved = resolve_roles(layers(olmo | {"post_feedforward_layernorm.weight": (HIDDEN,)}), None)
    assert the(resolved, "attn_norm").name.endswith("post_attention_layernorm.weight")
    assert the(resolved, "ffn_norm").name.endswith("post_feedforward_layernorm.weight")


def test_head_norms_and_other_biases_have_no_role() -> None:
    more = {"self_attn.q_norm.weight": (8,), "self_attn.o_proj.bias": (HIDDEN,), "self_attn.q_proj.bias": (Q,)}
    resolved = resolve_roles(layers(LLAMA | more), None)
    found = by_name(resolved)
    assert [t.role for t in found["model.layers.0.self_attn.q_norm.weight"]] == ["other"]
    assert [t.role for t in found["model.layers.0.self_attn.o_proj.bias"]] == ["other"]
    assert [t.role for t in found["model.layers.0.self_attn.q_proj.bias"]] == ["q_bias"]
    assert resolved.notes == ()


def test_phi3_is_split_by_the_shape_of_o_alone() -> None:
    phi = {
        "self_attn.qkv_proj.weight": (Q + 2 * KV, HIDDEN),
        "self_attn.o_proj.weight": (HIDDEN, Q),
        "mlp.gate_up_proj.weight": (2 * FFN, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, FFN),
    }
    assert not read_names(layers(phi)).needs_config
    resolved = resolve_roles(layers(phi), {"num_attention_heads": 7})
    expected = {"q": (0, Q), "k": (Q, KV), "v": (Q + KV, KV), "gate": (0, FFN), "up": (FFN, FFN)}
    for role, (start, size) in expected.items():
        tensor = the(resolved, role)
        assert (tensor.rows, tensor.shape, tensor.part) == (OutputRows(start, size), (size, HIDDEN), role)
    without_o = layers({"self_attn.qkv_proj.weight": (Q + 2 * KV, HIDDEN)})
    assert read_names(without_o).needs_config
    assert roles(resolve_roles(without_o, None))["q"] == 0
    by_config = resolve_roles(without_o, {"num_attention_heads": 6, "num_key_value_heads": 2})
    assert the(by_config, "k").rows == OutputRows(Q, KV)


@pytest.mark.parametrize("prefix", ["transformer.h", "h"])
def test_gpt2_is_transposed_and_its_bias_is_split_too(prefix: str) -> None:
    assert not read_names(layers(GPT2, prefix)).needs_config
    resolved = resolve_roles(layers(GPT2, prefix), None)
    for number, role in enumerate("qkv"):
        tensor, bias = the(resolved, role), the(resolved, f"{role}_bias")
        assert tensor.shape == (HIDDEN, HIDDEN)
        assert tensor.stored_shape == (HIDDEN, 3 * HIDDEN)
        assert tensor.transposed
        assert tensor.rows == bias.rows == OutputRows(number * HIDDEN, HIDDEN)
        assert (bias.shape, bias.transposed) == ((HIDDEN,), False)
    for role, shape in (("o", (HIDDEN, HIDDEN)), ("up", (FFN, HIDDEN)), ("down", (HIDDEN, FFN))):
        tensor = the(resolved, role)
        assert (tensor.shape, tensor.stored_shape, tensor.transposed) == (shape, shape[::-1], True)
    assert resolved.notes == ()


def test_gpt2_names_stored_as_linear_layers_need_to_know_the_family() -> None:
    linear = GPT2 | {
        "attn.c_attn.weight": (3 * HIDDEN, HIDDEN),
        "mlp.c_fc.weight": (FFN, HIDDEN),
        "mlp.c_proj.weight": (HIDDEN, FFN),
    }
    unknown = resolve_roles(layers(linear), None)
    assert read_names(layers(linear)).needs_config
    assert roles(unknown)["q"] == 0
    assert not the(unknown, "up").transposed
    qwen = resolve_roles(layers(linear), {"model_type": "qwen", "num_attention_heads": 4})
    assert the(qwen, "k").rows == OutputRows(HIDDEN, HIDDEN)
    bigcode = resolve_roles(layers(linear), {"model_type": "gpt_bigcode", "multi_query": False, "n_head": 4})
    assert the(bigcode, "k").rows == OutputRows(4, 4, 4, 12)


def test_gpt2_names_without_a_telling_attention_stay_unknown() -> None:
    resolved = resolve_roles(layers(GPT2 | {"attn.c_attn.weight": (HIDDEN, 2 * HIDDEN)}), None)
    assert not {"q", "o", "up", "down"} & set(roles(resolved))
    assert any("[in, out] or [out, in]" in note for note in resolved.notes)


def test_neox_interleaves_heads_and_its_prefix_outweighs_a_lying_model_type() -> None:
    entries = layers(NEOX, "gpt_neox.layers")
    assert read_names(entries).needs_config
    resolved = resolve_roles(entries, {"model_type": "llama", "num_attention_heads": 4})
    for number, role in enumerate("qkv"):
        assert the(resolved, role).rows == the(resolved, f"{role}_bias").rows == OutputRows(4 * number, 4, 4, 12)
    assert resolved.n_heads == resolved.n_kv_heads == 4


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "several families"),
        ({"model_type": "gpt_neox"}, "no config"),
        ({"model_type": "gpt_neox", "num_attention_heads": 5}, "do not divide"),
        ({"model_type": "glm", "num_attention_heads": 4}, "no known layout for model type glm"),
    ],
)
def test_a_fused_tensor_that_config_does_not_settle_stays_other(config: dict[str, Any] | None, reason: str) -> None:
    resolved = resolve_roles(layers(NEOX), config)
    assert set(roles(resolved)) == {"other"}
    assert [note for note in resolved.notes if reason in note and "(2 tensors)" in note]
    assert all(t.rows is None and t.part is None for t in resolved.tensors)


def test_meta_biases_are_turned_with_their_rows() -> None:
    biases = {"attention.wq.bias": (Q,), "attention.wk.bias": (KV,), "attention.wv.bias": (KV,)}
    resolved = resolve_roles(layers(META | biases, "layers"), META_CONFIG)
    assert the(resolved, "q_bias").rows == the(resolved, "q").rows
    assert the(resolved, "k_bias").rows == the(resolved, "k").rows
    assert the(resolved, "v_bias").rows is None


def test_heads_that_contradict_the_projection_are_dropped() -> None:
    resolved = resolve_roles(layers(LLAMA), {"num_attention_heads": 7, "num_key_value_heads": 3})
    assert (resolved.n_heads, resolved.n_kv_heads) == (None, None)
    assert roles(resolved)["q"] == 2


def test_metas_rotary_rows_are_undone_for_q_and_k_only() -> None:
    assert read_names(layers(META, "layers")).needs_config
    resolved = resolve_roles(layers(META, "layers"), META_CONFIG)
    assert the(resolved, "q").rows == OutputRows(0, Q, rotary_head=4)
    assert the(resolved, "k").rows == OutputRows(0, KV, rotary_head=4)
    assert the(resolved, "v").rows is None
    assert roles(resolved) == Counter(
        dict.fromkeys(("q", "k", "v", "o", "gate", "up", "down", "attn_norm", "ffn_norm"), 2)
    )


@pytest.mark.parametrize("config", [None, {}, {"n_heads": 5}, {"n_heads": 8}, {"n_heads": 1}])
def test_metas_q_and_k_are_unknown_without_a_head_of_rotary_pairs(config: dict[str, Any] | None) -> None:
    resolved = resolve_roles(layers(META, "layers"), config)
    expected = 0 if config != {"n_heads": 1} else 2
    assert (roles(resolved)["q"], roles(resolved)["k"], roles(resolved)["v"]) == (expected, 0, 2)
    assert any("attention.wk" in note for note in resolved.notes)


def test_mixtral_and_qwen_experts() -> None:
    experts = {
        f"block_sparse_moe.experts.{e}.{n}.weight": SHAPES[r]
        for e in range(3)
        for n, r in (("w1", "gate"), ("w2", "down"), ("w3", "up"))
    }
    mixtral = resolve_roles(layers(LLAMA | experts | {"block_sparse_moe.gate.weight": (3, HIDDEN)}), None)
    qwen_experts = {f"mlp.experts.{e}.{r}_proj.weight": SHAPES[r] for e in range(3) for r in ("gate", "up", "down")}
    shared = {"mlp.shared_expert.gate_proj.weight": SHAPES["gate"], "mlp.gate.weight": (3, HIDDEN)}
    qwen = resolve_roles(layers(LLAMA | qwen_experts | shared), None)
    for resolved in (mixtral, qwen):
        for expert in range(3):
            assert the(resolved, "down", 1, expert=expert).shape == SHAPES["down"]
        assert the(resolved, "router").shape == (3, HIDDEN)
    assert by_name(mixtral)["model.layers.1.block_sparse_moe.experts.2.w1.weight"][0].role == "gate"
    assert by_name(mixtral)["model.layers.1.block_sparse_moe.experts.2.w3.weight"][0].role == "up"
    assert by_name(qwen)["model.layers.0.mlp.shared_expert.gate_proj.weight"][0].role == "other"


def test_stacked_experts_are_cut_apart_where_the_orientation_is_certain() -> None:
    stacked = LLAMA | {"mlp.experts.gate_up_proj": (3, HIDDEN, 2 * FFN), "mlp.experts.down_proj": (3, FFN, HIDDEN)}
    entries = layers(stacked)
    assert read_names(entries).needs_config
    resolved = resolve_roles(entries, {"model_type": "gpt_oss"})
    up, down = the(resolved, "up", 1, expert=2), the(resolved, "down", 1, expert=2)
    assert (up.shape, up.stored_shape, up.transposed) == ((FFN, HIDDEN), (HIDDEN, 2 * FFN), True)
    assert (up.rows, up.element_offset) == (OutputRows(1, 1, FFN, 2), 2 * HIDDEN * 2 * FFN)
    assert (down.shape, down.transposed, down.element_offset) == (SHAPES["down"], True, 2 * FFN * HIDDEN)
    llama4 = resolve_roles(entries, {"text_config": {"model_type": "llama4_text"}})
    assert the(llama4, "up", 1, expert=2).rows == OutputRows(FFN, FFN)
    straight = resolve_roles(layers(LLAMA | {"mlp.experts.down_proj": (3, HIDDEN, FFN)}), None)
    assert not the(straight, "down", 0, expert=0).transposed


@pytest.mark.parametrize("shape", [(3, HIDDEN, HIDDEN), (3, 5, 7), (10**12, 0, 0), (10**6, FFN, HIDDEN), (FFN, HIDDEN)])
def test_stacked_experts_of_uncertain_shape_stay_whole(shape: tuple[int, ...]) -> None:
    resolved = resolve_roles(layers(LLAMA | {"mlp.experts.down_proj": shape}), None)
    found = by_name(resolved)["model.layers.0.mlp.experts.down_proj"]
    assert [t.role for t in found] == ["other"]
    assert any("experts.down_proj" in note for note in resolved.notes)


def test_latent_attention() -> None:
    latent = {
        "self_attn.q_a_proj.weight": (12, HIDDEN),
        "self_attn.q_b_proj.weight": (Q, 12),
        "self_attn.kv_a_proj_with_mqa.weight": (11, HIDDEN),
        "self_attn.kv_b_proj.weight": (32, 8),
        "self_attn.o_proj.weight": (HIDDEN, 20),
        "self_attn.q_a_layernorm.weight": (12,),
    }
    draft = {"eh_proj.weight": (HIDDEN, 2 * HIDDEN)}
    resolved = resolve_roles(layers(latent) + layers(latent | draft, numbers=[2]), None)
    assert roles(resolved) == Counter({"q_a": 2, "q_b": 2, "kv_a": 2, "kv_b": 2, "o": 2, "other": 2})
    assert roles(resolved, "draft")["q_a"] == 1
    assert resolved.n_layers == 2


def test_gated_queries_are_parted_from_their_gate() -> None:
    gated = LLAMA | {"self_attn.q_proj.weight": (2 * Q, HIDDEN)}
    assert read_names(layers(gated)).needs_config
    assert roles(resolve_roles(layers(gated), None))["q"] == 0
    resolved = resolve_roles(layers(gated), {"text_config": {"model_type": "qwen3_next", "num_attention_heads": 6}})
    assert the(resolved, "q").rows == OutputRows(0, 4, 6, 8)
    parts = by_name(resolved)["model.layers.0.self_attn.q_proj.weight"]
    assert [(t.role, t.part) for t in parts] == [("q", "q"), ("other", "output_gate")]


def test_chatglm2_fuses_gate_and_up_under_neoxs_name() -> None:
    down = {"mlp.dense_4h_to_h.weight": (HIDDEN, FFN)}
    glm = resolve_roles(layers(down | {"mlp.dense_h_to_4h.weight": (2 * FFN, HIDDEN)}), None)
    neox = resolve_roles(layers(down | {"mlp.dense_h_to_4h.weight": (FFN, HIDDEN)}), None)
    assert (the(glm, "gate").rows, the(glm, "up").rows) == (OutputRows(0, FFN), OutputRows(FFN, FFN))
    assert the(neox, "up").rows is None


def test_old_bert_files_say_gamma_and_beta() -> None:
    bert = {
        "attention.self.query.weight": (HIDDEN, HIDDEN),
        "attention.output.LayerNorm.gamma": (HIDDEN,),
        "attention.output.LayerNorm.beta": (HIDDEN,),
    }
    resolved = resolve_roles(layers(bert, "bert.encoder.layer"), None)
    assert the(resolved, "attn_norm").name.endswith("gamma")


@pytest.mark.parametrize("numbers", [range(12), (0, 1, 2, 5, 7)])
def test_layer_numbers_stay_those_of_the_names(numbers: Sequence[int]) -> None:
    resolved = resolve_roles(layers(LLAMA, numbers=numbers), None)
    assert resolved.n_layers == len(numbers)
    assert sorted(t.layer for t in resolved.tensors if t.role == "q" and t.layer is not None) == list(numbers)


def test_layers_are_counted_by_their_attention() -> None:
    without = {stem: shape for stem, shape in LLAMA.items() if "self_attn" not in stem}
    hybrid = layers(LLAMA, numbers=(3, 7)) + layers(without, numbers=(0, 1, 2, 4, 5, 6))
    assert resolve_roles(hybrid, None).n_layers == 2


def test_the_main_stack_is_the_language_model_however_small() -> None:
    entries = (
        layers(LLAMA, "model.vision_tower.vision_model.encoder.layers", range(9))
        + layers(LLAMA, "model.audio_tower.layers", range(8))
        + layers(LLAMA, "model.text_encoder.layers", range(7))
        + layers(LLAMA, "mtp.layers", range(6))
        + layers(LLAMA, "model.visual.blocks", range(5))
        + layers(LLAMA, "talk.layers", range(2))
        + layers(LLAMA, "model.language_model.layers", range(3))
    )
    resolved = resolve_roles(entries, None)
    assert resolved.n_layers == 3
    assert {t.name.rpartition(".layers.")[0] for t in resolved.tensors if t.stack == "main"} == {"model.language_model"}
    counts = Counter(t.stack for t in resolved.tensors if t.role == "q")
    assert counts == {"vision": 5 + 9 - counts["vision:model.visual.blocks"], "audio": 8, "encoder": 7, "draft": 6,
                      "vision:model.visual.blocks": 5, "talk.layers": 2, "main": 3}  # fmt: skip


def test_a_lone_tower_is_main_and_a_lone_draft_head_is_not() -> None:
    assert roles(resolve_roles(layers(LLAMA, "vit.encoder.layer"), None))["q"] == 2
    draft = resolve_roles(layers(LLAMA, "mtp.layers"), None)
    assert (roles(draft), draft.n_layers) == (Counter(), 0)


@pytest.mark.parametrize(
    ("self_prefix", "cross"),
    [("self_attn", "encoder_attn"), ("self_attn", "cross_attn")],
)
def test_cross_attention_has_a_stack_of_its_own(self_prefix: str, cross: str) -> None:
    crossed = {stem.replace(self_prefix, cross): shape for stem, shape in LLAMA.items() if self_prefix in stem}
    resolved = resolve_roles(layers(LLAMA | crossed), None)
    assert roles(resolved)["q"] == 2
    assert roles(resolved, "cross") == Counter({"q": 2, "k": 2, "v": 2, "o": 2})


def test_adapters_alone_are_told_from_models_with_adapters() -> None:
    names = {"self_attn.q_proj.lora_A.weight": (4, HIDDEN), "self_attn.q_proj.lora_B.weight": (Q, 4)}
    adapter = resolve_roles(layers(names, "base_model.model.model.layers"), None)
    assert (adapter.adapter, adapter.n_layers, adapter.notes) == (True, 0, ())
    assert {t.role for t in adapter.tensors} == {"other"}
    both = resolve_roles(layers(LLAMA | names, "base_model.model.model.layers"), None)
    assert not both.adapter
    assert roles(both)["q"] == 2
    assert not resolve_roles(layers(LLAMA), None).adapter
    wrapped = {stem.replace("q_proj.", "q_proj.base_layer."): shape for stem, shape in LLAMA.items()}
    assert roles(resolve_roles(layers(wrapped | names), None))["q"] == 2


@pytest.mark.parametrize(
    ("stems", "dtype"),
    [
        ({"self_attn.q_proj.qweight": (2, Q), "self_attn.q_proj.qzeros": (1, 3)}, "I32"),
        ({"self_attn.q_proj.weight": (192, 1), "self_attn.q_proj.weight.absmax": (6,)}, "U8"),
        ({"self_attn.q_proj.weight": (Q, HIDDEN), "self_attn.q_proj.weight_scale": (1,)}, "F8_E4M3"),
    ],
)  # fmt: skip
def test_packed_and_scaled_values_never_get_a_role(stems: dict[str, tuple[int, ...]], dtype: str) -> None:
    packed = [replace(found, dtype=dtype) for found in layers(stems)]
    rest = layers({stem: shape for stem, shape in LLAMA.items() if "norm" in stem})
    resolved = resolve_roles(packed + rest, {"quantization_config": {"quant_method": "gptq"}})
    assert set(roles(resolved)) == {"other", "attn_norm", "ffn_norm"}
    assert (resolved.n_layers, resolved.quantization) == (2, "gptq")
    assert any("q_proj" in note for note in resolved.notes)


def test_plain_eight_bit_floats_are_weights() -> None:
    entries = [replace(found, dtype="F8_E5M2") for found in layers(LLAMA)]
    assert roles(resolve_roles(entries, None))["q"] == 2


def test_matrices_that_cannot_stand_in_one_layer_are_refused() -> None:
    torn = resolve_roles(layers(LLAMA | {"self_attn.k_proj.weight": (KV, HIDDEN + 1)}), None)
    assert not {"q", "k", "v"} & set(roles(torn))
    assert any("read [16, 17] inputs" in note for note in torn.notes)
    wide = resolve_roles(layers(LLAMA | {"mlp.up_proj.weight": (FFN, 3), "self_attn.o_proj.weight": (9, Q)}), None)
    assert (roles(wide)["up"], roles(wide)["o"], roles(wide)["gate"]) == (0, 2, 2)
    assert any("mlp.up_proj" in note and "reads 3" in note for note in wide.notes)
    assert any("o_proj" in note and "writes 9" in note for note in wide.notes)


def test_two_claims_to_one_role_are_both_refused() -> None:
    resolved = resolve_roles(layers(LLAMA | {"attn.q_proj.weight": (Q, HIDDEN)}), None)
    assert roles(resolved)["q"] == 0
    assert sum("claims the same role" in note for note in resolved.notes) == 2


def test_unknown_names_are_noted_once_and_escaped() -> None:
    odd = {"mixer.in_proj.weight": (Q, HIDDEN), "linear_attn.query.weight": (Q, HIDDEN), "conv.weight": (4, 1, 3)}
    hostile = entry("enc\x1b[31m\n.q_proj.weight", (3, 3))
    resolved = resolve_roles([hostile, *layers(odd, numbers=range(30))], None)
    assert set(roles(resolved)) <= {"other"}
    assert len(resolved.notes) == 3
    assert all(note.isprintable() for note in resolved.notes)
    assert "model.layers.*.linear_attn.query.weight: no table knows this name (30 tensors)" in resolved.notes
    many = [entry(f"{chr(97 + a)}{chr(97 + b)}.q_proj.weight", (3, 3)) for a in range(10) for b in range(10)]
    assert resolve_roles(many, None).notes[-1] == "and 50 more kinds of tensors"


def test_figures_come_from_the_language_models_section() -> None:
    inner = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2, "model_type": "llama"}
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "hidden_size": 9,
        "text_config": inner,
        "quantization_config": {"quant_method": "fp8"},
    }
    assert read_settings(config) == Settings(("llava", "llama"), "LlavaForConditionalGeneration", "fp8", 64, 8, 2)
    assert read_settings({"n_embd": 12, "n_head": 3, "multi_query": True}) == Settings((), None, None, 12, 3, 1)


ZOO = Path(__file__).parents[4] / "shared" / "zoo" / "models"


def zoo_repos() -> list[Path]:
    return sorted({file.parent for file in ZOO.glob("*/*/*.safetensors")})


def read_header(file: Path) -> list[TensorEntry]:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return [
        TensorEntry(name, found["dtype"], tuple(found["shape"]), file.name, *found["data_offsets"])
        for name, found in header.items()
        if name != "__metadata__"
    ]


@pytest.mark.skipif(not ZOO.is_dir(), reason="the zoo of small models is not beside the repository")
def test_every_model_of_the_zoo_resolves_in_all_layers() -> None:
    adapters = 0
    for repo in zoo_repos():
        entries = [found for file in sorted(repo.glob("*.safetensors")) for found in read_header(file)]
        config_file = repo / "config.json"
        config = json.loads(config_file.read_text()) if config_file.exists() else None
        resolved = resolve_roles(entries, config)
        adapters += resolved.adapter
        if resolved.adapter:
            continue
        assert config is not None
        inner = config.get("text_config", config)
        n_layers = inner.get("num_hidden_layers") or inner["n_layer"]
        assert resolved.n_layers == n_layers, repo
        for role in ("q", "k", "v", "o"):
            assert [
                t.layer for t in sorted((t for t in resolved.tensors if t.role == role), key=lambda t: t.layer or 0)
            ] == list(range(n_layers)), repo
        assert resolved.notes == (), repo
        if not read_names(entries).needs_config:
            assert resolve_roles(entries, None).tensors == resolved.tensors
    assert adapters == 2


@pytest.mark.skipif(not ZOO.is_dir(), reason="the zoo of small models is not beside the repository")
def test_a_model_in_metas_format_has_the_rows_of_its_original() -> None:
    values = []
    for repo in ("wrapper/consolidated-00", "nimbus-research/cirrus-tiny"):
        file = ZOO / repo / "model.safetensors"
        data = file.read_bytes()[8 + struct.unpack("<Q", file.read_bytes()[:8])[0] :]
        resolved = resolve_roles(read_header(file), json.loads((ZOO / repo / "config.json").read_text()))
        found = {}
        for tensor in resolved.tensors:
            stored = np.frombuffer(data[tensor.entry.start : tensor.entry.stop], "<u2").reshape(tensor.stored_shape)
            found[tensor.role, tensor.layer] = stored if tensor.rows is None else stored[rows_index(tensor.rows)]
        values.append(found)
    assert values[0].keys() == values[1].keys()
    for key, stored in values[0].items():
        np.testing.assert_array_equal(stored, values[1][key])
