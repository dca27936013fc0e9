"""Running the command line in tests: in this process as the installed script does, or the script itself.

Test modules import the fixtures under their own names (`run as run`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import provenance
from provenance.cli import main

ROOT = Path(__file__).resolve().parent.parent
MINIATURE = ROOT / "provenance" / "miniature"
SCRIPT = str(Path(sys.executable).parent / "provenance")

CHILD, PARENT, DECLARED, STRANGER = (
    "nimblewick/concord-base",
    "quillmarsh/sedge-200k",
    "ostrel/sedge-mail",
    "vantorrel/basalt-200k",
)


@dataclass(frozen=True)
class Done:
    """How a run of the command line ended: exit status, stdout as bytes, stderr."""

    status: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


Run = Callable[..., Done]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature family, crawled and indexed; nobody may change it."""
    folder = tmp_path_factory.mktemp("cli") / "store"
    with provenance.open(folder, create=True) as database:
        database.crawl([MINIATURE])
        database.index()
    return folder


@pytest.fixture
def run(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the entry point in an empty folder, with PROVENANCE_STORE set to the miniature family's store."""
    monkeypatch.setenv("PROVENANCE_STORE", str(store))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["provenance", *arguments])
        with CliRunner().isolation(input=stdin) as (out, err, _):
            with pytest.raises(SystemExit) as left:
                main()
            status = left.value.code
            assert isinstance(status, int)
            return Done(status, out.getvalue(), err.getvalue().decode())

    return run


def environment(store: Path) -> dict[str, str]:
    """The environment of a script that uses `store`."""
    return {**os.environ, "PROVENANCE_STORE": str(store)}
