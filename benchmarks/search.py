"""Time of one nearest-neighbour query, by index kind and size: `python -m benchmarks.search`.

Medians over repeated single queries (k = 10, dimension 256), as ratios to the exact scan of the same size: the
ratios are comparable between machines, the milliseconds are not.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np

from provenance.indexer.vectors import ExactIndex, FlatIndex

SIZES = (1_000, 10_000, 100_000)
DIMENSION = 256
NEIGHBOURS = 10
REPEATS = 31


def main() -> None:
    rng = np.random.default_rng(0)
    print(f"{'N':>8} {'index':>6} {'median ms':>10} {'x exact':>8}")
    for n in SIZES:
        vectors = rng.standard_normal((n, DIMENSION), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        queries = vectors[rng.integers(n, size=REPEATS)]
        reference = seconds(ExactIndex.build(vectors), queries)
        for name, taken in (("exact", reference), ("flat", seconds(FlatIndex.build(vectors), queries))):
            print(f"{n:>8} {name:>6} {taken * 1e3:>10.3f} {taken / reference:>8.2f}")


def seconds(index: ExactIndex | FlatIndex, queries: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> float:
    """Median wall time of a search for one query."""
    index.search(queries[:1], NEIGHBOURS)
    taken = []
    for query in queries:
        start = perf_counter()
        index.search(query[np.newaxis], NEIGHBOURS)
        taken.append(perf_counter() - start)
    return float(np.median(taken))


if __name__ == "__main__":
    main()
