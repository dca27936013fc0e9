"""The scenarios of lineage whose weights are arithmetic, made from random parents: nothing is trained here."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.scenario_repos import Model, build, write
from benchmarks.scenario_weights import Array, Weights
from benchmarks.scenarios import DISGUISES, TUNED, every_model
from tools.tiny_llama import CONTEXT, VOCABULARY, TinyLlama, initial_weights

TRAINED = {
    "root", "full_ft", "snapshot", "same_init_twin", "merge_linear_ft", "lora_merged", "freeze_ft", "feed_forward_kept",
    "attack_full_then_ft",
}  # fmt: skip
EXACT = ("merge_linear", "merge_task_arithmetic", "merge_with_base", "merge_soup")


def random_model(rng: np.random.Generator) -> Weights:
    """Weights large enough that attention and gains matter to the logits."""
    return {
        name: (weight.numpy() * (3 if weight.ndim == 2 else 1) * rng.uniform(0.5, 1.5, weight.shape)).astype(np.float32)
        for name, weight in initial_weights(7).items()
    }


def child(parent: Weights, rng: np.random.Generator) -> Weights:
    return {name: w + rng.normal(0, 0.01, w.shape).astype(np.float32) for name, w in parent.items()}


@pytest.fixture(scope="module")
def scenarios() -> list[tuple[str, Model]]:
    return every_model()


@pytest.fixture(scope="module")
def made(scenarios: list[tuple[str, Model]]) -> dict[str, Weights]:
    """Random models, each near its first parent, in place of the trained ones; the others by their recipes."""
    rng = np.random.default_rng(0)
    made: dict[str, Weights] = {}
    for _, model in scenarios:
        if model.relation in TRAINED:
            made[model.id] = child(made[model.parents[0]], rng) if model.parents else random_model(rng)
        else:
            made = build([model], made)
    return made


@pytest.fixture(scope="module")
def folder(
    scenarios: list[tuple[str, Model]], made: dict[str, Weights], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("scenarios")
    write(folder, scenarios, made)
    return folder


@pytest.fixture(scope="module")
def lineage(folder: Path) -> list[dict[str, str]]:
    with (folder / "lineage.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def stored(folder: Path, name: str) -> dict[str, Array]:
    return {key: w.float().numpy() for key, w in load_file(folder / "models" / name / "model.safetensors").items()}


def flat(weights: Weights) -> Array:
    return np.concatenate([weights[name].ravel() for name in sorted(weights)])


def logits(weights: Weights) -> torch.Tensor:
    model = TinyLlama({name: torch.from_numpy(weight) for name, weight in weights.items()})
    tokens = torch.randint(VOCABULARY, (2, CONTEXT), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states: torch.Tensor = model.model(tokens)
        return states @ model.model.embed_tokens.weight.T


def test_listing_and_lineage_agree(folder: Path, lineage: list[dict[str, str]]) -> None:
    listing = [json.loads(line) for line in (folder / "models" / "listing.jsonl").read_text().splitlines()]
    assert [entry["id"] for entry in listing] == [row["model"] for row in lineage]
    assert [entry["createdAt"].replace(".000Z", "Z") for entry in listing] == [row["created_at"] for row in lineage]
    assert len({entry["sha"] for entry in listing}) == len(listing)
    assert not any("base_model" in json.dumps(entry) for entry in listing)
    roots: dict[str, set[str]] = {}
    for row in lineage:
        parents = [parent for parent in row["parents"].split(";") if parent]
        assert all(parent in roots for parent in parents), "a parent is older"
        assert row["weights_derived"] == str(bool(parents)).lower()
        assert {row["base"]} - {""} <= set(roots)
        roots[row["model"]] = set(row["root"].split(";"))
        assert not parents or roots[row["model"]] == set().union(*(roots[parent] for parent in parents))


def test_merges_are_the_blends_that_the_table_says(folder: Path, lineage: list[dict[str, str]]) -> None:
    """Least squares on the stored weights find the stated ones, and nothing is left over."""
    merges = [row for row in lineage if row["relation"] in EXACT]
    assert len(merges) > 8
    for row in merges:
        parents = np.stack([flat(stored(folder, parent)) for parent in row["parents"].split(";")], axis=1)
        merge = flat(stored(folder, row["model"]))
        if row["base"]:
            base = flat(stored(folder, row["base"]))
            merge, parents = merge - base, parents - base[:, None]
        found, *_ = np.linalg.lstsq(parents, merge, rcond=None)
        assert found == pytest.approx([float(weight) for weight in row["weights"].split(";")], abs=0.01), row["model"]
        assert np.abs(merge - parents @ found).max() < 0.01, row["model"]


def test_noise_is_a_fraction_of_the_change(made: dict[str, Weights]) -> None:
    for ending, fraction in (("-noise-30", 0.3), ("-noise-60", 0.6)):
        model = next(m for _, m in every_model() if m.id == f"merges/linear-0.5{ending}")
        a, b = (made[parent]["model.layers.2.mlp.up_proj.weight"] for parent in model.parents)
        noise = made[model.id]["model.layers.2.mlp.up_proj.weight"] - (a + b) / 2
        assert np.std(noise) / np.std((a - b) / 2) == pytest.approx(fraction, rel=0.05)


def test_stacks_hold_the_layers_that_the_table_says(folder: Path, lineage: list[dict[str, str]]) -> None:
    stacks = [row for row in lineage if row["layers"]]
    assert len(stacks) == 3
    for row in stacks:
        weights, position = stored(folder, row["model"]), 0
        for piece in row["layers"].split(";"):
            parent, _, span = piece.partition(":")
            first, last = map(int, span.split("-"))
            origin = stored(folder, parent)
            for layer in range(first, last + 1):
                taken = {n.split(".", 3)[3]: w for n, w in weights.items() if n.startswith(f"model.layers.{position}.")}
                assert len(taken) == 9
                for name, weight in taken.items():
                    np.testing.assert_array_equal(weight, origin[f"model.layers.{layer}.{name}"])
                position += 1
        config = json.loads((folder / "models" / row["model"] / "config.json").read_text())
        assert config["num_hidden_layers"] == position


@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguise_changes_the_weights_and_not_the_function(made: dict[str, Weights], name: str) -> None:
    before = made[TUNED]
    after = DISGUISES[name](before, 5)
    assert max(float(np.abs(after[key] - before[key]).max()) for key in before if "_proj." in key) > 0.1
    assert (logits(after) - logits(before)).abs().max() < 1e-4 * logits(before).abs().max()


def test_cut_models_say_their_shape(folder: Path) -> None:
    for name, key, size in (("narrow", "hidden_size", 48), ("extended", "vocab_size", VOCABULARY + 32)):
        assert json.loads((folder / "models" / "cut" / name / "config.json").read_text())[key] == size
    kept = stored(folder, "cut/magnitude-30")["model.layers.0.mlp.up_proj.weight"]
    assert np.mean(kept == 0) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(("name", "levels"), [("int8", 255), ("int4", 15)])
def test_rounded_rows_have_few_levels(made: dict[str, Weights], name: str, levels: int) -> None:
    model = next(m for _, m in every_model() if m.id == f"rounded/{name}")
    cells = model.make(0, made[TUNED])["model.layers.0.self_attn.q_proj.weight"].reshape(
        -1, 64 if name == "int8" else 32
    )
    steps = cells / (np.abs(cells).max(axis=1, keepdims=True) / (levels // 2))
    assert np.abs(steps - np.round(steps)).max() < 1e-3
    assert not np.array_equal(cells.reshape(-1), made[TUNED]["model.layers.0.self_attn.q_proj.weight"].reshape(-1))
