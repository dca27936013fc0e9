"""Every dtype against torch, over all bit patterns where there are few."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.crawler.formats.dtypes import decode, is_float, is_numeric
from provenance.crawler.formats.safetensors import DTYPE_BITS
from provenance.schemas.errors import CheckpointError

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
}
UNREAD = ["F4", "F6_E2M3", "F6_E3M2", "C64"]


def by_torch(data: bytes, dtype: str) -> torch.Tensor:
    stored = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(TORCH[dtype])
    wide = torch.float32 if is_float(dtype) and dtype != "F64" else torch.float64
    return stored.to(wide)


@pytest.mark.parametrize("dtype", [d for d in TORCH if DTYPE_BITS[d] <= 16])
def test_every_bit_pattern(dtype: str) -> None:
    patterns = np.arange(2 ** DTYPE_BITS[dtype], dtype=f"<u{DTYPE_BITS[dtype] // 8}").tobytes()
    expected = by_torch(patterns, dtype).numpy()
    found = decode(patterns, dtype)
    np.testing.assert_array_equal(found, expected, strict=True)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found[numbers]), np.signbit(expected[numbers]))  # -0.0 stays


@pytest.mark.parametrize("dtype", [d for d in TORCH if DTYPE_BITS[d] >= 32])
@settings(deadline=None)
@given(data=st.binary(min_size=8, max_size=80))
def test_wide_patterns(dtype: str, data: bytes) -> None:
    data = data[: len(data) // 8 * 8]
    np.testing.assert_array_equal(decode(data, dtype), by_torch(data, dtype).numpy(), strict=True)


def test_bool_is_zero_or_one_whatever_the_byte() -> None:
    np.testing.assert_array_equal(decode(b"\0\1\2\xff", "BOOL"), np.array([0.0, 1.0, 1.0, 1.0]), strict=True)


def test_integers_are_exact_up_to_two_to_the_53() -> None:
    values = [2**53, -(2**53), 2**53 - 1, 0]
    assert decode(np.array(values, dtype="<i8").tobytes(), "I64").tolist() == values


@pytest.mark.parametrize("dtype", ["F32", "F64"])
def test_wide_floats_are_not_copied(dtype: str) -> None:
    data = bytearray(16)
    found = decode(memoryview(data), dtype)
    data[:] = b"\x01" * 16
    assert found.all()


@pytest.mark.parametrize("dtype", [*TORCH, "BOOL"])
def test_no_bytes_are_no_numbers(dtype: str) -> None:
    found = decode(b"", dtype)
    assert found.shape == (0,)
    assert found.dtype == (np.float32 if is_float(dtype) and dtype != "F64" else np.float64)


def test_every_dtype_of_the_format_is_read_or_named_as_unread() -> None:
    assert {d for d in DTYPE_BITS if is_numeric(d)} == set(DTYPE_BITS) - set(UNREAD)
    assert {d for d in DTYPE_BITS if is_float(d)} == {d for d in TORCH if d.startswith(("F", "BF"))}


@pytest.mark.parametrize("dtype", [*UNREAD, "F31"])
def test_unread_dtypes(dtype: str) -> None:
    assert not is_float(dtype)
    assert not is_numeric(dtype)
    with pytest.raises(CheckpointError, match=f"dtype {dtype} is stored but its numbers are not read") as caught:
        decode(b"\0" * 8, dtype)
    assert caught.value.stage == "statistics"


@pytest.mark.parametrize("dtype", [d for d in TORCH if DTYPE_BITS[d] > 8])
def test_part_of_an_element(dtype: str) -> None:
    n = DTYPE_BITS[dtype] // 8
    with pytest.raises(CheckpointError, match=f"{n + 1} bytes are no whole number of {dtype} elements") as caught:
        decode(b"\0" * (n + 1), dtype)
    assert caught.value.stage == "statistics"
