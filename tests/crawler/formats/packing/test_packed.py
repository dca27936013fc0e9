"""Packed weights read as the weights that they stand for, in every format, in full and sampled."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from provenance.crawler.fingerprint import fingerprint
from provenance.crawler.local.folders import find_local, listed_checkpoints
from provenance.crawler.local.reader import LocalReader
from provenance.crawler.plan import SAMPLE_SIZES, SampleSize
from provenance.schemas.records import Fingerprint
from provenance.schemas.roles import LAYER_MATRICES
from tests.conftest import LLAMA_CONFIG, Tensors, llama
from tests.crawler.test_fingerprint import NOW, cells, fingerprint_of
from tests.support.packed import CASES, Case, pack_all, to_torch

STATISTICS = ("mean", "std", "skewness", "kurtosis", "min", "max")


@cache
def dense() -> Tensors:
    return llama(5, layers=2, hidden=128, heads=4, kv_heads=2, ffn=352, vocabulary=32)


@cache
def packed(name: str) -> tuple[Tensors, Tensors]:
    return pack_all(dense(), CASES[name])


def write(folder: Path, tensors: Tensors, case: Case | None = None, shards: int = 1) -> Path:
    folder.mkdir(parents=True)
    names = list(tensors)
    files = ["model.safetensors"]
    if shards > 1:
        files = [f"model-{i:05}-of-{shards:05}.safetensors" for i in range(1, shards + 1)]
    where = {name: files[i % shards] for i, name in enumerate(names)}
    for file in files:
        save_file({n: t for n, t in to_torch(tensors).items() if where[n] == file}, folder / file)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    config: dict[str, Any] = {**LLAMA_CONFIG, "hidden_size": 128}
    if case is not None and case.quantization:
        config["quantization_config"] = case.quantization
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def matrices(found: Fingerprint) -> dict[tuple[str, int | None], Any]:
    return {(row.role, row.layer): row for row in found.tensors if row.role in LAYER_MATRICES}


@pytest.mark.parametrize("name", CASES)
def test_in_full_the_statistics_are_those_of_the_weights(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    tensors, weights = packed(name)
    found = fingerprint_of(write(tmp_path / "packed", tensors, case))
    wanted = fingerprint_of(write(tmp_path / "dense", weights))
    assert matrices(found).keys() == matrices(wanted).keys()
    for place, row in matrices(found).items():
        expected = matrices(wanted)[place]
        assert (row.name, row.shape, row.n_elements, row.n_read) == (
            expected.name,
            expected.shape,
            expected.n_elements,
            expected.n_elements,
        )
        assert row.dtype == case.dtype
        for statistic in STATISTICS:
            close = pytest.approx(getattr(expected, statistic), rel=1e-5, abs=1e-6)
            assert getattr(row, statistic) == close, (place, statistic)
    checkpoint = found.checkpoint
    assert checkpoint.quantization == case.method
    assert checkpoint.dtype == case.dtype
    assert checkpoint.n_parameters == wanted.checkpoint.n_parameters
    assert checkpoint.n_tensors == len(tensors)
    assert (checkpoint.n_layers, checkpoint.resolved) == (wanted.checkpoint.n_layers, wanted.checkpoint.resolved)
    assert checkpoint.notes == ()


@pytest.mark.parametrize("size", [SAMPLE_SIZES["default"], SAMPLE_SIZES["small"]], ids=["default", "small"])
@pytest.mark.parametrize("name", CASES)
def test_the_sampled_cells_are_those_of_the_weights(name: str, size: SampleSize, tmp_path: Path) -> None:
    tensors, weights = packed(name)
    found = fingerprint_of(write(tmp_path / "packed", tensors, CASES[name], shards=2), size)
    wanted = fingerprint_of(write(tmp_path / "dense", weights), size)
    own, expected = cells(found.sample), cells(wanted.sample)
    assert own.keys() == expected.keys()
    for place, values in own.items():
        assert values == pytest.approx(expected[place], rel=2e-3, abs=1e-6), place
    for place, row in matrices(found).items():
        assert row.n_read > 0
        assert row.std == pytest.approx(matrices(wanted)[place].std, rel=0.1)
    assert found.checkpoint.bytes_read < found.checkpoint.total_bytes or size == SAMPLE_SIZES["default"]


@pytest.mark.parametrize("name", ["gptq 4 act-order", "nf4 nested", "fp8 block"])
def test_of_known_files_only_headers_and_hints_are_read(name: str, tmp_path: Path) -> None:
    (repo,) = find_local(write(tmp_path / "packed", packed(name)[0], CASES[name]))
    (listed,) = listed_checkpoints(repo)
    with LocalReader(repo.folder, repo.root) as reader:
        first = fingerprint(listed, reader, size=SAMPLE_SIZES["default"], now=NOW)
    with LocalReader(repo.folder, repo.root) as reader:
        again = fingerprint(listed, reader, size=SAMPLE_SIZES["default"], now=NOW, earlier=first)
    assert again.tensors == first.tensors
    assert again.sample is first.sample
    assert again.checkpoint.bytes_read < first.checkpoint.bytes_read
