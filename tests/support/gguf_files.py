"""Checkpoints written as GGUF, as llama.cpp's converter writes them: its names, its row order, its block types.

Written after `convert_hf_to_gguf.py`: q and k of Llama and Mixtral are permuted, experts stacked, GPT-2's matrices
turned, GPT-NeoX's fused projection put into the order q, k, v; a matrix whose rows do not fill blocks stays F16.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
Arrays = Mapping[str, Floats]

Pair = tuple[str, int, Any]
"""A metadata pair of a hand-written file: key, number of the type, and the value; `(type, values)` for an array."""

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "phi3": gguf.MODEL_ARCH.PHI3,
}
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")


def write_gguf(
    path: Path, tensors: Arrays, config: Mapping[str, Any], packing: str = "F16", **declared: str | int
) -> Path:
    """Write a checkpoint: matrices in the block type `packing`, vectors in F32, `declared` as `general__...`."""
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    heads = config.get("num_attention_heads", config.get("n_head"))
    architecture = ARCHITECTURES[config["model_type"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_block_count(layers)
    writer.add_embedding_length(config.get("hidden_size", config.get("n_embd")))
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_token_list([f"<{i}>" for i in range(300)])
    writer.add_token_scores([0.0] * 300)
    if f"MOSTLY_{packing}" in gguf.LlamaFileType.__members__:
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{packing}"])
    for key, value in declared.items():
        if isinstance(value, int):
            writer.add_uint32(key.replace("__", "."), value)
        else:
            writer.add_string(key.replace("__", "."), value)
    names = gguf.get_tensor_name_map(architecture, layers)
    for name, tensor in _converted(tensors, config):
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is None and name == "lm_head.weight":
            continue  # an architecture whose head is its embedding
        assert new is not None, name
        kind = gguf.GGMLQuantizationType[packing if tensor.ndim > 1 else "F32"]
        if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = gguf.GGMLQuantizationType.F16
        writer.add_tensor(new, packed(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def text(value: str | bytes) -> bytes:
    """A string as GGUF stores it."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value_bytes(kind: int, value: Any) -> bytes:
    """A metadata value; bytes are taken as they are."""
    if isinstance(value, bytes):
        return value
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        inner, values = value
        return struct.pack("<IQ", inner, len(values)) + b"".join(value_bytes(inner, one) for one in values)
    return struct.pack("<" + CODES[kind], value)


def raw_gguf(
    pairs: Sequence[Pair] = (),
    tensors: Sequence[tuple[str | bytes, Sequence[int], int, int]] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    n_tensors: int | None = None,
    n_pairs: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file written by hand, valid or not: a tensor is name, dimensions innermost first, number of type, offset."""
    n_tensors = len(tensors) if n_tensors is None else n_tensors
    n_pairs = len(pairs) if n_pairs is None else n_pairs
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs)
    for key, kind, value in pairs:
        head += text(key) + struct.pack("<I", kind) + value_bytes(kind, value)
    for name, lengths, kind, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(lengths)}QIQ", len(lengths), *lengths, kind, offset)
    return head + bytes(-len(head) % alignment) + data


def packed(tensor: Floats, kind: gguf.GGMLQuantizationType) -> Floats:
    """A tensor in a block type, as the bytes that `GGUFWriter` takes."""
    values = np.ascontiguousarray(tensor, np.float32)
    return _q4_k(values) if kind is gguf.GGMLQuantizationType.Q4_K else gguf.quantize(values, kind)


def permuted(tensor: Floats, heads: int) -> Floats:
    """llama.cpp's `permute`: the two halves of every head interleaved."""
    return tensor.reshape(heads, 2, len(tensor) // heads // 2, -1).swapaxes(1, 2).reshape(tensor.shape)


def _converted(tensors: Arrays, config: Mapping[str, Any]) -> Iterator[tuple[str, Floats]]:
    kind = config["model_type"]
    heads = config.get("num_attention_heads", config.get("n_head"))
    kv_heads = config.get("num_key_value_heads") or heads
    experts: dict[str, dict[int, Floats]] = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight").removesuffix(".bias")
        if name.endswith(_BUFFERS):
            continue
        if kind in ("llama", "mistral", "mixtral") and module.endswith(("q_proj", "k_proj")):
            yield name, permuted(tensor, heads if module.endswith("q_proj") else kv_heads)
        elif ".experts." in name:
            prefix, _, rest = name.partition(".experts.")
            number, _, part = rest.partition(".")
            experts.setdefault(f"{prefix}.experts.{part}", {})[int(number)] = tensor
        elif kind == "gpt2" and module.endswith(("c_attn", "c_proj", "c_fc")) and tensor.ndim == 2:
            yield name, tensor.T
        elif kind == "gpt_neox" and module.endswith("query_key_value"):
            by_head = tensor.reshape(heads, 3, -1, *tensor.shape[1:])
            yield name, np.concatenate([by_head[:, i].reshape(-1, *tensor.shape[1:]) for i in range(3)])
        else:
            yield name, tensor
    for name, stack in experts.items():
        yield name, np.stack([stack[i] for i in sorted(stack)])


def _q4_k(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Q4_K: blocks of eight runs of 32 weights `d * scale * q - dmin * minimum`, scales and minima in 6 bits."""
    runs = values.reshape(-1, 8, 32).astype(np.float64)
    low = np.maximum(-runs.min(2), 0.0)
    step = (runs.max(2) + low) / 15
    d, dmin = (np.float16(x.max(1, keepdims=True) / 63) for x in (step, low))
    scale, minimum = (
        np.clip(np.rint(np.divide(x, y, where=y > 0, out=np.zeros_like(x))), 0, 63).astype(np.uint8)
        for x, y in ((step, d.astype(np.float64)), (low, dmin.astype(np.float64)))
    )
    unit = (d * scale.astype(np.float64))[..., None]
    shifted = runs + (dmin * minimum.astype(np.float64))[..., None]
    q = np.clip(np.rint(np.divide(shifted, unit, where=unit > 0, out=np.zeros_like(runs))), 0, 15).astype(np.uint8)
    low4 = (scale[:, 4:] & 15) | (minimum[:, 4:] & 15) << 4
    scales = np.concatenate(
        [scale[:, :4] | (scale[:, 4:] >> 4) << 6, minimum[:, :4] | (minimum[:, 4:] >> 4) << 6, low4], axis=1
    )
    nibbles = (q[:, 0::2] | q[:, 1::2] << 4).reshape(len(q), -1)
    blocks = np.concatenate([d.view(np.uint8), dmin.view(np.uint8), scales, nibbles], axis=1)
    return blocks.reshape(*values.shape[:-1], -1)
