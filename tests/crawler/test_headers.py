"""All headers of a checkpoint in one place: what is read, in which order, and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from provenance.crawler import headers
from provenance.crawler.formats.packing.packed import PackedEntry
from provenance.crawler.headers import read_headers
from provenance.schemas.enums import Source
from provenance.schemas.errors import CheckpointError, WeightsError
from provenance.schemas.identity import CheckpointId
from provenance.schemas.records import ListedCheckpoint
from provenance.schemas.roles import Role
from tests.conftest import LLAMA_CONFIG, llama
from tests.support.dossiers import MemoryReader
from tests.support.gguf_files import raw_gguf, write_gguf

CONFIG = json.dumps(LLAMA_CONFIG).encode()
LISTED = {"model_type": "llama"}
"""The part of a config that a hub lists."""


def listed(*files: str, config: Mapping[str, object] | None = None, config_file: str | None = None) -> ListedCheckpoint:
    return ListedCheckpoint(CheckpointId("org/name", "0"), Source.LOCAL, files, (), config_file, config=config)


def weights() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values.astype(np.float32)) for name, values in llama(0).items()}


def scaled() -> dict[str, torch.Tensor]:
    """A matrix of 8-bit floats and its scale, which together are one packed matrix."""
    found = weights()
    name = "model.layers.0.self_attn.q_proj.weight"
    return {**found, name: found[name].to(torch.float8_e4m3fn), f"{name}_scale": torch.tensor([0.5])}


def test_a_listed_config_is_enough_where_names_and_shapes_tell_the_roles() -> None:
    reader = MemoryReader({"m.safetensors": save(weights()), "config.json": b"never read"})
    found = read_headers(reader, listed("m.safetensors", config=LISTED, config_file="config.json"))
    assert (found.config, found.config_decides, found.notes, found.gguf) == (LISTED, False, (), None)
    assert found.resolved.model_type == "llama"
    assert reader.requests == 1


def test_a_packed_checkpoint_needs_its_whole_config() -> None:
    reader = MemoryReader({"m.safetensors": save(scaled()), "config.json": CONFIG})
    found = read_headers(reader, listed("m.safetensors", config=LISTED, config_file="config.json"))
    assert found.config == LLAMA_CONFIG
    assert sum(isinstance(entry, PackedEntry) for entry in found.unpacked.entries) == 1
    assert len(found.stored) == len(found.unpacked.entries) + 1
    assert found.unpacked.method == "fp8"


def test_codes_of_a_pytorch_file_are_unpacked_unless_they_lie_by_columns() -> None:
    by_rows, name = scaled(), "model.layers.0.self_attn.q_proj.weight"
    by_columns = {**by_rows, name: by_rows[name].t().contiguous().t()}
    for tensors, packed in ((by_rows, True), (by_columns, False)):
        torch.save(tensors, data := io.BytesIO())
        found = read_headers(MemoryReader({"m.bin": data.getvalue()}), listed("m.bin"))
        (tensor,) = [t for t in found.resolved.tensors if t.name == name]
        assert isinstance(tensor.entry, PackedEntry) == packed
        assert tensor.role == (Role.QUERY if packed else Role.OTHER)
        assert any("not stored by rows" in note for note in found.unpacked.notes) != packed


def test_an_adapter_needs_its_whole_config() -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    factors = {name.format("A"): torch.ones(2, 8), name.format("B"): torch.ones(8, 2)}
    reader = MemoryReader({"adapter_model.safetensors": save(factors), "adapter_config.json": b'{"r": 2}'})
    found = read_headers(reader, listed("adapter_model.safetensors", config=LISTED, config_file="adapter_config.json"))
    assert found.resolved.adapter
    assert found.config == {"r": 2}


@pytest.mark.parametrize(("config", "words"), [(b"{", "not valid JSON"), (b"[]", "not a JSON object")])
def test_a_config_of_no_use_is_noted_and_the_listed_one_stays(config: bytes, words: str) -> None:
    reader = MemoryReader({"m.safetensors": save(scaled()), "config.json": config})
    found = read_headers(reader, listed("m.safetensors", config=LISTED, config_file="config.json"))
    assert [words in note for note in found.notes] == [True]
    assert found.resolved.model_type == "llama"


def test_a_gguf_file_says_all_itself_and_is_never_unpacked(tmp_path: Path) -> None:
    arrays = {name: values.astype(np.float32) for name, values in llama(0).items()}
    file = write_gguf(tmp_path / "m.gguf", arrays, LLAMA_CONFIG, "Q8_0")
    reader = MemoryReader({"m.gguf": file.read_bytes(), "config.json": b"never read"})
    found = read_headers(reader, listed("m.gguf", config={"model_type": "bert"}, config_file="config.json"))
    assert found.gguf is not None
    assert (found.resolved.model_type, found.resolved.quantization) == ("llama", "Q8_0")
    assert found.unpacked.entries == found.stored
    assert (found.unpacked.method, found.config_decides) == (None, False)


def test_integers_beside_scales_in_a_gguf_file_stay_as_they_are() -> None:
    names = ["blk.0.attn_q.weight", "blk.0.attn_q.weight_scale"]
    content = raw_gguf(
        [("general.architecture", 8, "llama")],
        [(names[0], (8, 8), 24, 0), (names[1], (8,), 0, 64)],
        bytes(96),
    )
    found = read_headers(MemoryReader({"m.gguf": content}), listed("m.gguf"))
    assert [(entry.name, entry.dtype) for entry in found.unpacked.entries] == [(names[0], "I8"), (names[1], "F32")]
    assert not any(isinstance(entry, PackedEntry) for entry in found.unpacked.entries)


def test_the_number_of_tensors_is_limited_over_all_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "MAX_TENSORS", 5)
    files = {f"{n}.safetensors": save({f"{n}.{i}": torch.ones(1) for i in range(3)}) for n in range(3)}
    reader = MemoryReader(files)
    with pytest.raises(WeightsError, match="org/name: more than 5 tensors"):
        read_headers(reader, listed(*files))
    assert reader.requests == 2  # the third file was never opened
    monkeypatch.setattr(headers, "MAX_TENSORS", 9)
    assert len(read_headers(reader, listed(*files)).stored) == 9


def test_a_tensor_in_two_files_is_refused() -> None:
    files = {name: save({"w": torch.ones(2)}) for name in ("a.safetensors", "b.safetensors")}
    with pytest.raises(WeightsError, match=r"'w' is in a\.safetensors and again in b\.safetensors"):
        read_headers(MemoryReader(files), listed(*files))


def test_a_missing_file_is_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"no file b\.safetensors"):
        read_headers(MemoryReader({"a.safetensors": save(weights())}), listed("a.safetensors", "b.safetensors"))
