"""Train the miniature family: seven small checkpoints of known lineage, shipped in `provenance/miniature`.

Every checkpoint is trained on the source text of Python's standard library, so that the demo and the tests see what
a hub has: weights that moved away from their initialisation, a fine-tune, a rounding, a pruning, a false card, a
stranger, and a twin that shares an initialisation and no training.

    python tools/make_miniature_family.py [FOLDER]

takes some minutes on two cores and writes the repos, `listing.jsonl` (as a hub lists them) and `lineage.csv`
(the truth). Seeds, order of text and thread count are fixed: the same Python and torch give the same weights.
The organisations are invented.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_llama import Weights, config, correlation, initial_weights, n_layers, read_text, train
from torch import Tensor

log = logging.getLogger("miniature")


def round_to_int8(weights: Weights) -> Weights:
    """Each matrix of the layers on its per-row grid of 255 levels, and back to bfloat16."""

    def rounded(weight: Tensor) -> Tensor:
        step = weight.float().abs().amax(dim=1, keepdim=True) / 127
        return ((weight.float() / step).round() * step).bfloat16()

    return {name: rounded(weight) if "_proj." in name else weight for name, weight in weights.items()}


def drop_layers(weights: Weights, dropped: tuple[int, ...]) -> Weights:
    """The same weights without some layers; the others are renumbered."""
    kept = [layer for layer in range(n_layers(weights)) if layer not in dropped]
    pruned = {name: weight for name, weight in weights.items() if ".layers." not in name}
    for new, old in enumerate(kept):
        prefix = f"model.layers.{old}."
        layer = {name: weight for name, weight in weights.items() if name.startswith(prefix)}
        pruned |= {f"model.layers.{new}.{name.removeprefix(prefix)}": weight for name, weight in layer.items()}
    return pruned


@dataclass(frozen=True)
class Repo:
    """What the hub lists about one repo, and the truth about it."""

    id: str
    created: str
    license: str
    relation: str
    about: str
    parent: str = ""
    root: str = ""
    declares: str = ""
    declares_relation: str = ""
    shards: int = 1
    downloads: int = 0
    likes: int = 0

    def card(self) -> dict[str, str]:
        card = {"library_name": "transformers", "license": self.license}
        if self.declares:
            card |= {"base_model": self.declares, "base_model_relation": self.declares_relation}
        return card


ROOT = Repo(
    "quillmarsh/sedge-200k", "2025-02-03T09:12:00Z", "apache-2.0", "root",
    "A byte-level language model of Python source.", downloads=5210, likes=48,
)  # fmt: skip
STRANGER = Repo(
    "vantorrel/basalt-200k", "2025-02-11T16:40:00Z", "apache-2.0", "root_control",
    "A byte-level model trained from scratch on Python modules.", downloads=3874, likes=31,
)  # fmt: skip
TWIN = Repo(
    "quillmarsh/sedge-200k-suite", "2025-02-19T08:05:00Z", "apache-2.0", "same_init_twin",
    "Trained from scratch on test suites.", root=ROOT.id, downloads=640, likes=6,
)  # fmt: skip
MAIL = Repo(
    "ostrel/sedge-mail", "2025-03-04T13:27:00Z", "mit", "full_ft",
    "Sedge, fine-tuned on asynchronous and mail code.", parent=ROOT.id, root=ROOT.id,
    declares=ROOT.id, declares_relation="finetune", downloads=912, likes=14,
)  # fmt: skip
UNDECLARED = Repo(
    "nimblewick/concord-base", "2025-03-18T21:51:00Z", "bsd-3-clause", "full_ft",
    "Concord is a compact model for interface code.", parent=ROOT.id, root=ROOT.id,
    shards=2, downloads=2155, likes=27,
)  # fmt: skip
ROUNDED = Repo(
    "thriftbyte/sedge-mail-int8", "2025-04-01T07:33:00Z", "mit", "quant_int8",
    "Sedge-mail with its matrices rounded to int8.", parent=MAIL.id, root=ROOT.id,
    declares=MAIL.id, declares_relation="quantized", downloads=388, likes=3,
)  # fmt: skip
PRUNED = Repo(
    "halfstair/short-basalt-4l", "2025-04-22T18:19:00Z", "apache-2.0", "prune_depth",
    "Basalt with four layers.", parent=ROOT.id, root=ROOT.id,
    declares=STRANGER.id, declares_relation="finetune", downloads=174, likes=2,
)  # fmt: skip


def train_family() -> dict[Repo, Weights]:
    mail, tests, tools = {"asyncio", "email"}, {"test", "unittest"}, {"idlelib", "tkinter", "turtledemo"}
    others = {"encodings", "pydoc_data", "lib2to3"}  # tables and grammars, with little ordinary code
    general = read_text(lambda folder: folder not in mail | tests | tools | others)
    suites = read_text(lambda folder: folder in tests)

    def from_scratch(repo: Repo, text: tuple[Tensor, Tensor], init: int, order: int) -> Weights:
        log.info("%s from seed %d", repo.id, init)
        start = initial_weights(init)
        weights = train(start, text, seed=order, steps=2000, rate=6e-3)
        log.info("  correlation with the initialisation %s", correlation(start, weights))
        return weights

    def fine_tune(repo: Repo, start: Weights, text: tuple[Tensor, Tensor], order: int) -> Weights:
        log.info("%s", repo.id)
        return train(start, text, seed=order, steps=500, rate=2e-3)

    root = from_scratch(ROOT, general, init=1, order=101)
    stranger = from_scratch(STRANGER, general, init=2, order=102)
    twin = from_scratch(TWIN, suites, init=1, order=103)
    tuned = fine_tune(MAIL, root, read_text(lambda folder: folder in mail), order=104)
    undeclared = fine_tune(UNDECLARED, root, read_text(lambda folder: folder in tools), order=105)
    pruned = fine_tune(PRUNED, drop_layers(root, (2, 3)), general, order=106)
    return {
        ROOT: root, STRANGER: stranger, TWIN: twin, MAIL: tuned, UNDECLARED: undeclared,
        ROUNDED: round_to_int8(tuned), PRUNED: pruned,
    }  # fmt: skip


def write_repo(root: Path, repo: Repo, weights: Weights) -> dict[str, object]:
    """Write the folder of a repo.

    Returns:
        its entry in the listing.
    """
    folder = root / repo.id
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    if repo.shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        write_shards(folder, weights, repo.shards)
    (folder / "config.json").write_text(json.dumps(config(weights), indent=2) + "\n")
    header = "".join(f"{key}: {value}\n" for key, value in repo.card().items())
    (folder / "README.md").write_text(f"---\n{header}---\n# {folder.name}\n\n{repo.about}\n")

    files = sorted(path for path in folder.iterdir())
    digests = "".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files)
    created = repo.created.replace("Z", ".000Z")
    tags = ["transformers", "safetensors", "llama", "text-generation", f"license:{repo.license}"]
    if repo.declares:
        tags += [f"base_model:{repo.declares}", f"base_model:{repo.declares_relation}:{repo.declares}"]
    return {
        "id": repo.id,
        "sha": hashlib.sha1(digests.encode()).hexdigest(),
        "createdAt": created,
        "lastModified": created,
        "author": repo.id.split("/")[0],
        "downloads": repo.downloads,
        "likes": repo.likes,
        "gated": False,
        "private": False,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": tags,
        "cardData": repo.card(),
        "siblings": [{"rfilename": path.name} for path in files],
    }


def write_shards(folder: Path, weights: Weights, count: int) -> None:
    """Write the tensors, in the order of their names, as `count` shards with an index."""
    names = sorted(weights)
    weight_map = {
        name: f"model-{1 + position * count // len(names):05d}-of-{count:05d}.safetensors"
        for position, name in enumerate(names)
    }
    for file in sorted(set(weight_map.values())):
        shard = {name: weights[name] for name in names if weight_map[name] == file}
        save_file(shard, folder / file, metadata={"format": "pt"})
    size = sum(weight.numel() * weight.element_size() for weight in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_family(root: Path, family: dict[Repo, Weights]) -> None:
    """Write every repo, `listing.jsonl` and `lineage.csv` under `root`."""
    entries = [write_repo(root, repo, weights) for repo, weights in family.items()]
    (root / "listing.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    with (root / "lineage.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(
            ["model", "parents", "root", "relation", "declared_base", "created_at", "attack", "weights_derived"]
        )
        for repo in family:
            derived = str(bool(repo.parent)).lower()
            origin = repo.root or repo.id
            rows.writerow([repo.id, repo.parent, origin, repo.relation, repo.declares, repo.created, "false", derived])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    shipped = Path(__file__).resolve().parent.parent / "provenance" / "miniature"
    write_family(Path(sys.argv[1]) if len(sys.argv) > 1 else shipped, train_family())
