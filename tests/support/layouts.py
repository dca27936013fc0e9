"""The same small Llama under the names, fusions and orientations of other families, in bfloat16 values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from tests.conftest import Tensors, llama

LAYERS, HIDDEN, HEADS, KV_HEADS, FFN, EXPERTS = 2, 128, 4, 2, 264, 4
HEAD = HIDDEN // HEADS
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
}

Array = NDArray[Any]
Slices = Mapping[str, Callable[[Array], Array]]


@dataclass(frozen=True)
class Layout:
    """One way to store a checkpoint.

    Attributes:
        tensors: by stored name.
        config: what its config file says, and that file's name.
        parts: stored name -> part -> the part's elements cut out of the stored tensor.
    """

    tensors: Tensors
    config: Mapping[str, Any] | None = field(default_factory=lambda: CONFIG)
    config_file: str = "config.json"
    parts: Mapping[str, Slices] = field(default_factory=dict)


def bfloat16(tensors: Tensors) -> Tensors:
    """Values rounded to bfloat16, as float32."""
    return {name: torch.from_numpy(t).bfloat16().float().numpy() for name, t in tensors.items()}


def separate(seed: int = 7, kv_heads: int = KV_HEADS, layers: int = LAYERS) -> Tensors:
    """The checkpoint as transformers stores a Llama."""
    shape = {"layers": layers, "hidden": HIDDEN, "heads": HEADS, "kv_heads": kv_heads, "ffn": FFN, "vocabulary": 32}
    return bfloat16(llama(seed, **shape))


def in_meta_order(weight: Array) -> Array:
    """The rows of every head in Meta's order: the two rows of one rotary frequency are adjacent."""
    halves = weight.reshape(-1, 2, HEAD // 2, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def _renamed(tensors: Tensors, names: Mapping[str, str]) -> Tensors:
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def meta() -> Layout:
    names = {
        "model.embed_tokens": "tok_embeddings",
        "lm_head": "output",
        "model.": "",
        "self_attn.q_proj": "attention.wq",
        "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    # `attention_norm` would match the end of `post_attention_layernorm`, so that is renamed first.
    tensors = _renamed(separate(), {"post_attention_layernorm": "ffn_norm", **names})
    tensors = {
        name: in_meta_order(t) if name.endswith(("wq.weight", "wk.weight")) else t for name, t in tensors.items()
    }
    return Layout(tensors, {"dim": HIDDEN, "n_heads": HEADS, "n_kv_heads": KV_HEADS}, "params.json")


def phi3() -> Layout:
    """`[q | k | v]` and `[gate | up]` in one matrix each."""
    tensors, parts = separate(), dict[str, Slices]()
    q, k = HEADS * HEAD, KV_HEADS * HEAD
    for layer in range(LAYERS):
        attention, mlp = f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."
        fused = f"{attention}qkv_proj.weight"
        tensors[fused] = np.concatenate([tensors.pop(f"{attention}{part}_proj.weight") for part in "qkv"])
        parts[fused] = {"q": lambda t: t[:q], "k": lambda t: t[q : q + k], "v": lambda t: t[q + k :]}
        fused = f"{mlp}gate_up_proj.weight"
        tensors[fused] = np.concatenate([tensors.pop(f"{mlp}{part}_proj.weight") for part in ("gate", "up")])
        parts[fused] = {"gate": lambda t: t[:FFN], "up": lambda t: t[FFN:]}
    return Layout(tensors, {**CONFIG, "model_type": "phi3"}, parts=parts)


def _phi_tensors() -> Tensors:
    """Full attention with biases and without a gate, which GPT-2 and GPT-NeoX store fused."""
    tensors = {name: t for name, t in separate(kv_heads=HEADS).items() if "gate_proj" not in name}
    rng = np.random.default_rng(1)
    for layer in range(LAYERS):
        for part in "qkv":
            bias = rng.normal(0, 1, HIDDEN).astype(np.float32)
            tensors[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = bias
    names = {"self_attn.o_proj": "self_attn.dense", "mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"}
    return bfloat16(_renamed(tensors, names))


def phi() -> Layout:
    return Layout(_phi_tensors(), {**CONFIG, "model_type": "phi", "num_key_value_heads": HEADS})


def _third(i: int, stored: Array) -> Array:
    return stored[..., i * HIDDEN : (i + 1) * HIDDEN]


def _third_of_heads(i: int, stored: Array) -> Array:
    return stored.reshape(HEADS, 3, HEAD, -1)[:, i]


def gpt2() -> Layout:
    """`[q | k | v]` in one matrix, all matrices stored `[in, out]`."""
    tensors, parts = _phi_tensors(), dict[str, Slices]()
    for layer in range(LAYERS):
        old, new = f"model.layers.{layer}.", f"transformer.h.{layer}."
        for kind, axis in (("weight", 1), ("bias", 0)):
            qkv = [tensors.pop(f"{old}self_attn.{part}_proj.{kind}").T for part in "qkv"]
            tensors[f"{new}attn.c_attn.{kind}"] = np.ascontiguousarray(np.concatenate(qkv, axis=axis))
            parts[f"{new}attn.c_attn.{kind}"] = {part: partial(_third, i) for i, part in enumerate("qkv")}
        for was, name in (("self_attn.dense", "attn.c_proj"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):
            tensors[f"{new}{name}.weight"] = np.ascontiguousarray(tensors.pop(f"{old}{was}.weight").T)
        for was, name in (("input_layernorm", "ln_1"), ("post_attention_layernorm", "ln_2")):
            tensors[f"{new}{name}.weight"] = tensors.pop(f"{old}{was}.weight")
    names = {"model.embed_tokens": "transformer.wte", "model.norm": "transformer.ln_f"}
    return Layout(_renamed(tensors, names), {"model_type": "gpt2", "n_embd": HIDDEN, "n_head": HEADS}, parts=parts)


def neox() -> Layout:
    """`[head][q | k | v]` in one matrix."""
    tensors, parts = _phi_tensors(), dict[str, Slices]()
    for layer in range(LAYERS):
        old, new = f"model.layers.{layer}.", f"gpt_neox.layers.{layer}."
        for kind in ("weight", "bias"):
            qkv = [tensors.pop(f"{old}self_attn.{part}_proj.{kind}") for part in "qkv"]
            by_head = np.stack([t.reshape(HEADS, HEAD, -1) for t in qkv], axis=1)
            name = f"{new}attention.query_key_value.{kind}"
            tensors[name] = by_head.reshape(3 * HIDDEN, *qkv[0].shape[1:])
            parts[name] = {part: partial(_third_of_heads, i) for i, part in enumerate("qkv")}
    names = {
        "self_attn.dense": "attention.dense",
        "mlp.fc1": "mlp.dense_h_to_4h",
        "mlp.fc2": "mlp.dense_4h_to_h",
        "model.embed_tokens": "gpt_neox.embed_in",
        "model.norm": "gpt_neox.final_layer_norm",
        "lm_head": "embed_out",
        "model.layers": "gpt_neox.layers",
    }
    config = {"model_type": "gpt_neox", "hidden_size": HIDDEN, "num_attention_heads": HEADS}
    return Layout(_renamed(tensors, names), config, parts=parts)


def experts() -> Layout:
    """A mixture of four experts, each with separate matrices."""
    tensors = separate()
    rng = np.random.default_rng(2)
    for layer in range(LAYERS):
        mlp = f"model.layers.{layer}.mlp."
        for part in ("gate", "up", "down"):
            dense = tensors.pop(f"{mlp}{part}_proj.weight")
            for expert in range(EXPERTS):
                noise = rng.normal(0, 0.01, dense.shape).astype(np.float32)
                tensors[f"{mlp}experts.{expert}.{part}_proj.weight"] = dense + noise
        tensors[f"{mlp}gate.weight"] = rng.normal(0, 1, (EXPERTS, HIDDEN)).astype(np.float32)
    return Layout(bfloat16(tensors), {**CONFIG, "model_type": "qwen3_moe"})


def stacked_experts() -> Layout:
    """The same experts in one `[expert, in, out]` tensor, gate and up side by side."""
    tensors, parts = experts().tensors, dict[str, Slices]()
    for layer in range(LAYERS):
        mlp = f"model.layers.{layer}.mlp.experts."
        of = {
            part: np.stack([tensors.pop(f"{mlp}{expert}.{part}_proj.weight").T for expert in range(EXPERTS)])
            for part in ("gate", "up", "down")
        }
        tensors[f"{mlp}gate_up_proj"] = np.concatenate([of["gate"], of["up"]], axis=2)
        tensors[f"{mlp}down_proj"] = of["down"]
        parts[f"{mlp}gate_up_proj"] = {"gate": lambda t: t[..., :FFN], "up": lambda t: t[..., FFN:]}
    return Layout(tensors, {**CONFIG, "model_type": "qwen3_vl_moe"}, parts=parts)


def write(folder: Path, layout: Layout, *, dtype: torch.dtype = torch.bfloat16, shards: int = 1) -> Path:
    """Write the layout as a folder of safetensors, its tensors distributed over the shards; returns the folder."""
    folder.mkdir(parents=True)
    names = ["model.safetensors"]
    if shards > 1:
        names = [f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)]
    weight_map = {name: names[i % shards] for i, name in enumerate(layout.tensors)}
    for file in names:
        tensors = {
            n: torch.from_numpy(np.ascontiguousarray(t)) for n, t in layout.tensors.items() if weight_map[n] == file
        }
        save_file({n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}, folder / file)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    if layout.config is not None:
        (folder / layout.config_file).write_text(json.dumps(layout.config), encoding="utf-8")
    return folder
