"""Tables from tensor names to roles, family by family.

A layer's tensor is `<prefix>.<container>.<number>.<stem>.<suffix>`, as in
`model` `.layers` `.7` `.self_attn.q_proj` `.weight`. Prefixes only distinguish stacks; the whole stem is looked up, so
that an unknown stem stays unknown. `experts.*` in a stem matches any expert number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from provenance.crawler.architectures import fused, llama_cpp
from provenance.crawler.architectures.decoders import DECODERS
from provenance.crawler.architectures.encoders import ENCODERS
from provenance.crawler.architectures.fused import Layout
from provenance.schemas.roles import Role

CONTAINERS = (
    r"layers\.[0-9]{1,5}\.blocks",  # Swin: blocks of a stage
    r"blocks?\.[0-9]{1,5}",  # SegFormer, Funnel: a list of lists
    r"layer\.[0-9]{1,5}\.transformer\.layer",  # MobileViT
    "layers", "layer", "h", "blocks", "block", "resblocks", "albert_layers", "attentions", "ffns", "conformer_layers",
    "conformer", "self_attends", "transformer_blocks", "single_transformer_blocks", llama_cpp.CONTAINER,
)  # fmt: skip
"""Names of lists of layers, as regular expressions; the first match is used."""

SAME_LAYERS = {"ffns": "attentions"}
"""XLM stores the two halves of its layers in two lists."""

FAMILIES = DECODERS | ENCODERS | {"llama.cpp, in GGUF files": llama_cpp.STEMS}


def _roles(rows: Mapping[str, str]) -> dict[str, Role]:
    """Table rows, name -> role, with members of `Role`.

    Raises:
        ValueError: a role does not exist.
    """
    return {name: Role(role) for name, role in rows.items()}


ROLE_OF_STEM = _roles({stem: role for rows in FAMILIES.values() for stem, role in rows.items()})


@dataclass(frozen=True, slots=True)
class Variant:
    """Names with another meaning in layers that have the stem `holds` and lack the stem `lacks`."""

    source: str
    holds: str
    roles: Mapping[str, Role]
    lacks: str = ""


def _variant(source: str, holds: str, roles: Mapping[str, str], lacks: str = "") -> Variant:
    return Variant(source, holds, _roles(roles), lacks)


VARIANTS = (
    _variant(
        "Gemma2ForCausalLM, Gemma3ForCausalLM: norms before and after each block",
        holds="pre_feedforward_layernorm",
        roles={"post_attention_layernorm": "other", "pre_feedforward_layernorm": "ffn_norm"},
    ),
    _variant(
        "Olmo2ForCausalLM: norms only after each block",
        holds="post_feedforward_layernorm",
        lacks="pre_feedforward_layernorm",
        roles={"post_attention_layernorm": "attn_norm", "post_feedforward_layernorm": "ffn_norm"},
    ),
    _variant(
        "T5Model's decoder: the norm of layer.1 is cross attention's",
        holds="layer.2.layer_norm",
        roles={"layer.1.layer_norm": "other", "layer.2.layer_norm": "ffn_norm"},
    ),
    _variant(
        "MoonshineModel's and CanaryModel's decoders: the norm after self attention is cross attention's",
        holds="final_layernorm",
        roles={"post_attention_layernorm": "other", "final_layernorm": "ffn_norm"},
    ),
    _variant(
        "Sam3Model's encoder of prompts: the norm of cross attention comes second",
        holds="layer_norm3",
        roles={"layer_norm2": "other", "layer_norm3": "ffn_norm"},
    ),
    _variant(
        "Blip2QFormerModel: layers without text have a feed-forward for queries only",
        holds="intermediate_query.dense",
        lacks="intermediate.dense",
        roles={"intermediate_query.dense": "up", "output_query.dense": "down", "output_query.LayerNorm": "ffn_norm"},
    ),
    _variant(
        "torch.nn.TransformerDecoderLayer: the norm of cross attention comes second",
        holds="norm3",
        roles={"norm2": "other", "norm3": "ffn_norm"},
    ),
    _variant("TimesFmModel: a gate by name alone", holds="self_attn.scaling", roles={"mlp.gate_proj": "up"}),
    _variant(
        "conformers: the last norm is that of the whole layer",
        holds="conv_module.pointwise_conv1",
        roles={"final_layer_norm": "other"},
    ),
    _variant(
        "RwkvForCausalLM: no softmax",
        holds="attention.receptance",
        roles={"attention.key": "other", "attention.value": "other"},
    ),
    _variant(
        "AutoformerModel: auto-correlation; no other model's norm after the feed-forward wraps another",
        holds="final_layer_norm.layernorm",
        roles={f"self_attn.{name}_proj": "other" for name in ("q", "k", "v", "out")}
        | {"self_attn_layer_norm": "other"},
    ),
    _variant(
        "MoonViT, in Kimi-VL and Kimi K2.5: numbered from 0",
        holds="mlp.fc0",
        roles={"mlp.fc0": "up", "mlp.fc1": "down", "norm0": "attn_norm", "norm1": "ffn_norm"},
    ),
    _variant("SwiftFormerModel: additive attention", holds="attn.to_query", roles={"attn.proj": "other"}),
    _variant("Qwen-7B (2023): w1(x) * silu(w2(x))", holds="attn.c_attn", roles={"mlp.w1": "up", "mlp.w2": "gate"}),
    *(_variant(f"llama.cpp: {source}", holds, roles, lacks) for source, holds, lacks, roles in llama_cpp.VARIANTS),
)


@dataclass(frozen=True, slots=True)
class Fused:
    """One stored matrix for several roles.

    Attributes:
        layouts: layout by family: the model type, or a part of the name's prefix. The key `""` is for a name with one
            layout in all families; without it the name is shared by several families and needs the config.
        conv1d: layout if the layer is stored `[in, out]` (GPT-2).
    """

    layouts: Mapping[str, Layout] = field(default_factory=dict)
    conv1d: Layout | None = None


_QWEN_GATED = (
    "qwen3_next",
    "qwen3_5",
    "qwen3_5_text",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "qwen4_exp",
    "qwen4_exp_text",
)
_EXPERTS = Fused(
    {"gpt_oss": fused.pairs}
    | dict.fromkeys(
        ("llama4", "llama4_text", "qwen3_vl_moe", "qwen3_vl_moe_text", "glm4v_moe", "glm4v_moe_text", "hy_v4",
         "inkling_text", "minimax_m3_vl_text", "mistral4", "muse_spark_text", "granitemoe_swa", "openai_privacy_filter",
         "zaya", *_QWEN_GATED),
        fused.halves,
    )
)  # fmt: skip

FUSED: dict[str, Fused] = {
    "self_attn.qkv_proj": Fused({"": fused.contiguous}),
    "attention.qkv_proj": Fused({"": fused.contiguous}),
    "self_attn.W_pack": Fused({"": fused.thirds}),
    "attn.Wqkv": Fused({"": fused.contiguous}),
    "norm_attn_norm.attn.Wqkv": Fused({"": fused.contiguous}),
    "attn.qkv": Fused({"": fused.contiguous}),
    "attention.qkv": Fused({"": fused.contiguous}),
    "attention.attention.qkv": Fused({"": fused.contiguous}),
    "self_attn.qkv": Fused({"": fused.contiguous}),
    "self_attn.att_proj": Fused({"": fused.contiguous}),
    "mixer.Wqkv": Fused({"": fused.contiguous}),
    "attn.in_proj": Fused({"": fused.thirds}),
    "self_attn.in_proj": Fused({"": fused.thirds}),
    "attn.gqkv_proj": Fused({"": fused.gate_first}),
    "attention.self.in_proj": Fused({"deberta": fused.per_head}),
    "attn.c_attn": Fused({"gpt_bigcode": fused.bigcode, "qwen": fused.thirds}, conv1d=fused.thirds),
    "attn.qkv_proj": Fused({"codegen": fused.codegen, "openelm": fused.contiguous}),
    "att_proj": Fused({"": fused.contiguous}),
    "ff_proj": Fused({"": fused.swapped_halves}),
    "ffn.proj_1": Fused({"": fused.halves}),
    "self_attention.linear_qkv": Fused({"": fused.grouped}),
    "attention.query_key_value": Fused(
        {"gpt_neox": fused.per_head, "gpt_neox_japanese": fused.per_head, "chatglm": fused.per_head}
    ),
    "self_attention.query_key_value": Fused(
        {
            "bloom": fused.per_head,
            "falcon": fused.falcon,
            "RefinedWebModel": fused.falcon,
            "RefinedWeb": fused.grouped,
            "chatglm": fused.contiguous,
        }
    ),
    "self_attn.query_key_value": Fused({"persimmon": fused.per_head, "fuyu": fused.per_head}),
    "wqkv": Fused({"": fused.thirds}),
    "attention.wqkv": Fused({"internlm2": fused.grouped}),
    "mlp.gate_up_proj": Fused({"": fused.halves}),
    "mlp.Wi": Fused({"": fused.halves}),
    "mlp.up_gate_proj": Fused({"": fused.swapped_halves}),
    "mlp.ff_proj": Fused({"": fused.swapped_halves}),
    "ffn.w12": Fused({"": fused.halves}),
    "block_sparse_moe.input_linear": Fused({"": fused.halves}),
    "block_sparse_moe.experts.gate_up_proj": _EXPERTS,
    "mlp.experts.fc1": Fused({"": fused.halves}),
    "mlp.input_linear": Fused({"": fused.halves}),
    "mlp.experts.w13_weight": Fused({"": fused.pairs}),
    "mlp.w13_dn": Fused({"": fused.pairs}),
    "self_attention.kv_proj": Fused({"": fused.keys_values}),
    "attn.kv": Fused({"": fused.keys_values}),
    "mixer.qkv_proj": Fused({"": fused.contiguous}),
    **{
        f"{module}.{name}": Fused({"": layout})
        for module in ("0", "0.fn", "1", "1.fn", "attn", "self_attn", "attention")
        for name, layout in (("to_kv", fused.keys_values), ("to_qkv", fused.thirds))
    },
    "shared_transformer.feed_forward.gate_up_proj": Fused({"": fused.halves}),
    "mlp.experts.gate_up_proj": _EXPERTS,
    "feed_forward.experts.gate_up_proj": _EXPERTS,
    "attn_qkv": Fused(dict.fromkeys(llama_cpp.FUSED_QKV, fused.contiguous)),
    "ffn_gate_up_exps": Fused({"": fused.halves}),
}

DOUBLE_UP: dict[str, Fused] = {
    "mlp.dense_h_to_4h": Fused({"": fused.halves}),
    "mlp.linear_fc1": Fused({"": fused.halves}),
    "ff.net.0.proj": Fused({"": fused.swapped_halves}),
    "mlp.fc1": Fused(
        {
            "moshi": fused.halves,
            "kyutai_speech_to_text": fused.halves,
            "moonshine": fused.swapped_halves,
            "moonshine_streaming": fused.swapped_halves,
        }
    ),
    "ffn_up": Fused(dict.fromkeys(llama_cpp.FUSED_UP, fused.halves)),
}
"""Gate and up under the name of up (ChatGLM2, Megatron-core, Moshi, Moonshine, diffusers' GEGLU): twice the rows that
`down` reads."""

GATED_QUERY = Fused(dict.fromkeys(_QWEN_GATED, fused.gated_query))
"""A `q` with twice as many rows as `o` has inputs also contains an output gate."""

ROTARY_STEMS = frozenset({"attention.wq", "attention.wk"}) | llama_cpp.ROTARY
"""Stored in Meta's rotary row order, those of llama.cpp in some architectures only."""

CONV1D_STEMS = frozenset({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"})
"""GPT-2's Conv1D stores `[in, out]`; other families use these names for `[out, in]` linear layers."""

HEAD_AXIS = {"rel_attn.q": True, "rel_attn.k": True, "rel_attn.v": True, "rel_attn.o": False}
"""XLNet's `[residual, heads, head]`: whether the matrix reads the residual stream."""

POINTWISE = frozenset({"attention.query", "attention.key", "attention.value", "post_attention.conv1d"})
"""SqueezeBERT's convolutions of one token, `[out, in of a group, 1]`: each row reads the inputs of its group."""

EXPERTS_IN_ROWS = frozenset({"ffn.experts.mlp.w1", "ffn.experts.mlp.v1", "ffn.experts.mlp.w2"})
"""DBRX stores `[experts * inner, residual]`; the router has a row for every expert."""

EXPERTS_OUT_FIRST = llama_cpp.EXPERTS | {
    "self_attention.experts.input_linear",
    "self_attention.experts.output_linear",
}
"""Stacks of experts that are always stored as `[experts, out, in]` (llama.cpp, JetMoE)."""

BOTTLENECK = "bottleneck.input.dense"
"""In layers with this stem values read the layer's input, queries and keys a narrower projection of it (MobileBERT)."""

NO_SOFTMAX = llama_cpp.NO_SOFTMAX | frozenset(
    {
        "A_log",
        "b_proj",
        "dt_bias",
        "f_a_proj",
        "g_norm",
        "gk_proj",
        "k_conv1d",
        "o_norm",
        "output_gate",
        "q_conv1d",
        "receptance",
    }
)
"""Members of a linear attention (Kimi, MiniMax, fla): q, k, v and o of the same module are not softmax attention."""

CROSS = (
    ("encoder_attn.", "self_attn."),
    ("cross_attention.", "self_attention."),
    ("encoder_decoder_attention.", "self_attention."),
    ("cross_attn.", "self_attn."),
    ("second_sub_layer.", "first_sub_layer."),
    ("crossattention.self.", "attention.self."),
    ("crossattention.output.", "attention.output."),
    ("layer.1.EncDecAttention.", "layer.0.SelfAttention."),
    ("cross_attn_", "attn_"),
)
"""Cross attention: beginning of the stem -> the same part of self attention."""

DRAFT_STEMS = frozenset({"eh_proj", "enorm", "hnorm"}) | llama_cpp.DRAFT
"""DeepSeek's and GLM's multi-token prediction layers, numbered after the model's own, contain these."""

_OUTSIDE = {
    "embed_tokens.weight": "embed",
    "wte.weight": "embed",
    "tokens_embed.weight": "embed",
    "word_embeddings.weight": "embed",
    "embeddings.word_embeddings.weight": "embed",
    "embedding.word_embeddings.weight": "embed",
    "embeddings.token_embedding.weight": "embed",
    "embeddings.tok_embeddings.weight": "embed",
    "word_embedding.weight": "embed",
    "tok_embeddings.weight": "embed",
    "embed_in.weight": "embed",
    "shared.weight": "embed",
    "lm_head.weight": "lm_head",
    "lm_head.decoder.weight": "lm_head",
    "cls.predictions.decoder.weight": "lm_head",
    "embed_out.weight": "lm_head",
    "output.weight": "lm_head",
    "output_layer.weight": "lm_head",
    "lm_loss.weight": "lm_head",
    "norm.weight": "final_norm",
    "ln_f.weight": "final_norm",
    "norm_f.weight": "final_norm",
    "final_norm.weight": "final_norm",
    "final_layer_norm.weight": "final_norm",
    "final_layernorm.weight": "final_norm",
    "layer_norm.weight": "final_norm",
}
OUTSIDE = _roles(_OUTSIDE | llama_cpp.OUTSIDE)
"""Tensors outside of the layers: end of the name -> role."""

TOWERS: dict[str, tuple[str, int]] = {
    **dict.fromkeys(("mtp", "eagle", "eagle3", "medusa", "draft"), ("draft", 0)),
    **dict.fromkeys(("vision", "visual", "vit", "image", "img", "siglip", "dino", "dinov2", "sam"), ("vision", 1)),
    **dict.fromkeys(("audio", "speech", "acoustic", "codec", "token2wav", "talker"), ("audio", 1)),
    **dict.fromkeys(("qformer", "resampler", "perceiver", "projector", "connector"), ("connector", 1)),
    "multimodal_model": ("fusion", 1),  # FLAVA reads its text and its picture together, after the towers of each
    **dict.fromkeys(("encoder", "enc"), ("encoder", 2)),
    "v.blk": ("vision", 1),  # llama.cpp's names, as are `a.blk` and `enc.blk`
    "a.blk": ("audio", 1),
    "gemma_expert": ("expert", 2),  # PI0's action expert, next to its language model
}
"""Word, part or all of a prefix -> name of its stack, and its rank as the main stack (3 without such a word)."""
