"""Write small matrices packed by the formats' own libraries, and the weights that these read back.

`python -m tools.make_packed_fixtures`, in an environment that has bitsandbytes, compressed-tensors, torchao and mlx
besides what the tests need. None of them is needed to run the tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "crawler" / "formats" / "packing" / "libraries"
WEIGHT = torch.from_numpy(np.random.default_rng(8).normal(0, 0.02, (16, 64)).astype(np.float32))

Made = tuple[str, dict[str, torch.Tensor], torch.Tensor, dict[str, Any]]
"""Name, tensors without their base, weights, quantization_config."""


def bitsandbytes() -> Iterator[Made]:
    from bitsandbytes import functional

    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            codes, state = functional.quantize_4bit(WEIGHT, quant_type=kind, compress_statistics=nested, blocksize=64)
            stored = {".weight": codes} | {f".weight.{n}": t for n, t in state.as_dict(packed=True).items()}
            yield f"bnb-{kind}{'-nested' if nested else ''}", stored, functional.dequantize_4bit(codes, state), {}
    codes, scales, _ = functional.int8_vectorwise_quant(WEIGHT.half())
    stored = {".weight": codes, ".SCB": scales, ".weight_format": torch.tensor(0, dtype=torch.uint8)}
    yield "bnb-int8", stored, functional.int8_vectorwise_dequant(codes, scales), {}


def compressed_tensors() -> Iterator[Made]:
    from compressed_tensors.compressors.mxfp4.base import MXFP4PackedCompressor
    from compressed_tensors.compressors.mxfp8.base import MXFP8QuantizationCompressor
    from compressed_tensors.compressors.naive_quantized.base import NaiveQuantizationCompressor
    from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    def made(name: str, compressor: Any, args: Any, **parts: torch.Tensor) -> Made:
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        stored = compressor.compress({"weight": WEIGHT, **parts}, scheme)
        weights = compressor.decompress(dict(stored), scheme)["weight"]
        facts = {"config_groups": {"g": {"weights": {"num_bits": args.num_bits, "group_size": args.group_size}}}}
        return f"ct-{name}", {f".{n}": t for n, t in stored.items()}, weights, facts

    grouped = WEIGHT.reshape(16, -1, 32)
    for bits in (2, 3, 4, 8):
        for symmetric in (True, False):
            args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy="group", group_size=32)
            scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args)
            kind = "" if symmetric else "-asymmetric"
            parts = {"weight_scale": scale.float(), "weight_zero_point": zero}
            yield made(f"pack-{bits}{kind}", PackedQuantizationCompressor, args, **parts)
    args = QuantizationArgs(num_bits=4, type="float", symmetric=True, strategy="tensor_group", group_size=16)
    overall = torch.tensor([448 * 6 / WEIGHT.abs().max()])
    scale = (WEIGHT.reshape(16, -1, 16).abs().amax(-1) / 6 * overall).to(torch.float8_e4m3fn).float()
    yield made("nvfp4", NVFP4PackedCompressor, args, weight_scale=scale, weight_global_scale=overall)
    for bits, top, compressor in ((4, 4, MXFP4PackedCompressor), (8, 256, MXFP8QuantizationCompressor)):
        args = QuantizationArgs(
            num_bits=bits, type="float", symmetric=True, strategy="group", group_size=32, scale_dtype=torch.uint8
        )
        scale = 2.0 ** torch.floor(torch.log2(grouped.abs().amax(-1) / top))
        yield made(f"mxfp{bits}", compressor, args, weight_scale=scale)
    for kind, top in (("int", 127), ("float", 448)):
        args = QuantizationArgs(num_bits=8, type=kind, symmetric=True, strategy="channel")
        scale = WEIGHT.abs().amax(1, keepdim=True) / top
        yield made(f"{kind}-channel", NaiveQuantizationCompressor, args, weight_scale=scale)


def torchao() -> Iterator[Made]:
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import (
        Float8WeightOnlyConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        PerGroup,
        quantize_,
    )

    configs = {
        "int8": Int8WeightOnlyConfig(version=2),
        "float8": Float8WeightOnlyConfig(),
        "int4-groups": IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)),
    }
    for name, config in configs.items():
        module = torch.nn.Sequential(torch.nn.Linear(64, 16, bias=False))
        module[0].weight.data = WEIGHT.clone()
        quantize_(module, config)
        stored, _ = flatten_tensor_state_dict(module.state_dict())
        parts = {n.removeprefix("0"): t for n, t in stored.items()}
        yield f"torchao-{name}", parts, module[0].weight.dequantize(), {}


def mlx() -> Iterator[Made]:
    import mlx.core as mx

    def tensor(array: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(array))

    weight = mx.array(WEIGHT.numpy())
    for bits in (2, 3, 4, 6, 8):
        packed = mx.quantize(weight, group_size=32, bits=bits)
        stored = dict(zip((".weight", ".scales", ".biases"), map(tensor, packed), strict=True))
        facts = {"bits": bits, "group_size": 32}
        yield f"mlx-{bits}", stored, tensor(mx.dequantize(*packed, group_size=32, bits=bits)), facts
    packed = mx.quantize(weight, mode="mxfp4")
    stored = dict(zip((".weight", ".scales"), map(tensor, packed), strict=True))
    yield "mlx-mxfp4", stored, tensor(mx.dequantize(*packed, mode="mxfp4").astype(mx.float32)), {}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    packed: dict[str, torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}
    facts: dict[str, dict[str, Any]] = {}
    for library in (bitsandbytes, compressed_tensors, torchao, mlx):
        for name, stored, expected, said in library():
            packed |= {name + ending: tensor.contiguous() for ending, tensor in stored.items()}
            weights[name] = expected.detach().float().contiguous()
            facts[name] = said
    save_file(packed, FOLDER / "packed.safetensors")
    save_file(weights, FOLDER / "weights.safetensors")
    (FOLDER / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
