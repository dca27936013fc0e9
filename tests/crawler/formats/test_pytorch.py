"""PyTorch files: tables equal to what torch reads, hostile pickles read to an outcome, nothing ever executed."""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from provenance.crawler.formats import pickled, zip_members
from provenance.crawler.formats.dtypes import decode, is_numeric
from provenance.crawler.formats.header import read_header
from provenance.crawler.formats.pickled import OffListError, View, tensors_of
from provenance.crawler.local.reader import LocalReader
from provenance.schemas.errors import CheckpointError, HeaderError, SkippedCheckpoint, WeightsError
from provenance.schemas.tensors import Order, TensorEntry
from tests.crawler.formats.test_safetensors import TORCH


class Bytes:
    """A `TensorReader` of one file in memory that counts what is read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.bytes_read, self.requests = data, 0, 0

    def size(self, path: str) -> int:
        return len(self.data)

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        for start, stop in ranges:
            assert 0 <= start <= stop <= len(self.data)
            self.bytes_read += stop - start
            self.requests += 1
            yield self.data[start:stop]


def saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def table(data: bytes) -> dict[str, TensorEntry]:
    return {entry.name: entry for entry in read_header(Bytes(data), "pytorch_model.bin", "o/r").entries}


def archive(pickle_data: bytes, members: Mapping[str, bytes] = {}, **options: Any) -> bytes:
    """A zip as torch writes it, around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as zipped:
        for name, content in {"data.pkl": pickle_data, "byteorder": b"little", **members}.items():
            zipped.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def values(data: bytes, entry: TensorEntry) -> Any:
    flat = decode(data[entry.start : entry.stop], entry.dtype)
    return flat.reshape(entry.shape[::-1]).T if entry.order is Order.COLUMNS else flat.reshape(entry.shape)


MATRIX = torch.arange(48, dtype=torch.float32).reshape(6, 8)
VIEWS = {
    "whole": MATRIX,
    "transposed": MATRIX.t(),
    "rows": MATRIX[2:5],
    "row": MATRIX[3],
    "one row": MATRIX[3:4],
    "a column of one": MATRIX[:, 2:3].t(),
    "blocks": MATRIX.view(2, 3, 8),
    "number": MATRIX[1, 1],
    "none": MATRIX[:0],
    "parameter": torch.nn.Parameter(MATRIX),
}


def test_every_view_reads_as_torch_reads_it() -> None:
    data = saved(VIEWS)
    found = table(data)
    assert list(found) == list(VIEWS)
    for name, view in VIEWS.items():
        entry = found[name]
        assert entry.shape == tuple(view.shape)
        if entry.order is not Order.APART:
            np.testing.assert_array_equal(values(data, entry), view.detach().numpy())
    assert {name for name, entry in found.items() if entry.order is Order.COLUMNS} == {"transposed"}
    assert {name for name, entry in found.items() if entry.order is Order.APART} == {"a column of one"}


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3).flatmap(
        lambda shape: st.tuples(st.just(shape), st.permutations(range(len(shape))), st.integers(0, 3))
    )
)
def test_permuted_and_cut_views_are_right_or_apart(drawn: tuple[list[int], list[int], int]) -> None:
    shape, order, first = drawn
    tensor = torch.randn([length + first for length in shape])[first:].permute(order)
    data = saved({"t": tensor})
    entry = table(data)["t"]
    assert entry.shape == tuple(tensor.shape)
    if entry.order is not Order.APART:
        np.testing.assert_array_equal(values(data, entry), tensor.numpy())
    elif tensor.dim() == 2:
        assert not tensor.is_contiguous()
        assert not tensor.t().is_contiguous()
    else:
        assert not tensor.is_contiguous()


@pytest.mark.parametrize("name", sorted(TORCH))
def test_every_dtype(name: str) -> None:
    tensor = torch.arange(5).to(torch.float32).to(TORCH[name])
    data = saved({"t": tensor})
    entry = table(data)["t"]
    assert entry.dtype == name
    assert data[entry.start : entry.stop] == bytes(tensor.view(torch.uint8).numpy())
    if is_numeric(name) and name != "F8_E8M0":
        np.testing.assert_array_equal(values(data, entry), tensor.to(torch.float64))


def test_tied_tensors_share_their_bytes() -> None:
    found = table(saved({"a": MATRIX, "b": MATRIX, "c": MATRIX.clone()}))
    assert (found["a"].start, found["a"].stop) == (found["b"].start, found["b"].stop)
    assert found["c"].start >= found["a"].stop


@pytest.mark.parametrize("key", ["state_dict", "model", "module", "model_state_dict"])
def test_the_state_dict_of_a_training_checkpoint(key: str) -> None:
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95)}]}
    extra = {"epoch": 3, "optimizer": optimizer, "loss": torch.tensor(1.0), "name": "x", "none": None, "best": True}
    assert list(table(saved({key: {"w": MATRIX}, **extra}))) == ["w"]
    assert list(table(saved({"model": {key: OrderedDict(w=MATRIX)}, **extra}))) == ["w"]


def test_a_module_with_metadata() -> None:
    state = torch.nn.TransformerEncoderLayer(8, 2, 16).half().state_dict()
    assert {name: (e.dtype, e.shape) for name, e in table(saved(state)).items()} == {
        name: ("F16", tuple(tensor.shape)) for name, tensor in state.items()
    }


@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_protocol_of_pickles(protocol: int) -> None:
    assert list(table(saved({"w": MATRIX}, pickle_protocol=protocol))) == ["w"]


def test_little_is_read_of_a_long_file() -> None:
    data = saved({f"layer.{n}": torch.zeros(300, 300) for n in range(40)})
    reader = Bytes(data)
    assert len(read_header(reader, "m.bin", "o/r").entries) == 40
    assert reader.bytes_read < 120_000
    assert reader.requests <= 4 + 1 + 40


def test_what_a_file_is_comes_from_its_first_bytes(tmp_path: Path) -> None:
    save_file({"w": MATRIX}, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").write_bytes(saved({"w": MATRIX}))
    for name in ("pytorch_model.bin", "model.safetensors"):
        with LocalReader(tmp_path, tmp_path) as reader:
            assert [entry.name for entry in read_header(reader, name, "o/r").entries] == ["w"]


def test_a_short_safetensors_header_is_no_pickle() -> None:
    text = b'{"__metadata__":{"x":"' + b"y" * (0x280 - 25) + b'"}}'
    data = len(text).to_bytes(8, "little") + text
    assert data.startswith(b"\x80\x02")
    assert read_header(Bytes(data), "model.bin", "o/r").entries == ()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (saved({"w": MATRIX}, _use_new_zipfile_serialization=False), "before version 1.6; save it again"),
        (pickle.dumps({"w": 1}, protocol=4), "a plain pickle"),
        (b"\0" * 257 + b"ustar" + b"\0" * 300, "a tar archive, as PyTorch wrote before version 0.1.10"),
        (b"lmgg" + b"\0" * 60, "an old GGML file"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 60, "HDF5"),
        (b"OPENVINO", "no format that is read: its first bytes are 4f 50 45 4e 56 49 4e 4f"),
        (b"", "it is empty"),
    ],
)
def test_other_formats_are_skipped_by_their_name(data: bytes, words: str) -> None:
    with pytest.raises(SkippedCheckpoint, match=words) as caught:
        table(data)
    assert str(caught.value).startswith("o/r/pytorch_model.bin ")


class Calls:
    """An object whose unpickling calls something."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


def never(*_: object) -> None:
    pytest.fail("executed")


class Never:
    def __init__(self) -> None:
        self.x = 1

    def __setstate__(self, state: object) -> None:
        pytest.fail("executed")


OFF_LIST = {
    "a system call": (pickle.dumps(Calls(exec, "raise SystemExit"), protocol=2), r"names __builtin__\.exec,"),
    "a system call of protocol 4": (pickle.dumps(Calls(exec, "1"), protocol=4), r"names builtins\.exec,"),
    "os.system": (b"cos\nsystem\n(S'touch /tmp/x'\ntR.", r"names os\.system,"),
    "a chain": (pickle.dumps({"w": Calls(getattr, Calls(never), "x")}), r"names builtins\.getattr,"),
    "an object": (pickle.dumps(Never(), protocol=2), "names .*Never,"),
    "an instance": (b"(S'a'\nios\nsystem\n.", "uses the opcode INST,"),
    "an extension": (b"\x80\x02\x82\x01.", "uses the opcode EXT1,"),
    "an old persistent id": (b"Pabc\n.", "uses the opcode PERSID,"),
    "a persistent id that is no storage": (b"\x80\x02K\x01Q.", "refers to something outside"),
    "control characters": (b"\x8c\x05\x1b[31m\x8c\x02\xd1\x8f\x93.", r"names \\x1b\[31m\.\\u044f,"),
    "a long name": (b"c" + b"a" * 10_000 + b"\nb\n.", r"names a{80}\.b,"),
    "a call of a number": (b"\x80\x02K\x01)R.", "calls something that is no function"),
    "a tensor of nothing": (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "arguments that PyTorch"),
    "a numpy array": (pickle.dumps(np.zeros(3), protocol=2), "names numpy"),
}


@pytest.mark.parametrize("case", OFF_LIST)
def test_what_is_not_on_the_list_is_named_and_never_executed(case: str) -> None:
    data, words = OFF_LIST[case]
    with pytest.raises(WeightsError, match=words) as caught:
        table(archive(data))
    assert "nothing of it was executed" in str(caught.value)
    assert str(caught.value).isprintable()


def storage(kind: str = "FloatStorage", key: str = "0", length: int = 4) -> bytes:
    """Opcodes that push a storage."""
    name = f"(X\x07\0\0\0storagectorch\n{kind}\nX".encode() + struct.pack("<I", len(key)) + key.encode()
    return name + b"X\x03\0\0\0cpu" + number(length) + b"tQ"


def number(value: int) -> bytes:
    raw = pickle.encode_long(value)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(*of: int) -> bytes:
    return b"(" + b"".join(map(number, of)) + b"t"


def tensor(offset: int, shape: bytes, stride: bytes, of: bytes = storage()) -> bytes:
    """A pickle of one tensor named `w`."""
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + of + number(offset) + shape + stride + b"\x89NtR"
    return b"\x80\x02}X\x01\0\0\0w" + call + b"s."


MALFORMED = {
    "past the storage": (tensor(1, numbers(4), numbers(1)), "reaches past the end"),
    "strides past the storage": (tensor(0, numbers(2, 2), numbers(3, 1)), "reaches past the end"),
    "a huge stride": (tensor(0, numbers(2), numbers(2**62)), "reaches past the end"),
    "a negative stride": (tensor(3, numbers(4), numbers(-1)), "that is none"),
    "a negative offset": (tensor(-1, numbers(1), numbers(1)), "that is none"),
    "a count of 2**63": (tensor(0, numbers(2**63), numbers(0)), "that is none"),
    "endless repeats": (tensor(0, numbers(2**40, 2**40), numbers(0, 0)), "repeats its bytes"),
    "strides of another rank": (tensor(0, numbers(2), numbers(1, 1)), "different lengths"),
    "too many dimensions": (tensor(0, numbers(*[1] * 99), numbers(*[1] * 99)), "shape that is none"),
    "a shape that is a number": (tensor(0, number(1), numbers(1)), "shape that is none"),
    "a storage that is not there": (
        tensor(0, numbers(1), numbers(1), storage(key="../../etc/passwd")),
        "lacks the stor",
    ),
    "a storage longer than its member": (tensor(0, numbers(5), numbers(1), storage(length=5)), "shorter than"),
    "bytes without a dtype": (
        tensor(0, numbers(1), numbers(1), storage().replace(b"torch\nFloat", b"torch.storage\nUntyped")),
        "without a dtype",
    ),
    "no state dict": (pickle.dumps([1, 2, 3]), "no state dict"),
    "an empty one": (pickle.dumps({}), "no state dict"),
    "no end": (b"\x80\x02}", "pickle exhausted"),
    "an empty pickle": (b"", "pickle exhausted"),
    "no opcode": (b"\xff.", "unknown"),
    "an empty stack": (b"\x80\x02.", "never made"),
    "an unknown memo": (b"\x80\x02h\x07.", "never made"),
    "a container never opened": (b"\x80\x02t.", "never opened"),
    "half a pair": (b"\x80\x02}(K\x01u.", "zip"),
    "a long text without quotes": (b"S" + b"x" * 100_000 + b"\n.", "no string quotes"),
    "a text cut short": (b"\x80\x02X\xff\xff\xff\x7fabc", "expected"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_pickles_are_refused(case: str) -> None:
    data, words = MALFORMED[case]
    with pytest.raises(HeaderError, match=words) as caught:
        table(archive(data, {"data/0": b"\0" * 16}))
    assert str(caught.value).startswith("o/r/pytorch_model.bin: not a valid PyTorch file: ")
    assert len(str(caught.value)) < 400


def test_the_hand_made_pickle_is_sound() -> None:
    data = archive(tensor(1, numbers(3), numbers(1)), {"data/0": b"\0" * 16, "version": b"3\n"})
    assert table(data)["w"].shape == (3,)
    assert torch.load(io.BytesIO(data), weights_only=True)["w"].shape == (3,)


BOMBS = {
    "a list in itself a thousand times": b"\x80\x02" + b"]q\0" + b"h\0h\0h\0\x87q\0" * 10_000 + b".",
    "doubled lists": b"\x80\x02" + b"]q\0(h\0h\0e" * 10_000 + b".",
    "deep tuples": b"\x80\x02)" + b"\x85" * 100_000 + b".",
    "deep lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuples as keys": b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.",
    "far memos": b"\x80\x02" + b"Nr\xff\xff\xff\xff0" * 10_000 + b"}.",
    "long numbers as keys": b"\x80\x02}" + b"\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000 + b"q\0"
    b"K\x01s" + b"h\0K\x01s" * 100_000 + b".",
    "a long shape again and again": b"\x80\x02}(" + b"K\x01" * 100_000 + b"tq\0X\x01\0\0\0wctorch._utils\n"
    b"_rebuild_tensor_v2\n(" + storage() + b"K\0h\0h\0\x89NtR" + b"s.",
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_are_read_in_bounded_time_and_memory(case: str) -> None:
    with pytest.raises(HeaderError):
        table(archive(BOMBS[case]))


def test_too_many_opcodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "MAX_OPCODES", 100)
    with pytest.raises(ValueError, match="over 100 opcodes"):
        tensors_of(b"}" * 200 + b".")


def test_a_long_pickle_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provenance.crawler.formats.pytorch.MAX_PICKLE_BYTES", 100)
    with pytest.raises(HeaderError, match="longer than 100 bytes"):
        table(archive(b"N" * 200 + b"."))
    monkeypatch.setattr(pickled, "MAX_PICKLE_BYTES", 100)
    with pytest.raises(ValueError, match="at most 100"):
        tensors_of(b"N" * 200 + b".")


def test_views_that_read_a_storage_many_times() -> None:
    with pytest.raises(HeaderError, match="share their bytes more than 8 times"):
        table(saved({f"w{n}": MATRIX.new_zeros(100_000).fill_(1) if n == 0 else BIG for n in range(20)}))


BIG = torch.ones(100_000)


def big_endian() -> bytes:
    return archive(pickle.dumps({}), {"byteorder": b"big"})


def _patched(at: bytes, offset: int, value: bytes) -> bytes:
    data = bytearray(archive(tensor(0, numbers(1), numbers(1)), {"data/0": b"\0" * 16}))
    place = data.rindex(at) + offset
    data[place : place + len(value)] = value
    return bytes(data)


ARCHIVES = {
    "big-endian": (big_endian(), "big-endian"),
    "compressed": (archive(tensor(0, numbers(1), numbers(1)), compression=zipfile.ZIP_DEFLATED), "compressed"),
    "a zip of something else": (archive(b"").replace(b"data.pkl", b"data.xml"), "without the data.pkl"),
    "cut short": (saved({"w": MATRIX})[:-10], "list of members cannot be read"),
    "only a beginning": (b"PK\x03\x04" + b"\0" * 600, "list of members cannot be read"),
    "overlapping members": (_patched(b"PK\x01\x02", 42, struct.pack("<I", 70)), "overlaps|does not fit"),
    "a size past the end": (_patched(b"PK\x01\x02", 20, struct.pack("<2I", 10**9, 10**9)), "overlaps"),
    "a compressed size that differs": (_patched(b"PK\x01\x02", 20, struct.pack("<I", 7)), "compressed"),
    "encrypted": (_patched(b"PK\x01\x02", 8, b"\x01"), "encrypted"),
    "a local header of something else": (_patched(b"PK\x03\x04", 0, b"XX"), "does not fit"),
    "a local header that is too long": (_patched(b"PK\x03\x04", 28, b"\xff\xff"), "does not fit"),
    "a directory in the wild": (_patched(b"PK\x05\x06", 16, struct.pack("<I", 2**32 - 2)), "at the start of the file"),
    "something before the archive": (b"PK\x03\x04" + saved({"w": MATRIX}), "start of the file"),
    "long byte order": (archive(b"", {"byteorder": b"little" * 1000}), "neither little nor big"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_that_are_not_what_torch_writes(case: str) -> None:
    data, words = ARCHIVES[case]
    with pytest.raises(HeaderError, match=words):
        table(data)


def test_two_members_of_one_name() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("archive/data.pkl", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            zipped.writestr("archive/data.pkl", b"2")
    with pytest.raises(HeaderError, match="two members of the name"):
        table(buffer.getvalue())


def test_a_directory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_members, "MAX_DIRECTORY_BYTES", 2000)
    with pytest.raises(HeaderError, match="longer than 2,000 bytes"):
        table(saved({f"w{n}": torch.zeros(1) for n in range(30)}))


def test_an_archive_of_zip64() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name, content in {"data.pkl": tensor(0, numbers(4), numbers(1)), "data/0": b"\1" * 16}.items():
            with zipped.open(f"archive/{name}", "w", force_zip64=True) as member:
                member.write(content)
    data = buffer.getvalue()
    entry = table(data)["w"]
    assert data[entry.start : entry.stop] == b"\1" * 16


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_2000_mutations_end_in_a_table_or_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (("builtins", "exec"), ("os", "system"), ("subprocess", "Popen")):
        monkeypatch.setattr(sys.modules.get(module) or __import__(module), name, never)
    state = {"model.norm.weight": torch.ones(8), "a": MATRIX, "b": MATRIX.t(), "c": torch.zeros(3, dtype=torch.int64)}
    sources = [saved(state), saved({"model": state, "epoch": 1}, pickle_protocol=4), archive(OFF_LIST["a chain"][0])]
    dice = random.Random(7)
    refusals = []
    for n in range(2000):
        data = bytearray(sources[n % len(sources)])
        for _ in range(dice.choice((1, 1, 2, 8))):
            place = dice.randrange(len(data)) if dice.random() < 0.5 else dice.randrange(min(1500, len(data)))
            match dice.randrange(3):
                case 0:
                    data[place] = dice.randrange(256)
                case 1:
                    del data[place : place + dice.randrange(1, 9)]
                case _:
                    data[place:place] = dice.randbytes(dice.randrange(1, 9))
        try:
            for entry in read_header(Bytes(bytes(data)), "m.bin", "o/r").entries:
                assert 0 <= entry.start <= entry.stop <= len(data)
        except CheckpointError as error:
            refusals.append(str(error))
    assert 500 < len(refusals) < 2000
    assert all(message.startswith("o/r/m.bin") for message in refusals)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_2000_mutations_of_a_pickle() -> None:
    with zipfile.ZipFile(io.BytesIO(saved({"a": MATRIX, "b": {"c": [1, (2, 3)], "d": "e"}, "f": 1.5}))) as zipped:
        source = zipped.read("archive/data.pkl")
    assert {opcode.name for opcode, _, _ in pickletools.genops(source)} > {"BINPERSID", "REDUCE", "BINPUT"}
    dice = random.Random(8)
    for _ in range(2000):
        data = bytearray(source)
        for _ in range(dice.choice((1, 2, 6))):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            assert all(isinstance(view, View) for view in tensors_of(bytes(data)).values())
        except (ValueError, OffListError):
            continue
