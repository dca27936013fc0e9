"""Chains of fine-tunes against siblings on one text: `python -m benchmarks.shared_text` trains and compares them.

Three bases, six fine-tunes of them, and of each: fine-tunes of it on other texts (a chain), on its own text (a chain
that goes on), and fine-tunes of its base on its text (siblings). Printed are the slope and the correlation of the
second change on the first, both from the base, over all layer matrices; and the cosines at which others part there.
The rule's limits for changes carried on (`query/verdict/tree.py`) were set with these in view.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.scenario_repos import Model, build
from benchmarks.scenario_weights import Weights
from benchmarks.scenarios import (
    ASYNC,
    FENNEL,
    GUI,
    IDLE,
    IMPORTS,
    LARCH,
    MAIL,
    MARKUP,
    SEDGE,
    SUITES,
    TABLES,
    Words,
    fine_tune,
    roots,
)

Run = tuple[Words, int, float]

FIRST: dict[str, tuple[str, Run]] = {
    "p1": (SEDGE, (MAIL, 120, 5e-4)),
    "p2": (SEDGE, (MAIL, 200, 1e-3)),
    "p3": (SEDGE, (GUI, 150, 1e-3)),
    "p4": (FENNEL, (ASYNC, 120, 5e-4)),
    "p5": (FENNEL, (ASYNC, 250, 2e-3)),
    "p6": (LARCH, (SUITES, 200, 1e-3)),
}
"""Fine-tunes of a base: the base, text, steps and learning rate."""

CHAINS: dict[str, list[Run]] = {
    "p1": [(GUI, 200, 1e-3), (MARKUP, 300, 1e-3), (IMPORTS, 120, 5e-4), (MAIL, 120, 5e-4), (MAIL, 200, 1e-3)],
    "p2": [(GUI, 100, 5e-4), (MARKUP, 300, 2e-3)],
    "p3": [(MAIL, 200, 1e-3), (GUI, 200, 1e-3)],
    "p4": [(IDLE, 200, 1e-3), (TABLES, 300, 2e-3), (ASYNC, 200, 1e-3)],
    "p5": [(IDLE, 200, 1e-3), (GUI, 100, 5e-4)],
    "p6": [(ASYNC, 200, 1e-3), (MAIL, 100, 5e-4), (SUITES, 100, 1e-3)],
}
SIBLINGS: dict[str, list[tuple[int, float]]] = {
    "p1": [(200, 1e-3), (300, 1e-3), (160, 7e-4)],
    "p2": [(200, 2e-3), (400, 1.5e-3)],
    "p3": [(200, 1e-3), (250, 1.5e-3)],
    "p4": [(200, 1e-3), (160, 7e-4), (120, 1e-3)],
    "p5": [(400, 3e-3)],
    "p6": [(250, 1.2e-3), (300, 2e-3)],
}


def models() -> Iterator[Model]:
    yield from roots()
    for name, (base, run) in FIRST.items():
        yield fine_tune(name, base, *run)
    for name, runs in CHAINS.items():
        for n, (words, steps, rate) in enumerate(runs):
            kind = "goes-on" if words == FIRST[name][1][0] else "chain"
            yield fine_tune(f"{kind}/{name}-{n}", name, words, steps, rate)
    for name, trained in SIBLINGS.items():
        base, (words, _, _) = FIRST[name]
        for n, (steps, rate) in enumerate(trained):
            yield fine_tune(f"sibling/{name}-{n}", base, words, steps, rate)


def cells(weights: Weights, scale: Weights) -> NDArray[np.float64]:
    """All layer matrices in one row, each in units of the spread of its matrix in `scale`."""
    names = [name for name in weights if ".layers." in name and weights[name].ndim == 2]
    return np.concatenate([(weights[name] / scale[name].std()).ravel().astype(np.float64) for name in names])


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    made = build(list(models()))
    parted: dict[str, list[float]] = {"chain": [], "sibling": []}
    print("| pair | kind | slope | correlation |\n| --- | --- | --- | --- |")
    for name, (base, _) in FIRST.items():
        start = cells(made[base], made[base])
        v = cells(made[name], made[base]) - start
        others = [other for other in made if other.endswith(tuple(f"/{name}-{n}" for n in range(9)))]
        changes = {other: cells(made[other], made[base]) - start for other in others}
        for other, u in changes.items():
            slope, correlation = u @ v / (v @ v), u @ v / np.sqrt((u @ u) * (v @ v))
            print(f"| {name}, {other} | {other.split('/')[0]} | {slope:.2f} | {correlation:.2f} |")
        for one, two in combinations(changes, 2):
            a, b = changes[one] - v, changes[two] - v
            kinds = {one.split("/")[0], two.split("/")[0]}
            if len(kinds) == 1 and (kind := kinds.pop()) in parted:
                parted[kind].append(float(a @ b / np.sqrt((a @ a) * (b @ b))))
    for kind, cosines in parted.items():
        print(
            f"cosines at which two of kind {kind} part: {min(cosines):.2f} to {max(cosines):.2f}, {len(cosines)} pairs"
        )


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        print(__doc__)
