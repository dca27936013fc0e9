"""The tables: what the name of a tensor says about its role, one family of names after the other.

A layer's tensor is `<prefix>.<container>.<number>.<stem>.<suffix>`, as in
`model` `.layers` `.7` `.self_attn.q_proj` `.weight`. Prefixes only tell stacks apart; the stem is looked up whole,
so that an unknown stem stays unknown. `experts.*` in a stem stands for any expert number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from crawler.architectures import fused
from crawler.architectures.fused import Layout

CONTAINERS = ("layers", "layer", "h", "blocks", "block")

FAMILIES: dict[str, dict[str, str]] = {
    "transformers LlamaForCausalLM; Mistral, Qwen2, Qwen3, Gemma, OLMo, StableLM, Cohere, Phi-3": {
        "self_attn.q_proj": "q",
        "self_attn.k_proj": "k",
        "self_attn.v_proj": "v",
        "self_attn.o_proj": "o",
        "mlp.gate_proj": "gate",
        "mlp.up_proj": "up",
        "mlp.down_proj": "down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    },
    "transformers PhiForCausalLM, PersimmonForCausalLM": {
        "self_attn.dense": "o",
        "mlp.fc1": "up",
        "mlp.fc2": "down",
    },
    "transformers DeepseekV2ForCausalLM, DeepseekV3ForCausalLM (latent attention)": {
        "self_attn.q_a_proj": "q_a",
        "self_attn.q_b_proj": "q_b",
        "self_attn.kv_a_proj_with_mqa": "kv_a",
        "self_attn.kv_b_proj": "kv_b",
    },
    "transformers Qwen2MoeForCausalLM, Qwen3MoeForCausalLM, OlmoeForCausalLM, DeepSeek": {
        "mlp.experts.*.gate_proj": "gate",
        "mlp.experts.*.up_proj": "up",
        "mlp.experts.*.down_proj": "down",
        "mlp.gate": "router",
    },
    "transformers MixtralForCausalLM, PhimoeForCausalLM": {
        "block_sparse_moe.experts.*.w1": "gate",
        "block_sparse_moe.experts.*.w2": "down",
        "block_sparse_moe.experts.*.w3": "up",
        "block_sparse_moe.gate": "router",
    },
    "transformers GptOssForCausalLM": {"mlp.router": "router", "mlp.experts.down_proj": "down"},
    "transformers Llama4ForCausalLM, JambaForCausalLM": {
        "feed_forward.gate_proj": "gate",
        "feed_forward.up_proj": "up",
        "feed_forward.down_proj": "down",
        "feed_forward.experts.*.gate_proj": "gate",
        "feed_forward.experts.*.up_proj": "up",
        "feed_forward.experts.*.down_proj": "down",
        "feed_forward.experts.down_proj": "down",
        "feed_forward.router": "router",
        "pre_ff_layernorm": "ffn_norm",
    },
    "Meta llama/model.py; Mistral's and Mixtral's consolidated files; InternLM2": {
        "attention.wq": "q",
        "attention.wk": "k",
        "attention.wv": "v",
        "attention.wo": "o",
        "feed_forward.w1": "gate",
        "feed_forward.w2": "down",
        "feed_forward.w3": "up",
        "feed_forward.experts.*.w1": "gate",
        "feed_forward.experts.*.w2": "down",
        "feed_forward.experts.*.w3": "up",
        "feed_forward.gate": "router",
        "attention_norm": "attn_norm",
        "ffn_norm": "ffn_norm",
    },
    "transformers GPT2LMHeadModel, OpenAIGPTLMHeadModel, GPTBigCodeForCausalLM": {
        "attn.c_proj": "o",
        "mlp.c_fc": "up",
        "mlp.c_proj": "down",
        "ln_1": "attn_norm",
        "ln_2": "ffn_norm",
    },
    "transformers GPTNeoForCausalLM": {
        "attn.attention.q_proj": "q",
        "attn.attention.k_proj": "k",
        "attn.attention.v_proj": "v",
        "attn.attention.out_proj": "o",
    },
    "transformers GPTJForCausalLM, CodeGenForCausalLM": {
        "attn.q_proj": "q",
        "attn.k_proj": "k",
        "attn.v_proj": "v",
        "attn.out_proj": "o",
        "mlp.fc_in": "up",
        "mlp.fc_out": "down",
    },
    "transformers GPTNeoXForCausalLM": {
        "attention.dense": "o",
        "mlp.dense_h_to_4h": "up",
        "mlp.dense_4h_to_h": "down",
    },
    "transformers BloomForCausalLM, FalconForCausalLM; ChatGLM2": {
        "self_attention.dense": "o",
        "ln_attn": "attn_norm",
        "ln_mlp": "ffn_norm",
    },
    "transformers MptForCausalLM, DbrxForCausalLM": {
        "ffn.up_proj": "up",
        "ffn.down_proj": "down",
        "norm_1": "attn_norm",
        "norm_2": "ffn_norm",
        "norm_attn_norm.attn.out_proj": "o",
        "norm_attn_norm.norm_1": "attn_norm",
        "norm_attn_norm.norm_2": "ffn_norm",
    },
    "transformers OPTForCausalLM, BartModel, WhisperModel, CLIPTextModel, SiglipVisionModel": {
        "self_attn.out_proj": "o",
        "fc1": "up",
        "fc2": "down",
        "self_attn_layer_norm": "attn_norm",
        "final_layer_norm": "ffn_norm",
        "layer_norm1": "attn_norm",
        "layer_norm2": "ffn_norm",
    },
    "transformers BertModel, RobertaModel, ElectraModel, ViTModel": {
        "attention.self.query": "q",
        "attention.self.key": "k",
        "attention.self.value": "v",
        "attention.attention.query": "q",
        "attention.attention.key": "k",
        "attention.attention.value": "v",
        "attention.output.dense": "o",
        "intermediate.dense": "up",
        "output.dense": "down",
        "attention.output.LayerNorm": "attn_norm",
        "output.LayerNorm": "ffn_norm",
        "layernorm_before": "attn_norm",
        "layernorm_after": "ffn_norm",
    },
    "transformers MPNetModel": {
        "attention.attn.q": "q",
        "attention.attn.k": "k",
        "attention.attn.v": "v",
        "attention.attn.o": "o",
        "attention.LayerNorm": "attn_norm",
    },
    "transformers DistilBertModel": {
        "attention.q_lin": "q",
        "attention.k_lin": "k",
        "attention.v_lin": "v",
        "attention.out_lin": "o",
        "ffn.lin1": "up",
        "ffn.lin2": "down",
        "sa_layer_norm": "attn_norm",
        "output_layer_norm": "ffn_norm",
    },
    "transformers ModernBertModel": {
        "attn.Wo": "o",
        "mlp.Wo": "down",
        "attn_norm": "attn_norm",
        "mlp_norm": "ffn_norm",
    },
    "transformers T5Model, UMT5Model": {
        "layer.0.SelfAttention.q": "q",
        "layer.0.SelfAttention.k": "k",
        "layer.0.SelfAttention.v": "v",
        "layer.0.SelfAttention.o": "o",
        "layer.0.layer_norm": "attn_norm",
        "layer.1.layer_norm": "ffn_norm",
        **{
            f"layer.{number}.DenseReluDense.{name}": role
            for number in (1, 2)  # the encoder's layers have no cross attention between the two
            for name, role in (("wi", "up"), ("wi_0", "gate"), ("wi_1", "up"), ("wo", "down"))
        },
    },
    "timm VisionTransformer": {"attn.proj": "o", "norm1": "attn_norm", "norm2": "ffn_norm"},
}

ROLE_OF_STEM: dict[str, str] = {stem: role for rows in FAMILIES.values() for stem, role in rows.items()}


@dataclass(frozen=True, slots=True)
class Variant:
    """Names that mean something else in layers that hold one name and lack another."""

    source: str
    holds: str
    roles: Mapping[str, str]
    lacks: str = ""


VARIANTS = (
    Variant(
        "Gemma2ForCausalLM, Gemma3ForCausalLM: norms before and after each block",
        holds="pre_feedforward_layernorm",
        roles={"post_attention_layernorm": "other", "pre_feedforward_layernorm": "ffn_norm"},
    ),
    Variant(
        "Olmo2ForCausalLM: norms only after each block",
        holds="post_feedforward_layernorm",
        lacks="pre_feedforward_layernorm",
        roles={"post_attention_layernorm": "attn_norm", "post_feedforward_layernorm": "ffn_norm"},
    ),
    Variant(
        "T5Model's decoder: the norm of layer.1 is cross attention's",
        holds="layer.2.layer_norm",
        roles={"layer.1.layer_norm": "other", "layer.2.layer_norm": "ffn_norm"},
    ),
    Variant("Qwen-7B (2023): w1(x) * silu(w2(x))", holds="attn.c_attn", roles={"mlp.w1": "up", "mlp.w2": "gate"}),
)


@dataclass(frozen=True, slots=True)
class Fused:
    """One stored matrix for several roles.

    Attributes:
        layouts: layout by family: the model type, or a part of the name's prefix. `""` is the family that owns the
            name alone; without it a name that several families share needs the config.
        conv1d: layout where the layer is stored `[in, out]` (GPT-2).
    """

    layouts: Mapping[str, Layout] = field(default_factory=dict)
    conv1d: Layout | None = None


_QWEN_GATED = ("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text")
_EXPERTS = Fused(
    {"gpt_oss": fused.pairs}
    | dict.fromkeys(("llama4", "llama4_text", "qwen3_vl_moe", "qwen3_vl_moe_text", *_QWEN_GATED), fused.halves)
)

FUSED: dict[str, Fused] = {
    "self_attn.qkv_proj": Fused({"": fused.contiguous}),
    "attention.qkv_proj": Fused({"": fused.contiguous}),
    "self_attn.W_pack": Fused({"": fused.thirds}),
    "attn.Wqkv": Fused({"": fused.contiguous}),
    "norm_attn_norm.attn.Wqkv": Fused({"": fused.contiguous}),
    "attn.qkv": Fused({"": fused.thirds}),
    "attn.c_attn": Fused({"gpt_bigcode": fused.bigcode, "qwen": fused.thirds}, conv1d=fused.thirds),
    "attn.qkv_proj": Fused({"codegen": fused.codegen}),
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
    "attention.wqkv": Fused({"internlm2": fused.grouped}),
    "mlp.gate_up_proj": Fused({"": fused.halves}),
    "mlp.Wi": Fused({"": fused.halves}),
    "mlp.experts.gate_up_proj": _EXPERTS,
    "feed_forward.experts.gate_up_proj": _EXPERTS,
}

CHATGLM2_FFN = "mlp.dense_h_to_4h"
"""ChatGLM2 fuses gate and up under NeoX's name for up: seen by twice the rows that `down` takes."""

GATED_QUERY = Fused(dict.fromkeys(_QWEN_GATED, fused.gated_query))
"""A `q` of twice the rows that `o` takes carries an output gate too."""

ROTARY_STEMS = frozenset({"attention.wq", "attention.wk"})
"""Stored in Meta's rotary row order."""

CONV1D_STEMS = frozenset({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"})
"""GPT-2's Conv1D stores `[in, out]`; other families use these names for linear layers."""

CROSS = (
    ("encoder_attn.", "self_attn."),
    ("cross_attn.", "self_attn."),
    ("crossattention.self.", "attention.self."),
    ("crossattention.output.", "attention.output."),
    ("layer.1.EncDecAttention.", "layer.0.SelfAttention."),
)
"""Cross attention beside self attention: beginning of the stem -> the same part of self attention."""

DRAFT_STEMS = frozenset({"eh_proj", "enorm", "hnorm"})
"""DeepSeek's and GLM's multi-token prediction layers are numbered after the model's own and hold these."""

OUTSIDE: dict[str, str] = {
    "embed_tokens.weight": "embed",
    "wte.weight": "embed",
    "tokens_embed.weight": "embed",
    "word_embeddings.weight": "embed",
    "embeddings.word_embeddings.weight": "embed",
    "embedding.word_embeddings.weight": "embed",
    "embeddings.token_embedding.weight": "embed",
    "embeddings.tok_embeddings.weight": "embed",
    "tok_embeddings.weight": "embed",
    "embed_in.weight": "embed",
    "shared.weight": "embed",
    "lm_head.weight": "lm_head",
    "lm_head.decoder.weight": "lm_head",
    "cls.predictions.decoder.weight": "lm_head",
    "embed_out.weight": "lm_head",
    "output.weight": "lm_head",
    "output_layer.weight": "lm_head",
    "norm.weight": "final_norm",
    "ln_f.weight": "final_norm",
    "norm_f.weight": "final_norm",
    "final_norm.weight": "final_norm",
    "final_layer_norm.weight": "final_norm",
    "final_layernorm.weight": "final_norm",
    "layer_norm.weight": "final_norm",
}
"""Tensors outside the layers: end of the name -> role."""

TOWERS: dict[str, tuple[str, int]] = {
    **dict.fromkeys(("mtp", "eagle", "eagle3", "medusa", "draft"), ("draft", 0)),
    **dict.fromkeys(("vision", "visual", "vit", "image", "img", "siglip", "dino", "dinov2", "sam"), ("vision", 1)),
    **dict.fromkeys(("audio", "speech", "acoustic", "token2wav", "talker"), ("audio", 1)),
    **dict.fromkeys(("qformer", "resampler", "perceiver", "projector", "connector"), ("connector", 1)),
    "encoder": ("encoder", 2),
}
"""Word of a prefix -> name of its stack, and its claim to be the main stack (no such word: 3)."""
