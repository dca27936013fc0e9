"""GGUF's block types: what is decoded is what llama.cpp's own package decodes, from any whole blocks."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from provenance.crawler.formats.dtypes import BLOCKS, decode, is_float, is_numeric, stored_bytes, unit
from provenance.crawler.formats.gguf import TYPES
from provenance.crawler.formats.gguf_facts import FILE_TYPES
from provenance.schemas.errors import CheckpointError


def test_the_table_is_that_of_the_package() -> None:
    sizes = {kind.name: size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {dtype: sizes[dtype] for dtype in BLOCKS} == BLOCKS
    assert set(TYPES.values()) - BLOCKS.keys() == {"F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"}


def test_mixes_have_the_names_of_the_package() -> None:
    names = {kind.value: kind.name.removeprefix("MOSTLY_") for kind in gguf.LlamaFileType}
    assert {number: names[number] for number in FILE_TYPES} == FILE_TYPES


@pytest.mark.parametrize("dtype", BLOCKS)
@pytest.mark.parametrize("n_blocks", [1, 700])
def test_blocks_decode_as_in_the_package(dtype: str, n_blocks: int) -> None:
    elements, size = BLOCKS[dtype]
    stored = np.random.default_rng(1).integers(0, 256, (n_blocks, size), dtype=np.uint8)
    with np.errstate(all="ignore"):  # random scales are infinite at times
        expected = gguf.dequantize(stored, gguf.GGMLQuantizationType[dtype])
    found = decode(stored.tobytes(), dtype)
    assert found.dtype == np.float32
    assert found.shape == (n_blocks * elements,)
    np.testing.assert_array_equal(found, expected.reshape(-1))


@pytest.mark.parametrize("dtype", BLOCKS)
def test_a_block_is_the_smallest_part(dtype: str) -> None:
    assert is_float(dtype)
    assert is_numeric(dtype)
    assert unit(dtype) == BLOCKS[dtype]
    assert stored_bytes(dtype, 3 * BLOCKS[dtype][0]) == 3 * BLOCKS[dtype][1]
    with pytest.raises(CheckpointError, match=rf"no whole number of {dtype} blocks of {BLOCKS[dtype][1]} bytes"):
        decode(bytes(BLOCKS[dtype][1] + 1), dtype)
