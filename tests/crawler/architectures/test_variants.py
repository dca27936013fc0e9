"""Settings of transformers' classes that change how weights are laid out, beyond the one config of the sweep."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.crawler.architectures.sweep import judge  # noqa: E402 - needs torch
from tests.crawler.architectures.zoo import HIDDEN, shrunk  # noqa: E402

pytestmark = [pytest.mark.architectures, pytest.mark.filterwarnings("ignore")]

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "DeepSeek-V2 Lite: no q_lora": ("DeepseekV2ForCausalLM", {"q_lora_rank": None, "num_experts_per_tok": 2}),
    "DeepSeek-V3: no q_lora": ("DeepseekV3ForCausalLM", {"q_lora_rank": None}),
    "DeepSeek-V3: q_lora": ("DeepseekV3ForCausalLM", {"q_lora_rank": 20}),
    "Falcon-7B": ("FalconForCausalLM", {"multi_query": True, "new_decoder_architecture": False}),
    "Falcon-RW": ("FalconForCausalLM", {"multi_query": False, "new_decoder_architecture": False, "num_kv_heads": 4}),
    "Falcon-40B": ("FalconForCausalLM", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "StarCoder": ("GPTBigCodeForCausalLM", {"multi_query": True}),
    "BigCode with a key for every head": ("GPTBigCodeForCausalLM", {"multi_query": False}),
    "Gemma 3n: the last layers share keys and values": ("Gemma3nForCausalLM", {"num_kv_shared_layers": 2}),
    "Gemma 4: values are keys": ("Gemma4ForCausalLM", {"attention_k_eq_v": True}),
    "MobileBERT: queries, keys and values of the bottleneck": (
        "MobileBertForMaskedLM", {"use_bottleneck_attention": True},
    ),
    "MobileBERT without a bottleneck": (
        "MobileBertForMaskedLM", {"use_bottleneck": False, "intra_bottleneck_size": HIDDEN},
    ),
    "JetMoE: experts of queries as wide as the residual stream": (
        "JetMoeForCausalLM", {"kv_channels": 16, "num_key_value_heads": 2, "num_experts_per_tok": 2},
    ),
    "T5 v1.1: gated": ("T5ForConditionalGeneration", {"feed_forward_proj": "gated-gelu"}),
    "T5 v1.0": ("T5ForConditionalGeneration", {"feed_forward_proj": "relu"}),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_every_role_is_right(name: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    class_name, options = VARIANTS[name]
    model_class = getattr(transformers, class_name)
    default = model_class.config_class()
    config = model_class.config_class(**shrunk(default, HIDDEN // 4, 2) | options)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    result = judge(class_name, default.model_type, model)
    assert (result.wrong, result.unknown) == ([], [])
    assert result.softmax
