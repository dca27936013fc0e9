"""Running the command line as the installed script does, in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import provenance
from provenance.cli import main
from tests.support.command_line import MINIATURE, Done, Run


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
