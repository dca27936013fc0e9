"""How well merges are recognised: `python -m benchmarks.merges FOLDER [SEEDS]`.

FOLDER is what `python -m benchmarks.scenarios FOLDER` wrote: its trained fine-tunes of one base are merged here in
many ways, with parents, weights and layers drawn at random. Each merge is asked about in a store of the base, eleven
fine-tunes, two strangers, and, where it is a mean, a sister of the same parents; once with dates and once without.
The base and one parent are asked about too: they are no merges.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks import scenario_weights as sw
from benchmarks.scenario_weights import Weights
from provenance.indexer.dossier import Dossier
from provenance.query.catalogue import Catalogue
from provenance.query.engine import Judgement, judge
from provenance.schemas.enums import Direction
from tests.support.dossiers import dossier

BASE, SISTER, MERGE = "quillmarsh/sedge-200k", "org/sister", "org/merge"
CHILDREN = (*(f"merges/member-{n}" for n in range(1, 9)), *(f"siblings_other_text/child-{n}" for n in (1, 2, 3)))
STRANGERS = ("roots/fennel", "chain/generation-1")
DEPTH = 6

Layers = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Recipe:
    """A merge: its weights, what each parent gave, which layer of whom stands where, a sister of the same parents."""

    weights: Weights
    parents: Mapping[str, float | None]
    layers: Layers = ()
    sister: Weights | None = None


@dataclass
class Tally:
    """Merges asked about; those with just their parents named; largest errors of their weights; those with all layers
    right; others named as parents; sisters called parent or child; queries of others, and those called merges."""

    n: int = 0
    named: int = 0
    errors: list[float] = field(default_factory=list)
    stacks: int = 0
    layers: int = 0
    wrong: int = 0
    sisters: int = 0
    others: int = 0
    called: int = 0


Kind = Callable[[np.random.Generator, Mapping[str, Weights]], Recipe]


def linear(count: int, noise: float = 0.0) -> Kind:
    def make(rng: np.random.Generator, models: Mapping[str, Weights]) -> Recipe:
        names = list(map(str, rng.choice(CHILDREN, count, replace=False)))
        shares = np.full(count, 1 / count) if count > 2 else np.array([w := rng.uniform(0.3, 0.7), 1 - w])
        chosen = [models[name] for name in names]
        merged = sw.linear(chosen, shares.tolist())
        if noise:
            merged = sw.noisy(merged, chosen, noise, int(rng.integers(2**31)))
        other = rng.permutation(shares) * rng.uniform(0.8, 1.2, count)
        sister = sw.linear(chosen, (other / other.sum()).tolist())
        return Recipe(merged, dict(zip(names, shares.tolist(), strict=True)), sister=sister)

    return make


def with_base(noise: float = 0.0) -> Kind:
    def make(rng: np.random.Generator, models: Mapping[str, Weights]) -> Recipe:
        name = str(rng.choice(CHILDREN))
        chosen = (models[BASE], models[name])
        merged = sw.linear(chosen, (0.6, 0.4))
        if noise:
            merged = sw.noisy(merged, chosen, noise, int(rng.integers(2**31)))
        return Recipe(merged, {BASE: 0.6, name: 0.4})

    return make


def arithmetic(scale: float, noise: float = 0.0) -> Kind:
    def make(rng: np.random.Generator, models: Mapping[str, Weights]) -> Recipe:
        names = list(map(str, rng.choice(CHILDREN, 2, replace=False)))
        chosen = [models[name] for name in names]
        merged = sw.task_arithmetic(chosen, models[BASE], (scale, scale))
        if noise:
            merged = sw.noisy(merged, chosen, noise, int(rng.integers(2**31)))
        return Recipe(merged, dict.fromkeys(names, scale))

    return make


def slerp(by: str) -> Kind:
    def make(rng: np.random.Generator, models: Mapping[str, Weights]) -> Recipe:
        one, other = map(str, rng.choice(CHILDREN, 2, replace=False))
        fixed = float(rng.uniform(0.3, 0.7))

        def t(name: str) -> float:
            depth = int(name.split(".")[2]) / (DEPTH - 1) if ".layers." in name else 0.5
            return {"": fixed, "layer": depth, "part": 1 - depth if "mlp" in name else depth}[by]

        shares: dict[str, float | None] = {one: None, other: None} if by else {one: 1 - fixed, other: fixed}
        return Recipe(sw.slerp(models[one], models[other], t), shares)

    return make


def sparse(drop: bool) -> Kind:
    def make(rng: np.random.Generator, models: Mapping[str, Weights]) -> Recipe:
        names = list(map(str, rng.choice(CHILDREN, 2, replace=False)))
        base, density = models[BASE], float(rng.uniform(0.3, 0.7))
        chosen = [models[name] for name in names]
        if drop:
            seed = int(rng.integers(2**31))
            chosen = [sw.dare(model, base, density, seed + i) for i, model in enumerate(chosen)]
        return Recipe(sw.ties(chosen, base, 1 if drop else density), dict.fromkeys(names))

    return make


def tuned(steps: int) -> Kind:
    def make(rng: np.random.Generator, models: Mapping[str, Weights]) -> Recipe:
        names = list(map(str, rng.choice(CHILDREN, 2, replace=False)))
        merged = sw.linear([models[name] for name in names], (0.5, 0.5))
        trained = sw.train(merged, sw.text("lib2to3", "curses"), seed=int(rng.integers(1000)), steps=steps)
        return Recipe(trained, dict.fromkeys(names, 0.5))

    return make


def stacked(*slices: tuple[int, int, int], strangers: bool = False) -> Kind:
    def make(rng: np.random.Generator, models: Mapping[str, Weights]) -> Recipe:
        names = list(map(str, rng.choice(CHILDREN, 2, replace=False)))
        if strangers:
            names[1] = STRANGERS[0]
        merged = sw.passthrough([(models[names[who]], first, last) for who, first, last in slices])
        layers = tuple((names[who], n) for who, first, last in slices for n in range(first, last + 1))
        return Recipe(merged, dict.fromkeys(names), layers)

    return make


KINDS: dict[str, Kind] = {
    "mean of 2": linear(2),
    "mean of 2, noise 30 %": linear(2, 0.3),
    "mean of 2, noise 60 %": linear(2, 0.6),
    "mean of 2, then 15 steps": tuned(15),
    "mean of 2, then 30 steps": tuned(30),
    "soup of 4": linear(4),
    "soup of 8": linear(8),
    "soup of 8, noise 30 %": linear(8, 0.3),
    "base and own child": with_base(),
    "base and own child, noise 30 %": with_base(0.3),
    "task arithmetic .6": arithmetic(0.6),
    "task arithmetic 1": arithmetic(1.0),
    "task arithmetic 1, noise 30 %": arithmetic(1.0, 0.3),
    "SLERP": slerp(""),
    "SLERP by layer": slerp("layer"),
    "SLERP by layer and part": slerp("part"),
    "TIES": sparse(drop=False),
    "DARE-TIES": sparse(drop=True),
    "stack, equal depth": stacked((0, 0, 2), (1, 3, 5)),
    "stack, deeper": stacked((0, 0, 3), (1, 2, 5)),
    "stack, interleaved": stacked((0, 0, 1), (1, 1, 2), (0, 2, 3), (1, 4, 5)),
    "stack of strangers": stacked((0, 0, 2), (1, 3, 5), strangers=True),
}


def read(folder: Path) -> dict[str, Weights]:
    """The weights of the base, its children and two strangers."""
    files = {name: folder / "models" / name / "model.safetensors" for name in (BASE, *CHILDREN, *STRANGERS)}
    return {name: {key: w.float().numpy() for key, w in load_file(path).items()} for name, path in files.items()}


def stored(weights: Weights, name: str, day: int | None) -> Dossier:
    """The dossier of weights in bfloat16, as they are published."""
    rounded = {key: torch.from_numpy(np.ascontiguousarray(w)).bfloat16().float().numpy() for key, w in weights.items()}
    depth = len({key.split(".")[2] for key in weights if ".layers." in key})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": depth,
    }  # fmt: skip
    return dossier(rounded, name, created=day, config=config)


def layers_of(found: Judgement) -> Layers:
    """Which layer of whom stands where, as far as the answer says."""
    places = {
        run.first + n: (one.repo_id, run.start + n)
        for one in found.candidates
        if one.merge is not None
        for run in one.layers
        for n in range(run.last - run.first + 1)
    }
    return tuple(places[place] for place in sorted(places))


def ask(recipe: Recipe, originals: Sequence[Dossier], dated: bool, tally: Tally) -> None:
    """Ask about one merge, its base and a parent."""
    merge = stored(recipe.weights, MERGE, 100 if dated else None)
    store = [*originals, merge]
    if recipe.sister is not None:
        store.append(stored(recipe.sister, SISTER, 101 if dated else None))
    catalogue = Catalogue(unindexed=store)
    found = judge(merge, catalogue)
    named = {one.repo_id: one.merge.weight for one in found.candidates if one.merge is not None}
    tally.n += 1
    right = set(named) == set(recipe.parents)
    tally.named += right
    tally.wrong += len(set(named) - set(recipe.parents))
    shares = [(name, share) for name, share in recipe.parents.items() if share is not None]
    if right and shares:
        tally.errors.append(max(abs(named[name] - share) for name, share in shares))
    if recipe.layers:
        tally.stacks += 1
        tally.layers += layers_of(found) == recipe.layers
    tally.sisters += any(
        one.repo_id == SISTER and one.direction in (Direction.PARENT, Direction.CHILD) for one in found.candidates
    )
    for name in (BASE, next(iter(recipe.parents))):
        other = judge(next(one for one in store if one.repo_id == name), catalogue)
        tally.others += 1
        tally.called += any(one.merge is not None for one in other.candidates)


def main(folder: Path, seeds: int) -> None:
    torch.set_num_threads(1)
    models = read(folder)
    dated = [stored(weights, name, day) for day, (name, weights) in enumerate(models.items())]
    bare = [replace(one, meta=replace(one.meta, created_at=None)) for one in dated]
    names = ("merge", "dates", "asked", "parents named", "weight error", "layers right", "wrong parents",
             "sister as parent", "others asked", "called merges")  # fmt: skip
    print(f"| {' | '.join(names)} |\n|" + " --- |" * len(names))
    for row, (name, kind) in enumerate(KINDS.items()):
        recipes = [kind(np.random.default_rng([row, seed]), models) for seed in range(seeds)]
        for originals, word in ((dated, "yes"), (bare, "no")):
            tally = Tally()
            for recipe in recipes:
                ask(recipe, originals, originals is dated, tally)
            error = f"{max(tally.errors):.3f}" if tally.errors else "–"
            layers = f"{tally.layers} of {tally.stacks}" if tally.stacks else "–"
            figures = (
                name,
                word,
                tally.n,
                tally.named,
                error,
                layers,
                tally.wrong,
                tally.sisters,
                tally.others,
                tally.called,
            )
            print(f"| {' | '.join(map(str, figures))} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) in (2, 3):
        main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 4)
    else:
        print(__doc__)
