"""Small checkpoints, built with numpy and written by safetensors itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from safetensors.numpy import save_file

# Nothing listens there: no test reaches a hub that it did not start.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"

# Shared machines are slow at times; no test here is about time.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

ZOO = Path(__file__).resolve().parents[2] / "shared" / "zoo"

Tensors = dict[str, NDArray[Any]]


def llama(
    seed: int,
    *,
    layers: int = 6,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    ffn: int = 96,
    vocabulary: int = 64,
) -> Tensors:
    """A Llama-shaped checkpoint with random weights whose spread varies over roles and layers, as training makes it."""
    rng = np.random.default_rng(seed)
    head = hidden // heads
    shapes = {
        "self_attn.q_proj": (heads * head, hidden),
        "self_attn.k_proj": (kv_heads * head, hidden),
        "self_attn.v_proj": (kv_heads * head, hidden),
        "self_attn.o_proj": (hidden, heads * head),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
    }
    tensors: Tensors = {
        "model.embed_tokens.weight": rng.normal(0, 0.02, (vocabulary, hidden)),
        "lm_head.weight": rng.normal(0, 0.02, (vocabulary, hidden)),
        "model.norm.weight": rng.normal(1, 0.1, hidden),
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name, shape in shapes.items():
            tensors[f"{prefix}{name}.weight"] = rng.normal(0, 0.02 * rng.uniform(0.6, 1.6), shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = rng.normal(1, 0.1, hidden)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def trained(tensors: Mapping[str, NDArray[Any]], seed: int, amount: float = 0.1) -> Tensors:
    """The checkpoint after training: every tensor plus an independent change of `amount` times its spread."""
    rng = np.random.default_rng(seed)
    return {
        name: (tensor + rng.normal(0, amount * float(tensor.std()), tensor.shape)).astype(tensor.dtype)
        for name, tensor in tensors.items()
    }


LLAMA_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 6,
    "intermediate_size": 96,
}


@pytest.fixture
def write_repo(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint as a repo under `tmp_path / "models"` and return its folder."""

    def write(
        repo_id: str,
        tensors: Tensors,
        *,
        config: Mapping[str, Any] | None = LLAMA_CONFIG,
        file: str = "model.safetensors",
        listing: Mapping[str, Any] | None = None,
    ) -> Path:
        root = tmp_path / "models"
        folder = root / repo_id
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / file)
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        if listing is not None:
            with (root / "listing.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"id": repo_id, **listing}) + "\n")
        return folder

    return write


@pytest.fixture
def zoo() -> Path:
    """The folder of trained checkpoints with a known lineage that lies beside a working copy; not in a clone."""
    if not (ZOO / "lineage.csv").exists():
        pytest.skip(f"no zoo at {ZOO}: it is not part of the product")
    return ZOO
