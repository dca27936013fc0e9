"""An adapter's rows and cells equal those of the product of its factors, computed whole."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from provenance.crawler.fingerprint import fingerprint
from provenance.crawler.local.folders import find_local, listed_checkpoints
from provenance.crawler.plan import SAMPLE_SIZES
from provenance.schemas.records import Fingerprint, TensorRow
from provenance.schemas.roles import Role
from provenance.schemas.sampling import matrix_cells, sequence
from tests.crawler.test_fingerprint import NOW, fingerprint_of, visit

WIDTH, INNER, RANK, LAYERS = 48, 80, 4, 3
SHAPES = {
    "self_attn.q_proj": (Role.QUERY, WIDTH, WIDTH),
    "self_attn.v_proj": (Role.VALUE, WIDTH // 2, WIDTH),
    "mlp.down_proj": (Role.DOWN, WIDTH, INNER),
}
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "base_model_name_or_path": "org/base"}

Tensors = dict[str, torch.Tensor]


def lora(seed: int = 0, dtype: torch.dtype = torch.float32, prefix: str = "base_model.model.model.layers") -> Tensors:
    """The factors of a LoRA as PEFT names them."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for layer in range(LAYERS):
        for stem, (_, out, into) in SHAPES.items():
            module = f"{prefix}.{layer}.{stem}"
            factors[f"{module}.lora_A.weight"] = torch.randn(RANK, into, generator=generator).to(dtype)
            factors[f"{module}.lora_B.weight"] = torch.randn(out, RANK, generator=generator).to(dtype)
    return factors


def write_adapter(folder: Path, tensors: Tensors, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def updates(found: Fingerprint) -> dict[tuple[Role, int | None], TensorRow]:
    return {(row.role, row.layer): row for row in found.tensors if row.part is not None}


def product(tensors: Tensors, module: str, scale: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    a, b = (tensors[f"{module}.lora_{side}.weight"].double().numpy() for side in "AB")
    found: np.ndarray[Any, np.dtype[np.float64]] = scale * (b @ a)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", [None, "small", "default"])
def test_norm_and_cells_are_those_of_the_product(dtype: torch.dtype, mode: str | None, tmp_path: Path) -> None:
    tensors = lora(dtype=dtype)
    found = fingerprint_of(write_adapter(tmp_path / "a", tensors, CONFIG), SAMPLE_SIZES[mode] if mode else None)
    rows = updates(found)
    assert len(rows) == LAYERS * len(SHAPES)
    cells = {(e.role, e.layer): (e, found.sample.values[e.offset : e.offset + e.count]) for e in found.sample.entries}
    for layer in range(LAYERS):
        for stem, (role, *shape) in SHAPES.items():
            update = product(tensors, f"base_model.model.model.layers.{layer}.{stem}", 8 / RANK)
            row = rows[role, layer]
            assert (row.shape, row.stack, row.std_error) == (tuple(shape), "main", 0.0)
            assert row.n_read == row.n_elements == update.size
            assert row.mean == pytest.approx(update.mean(), abs=1e-9)
            assert row.std == pytest.approx(update.std(), rel=1e-9)
            entry, values = cells[role, layer]
            _, out, column = sequence()[matrix_cells((shape[0], shape[1]), role)[: entry.count]].T
            np.testing.assert_allclose(np.ldexp(values.astype(float), entry.exponent), update[out, column], rtol=1e-3)
    assert (found.checkpoint.adapter, found.checkpoint.n_layers, found.checkpoint.hidden_size) == (True, LAYERS, WIDTH)
    assert found.checkpoint.notes[0] == "an adapter alone (LoRA): rank 4, scale 2, 9 targets"


def test_the_declared_base(tmp_path: Path) -> None:
    found = fingerprint_of(write_adapter(tmp_path / "a", lora(), CONFIG)).checkpoint
    assert (found.declared_parents, found.declared_relation) == (("org/base",), "adapter")
    for n, base in enumerate([None, 3, "", "/home/me/base", "../up"]):
        folder = write_adapter(tmp_path / f"b{n}", lora(), {**CONFIG, "base_model_name_or_path": base})
        assert fingerprint_of(folder).checkpoint.declared_parents == ()


def test_a_base_of_the_card_is_kept_and_not_named_twice(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", lora(), CONFIG)
    (folder / "README.md").write_text("---\nbase_model: ORG/Base\nbase_model_relation: finetune\n---\n")
    found = fingerprint_of(folder).checkpoint
    assert (found.declared_parents, found.declared_relation) == (("ORG/Base",), "finetune")


@pytest.mark.parametrize(
    ("changed", "scale", "words"),
    [
        ({"use_rslora": True}, 8 / math.sqrt(RANK), r"\(rsLoRA\): rank 4, scale 4,"),
        ({"lora_alpha": None}, 1.0, "scale 1,"),
        ({"lora_alpha": math.inf}, 1.0, "scale 1,"),
        ({"alpha_pattern": {"q_proj": 2, "layers.0.mlp.down_proj": 4}}, None, "scale 0.5 to 2,"),
        ({"alpha_pattern": ["q_proj"]}, 2.0, "scale 2,"),
    ],
)
def test_scales(changed: dict[str, Any], scale: float | None, words: str, tmp_path: Path) -> None:
    tensors = lora()
    found = fingerprint_of(write_adapter(tmp_path / "a", tensors, {**CONFIG, **changed}))
    assert re.search(words, found.checkpoint.notes[0])
    rows = updates(found)
    for role, stem, own in (
        (Role.QUERY, "self_attn.q_proj", 0.5),
        (Role.VALUE, "self_attn.v_proj", 2.0),
        (Role.DOWN, "mlp.down_proj", 1.0),
    ):
        update = product(tensors, f"base_model.model.model.layers.0.{stem}", own if scale is None else scale)
        assert rows[role, 0].std == pytest.approx(update.std(), rel=1e-9)


def test_a_copy_has_the_digests_and_a_change_does_not(tmp_path: Path) -> None:
    tensors = lora()
    first = fingerprint_of(write_adapter(tmp_path / "a", tensors, CONFIG)).checkpoint
    renamed = {
        name.replace("lora_A", "lora_A.default").replace("lora_B", "lora_B.default"): t for name, t in tensors.items()
    }
    assert (
        fingerprint_of(write_adapter(tmp_path / "b", renamed, CONFIG)).checkpoint.content_digest == first.content_digest
    )
    other = {name: tensor * 1.01 for name, tensor in tensors.items()}
    assert (
        fingerprint_of(write_adapter(tmp_path / "c", other, CONFIG)).checkpoint.content_digest != first.content_digest
    )


def test_a_pytorch_adapter_says_the_same(tmp_path: Path) -> None:
    safe = write_adapter(tmp_path / "a", lora(), CONFIG)
    (tmp_path / "b").mkdir()
    torch.save(lora(), tmp_path / "b" / "adapter_model.bin")
    (tmp_path / "b" / "adapter_config.json").write_text(json.dumps(CONFIG))
    a, b = fingerprint_of(safe), fingerprint_of(tmp_path / "b")
    assert a.checkpoint.content_digest == b.checkpoint.content_digest
    assert updates(a) == updates(b)


def test_rows_of_a_conv1d_are_those_of_the_output(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    module = "base_model.model.transformer.h.0.attn.c_attn"
    tensors = {
        f"{module}.lora_A.weight": torch.randn(RANK, WIDTH, generator=generator),
        f"{module}.lora_B.weight": torch.randn(3 * WIDTH, RANK, generator=generator),
    }
    found = fingerprint_of(write_adapter(tmp_path / "a", tensors, {**CONFIG, "fan_in_fan_out": True}))
    update = product(tensors, module, 2.0)
    for n, role in enumerate((Role.QUERY, Role.KEY, Role.VALUE)):
        row = updates(found)[role, 0]
        assert (row.part, row.shape) == (role.value, (WIDTH, WIDTH))
        assert row.std == pytest.approx(update[n * WIDTH : (n + 1) * WIDTH].std(), rel=1e-9)


def test_kinds_are_told_apart(tmp_path: Path) -> None:
    dora = {**lora(), "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": torch.ones(WIDTH)}
    saved = {**lora(), "base_model.model.lm_head.weight": torch.ones(9, WIDTH)}
    ia3 = {f"base_model.model.model.layers.{n}.self_attn.k_proj.ia3_l": torch.ones(WIDTH, 1) for n in range(2)}
    notes = [
        fingerprint_of(write_adapter(tmp_path / name, tensors, CONFIG)).checkpoint.notes[0]
        for name, tensors in (("dora", dora), ("saved", saved), ("ia3", ia3))
    ]
    assert notes[0].startswith("an adapter alone (DoRA): rank 4")
    assert notes[1].endswith("1 tensors saved whole (modules_to_save)")
    assert notes[2] == "an adapter alone (IA3)"


def test_factors_that_do_not_fit_are_noted(tmp_path: Path) -> None:
    tensors = lora()
    prefix = "base_model.model.model.layers"
    del tensors[f"{prefix}.0.self_attn.q_proj.lora_B.weight"]
    tensors[f"{prefix}.1.self_attn.q_proj.lora_B.weight"] = torch.ones(WIDTH, RANK + 1)
    tensors[f"{prefix}.2.self_attn.q_proj.lora_A.weight"] = torch.ones(RANK)
    found = fingerprint_of(write_adapter(tmp_path / "a", tensors, CONFIG))
    assert any(note.startswith("the updates of 3 targets are not known") for note in found.checkpoint.notes)
    assert len(updates(found)) == LAYERS * len(SHAPES) - 3


def test_absurdly_large_factors_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("provenance.crawler.adapters._MAX_ELEMENTS", RANK * WIDTH)
    found = fingerprint_of(write_adapter(tmp_path / "a", lora(), CONFIG))
    assert {row.role for row in updates(found).values()} == {Role.QUERY, Role.VALUE}


def test_infinite_factors_have_no_norm(tmp_path: Path) -> None:
    tensors = lora()
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"][0, 0] = math.inf
    row = updates(fingerprint_of(write_adapter(tmp_path / "a", tensors, CONFIG)))[Role.QUERY, 0]
    assert (row.mean, row.std, row.std_error) == (None, None, None)


def test_factors_far_apart_are_read_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    together, reader = visit(write_adapter(tmp_path / "a", lora(), CONFIG), SAMPLE_SIZES["default"])
    monkeypatch.setattr("provenance.crawler.adapters.MAX_RANGE_BYTES", 600)
    apart, more = visit(tmp_path / "a", SAMPLE_SIZES["default"])
    assert apart.tensors == together.tensors
    assert len(more.ranges) > len(reader.ranges)
    large = [(start, stop) for _, start, stop in reader.ranges if stop - start > 256]  # the others are for the revision
    assert len(large) == 3  # the header in two, all factors at once


def test_an_adapter_is_read_again_beside_an_earlier_fingerprint(tmp_path: Path) -> None:
    """Its files are small, and its scale and its base are in no weight file."""
    tensors = {f"base_model.model.model.layers.{n}.self_attn.k_proj.ia3_l": torch.ones(WIDTH, 1) for n in range(2)}
    for name, weights in (("ia3", tensors), ("lora", lora())):
        folder = write_adapter(tmp_path / name, weights, CONFIG)
        first = fingerprint_of(folder)
        (repo,) = find_local(folder)
        (listed,) = listed_checkpoints(repo)
        with repo.reader() as reader:
            again = fingerprint(listed, reader, size=None, now=NOW, earlier=first)
        assert (again.tensors, again.checkpoint.notes) == (first.tensors, first.checkpoint.notes)
        assert again.checkpoint.declared_parents == ("org/base",)
