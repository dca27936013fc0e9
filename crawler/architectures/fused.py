"""How the rows of a fused projection are split into parts: pure functions from sizes to `OutputRows`.

Each takes the number of stored output rows and a `Geometry`, and returns the rows of every part in logical order. The
config is used only if shapes do not suffice; if both are missing or disagree, `Unresolved` is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from provenance.crawler.architectures.config import Settings
from provenance.schemas.tensors import OutputRows

Parts: TypeAlias = Mapping[str, OutputRows]


class Unresolved(Exception):
    """The role of a tensor is not certain: it stays `other`, and the reason is noted.

    Attributes:
        reason: why, in words.
        config: whether a config could have resolved it.
    """

    def __init__(self, reason: str, *, config: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.config = reason, config


@dataclass(frozen=True, slots=True)
class Geometry:
    """What is known about a layer's attention: config, and total rows of all query heads (the `in` of `o`)."""

    settings: Settings
    query_rows: int | None = None

    def heads(self) -> int:
        """Number of query heads in the config.

        Raises:
            Unresolved: the config does not give it.
        """
        if self.settings.n_heads is None:
            raise Unresolved("the number of heads is in no config", config=True)
        return self.settings.n_heads

    def check(self, heads: int, head_rows: int) -> None:
        """Refuse a number of heads that contradicts the output projection."""
        if self.query_rows is not None and heads * head_rows != self.query_rows:
            raise Unresolved(f"{heads} heads of {head_rows} rows do not make the {self.query_rows} inputs of o")


def _divide(rows: int, parts: int, what: str) -> int:
    if parts <= 0 or rows <= 0 or rows % parts:
        raise Unresolved(f"{rows} rows do not divide into {parts} {what}")
    return rows // parts


def thirds(rows: int, geometry: Geometry) -> Parts:
    """`[q | k | v]` of equal size (GPT-2)."""
    size = _divide(rows, 3, "parts q, k, v")
    geometry.check(1, size)
    return {part: OutputRows(i * size, size) for i, part in enumerate("qkv")}


def contiguous(rows: int, geometry: Geometry) -> Parts:
    """`[q | k | v]`, possibly with fewer heads of keys and values (Phi-3, MPT, DBRX, ChatGLM2, StarCoder)."""
    query = geometry.query_rows
    if query is None:
        heads = geometry.heads()
        kv_heads = geometry.settings.n_kv_heads or heads
        query = heads * _divide(rows, heads + 2 * kv_heads, "heads")
    key = _divide(rows - query, 2, "parts k, v")
    if query % key:
        raise Unresolved(f"{query} rows of q are no multiple of {key} rows of k")
    return {"q": OutputRows(0, query), "k": OutputRows(query, key), "v": OutputRows(query + key, key)}


def per_head(rows: int, geometry: Geometry) -> Parts:
    """`[head][q | k | v]` (GPT-NeoX, Bloom, Falcon-RW, Persimmon)."""
    heads = geometry.heads()
    head = _divide(rows, 3 * heads, "parts q, k, v of the config's heads")
    geometry.check(heads, head)
    return {part: OutputRows(i * head, head, heads, 3 * head) for i, part in enumerate("qkv")}


def grouped(rows: int, geometry: Geometry) -> Parts:
    """`[kv head][its q heads | k | v]` (InternLM2, Falcon-40B)."""
    heads, kv_heads = geometry.heads(), geometry.settings.n_kv_heads
    if kv_heads is None:
        raise Unresolved("the number of key/value heads is in no config", config=True)
    group = _divide(heads, kv_heads, "key/value groups")
    head = _divide(rows, heads + 2 * kv_heads, "heads")
    geometry.check(heads, head)
    stride = (group + 2) * head
    return {
        "q": OutputRows(0, group * head, kv_heads, stride),
        "k": OutputRows(group * head, head, kv_heads, stride),
        "v": OutputRows((group + 1) * head, head, kv_heads, stride),
    }


def falcon(rows: int, geometry: Geometry) -> Parts:
    """Falcon's three layouts: grouped (40B), one key/value head (7B), per head (RW)."""
    if geometry.settings.new_decoder:
        return grouped(rows, geometry)
    return contiguous(rows, geometry) if geometry.settings.n_kv_heads == 1 else per_head(rows, geometry)


def bigcode(rows: int, geometry: Geometry) -> Parts:
    """GPT-BigCode: `[q | k | v]` with one key/value head, else per head."""
    return contiguous(rows, geometry) if geometry.settings.n_kv_heads == 1 else per_head(rows, geometry)


def codegen(rows: int, geometry: Geometry) -> Parts:
    """CodeGen: four blocks of `[q | v | k]`, one per core of the TPU slice used in training."""
    size = _divide(rows, 12, "parts of four blocks")
    geometry.check(4, size)
    return {part: OutputRows(i * size, size, 4, 3 * size) for i, part in enumerate("qvk")}


def gated_query(rows: int, geometry: Geometry) -> Parts:
    """`[head][q | output gate]` (Qwen3-Next, Qwen3.5); the gate has no role."""
    heads = geometry.heads()
    head = _divide(rows, 2 * heads, "parts q, gate of the config's heads")
    geometry.check(heads, head)
    return {"q": OutputRows(0, head, heads, 2 * head), "output_gate": OutputRows(head, head, heads, 2 * head)}


def halves(rows: int, geometry: Geometry) -> Parts:
    """`[gate | up]` (Phi-3, GLM, ModernBERT): the activation applies to the first half."""
    size = _divide(rows, 2, "halves")
    return {"gate": OutputRows(0, size), "up": OutputRows(size, size)}


def keys_values(rows: int, geometry: Geometry) -> Parts:
    """`[k | v]` (JetMoE)."""
    size = _divide(rows, 2, "parts k, v")
    return {"k": OutputRows(0, size), "v": OutputRows(size, size)}


def swapped_halves(rows: int, geometry: Geometry) -> Parts:
    """`[up | gate]` (GTE, Molmo, Moonshine): the activation applies to the second half."""
    size = _divide(rows, 2, "halves")
    return {"up": OutputRows(0, size), "gate": OutputRows(size, size)}


def gate_first(rows: int, geometry: Geometry) -> Parts:
    """`[output gate | q | k | v]`, the gate as large as q (HRM)."""
    query = geometry.query_rows
    if query is None:
        raise Unresolved("the output projection that tells the size of the queries is missing")
    parts = contiguous(rows - query, geometry)
    shifted = {part: OutputRows(query + own.start, own.size) for part, own in parts.items()}
    return {"output_gate": OutputRows(0, query), **shifted}


def pairs(rows: int, geometry: Geometry) -> Parts:
    """Alternating rows of gate and up (gpt-oss)."""
    size = _divide(rows, 2, "pairs")
    return {"gate": OutputRows(0, 1, size, 2), "up": OutputRows(1, 1, size, 2)}


def rotary(rows: int, geometry: Geometry) -> OutputRows:
    """A query or key projection in Meta's row order."""
    if geometry.query_rows is None:
        raise Unresolved("the output projection that tells the size of a head is missing")
    head = _divide(geometry.query_rows, geometry.heads(), "heads")
    if head % 2:
        raise Unresolved(f"a head of {head} rows has no rotary pairs")
    if rows % head:
        raise Unresolved(f"{rows} rows are no whole number of heads of {head} rows")
    return OutputRows(0, rows, rotary_head=head)


Layout: TypeAlias = Callable[[int, Geometry], Parts]
