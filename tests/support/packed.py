"""Matrices packed as each format's own library packs them, written out from the formats' definitions.

Every packer returns the stored tensors and the weights that they stand for. The weights follow from the codes before
they are packed, so they check the unpacking without sharing a line with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]
Packed = tuple[dict[str, Array], Array]
"""Tensors by name, without the base before them; the weights `[out, in]`."""

FP4_VALUES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
NF4_VALUES = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def bits_to_words(numbers: Iterable[int], bits: int) -> list[int]:
    """A stream of numbers in 32-bit words, as one large integer is written."""
    total = sum(int(number) << (bits * i) for i, number in enumerate(numbers))
    n = len(list(numbers)) * bits // 32
    return [(total >> (32 * i)) & 0xFFFF_FFFF for i in range(n)]


def as_int32(words: Any) -> Array:
    return np.array(words, dtype=np.uint32).view(np.int32)


def affine(weight: Array, bits: int, group: int, *, symmetric: bool, index: Array | None = None) -> tuple[Array, ...]:
    """Codes `[out, in]`, zero points and float16 scales `[groups, out]`; `index` is the group of each input."""
    out, n_in = weight.shape
    group = n_in if group == -1 else group
    index = np.arange(n_in) // group if index is None else index
    n, top = int(index.max()) + 1, 2**bits - 1
    scales, zeros = np.zeros((n, out), np.float16), np.zeros((n, out), np.int64)
    for g in range(n):
        own = weight[:, index == g].astype(np.float64)
        low, high = np.minimum(own.min(1), 0), np.maximum(own.max(1), 0)
        if symmetric:
            high = np.maximum(np.abs(low), high)
            low = -high
        scales[g] = np.maximum((high - low) / top, 1e-4)
        zeros[g] = 2 ** (bits - 1) if symmetric else np.clip(np.round(-low / scales[g].astype(float)), 1, top)
    scale, zero = scales[index].T.astype(np.float64), zeros[index].T
    codes = np.clip(np.round(weight / scale) + zero, 0, top).astype(np.int64)
    return codes, zeros, scales, index, ((codes - zero) * scale).astype(np.float32)


def gptq(
    weight: Array, *, bits: int = 4, group: int = 32, symmetric: bool = True, act_order: bool = False, first: int = 1
) -> Packed:
    """`first`: what the format takes from a zero point when it stores it."""
    n_in = weight.shape[1]
    index = None
    if act_order:
        index = np.random.default_rng(n_in).permutation(np.arange(n_in) // group)
    codes, zeros, scales, index, weights = affine(weight, bits, group, symmetric=symmetric, index=index)
    columns = [bits_to_words(list(row), bits) for row in codes]
    stored = (zeros - first) % 2**bits
    return {
        ".qweight": np.ascontiguousarray(as_int32(columns).T),
        ".qzeros": as_int32([bits_to_words(list(row), bits) for row in stored]),
        ".scales": scales,
        ".g_idx": index.astype(np.int32),
    }, weights


def awq(weight: Array, *, group: int = 32) -> Packed:
    codes, zeros, scales, _, weights = affine(weight, 4, group, symmetric=False)

    def words(rows: Array) -> Array:
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        return as_int32(
            [[sum(int(row[c + order[i]]) << (4 * i) for i in range(8)) for c in range(0, len(row), 8)] for row in rows]
        )

    return {".qweight": words(codes.T), ".qzeros": words(zeros), ".scales": scales}, weights


def bnb4(weight: Array, *, kind: str = "nf4", nested: bool = True, block: int = 64) -> Packed:
    fp4 = [0.0, 0.0052083333, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25]
    table = np.array(NF4_VALUES if kind == "nf4" else [*fp4, *(-v for v in fp4)], np.float32)
    flat = np.pad(weight.reshape(-1), (0, -weight.size % block)).reshape(-1, block)
    absmax = np.abs(flat).max(1).astype(np.float32)
    state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": list(weight.shape)}
    stored: dict[str, Array] = {".weight.quant_map": table}
    if nested:
        offset = float(absmax.mean())
        inner = np.linspace(-1, 1, 256).astype(np.float32)
        padded = np.pad(absmax - offset, (0, -len(absmax) % 256)).reshape(-1, 256)
        outer = np.abs(padded).max(1).astype(np.float32)
        code = np.abs((padded / outer[:, None])[..., None] - inner).argmin(-1).reshape(-1)[: len(absmax)]
        absmax = inner[code] * np.repeat(outer, 256)[: len(absmax)] + np.float32(offset)
        stored |= {".weight.absmax": code.astype(np.uint8), ".weight.nested_absmax": outer}
        stored[".weight.nested_quant_map"] = inner
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
    else:
        stored[".weight.absmax"] = absmax
    codes = np.abs((flat / absmax[:, None])[..., None] - table).argmin(-1)
    weights = (table[codes] * absmax[:, None]).reshape(-1)[: weight.size].reshape(weight.shape)
    pairs = codes.reshape(-1)[: weight.size].reshape(-1, 2)
    stored[".weight"] = (pairs[:, :1] * 16 + pairs[:, 1:]).astype(np.uint8)
    stored[f".weight.quant_state.bitsandbytes__{kind}"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return stored, weights


def as_storage(packed: Packed) -> Packed:
    """With the bytes of the codes kept as 16-bit floats (`bnb_4bit_quant_storage`)."""
    stored, weights = packed
    return stored | {".weight": np.ascontiguousarray(stored[".weight"]).reshape(-1).view(np.float16)[:, None]}, weights


def bnb8(weight: Array) -> Packed:
    largest = np.abs(weight).max(1).astype(np.float32)
    codes = np.round(weight * 127 / largest[:, None]).astype(np.int8)
    stored = {".weight": codes, ".SCB": largest, ".weight_format": np.array(0, np.uint8)}
    return stored, codes * (largest[:, None] / np.float32(127))


def fp8(weight: Array, *, over: str = "block", name: str = ".weight_scale_inv", block: int = 128) -> Packed:
    """`over`: what shares a scale: `tensor`, `channel` or `block`."""
    height, width = {"tensor": weight.shape, "channel": (1, weight.shape[1]), "block": (block, block)}[over]
    scale = np.zeros((-(-weight.shape[0] // height), -(-weight.shape[1] // width)), np.float32)
    codes, weights = np.zeros(weight.shape, ml_dtypes.float8_e4m3fn), np.zeros_like(weight)
    for i, j in np.ndindex(scale.shape):
        own = np.s_[i * height : (i + 1) * height, j * width : (j + 1) * width]
        scale[i, j] = np.abs(weight[own]).max() / 448
        codes[own] = (weight[own] / scale[i, j]).astype(ml_dtypes.float8_e4m3fn)
        weights[own] = codes[own].astype(np.float32) * scale[i, j]
    return {".weight": codes, name: scale.reshape(()) if over == "tensor" else scale}, weights


def int8(weight: Array, *, group: int | None = None, symmetric: bool = True) -> Packed:
    codes, zeros, scales, _, weights = affine(weight, 8, group or -1, symmetric=symmetric)
    stored = {".weight": (codes - 128).astype(np.int8), ".weight_scale": np.ascontiguousarray(scales.T)}
    if not symmetric:
        stored[".weight_zero_point"] = np.ascontiguousarray((zeros.T - 128).astype(np.int8))
    return stored, weights


def pack_quantized(
    weight: Array,
    *,
    bits: int = 4,
    group: int = 32,
    symmetric: bool = True,
    act_order: bool = False,
    stream: bool = True,
) -> Packed:
    """`stream`: as later versions store codes of a number of bits that does not divide 32."""
    out, n_in = weight.shape
    index = np.random.default_rng(n_in).permutation(np.arange(n_in) // group) if act_order else None
    codes, zeros, scales, index, weights = affine(weight, bits, group, symmetric=symmetric, index=index)

    def words(rows: Array) -> Array:
        if stream:
            padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 32)))
            n = -(-rows.shape[1] * bits // 32)
            return as_int32([bits_to_words(list(row), bits)[:n] for row in padded])
        per = 32 // bits
        padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % per))).reshape(len(rows), -1, per)
        return as_int32([[sum(int(v) << (bits * i) for i, v in enumerate(word)) for word in row] for row in padded])

    stored = {
        ".weight_packed": words(codes),
        ".weight_scale": np.ascontiguousarray(scales.T),
        ".weight_shape": np.array([out, n_in], np.int64),
    }
    if not symmetric:
        stored[".weight_zero_point"] = np.ascontiguousarray(words(zeros).T)
    if act_order:
        stored[".weight_g_idx"] = index.astype(np.int32)
    return stored, weights


def _fp4(weight: Array) -> Array:
    """The code of the nearest 4-bit float."""
    return (np.abs(np.abs(weight)[..., None] - np.array(FP4_VALUES)).argmin(-1) + 8 * (weight < 0)).astype(np.uint8)


def _fp4_value(codes: Array) -> Array:
    return np.array([*FP4_VALUES, *(-v for v in FP4_VALUES)], np.float32)[codes]


def nvfp4(weight: Array, *, divides: bool) -> Packed:
    groups = weight.reshape(weight.shape[0], -1, 16)
    factor = np.float32(np.abs(weight).max() / (448 * 6))
    scale = (np.abs(groups).max(-1) / 6 / factor).astype(ml_dtypes.float8_e4m3fn)
    exact = np.maximum(scale.astype(np.float32), 1e-3) * factor
    codes = _fp4(groups / exact[..., None])
    weights = (_fp4_value(codes) * (scale.astype(np.float32) * factor)[..., None]).reshape(weight.shape)
    codes = codes.reshape(weight.shape[0], -1, 2)
    packed = codes[..., 0] | codes[..., 1] << 4
    if divides:
        names = {".weight_packed": packed, ".weight_scale": scale}
        return names | {".weight_global_scale": np.array([1 / factor], np.float32)}, weights
    return {".weight": packed, ".weight_scale": scale, ".weight_scale_2": np.array(factor)}, weights


def mxfp4(weight: Array) -> Packed:
    """Of `[..., in]`, with `_blocks` and `_scales`."""
    groups = weight.reshape(*weight.shape[:-1], -1, 32)
    exponent = np.floor(np.log2(np.abs(groups).max(-1))).astype(int) - 2
    codes = _fp4(groups / 2.0 ** exponent[..., None])
    weights = (_fp4_value(codes) * 2.0 ** exponent[..., None]).reshape(weight.shape).astype(np.float32)
    pairs = codes.reshape(*codes.shape[:-1], 16, 2)
    blocks = pairs[..., 0] | pairs[..., 1] << 4
    return {"_blocks": blocks, "_scales": (exponent + 127).astype(np.uint8)}, weights


def mxfp4_linear(weight: Array) -> Packed:
    stored, weights = mxfp4(weight)
    blocks = stored["_blocks"].reshape(weight.shape[0], -1)
    return {".weight_packed": blocks, ".weight_scale": stored["_scales"]}, weights


def mlx(weight: Array, *, bits: int = 4, group: int = 32) -> Packed:
    codes, zeros, scales, index, _ = affine(weight, bits, group, symmetric=False)
    scales, biases = scales.T, (-zeros.T * scales.T.astype(np.float32)).astype(np.float16)
    weights = codes * scales[:, index].astype(np.float32) + biases[:, index].astype(np.float32)
    words = np.array([bits_to_words(list(row), bits) for row in codes], dtype=np.uint32)
    return {
        ".weight": words,
        ".scales": np.ascontiguousarray(scales),
        ".biases": np.ascontiguousarray(biases),
    }, weights


def quanto(weight: Array) -> Packed:
    stored, weights = int8(weight)
    return {".weight._data": stored[".weight"], ".weight._scale": stored[".weight_scale"]}, weights


def torchao(weight: Array) -> Packed:
    stored, weights = int8(weight, group=32, symmetric=False)
    names = {
        ".weight": "._weight_qdata",
        ".weight_scale": "._weight_scale",
        ".weight_zero_point": "._weight_zero_point",
    }
    return {names[name]: tensor for name, tensor in stored.items()}, weights


@dataclass(frozen=True)
class Case:
    """A way to pack a checkpoint.

    Attributes:
        bits: of a code.
        quantization: the config's `quantization_config`.
        dtype: what the column `dtype` of a matrix says.
        method: what the column `quantization` of the checkpoint says.
    """

    pack: Callable[[Array], Packed]
    bits: int
    dtype: str
    method: str
    quantization: dict[str, Any] = field(default_factory=dict)


def _gptq(bits: int, first: int = 1, **options: Any) -> Case:
    config = {"quant_method": "gptq", "bits": bits, "group_size": options.get("group", 32)}
    config |= {"checkpoint_format": "gptq_v2"} if first == 0 else {}
    return Case(lambda w: gptq(w, bits=bits, first=first, **options), bits, f"GPTQ-{bits}", "gptq", config)


def _compressed(bits: int, **options: Any) -> Case:
    weights = {"num_bits": bits, "group_size": 32, "strategy": "group", "type": "int"}
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"g": {"weights": weights}},
    }
    return Case(lambda w: pack_quantized(w, bits=bits, **options), bits, f"CT-INT{bits}", "compressed-tensors", config)


def _mlx(bits: int, group: int = 32) -> Case:
    return Case(
        lambda w: mlx(w, bits=bits, group=group), bits, f"MLX-{bits}", "mlx", {"bits": bits, "group_size": group}
    )


CASES = {
    "gptq 2": _gptq(2, group=16),
    "gptq 3": _gptq(3, symmetric=False),
    "gptq 4": _gptq(4),
    "gptq 4 asymmetric": _gptq(4, symmetric=False),
    "gptq 4 act-order": _gptq(4, act_order=True, symmetric=False),
    "gptq 4 v2": _gptq(4, first=0, symmetric=False),
    "gptq 4 per channel": _gptq(4, group=-1),
    "gptq 8": _gptq(8),
    "awq": Case(awq, 4, "AWQ-4", "awq", {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}),
    "nf4": Case(lambda w: bnb4(w, nested=False), 4, "BNB-NF4", "bitsandbytes"),
    "nf4 nested": Case(bnb4, 4, "BNB-NF4", "bitsandbytes"),
    "nf4 in bfloat16": Case(lambda w: as_storage(bnb4(w)), 4, "BNB-NF4", "bitsandbytes"),
    "fp4": Case(lambda w: bnb4(w, kind="fp4"), 4, "BNB-FP4", "bitsandbytes"),
    "bnb int8": Case(bnb8, 8, "BNB-INT8", "bitsandbytes"),
    "fp8 tensor": Case(lambda w: fp8(w, over="tensor", name=".weight_scale"), 8, "F8_E4M3-SCALED", "fp8"),
    "fp8 channel": Case(lambda w: fp8(w, over="channel", name=".weight_scale"), 8, "F8_E4M3-SCALED", "fp8"),
    "fp8 block": Case(fp8, 8, "F8_E4M3-SCALED", "fp8"),
    "fp8 block of 64": Case(
        lambda w: fp8(w, block=64), 8, "F8_E4M3-SCALED", "fp8", {"quant_method": "fp8", "weight_block_size": [64, 64]}
    ),
    "int8": Case(int8, 8, "I8-SCALED", "compressed-tensors", {"quant_method": "compressed-tensors"}),
    "int8 groups": Case(lambda w: int8(w, group=32, symmetric=False), 8, "I8-SCALED", "int8"),
    "pack 4": _compressed(4),
    "pack 4 asymmetric": _compressed(4, symmetric=False),
    "pack 4 act-order": _compressed(4, act_order=True),
    "pack 8": _compressed(8),
    "pack 3": _compressed(3, symmetric=False),
    "pack 3 in words": _compressed(3, symmetric=False, stream=False),
    "nvfp4 multiplied": Case(lambda w: nvfp4(w, divides=False), 4, "NVFP4", "nvfp4"),
    "nvfp4 divided": Case(lambda w: nvfp4(w, divides=True), 4, "NVFP4", "nvfp4"),
    "mxfp4": Case(mxfp4_linear, 4, "MXFP4", "mxfp4"),
    "mlx 4": _mlx(4),
    "mlx 3": _mlx(3),
    "mlx 6": _mlx(6),
    "quanto": Case(quanto, 8, "I8-SCALED", "quanto"),
    "torchao": Case(torchao, 8, "I8-SCALED", "torchao"),
}


def pack_all(tensors: dict[str, Array], case: Case) -> tuple[dict[str, Array], dict[str, Array]]:
    """A checkpoint with its layers' matrices packed, and the same one with the weights that they stand for.

    What is not packed is kept as it is.
    """
    packed, dense = dict[str, Array](), dict[str, Array]()
    for name, tensor in tensors.items():
        if ".layers." in name and tensor.ndim == 2:
            base = name.removesuffix(".weight")
            stored, weights = case.pack(tensor)
            packed |= {base + ending: part for ending, part in stored.items()}
            dense[name] = weights.astype(np.float32)
        else:
            packed[name] = dense[name] = tensor
    return packed, dense


def to_torch(tensors: dict[str, Array]) -> dict[str, torch.Tensor]:
    """For safetensors' own writer, which knows 8-bit floats of torch only."""
    found = {}
    for name, tensor in tensors.items():
        is_float8 = tensor.dtype == ml_dtypes.float8_e4m3fn
        plain = torch.from_numpy(np.ascontiguousarray(tensor.view(np.uint8) if is_float8 else tensor).copy())
        found[name] = plain.view(torch.float8_e4m3fn) if is_float8 else plain
    return found
