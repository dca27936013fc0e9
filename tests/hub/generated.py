"""Repos whose weights are computed and not stored: a 70B model costs neither disk nor memory.

A weight file is a real safetensors header, then 8-byte words that are a hash of their own position, so that any range
of a file can be read without what lies before it. The hash is the finaliser of SplitMix64 (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014). Some bits are then fixed so that every element is a
finite weight: with either sign and, log-uniformly, between 2^-7 and 2^-3, or for F8_E4M3 below 2.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from provenance.demo_hub.files import HubFile, MemoryFile
from provenance.demo_hub.repos import HubRepo

Dtype = Literal["BF16", "F16", "F32", "F8_E4M3"]

SHARD_BYTES = 5_000_000_000
"""Weights in one shard at most, as transformers writes them."""

# Bytes of an element, the bits that the hash decides, the bits that are set.
_FINITE: Mapping[Dtype, tuple[int, int, int]] = {
    "BF16": (2, 0x81FF, 0x3C00),
    "F16": (2, 0x8FFF, 0x2000),
    "F32": (4, 0x81FF_FFFF, 0x3C00_0000),
    "F8_E4M3": (1, 0xBF, 0x00),
}
_TORCH_DTYPES: Mapping[Dtype, str] = {
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F8_E4M3": "float8_e4m3fn",
}


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of a decoder: Llama's, or with `experts` > 0 that of Qwen3's mixtures (`ffn` is then an expert's)."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    head_size: int = 128
    experts: int = 0
    dtype: Dtype = "BF16"

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor, in the order they are stored in."""
        query, key = self.heads * self.head_size, self.kv_heads * self.head_size
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            yield f"{prefix}.self_attn.q_proj.weight", (query, self.hidden)
            yield f"{prefix}.self_attn.k_proj.weight", (key, self.hidden)
            yield f"{prefix}.self_attn.v_proj.weight", (key, self.hidden)
            yield f"{prefix}.self_attn.o_proj.weight", (self.hidden, query)
            if self.experts:
                yield f"{prefix}.self_attn.q_norm.weight", (self.head_size,)
                yield f"{prefix}.self_attn.k_norm.weight", (self.head_size,)
                yield f"{prefix}.mlp.gate.weight", (self.experts, self.hidden)
            for part in [f"mlp.experts.{expert}" for expert in range(self.experts)] or ["mlp"]:
                yield f"{prefix}.{part}.gate_proj.weight", (self.ffn, self.hidden)
                yield f"{prefix}.{part}.up_proj.weight", (self.ffn, self.hidden)
                yield f"{prefix}.{part}.down_proj.weight", (self.hidden, self.ffn)
            yield f"{prefix}.input_layernorm.weight", (self.hidden,)
            yield f"{prefix}.post_attention_layernorm.weight", (self.hidden,)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocabulary, self.hidden)

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(shape) for _, shape in self.tensors())

    def config(self) -> dict[str, Any]:
        """Its config.json."""
        kind: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        if self.experts:
            kind = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": self.experts}
            kind["moe_intermediate_size"] = self.ffn
        return kind | {
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "torch_dtype": _TORCH_DTYPES[self.dtype],
        }


LLAMA_7B = Geometry(32, 4096, 32, 32, 11008, 32000)
LLAMA_70B = Geometry(80, 8192, 64, 8, 28672, 32000)
QWEN3_30B_A3B = Geometry(48, 2048, 32, 4, 768, 151_936, experts=128)


@dataclass(frozen=True, slots=True)
class GeneratedFile:
    """One weight file.

    Attributes:
        header: the file's beginning, a multiple of 8 bytes, so that no element lies across two words.
        size: bytes of the whole file.
        dtype: of all its tensors.
        key: tells the contents of files of the same header apart.
    """

    header: bytes
    size: int
    dtype: Dtype
    key: str

    @property
    def sha256(self) -> str:
        """A digest of what decides the content, in place of the content's own: it would cost hours."""
        return hashlib.sha256(f"{self.key} {self.size} ".encode() + self.header).hexdigest()

    def read(self, start: int, stop: int) -> bytes:
        head = self.header[start:stop]
        start = max(start, len(self.header))
        if start >= stop:
            return head
        first = start // 8
        seed = int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:8], "little")
        words = _words(first, -(-stop // 8), seed)
        size, free, fixed = _FINITE[self.dtype]
        copies = (2**64 - 1) // (2 ** (8 * size) - 1)  # repeats an element's bits over a word
        words &= np.uint64(free * copies)
        words |= np.uint64(fixed * copies)
        return head + words.astype("<u8", copy=False).tobytes()[start - 8 * first : stop - 8 * first]


def _words(first: int, last: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """The hash of the positions `first` up to `last`, with the wrap-around of 64 bits."""
    words = np.arange(first, last, dtype=np.uint64)
    words *= np.uint64(0x9E37_79B9_7F4A_7C15)
    words += np.uint64(seed)
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58_476D_1CE4_E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D0_49BB_1331_11EB)
    words ^= words >> np.uint64(31)
    return words


def generated_repo(
    repo_id: str,
    geometry: Geometry,
    *,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    listing: Mapping[str, Any] | None = None,
    tokens: frozenset[str] = frozenset(),
) -> HubRepo:
    """A repo of any size: config.json, weight files, and an index where there are several.

    Args:
        repo_id: its name on the hub.
        geometry: which tensors it has.
        seed: decides the weights; equal geometries and seeds give equal files.
        shard_bytes: weights in one file at most; a larger tensor has a file of its own.
        listing: properties beside those that follow from the files, as in `HubRepo`.
        tokens: as in `HubRepo`.
    """
    layout = _layout(geometry, shard_bytes)
    files: dict[str, HubFile] = {"config.json": MemoryFile(json.dumps(geometry.config(), indent=2).encode())}
    for path, header, size in layout.shards:
        files[path] = GeneratedFile(header, size, geometry.dtype, f"{seed} {path}")
    if layout.index is not None:
        files["model.safetensors.index.json"] = MemoryFile(layout.index)
    parameters = {"parameters": {geometry.dtype: layout.parameters}, "total": layout.parameters}
    known = {"config": geometry.config(), "library_name": "transformers", "pipeline_tag": "text-generation"}
    known |= {"safetensors": parameters, "tags": ["transformers", "safetensors", "text-generation"]}
    sha = hashlib.sha1(f"{repo_id} {geometry} {seed}".encode()).hexdigest()
    return HubRepo(repo_id, files, {"sha": sha, **known, **(listing or {})}, tokens)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Path, header and size of each weight file; the index of several."""

    shards: tuple[tuple[str, bytes, int], ...]
    index: bytes | None
    parameters: int


@lru_cache(maxsize=64)
def _layout(geometry: Geometry, shard_bytes: int) -> _Layout:
    """How the tensors lie in files: cached, since a benchmark serves thousands of repos of a few geometries."""
    item = _FINITE[geometry.dtype][0]
    shards: list[dict[str, Any]] = [{}]
    filled = [0]
    for name, shape in geometry.tensors():
        length = math.prod(shape) * item
        if filled[-1] and filled[-1] + length > shard_bytes:
            shards.append({})
            filled.append(0)
        span = [filled[-1], filled[-1] + length]
        shards[-1][name] = {"dtype": geometry.dtype, "shape": list(shape), "data_offsets": span}
        filled[-1] += length
    n = len(shards)
    paths = [f"model-{i:05}-of-{n:05}.safetensors" for i in range(1, n + 1)] if n > 1 else ["model.safetensors"]
    headers = [_header(tensors) for tensors in shards]
    weight_map = {name: path for path, tensors in zip(paths, shards, strict=True) for name in tensors}
    index = {"metadata": {"total_size": sum(filled)}, "weight_map": weight_map}
    return _Layout(
        shards=tuple((p, h, len(h) + length) for p, h, length in zip(paths, headers, filled, strict=True)),
        index=json.dumps(index, indent=2).encode() if n > 1 else None,
        parameters=sum(filled) // item,
    )


def _header(tensors: Mapping[str, Any]) -> bytes:
    """Length and JSON of a safetensors header, filled with spaces to a multiple of 8 bytes as the format advises."""
    text = json.dumps({"__metadata__": {"format": "pt"}, **tensors}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
