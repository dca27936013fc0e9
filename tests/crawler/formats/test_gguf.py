"""GGUF headers: what gguf-py wrote is read back, in few reads, and no hostile file does more than fail."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.crawler.architectures import resolve_roles
from provenance.crawler.formats.gguf import MAX_HEADER_BYTES, TYPES
from provenance.crawler.formats.gguf_facts import config_of
from provenance.crawler.formats.header import FileHeader, read_header
from provenance.crawler.plan import SAMPLE_SIZES, plan_matrices
from provenance.schemas.errors import HeaderError
from tests.conftest import LLAMA_CONFIG, llama
from tests.support.dossiers import MemoryReader
from tests.support.gguf_files import ARRAY, CODES, STRING, Pair, raw_gguf, text, value_bytes, write_gguf

FILE = "model.gguf"
F32 = 0
ONE = [("a", [4], F32, 0)]


def header(content: bytes) -> FileHeader:
    return read_header(MemoryReader({FILE: content}), FILE, "org/name")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / FILE
    return write_gguf(path, llama(1, layers=2), {**LLAMA_CONFIG, "num_hidden_layers": 2}, "Q8_0")


# ---------------------------------------------------------------- what is read


def test_tensors_and_metadata_are_those_of_the_reference_reader(written: Path) -> None:
    expected = gguf.GGUFReader(written)
    found = header(written.read_bytes())
    assert [(e.name, e.dtype, e.shape[::-1], e.start, e.stop) for e in found.entries] == [
        (t.name, t.tensor_type.name, tuple(t.shape), t.data_offset, t.data_offset + t.n_bytes)
        for t in sorted(expected.tensors, key=lambda t: t.data_offset)
    ]
    assert found.gguf is not None
    own = {k: f.contents() for k, f in expected.fields.items() if not k.startswith(("GGUF.", "tokenizer."))}
    assert dict(found.gguf) == own


scalars = st.sampled_from(sorted(CODES)).flatmap(
    lambda kind: st.tuples(
        st.just(kind),
        st.booleans()
        if CODES[kind] == "?"
        else st.floats(width=32, allow_nan=False)
        if CODES[kind] in "fd"
        else st.integers(*_limits(CODES[kind])),
    )
)


def _limits(code: str) -> tuple[int, int]:
    bits = 8 * struct.calcsize("<" + code)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if code.islower() else (0, 2**bits - 1)


plain = scalars | st.tuples(st.just(STRING), st.text(st.characters(codec="utf-8"), max_size=20))
arrays = st.lists(plain, max_size=5).flatmap(
    lambda items: st.just((ARRAY, (items[0][0], [v for k, v in items if k == items[0][0]]) if items else (4, [])))
)
nested = st.lists(arrays, max_size=3).map(lambda items: (ARRAY, (ARRAY, [value for _, value in items])))


@given(
    st.dictionaries(st.text("abc.", min_size=1, max_size=8), plain | arrays | nested, max_size=8),
    st.sampled_from([2, 3]),
)
def test_every_type_of_metadata_is_read_or_stepped_over(values: dict[str, tuple[int, Any]], version: int) -> None:
    pairs: list[Pair] = [(key, kind, value) for key, (kind, value) in values.items()]
    found = header(raw_gguf(pairs, ONE, bytes(16), version=version))
    assert [(e.name, e.shape, e.stop - e.start) for e in found.entries] == [("a", (4,), 16)]
    assert found.gguf is not None
    for key, (kind, value) in values.items():
        if kind != ARRAY:
            assert found.gguf[key] == value
        elif value[0] == ARRAY:
            assert key not in found.gguf
        else:
            assert found.gguf[key] == tuple(value[1])


def test_the_tokenizer_is_stepped_over_in_few_reads() -> None:
    rng = random.Random(1)
    tokens = [rng.randbytes(rng.randrange(1, 12)).hex() for _ in range(100_000)]
    pairs: list[Pair] = [
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.scores", ARRAY, (6, [0.5] * 100_000)),
        ("general.architecture", STRING, "llama"),
    ]
    content = raw_gguf(pairs, ONE, bytes(16))
    reader = MemoryReader({FILE: content})
    found = read_header(reader, FILE, "org/name")
    assert found.gguf == {"general.architecture": "llama"}
    assert reader.requests <= 6
    assert reader.bytes_read < len(content) - 300_000  # the numbers are jumped over


def test_long_arrays_and_strings_of_the_model_are_not_kept_either() -> None:
    pairs: list[Pair] = [
        ("a.long", ARRAY, (4, list(range(5000)))),
        ("a.many", ARRAY, (STRING, ["x"] * 100)),
        ("a.text", STRING, "x" * 5000),
        ("a.heads", ARRAY, (4, [8, 0, 8])),
    ]
    assert header(raw_gguf(pairs, ONE, bytes(16))).gguf == {"a.heads": (8, 0, 8)}


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
def test_data_begins_at_the_alignment(alignment: int) -> None:
    pairs: list[Pair] = [("general.alignment", 4, alignment)]
    content = raw_gguf(pairs, ONE, bytes(16), alignment=alignment)
    (entry,) = header(content).entries
    assert entry.start == len(content) - 16
    assert entry.start % alignment == 0


def test_a_tensor_of_an_unknown_type_ends_where_the_next_begins() -> None:
    content = raw_gguf(tensors=[("b", [64], 36, 32), ("a", [4], F32, 0), ("c", [4], F32, 64)], data=bytes(96))
    found = header(content).entries
    assert [(e.name, e.dtype, e.stop - e.start) for e in found] == [
        ("a", "F32", 16),
        ("b", "GGML_36", 32),
        ("c", "F32", 16),
    ]
    assert [t.role.value for t in resolve_roles(found, None).tensors] == ["other"] * 3
    assert {plan.entry.name for plan in plan_matrices(resolve_roles(found, None).tensors, None)} == {"a", "c"}


def test_types_are_those_of_the_package() -> None:
    known = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
    assert {number: known[number] for number in TYPES} == TYPES


# ---------------------------------------------------------------- hostile files

HUGE = 2**63
_DEEP = b"".join(struct.pack("<IQ", ARRAY, 1) for _ in range(200)) + struct.pack("<IQ", 4, 0)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "tensors": (raw_gguf(n_tensors=HUGE), "announces 9,223,372,036,854,775,808 tensors"),
    "pairs": (raw_gguf(n_pairs=HUGE), "announces 9,223,372,036,854,775,808 metadata pairs"),
    "many-tensors": (raw_gguf(n_tensors=300_000, data=bytes(8_000_000)), "no model has so many"),
    "long-key": (raw_gguf([(" " * 2000, 4, 1)]), "a metadata key has 2,000 bytes"),
    "key-beyond-file": (
        raw_gguf(n_pairs=1, data=struct.pack("<Q", HUGE) + bytes(64), alignment=1), "a metadata key has",
    ),
    "string-beyond-file": (raw_gguf([("a", STRING, struct.pack("<Q", HUGE))], data=bytes(64)), "goes on to byte"),
    "strings-beyond-file": (raw_gguf([("a", ARRAY, struct.pack("<IQ", STRING, HUGE))]), "strings, and"),
    "one-string-beyond-file": (
        raw_gguf([("a", ARRAY, struct.pack("<IQQ", STRING, 100, HUGE))], data=bytes(2000)), "goes on to byte",
    ),
    "numbers-beyond-file": (raw_gguf([("a", ARRAY, struct.pack("<IQ", 12, HUGE))]), "numbers, and"),
    "arrays-beyond-file": (raw_gguf([("a", ARRAY, struct.pack("<IQ", ARRAY, HUGE))]), "arrays, and"),
    "deep-arrays": (raw_gguf([("a", ARRAY, _DEEP)]), "nested more than 4 deep"),
    "unknown-value": (raw_gguf([("a", 13, b"")], data=bytes(64)), "unknown type 13"),
    "unknown-element": (raw_gguf([("a", ARRAY, struct.pack("<IQ", 77, 1))], data=bytes(64)), "unknown type 77"),
    "key-twice": (raw_gguf([("a", 4, 1), ("a", 4, 2)]), "the metadata 'a' twice"),
    "key-not-utf-8": (raw_gguf([("a", 4, 1)]).replace(text("a"), text(b"\xff")), "a metadata key is not UTF-8"),
    "alignment-zero": (raw_gguf([("general.alignment", 4, 0)]), "alignment is 0"),
    "alignment-odd": (raw_gguf([("general.alignment", 4, 48)]), "alignment is 48"),
    "alignment-huge": (raw_gguf([("general.alignment", 10, HUGE)]), "must be a power of two"),
    "alignment-text": (raw_gguf([("general.alignment", STRING, "32")]), "must be a power of two"),
    "past-the-end": (raw_gguf(tensors=[("a", [4], F32, 32)], data=bytes(32)), "stops at byte"),
    "huge-offset": (raw_gguf(tensors=[("a", [4], F32, 2**64 - 32)], data=bytes(32)), "stops at byte"),
    "unknown-past-the-end": (raw_gguf(tensors=[("a", [4], 99, 2**40)], data=bytes(32)), "stops at byte"),
    "overlap": (raw_gguf(tensors=[("a", [16], F32, 0), ("b", [4], F32, 32)], data=bytes(64)), "overlaps the next"),
    "same-place": (raw_gguf(tensors=[("a", [4], F32, 0), ("b", [4], F32, 0)], data=bytes(64)), "overlaps the next"),
    "unaligned": (raw_gguf(tensors=[("a", [4], F32, 4)], data=bytes(64)), "not a multiple of 32"),
    "overflow": (raw_gguf(tensors=[("a", [2**32, 2**32], F32, 0)], data=bytes(64)), "overflows"),
    "overflow-with-zero": (raw_gguf(tensors=[("a", [2**63, 2, 0], F32, 0)], data=bytes(64)), "overflows"),
    "five-dimensions": (raw_gguf(tensors=[("a", [1] * 5, F32, 0)], data=bytes(64)), "has 5 dimensions"),
    "many-dimensions": (
        raw_gguf(n_tensors=1, data=text("a") + struct.pack("<I", 2**32 - 1) + bytes(64), alignment=1), "dimensions",
    ),
    "no-whole-block": (raw_gguf(tensors=[("a", [40, 2], 8, 0)], data=bytes(640)), "no whole blocks of Q8_0"),
    "block-scalar": (raw_gguf(tensors=[("a", [], 8, 0)], data=bytes(64)), "no whole blocks of Q8_0"),
    "name-twice": (raw_gguf(tensors=[("a", [4], F32, 0), ("a", [4], F32, 32)], data=bytes(64)), "two tensors of one"),
    "name-not-utf-8": (raw_gguf(tensors=[(b"\xff", [4], F32, 0)], data=bytes(64)), "name of a tensor is not UTF-8"),
    "cut-in-the-table": (raw_gguf(tensors=ONE)[:40], "goes on to byte"),
    "magic-alone": (b"GGUF", "goes on to byte"),
    "version-1": (raw_gguf(version=1), "version 1; versions 2 and 3 are read"),
    "version-4": (raw_gguf(version=4), "version 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_in_words(kind: str) -> None:
    content, words = HOSTILE[kind]
    reader = MemoryReader({FILE: content})
    with pytest.raises(HeaderError) as caught:
        read_header(reader, FILE, "org/name")
    assert str(caught.value).startswith(f"org/name/{FILE}: ")
    assert words in str(caught.value)
    assert reader.requests <= 3


class Endless:
    """A file that goes on as it begins: the same bytes again and again after its start."""

    def __init__(self, start: bytes, unit: bytes) -> None:
        self.start, self.unit = start, unit
        self.bytes_read = self.requests = self.largest = 0

    def size(self, path: str) -> int:
        return 2**50

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        for low, high in ranges:
            self.requests += 1
            self.bytes_read += high - low
            self.largest = max(self.largest, high - low)
            head = self.start[low:high]
            at = (low + len(head) - len(self.start)) % len(self.unit)
            n = (high - low) // len(self.unit) + 2
            yield head + (self.unit * n)[at : at + high - low - len(head)]


def without_end(inner: int, count: int, unit: bytes) -> Endless:
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("tokenizer.ggml.tokens")
    return Endless(start + struct.pack("<IIQ", ARRAY, inner, count), unit)


def test_a_header_without_end_is_given_up() -> None:
    reader = without_end(STRING, 4_000_000, struct.pack("<Q", 70_000) + bytes(70_000))
    with pytest.raises(HeaderError, match="which is none of a model"):
        read_header(reader, FILE, "org/name")
    assert reader.bytes_read < 1.2 * MAX_HEADER_BYTES
    assert reader.largest <= 4 * 1024 * 1024
    assert reader.requests < 100


@pytest.mark.parametrize(
    ("inner", "count", "unit"),
    [(STRING, 2**31, bytes(8)), (ARRAY, 2**31, struct.pack("<IQ", 4, 0)), (ARRAY, 5000, struct.pack("<IQ", 4, 0))],
    ids=["empty-strings", "empty-arrays", "some-arrays"],
)
def test_counts_that_no_tokenizer_has_are_refused(inner: int, count: int, unit: bytes) -> None:
    reader = without_end(inner, count, unit)
    with pytest.raises(HeaderError, match=r"it announces [0-9,]+ (strings|arrays); no model has so many"):
        read_header(reader, FILE, "org/name")
    assert reader.requests == 1


def mutations(content: bytes, n: int) -> Iterator[bytes]:
    """The file with a few bytes flipped, numbers replaced, runs cut out, doubled or lost at the end."""
    rng = random.Random(20260101)
    head = min(len(content), 12_000)
    extremes = [0, 1, 2**16, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
    for _ in range(n):
        mutant = bytearray(content)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(head)
            kind = rng.randrange(5)
            if kind == 0:
                mutant[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                size = rng.choice([4, 8])
                mutant[at : at + size] = (rng.choice(extremes) % 2 ** (8 * size)).to_bytes(size, "little")
            elif kind == 2:
                del mutant[at : at + rng.randrange(1, 64)]
            elif kind == 3:
                mutant[at:at] = mutant[at : at + rng.randrange(1, 64)]
            else:
                del mutant[rng.randrange(len(mutant)) :]
            head = max(1, min(head, len(mutant)))
            if not mutant:
                mutant = bytearray(b"GGUF")
        head = min(len(content), 12_000)
        yield b"GGUF" + bytes(mutant[4:])


def test_two_thousand_mutations_are_read_or_refused(written: Path) -> None:
    outcomes = {"read": 0, "refused": 0}
    for mutant in mutations(written.read_bytes(), 2000):
        try:
            found = header(mutant)
        except HeaderError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        assert found.gguf is not None
        resolved = resolve_roles(found.entries, config_of(found.gguf, found.entries))
        for size in (None, SAMPLE_SIZES["small"]):
            for plan in plan_matrices(resolved.tensors, size):
                assert plan.offset + plan.rows * plan.row_bytes <= len(mutant)
    assert min(outcomes.values()) > 100, outcomes


def test_value_bytes_writes_what_numpy_reads() -> None:
    assert np.frombuffer(value_bytes(ARRAY, (4, [1, 2]))[12:], "<u4").tolist() == [1, 2]
