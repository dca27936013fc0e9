"""What a sampled crawl reads of packed checkpoints, next to the same one in 16 bits: `python -m benchmarks.packed`.

Only plans: the tensors of a model are laid out as safetensors writes them, by width of the dtype and then by name, in
shards of 5 GB, and the ranges that would be read are counted. It takes seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from provenance.crawler.architectures import resolve_roles
from provenance.crawler.formats.packing.recognise import unpack
from provenance.crawler.formats.safetensors import DTYPE_BITS
from provenance.crawler.plan import SAMPLE_SIZES, plan_batches, plan_matrices
from provenance.schemas.tensors import TensorEntry
from tests.hub.generated import LLAMA_7B, LLAMA_70B, Geometry

GEOMETRIES = {"7B": LLAMA_7B, "70B": LLAMA_70B}
SHARD_BYTES = 5_000_000_000
HEADER_BYTES = 100_000
_ORDER = ("F64", "I64", "F32", "I32", "U32", "BF16", "F16", "F8_E8M0", "F8_E4M3", "I8", "U8")
"""Dtypes in the order in which safetensors writes them."""

Tensors = dict[str, tuple[str, tuple[int, ...]]]
Pack = Callable[[int, int], Tensors]


def _gptq(bits: int, group: int) -> Pack:
    def pack(out: int, n_in: int) -> Tensors:
        groups = n_in // group
        return {
            ".qweight": ("I32", (n_in * bits // 32, out)),
            ".qzeros": ("I32", (groups, out * bits // 32)),
            ".scales": ("F16", (groups, out)),
            ".g_idx": ("I32", (n_in,)),
        }

    return pack


def _awq(out: int, n_in: int) -> Tensors:
    return {
        ".qweight": ("I32", (n_in, out // 8)),
        ".qzeros": ("I32", (n_in // 128, out // 8)),
        ".scales": ("F16", (n_in // 128, out)),
    }


def _nf4(out: int, n_in: int) -> Tensors:
    return {
        ".weight": ("U8", (out * n_in // 2, 1)),
        ".weight.absmax": ("U8", (out * n_in // 64,)),
        ".weight.nested_absmax": ("F32", (-(-out * n_in // 64 // 256),)),
        ".weight.nested_quant_map": ("F32", (256,)),
        ".weight.quant_map": ("F32", (16,)),
        ".weight.quant_state.bitsandbytes__nf4": ("U8", (len(_state(out, n_in)),)),
    }


def _state(out: int, n_in: int) -> bytes:
    return json.dumps({"shape": [out, n_in], "blocksize": 64, "nested_blocksize": 256, "nested_offset": 0.05}).encode()


PACKINGS: dict[str, tuple[Pack, dict[str, object]]] = {
    "GPTQ 4 bits": (_gptq(4, 128), {"sym": True, "desc_act": False}),
    "GPTQ 4 bits, asymmetric": (_gptq(4, 128), {"sym": False, "desc_act": False}),
    "GPTQ 4 bits, act-order": (_gptq(4, 128), {"sym": True, "desc_act": True}),
    "GPTQ 8 bits": (_gptq(8, 128), {"sym": True, "desc_act": False}),
    "AWQ": (_awq, {}),
    "bitsandbytes NF4": (_nf4, {}),
    "bitsandbytes int8": (
        lambda out, n_in: {
            ".weight": ("I8", (out, n_in)),
            ".SCB": ("F32", (out,)),
            ".weight_format": ("U8", ()),
        },
        {},
    ),
    "FP8, scale a matrix": (
        lambda out, n_in: {".weight": ("F8_E4M3", (out, n_in)), ".weight_scale": ("F32", ())},
        {},
    ),
    "FP8, blocks of 128 x 128": (
        lambda out, n_in: {
            ".weight": ("F8_E4M3", (out, n_in)),
            ".weight_scale_inv": ("F32", (-(-out // 128), -(-n_in // 128))),
        },
        {},
    ),
    "compressed-tensors, 4 bits": (
        lambda out, n_in: {
            ".weight_packed": ("I32", (out, n_in // 8)),
            ".weight_scale": ("BF16", (out, n_in // 128)),
            ".weight_shape": ("I64", (2,)),
        },
        {},
    ),
    "NVFP4": (
        lambda out, n_in: {
            ".weight": ("U8", (out, n_in // 2)),
            ".weight_scale": ("F8_E4M3", (out, n_in // 16)),
            ".weight_scale_2": ("F32", ()),
        },
        {},
    ),
    "MXFP4": (
        lambda out, n_in: {".weight_packed": ("U8", (out, n_in // 2)), ".weight_scale": ("U8", (out, n_in // 32))},
        {},
    ),
    "MLX 4 bits": (
        lambda out, n_in: {
            ".weight": ("U32", (out, n_in // 8)),
            ".scales": ("BF16", (out, n_in // 64)),
            ".biases": ("BF16", (out, n_in // 64)),
        },
        {"bits": 4, "group_size": 64},
    ),
}


@dataclass(frozen=True)
class Cost:
    """Ranges and bytes that would be read, and bytes of all files."""

    ranges: int
    bytes: int
    total: int


class _Hints:
    """Stands for the few small tensors that are read before anything is planned."""

    def __init__(self, content: dict[tuple[str, int], bytes]) -> None:
        self.content = content
        self.bytes_read = self.requests = 0

    def size(self, path: str) -> int:
        raise NotImplementedError(path)

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        for start, stop in ranges:
            self.requests += 1
            self.bytes_read += stop - start
            yield self.content[path, start][: stop - start]


def entries(tensors: Tensors) -> list[TensorEntry]:
    """The tensors in shards, in the order of their names, and inside a shard as safetensors writes them."""
    shards: list[Tensors] = [{}]
    filled = 0
    for name, (dtype, shape) in sorted(tensors.items()):
        size = math.prod(shape) * DTYPE_BITS[dtype] // 8
        if filled and filled + size > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = (dtype, shape)
        filled += size
    found = []
    for i, shard in enumerate(shards):
        start = HEADER_BYTES
        for name, (dtype, shape) in sorted(shard.items(), key=lambda item: (_ORDER.index(item[1][0]), item[0])):
            stop = start + math.prod(shape) * DTYPE_BITS[dtype] // 8
            found.append(TensorEntry(name, dtype, shape, f"{i:05}", start, stop))
            start = stop
    return found


def cost(geometry: Geometry, pack: Pack | None, facts: dict[str, object]) -> Cost:
    """What a sampled crawl reads of a geometry, its layers' matrices packed, or all of it in 16 bits."""
    tensors, hints = Tensors(), dict[str, bytes]()
    for name, shape in geometry.tensors():
        if pack is None or ".layers." not in name or len(shape) != 2:
            tensors[name] = ("BF16", shape)
            continue
        out, n_in = shape
        base = name.removesuffix(".weight")
        tensors |= {base + ending: tensor for ending, tensor in pack(out, n_in).items()}
        index = np.arange(n_in) // 128
        hints[f"{base}.g_idx"] = (index[::-1] if facts.get("desc_act") else index).astype("<i4").tobytes()
        # Zero points less one, as the first format stores them; only their first bytes are looked at.
        hints[f"{base}.qzeros"] = (b"\x77" if pack is not PACKINGS["GPTQ 8 bits"][0] else b"\x7f") * 4096
        hints[f"{base}.weight_shape"] = np.array([out, n_in], "<i8").tobytes()
        hints[f"{base}.weight.quant_state.bitsandbytes__nf4"] = _state(out, n_in)
    stored = entries(tensors)
    reader = _Hints({(entry.file, entry.start): hints.get(entry.name, b"") for entry in stored})
    config = geometry.config() | {"quantization_config": facts}
    unpacked = unpack(stored, config, reader)
    if unpacked.notes:
        raise RuntimeError(unpacked.notes)
    size = SAMPLE_SIZES["default"]
    plans = plan_matrices(resolve_roles(unpacked.entries, config).tensors, size)
    ranges = [r for batch in plan_batches(plans, size.gap_bytes) for own in batch.values() for r in own]
    total = sum(entry.stop - entry.start for entry in stored)
    return Cost(len(ranges) + reader.requests, sum(r.stop - r.start for r in ranges) + reader.bytes_read, total)


def main() -> None:
    print("| model | packing | weights GB | ranges | MB read | share | ranges, of 16 bits | bytes, of 16 bits |")
    print(f"|{' --- |' * 8}")
    for name, geometry in GEOMETRIES.items():
        dense = cost(geometry, None, {})
        for packing, (pack, facts) in {"none, 16 bits": (None, {}), **PACKINGS}.items():
            own = cost(geometry, pack, dict(facts))
            print(
                f"| {name} | {packing} | {own.total / 1e9:.1f} | {own.ranges:,} | {own.bytes / 1e6:.1f} "
                f"| {own.bytes / own.total:.2%} | {own.ranges / dense.ranges:.2f} | {own.bytes / dense.bytes:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
