"""What was done to each role of a parent, of changes that are known; and the relation that follows."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from provenance.query.changes.energy import role_changes
from provenance.query.verdict.relation import relation_of
from provenance.schemas.comparison import RoleChange
from provenance.schemas.enums import Direction, Relation
from tests.conftest import Tensors, llama, trained
from tests.support.dossiers import layers_of, mapped, pair_of

ROOT = {name: t.astype(ml_dtypes.bfloat16).astype(np.float32) for name, t in llama(1).items()}


def changes(child: Tensors, parent: Tensors = ROOT) -> dict[str, RoleChange]:
    return {row.role: row for row in role_changes(pair_of(child, parent))}


def some(names: tuple[str, ...], child: Tensors) -> Tensors:
    """The root with the child's tensors where one of the parts occurs in the name."""
    return {name: child[name] if any(part in name for part in names) else tensor for name, tensor in ROOT.items()}


def test_frozen_roles_and_layers_are_seen_and_energies_are_those_of_the_change() -> None:
    found = changes(some(("layers.2.self_attn.q_proj", "layers.4.self_attn.q_proj"), trained(ROOT, 2, 0.3)))
    assert found["q"].layers == (0, 1, 2, 3, 4, 5)
    assert found["q"].unchanged == (0, 1, 3, 5)
    assert found["q"].energies[2] == pytest.approx(0.09, rel=0.3)
    assert found["q"].energy == pytest.approx(sum(energy or 0.0 for energy in found["q"].energies) / 6)
    assert all(row.equal and row.energy in (0, None) for role, row in found.items() if role != "q")
    assert found["q"].equal is False


def test_embeddings_are_known_by_their_rows_and_moments() -> None:
    name = "model.embed_tokens.weight"
    longer = {**ROOT, name: np.concatenate([ROOT[name], ROOT[name][:5]])}
    assert (changes(longer)["embed"].new_rows, changes(longer)["embed"].equal) == (5, False)
    assert changes(dict(ROOT))["embed"].equal is True
    assert changes(some(("embed",), trained(ROOT, 3, 0.1)))["embed"].equal is False
    assert changes(some(("embed",), trained(ROOT, 3, 0.1)))["embed"].energy is None


def test_a_merged_lora_has_its_rank() -> None:
    rng = np.random.default_rng(5)

    def add(name: str, tensor: NDArray[np.float32]) -> NDArray[Any]:
        if "q_proj" not in name:
            return tensor
        return tensor + 0.003 * rng.normal(size=(len(tensor), 2)) @ rng.normal(size=(2, tensor.shape[1]))

    found = changes(mapped(ROOT, add))
    assert found["q"].rank == 2
    assert found["k"].rank is None
    assert changes(trained(ROOT, 6, 0.2))["q"].rank is None


def test_layers_correspond_where_some_were_dropped() -> None:
    found = changes(layers_of(ROOT, [0, 1, 4, 5]))
    assert found["q"].layers == found["q"].unchanged == (0, 1, 2, 3)


def to_grid(levels: int) -> Tensors:
    def rounded(_: str, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        step = np.abs(tensor).max(axis=1, keepdims=True) / levels
        return np.asarray(np.round(tensor / step) * step, np.float32)

    return mapped(ROOT, rounded)


def to_fp8(_: str, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    scale = np.abs(tensor).max() / 448
    return np.asarray((tensor / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale, np.float32)


def cut(_: str, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.abs(tensor) < np.quantile(np.abs(tensor), 0.3), np.float32(0), tensor)


WITHOUT_NUMBERS = {n: np.full_like(t, np.nan) if ".layers.3." in n else t for n, t in trained(ROOT, 7, 0.2).items()}
RELATIONS: dict[str, tuple[Tensors, Relation]] = {
    "int8": (to_grid(127), Relation.QUANTIZED),
    "int4": (to_grid(7), Relation.QUANTIZED),
    "fp8": (mapped(ROOT, to_fp8), Relation.QUANTIZED),
    "cut": (mapped(ROOT, cut), Relation.PRUNED),
    "light": (trained(ROOT, 8, 0.005), Relation.FINETUNE),
    "usual": (trained(ROOT, 8, 0.2), Relation.FINETUNE),
    "one layer without numbers": (WITHOUT_NUMBERS, Relation.FINETUNE),
    "rescaled": ({name: tensor * np.float32(3) for name, tensor in ROOT.items()}, Relation.TRANSFORMED),
    "shorter": (layers_of(ROOT, [0, 1, 4, 5]), Relation.DEPTH_CHANGED),
    "copy": (dict(ROOT), Relation.IDENTICAL),
}


@pytest.mark.parametrize("kind", RELATIONS)
def test_relations_follow_from_what_changed(kind: str) -> None:
    child, relation = RELATIONS[kind]
    assert relation_of(pair_of(child, ROOT), Direction.PARENT) is relation


def test_zeros_and_grids_are_shares_before_and_after() -> None:
    found = changes(mapped(ROOT, cut))["q"]
    assert found.zeros == pytest.approx(0.3, abs=0.1)
    assert found.zeros_before == 0
    on_grid = changes(to_grid(7))["q"]
    assert on_grid.repeats is not None
    assert on_grid.repeats_before is not None
    assert on_grid.repeats > 3 * on_grid.repeats_before
