"""The cost of examining the candidates of one stored model: `python -m benchmarks.evidence`.

Dossiers of the geometry of a 7B Llama (32 layers, 4096 wide) are made of random sample values, without any weight
file. The time of all lines of evidence about 50 candidates, grids and verdicts included, is compared with one exact
search over 1e5 vectors of 256 dimensions. The ratio is comparable between machines, the milliseconds are not.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from time import perf_counter

import numpy as np

from provenance.indexer.dossier import Dossier, facts_of
from provenance.indexer.dossier_meta import meta_of
from provenance.indexer.vectors import FlatIndex
from provenance.query.evidence.pair import Pair, Subject
from provenance.query.evidence.registry import LINES
from provenance.query.verdict.rule import assess, settle
from provenance.schemas.roles import ATTENTION, FEED_FORWARD
from provenance.schemas.sampling import MATRIX_BUDGET, VECTOR_BUDGET, allot, n_cells

LAYERS, HIDDEN, FFN = 32, 4096, 11008
CANDIDATES, RELATIVES = 50, 5
VECTORS, DIMENSION, NEIGHBOURS = 100_000, 256, 10
REPEATS = 5


def stored(number: int, values: np.ndarray[tuple[int], np.dtype[np.float16]], layers: int = LAYERS) -> Dossier:
    """A dossier as in the index, made of these sample values."""
    rng = np.random.default_rng(number)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(ATTENTION, (HIDDEN, HIDDEN))
    shapes |= {"gate": (FFN, HIDDEN), "up": (FFN, HIDDEN), "down": (HIDDEN, FFN)}
    tensors = [(role, layer) for role in (*ATTENTION, *FEED_FORWARD) for layer in range(layers)]
    norms = [(role, layer) for role in ("attn_norm", "ffn_norm") for layer in range(layers)]
    counts = allot([n_cells(role, shapes[role]) for role, _ in tensors], MATRIX_BUDGET)
    counts += allot([HIDDEN] * len(norms), VECTOR_BUDGET)
    offsets = np.cumsum([0, *counts])
    rows = [
        {
            "digest": f"{int(rng.integers(1, 2**62)):016x}",
            "shape": shapes.get(role, (HIDDEN,)),
            "offset": int(offset),
            "count": count,
            "exponent": -15,
            "mean": 0.0,
            "std": float(rng.uniform(0.01, 0.03)),
            "std_error": 0.0,
            "skewness": float(rng.normal(0, 0.05)),
            "kurtosis": float(rng.uniform(3, 4)),
            "role": role,
            "layer": layer,
            "expert": None,
        }
        for (role, layer), count, offset in zip((*tensors, *norms), counts, offsets, strict=False)
    ]
    checkpoint = {
        "checkpoint_id": f"org/model-{number}@{number:x}",
        "repo_id": f"org/model-{number}",
        "created_at": datetime(2025, 1, 1, 0, number, tzinfo=UTC),
        "n_layers": layers,
    }
    return Dossier(meta_of(checkpoint, [f"{number:064x}"]), facts_of(rows), values)


def median_ms(work: object, repeats: int = REPEATS) -> float:
    """Median wall time of a call in milliseconds."""
    assert callable(work)
    taken = []
    for _ in range(repeats):
        start = perf_counter()
        work()
        taken.append(perf_counter() - start)
    return 1e3 * float(np.median(taken))


def examine(model: Dossier, others: list[Dossier]) -> None:
    """Everything that a query does after the search, from dossiers without cached values."""
    subject = Subject(fresh(model))
    settle([assess(Pair(subject, Subject(fresh(other))), VECTORS) for other in others])


def fresh(dossier: Dossier) -> Dossier:
    """The dossier without its cached values."""
    return Dossier(dossier.meta, dossier.facts, dossier.values)


def main() -> None:
    """Print a table of costs."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((VECTORS, DIMENSION), dtype=np.float32)
    index = FlatIndex.build(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    search = median_ms(lambda: index.search(vectors[:1], NEIGHBOURS))
    print(f"one search over {VECTORS:,} vectors: {search:.2f} ms\n")

    weights = rng.normal(0, 1000, MATRIX_BUDGET + VECTOR_BUDGET)
    model = stored(0, weights.astype(np.float16))
    print(f"{'50 candidates of a 32-layer model':44}{'ms':>9}{'x search':>10}{'ms a pair':>11}")
    for name, relatives, layers in (("strangers", 0, 32), ("5 of them relatives", RELATIVES, 32), ("40 layers", 0, 40)):
        others = []
        for i in range(1, CANDIDATES + 1):
            change = rng.normal(0, 1000, len(weights))
            values = weights + 0.3 * change if i <= relatives else change
            others.append(stored(i, values.astype(np.float16), layers))
        taken = median_ms(lambda others=others: examine(model, others))
        print(f"{name:44}{taken:>9.1f}{taken / search:>10.1f}{taken / CANDIDATES:>11.2f}")
        if "--lines" in sys.argv:
            for line in LINES:
                subject, candidates = Subject(model), [Subject(other) for other in others]
                for one in (subject, *candidates):
                    _ = one.grid
                pairs = [Pair(subject, one) for one in candidates]
                taken = median_ms(lambda pairs=pairs, line=line: [line.measure(pair) for pair in pairs], 1)
                print(f"  {line.name:42}{taken:>9.1f}{taken / search:>10.1f}{taken / CANDIDATES:>11.2f}")


if __name__ == "__main__":
    main()
