"""What gets imported, looked at in fresh interpreters: a slow or forbidden import is a bug that no other test sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import provenance
from tests.support.command_line import CHILD, PARENT, ROOT

WATCH = """
import json, sys
from provenance.cli import main
try:
    main()
finally:
    names = {{name.removeprefix("provenance.").partition(".")[0] for name in sys.modules}}
    with open({report!r}, "w") as file:
        json.dump(sorted(names), file)
"""

HTTP = {"httpx", "httpx2", "httpcore", "urllib3", "requests", "aiohttp", "huggingface_hub"}
HEAVY = {"torch", "transformers", "polars", "pandas", "matplotlib"}


def imported(tmp_path: Path, *arguments: str) -> set[str]:
    """Top-level names of all modules that one run of the command line has loaded."""
    report = tmp_path / "modules.json"
    code = WATCH.format(report=str(report))
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(report.read_text()))


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = imported(tmp_path, "--help")
    assert "click" in loaded
    assert not loaded & (HTTP | HEAVY | {"numpy", "scipy", "rich", "duckdb", "pyarrow", "faiss", "fsspec", "yaml"})
    assert not loaded & {"query", "indexer", "crawler"}


@pytest.mark.parametrize("output", ["table", "json"])
def test_query_of_a_stored_model_stays_offline_and_light(tmp_path: Path, store: Path, output: str) -> None:
    loaded = imported(tmp_path, "query", CHILD, "--store", str(store), "--format", output)
    assert "query" in loaded
    assert not loaded & (HTTP | HEAVY)
    assert not loaded & {"crawler", "deep"}
    assert ("rich" in loaded) == (output == "table")


def test_compare_of_stored_models_reads_nothing_anew_without_deep(tmp_path: Path, store: Path) -> None:
    loaded = imported(tmp_path, "compare", CHILD, PARENT, "--store", str(store))
    assert "query" in loaded
    assert not loaded & (HTTP | HEAVY | {"crawler", "deep"})


@pytest.mark.parametrize("output", ["json", "csv"])
def test_sql_loads_no_index(tmp_path: Path, store: Path, output: str) -> None:
    loaded = imported(tmp_path, "sql", "select 1", "--store", str(store), "--format", output)
    assert "duckdb" in loaded
    assert not loaded & ((HTTP | HEAVY | {"scipy", "faiss", "rich", "crawler", "filelock"}) - {"polars"})
    assert ("polars" in loaded) == (output == "csv")


def test_public_names_are_lazy_and_complete() -> None:
    code = "import provenance, sys; assert 'numpy' not in sys.modules; from provenance import *; print(open, Database)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("<function open_database "), done.stderr
    with pytest.raises(AttributeError, match="nothing"):
        _ = provenance.nothing


def test_floor_plan() -> None:
    script = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [script, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stdout
    assert "3 kept, 0 broken" in done.stdout
