"""Time of the moments of one bfloat16 tensor, relative to summing its bytes.

Run from the root of the repository: `python -m benchmarks.statistics [millions of elements]`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from provenance.crawler.formats.dtypes import decode
from provenance.crawler.statistics import PIECE, Moments

REPEATS = 5


def median_seconds(work: Callable[[], object]) -> float:
    """Median wall time of one call, after one to warm up."""
    work()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def moments(data: bytes) -> float | None:
    """As in a crawl: bytes in, four moments out, piece by piece."""
    found, view = Moments(), memoryview(data)
    for start in range(0, len(data), 2 * PIECE):
        found.update(decode(view[start : start + 2 * PIECE], "BF16"))
    return found.result().std


def main(millions: float) -> None:
    """Print a table of medians and ratios."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    tensor = (torch.randn(int(millions * 1e6), generator=generator) * 0.02).to(torch.bfloat16)
    data = tensor.view(torch.uint8).numpy().tobytes()
    rows: dict[str, Callable[[], object]] = {
        "sum of the bytes": lambda: np.frombuffer(data, np.uint8).sum(),
        "Moments (mean, std, skewness, kurtosis, min, max)": lambda: moments(data),
        "torch.std of bfloat16 (std only)": lambda: tensor.std().item(),
        "torch .float().std() (std only)": lambda: tensor.float().std().item(),
        "numpy float64 .std() (std only)": lambda: decode(data, "BF16").astype(np.float64).std(),
    }
    print(f"{tensor.numel():,} bfloat16 elements, torch on one thread, median of {REPEATS}\n")
    print(f"{'':52}{'seconds':>9}{'ratio':>8}   result")
    base = median_seconds(rows["sum of the bytes"])
    for name, work in rows.items():
        seconds = median_seconds(work)
        print(f"{name:52}{seconds:9.4f}{seconds / base:8.1f}   {work()}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 16.0)
