"""The cost of `provenance --help` beyond importing click: `python -m benchmarks.imports`.

Medians of fresh processes, run alternately so that both have the same load, and their ratio. The ratio is comparable
between machines, the milliseconds are not.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

REPEATS = 21
COMMANDS = {
    'python -c "import click"': [sys.executable, "-c", "import click"],
    "provenance --help": [str(Path(sys.executable).parent / "provenance"), "--help"],
}


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, command in COMMANDS.items():
            start = perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            taken[name].append(perf_counter() - start)
    medians = {name: float(np.median(times)) for name, times in taken.items()}
    reference = next(iter(medians.values()))
    print(f"{'command':<28} {'median ms':>10} {'x click':>8}")
    for name, seconds in medians.items():
        print(f"{name:<28} {seconds * 1e3:>10.1f} {seconds / reference:>8.2f}")


if __name__ == "__main__":
    main()
