"""What `pip install model-provenance` installs, with sizes: `python -m benchmarks.install_size [REQUIREMENT]`.

Installs into a fresh environment from the package index: REQUIREMENT, or else this working copy (not editable). Sizes
are those of the files that each distribution records, compiled Python included, in megabytes of 10^6 bytes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from importlib.metadata import Distribution, distributions
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
INSTALLER = ("pip", "setuptools")
"""Distributions of an empty environment, which this package does not need."""


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else str(REPOSITORY)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", wanted], check=True)
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        found = [part for part in distributions(path=[packages]) if part.name not in INSTALLER]
        table = sorted(((megabytes(part), part.name, part.version) for part in found), reverse=True)
    print(f"{'part':<24} {'version':<12} {'MB':>8}")
    for size, name, version in table:
        print(f"{name:<24} {version:<12} {size:>8.1f}")
    print(f"{f'all {len(table)}':<24} {'':<12} {sum(size for size, _, _ in table):>8.1f}")


def megabytes(part: Distribution) -> float:
    """Size on disk of the files that a distribution records."""
    paths = [Path(str(file.locate())) for file in part.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


if __name__ == "__main__":
    main()
