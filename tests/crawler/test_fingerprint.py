"""A fingerprint says the same of the same weights, however they are named, cut, turned, cast or read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from provenance.crawler.fingerprint import fingerprint
from provenance.crawler.formats.header import read_header
from provenance.crawler.local.folders import find_local, listed_checkpoints
from provenance.crawler.local.reader import LocalReader
from provenance.crawler.plan import SAMPLE_SIZES, SampleSize
from provenance.schemas.errors import HeaderError, WeightsError
from provenance.schemas.identity import UNKNOWN_REVISION
from provenance.schemas.records import Fingerprint, TensorRow, WeightSample
from provenance.schemas.roles import VECTORS
from provenance.schemas.sampling import SAMPLE_CELLS, matrix_cells, sequence
from tests.conftest import Tensors, llama
from tests.support import layouts
from tests.support.layouts import Layout, separate, write
from tests.support.malformed import MALFORMED

NOW = datetime(2026, 1, 2, tzinfo=UTC)
MODES: dict[str, SampleSize | None] = {"full": None, **SAMPLE_SIZES}
SMALL = SAMPLE_SIZES["small"]

Make = Callable[..., Fingerprint]


class RecordingReader(LocalReader):
    """A reader that remembers what was read of each file."""

    def __init__(self, folder: Path, root: Path) -> None:
        super().__init__(folder, root)
        self.ranges: list[tuple[str, int, int]] = []

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        self.ranges += [(path, *span) for span in ranges]
        return super().read(path, ranges)


def visit(
    folder: Path, size: SampleSize | None = None, revision: str | None = None
) -> tuple[Fingerprint, RecordingReader]:
    (repo,) = find_local(folder)
    (listed,) = listed_checkpoints(repo)
    if revision is not None:
        listed = replace(listed, identity=replace(listed.identity, revision=revision))
    with RecordingReader(repo.folder, repo.root) as reader:
        return fingerprint(listed, reader, size=size, now=NOW), reader


def fingerprint_of(folder: Path, size: SampleSize | None = None) -> Fingerprint:
    return visit(folder, size)[0]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Fingerprint a layout, written anew under a folder of its own."""
    numbers = iter(range(1000))

    def make(layout: Layout, size: SampleSize | None = None, **stored: Any) -> Fingerprint:
        return fingerprint_of(write(tmp_path / str(next(numbers)), layout, **stored), size)

    return make


def digests(found: Fingerprint) -> dict[tuple[Any, ...], str]:
    keys = ("stack", "role", "layer", "expert")
    return {tuple(getattr(row, key) for key in keys): row.digest for row in found.tensors if row.role != "other"}


def cells(sample: WeightSample) -> dict[tuple[Any, ...], dict[Any, float]]:
    """The sampled weights by cell: (row, column) of a matrix, element of a vector."""
    found = {}
    for e in sample.entries:
        values = np.ldexp(sample.values[e.offset : e.offset + e.count].astype(np.float64), e.exponent)
        places: Any = range(e.count)
        if e.role not in VECTORS:
            places = map(tuple, sequence()[matrix_cells((e.shape[0], e.shape[1]), e.role)][: e.count, 1:].tolist())
        found[e.stack, e.role, e.layer, e.expert] = dict(zip(places, values.tolist(), strict=True))
    return found


def stored_tensors(folder: Path) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                tensor = file.get_tensor(name)
                found[name] = (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    return found


# ---------------------------------------------------------------- the same weights

LLAMA, PHI, EXPERTS = Layout(separate()), layouts.phi(), layouts.experts()
SAME: dict[str, tuple[Layout, Layout, dict[str, Any]]] = {
    "three shards": (LLAMA, LLAMA, {"shards": 3}),
    "other prefix": (LLAMA, replace(LLAMA, tensors={f"language_model.{n}": t for n, t in separate().items()}), {}),
    "no prefix": (LLAMA, replace(LLAMA, tensors={n.removeprefix("model."): t for n, t in separate().items()}), {}),
    "no config": (LLAMA, replace(LLAMA, config=None), {}),
    "other order": (LLAMA, replace(LLAMA, tensors=dict(reversed(separate().items()))), {"shards": 2}),
    "Meta's names and rows": (LLAMA, layouts.meta(), {}),
    "fused qkv and gate_up": (LLAMA, layouts.phi3(), {}),
    "fused and transposed": (PHI, layouts.gpt2(), {}),
    "fused by head": (PHI, layouts.neox(), {}),
    "stacked experts": (EXPERTS, layouts.stacked_experts(), {}),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", SAME)
def test_the_same_weights_stored_otherwise_are_the_same(make: Make, case: str, mode: str) -> None:
    layout, other, stored = SAME[case]
    plain, found = make(layout), make(other, MODES[mode], **stored)
    assert plain.checkpoint.mode == "full"
    assert found.checkpoint.mode == ("full" if mode == "full" else "sampled")
    assert found.sample.entries == plain.sample.entries
    np.testing.assert_array_equal(found.sample.values, plain.sample.values)
    assert digests(found) == digests(plain)
    assert found.checkpoint.content_digest == plain.checkpoint.content_digest
    assert found.checkpoint.n_parameters == plain.checkpoint.n_parameters


def test_the_cases_differ_in_what_they_should(make: Make) -> None:
    llama_, phi, moe = make(LLAMA), make(PHI), make(EXPERTS)
    assert len({found.checkpoint.content_digest for found in (llama_, phi, moe)}) == 3
    assert {role for _, role, *_ in cells(phi.sample)} >= {"q_bias", "k_bias", "v_bias", "up", "down"}
    assert {expert for _, _, _, expert in cells(moe.sample)} == {None, 0, 1}


@pytest.mark.parametrize("mode", MODES)
def test_sample_cells_are_the_weights_themselves(make: Make, mode: str) -> None:
    found = cells(make(LLAMA, MODES[mode]).sample)
    roles = {"q": "self_attn.q_proj", "down": "mlp.down_proj", "attn_norm": "input_layernorm"}
    for role, name in roles.items():
        weight = LLAMA.tensors[f"model.layers.1.{name}.weight"]
        sampled = found["main", role, 1, None]
        assert len(sampled) > 30
        # Exact: the weights are bfloat16 and none of these is 2**-24 of the largest.
        assert sampled == {place: float(weight[place]) for place in sampled}


def test_a_cast_keeps_the_sample_and_changes_the_digests(make: Make) -> None:
    stored, cast = make(LLAMA), make(LLAMA, dtype=torch.float32)
    assert cast.sample.entries == stored.sample.entries
    np.testing.assert_array_equal(cast.sample.values, stored.sample.values)
    assert digests(cast).keys() == digests(stored).keys()
    differing = {key for key, digest in digests(cast).items() if digest != digests(stored)[key]}
    assert differing == {key for key, digest in digests(stored).items() if digest is not None}
    assert cast.checkpoint.content_digest != stored.checkpoint.content_digest
    for a, b in zip(stored.tensors, cast.tensors, strict=True):
        assert (a.mean, a.std, a.kurtosis) == (b.mean, b.std, b.kurtosis)


@pytest.mark.parametrize("mode", ["full", "small"])
def test_samples_of_relatives_of_other_shapes_nest(make: Make, mode: str) -> None:
    """Rows, columns and a layer are added: what was there stays in the sample under the same cells."""
    grown: Tensors = {}
    for name, t in llama(99, layers=3, hidden=160, heads=5, kv_heads=3, ffn=300, vocabulary=40).items():
        base = LLAMA.tensors.get(name)
        if base is not None:
            t[tuple(slice(n) for n in base.shape)] = base
        grown[name] = t
    small = cells(make(LLAMA, MODES[mode]).sample)
    large = cells(make(Layout(layouts.bfloat16(grown), {**layouts.CONFIG, "hidden_size": 160}), MODES[mode]).sample)
    assert small.keys() < large.keys()
    for key, values in small.items():
        common = values.keys() & large[key].keys()
        assert len(common) > 30, key
        assert {place: values[place] for place in common} == {place: large[key][place] for place in common}


# ---------------------------------------------------------------- statistics


def logical(layout: Layout, row: TensorRow, stored: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """The elements of one logical tensor, cut out of the stored ones."""
    whole = stored[row.name]
    cut = layout.parts[row.name][row.part](whole) if row.part else whole
    stacked = row.expert is not None and f"experts.{row.expert}." not in row.name
    return cut[row.expert] if stacked else cut


def moments(x: NDArray[Any]) -> dict[str, float]:
    x = x.astype(np.float64).ravel()
    z = (x - x.mean()) / x.std()
    return {
        "mean": x.mean(),
        "std": x.std(),
        "skewness": (z**3).mean(),
        "kurtosis": (z**4).mean(),
        "min": x.min(),
        "max": x.max(),
    }


@pytest.mark.parametrize(
    "layout",
    [LLAMA, layouts.meta(), layouts.phi3(), layouts.gpt2(), layouts.neox(), layouts.stacked_experts()],
    ids=["llama", "meta", "phi3", "gpt2", "neox", "stacked experts"],
)
@pytest.mark.parametrize("mode", ["full", "small", "default"])
def test_statistics_are_those_of_exactly_the_elements_read(tmp_path: Path, layout: Layout, mode: str) -> None:
    folder = write(tmp_path / "model", layout)
    size = MODES[mode]
    # Bands less than a gap apart are read together, but only the bands are looked at.
    found, reader = visit(folder, size and replace(size, gap_bytes=0), revision="abc")
    stored = stored_tensors(folder)
    (path,) = folder.glob("*.safetensors")
    read = np.zeros(path.stat().st_size, dtype=bool)
    for file, start, stop in reader.ranges:
        # Only headers are read from the start of a file; what data comes along with them is not looked at.
        read[start:stop] |= file == path.name and start > 0
    with LocalReader(folder, folder) as plain:
        where = {e.name: e for e in read_header(plain, path.name, "repo").entries}
    was_read = {n: read[e.start : e.stop : 2].reshape(e.shape) for n, e in where.items()}
    partial = 0
    for row in found.tensors:
        mask = logical(layout, row, was_read)
        values = logical(layout, row, stored)[mask]
        assert row.n_elements == mask.size
        assert row.n_read == values.size
        assert row.n_nonfinite == 0
        if values.size == 0:
            assert {
                getattr(row, name) for name in ("mean", "std", "std_error", "skewness", "kurtosis", "min", "max")
            } == {None}
            continue
        wanted = moments(values)
        assert {name: getattr(row, name) for name in wanted} == pytest.approx(wanted, rel=1e-6, abs=1e-9), row.name
        complete = values.size == mask.size
        assert row.std_error == 0 if complete else row.std_error > 0
        partial += not complete
    assert (partial > 0) == (mode != "full")
    unread = {row.role for row in found.tensors if row.n_read == 0}
    assert unread - {"gate", "up", "down"} == (set() if mode == "full" else {"embed", "lm_head"})


def test_the_error_of_std_is_of_the_right_size(make: Make) -> None:
    full, sampled = make(LLAMA), make(LLAMA, SMALL)
    roles = ("q", "k", "v", "o")
    pairs = [(a, b) for a, b in zip(full.tensors, sampled.tensors, strict=True) if a.role in roles]
    off = [(b.std - a.std) / b.std_error for a, b in pairs]
    assert len(off) == 8
    assert 0.1 < float(np.sqrt(np.mean(np.square(off)))) < 4


def test_unread_experts_are_rows_without_figures(make: Make) -> None:
    full, sampled = make(EXPERTS), make(EXPERTS, SMALL)
    for found, read in ((full, {0, 1, 2, 3}), (sampled, {0, 1})):
        rows = [row for row in found.tensors if row.expert is not None]
        assert len(rows) == 3 * layouts.EXPERTS * layouts.LAYERS
        assert {row.expert for row in rows if row.n_read} == read
        assert {row.expert for row in rows if row.std is not None} == read
        assert {row.expert for row in rows if row.digest} == {0, 1}


# ---------------------------------------------------------------- strange numbers and tensors


def test_nan_and_infinities_are_counted_and_left_out(make: Make) -> None:
    tensors = separate()
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name][0, :4] = (np.nan, np.inf, -np.inf, np.nan)
    found = make(Layout(tensors))
    (row,) = (row for row in found.tensors if row.name == name)
    finite = tensors[name][np.isfinite(tensors[name])]
    assert (row.n_read, row.n_nonfinite) == (tensors[name].size, 4)
    wanted = moments(finite)
    assert {key: getattr(row, key) for key in wanted} == pytest.approx(wanted, rel=1e-6)
    sampled = cells(found.sample)["main", "q", 0, None]
    assert {place for place, value in sampled.items() if np.isnan(value)} <= {(0, i) for i in range(4)}
    assert np.isnan(sampled[0, 0])
    assert row.digest not in (None, {r.name: r.digest for r in make(LLAMA).tensors}[name])
    # Nothing finite at all.
    tensors[name][:] = np.nan
    (row,) = (row for row in make(Layout(tensors)).tensors if row.name == name)
    assert (row.n_nonfinite, row.mean, row.std) == (row.n_read, None, None)


def test_tensors_of_all_kinds_and_ranks(tmp_path: Path) -> None:
    kinds: dict[str, torch.Tensor] = {
        "empty": torch.zeros(0, 8),
        "scalar": torch.tensor(2.5),
        "one": torch.tensor([3.0]),
        "ids": torch.arange(10, dtype=torch.int64),
        "flags": torch.tensor([True, False, False, True]),
        "bytes": torch.arange(256, dtype=torch.uint8).reshape(16, 16),
        "conv": torch.arange(2 * 3 * 4 * 5, dtype=torch.float16).reshape(2, 3, 4, 5),
        "double": torch.arange(7, dtype=torch.float64),
        "packed": torch.zeros(4, 4, dtype=torch.complex64),
        "model.layers.0.input_layernorm.weight": torch.zeros(0),
    }
    save_file(kinds, tmp_path / "model.safetensors")
    for size in (None, SMALL):
        found = fingerprint_of(tmp_path, size)
        rows = {row.name: row for row in found.tensors}
        assert rows.keys() == kinds.keys()
        assert found.checkpoint.n_layers == 1
        for name, tensor in kinds.items():
            assert (rows[name].shape, rows[name].n_elements) == (tuple(tensor.shape), tensor.numel())
            vector = tensor.dim() <= 1 and size is not None
            if tensor.is_complex() or tensor.numel() == 0 or (size is not None and not (vector and name != "scalar")):
                assert (rows[name].n_read, rows[name].std) == (0, None)
                continue
            values = tensor.double().numpy()
            assert rows[name].n_read == values.size
            assert rows[name].mean == pytest.approx(values.mean())
            assert rows[name].std == pytest.approx(values.std())
        assert found.sample.entries == ()
        assert found.sample.values.shape == (0,)
        assert {row.digest for row in found.tensors} == {None}
        floats = ("scalar", "one", "conv", "double")
        assert found.checkpoint.n_parameters == sum(kinds[name].numel() for name in floats)


def test_a_file_of_no_tensors_is_a_checkpoint_of_nothing(tmp_path: Path) -> None:
    save_file({}, tmp_path / "model.safetensors")
    found = fingerprint_of(tmp_path)
    assert found.tensors == ()
    assert (found.checkpoint.dtype, found.checkpoint.n_parameters, found.checkpoint.n_layers) == (None, 0, 0)


def test_constant_tensors_have_no_digest(make: Make) -> None:
    tensors = separate()
    tensors["model.norm.weight"][:] = 1
    other = {name: t.copy() for name, t in tensors.items()}
    other["model.norm.weight"][:] = 2
    a, b = make(Layout(tensors)), make(Layout(other))
    assert digests(a)["main", "final_norm", None, None] is None
    assert a.checkpoint.content_digest == b.checkpoint.content_digest


def test_the_sign_of_zero_is_no_difference(make: Make) -> None:
    tensors = separate()
    tensors["model.layers.0.self_attn.q_proj.weight"][0, 0] = 0.0
    other = {name: t.copy() for name, t in tensors.items()}
    other["model.layers.0.self_attn.q_proj.weight"][0, 0] = -0.0
    assert digests(make(Layout(tensors))) == digests(make(Layout(other)))


def test_the_sample_stays_within_its_budget(tmp_path: Path) -> None:
    tensors = llama(5, layers=60, hidden=96, heads=2, kv_heads=2, ffn=100)
    save_file({name: torch.from_numpy(t) for name, t in tensors.items()}, tmp_path / "model.safetensors")
    sample = fingerprint_of(tmp_path, SMALL).sample
    matrices = [e for e in sample.entries if e.role not in VECTORS]
    assert len(sample.values) <= SAMPLE_CELLS
    assert sum(e.count for e in matrices) <= 12_288
    # 420 matrices share it equally: all keep a prefix of one length.
    assert {e.count for e in matrices} == {29}
    ends = [e.offset + e.count for e in sample.entries]
    assert [e.offset for e in sample.entries] == [0, *ends[:-1]]
    assert ends[-1] == len(sample.values)


# ---------------------------------------------------------------- identity


def test_the_revision_of_an_unlisted_folder_is_that_of_its_weights(make: Make) -> None:
    seen = {mode: make(LLAMA, size).checkpoint for mode, size in MODES.items()}
    for column in ("revision", "checkpoint_id", "content_digest"):
        values = {getattr(row, column).split("@")[-1] for row in seen.values()}
        assert len(values) == 1
        assert UNKNOWN_REVISION not in values
    revision = seen["full"].revision
    assert make(LLAMA, shards=2).checkpoint.revision == revision
    assert make(LLAMA, dtype=torch.float32).checkpoint.revision != revision
    assert make(layouts.phi3()).checkpoint.revision != revision


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("layers.1.self_attn.v_proj", (52, 55)),
        ("layers.0.mlp.down_proj", (3, 199)),
        ("layers.1.input_layernorm", (9,)),
    ],
)
def test_a_changed_weight_changes_both_digests(make: Make, name: str, place: tuple[int, ...], mode: str) -> None:
    tensors = separate()
    tensors[f"model.{name}.weight"][place] += 1
    before, after = make(LLAMA, MODES[mode]).checkpoint, make(Layout(tensors), MODES[mode]).checkpoint
    assert after.content_digest != before.content_digest
    assert after.revision != before.revision


def test_a_listed_commit_is_the_revision(tmp_path: Path) -> None:
    folder = write(tmp_path / "org" / "name", LLAMA)
    sha = "0123456789abcdef" * 2 + "01234567"
    (tmp_path / "listing.jsonl").write_text(json.dumps({"id": "org/name", "sha": sha, "author": "org"}))
    found = fingerprint_of(tmp_path).checkpoint
    assert (found.checkpoint_id, found.repo_id) == (f"org/name@{sha[:12]}", "org/name")
    assert fingerprint_of(folder).checkpoint.content_digest == found.content_digest


def test_the_columns_of_a_checkpoint(tmp_path: Path) -> None:
    config = {**layouts.CONFIG, "architectures": ["LlamaForCausalLM"]}
    folder = write(tmp_path / "org" / "name", replace(LLAMA, config=config), shards=2)
    found, reader = visit(folder)
    row = found.checkpoint
    assert row.source == "local"
    assert (row.architecture, row.model_type, row.dtype) == ("LlamaForCausalLM", "llama", "BF16")
    assert (row.n_layers, row.hidden_size, row.n_heads, row.n_kv_heads) == (2, 128, 4, 2)
    assert (row.n_tensors, row.resolved, row.unresolved, row.n_files) == (21, 21, 0, 2)
    assert row.n_parameters == sum(t.size for t in LLAMA.tensors.values())
    assert row.total_bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert (row.bytes_read, row.requests) == (reader.bytes_read, reader.requests)
    assert row.requests == len(reader.ranges)
    assert row.fingerprinted_at == NOW
    assert row.notes == ()
    assert [file.path for file in found.files] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "config.json",
    ]


def test_little_is_read_in_small_mode(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", LLAMA)
    read = [visit(folder, size)[1].bytes_read for size in MODES.values()]
    assert read[1] <= read[2] <= read[3] <= read[0]
    assert read[1] < read[0] / 3


# ---------------------------------------------------------------- headers and configs


def test_a_header_longer_than_the_first_guess_takes_a_second_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", LLAMA)
    with LocalReader(folder, folder) as reader:
        entries = read_header(reader, "model.safetensors", "org/name").entries
        assert reader.requests == 1
    save_file({f"{'n' * 200}.{i}": torch.zeros(1) for i in range(400)}, folder / "long.safetensors")
    with LocalReader(folder, folder) as reader:
        assert len(read_header(reader, "long.safetensors", "org/name").entries) == 400
        assert reader.requests == 2
        assert reader.bytes_read < (folder / "long.safetensors").stat().st_size
    assert {entry.name for entry in entries} == LLAMA.tensors.keys()


@pytest.mark.parametrize("fault", ["empty", "seven-bytes", "length-beyond-limit", "lfs-pointer", "deep-objects"])
def test_a_broken_header_names_the_repo_and_the_file(tmp_path: Path, fault: str) -> None:
    content, words = MALFORMED[fault]
    (tmp_path / "model.safetensors").write_bytes(content)
    with LocalReader(tmp_path, tmp_path) as reader, pytest.raises(HeaderError) as caught:
        read_header(reader, "model.safetensors", "org/name")
    assert str(caught.value).startswith("org/name/model.safetensors: ")
    assert words in str(caught.value)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(t) for name, t in separate().items()}
    for i in (1, 2):
        save_file(tensors, tmp_path / f"model-0000{i}-of-00002.safetensors")
    with pytest.raises(WeightsError, match=r"is in model-00001.* and again in model-00002.*no index of the shards"):
        fingerprint_of(tmp_path)


def test_a_length_that_no_column_holds_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**63, 0], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match=r"'a' in model\.safetensors has the shape .*no tensor is that long"):
        fingerprint_of(tmp_path)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("{", "is not valid JSON"),
        ('{"a": "\xff"', "is not valid JSON"),
        ("[" * 200_000, "is not valid JSON"),
        ('{"n": ' + "9" * 5000 + "}", "is not valid JSON"),
        ("[]", "is not a JSON object"),
        ('"text"', "is not a JSON object"),
        (" " * (4 * 1024 * 1024) + "{}", "was not read"),
    ],
    ids=["cut", "no UTF-8", "deep", "digits", "list", "text", "long"],
)
def test_a_config_that_is_none_is_noted_and_no_more(tmp_path: Path, content: str, note: str) -> None:
    folder = write(tmp_path / "model", LLAMA)
    plain = fingerprint_of(folder)
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    found = fingerprint_of(folder)
    (line,) = found.checkpoint.notes
    assert line.startswith("config.json")
    assert note in line
    assert found.checkpoint.model_type is None
    assert digests(found) == digests(plain)
