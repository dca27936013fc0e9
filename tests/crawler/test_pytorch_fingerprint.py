"""A PyTorch file gives the fingerprint that safetensors of the same weights give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from provenance.schemas.records import Fingerprint
from tests.conftest import llama
from tests.crawler.test_fingerprint import MODES, fingerprint_of


def weights() -> dict[str, torch.Tensor]:
    """A small model."""
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in llama(1).items()}


def same_weights(a: Fingerprint, b: Fingerprint) -> None:
    """Equal in everything that is measured, whatever the files are called."""
    assert a.checkpoint.content_digest == b.checkpoint.content_digest
    ours = {(r.name, r.part): r for r in a.tensors}
    theirs = {(r.name, r.part): r for r in b.tensors}
    assert ours.keys() == theirs.keys()
    assert [r for key, r in ours.items() if theirs[key] != r] == []
    assert a.sample.entries == b.sample.entries
    np.testing.assert_array_equal(a.sample.values, b.sample.values)


@pytest.mark.parametrize("mode", ["full", "default"])
def test_a_pytorch_file_says_the_same_as_safetensors(mode: str, tmp_path: Path) -> None:
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in weights().items()}
    found = []
    for name in ("model.safetensors", "pytorch_model.bin"):
        folder = tmp_path / name.partition(".")[2] / "o"
        folder.mkdir(parents=True)
        (save_file if name.endswith(".safetensors") else torch.save)(tensors, folder / name)
        found.append(fingerprint_of(folder, MODES[mode]))
    same_weights(*found)


@pytest.mark.parametrize("mode", ["full", "default"])
def test_matrices_stored_by_columns_say_the_same(mode: str, tmp_path: Path) -> None:
    tensors = weights()
    by_columns = {name: t.t().contiguous().t() if t.dim() == 2 else t for name, t in tensors.items()}
    for folder, stored in (("rows", tensors), ("columns", by_columns)):
        (tmp_path / folder / "o").mkdir(parents=True)
        torch.save(stored, tmp_path / folder / "o" / "pytorch_model.bin")
    rows, columns = (fingerprint_of(tmp_path / folder / "o", MODES[mode]) for folder in ("rows", "columns"))
    assert rows.checkpoint.content_digest == columns.checkpoint.content_digest
    np.testing.assert_array_equal(rows.sample.values, columns.sample.values)
    if mode == "full":
        stds = [{row.name: row.std for row in found.tensors} for found in (rows, columns)]
        assert stds[1] == pytest.approx(stds[0], rel=1e-6)
        # The embeddings of single tokens lie scattered, so there is nothing between which products can be sketched.
        assert rows.products is not None
        assert columns.products is None


def test_tied_and_strided_tensors_of_a_pytorch_file(tmp_path: Path) -> None:
    tensors = weights()
    wide = torch.randn(40, 2 * tensors["model.layers.0.mlp.gate_proj.weight"].shape[1])
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.0.mlp.gate_proj.weight"] = wide[:, ::2]
    tensors["model.norm.weight"] = torch.ones(1).expand(tensors["model.norm.weight"].shape)
    (tmp_path / "o").mkdir()
    torch.save(tensors, tmp_path / "o" / "pytorch_model.bin")
    found = fingerprint_of(tmp_path / "o")
    rows = {row.name: row for row in found.tensors}
    embed, head = rows["model.embed_tokens.weight"], rows["lm_head.weight"]
    assert (embed.mean, embed.std, embed.n_read) == (head.mean, head.std, head.n_read)
    assert embed.n_read == embed.n_elements
    gate, norm = rows["model.layers.0.mlp.gate_proj.weight"], rows["model.norm.weight"]
    assert [(row.role, row.n_read, row.std) for row in (gate, norm)] == [("other", 0, None)] * 2
    assert any("a strided view, whose values lie apart in the file" in note for note in found.checkpoint.notes)
    distinct = {tensor.data_ptr(): tensor.numel() for tensor in tensors.values()}
    assert found.checkpoint.n_parameters == sum(distinct.values())


def test_pytorch_shards_are_read_together(tmp_path: Path) -> None:
    tensors = weights()
    halves = dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2])
    (tmp_path / "o").mkdir()
    weight_map: dict[str, str] = {}
    for n, half in enumerate(halves, start=1):
        name = f"pytorch_model-0000{n}-of-00002.bin"
        torch.save(half, tmp_path / "o" / name)
        weight_map |= dict.fromkeys(half, name)
    (tmp_path / "o" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    found = fingerprint_of(tmp_path / "o")
    assert {row.name for row in found.tensors} == tensors.keys()
    assert found.checkpoint.n_files == 2
