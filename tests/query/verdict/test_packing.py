"""Packed weights and casts tell that they are the later ones, as far as their loss reaches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from provenance.query.statistics.grid import Grid
from provenance.query.verdict.packing import cast_from, packed_from, packing_loss


def grid(weights: torch.Tensor) -> Grid:
    values = weights.to(torch.float64).numpy().reshape(2, -1)
    n = values.shape[1]
    return Grid(np.arange(2), np.arange(n), values, values, np.ones(values.shape, np.bool_))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_the_loss_is_twice_that_of_the_widest_block(bits: int) -> None:
    rng = np.random.default_rng(bits)
    weights = rng.normal(size=(2000, 32))
    low, high = weights.min(axis=1, keepdims=True), weights.max(axis=1, keepdims=True)
    step = (high - low) / (2**bits - 1)
    lost = float(np.mean((np.rint((weights - low) / step) * step + low - weights) ** 2))
    assert packing_loss(f"Q{bits}_K_M") / 10 < lost < packing_loss(f"Q{bits}_K_M")


@pytest.mark.parametrize(
    ("method", "bits"),
    [("Q4_K_M", 4), ("IQ2_XXS", 2), ("MXFP4_MOE", 4), ("TQ1_0", 1), ("gptq", 4), ("fp8", 5), ("int8", 8)],
)
def test_the_bits_of_a_method_are_in_its_name(method: str, bits: int) -> None:
    assert packing_loss(method) == pytest.approx(2 * (6 / 2**bits) ** 2 / 12)


def test_the_packed_one_is_the_later() -> None:
    assert packed_from(None, "Q4_K_M", 0.01) == 1
    assert packed_from("Q4_K_M", None, 0.01) == -1
    assert packed_from("Q4_K_M", "Q8_0", 0.01) == 0
    assert packed_from(None, None, 0.01) == 0
    assert packed_from(None, "Q4_K_M", 0.03) == 0
    assert packed_from(None, "Q8_0", 0.01) == 0


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_copy_that_was_unpacked_again_is_nearer_than_what_was_packed(bits: int, kind: torch.dtype) -> None:
    weights = torch.randn(2000, 32, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
    step = 2 * weights.abs().amax(dim=1, keepdim=True) / (2**bits - 1)
    packed = torch.round(weights / step) * step
    unpacked = packed.to(kind).double()
    far, near = (float(((packed - other) ** 2).mean()) for other in (weights, unpacked))
    assert packed_from(None, f"int{bits}", far) == 1
    assert packed_from(None, f"int{bits}", near) == packed_from(f"int{bits}", None, near) == 0


def test_a_cast_is_later_than_what_it_was_cast_from() -> None:
    wide = (torch.randn(4000, generator=torch.Generator().manual_seed(1)) * 1e-4).bfloat16()
    half, brain = wide.half(), wide.half().bfloat16()
    assert cast_from(grid(wide), grid(half)) == 1
    assert cast_from(grid(half), grid(wide)) == -1
    fine = torch.randn(4000, generator=torch.Generator().manual_seed(2)).half()
    assert cast_from(grid(fine), grid(fine.bfloat16())) == 1
    assert cast_from(grid(wide), grid(fine)) == 0
    assert cast_from(grid(wide), grid(half[:2000])) == 0
    assert cast_from(grid(half), grid(brain)) == 0  # equal: numbers with few bits are in both
