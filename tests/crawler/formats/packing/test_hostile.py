"""Packed checkpoints that are broken, by chance or on purpose: a note or an error, and never a guess."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save

from provenance.crawler.fingerprint import fingerprint
from provenance.crawler.plan import SAMPLE_SIZES
from provenance.schemas.enums import Source
from provenance.schemas.errors import CheckpointError, WeightsError
from provenance.schemas.identity import CheckpointId
from provenance.schemas.records import Fingerprint, ListedCheckpoint, RepoFile
from tests.conftest import Tensors, llama
from tests.support.packed import CASES, bnb4, gptq, pack_all, pack_quantized, to_torch

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PREFIX = "model.layers.0.self_attn.q_proj"
MUTATIONS = 2000


@dataclass
class MemoryReader:
    """A repo of one weight file and a config."""

    files: dict[str, bytes]
    bytes_read: int = 0
    requests: int = 0

    def size(self, path: str) -> int:
        if path not in self.files:
            raise WeightsError(f"no file {path}")
        return len(self.files[path])

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        for start, stop in ranges:
            assert 0 <= start <= stop <= len(self.files[path]), "read past the end"
            self.bytes_read += stop - start
            self.requests += 1
            yield self.files[path][start:stop]


def read(tensors: Tensors, quantization: object = None, *, sampled: bool = False) -> Fingerprint:
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "quantization_config": quantization}
    files = {"model.safetensors": save(to_torch(tensors)), "config.json": json.dumps(config).encode()}
    return read_files(files, sampled=sampled)


def read_files(files: dict[str, bytes], *, sampled: bool) -> Fingerprint:
    reader = MemoryReader(files)
    listed = ListedCheckpoint(
        identity=CheckpointId("org/packed", "1" * 40),
        source=Source.LOCAL,
        weight_files=("model.safetensors",),
        files=(RepoFile("model.safetensors", len(files["model.safetensors"])),),
        config_file="config.json" if "config.json" in files else None,
    )
    return fingerprint(listed, reader, size=SAMPLE_SIZES["default"] if sampled else None, now=NOW)


@cache
def one_layer() -> Tensors:
    return llama(3, layers=1, hidden=64, heads=4, kv_heads=4, ffn=96, vocabulary=16)


@cache
def packed(name: str) -> Tensors:
    return pack_all(one_layer(), CASES[name])[0]


def unread(found: Fingerprint, reason: str) -> None:
    """The query projection has no role, nothing of it is taken for weights, and a note says why."""
    assert not [row for row in found.tensors if row.role == "q"]
    assert all(row.role == "other" for row in found.tensors if row.name.startswith(PREFIX))
    assert any(reason in note and "q_proj" in note for note in found.checkpoint.notes), found.checkpoint.notes


def without(*endings: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if n not in {PREFIX + ending for ending in endings}}


def with_tensor(ending: str, change: Callable[[Any], Any]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: change(t) if n == PREFIX + ending else t for n, t in tensors.items()}


def state(**changes: object) -> Callable[[Any], Any]:
    def change(stored: Any) -> Any:
        found = {**json.loads(stored.tobytes()), **changes}
        return np.frombuffer(json.dumps(found).encode(), np.uint8)

    return change


STATE = ".weight.quant_state.bitsandbytes__nf4"
BROKEN: dict[str, tuple[str, Callable[[Tensors], Tensors], str]] = {
    "no scales": ("gptq 4", without(".scales"), "packed or integer values"),
    "no zero points": ("awq", without(".qzeros"), "packed or integer values"),
    "groups that do not divide": ("gptq 4", with_tensor(".scales", lambda t: t[:1].repeat(3, 0)), "zero point"),
    "other groups than announced": (
        "gptq 4",
        lambda t: with_tensor(".scales", lambda s: s.repeat(5, 0)[:5])(
            with_tensor(".qzeros", lambda s: s.repeat(5, 0)[:5])(t)
        ),
        "do not divide into 5 groups",
    ),
    "an absurd number of bits": ("gptq 4", with_tensor(".qzeros", lambda t: t[:, :1]), "words of zero points"),
    "scales that are integers": ("awq", with_tensor(".scales", lambda t: t.view(np.int16)), "scales of I16"),
    "an index of another length": ("gptq 4", with_tensor(".g_idx", lambda t: t[:5]), "g_idx [5]"),
    "a state that is no JSON": ("nf4", with_tensor(STATE, lambda t: t[:-3]), "no JSON"),
    "a state that is a list": ("nf4", with_tensor(STATE, lambda _: np.frombuffer(b"[[]]", np.uint8)), "no JSON object"),
    "a state of another shape": ("nf4", with_tensor(STATE, state(shape=[1 << 20, 1 << 20])), "2,048 bytes for 1048576"),
    "a state of a shape too long": ("nf4", with_tensor(STATE, state(shape=[1, 1 << 30])), "no matrix of a model"),
    "a state of negative shape": ("nf4", with_tensor(STATE, state(shape=[-64, -64])), "no shape"),
    "blocks of nothing": ("nf4", with_tensor(STATE, state(blocksize=0)), "no blocksize"),
    "an offset that is no number": ("nf4 nested", with_tensor(STATE, state(nested_offset="x")), "no nested_offset"),
    "nested scales without a table": ("nf4 nested", without(".weight.nested_quant_map"), "no table for them"),
    "a table of 3 values": ("nf4", with_tensor(".weight.quant_map", lambda t: t[:3]), "a table of 3 values"),
    "too few scales": ("nf4", with_tensor(".weight.absmax", lambda t: t[:-1]), "scales for 64 blocks"),
    "a scale too few": ("bnb int8", with_tensor(".SCB", lambda t: t[:-1]), "63 scales for 64 rows"),
    "blocks that do not fit": (
        "fp8 block", with_tensor(".weight_scale_inv", lambda _: np.ones((7, 9), np.float32)), "do not divide"
    ),
    "an 8-bit float without its scale": ("fp8 block", without(".weight_scale_inv"), "without the scale"),
    "another shape than is packed": (
        "pack 4", with_tensor(".weight_shape", lambda _: np.array([64, 640])), "words for 640 columns"
    ),
    "a shape that overflows": (
        "pack 4", with_tensor(".weight_shape", lambda _: np.array([2**62, 2**62])), "no matrix of a model"
    ),
    "NVFP4 with scales of 32": ("nvfp4 divided", with_tensor(".weight_scale", lambda t: t[:, :2]), "share one"),
    "two global scales": (
        "nvfp4 multiplied", with_tensor(".weight_scale_2", lambda t: t.reshape(1).repeat(2)), "2 global scales"
    ),
    "both packed and plain": (
        "gptq 4", lambda t: t | {f"{PREFIX}.weight": np.ones((64, 64), np.int32)}, "both packed and as it is"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("sampled", [False, True])
def test_what_does_not_fit_stays_as_it_is_stored(fault: str, sampled: bool) -> None:
    name, change, reason = BROKEN[fault]
    found = read(change(packed(name)), CASES[name].quantization, sampled=sampled)
    unread(found, reason)
    others = [row for row in found.tensors if row.role in ("k", "v", "o", "gate", "up", "down")]
    assert len(others) == 6
    assert found.checkpoint.quantization == CASES[name].method


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("value", [7, -3])
def test_an_index_that_names_no_group_is_an_error(value: int, sampled: bool) -> None:
    broken = with_tensor(".g_idx", lambda t: np.where(np.arange(len(t)) == 1, value, t).astype(np.int32))
    with pytest.raises(CheckpointError, match="g_idx names groups"):
        read(broken(packed("gptq 4")), CASES["gptq 4"].quantization, sampled=sampled)


def test_a_group_of_another_layer_is_no_evidence_of_this_one() -> None:
    """What the small tensors of one layer say is assumed of the others and checked."""
    first, second = one_layer(), llama(4, layers=1, hidden=64, heads=4, kv_heads=4, ffn=96, vocabulary=16)
    stored: Tensors = {}
    for layer, (weights, shape) in enumerate([(first, [64, 64]), (second, [8, 512])]):
        tensors, _ = bnb4(weights[f"{PREFIX}.weight"].reshape(shape))
        stored |= {f"model.layers.{layer}.self_attn.q_proj{ending}": t for ending, t in tensors.items()}
    state = f"model.layers.1.self_attn.q_proj{STATE}"
    length = len(stored[f"model.layers.0.self_attn.q_proj{STATE}"])
    stored[state] = np.frombuffer(stored[state].tobytes().ljust(length), np.uint8)[:length]
    with pytest.raises(CheckpointError, match="differs from that of the same matrix of another layer"):
        read(stored)


def test_codes_in_the_order_of_a_gpu_are_an_error() -> None:
    shuffled = with_tensor(".weight_format", lambda _: np.array(2, np.uint8))
    with pytest.raises(CheckpointError, match="order of one kind of GPU"):
        read(shuffled(packed("bnb int8")))


def test_words_that_two_versions_read_differently_are_not_read() -> None:
    weight = one_layer()["model.layers.0.mlp.up_proj.weight"].reshape(-1)[: 64 * 80].reshape(64, 80)
    tensors, _ = pack_quantized(weight, bits=3, group=16)
    found = read({PREFIX + ending: t for ending, t in tensors.items()})
    unread(found, "two versions of the format")


def test_mlx_without_a_config_is_not_read() -> None:
    found = read(packed("mlx 4"))
    unread(found, "no config says how many codes share a scale")


@pytest.mark.parametrize(
    ("endings", "method"),
    [
        ({".q_weight": np.int32, ".q_scale": np.int32}, "exl2"),
        ({".W_q": np.uint8, ".meta": np.uint8}, "hqq"),
        ({".codes": np.int8, ".codebooks": np.float16}, "aqlm"),
        ({".Qidxs": np.int64, ".SU": np.float16, ".packed": np.uint8}, "quip"),
        ({".qweight": np.int8, ".weight_scales": np.float16}, "eetq"),
    ],
)
def test_unknown_packings_are_counted_and_named(endings: dict[str, Any], method: str) -> None:
    tensors = {PREFIX + ending: np.zeros((8, 64), dtype) for ending, dtype in endings.items()}
    found = read(tensors)
    assert found.checkpoint.quantization == method
    assert found.checkpoint.resolved == 0
    assert any(f"packed as {method} stores it" in note for note in found.checkpoint.notes)
    assert read(tensors, {"quant_method": "new-method"}).checkpoint.quantization == "new-method"


def mutate(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, object]:
    """One to three changes to the tensors of one matrix, most of them to numbers and not to shapes."""
    found = dict(tensors)
    own = [name for name in found if name.startswith(PREFIX)]
    for _ in range(rng.integers(1, 4)):
        name = own[rng.integers(len(own))]
        if name not in found:
            continue
        tensor = found[name]
        raw = np.frombuffer(tensor.tobytes(), np.uint8).copy()
        kind = rng.choice([0, 1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6])
        if kind == 0:
            del found[name]
        elif kind == 1 and len(raw):  # other bytes, so that numbers, indexes and JSON are any
            where = rng.integers(0, len(raw), rng.integers(1, 9))
            raw[where] = rng.integers(0, 256, len(where))
            found[name] = raw.view(tensor.dtype).reshape(tensor.shape)
        elif kind == 2 and tensor.ndim:  # shorter or longer
            axis = int(rng.integers(tensor.ndim))
            keep = rng.integers(0, 2 * tensor.shape[axis] + 1)
            found[name] = np.take(tensor, range(keep), axis=axis, mode="wrap") if tensor.shape[axis] else tensor
        elif kind == 3:
            found[name] = np.ascontiguousarray(tensor.T)
        elif kind == 4:  # another dtype
            dtype = rng.choice(["i1", "u1", "i2", "i4", "u4", "i8", "f2", "f4"])
            found[name] = raw[: len(raw) // 8 * 8].view(dtype)
        elif kind == 5:
            found[name] = raw.reshape(rng.permutation([-1, 1, 1][: rng.integers(1, 4)]))
        else:
            found[name] = np.zeros((rng.integers(0, 3), rng.integers(0, 70)), tensor.dtype)
    numbers = [-1, 0, 1, 3, 4, 8, 16, 64, 2**20, 2**70, "4", None, [128, 128], 1.5]
    keys = ("bits", "group_size", "sym", "desc_act", "checkpoint_format", "weight_block_size", "quant_method")
    quantization = {key: numbers[rng.integers(len(numbers))] for key in keys if rng.random() < 0.4}
    return found, quantization


def test_no_mutation_does_worse_than_an_error() -> None:
    rng = np.random.default_rng(12)
    ends = {"read": 0, "refused": 0, "failed": 0}
    small = [{n: t for n, t in packed(name).items() if n.startswith(PREFIX)} for name in CASES]
    for i in range(MUTATIONS):
        tensors, quantization = mutate(small[i % len(small)], rng)
        try:
            found = read(tensors, quantization, sampled=bool(i % 2))
        except CheckpointError:
            ends["failed"] += 1
            continue
        ends["read" if any(row.role == "q" for row in found.tensors) else "refused"] += 1
    assert min(ends.values()) > MUTATIONS / 100, ends


def test_scattered_groups_with_too_many_scales_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """They need all scales at once."""
    monkeypatch.setattr("provenance.crawler.formats.packing.gptq.MAX_WHOLE_BYTES", 100)
    tensors, _ = gptq(one_layer()[f"{PREFIX}.weight"], act_order=True)
    unread(read({PREFIX + ending: t for ending, t in tensors.items()}), "bytes of scales for one matrix")


def test_a_large_matrix_is_unpacked_in_chunks() -> None:
    rng = np.random.default_rng(0)
    n = 6144
    tensors = {
        f"{PREFIX}.qweight": rng.integers(-(2**31), 2**31, (n // 8, n), np.int32),
        f"{PREFIX}.qzeros": rng.integers(-(2**31), 2**31, (n // 128, n // 8), np.int32),
        f"{PREFIX}.scales": rng.random((n // 128, n)).astype(np.float16),
    }
    files = {"model.safetensors": save(to_torch(tensors))}
    tracemalloc.start()
    (row,) = read_files(files, sampled=False).tensors
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert row.n_read == n * n
    assert peak < n * n * 4 / 2  # half of the matrix in float32
