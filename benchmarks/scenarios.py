"""Trained checkpoints of known lineage for the hard cases: `python -m benchmarks.scenarios FOLDER` writes them.

FOLDER/models holds the repos with a `listing.jsonl` as the Hub's listing returns it; no card declares a base.
FOLDER/lineage.csv is the truth: the columns of the miniature family's table, and

- `scenario`: the function below that makes the model;
- `weights`: what a merge gave to each of `parents`, in their order;
- `base`: the model that the changes of the parents were measured from, where the recipe has one;
- `layers`: where a stack took its layers from, first to last inclusive, `a/b:0-3;c/d:2-5`;
- `ambiguous`: whether the weights alone fit other parents too.

A model that shares an initialisation but no training has the root of its twin and no parents.
Seeds, order of text and thread count are fixed: the same Python and torch give the same weights.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks import scenario_weights as sw
from benchmarks.scenario_repos import Model, build, write
from benchmarks.scenario_weights import Weights, linear, noisy, text, train
from tools.tiny_llama import LAYERS, initial_weights

MINIATURE = Path(__file__).resolve().parent.parent / "provenance" / "miniature"
SEDGE, FENNEL, LARCH, TUNED = "quillmarsh/sedge-200k", "roots/fennel", "roots/larch", "light/tuned"

Words = tuple[str, ...]
MODULES, ASYNC, MAIL, MARKUP = (".",), ("asyncio",), ("email",), ("xml", "html", "json")
PARALLEL, GUI, SUITES = (
    ("multiprocessing", "collections"),
    ("tkinter", "turtledemo"),
    ("unittest", "ctypes", "concurrent"),
)
IMPORTS, IDLE, TABLES = ("importlib",), ("idlelib",), ("encodings",)
WEB = ("http", "urllib", "xmlrpc", "wsgiref", "logging", "sqlite3", "dbm")

NOISES = ((0.0, ""), (0.3, "-noise-30"), (0.6, "-noise-60"))
"""Fractions of a merge's change, and the ends of the names."""


def from_scratch(init: int, words: Words, steps: int, rate: float) -> Weights:
    start = {name: weight.numpy() for name, weight in initial_weights(init).items()}
    return train(start, text(*words), seed=init, steps=steps, rate=rate)


def fine_tune(
    name: str, parent: str, words: Words, steps: int = 200, rate: float = 1e-3, relation: str = "full_ft",
    trained: tuple[str, ...] = ("",),
) -> Model:  # fmt: skip
    def make(seed: int, start: Weights) -> Weights:
        return train(start, text(*words), seed=seed, steps=steps, rate=rate, trained=trained)

    return Model(name, relation, make, (parent,))


def roots() -> Iterator[Model]:
    def sedge(_: int) -> Weights:
        return {name: w.float().numpy() for name, w in load_file(MINIATURE / SEDGE / "model.safetensors").items()}

    yield Model(SEDGE, "root", sedge)
    yield Model(FENNEL, "root", lambda _: from_scratch(11, MODULES, 1000, 4e-3))
    yield Model(LARCH, "root", lambda _: from_scratch(12, (*IDLE, *MAIL, *MARKUP, *WEB), 1000, 4e-3))


def chain() -> Iterator[Model]:
    parent = FENNEL
    for generation, words in enumerate((ASYNC, GUI, IMPORTS), start=1):
        yield fine_tune(f"chain/generation-{generation}", parent, words)
        parent = f"chain/generation-{generation}"


def siblings_same_text() -> Iterator[Model]:
    for n, (steps, rate) in enumerate(((120, 5e-4), (200, 1e-3), (200, 2e-3), (300, 1e-3)), start=1):
        yield fine_tune(f"siblings_same_text/child-{n}", SEDGE, MAIL, steps, rate)


def siblings_other_text() -> Iterator[Model]:
    for n, words in enumerate((MARKUP, GUI, TABLES), start=1):
        yield fine_tune(f"siblings_other_text/child-{n}", SEDGE, words)


def snapshots() -> Iterator[Model]:
    """Of one run from scratch. Each is the parent of the next, and nothing tells it from a short fine-tune."""
    before: tuple[str, ...] = ()
    for steps in (10, 50, 150, 300):
        name = f"snapshots/step-{steps}"
        yield Model(name, "snapshot", lambda *_, n=steps: from_scratch(21, MODULES, n, 3e-3), before, ambiguous=True)
        before = (name,)


def twins() -> Iterator[Model]:
    """Pairs of runs from one initialisation on other texts, and step 10 of the left run of the third pair."""
    for init, steps, rate in ((31, 50, 1e-3), (32, 100, 1e-3), (33, 200, 3e-3), (34, 300, 3e-3)):

        def run(words: Words, n: int, init: int = init, rate: float = rate) -> Callable[..., Weights]:
            return lambda *_: from_scratch(init, words, n, rate)

        left, early = f"twins/steps-{steps}-left", f"twins/steps-{steps}-left-at-10"
        before = (early,) if steps == 200 else ()
        if before:
            yield Model(early, "snapshot", run(MODULES, 10), ambiguous=True)
        yield Model(left, "same_init_twin", run(MODULES, steps), before, ambiguous=bool(before))
        yield Model(f"twins/steps-{steps}-right", "same_init_twin", run(IDLE, steps), twin=left)


def merges() -> Iterator[Model]:
    """Merges of fine-tunes of one base, no two of the same parents but where that is the case."""
    texts = (ASYNC, MAIL, MARKUP, PARALLEL, SUITES, IMPORTS, IDLE, WEB)
    members = tuple(f"merges/member-{n}" for n in range(1, 9))
    for member, words in zip(members, texts, strict=True):
        yield fine_tune(member, SEDGE, words, steps=120)
    pairs = combinations((*members, *(f"siblings_other_text/child-{n}" for n in (1, 2, 3))), 2)

    def blend(
        relation: str, name: str, weights: tuple[float, ...], parents: tuple[str, ...], base: str = "",
        noise: float = 0, ambiguous: bool = False,
    ) -> Model:  # fmt: skip
        def make(seed: int, *models: Weights) -> Weights:
            merged = linear(models, (*weights, 1 - sum(weights)) if base else weights)
            return noisy(merged, models, noise, seed) if noise else merged

        relation += f"_noise{noise * 100:.0f}" if noise else ""
        return Model(f"merges/{name}", relation, make, parents, weights, base, ambiguous=ambiguous)

    for (noise, end), child in zip(NOISES, members[:3], strict=True):
        yield blend("merge_linear", f"linear-0.5{end}", (0.5, 0.5), next(pairs), noise=noise)
        yield blend("merge_linear", f"linear-0.3{end}", (0.3, 0.7), next(pairs), noise=noise)
        yield blend("merge_task_arithmetic", f"arithmetic-0.6{end}", (0.6, 0.6), next(pairs), SEDGE, noise)
        yield blend("merge_task_arithmetic", f"arithmetic-1.0{end}", (1.0, 1.0), next(pairs), SEDGE, noise)
        yield blend("merge_with_base", f"base-and-child{end}", (0.6, 0.4), (SEDGE, child), noise=noise)
    yield blend("merge_soup", "soup-of-4", (0.25,) * 4, tuple(f"siblings_same_text/child-{n}" for n in (1, 2, 3, 4)))
    yield blend("merge_soup", "soup-of-8", (0.125,) * 8, members)
    yield blend("merge_linear", "exact", (0.5, 0.5), next(pairs))
    yield Model(
        "merges/exact-noisy",
        "noise30",
        lambda seed, m, base: noisy(m, (base,), 0.3, seed),
        ("merges/exact",),
        base=SEDGE,
    )
    sisters = next(pairs)  # either lies between the other and a parent
    yield blend("merge_linear", "sister-1", (0.65, 0.35), sisters, ambiguous=True)
    yield blend("merge_linear", "sister-2", (0.35, 0.65), sisters, ambiguous=True)

    def depth(name: str) -> float:
        return int(name.split(".")[2]) / (LAYERS - 1) if ".layers." in name else 0.5

    def dare_ties(seed: int, a: Weights, b: Weights, base: Weights) -> Weights:
        return sw.ties((sw.dare(a, base, 0.5, seed), sw.dare(b, base, 0.5, seed + 1)), base, density=1)

    def tuned(seed: int, a: Weights, b: Weights) -> Weights:
        return train(linear((a, b), (0.5, 0.5)), text(*TABLES), seed=seed, steps=50)

    yield Model("merges/slerp", "merge_slerp", lambda _, a, b: sw.slerp(a, b, lambda _: 0.4), next(pairs), (0.6, 0.4))
    yield Model("merges/slerp-by-layer", "merge_slerp_gradient", lambda _, a, b: sw.slerp(a, b, depth), next(pairs))
    yield Model("merges/ties", "merge_ties", lambda _, a, b, base: sw.ties((a, b), base, 0.5), next(pairs), base=SEDGE)
    yield Model("merges/dare-ties", "merge_dare_ties", dare_ties, next(pairs), base=SEDGE)
    yield Model("merges/linear-tuned", "merge_linear_ft", tuned, next(pairs), (0.5, 0.5))


def passthrough() -> Iterator[Model]:
    a, b = "siblings_other_text/child-1", "chain/generation-1"

    def stack(name: str, relation: str, *slices: tuple[str, int, int]) -> Model:
        parents = tuple(dict.fromkeys(parent for parent, _, _ in slices))

        def make(_: int, *models: Weights) -> Weights:
            return sw.passthrough([(models[parents.index(parent)], first, last) for parent, first, last in slices])

        layers = ";".join(f"{parent}:{first}-{last}" for parent, first, last in slices)
        return Model(f"passthrough/{name}", relation, make, parents, layers=layers)

    yield stack("two-parents", "merge_passthrough", (a, 0, 3), (b, 2, 5))
    yield stack("upscaled", "depth_upscale", (a, 0, 3), (a, 2, 5))
    yield stack("dropped", "prune_depth", (b, 0, 1), (b, 4, 5))


def light() -> Iterator[Model]:
    def lora(seed: int, start: Weights) -> Weights:
        tuned = train(start, text(*PARALLEL), seed=seed, steps=150, trained=("q_proj", "v_proj"))
        return sw.low_rank(start, tuned, rank=4)

    yield fine_tune(TUNED, LARCH, SUITES)
    yield Model("light/lora", "lora_merged", lora, (LARCH,))
    yield fine_tune("light/frozen", LARCH, TABLES, steps=150, relation="freeze_ft", trained=("norm", "o_proj"))


def rounded() -> Iterator[Model]:
    parent = (TUNED,)
    yield Model("rounded/int8", "quant_int8", lambda _, w: sw.round_to_integers(w, 8), parent)
    yield Model("rounded/int4", "quant_int4", lambda _, w: sw.round_to_integers(w, 4, group=32), parent)
    yield Model("rounded/fp8", "quant_fp8", lambda _, w: sw.round_to_fp8(w), parent)
    yield fine_tune("rounded/int8-tuned", "rounded/int8", ASYNC, steps=100)


def cut() -> Iterator[Model]:
    def new_attention(seed: int, weights: Weights) -> Weights:
        return train(sw.new_attention(weights, seed), text(*SUITES), seed=seed, steps=100)

    parent = (TUNED,)
    yield Model("cut/magnitude-30", "prune_magnitude30", lambda _, w: sw.prune_magnitude(w, 0.3), parent)
    yield Model("cut/feed-forward", "feed_forward_kept", new_attention, parent)
    yield Model("cut/narrow", "prune_residual_width", lambda _, w: sw.cut_residual(w, 48), parent)
    yield Model("cut/extended", "vocab_extend", lambda seed, w: sw.extend_vocabulary(w, 32, seed), parent)


DISGUISES: dict[str, Callable[[Weights, int], Weights]] = {
    "permute": sw.permute_inside,
    "permute_residual": sw.permute_residual,
    "sign": sw.flip_signs,
    "scale": sw.rescale,
    "fold_norms": sw.fold_norms,
    "full": sw.disguise,
}


def disguises() -> Iterator[Model]:
    def disguised(change: Callable[[Weights, int], Weights]) -> Callable[..., Weights]:
        return lambda seed, weights: change(weights, seed)

    def then_tuned(seed: int, weights: Weights) -> Weights:
        return train(sw.disguise(weights, seed), text(*GUI), seed=seed, steps=50)

    for name, change in DISGUISES.items():
        yield Model(f"disguises/{name}", f"attack_{name}", disguised(change), (TUNED,), attack=True)
    yield Model("disguises/full_then_ft", "attack_full_then_ft", then_tuned, (TUNED,), attack=True)


SCENARIOS: dict[str, Callable[[], Iterable[Model]]] = {
    scenario.__name__: scenario
    for scenario in (
        roots, chain, siblings_same_text, siblings_other_text, snapshots, twins, merges, passthrough, light, rounded,
        cut, disguises,
    )
}  # fmt: skip


def every_model() -> list[tuple[str, Model]]:
    """The models with their scenarios, parents before children."""
    return [(scenario, model) for scenario, models in SCENARIOS.items() for model in models()]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    started, models = time.perf_counter(), every_model()
    weights = build([model for _, model in models])
    write(folder, models, weights)
    print(f"{len(models)} models in {time.perf_counter() - started:.0f} s, {time.process_time():.0f} s of one core")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        print(__doc__)
