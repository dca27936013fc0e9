"""llama.cpp's names, as they are in GGUF files: one vocabulary for all architectures that it knows.

`TENSOR_NAMES` of its Python package `gguf` is the list; `TensorNameMap` there says which names of the original files
become which. Two things of its converter matter beside the names: fused q, k and v are stored as `[q | k | v]`,
whatever the order in the original; and for architectures in `PERMUTED` the rows of q and k are put into Meta's rotary
order.
"""

from __future__ import annotations

STEMS = {
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_output": "o",
    "attn_o": "o",  # T5
    "attn_q_a": "q_a",
    "attn_q_b": "q_b",
    "attn_kv_a_mqa": "kv_a",
    "attn_kv_b": "kv_b",
    "attn_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
    "ffn_gate_inp": "router",
    "ffn_gate_exps": "gate",
    "ffn_up_exps": "up",
    "ffn_down_exps": "down",
    "experts.*.ffn_gate": "gate",
    "experts.*.ffn_up": "up",
    "experts.*.ffn_down": "down",
}
"""Stem in a layer -> role. `experts.*` is for Mixtral's files of early 2024, which number the experts at the end."""

OUTSIDE = {"token_embd.weight": "embed", "output_norm.weight": "final_norm"}

VARIANTS = (
    ("norms only after each block (OLMo 2, EXAONE 4)", "post_ffw_norm", "ffn_norm",
     {"post_attention_norm": "attn_norm", "post_ffw_norm": "ffn_norm"}),
    ("the norm before the feed-forward, by another name (Qwen3-Next, gpt-oss, GLM-4.5)", "post_attention_norm",
     "post_ffw_norm", {"post_attention_norm": "ffn_norm"}),
    ("the same beside the usual name: a norm after attention", "ffn_norm", "", {"post_attention_norm": "other"}),
    ("DBRX", "attn_output_norm", "ffn_norm", {"attn_output_norm": "ffn_norm"}),
    ("BERT: norms only after each block", "attn_output_norm", "attn_norm", {"attn_output_norm": "attn_norm"}),
    ("BERT: norms only after each block", "layer_output_norm", "ffn_norm", {"layer_output_norm": "ffn_norm"}),
    ("Falcon-40B: ln_mlp comes first", "attn_norm_2", "attn_output_norm",
     {"attn_norm": "ffn_norm", "attn_norm_2": "attn_norm"}),
    ("RWKV: no attention", "channel_mix_key", "", {"attn_norm": "other", "attn_norm_2": "other"}),
)  # fmt: skip
"""What it is; a stem that the layer holds; one that it lacks; the roles of its stems then."""

FUSED_QKV = frozenset({
    "bailingmoe2", "bert", "bloom", "chatglm", "codeshell", "cogvlm", "dbrx", "falcon", "glm4", "gpt2", "gptneox",
    "jais", "jina-bert-v3", "modern-bert", "mpt", "nomic-bert", "nomic-bert-moe", "openelm", "phi2", "phi3", "phimoe",
    "plamo2", "plamo3", "qwen", "starcoder",
})  # fmt: skip
"""Architectures whose `attn_qkv` is `[q | k | v]` in the row order of the original."""

FUSED_UP = frozenset({"chatglm", "glm4", "modern-bert", "neo-bert", "phi3", "plamo2", "plamo3"})
"""Architectures whose `ffn_up` is `[gate | up]`."""

PERMUTED = frozenset({
    "arcee", "arctic", "baichuan", "bailingmoe", "chameleon", "deci", "deepseek", "granite", "granitehybrid",
    "granitemoe", "internlm2", "llada", "llama", "llama-embed", "minicpm", "mistral3", "nanbeige", "olmo", "smollm3",
    "xverse",
})  # fmt: skip
"""Architectures whose converter calls `permute` on q and k. Mistral and Mixtral are `llama` to llama.cpp."""

ROTARY = frozenset({"attn_q", "attn_k"})
EXPERTS = frozenset({"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_up_exps"})
"""Stacks of experts, `[experts, out, in]`."""

NO_SOFTMAX = frozenset({"ssm_alpha", "ssm_ba", "ssm_beta", "ssm_conv1d_q"})
"""Members of a layer with linear attention (Qwen3-Next, Kimi-Linear)."""

DRAFT = frozenset({"nextn.eh_proj", "nextn.enorm", "nextn.hnorm"})
CONTAINER = "blk"
