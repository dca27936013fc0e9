"""Experts that are packed in one tensor, and other ways to lay out a packed checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from provenance.crawler.plan import SAMPLE_SIZES, SampleSize
from provenance.schemas.records import Fingerprint
from tests.conftest import Tensors
from tests.crawler.test_fingerprint import cells, fingerprint_of
from tests.support.packed import fp8, gptq, mxfp4, to_torch

LAYERS, HIDDEN, INNER, EXPERTS = 2, 64, 64, 4
CONFIG = {"model_type": "gpt_oss", "hidden_size": HIDDEN, "num_attention_heads": 4, "num_key_value_heads": 2}
MODES: dict[str, SampleSize | None] = {"full": None, "sampled": SAMPLE_SIZES["default"]}


def write(folder: Path, tensors: Tensors, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    save_file(to_torch(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def gpt_oss() -> tuple[Tensors, Tensors]:
    """As gpt-oss is released, and as it is when it is unpacked: `[experts, in, out]`, gate and up row by row."""
    rng = np.random.default_rng(4)
    packed: Tensors = {}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for part, shape in (("q", (64, HIDDEN)), ("k", (32, HIDDEN)), ("v", (32, HIDDEN)), ("o", (HIDDEN, 64))):
            packed[f"{prefix}self_attn.{part}_proj.weight"] = rng.normal(0, 0.03, shape).astype(np.float32)
        packed[f"{prefix}mlp.router.weight"] = rng.normal(0, 0.03, (EXPERTS, HIDDEN)).astype(np.float32)
        packed[f"{prefix}mlp.experts.gate_up_proj_bias"] = np.zeros((EXPERTS, 2 * INNER), np.float32)
    dense = dict(packed)
    for layer in range(LAYERS):
        for name, rows, columns in (("gate_up_proj", 2 * INNER, HIDDEN), ("down_proj", HIDDEN, INNER)):
            stem = f"model.layers.{layer}.mlp.experts.{name}"
            stored, weights = mxfp4(rng.normal(0, 0.03, (EXPERTS, rows, columns)))
            packed |= {stem + ending: tensor for ending, tensor in stored.items()}
            # One of them is square: dense, its orientation would not be known.
            dense |= {f"{stem[: -len(name)]}{e}.{name}.weight": weights[e] for e in range(EXPERTS)}
    return packed, dense


def by_place(found: Fingerprint) -> dict[tuple[Any, ...], Any]:
    return {
        (row.role, row.layer, row.expert): (row.shape, row.n_read, row.mean, row.std, row.kurtosis)
        for row in found.tensors
        if row.role != "other"
    }


@pytest.mark.parametrize("mode", MODES)
def test_experts_of_gpt_oss(mode: str, tmp_path: Path) -> None:
    packed, dense = gpt_oss()
    split = {}
    for name, tensor in dense.items():
        if name.endswith("gate_up_proj.weight"):
            base = name.removesuffix("gate_up_proj.weight")
            split |= {f"{base}gate_proj.weight": tensor[0::2], f"{base}up_proj.weight": tensor[1::2]}
        else:
            split[name] = tensor
    found = fingerprint_of(write(tmp_path / "packed", packed, CONFIG), MODES[mode])
    wanted = fingerprint_of(write(tmp_path / "dense", split, {**CONFIG, "model_type": "qwen3_moe"}), MODES[mode])
    own, expected = by_place(found), by_place(wanted)
    assert own.keys() == expected.keys()
    assert {key for key in own if key[0] == "down"} == {("down", i, e) for i in range(LAYERS) for e in range(EXPERTS)}
    for place, (shape, n_read, *statistics) in own.items():
        assert shape == expected[place][0], place
        if n_read == expected[place][1] and None not in statistics:  # bands of two fused parts hold rows of both
            assert statistics == pytest.approx(list(expected[place][2:]), rel=1e-5, abs=1e-7), place
    first, second = cells(found.sample), cells(wanted.sample)
    assert first.keys() == second.keys()
    for place, values in first.items():
        assert values == pytest.approx(second[place], rel=1e-3, abs=1e-7), place
    assert found.checkpoint.n_parameters == wanted.checkpoint.n_parameters
    assert (found.checkpoint.quantization, found.checkpoint.notes) == ("mxfp4", ())


@pytest.mark.parametrize("mode", MODES)
def test_fp8_experts_in_one_tensor(mode: str, tmp_path: Path) -> None:
    """`[experts, out, in]` with a block of scales for each, the last of which is short."""
    rng = np.random.default_rng(5)
    packed: Tensors = {}
    for part, shape in (("q", (64, 64)), ("k", (32, 64)), ("v", (32, 64)), ("o", (64, 64))):
        packed[f"model.layers.0.self_attn.{part}_proj.weight"] = rng.normal(0, 0.03, shape).astype(np.float32)
    dense = dict(packed)
    stem = "model.layers.0.mlp.experts."
    for name, rows, columns in (("gate_up_proj", 96, 64), ("down_proj", 64, 48)):
        own = [fp8(rng.normal(0, 0.03, (rows, columns)).astype(np.float32), block=32) for _ in range(EXPERTS)]
        packed[stem + name] = np.stack([stored[".weight"] for stored, _ in own])
        packed[f"{stem}{name}_scale_inv"] = np.stack([stored[".weight_scale_inv"] for stored, _ in own])
        dense[stem + name] = np.stack([weights for _, weights in own])
    config = {"model_type": "glm4v_moe", "hidden_size": 64, "num_attention_heads": 4}
    facts = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32]}}
    found = fingerprint_of(write(tmp_path / "packed", packed, config | facts), MODES[mode])
    wanted = fingerprint_of(write(tmp_path / "dense", dense, config), MODES[mode])
    assert {role for role, _, _ in by_place(found)} >= {"gate", "up", "down"}
    assert by_place(found).keys() == by_place(wanted).keys()
    for place, (shape, _, *statistics) in by_place(found).items():
        expected = by_place(wanted)[place]
        assert shape == expected[0]
        if found.checkpoint.mode == "full":
            assert statistics == pytest.approx(list(expected[2:]), rel=1e-4, abs=1e-7), place
    first, second = cells(found.sample), cells(wanted.sample)
    assert all(values == pytest.approx(second[place], rel=1e-3, abs=1e-7) for place, values in first.items())


@pytest.mark.parametrize("mode", MODES)
def test_a_fused_projection_that_is_packed(mode: str, tmp_path: Path) -> None:
    """GPTQ stores the inputs as rows, so the parts of a fused matrix are columns."""
    rng = np.random.default_rng(6)
    packed, dense = Tensors(), Tensors()
    for name, shape in (("self_attn.qkv_proj", (128, 64)), ("self_attn.o_proj", (64, 64))):
        stored, weights = gptq(rng.normal(0, 0.03, shape), symmetric=False)
        packed |= {f"model.layers.0.{name}{ending}": tensor for ending, tensor in stored.items()}
        dense[f"model.layers.0.{name}.weight"] = weights
    config = {**CONFIG, "model_type": "phi3", "num_key_value_heads": 2}
    found = fingerprint_of(write(tmp_path / "packed", packed, config), MODES[mode])
    wanted = fingerprint_of(write(tmp_path / "dense", dense, config), MODES[mode])
    assert {role for role, _, _ in by_place(found)} == {"q", "k", "v", "o"}
    for place, (shape, _, *statistics) in by_place(found).items():
        assert shape == by_place(wanted)[place][0]
        assert statistics == pytest.approx(list(by_place(wanted)[place][2:]), rel=1e-5, abs=1e-7), place
    first, second = cells(found.sample), cells(wanted.sample)
    assert all(values == pytest.approx(second[place], rel=1e-3, abs=1e-7) for place, values in first.items())
