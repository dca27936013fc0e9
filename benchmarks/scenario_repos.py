"""Models of known lineage: made in order, and written as repos, as a hub's listing and as a table of the truth."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zlib import crc32

import ml_dtypes
import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.scenario_weights import Weights
from tools.tiny_llama import config

FIRST_DAY = datetime(2025, 1, 6, 9, tzinfo=UTC)
CARD = {"library_name": "transformers", "license": "apache-2.0"}
COLUMNS = (
    "model", "parents", "root", "relation", "declared_base", "created_at", "attack", "weights_derived",
    "scenario", "weights", "base", "layers", "ambiguous",
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """One model and the truth about it.

    `make` takes a seed that the id fixes and the weights of the parents and then of the base; it returns the model's.
    """

    id: str
    relation: str
    make: Callable[..., Weights]
    parents: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    base: str = ""
    layers: str = ""
    twin: str = ""
    ambiguous: bool = False
    attack: bool = False

    @property
    def ingredients(self) -> tuple[str, ...]:
        return (*self.parents, self.base) if self.base else self.parents


def build(models: Iterable[Model], given: Mapping[str, Weights] | None = None) -> dict[str, Weights]:
    """Make the models in their order, from each other and from `given`; all are rounded to bfloat16, as stored."""
    made = dict(given or {})
    for model in models:
        weights = model.make(crc32(model.id.encode()), *(made[name] for name in model.ingredients))
        made[model.id] = {name: w.astype(ml_dtypes.bfloat16).astype(np.float32) for name, w in weights.items()}
    return made


def write(folder: Path, models: Sequence[tuple[str, Model]], weights: Mapping[str, Weights]) -> None:
    """Write the models, given with their scenarios, under `folder`: one a day, in their order."""
    created = [FIRST_DAY + timedelta(days=day) for day in range(len(models))]
    entries = [
        write_repo(folder / "models", model.id, weights[model.id], day)
        for (_, model), day in zip(models, created, strict=True)
    ]
    (folder / "models" / "listing.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    roots: dict[str, tuple[str, ...]] = {}
    with (folder / "lineage.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        for (scenario, model), day in zip(models, created, strict=True):
            above = [root for name in (*model.parents, model.twin) if name for root in roots[name]]
            roots[model.id] = tuple(dict.fromkeys(above)) or (model.id,)
            table.writerow(
                {
                    "model": model.id,
                    "parents": ";".join(model.parents),
                    "root": ";".join(roots[model.id]),
                    "relation": model.relation,
                    "created_at": f"{day:%Y-%m-%dT%H:%M:%SZ}",
                    "attack": str(model.attack).lower(),
                    "weights_derived": str(bool(model.parents)).lower(),
                    "scenario": scenario,
                    "weights": ";".join(map(str, model.weights)),
                    "base": model.base,
                    "layers": model.layers,
                    "ambiguous": str(model.ambiguous).lower(),
                }
            )


def write_repo(root: Path, name: str, weights: Weights, created: datetime) -> dict[str, object]:
    """Write the folder of a repo.

    Returns:
        its entry in the listing.
    """
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: torch.from_numpy(np.ascontiguousarray(weight)).bfloat16() for key, weight in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    vocabulary, width = weights["model.embed_tokens.weight"].shape
    shape = config(tensors) | {"hidden_size": width, "vocab_size": vocabulary}
    (folder / "config.json").write_text(json.dumps(shape, indent=2) + "\n")
    header = "".join(f"{key}: {value}\n" for key, value in CARD.items())
    (folder / "README.md").write_text(f"---\n{header}---\n# {folder.name}\n\nA byte-level model of Python source.\n")

    files = sorted(folder.iterdir())
    digests = "".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files)
    date = f"{created:%Y-%m-%dT%H:%M:%S.000Z}"
    return {
        "id": name,
        "sha": hashlib.sha1(digests.encode()).hexdigest(),
        "createdAt": date,
        "lastModified": date,
        "author": name.split("/")[0],
        "downloads": 0,
        "likes": 0,
        "gated": False,
        "private": False,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["transformers", "safetensors", "llama", "text-generation", "license:apache-2.0"],
        "cardData": CARD,
        "siblings": [{"rfilename": path.name} for path in files],
    }
