"""The few facts of a config.json or params.json that names and shapes cannot give.

A config is untrusted: a value of an unexpected type counts as absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_NESTED = (
    "thinker_config",
    "text_config",
    "llm_config",
    "language_config",
    "text_model_config",
    "decoder",
    "attn_config",
)
"""Keys of a multimodal config that hold the config of its language model (`attn_config`: MPT and DBRX)."""
_MAX_DEPTH = 4
_MAX_COUNT = 1 << 20
_MAX_TEXT = 120

_HEADS = (
    "decoder_attention_heads",
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_heads",
    "attention_heads",
    "encoder_attention_heads",
)
_KV_HEADS = (
    "num_key_value_heads",
    "n_kv_heads",
    "n_head_kv",
    "kv_n_heads",
    "multi_query_group_num",
    "num_query_groups",
)
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim", "model_dim")


@dataclass(frozen=True, slots=True)
class Settings:
    """The known facts of a config, null where it gives none.

    Attributes:
        model_types: `model_type` of the config and of the configs nested in it, outermost first.
        new_decoder: Falcon's `new_decoder_architecture` (several key/value groups).
    """

    model_types: tuple[str, ...] = ()
    architecture: str | None = None
    quantization: str | None = None
    hidden_size: int | None = None
    n_heads: int | None = None
    n_kv_heads: int | None = None
    new_decoder: bool = False

    @property
    def model_type(self) -> str | None:
        return self.model_types[0] if self.model_types else None


def read_settings(config: Mapping[str, object] | None) -> Settings:
    """Read the known keys, the language model's own section first. Never raises."""
    sections = list(_sections(config, 0))
    inner_first = sections[::-1]
    new_decoder = any(section.get("new_decoder_architecture") is True for section in sections)
    n_kv_heads = _count(inner_first, _KV_HEADS)
    multi_query = any(section.get("multi_query") is True for section in sections)
    if multi_query and not new_decoder and not any("n_head_kv" in section for section in sections):
        # Falcon-7B has both multi_query and num_kv_heads = num_attention_heads; multi_query takes precedence.
        n_kv_heads = 1
    architectures = [section.get("architectures") for section in sections]
    methods = [_mapping(section.get("quantization_config")).get("quant_method") for section in sections]
    return Settings(
        model_types=tuple(text for section in sections if (text := _text(section.get("model_type")))),
        architecture=next((text for names in architectures if isinstance(names, list) for text in _texts(names)), None),
        quantization=next(_texts(methods), None),
        hidden_size=_count(inner_first, _HIDDEN),
        n_heads=_count(inner_first, _HEADS),
        n_kv_heads=n_kv_heads if n_kv_heads is not None else _count(inner_first, ("num_kv_heads",)),
        new_decoder=new_decoder,
    )


def _sections(config: object, depth: int) -> Iterator[Mapping[str, object]]:
    section = _mapping(config)
    if not section:
        return
    yield section
    if depth < _MAX_DEPTH:
        for key in _NESTED:
            yield from _sections(section.get(key), depth + 1)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _count(sections: list[Mapping[str, object]], keys: tuple[str, ...]) -> int | None:
    for section in sections:
        for key in keys:
            value = section.get(key)
            if type(value) is int and 0 < value <= _MAX_COUNT:
                return value
    return None


def _text(value: object) -> str | None:
    usable = isinstance(value, str) and value.isprintable() and 0 < len(value) <= _MAX_TEXT
    return str(value) if usable else None


def _texts(values: list[object]) -> Iterator[str]:
    return (text for value in values if (text := _text(value)))
