"""The header parser against files that the safetensors library writes, refuses or is given garbage for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from provenance.crawler.formats.safetensors import DTYPE_BITS, PREFIX_BYTES, Header, header_stop, parse_header
from provenance.schemas.errors import HeaderError
from tests.support.malformed import FOUR, GOOD, MALFORMED, malformed_files, safetensors_bytes

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 5), max_size=4)
TORCH = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}

deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize


def parse(data: bytes) -> Header:
    return parse_header(data, file_size=len(data), file="model.safetensors", repo="owner/name")


@st.composite
def written(draw: st.DrawFn) -> tuple[dict[str, tuple[str, list[int], bytes]], dict[str, str]]:
    """Tensors (name -> dtype, shape, bytes) and metadata."""
    tensors: dict[str, tuple[str, list[int], bytes]] = {}
    for name in draw(st.lists(NAMES, max_size=5, unique=True)):
        dtype, shape = draw(st.sampled_from(sorted(TORCH))), draw(SHAPES)
        tensors[name] = (dtype, shape, bytes([len(tensors) % 2]) * (math.prod(shape) * DTYPE_BITS[dtype] // 8))
    return tensors, draw(st.dictionaries(NAMES, NAMES, max_size=3))


def as_torch(dtype: str, shape: list[int], data: bytes) -> torch.Tensor:
    if not data:
        return torch.empty(shape, dtype=TORCH[dtype])
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(TORCH[dtype]).reshape(shape)


@settings(deadline=None)
@given(written())
def test_reads_what_the_library_writes(case: tuple[dict[str, tuple[str, list[int], bytes]], dict[str, str]]) -> None:
    tensors, metadata = case
    data = safetensors.torch.save({name: as_torch(*tensor) for name, tensor in tensors.items()}, metadata or None)
    header = parse(data)
    assert header.metadata == metadata
    assert {e.name: (e.dtype, list(e.shape), data[e.start : e.stop]) for e in header.entries} == tensors
    assert all(e.file == "model.safetensors" for e in header.entries)
    stops = [header_stop(data[:PREFIX_BYTES], file_size=len(data), file="m"), *(e.stop for e in header.entries)]
    assert [e.start for e in header.entries] == stops[:-1]
    assert stops[-1] == len(data)


@pytest.mark.parametrize(("dtype", "shape", "size"), [("F4", [4], 2), ("F6_E2M3", [4], 3), ("F6_E3M2", [2, 2], 3)])
def test_packed_dtypes(dtype: str, shape: list[int], size: int) -> None:
    data = safetensors_bytes({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, b"\0" * size)
    (entry,) = parse(data).entries
    assert (entry.dtype, entry.stop - entry.start, entry.n_elements) == (dtype, size, 4)
    assert deserialize(data)[0][1]["dtype"] == dtype


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_bits_of_every_dtype_are_those_of_the_library(dtype: str) -> None:
    right = DTYPE_BITS[dtype]
    for size in (right - 1, right, right + 1):
        data = safetensors_bytes({"a": {"dtype": dtype, "shape": [8], "data_offsets": [0, size]}}, b"\0" * size)
        if size == right:
            assert deserialize(data)
            assert parse(data).entries
        else:
            with pytest.raises(safetensors.SafetensorError):
                deserialize(data)
            with pytest.raises(HeaderError):
                parse(data)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("{}", b""),
        ("{} \n\t\r", b""),
        ('{"__metadata__":null}', b""),
        ('{"__metadata__":{"k":"\\ud83d\\ude00"}}', b""),
        (f'{{"":{GOOD}}}', FOUR),
        (f'{{"\\u0000\\u001b\x7f":{GOOD}}}', FOUR),
        (f'{{"a/../b":{GOOD}}}', FOUR),
        ('{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', FOUR),
        ('{"a":{"dtype":"F32","shape":[0,18446744073709551615,2],"data_offsets":[0,0]}}', b""),
        (f'{{"a":{GOOD[:-1]},"x":[-1,1.5,{{"y":{"9" * 30}}}]}}}}', FOUR),
        (f'{{"a":{GOOD[:-1]},"x":{"[" * 125}{"]" * 125}}}}}', FOUR),
    ],
)
def test_odd_but_valid(text: str, data: bytes) -> None:
    whole = safetensors_bytes(text, data)
    assert [e.name for e in parse(whole).entries] == [name for name, _ in deserialize(whole)]


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str) -> None:
    data, words = MALFORMED[name]
    with pytest.raises(HeaderError) as caught:
        parse(data)
    error = caught.value
    assert words in error.fault
    assert (error.repo, error.file, error.stage) == ("owner/name", "model.safetensors", "header")
    assert str(error) == f"owner/name/model.safetensors: not a valid safetensors file: {error.fault}"
    assert len(error.fault) < 400
    assert error.fault.isprintable()


def test_corpus_is_refused_by_the_library_too(tmp_path: Path) -> None:
    """All of the corpus but what is refused for the format's description alone."""
    accepted = set()
    for name, data in malformed_files().items():
        path = tmp_path / name
        path.write_bytes(data)
        try:
            with safetensors.safe_open(path, framework="np"):
                accepted.add(name)
        except (safetensors.SafetensorError, OSError):
            pass
    assert accepted <= {
        "leading-space",
        "tensor-twice",
        "tensor-twice-escaped",
        "metadata-key-twice",
        "tensor-list",
        "dtype-object",
    }


def test_read_that_stops_inside_the_header() -> None:
    data = safetensors_bytes(f'{{"a":{GOOD}}}', FOUR)
    stop = header_stop(data[:PREFIX_BYTES], file_size=len(data), file="m")
    assert parse_header(memoryview(data)[:stop], file_size=len(data), file="m").entries
    with pytest.raises(HeaderError, match=f"only {stop - 1} bytes could be read of a header that stops at byte {stop}"):
        parse_header(data[: stop - 1], file_size=len(data), file="m")
    with pytest.raises(HeaderError, match="of which 3 could be read"):
        header_stop(data[:3], file_size=len(data), file="m")


@pytest.mark.parametrize("n", [8, 23, 40])
def test_lfs_pointer_is_known_by_any_prefix(n: int) -> None:
    pointer = MALFORMED["lfs-pointer"][0]
    with pytest.raises(HeaderError, match="git-lfs pointer"):
        header_stop(pointer[:n], file_size=len(pointer), file="m")


# The header as a list of JSON fragments: mutations swap, drop and repeat them, so that most results are nearly valid.
_FRAGMENTS = [
    *("{", "}", "[", "]", ",", ":", '"a"', '"b"', '"\\u0061"', '"__metadata__"', '"dtype"', '"shape"'),
    *('"data_offsets"', '"F32"', '"U8"', '"F4"', '"C64"', "0", "1", "2", "4", "8", "-0", "-1", "1.0", "1e3", "01"),
    *("18446744073709551615", "18446744073709551616", "true", "null", "NaN", '"\\ud800"', '"é"', "\n", " ", "\0"),
]
_TENSOR = ["{", '"dtype"', ":", '"F32"', ",", '"shape"', ":", "[", "1", "]", ",", '"data_offsets"', ":", "["]
_HEADER = [
    *("{", '"__metadata__"', ":", "{", '"a"', ":", '"b"', "}", ",", '"a"', ":", *_TENSOR, "0", ",", "4", "]", "}"),
    *(",", '"b"', ":", *_TENSOR, "4", ",", "8", "]", "}", "}"),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    parts = list(_HEADER)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(parts) - 1))
        stop = at + draw(st.integers(0, 2))
        parts[at:stop] = draw(st.lists(st.sampled_from(_FRAGMENTS), max_size=3))
        parts = parts or ["{"]
    data = safetensors_bytes("".join(parts), b"\0" * draw(st.sampled_from([8, 8, 8, 4, 0, 9])))
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + draw(st.binary(min_size=1, max_size=1)) + data[at + 1 :]
    return data


@settings(max_examples=800, deadline=None)
@given(mutated())
@example(safetensors_bytes("".join(_HEADER), b"\0" * 8))
def test_refuses_whatever_the_library_refuses(data: bytes) -> None:
    try:
        header = parse(data)
    except HeaderError:
        return  # where the library is laxer is listed in `test_corpus_is_refused_by_the_library_too`
    theirs = {name: (d["dtype"], tuple(d["shape"]), bytes(d["data"])) for name, d in deserialize(data)}
    assert {e.name: (e.dtype, e.shape, data[e.start : e.stop]) for e in header.entries} == theirs


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=64), st.booleans())
def test_random_bytes_give_one_error_or_a_header(noise: bytes, framed: bool) -> None:
    data = safetensors_bytes(b"{" + noise) if framed else noise
    try:
        parse(data)
    except HeaderError:
        return
    deserialize(data)
