"""llama.cpp's names mean what the names of the original files mean, and its row orders are undone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gguf
import pytest
from gguf.tensor_mapping import TensorNameMap

from provenance.crawler.architectures import read_names, resolve_roles
from provenance.crawler.architectures.llama_cpp import FUSED_QKV, PERMUTED, STEMS
from provenance.crawler.architectures.names import ROLE_OF_STEM
from provenance.crawler.architectures.stacks import place_of
from provenance.schemas.roles import LAYER_MATRICES
from provenance.schemas.tensors import OutputRows, ResolvedRoles, TensorEntry

HEADS, KV_HEADS, HEAD, HIDDEN, FFN = 4, 2, 16, 64, 96
ATTENTION: dict[str, tuple[int, ...]] = {
    "attn_q": (HEADS * HEAD, HIDDEN),
    "attn_k": (KV_HEADS * HEAD, HIDDEN),
    "attn_v": (KV_HEADS * HEAD, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD),
    "attn_norm": (HIDDEN,),
}
DENSE: dict[str, tuple[int, ...]] = {
    "ffn_gate": (FFN, HIDDEN),
    "ffn_up": (FFN, HIDDEN),
    "ffn_down": (HIDDEN, FFN),
    "ffn_norm": (HIDDEN,),
}
OUTSIDE = {"token_embd.weight": (50, HIDDEN), "output.weight": (50, HIDDEN), "output_norm.weight": (HIDDEN,)}


def layers(shapes: Mapping[str, tuple[int, ...]], n: int = 2, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {f"{prefix}blk.{i}.{stem}.weight": shape for i in range(n) for stem, shape in shapes.items()}


def resolved(architecture: str, shapes: Mapping[str, tuple[int, ...]], **config: Any) -> ResolvedRoles:
    entries = [
        TensorEntry(name, "F32" if len(shape) == 1 else "Q8_0", shape, "m.gguf", 0, 0) for name, shape in shapes.items()
    ]
    config = {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, **config}
    return resolve_roles(entries, {"model_type": architecture, **config})


def roles(found: ResolvedRoles, layer: int | None = 0, stack: str = "main") -> dict[str, str]:
    """Role of each tensor of a layer by its name in the layer, or in the file outside of the layers."""
    return {
        t.name.removesuffix(".weight").rpartition(f"blk.{layer}.")[2] + (f".{t.part}" if t.part else ""): t.role.value
        for t in found.tensors
        if t.stack == stack and (t.layer == layer) and t.role.value != "other"
    }


# ---------------------------------------------------------------- against the converter's own table of names


def mapped() -> Iterator[tuple[str, str, str | None]]:
    """Stem in llama.cpp, name in the original, its role by the tables of this project."""
    for tensor, originals in TensorNameMap.block_mappings_cfg.items():
        name = gguf.TENSOR_NAMES[tensor]
        place = place_of(TensorEntry(f"{name.format(bid=3)}.weight", "F32", (4, 4), "", 0, 0))
        if place is None or place.container not in ("blk", "enc.blk", "dec.blk"):
            continue
        for original in originals:
            old = place_of(TensorEntry(f"{original.format(bid=3, xid=0)}.weight", "F32", (4, 4), "", 0, 0))
            if old is not None and old.cross == place.cross:
                yield place.stem, original, ROLE_OF_STEM.get(old.stem)


def test_roles_are_those_of_the_original_names() -> None:
    compared = [(stem, original, role) for stem, original, role in mapped() if role and stem in STEMS]
    assert len(compared) > 200
    wrong = {original for stem, original, role in compared if STEMS[stem] != role}
    assert wrong == {"transformer.h.{bid}.ln_mlp"}  # Falcon-40B's, a variant


def test_matrices_without_a_role_are_of_linear_attention_or_recurrent() -> None:
    left = {stem for stem, _, role in mapped() if role in LAYER_MATRICES and stem not in STEMS}
    # Two rows of the converter's table name another matrix than transformers does.
    strange = {"post_ffw_norm", "ffn_up_shexp"}
    assert {stem for stem in left - strange if not stem.startswith(("ssm_", "time_mix_", "channel_mix_"))} == set()


def test_architectures_are_known_to_the_package() -> None:
    newer = {"nanbeige"}
    assert (PERMUTED | FUSED_QKV) - newer <= set(gguf.MODEL_ARCH_NAMES.values())


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize(("architecture", "permuted"), [("llama", True), ("granite", True), ("qwen2", False)])
def test_rows_of_q_and_k_are_put_back_where_they_were_permuted(architecture: str, permuted: bool) -> None:
    biases = {f"blk.{i}.attn_{part}.bias": ATTENTION[f"attn_{part}"][:1] for i in range(2) for part in "qkv"}
    found = resolved(architecture, layers(ATTENTION | DENSE) | biases | OUTSIDE)
    assert (found.n_layers, found.n_heads, found.n_kv_heads, found.notes) == (2, HEADS, KV_HEADS, ())
    rows = {t.role.value: t.rows for t in found.tensors if t.layer == 1}
    q = OutputRows(0, HEADS * HEAD, rotary_head=HEAD) if permuted else None
    k = OutputRows(0, KV_HEADS * HEAD, rotary_head=HEAD) if permuted else None
    assert (rows["q"], rows["k"], rows["v"], rows["q_bias"], rows["k_bias"], rows["v_bias"]) == (q, k, None, q, k, None)
    assert roles(found, None) == {"token_embd": "embed", "output": "lm_head", "output_norm": "final_norm"}


def test_without_metadata_q_and_k_have_no_role() -> None:
    entries = [TensorEntry(name, "F16", shape, "m.gguf", 0, 0) for name, shape in layers(ATTENTION | DENSE).items()]
    reading = read_names(entries)
    assert reading.needs_config
    assert "depends on the architecture" in " ".join(reading.with_config(None).notes)
    assert roles(reading.with_config(None)).keys() == {"attn_v", "attn_output", "attn_norm", *DENSE}


def test_permuted_rows_need_the_number_of_heads() -> None:
    found = resolved("llama", layers(ATTENTION | DENSE), num_attention_heads=None)
    assert "the number of heads is in no config" in " ".join(found.notes)
    assert not {"attn_q", "attn_k"} & roles(found).keys()


def test_fused_projections_are_cut_where_the_architecture_is_known() -> None:
    fused = {**ATTENTION, "attn_qkv": ((HEADS + 2 * KV_HEADS) * HEAD, HIDDEN), "ffn_up": (2 * FFN, HIDDEN)}
    fused |= {"ffn_down": (HIDDEN, FFN)}
    for stem in ("attn_q", "attn_k", "attn_v"):
        del fused[stem]
    parts = {(t.part, t.rows) for t in resolved("phi3", layers(fused)).tensors if t.layer == 0 and t.part}
    q, k = HEADS * HEAD, KV_HEADS * HEAD
    assert parts == {
        ("q", OutputRows(0, q)),
        ("k", OutputRows(q, k)),
        ("v", OutputRows(q + k, k)),
        ("gate", OutputRows(0, FFN)),
        ("up", OutputRows(FFN, FFN)),
    }
    notes = " ".join(resolved("neo-bert", layers(fused)).notes)
    assert "no known layout for model type neo-bert" in notes


def test_stacked_and_numbered_experts() -> None:
    mixture = {"ffn_gate_inp": (3, HIDDEN), "ffn_norm": (HIDDEN,)}
    stacked = {f"{stem}_exps": (3, *DENSE[stem]) for stem in ("ffn_gate", "ffn_up", "ffn_down")}
    numbered = {f"{stem}.{i}": DENSE[stem] for stem in ("ffn_gate", "ffn_up", "ffn_down") for i in range(3)}
    both = [resolved("llama", layers(ATTENTION | mixture | experts)) for experts in (stacked, numbered)]
    cells = [{(t.role, t.layer, t.expert, t.shape) for t in found.tensors} for found in both]
    assert cells[0] == cells[1]
    assert {(t.role.value, t.expert) for t in both[0].tensors if t.layer == 0} >= {("gate", 2), ("router", None)}
    fused = {"ffn_gate_up_exps": (3, 2 * FFN, HIDDEN), "ffn_down_exps": (3, HIDDEN, FFN)}
    found = resolved("qwen35moe", layers(ATTENTION | mixture | fused))
    gates = [t for t in found.tensors if t.layer == 0 and t.part == "gate"]
    assert [(t.expert, t.shape, t.element_offset) for t in gates] == [
        (i, (FFN, HIDDEN), i * 2 * FFN * HIDDEN) for i in range(3)
    ]


@pytest.mark.parametrize(
    ("stems", "expected"),
    [
        (("post_attention_norm", "post_ffw_norm"), {"post_attention_norm": "attn_norm", "post_ffw_norm": "ffn_norm"}),
        (("attn_norm", "post_attention_norm"), {"attn_norm": "attn_norm", "post_attention_norm": "ffn_norm"}),
        (
            ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"),
            {"attn_norm": "attn_norm", "ffn_norm": "ffn_norm"},
        ),
        (("attn_norm", "ffn_norm", "post_attention_norm"), {"attn_norm": "attn_norm", "ffn_norm": "ffn_norm"}),
        (("attn_norm", "attn_output_norm"), {"attn_norm": "attn_norm", "attn_output_norm": "ffn_norm"}),
        (("attn_output_norm", "layer_output_norm"), {"attn_output_norm": "attn_norm", "layer_output_norm": "ffn_norm"}),
        (
            ("attn_norm", "attn_output_norm", "ffn_norm", "layer_output_norm"),
            {"attn_norm": "attn_norm", "ffn_norm": "ffn_norm"},
        ),
        (("attn_norm", "attn_norm_2"), {"attn_norm": "ffn_norm", "attn_norm_2": "attn_norm"}),
    ],
    ids=["olmo2", "gpt-oss", "gemma2", "seed", "dbrx", "bert", "grok", "falcon"],
)
def test_norms_are_told_apart_by_the_others(stems: tuple[str, ...], expected: dict[str, str]) -> None:
    shapes = {stem: shape for stem, shape in (ATTENTION | DENSE).items() if not stem.endswith("_norm")}
    found = roles(resolved("qwen2", layers(shapes | dict.fromkeys(stems, (HIDDEN,)))))
    assert {stem: role for stem, role in found.items() if role.endswith("norm")} == expected


def test_linear_attention_has_no_attention_roles() -> None:
    linear = {
        "attn_qkv": (128, HIDDEN),
        "attn_gate": (HIDDEN, HIDDEN),
        "ssm_beta": (4, HIDDEN),
        "ssm_out": (HIDDEN, 64),
    }
    shapes = layers(ATTENTION | DENSE) | {n.replace("blk.", "blk.1"): s for n, s in layers(linear | DENSE).items()}
    found = resolved("qwen35", shapes)
    assert found.n_layers == 2
    assert roles(found, 10).keys() == DENSE.keys()


def test_latent_attention_and_draft_layers() -> None:
    latent = {
        "attn_q_a": (24, HIDDEN),
        "attn_q_b": (HEADS * 24, 24),
        "attn_kv_a_mqa": (32 + 8, HIDDEN),
        "attn_k_b": (HEADS, 32, 16),
        "attn_v_b": (HEADS, 16, 32),
        "attn_output": (HIDDEN, HEADS * 16),
    }
    draft = layers(latent | {"nextn.eh_proj": (HIDDEN, 2 * HIDDEN)}, 1)
    shapes = layers(latent | DENSE) | {name.replace("blk.0", "blk.2"): shape for name, shape in draft.items()}
    found = resolved("deepseek2", shapes)
    assert found.n_layers == 2
    assert roles(found).keys() == {"attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_output", *DENSE}


def test_the_decoder_is_the_main_stack_of_an_encoder_and_a_decoder() -> None:
    block = {stem.replace("output", "o"): shape for stem, shape in ATTENTION.items()} | DENSE
    cross = {f"cross_{stem}": shape for stem, shape in block.items() if stem.startswith("attn_")}
    found = resolved(
        "t5",
        layers(block, 3, "enc.") | layers(block | cross, 2, "dec.") | {"token_embd.weight": (50, HIDDEN)}
        | {"dec.output_norm.weight": (HIDDEN,), "enc.output_norm.weight": (HIDDEN,)},
    )  # fmt: skip
    assert found.n_layers == 2
    assert roles(found, 1) == roles(found, 1, "encoder")
    assert roles(found, 1)["attn_o"] == "o"
    assert roles(found, 1, "cross")["cross_attn_q"] == "q"
    assert roles(found, None) == {"token_embd": "embed", "dec.output_norm": "final_norm"}


def test_towers_in_the_same_file_are_not_the_main_stack() -> None:
    tower = {stem.replace("attn_output", "attn_out"): shape for stem, shape in (ATTENTION | DENSE).items()}
    shapes = layers(ATTENTION | DENSE) | layers(tower, 5, "v.") | layers(tower, 6, "a.")
    found = resolved("gemma3", shapes)
    assert found.n_layers == 2
    assert {t.stack for t in found.tensors} == {"main", "vision", "audio"}


def test_a_vector_in_blocks_and_scaled_values_have_no_role() -> None:
    shapes = layers(ATTENTION | DENSE)
    entries = [TensorEntry(name, "Q8_0", shape, "m.gguf", 0, 0) for name, shape in shapes.items()]
    found = resolve_roles(entries, {"model_type": "qwen2"})
    assert "attn_norm" not in roles(found)
    scaled = [TensorEntry(name, "NVFP4" if len(s) == 2 else "F32", s, "m.gguf", 0, 0) for name, s in shapes.items()]
    assert "q" in roles(resolve_roles(scaled, {"model_type": "qwen2"})).values()
    scaled.append(TensorEntry("blk.0.attn_q.scale", "F32", (1,), "m.gguf", 0, 0))
    found = resolve_roles(scaled, {"model_type": "qwen2"})
    assert "attn_q" not in roles(found)
    assert "the scale beside them" in " ".join(found.notes)
