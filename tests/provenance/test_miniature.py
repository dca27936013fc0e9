"""The shipped miniature family: complete, small, trained, and related as its truth table says."""

from __future__ import annotations

import csv
import importlib
import json
import math
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
MINIATURE = ROOT / "provenance" / "miniature"
COLUMNS = ["model", "parents", "root", "relation", "declared_base", "created_at", "attack", "weights_derived"]
ENTRY = [
    "id",
    "sha",
    "createdAt",
    "lastModified",
    "author",
    "downloads",
    "likes",
    "gated",
    "private",
    "library_name",
    "pipeline_tag",
    "tags",
    "cardData",
    "siblings",
]

BASE, STRANGER, TWIN = "quillmarsh/sedge-200k", "vantorrel/basalt-200k", "quillmarsh/sedge-200k-suite"
MAIL, UNDECLARED = "ostrel/sedge-mail", "nimblewick/concord-base"
ROUNDED, PRUNED = "thriftbyte/sedge-mail-int8", "halfstair/short-basalt-4l"
KEPT_LAYERS = {0: 0, 1: 1, 2: 4, 3: 5}
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Weights = dict[str, Tensor]


def listing() -> dict[str, dict[str, object]]:
    entries = [json.loads(line) for line in (MINIATURE / "listing.jsonl").read_text().splitlines()]
    return {entry["id"]: entry for entry in entries}


def lineage() -> dict[str, dict[str, str]]:
    with (MINIATURE / "lineage.csv").open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def load(repo: str) -> Weights:
    weights: Weights = {}
    for path in sorted((MINIATURE / repo).glob("*.safetensors")):
        shard = load_file(path)
        assert not weights.keys() & shard.keys()
        weights |= shard
    return weights


@pytest.fixture(scope="module")
def family() -> dict[str, Weights]:
    return {repo: load(repo) for repo in listing()}


@pytest.fixture(scope="module")
def tiny_llama() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "tools"))
    yield importlib.import_module("tiny_llama")
    sys.path.remove(str(ROOT / "tools"))


def projections(weights: Weights) -> Tensor:
    """All cells of the layers' matrices, in one order."""
    return torch.cat([weights[name].double().flatten() for name in sorted(weights) if "_proj." in name])


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack((a, b)))[0, 1])


def renumbered(pruned: Weights) -> Weights:
    """A pruned checkpoint under the layer numbers its layers had before."""
    names = {}
    for name in pruned:
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(KEPT_LAYERS[int(parts[2])])
        names[name] = ".".join(parts)
    return {names[name]: weight for name, weight in pruned.items()}


def test_family_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in MINIATURE.rglob("*") if path.is_file()) <= 2_800_000


def test_listing_lineage_and_folders_name_the_same_repos() -> None:
    folders = {path.parent.relative_to(MINIATURE).as_posix() for path in MINIATURE.rglob("config.json")}
    assert set(listing()) == set(lineage()) == folders
    assert len(folders) == 7


def test_listing_describes_the_folders() -> None:
    truth = lineage()
    for repo, entry in listing().items():
        assert list(entry) == ENTRY
        files = {path.name for path in (MINIATURE / repo).iterdir()}
        siblings = entry["siblings"]
        assert isinstance(siblings, list)
        assert {sibling["rfilename"] for sibling in siblings} == files
        sha = entry["sha"]
        assert isinstance(sha, str)
        assert len(bytes.fromhex(sha)) == 20
        card = entry["cardData"]
        assert isinstance(card, dict)
        assert card.get("base_model", "") == truth[repo]["declared_base"]
        assert f"license:{card['license']}" in entry["tags"]  # type: ignore[operator]
        header = (MINIATURE / repo / "README.md").read_text().split("---\n")[1]
        assert dict(line.split(": ", 1) for line in header.splitlines()) == card
        assert str(entry["createdAt"]).replace(".000Z", "Z") == truth[repo]["created_at"]


def test_truth_table_is_consistent() -> None:
    truth = lineage()
    created = {repo: datetime.fromisoformat(row["created_at"]) for repo, row in truth.items()}
    for repo, row in truth.items():
        assert list(row) == COLUMNS
        assert row["weights_derived"] == ("true" if row["parents"] else "false")
        if row["parents"]:
            assert created[row["parents"]] < created[repo]
            assert truth[row["parents"]]["root"] == row["root"]
        else:
            # A twin shares its initialisation, so it counts to the family without being derived.
            assert row["root"] == ("quillmarsh/sedge-200k" if repo == TWIN else repo)
    assert truth[TWIN]["relation"] == "same_init_twin"
    assert truth[UNDECLARED]["declared_base"] == ""
    assert truth[PRUNED]["declared_base"] == STRANGER
    assert truth[PRUNED]["parents"] == BASE


def test_weights_have_the_shapes_of_their_config(family: dict[str, Weights], tiny_llama: ModuleType) -> None:
    initial = tiny_llama.initial_weights(0)
    for repo, weights in family.items():
        config = json.loads((MINIATURE / repo / "config.json").read_text())
        assert config == tiny_llama.config(weights)
        layers = config["num_hidden_layers"]
        assert layers == (4 if repo == PRUNED else 6)
        shapes = {
            name: tensor.shape
            for name, tensor in initial.items()
            if ".layers." not in name or int(name.split(".")[2]) < layers
        }
        assert {name: weight.shape for name, weight in weights.items()} == shapes
        assert all(weight.dtype == torch.bfloat16 and weight.isfinite().all() for weight in weights.values())


def test_embeddings_are_tied(family: dict[str, Weights]) -> None:
    for repo, weights in family.items():
        assert json.loads((MINIATURE / repo / "config.json").read_text())["tie_word_embeddings"] is True
        assert not any("lm_head" in name for name in weights)


def test_shard_index_lists_every_tensor_where_it_lies() -> None:
    folder = MINIATURE / UNDECLARED
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
    assert len(shards) == 2
    assert index["weight_map"] == {name: file for file, shard in shards.items() for name in shard}
    cells = sum(weight.numel() for shard in shards.values() for weight in shard.values())
    assert index["metadata"]["total_size"] == 2 * cells


def test_every_member_models_text(family: dict[str, Weights], tiny_llama: ModuleType) -> None:
    mail = tiny_llama.read_text(lambda folder: folder in {"asyncio", "email"})[1]
    windows = mail.unfold(0, tiny_llama.CONTEXT + 1, len(mail) // 20)

    def loss(weights: Weights) -> float:
        with torch.no_grad():
            return float(tiny_llama.TinyLlama(weights).loss(windows))

    untrained = loss(tiny_llama.initial_weights(1))
    losses = {repo: loss(weights) for repo, weights in family.items()}
    # Tied embeddings favour repeating a byte, so even untrained it falls a little short of log 256 = 5.55.
    assert 5 < untrained < math.log(256) + 0.1
    assert max(losses.values()) < 2.2
    assert losses[MAIL] < losses[BASE]


def test_fine_tunes_keep_the_weights_of_their_parent(family: dict[str, Weights]) -> None:
    base = projections(family[BASE])
    for repo in (MAIL, UNDECLARED):
        tuned = projections(family[repo])
        assert 0.8 < correlation(base, tuned) < 0.9999


def test_pruned_layers_are_layers_of_the_base_and_not_of_the_declared_parent(family: dict[str, Weights]) -> None:
    pruned = renumbered(family[PRUNED])
    for repo, low, high in ((BASE, 0.8, 1.0), (STRANGER, -0.02, 0.02)):
        kept = {name: family[repo][name] for name in pruned}
        assert low < correlation(projections(kept), projections(pruned)) < high


def test_rounded_copy_is_its_parent_on_an_int8_grid(family: dict[str, Weights]) -> None:
    for name, weight in family[MAIL].items():
        rounded = family[ROUNDED][name].float()
        if "_proj." not in name:
            assert torch.equal(rounded, weight.float())
            continue
        step = weight.float().abs().amax(dim=1, keepdim=True) / 127
        # Half a step of rounding, and bfloat16's own: 8 bits of significand.
        assert ((rounded - weight.float()).abs() <= step / 2 + rounded.abs() * 2**-8).all()
        assert not torch.equal(rounded, weight.float())


def test_twin_remembers_the_common_initialisation_and_a_stranger_has_none(family: dict[str, Weights]) -> None:
    base = projections(family[BASE])
    noise = 1 / math.sqrt(len(base))
    assert abs(correlation(base, projections(family[STRANGER]))) < 4 * noise
    assert 8 * noise < correlation(base, projections(family[TWIN])) < 0.3


@pytest.mark.parametrize("part", PROJECTIONS)
def test_both_twins_still_resemble_their_seed(family: dict[str, Weights], tiny_llama: ModuleType, part: str) -> None:
    seed = tiny_llama.initial_weights(1)
    found = {repo: tiny_llama.correlation(seed, family[repo])[part] for repo in (BASE, TWIN, STRANGER)}
    assert found[BASE] > 0.05
    assert found[TWIN] > 0.05
    assert abs(found[STRANGER]) < 0.04
