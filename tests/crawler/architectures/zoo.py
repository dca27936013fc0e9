"""Every architecture of transformers as a small random model: configs shrunk by their fields' names."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto import modeling_auto

from tests.crawler.architectures.special import FED, OWN

HIDDEN, HEADS, KV_HEADS, HEAD, LAYERS, VOCABULARY = 32, 4, 2, 12, 4, 90

FAILURES = (AssertionError, AttributeError, ImportError, IndexError, KeyError, NotImplementedError, RuntimeError,
            TypeError, ValueError, ZeroDivisionError, StrictDataclassError)  # fmt: skip
"""What constructors and forward passes raise at a config or an input that does not suit them."""

MAPPINGS = ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SPEECH_SEQ_2_SEQ")
"""Every class of these mappings is built, and then what only `MODEL_MAPPING` knows."""

SMALL: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "emb_dim", "embedding_size", "word_embed_proj_dim",
         "lru_width", "dim_model", "model_dim", "encoder_hidden_size", "decoder_hidden_size",
         "attention_hidden_size", "embedding_dim"),
        HIDDEN,
    ),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "depth",
         "num_decoder_layers", "num_encoder_layers", "encoder_num_hidden_layers", "decoder_num_hidden_layers",
         "num_blocks"),
        LAYERS,
    ),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
         "encoder_num_attention_heads", "decoder_num_attention_heads", "attention_heads"),
        HEADS,
    ),
    **dict.fromkeys(("num_key_value_heads", "n_kv_heads", "num_kv_heads", "kv_n_heads",
                     "decoder_num_key_value_heads", "encoder_num_key_value_heads"), KV_HEADS),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim", "n_inner", "d_ff",
                     "hidden_dim",
                     "ffn_hidden_size", "intermediate_size_mlp", "mlp_dim", "dim_ff", "pooler_hidden_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_dim", "expert_hidden_size",
                     "moe_shared_expert_intermediate_size", "expert_ffn_hidden_size"), 20),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts",
                     "num_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts",
                     "moe_top_k"), 2),
    "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 20, "kv_lora_rank": 18, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 10,
    "vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 6,
    "max_position_embeddings": 64, "n_positions": 64, "n_ctx": 64, "max_seq_len": 64, "max_source_positions": 64,
    "max_target_positions": 64, "n_words": VOCABULARY, "sliding_window": 32, "local_attention": 8,
    "attention_window": 8, "rotary_dim": 4, "d_kv": 8, "image_size": 32, "patch_size": 8, "num_mel_bins": 16,
    "mamba_n_heads": 4, "mamba_num_heads": 4, "mamba_head_dim": 16, "mamba_d_head": 16, "mamba_d_state": 8,
    "ssm_state_size": 8,
    "mamba_n_groups": 1, "n_groups": 1, "mamba_d_ssm": 64, "state_size": 8, "conv_kernel": 4, "chunk_size": 8,
    "mamba_chunk_size": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "index_head_dim": 8, "index_n_heads": 2, "index_topk": 4, "projection_dim": 24,
    "out_hidden_size": HIDDEN, "text_hidden_size": HIDDEN, "vision_hidden_size": HIDDEN,
    "num_buckets": 8, "max_image_size": 32, "layerdrop": 0.0, "dropout": 0.0, "attention_dropout": 0.0,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "use_cache": False, "torch_dtype": "float32",
}  # fmt: skip

MAX_WEIGHTS = 1 << 23

MROPE = ("qwen2_vl_text", "qwen2_5_vl_text", "glm4v_text", "glm4v_moe_text", "glm_image_text", "glm_ocr_text",
         "paddleocr_vl_text",
         "qwen2_5_omni_text", "hunyuan_vl_text", "cosmos3_edge_text", "glm46v_text")  # fmt: skip
"""Text models whose config states how rotary frequencies are shared out to time, height and width."""

TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
"""The rest of the ids of special tokens are counted down from the end of the vocabulary."""

ATTEMPTS: tuple[dict[str, Any], ...] = (
    {"head": HEAD, "kv_heads": KV_HEADS},
    {"head": HIDDEN // HEADS, "kv_heads": KV_HEADS},
    {"head": HIDDEN // HEADS, "kv_heads": HEADS},
    {"head": HIDDEN // HEADS, "kv_heads": HEADS, "fill": True},
    {"head": HIDDEN // HEADS, "kv_heads": HEADS, "cycle": True},
)
"""Ways to shrink, the most telling first: `fill` sets what is null, `cycle` shortens lists of layer types."""


def architectures() -> dict[str, str]:
    """Class name -> model type of everything that is to be built, once each."""
    found: dict[str, str] = {}
    for mapping in MAPPINGS:
        for model_type, names in getattr(modeling_auto, f"MODEL_FOR_{mapping}_MAPPING_NAMES").items():
            for name in (names,) if isinstance(names, str) else names:
                found.setdefault(name, model_type)
    types = set(found.values())
    for model_type, names in modeling_auto.MODEL_MAPPING_NAMES.items():
        name = names if isinstance(names, str) else names[0]
        if model_type not in types:
            found.setdefault(name, model_type)
    return found


def shrunk(default: Any, head: int, kv_heads: int, fill: bool = False, cycle: bool = False) -> dict[str, Any]:
    """Keyword arguments that make a small config of a default one's class."""
    values = {key: value for key, value in vars(default).items() if not key.startswith("_")}
    latent = "kv_lora_rank" in values
    small: dict[str, Any] = {}
    last = VOCABULARY - 1
    for key, value in values.items():
        if isinstance(value, transformers.PreTrainedConfig):
            small[key] = type(value)(**shrunk(value, head, kv_heads, fill, cycle))
        elif key in ("head_dim", "attention_head_dim", "kv_channels", "global_head_dim", "swa_head_dim"):
            if not latent:
                small[key] = head
        elif key in TOKENS:
            small[key] = TOKENS[key]
        elif key.endswith(("_token_id", "_token_index")) and not isinstance(value, list):
            small[key] = last = last - 1
        elif key == "rope_parameters" and default.model_type in MROPE:
            width = head if "head_dim" in values else HIDDEN // HEADS
            half = int(width * value.get("partial_rotary_factor", 1.0)) // 2
            third = half // 3
            small[key] = {
                **value,
                "mrope_section": [half - 2 * third, third, third] if third else [half // 2, half - half // 2, 0],
            }
        elif key in SMALL:
            if not isinstance(value, (list, tuple, dict)) and (value is not None or fill):
                small[key] = SMALL[key]
                if SMALL[key] == KV_HEADS and "kv" in key.replace("key_value", "kv"):
                    small[key] = HEADS if latent else kv_heads
        elif cycle and isinstance(value, list) and value and len(value) == values.get("num_hidden_layers"):
            distinct = list(dict.fromkeys(map(str, value))) if isinstance(value[0], str) else value
            small[key] = (distinct * LAYERS)[:LAYERS]
    return small | OWN.get(default.model_type, {})


def build(class_name: str, problems: list[str]) -> Iterator[Any]:
    """Small random models of a class, the most telling shape first; what went wrong is added to `problems`."""
    model_class = getattr(transformers, class_name, None)
    if model_class is None:
        problems.append("transformers does not export it")
        return
    for attempt in ATTEMPTS:
        torch.manual_seed(0)
        try:
            config = model_class.config_class(**shrunk(model_class.config_class(), **attempt))
            for section in (config, *vars(config).values()):
                if isinstance(section, transformers.PreTrainedConfig):
                    section._attn_implementation = "eager"
                    section._experts_implementation = "eager"
            with torch.device("meta"):
                n = sum(p.numel() for p in model_class(copy.deepcopy(config)).parameters())
            if n > MAX_WEIGHTS:
                raise ValueError(f"{n / 1e6:.0f} million weights")
            model = model_class(config).eval()
        except FAILURES as problem:
            problems.append(_reason(problem))
            continue
        with torch.no_grad():
            for parameter in model.parameters():  # zeros would hide what depends on what
                parameter.add_(0.05 * torch.randn(parameter.shape))
        yield model


def _reason(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:120]}"


def inputs(model: Any) -> Iterator[list[Mapping[str, Any]]]:
    """Inputs to try: of each list the first that the model takes."""
    accepted = inspect.signature(model.forward).parameters
    config = model.config
    fed = FED.get(config.model_type)
    if fed is not None and fed.keys() <= accepted.keys():
        yield [{name: torch.rand(value) if isinstance(value, tuple) else value for name, value in fed.items()}]
        return
    ids = torch.randint(3, VOCABULARY - 20, (1, 11))
    size = getattr(getattr(config, "vision_config", config), "image_size", 32)
    size = size if isinstance(size, int) else 32
    channels = getattr(config, "num_channels", 3)
    images = [torch.rand(1, channels, size, size), torch.rand(1, 8, 3, size, size)]
    text: list[Mapping[str, Any]] = []
    if "decoder_input_ids" in accepted:
        text.append({"input_ids": torch.randint(3, 60, (1, 14)), "decoder_input_ids": ids})
    if "input_ids" in accepted:
        boxes = torch.zeros(1, ids.shape[1], 4, dtype=torch.int64)
        text += [{"input_ids": ids}, {"input_ids": ids.repeat(4, 1)}, {"input_ids": ids, "bbox": boxes}]
        if "pixel_values" in accepted:
            yield [{"input_ids": ids, "pixel_values": image} for image in images]
    yield text
    if "pixel_values" in accepted:
        yield [{"pixel_values": image} for image in images]
    if "grid_thw" in accepted and hasattr(vision := getattr(config, "vision_config", config), "patch_size"):
        width = (
            getattr(vision, "in_channels", 3) * (getattr(vision, "temporal_patch_size", 1) or 1) * vision.patch_size**2
        )
        yield [{next(iter(accepted)): torch.rand(16, width), "grid_thw": torch.tensor([[1, 4, 4]])}]
    extra: dict[str, Any] = {"decoder_input_ids": ids} if "decoder_input_ids" in accepted else {}
    shapes = ((1, 96, 128), (1, 128, 96), (1, 16, 128), (1, 40, 16), (1, 16, 40), (1, 2000), (1, 128, 16), (1, 1, 2000))
    for key in ("input_features", "input_values"):
        if key in accepted:
            mask = {"attention_mask": torch.ones(1, 96, dtype=torch.int64)} if "attention_mask" in accepted else {}
            yield [
                {key: torch.rand(shapes[0]), **extra, **mask},
                *({key: torch.rand(shape), **extra} for shape in shapes),
            ]


def forward(model: Any) -> list[torch.Tensor]:
    """Every tensor that the model gives for any of the inputs that it takes, and its towers that none of these reached.

    Raises:
        ValueError: it takes no known inputs, or gives what is no number.
    """
    reached: set[Any] = set()
    outputs = _forward(model, reached)
    for part in model.modules():
        if isinstance(part, transformers.PreTrainedModel) and part not in reached:
            with contextlib.suppress(ValueError):  # counted as a stack that was not seen
                outputs += _forward(part, reached)
    return outputs


def _forward(model: Any, reached: set[Any]) -> list[torch.Tensor]:
    problems: list[str] = []
    outputs: list[torch.Tensor] = []
    called: list[Any] = []
    parts = [part for part in model.modules() if isinstance(part, transformers.PreTrainedModel)]
    hooks = [part.register_forward_hook(lambda module, *_: called.append(module)) for part in parts]
    for choices in inputs(model):
        for given in choices:
            called.clear()
            try:
                outputs += _tensors(model(**copy.copy(given)))
                reached.update(called)
                break
            except FAILURES as error:
                problems.append(_reason(error))
    for hook in hooks:
        hook.remove()
    if any(output.isnan().any() for output in outputs):
        raise ValueError("forward: it gives what is no number")
    if not outputs:
        raise ValueError(f"forward: {problems[0] if problems else 'no known inputs'}")
    return outputs


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
