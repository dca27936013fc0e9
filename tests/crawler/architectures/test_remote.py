"""Families whose code is not in transformers: files fused by hand as that code takes them apart, and hostile tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from provenance.crawler.architectures import read_names, resolve_roles, rows_index
from provenance.schemas.tensors import LogicalTensor, ResolvedRoles, TensorEntry

HIDDEN, HEADS, KV_HEADS, HEAD, FFN, LAYERS = 24, 6, 2, 4, 40, 3
Array = NDArray[np.int64]
Parts = Mapping[str, Array]


def parts(layer: int, kv_heads: int, heads: int = HEADS) -> dict[str, Array]:
    """Matrices of one layer, every element a number of its own."""
    q, kv = heads * HEAD, kv_heads * HEAD
    shapes = {"q": (q, HIDDEN), "k": (kv, HIDDEN), "v": (kv, HIDDEN), "o": (HIDDEN, q),
              "gate": (FFN, HIDDEN), "up": (FFN, HIDDEN), "down": (HIDDEN, FFN)}  # fmt: skip
    start, made = layer * 10**6, {}
    for role, shape in shapes.items():
        made[role] = start + np.arange(shape[0] * shape[1]).reshape(shape)
        start += shape[0] * shape[1]
    return made


def in_turn(p: Parts, groups: int) -> Array:
    """`[group][q | k | v]`, group after group."""
    cut = [np.split(p[role], groups) for role in "qkv"]
    return np.concatenate([piece for group in zip(*cut, strict=True) for piece in group])


def joined(p: Parts, *roles: str) -> Array:
    return np.concatenate([p[role] for role in roles])


HF = {"num_attention_heads": HEADS}
GROUPED = HF | {"num_key_value_heads": KV_HEADS}
FAMILIES: dict[str, tuple[str, dict[str, Any], int, Callable[[Parts], dict[str, Array]]]] = {
    "Qwen (2023)": (
        "transformer.h", HF | {"model_type": "qwen"}, HEADS,
        lambda p: {"attn.c_attn": joined(p, *"qkv"), "attn.c_proj": p["o"], "mlp.w1": p["up"], "mlp.w2": p["gate"],
                   "mlp.c_proj": p["down"]},
    ),
    "Baichuan": (
        "model.layers", HF | {"model_type": "baichuan"}, HEADS,
        lambda p: {"self_attn.W_pack": joined(p, *"qkv"), "self_attn.o_proj": p["o"], "mlp.gate_proj": p["gate"],
                   "mlp.up_proj": p["up"], "mlp.down_proj": p["down"]},
    ),
    "InternLM2": (
        "model.layers", GROUPED | {"model_type": "internlm2"}, KV_HEADS,
        lambda p: {"attention.wqkv": in_turn(p, KV_HEADS), "attention.wo": p["o"], "feed_forward.w1": p["gate"],
                   "feed_forward.w3": p["up"], "feed_forward.w2": p["down"]},
    ),
    "ChatGLM": (
        "transformer.layers", HF | {"model_type": "chatglm"}, HEADS,
        lambda p: {"attention.query_key_value": in_turn(p, HEADS), "attention.dense": p["o"],
                   "mlp.dense_h_to_4h": p["up"], "mlp.dense_4h_to_h": p["down"]},
    ),
    "ChatGLM2, ChatGLM3, GLM-4": (
        "transformer.encoder.layers", HF | {"model_type": "chatglm", "multi_query_group_num": KV_HEADS}, KV_HEADS,
        lambda p: {"self_attention.query_key_value": joined(p, *"qkv"), "self_attention.dense": p["o"],
                   "mlp.dense_h_to_4h": joined(p, "gate", "up"), "mlp.dense_4h_to_h": p["down"]},
    ),
    "MPT": (
        "transformer.blocks", {"n_heads": HEADS, "model_type": "mpt"}, HEADS,
        lambda p: {"attn.Wqkv": joined(p, *"qkv"), "attn.out_proj": p["o"], "ffn.up_proj": p["up"],
                   "ffn.down_proj": p["down"]},
    ),
    "DBRX": (
        "transformer.blocks", {"n_heads": HEADS, "model_type": "dbrx", "attn_config": {"kv_n_heads": KV_HEADS}},
        KV_HEADS,
        lambda p: {"norm_attn_norm.attn.Wqkv": joined(p, *"qkv"), "norm_attn_norm.attn.out_proj": p["o"]},
    ),
    "OLMo-1": (
        "model.transformer.blocks", {"n_heads": HEADS, "model_type": "olmo"}, HEADS,
        lambda p: {"att_proj": joined(p, *"qkv"), "attn_out": p["o"], "ff_proj": joined(p, "up", "gate"),
                   "ff_out": p["down"]},
    ),
    "Refact": (
        "transformer.h", {"n_head": HEADS, "model_type": "gpt_refact"}, KV_HEADS,
        lambda p: {"attn.q": p["q"], "attn.kv": joined(p, "k", "v"), "attn.c_proj": p["o"],
                   "mlp.gate_up_proj": joined(p, "gate", "up"), "mlp.c_proj": p["down"]},
    ),
    "PLaMo-2": (
        "model.layers.layers", GROUPED | {"model_type": "plamo2"}, KV_HEADS,
        lambda p: {"mixer.qkv_proj": joined(p, *"qkv"), "mixer.o_proj": p["o"],
                   "mlp.gate_up_proj": joined(p, "gate", "up"), "mlp.down_proj": p["down"]},
    ),
    "Grok-1": (
        "model.layers", GROUPED | {"model_type": "grok-1"}, KV_HEADS,
        lambda p: {f"attn.{role}_proj": p[role] for role in "qkvo"},
    ),
    "DiT": (
        "transformer_blocks", {}, HEADS,
        lambda p: {"attn1.to_q": p["q"], "attn1.to_k": p["k"], "attn1.to_v": p["v"], "attn1.to_out.0": p["o"],
                   "ff.net.0.proj": p["up"], "ff.net.2": p["down"]},
    ),
    "SD3 with GEGLU": (
        "transformer.transformer_blocks", {}, HEADS,
        lambda p: {"attn.to_q": p["q"], "attn.to_k": p["k"], "attn.to_v": p["v"], "attn.to_out.0": p["o"],
                   "ff.net.0.proj": joined(p, "up", "gate"), "ff.net.2": p["down"]},
    ),
    "x-transformers": (
        "net.attn_layers.layers", {}, KV_HEADS,
        lambda p: {"1.to_q": p["q"], "1.to_k": p["k"], "1.to_v": p["v"], "1.to_out": p["o"]},
    ),
    "x-transformers, keys beside values": (
        "layers", {}, KV_HEADS,
        lambda p: {"0.fn.to_q": p["q"], "0.fn.to_kv": joined(p, "k", "v"), "0.fn.to_out": p["o"]},
    ),
    "vit-pytorch": (
        "transformer.layers", {}, HEADS,
        lambda p: {"0.to_qkv": joined(p, *"qkv"), "0.to_out.0": p["o"]},
    ),
    "Megatron-core": (
        "decoder.layers", HF | {"num_query_groups": KV_HEADS}, KV_HEADS,
        lambda p: {"self_attention.linear_qkv": in_turn(p, KV_HEADS), "self_attention.linear_proj": p["o"],
                   "mlp.linear_fc1": joined(p, "gate", "up"), "mlp.linear_fc2": p["down"]},
    ),
}  # fmt: skip
SETTLED_BY_SHAPES = {
    "Baichuan", "MPT", "DBRX", "OLMo-1", "Refact", "PLaMo-2", "Grok-1", "DiT", "SD3 with GEGLU", "x-transformers",
    "x-transformers, keys beside values", "vit-pytorch",
}  # fmt: skip


def entries(tensors: Mapping[str, Array]) -> list[TensorEntry]:
    return [TensorEntry(name, "F32", array.shape, "model.safetensors", 0, 0) for name, array in tensors.items()]


def extract(tensor: LogicalTensor, tensors: Mapping[str, Array]) -> Array:
    stored = tensors[tensor.name]
    stored = stored.T if tensor.transposed else stored
    return stored if tensor.rows is None else stored[rows_index(tensor.rows)]


def found(resolved: ResolvedRoles, tensors: Mapping[str, Array]) -> dict[tuple[str, int | None], Array]:
    return {(t.role, t.layer): extract(t, tensors) for t in resolved.tensors if t.role != "other"}


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [("", "weight"), ("_orig_mod.", "weight"), ("module.", "weight"), ("base_model.model.", "base_layer.weight")],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_is_the_matrix_that_was_fused(family: str, prefix: str, suffix: str) -> None:
    container, config, kv_heads, fuse = FAMILIES[family]
    tensors = {
        f"{prefix}{container}.{layer}.{stem}.{suffix}": array
        for layer in range(LAYERS)
        for stem, array in fuse(parts(layer, kv_heads)).items()
    }
    resolved = resolve_roles(entries(tensors), config)
    assert resolved.notes == ()
    assert read_names(entries(tensors)).needs_config == (family not in SETTLED_BY_SHAPES)
    assert resolved.n_layers == LAYERS
    given = found(resolved, tensors)
    roles = {role for role, _ in given}
    assert set("qkvo") <= roles
    assert len(given) == LAYERS * len(roles)
    for (role, layer), matrix in given.items():
        assert layer is not None
        np.testing.assert_array_equal(matrix, parts(layer, kv_heads)[role], err_msg=f"{role} of layer {layer}")


def test_openelm_has_other_numbers_of_heads_in_every_layer() -> None:
    heads = {0: (4, 1), 1: (6, 2), 2: (8, 4)}
    tensors = {}
    for layer, (q_heads, kv_heads) in heads.items():
        p = parts(layer, kv_heads, q_heads)
        at = f"transformer.layers.{layer}."
        tensors[f"{at}attn.qkv_proj.weight"] = joined(p, *"qkv")
        tensors[f"{at}attn.out_proj.weight"] = p["o"]
        tensors[f"{at}ffn.proj_1.weight"] = joined(p, "gate", "up")
        tensors[f"{at}ffn.proj_2.weight"] = p["down"]
    config = {"model_type": "openelm", "num_query_heads": [4, 6, 8], "num_kv_heads": [1, 2, 4]}
    given = found(resolve_roles(entries(tensors), config), tensors)
    assert len(given) == 7 * LAYERS
    for (role, layer), matrix in given.items():
        assert layer is not None
        q_heads, kv_heads = heads[layer]
        np.testing.assert_array_equal(matrix, parts(layer, kv_heads, q_heads)[role])


SEPARATE = {f"{role}_proj": role for role in "qkvo"}


@pytest.mark.parametrize(
    ("module", "beside"),
    [
        ("self_attn", {"A_log": (1, 1, HEADS, 1), "f_a_proj.weight": (HEAD, HIDDEN), "b_proj.weight": (HEADS, HIDDEN)}),
        ("self_attn", {"output_gate.weight": (HEADS * HEAD, HIDDEN)}),
        ("attn", {"g_norm.weight": (HEAD,)}),
        ("attn", {"q_conv1d.weight": (HEADS * HEAD, 1, 4), "o_norm.weight": (HEAD,)}),
    ],
    ids=["Kimi", "MiniMax", "gated linear attention", "gated delta net"],
)
def test_linear_attention_never_enters_the_curves(module: str, beside: dict[str, tuple[int, ...]]) -> None:
    layer = parts(0, HEADS)
    tensors = {
        f"model.layers.{n}.{module}.{stem}.weight": layer[role] for n in (0, 1) for stem, role in SEPARATE.items()
    }
    tensors |= {f"model.layers.0.{module}.{name}": np.zeros(shape, np.int64) for name, shape in beside.items()}
    tensors["model.layers.0.mlp.up_proj.weight"] = layer["up"]
    resolved = resolve_roles(entries(tensors), None)
    attention = {(t.role, t.layer) for t in resolved.tensors if t.role in "qkvo"}
    assert attention == {(role, 1) for role in "qkvo"}
    assert resolved.n_layers == 1
    assert [t.layer for t in resolved.tensors if t.role == "up"] == [0]


def test_a_fused_linear_attention_is_not_split() -> None:
    layer = parts(0, HEADS)
    tensors = {
        "model.layers.0.self_attn.qkv_proj.weight": joined(layer, *"qkv"),
        "model.layers.0.self_attn.out_proj.weight": layer["o"],
        "model.layers.0.self_attn.output_gate.weight": layer["q"],
    }
    assert {t.role for t in resolve_roles(entries(tensors), HF).tensors} == {"other"}


def test_a_language_model_that_cannot_be_read_leaves_no_tower_to_the_curves() -> None:
    layer = parts(0, HEADS)
    tensors = {
        f"visual.blocks.{n}.attn.{stem}.weight": layer[role] for n in range(9) for stem, role in SEPARATE.items()
    }
    tensors |= {f"model.layers.{n}.attn.strange.weight": layer["q"] for n in range(2)}
    resolved = resolve_roles(entries(tensors), None)
    assert {t.stack for t in resolved.tensors if t.role != "other"} == {"vision"}
    assert resolved.n_layers == 0


def test_two_attentions_of_a_layer_stay_apart() -> None:
    layer = parts(0, HEADS)
    tensors = {
        f"model.layers.{n}.self_attn.{i}.{stem}.weight": layer[role]
        for n in range(LAYERS)
        for i in (0, 1)
        for stem, role in SEPARATE.items()
    }
    resolved = resolve_roles(entries(tensors), None)
    assert resolved.notes == ()
    assert resolved.n_layers == LAYERS
    for tensor in resolved.tensors:
        assert (tensor.stack == "main") == (".self_attn.0." in tensor.name)


def test_a_latent_attention_that_hides_a_gate_in_its_queries_is_refused() -> None:
    heads, plain, rotary, value, rank = 4, 6, 4, 10, 18
    shapes = {"q_a_proj": (20, HIDDEN), "kv_a_proj_with_mqa": (rank + rotary, HIDDEN),
              "kv_b_proj": (heads * (plain + value), rank), "o_proj": (HIDDEN, heads * value)}  # fmt: skip
    for rows, expected in ((heads * (plain + rotary), "q_b"), (heads * (plain + rotary + value), "other")):
        stems = shapes | {"q_b_proj": (rows, 20)}
        tensors = {f"model.layers.0.self_attn.{n}.weight": np.zeros(s, np.int64) for n, s in stems.items()}
        resolved = resolve_roles(entries(tensors), None)
        assert {t.name.split(".")[-2]: t.role for t in resolved.tensors}["q_b_proj"] == expected
        assert bool(resolved.notes) == (expected == "other")


def test_gate_and_up_that_down_cannot_read_are_refused() -> None:
    layer = parts(0, HEADS)
    tensors = {f"model.layers.0.self_attn.{stem}.weight": layer[role] for stem, role in SEPARATE.items()}
    tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((FFN + 1, HIDDEN), np.int64)
    tensors["model.layers.0.mlp.down_proj.weight"] = layer["down"]
    resolved = resolve_roles(entries(tensors), None)
    assert "up" not in {t.role for t in resolved.tensors}
    assert any(f"writes {FFN + 1} numbers where down reads {FFN}" in note for note in resolved.notes)


def test_an_output_projection_alone_is_no_attention() -> None:
    tensors = {"model.layers.0.self_attn.o_proj.weight": parts(0, HEADS)["o"]}
    resolved = resolve_roles(entries(tensors), None)
    assert {t.role for t in resolved.tensors} == {"other"}
    assert any("which attention" in note for note in resolved.notes)


def test_dbrx_experts_stand_one_below_the_other() -> None:
    experts = [parts(10 + expert, KV_HEADS) for expert in range(3)]
    # DbrxExpertGLU: w1.view(experts, ffn, hidden) is the gate, v1 the same of up; down is x @ w2, not x @ w2.T.
    stacked = {
        "w1": np.concatenate([p["gate"] for p in experts]),
        "v1": np.concatenate([p["up"] for p in experts]),
        "w2": np.concatenate([p["down"].T for p in experts]),
    }
    at = "transformer.blocks.0."
    router = {f"{at}ffn.router.layer.weight": np.zeros((3, HIDDEN), np.int64)}
    tensors = {f"{at}ffn.experts.mlp.{name}": array for name, array in stacked.items()}
    resolved = resolve_roles(entries(tensors | router), None)
    assert resolved.notes == ()
    for tensor in (t for t in resolved.tensors if t.name in tensors):
        assert tensor.expert is not None
        n = int(np.prod(tensor.stored_shape))
        stored = tensors[tensor.name].reshape(-1)[tensor.element_offset :][:n].reshape(tensor.stored_shape)
        matrix = stored.T if tensor.transposed else stored
        np.testing.assert_array_equal(matrix, experts[tensor.expert][tensor.role])
    assert [t.role for t in resolve_roles(entries(tensors), None).tensors] == ["other"] * 3
    two = {f"{at}ffn.router.layer.weight": np.zeros((7, HIDDEN), np.int64)}
    torn = resolve_roles(entries(tensors | two), None)
    assert any("do not divide into the 7 experts" in note for note in torn.notes)


def test_grok_names_its_gate_by_no_suffix() -> None:
    shapes = {"linear": (FFN, HIDDEN), "linear_v": (FFN, HIDDEN), "linear_1": (HIDDEN, FFN)}
    tensors = {
        f"model.layers.0.moe_block.experts.{expert}.{name}.weight": np.zeros(shape, np.int64)
        for expert in range(3)
        for name, shape in shapes.items()
    }
    tensors["model.layers.0.moe_block.gate.weight"] = np.zeros((3, HIDDEN), np.int64)
    tensors["model.layers.0.attn.q_proj.linear.weight"] = np.zeros((HIDDEN, HIDDEN), np.int64)
    resolved = resolve_roles(entries(tensors), None)
    given = {(t.role, t.expert) for t in resolved.tensors}
    assert given == {(role, n) for role in ("gate", "up", "down") for n in range(3)} | {("router", None), ("q", None)}
    assert resolved.notes == ()


def block(prefix: str, stems: Mapping[str, str]) -> dict[str, Array]:
    layer = parts(0, HEADS)
    return {f"{prefix}.{stem}.weight": layer[role] for stem, role in stems.items()}


FUNNEL = {
    f"attention.{name}": role for name, role in zip(("q_head", "k_head", "v_head", "post_proj"), "qkvo", strict=True)
}
BERT = {f"attention.{name}": role for name, role in zip(("self.query", "self.key", "self.value"), "qkv", strict=True)}


def test_funnels_encoder_is_one_stack_and_main() -> None:
    tensors: dict[str, Array] = {}
    for number, size in enumerate((2, 3, 1)):
        for layer in range(size):
            tensors |= block(f"funnel.encoder.blocks.{number}.{layer}", FUNNEL)
    for layer in range(4):
        tensors |= block(f"funnel.decoder.layers.{layer}", FUNNEL)
    resolved = resolve_roles(entries(tensors), None)
    assert resolved.n_layers == 6
    main = [(t.layer, t.name) for t in resolved.tensors if t.stack == "main" and t.role == "q"]
    assert [layer for layer, _ in main] == list(range(6))
    assert [".".join(name.split(".")[2:5]) for _, name in main] == [
        "blocks.0.0", "blocks.0.1", "blocks.1.0", "blocks.1.1", "blocks.1.2", "blocks.2.0",
    ]  # fmt: skip


def test_the_text_tower_goes_before_the_tower_that_fuses() -> None:
    towers = ("text_model", "image_model", "multimodal_model")
    tensors: dict[str, Array] = {}
    for tower in towers:
        for layer in range(4 if tower == "multimodal_model" else 3):
            tensors |= block(f"flava.{tower}.encoder.layer.{layer}", BERT)
    stacks = {t.name.split(".")[1]: t.stack for t in resolve_roles(entries(tensors), None).tensors}
    assert stacks == {"text_model": "main", "image_model": "vision", "multimodal_model": "fusion"}


def test_a_pretraining_decoder_is_not_main() -> None:
    tensors: dict[str, Array] = {}
    for layer in range(2):
        tensors |= block(f"vit.encoder.layer.{layer}", BERT)
    for layer in range(8):
        tensors |= block(f"decoder.decoder_layers.{layer}", BERT)
    resolved = resolve_roles(entries(tensors), None)
    assert {t.name.split(".")[0] for t in resolved.tensors if t.stack == "main" and t.layer is not None} == {"vit"}


def test_the_language_of_lxmert_is_main() -> None:
    tensors: dict[str, Array] = {}
    for word, n in (("layer", 2), ("r_layers", 5), ("x_layers", 4)):
        for layer in range(n):
            tensors |= block(f"lxmert.encoder.{word}.{layer}", BERT)
    resolved = resolve_roles(entries(tensors), None)
    main = {t.name.split(".")[2] for t in resolved.tensors if t.stack == "main" and t.role == "q"}
    assert (main, resolved.n_layers) == ({"layer"}, 2)


def test_convolutions_of_one_token_are_matrices() -> None:
    tensors = {
        f"transformer.encoder.layers.0.attention.{name}.weight": np.zeros((HIDDEN, HIDDEN // 4, 1), np.int64)
        for name in ("query", "key", "value")
    }
    tensors["transformer.encoder.layers.0.post_attention.conv1d.weight"] = np.zeros((HIDDEN, HIDDEN, 1), np.int64)
    given = {t.role: t.shape for t in resolve_roles(entries(tensors), None).tensors}
    assert given == {**dict.fromkeys("qkv", (HIDDEN, HIDDEN // 4)), "o": (HIDDEN, HIDDEN)}
    wide = {name: np.zeros((*array.shape[:2], 3), np.int64) for name, array in tensors.items()}
    assert {t.role for t in resolve_roles(entries(wide), None).tensors} == {"other"}


MEGATRON: dict[str, Callable[[Parts], Array]] = {
    # megatron/checkpointing.py, fix_query_key_value_ordering: [3, heads, head], [heads, head, 3], [heads, 3, head]
    "0": lambda p: joined(p, *"qkv"),
    "1.0": lambda p: np.stack([p[role] for role in "qkv"], axis=1).reshape(-1, HIDDEN),
    "2.0": lambda p: in_turn(p, HEADS),
}


@pytest.mark.parametrize("version", MEGATRON)
@pytest.mark.parametrize("module", ["attention", "self_attention"])
@pytest.mark.parametrize("model_type", [None, "megatron-bert", "megatron_gpt"])
def test_megatrons_orders_of_rows_are_told_by_no_config(version: str, module: str, model_type: str | None) -> None:
    p = parts(0, HEADS)
    at = f"model.language_model.encoder.layers.0.{module}."
    tensors = {f"{at}query_key_value.weight": MEGATRON[version](p), f"{at}dense.weight": p["o"]}
    config = HF if model_type is None else HF | {"model_type": model_type}
    resolved = resolve_roles(entries(tensors), config)
    assert {t.role for t in resolved.tensors} == {"other"}
    assert any("query_key_value" in note for note in resolved.notes)


def test_an_eagle_head_is_a_draft() -> None:
    layer = parts(0, HEADS)
    tensors = {f"layers.0.self_attn.{stem}.weight": layer[role] for stem, role in SEPARATE.items()}
    assert resolve_roles(entries(tensors), None).n_layers == 1
    tensors["fc.weight"] = np.zeros(
        (HIDDEN, 2 * HIDDEN), np.int64
    )  # the embedding beside the state of the layer before
    resolved = resolve_roles(entries(tensors), None)
    assert {t.stack for t in resolved.tensors if t.role != "other"} == {"draft"}
    assert resolved.n_layers == 0
    tensors |= {
        f"model.layers.{n}.self_attn.{stem}.weight": layer[role] for n in range(3) for stem, role in SEPARATE.items()
    }
    both = resolve_roles(entries(tensors), None)
    assert both.n_layers == 3
    assert {t.stack for t in both.tensors if t.name.startswith("layers.")} == {"draft"}


def test_a_classifiers_head_makes_no_draft() -> None:
    layer = parts(0, HEADS)
    tensors = {f"layers.0.self_attn.{stem}.weight": layer[role] for stem, role in SEPARATE.items()}
    tensors["fc.weight"] = np.zeros((10, HIDDEN), np.int64)
    assert resolve_roles(entries(tensors), None).n_layers == 1


def test_medusa_heads_have_no_role() -> None:
    heads = {f"{head}.0.linear.weight": (HIDDEN, HIDDEN) for head in range(3)} | {
        f"{head}.1.weight": (50, HIDDEN) for head in range(3)
    }
    resolved = resolve_roles(entries({name: np.zeros(shape, np.int64) for name, shape in heads.items()}), None)
    assert {t.role for t in resolved.tensors} == {"other"}
    assert resolved.n_layers == 0
