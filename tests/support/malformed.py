"""Files that violate the safetensors format, as data: name -> (bytes, text that the error must contain)."""

from __future__ import annotations

import json

GOOD = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
FOUR = b"\0" * 4


def safetensors_bytes(header: str | bytes | dict[str, object], data: bytes = b"") -> bytes:
    """A file with this header, right or wrong, and this data."""
    if isinstance(header, dict):
        header = json.dumps(header)
    raw = header.encode() if isinstance(header, str) else header
    return len(raw).to_bytes(8, "little") + raw + data


def _one(data: bytes = FOUR, **changed: object) -> bytes:
    """A file with one tensor `a`, one F32 number unless `changed`."""
    return safetensors_bytes({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changed}}, data)


def _two(first: tuple[int, int], second: tuple[int, int], size: int) -> bytes:
    """A file with two U8 tensors at these offsets and `size` bytes of data."""
    tensors = {
        name: {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
        for name, (start, stop) in (("a", first), ("b", second))
    }
    return safetensors_bytes({**tensors}, b"\0" * size)


def _tensor(body: str, data: bytes = FOUR) -> bytes:
    """A file with one tensor `a` described by raw JSON."""
    return safetensors_bytes(f'{{"a":{body}}}', data)


_LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4665a5ea423c2713d436b5ee50593a9640e0018c1550b5a0002f74190d6caea8\nsize 548105171\n"
)
_DEEP = 100_000

MALFORMED: dict[str, tuple[bytes, str]] = {
    # the length
    "empty": (b"", "the file is empty"),
    "seven-bytes": (b"\2\0\0\0\0\0\0", "the file has 7 bytes"),
    "length-beyond-file": ((100).to_bytes(8, "little") + b"{}", "stops at byte 108 but the file has 10 bytes"),
    "length-beyond-limit": ((100_000_001).to_bytes(8, "little") + b"{}", "announces a header of 100,000,001 bytes"),
    "length-all-ones": (b"\xff" * 8 + b"{}", "announces a header of 18,446,744,073,709,551,615 bytes"),
    "lfs-pointer": (_LFS, "git-lfs pointer"),
    "html-page": (b"<!DOCTYPE html><html><body>404</body></html>", "it is a web page"),
    "rar-archive": (b"Rar!\x1a\x07\x01\0\0\0\0\0archive/data.pkl", "announces a header"),
    "server-answer": (b'{"error": "gated repo"}', "it is JSON text"),
    "apple-double": (b"\0\5\x16\7\0\2\0\0" + bytes(60), "it is a side file of macOS"),
    "zero-length": (safetensors_bytes(""), "must start with '{'"),
    # the JSON
    "leading-space": (safetensors_bytes(f' {{"a":{GOOD}}}', FOUR), "must start with '{'"),
    "byte-order-mark": (safetensors_bytes(b"\xef\xbb\xbf{}"), "must start with '{'"),
    "list": (safetensors_bytes("[]"), "must start with '{'"),
    "not-utf8": (safetensors_bytes(b'{"\xff":1}'), "not UTF-8: invalid start byte at byte 2"),
    "utf8-surrogate": (safetensors_bytes(b'{"\xed\xa0\x80":1}'), "not UTF-8"),
    "unclosed": (safetensors_bytes('{"a":'), "not JSON"),
    "trailing-text": (safetensors_bytes("{}x"), "not JSON: Extra data"),
    "trailing-nul": (safetensors_bytes("{}\0"), "not JSON"),
    "single-quotes": (safetensors_bytes("{'a':1}"), "not JSON"),
    "trailing-comma": (safetensors_bytes(f'{{"a":{GOOD},}}', FOUR), "not JSON"),
    "raw-control-character": (safetensors_bytes(f'{{"\n":{GOOD}}}', FOUR), "not JSON: Invalid control character"),
    "nan": (_tensor('{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}'), "NaN is no number"),
    "infinity": (_tensor('{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":-Infinity}'), "-Infinity is no number"),
    "number-out-of-range": (_tensor('{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1e999}'), "out of range"),
    "five-thousand-digits": (_tensor(f'{{"dtype":"F32","shape":[{"9" * 5000}],"data_offsets":[0,4]}}'), "out of range"),
    "leading-zero": (_tensor('{"dtype":"F32","shape":[01],"data_offsets":[0,4]}'), "not JSON"),
    "deep-lists": (safetensors_bytes('{"a":' + "[" * _DEEP + "]" * _DEEP + "}"), "nested too deeply"),
    "deep-objects": (safetensors_bytes('{"a":' * _DEEP + "1" + "}" * _DEEP), "nested too deeply"),
    "deep-and-unclosed": (safetensors_bytes('{"a":' + "[" * _DEEP), "nested too deeply"),
    "deep-shape": (_one(shape=json.loads("[" * 300 + "]" * 300)), "has the shape [[[[[["),
    "deep-unknown-field": (_one(x=json.loads("[" * 126 + "]" * 126)), "tensor 'a' is nested too deeply"),
    "lone-surrogate": (safetensors_bytes(f'{{"\\ud800":{GOOD}}}', FOUR), "lone surrogate"),
    "lone-surrogate-in-metadata": (safetensors_bytes('{"__metadata__":{"k":"\\uDFFF"}}'), "lone surrogate"),
    "lone-surrogate-in-unknown-field": (_one(x="\ud800"), "lone surrogate"),
    # keys
    "tensor-twice": (safetensors_bytes(f'{{"a":{GOOD},"a":{GOOD}}}', FOUR), "gives 'a' twice"),
    "tensor-twice-escaped": (safetensors_bytes(f'{{"a":{GOOD},"\\u0061":{GOOD}}}', FOUR), "gives 'a' twice"),
    "field-twice": (
        _tensor('{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}'),
        "gives 'dtype' twice",
    ),
    "metadata-twice": (safetensors_bytes('{"__metadata__":{},"__metadata__":{}}'), "gives '__metadata__' twice"),
    "metadata-key-twice": (safetensors_bytes('{"__metadata__":{"k":"1","k":"2"}}'), "gives 'k' twice"),
    "metadata-number": (safetensors_bytes({"__metadata__": {"k": 1}}), "__metadata__ must map strings to strings"),
    "metadata-nested": (safetensors_bytes({"__metadata__": {"k": {}}}), "__metadata__ must map strings to strings"),
    "metadata-list": (safetensors_bytes({"__metadata__": ["k"]}), "__metadata__ must map strings to strings"),
    # one tensor
    "tensor-null": (_tensor("null"), "tensor 'a' must be an object, not None"),
    "tensor-list": (_tensor('["F32",[1],[0,4]]'), "tensor 'a' must be an object"),
    "no-dtype": (_tensor('{"shape":[1],"data_offsets":[0,4]}'), "tensor 'a' has no dtype"),
    "no-shape": (_tensor('{"dtype":"F32","data_offsets":[0,4]}'), "tensor 'a' has no shape"),
    "no-offsets": (_tensor('{"dtype":"F32","shape":[1]}'), "tensor 'a' has no data_offsets"),
    "dtype-unknown": (_one(dtype="F31"), "unknown dtype 'F31'"),
    "dtype-lower-case": (_one(dtype="f32"), "unknown dtype 'f32'"),
    "dtype-null": (_one(dtype=None), "unknown dtype None"),
    "dtype-list": (_one(dtype=["F32"]), "unknown dtype ['F32']"),
    "dtype-object": (_one(dtype={"F32": None}), "unknown dtype {'F32': None}"),
    "shape-negative": (_one(shape=[-1]), "has the shape [-1.0]"),
    "shape-minus-zero": (_tensor('{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}', b""), "has the shape [-0.0]"),
    "shape-float": (_one(shape=[1.0]), "has the shape [1.0]"),
    "shape-bool": (_one(shape=[True]), "has the shape [True]"),
    "shape-string": (_one(shape="1"), "has the shape '1'"),
    "shape-strings": (_one(shape=["1"]), "has the shape ['1']"),
    "shape-null": (_one(shape=None), "has the shape None"),
    "shape-beyond-u64": (_one(b"", shape=[0, 2**64], data_offsets=[0, 0]), "has the shape [0, 1.84"),
    "shape-overflow": (_one(shape=[2**32, 2**32]), "overflows 64 bits"),
    "shape-overflow-to-zero": (_one(b"", shape=[2**63, 2, 0], data_offsets=[0, 0]), "overflows 64 bits"),
    "bits-overflow": (_one(shape=[2**60]), "overflows 64 bits"),
    "size-wraps-to-four": (_one(shape=[2**62 + 1]), "overflows 64 bits"),
    "size-too-small": (_one(shape=[2]), "has 4 bytes of data, but dtype F32 and shape [2] make 8"),
    "size-too-large": (_one(shape=[0]), "has 4 bytes of data, but dtype F32 and shape [0] make 0"),
    "half-a-byte": (_one(b"\0\0", dtype="F4", shape=[3], data_offsets=[0, 2]), "does not end on a whole byte"),
    "three-quarters-of-a-byte": (_one(b"\0", dtype="F6_E2M3", shape=[1], data_offsets=[0, 1]), "whole byte"),
    "offsets-missing-one": (_one(data_offsets=[0]), "has the data_offsets [0]"),
    "offsets-three": (_one(data_offsets=[0, 4, 4]), "has the data_offsets [0, 4, 4]"),
    "offsets-negative": (_one(data_offsets=[-4, 0]), "has the data_offsets [-4.0,"),
    "offsets-float": (_one(data_offsets=[0, 4.0]), "has the data_offsets [0, 4.0]"),
    "offsets-bool": (_one(b"\0", dtype="U8", data_offsets=[False, True]), "has the data_offsets [False, True]"),
    "offsets-backwards": (_one(data_offsets=[4, 0]), "stops at offset 0, before its start 4"),
    "name-long-and-strange": (
        safetensors_bytes({"\x1b[31m" + "n" * 10_000: {"dtype": "F32", "shape": [1]}}, FOUR),
        "tensor '\\x1b[31m",
    ),
    # the tensors together
    "hole-before-first": (_two((1, 2), (2, 3), 3), "starts at offset 1 and leaves a hole"),
    "hole-between": (_two((0, 1), (2, 3), 3), "starts at offset 2 and leaves a hole"),
    "overlap": (_two((0, 2), (1, 3), 3), "starts at offset 1 and overlaps"),
    "same-bytes-twice": (_two((0, 2), (0, 2), 2), "starts at offset 0 and overlaps"),
    "bytes-after-last": (_two((0, 1), (1, 2), 3), "its tensors stop at byte"),
    "truncated-data": (_two((0, 1), (1, 4), 3), "its tensors stop at byte"),
    "no-data": (_one(b""), "its tensors stop at byte"),
    "bytes-without-tensors": (safetensors_bytes("{}", b"\0"), "its tensors stop at byte 10 but the file has 11 bytes"),
}


def malformed_files() -> dict[str, bytes]:
    """Name -> full bytes of a file that is not valid safetensors."""
    return {name: data for name, (data, _) in MALFORMED.items()}
