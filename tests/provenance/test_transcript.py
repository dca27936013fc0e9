"""The README as a newcomer types it, on terminals of 80 and of 120 columns: everything runs, and can be read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.command_line import MINIATURE, ROOT
from tests.support.terminal import clean_environment, commands, make_clone, on_terminal, script

IDS = [json.loads(line)["id"] for line in (MINIATURE / "listing.jsonl").read_text().splitlines()]
PATHS = re.compile(r"\S*(?:demo-store|\.venv|/models|provenance-store)\S*|https?://\S+|\./\S+")


@pytest.fixture(scope="module", params=[80, 120])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str]:
    """The width of a terminal, and all that it shows."""
    width: int = request.param
    folder = tmp_path_factory.mktemp(f"clone{width}")
    make_clone(folder)
    typed = script(commands(ROOT / "README.md"))
    environment = clean_environment(TERM="xterm", NO_COLOR="1")
    status, shown = on_terminal(["bash", "-c", typed], width, folder, environment)
    assert status == 0, shown
    # Bars of progress are drawn over and over: only what stays of a line is read.
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    return width, "\n".join(line.rpartition("\r")[2] for line in shown.split("\n"))


def answers(shown: str) -> dict[str, list[str]]:
    """The lines below each typed command."""
    parts = re.split(r"^\$ (.+)\n", shown, flags=re.MULTILINE)[1:]
    return {typed: text.splitlines() for typed, text in zip(parts[::2], parts[1::2], strict=True)}


def broken(line: str) -> set[str]:
    """Words of a line that are a piece of an id of the store, and neither the whole nor marked as shortened."""
    words = re.findall(r"[\w./…@-]+", PATHS.sub(" ", line))
    found = set()
    for word in words:
        word = word.partition("@")[0].rstrip(".,:")
        for one in IDS:
            begins = "/" in word and len(word) > 3 and one.startswith(word)
            ends = len(word) > 3 and "-" in word and one.endswith(word)
            if (begins or ends) and word not in IDS:
                found.add(word)
    return found


def test_every_command_answers(session: tuple[int, str]) -> None:
    _, shown = session
    found = answers(shown)
    silent = ("source ", "export ", "unset ", "cp ")
    for typed in commands(ROOT / "README.md"):
        assert typed in found, shown
        assert any(found[typed]) or typed.startswith(silent), f"{typed} says nothing"
    assert "Traceback" not in shown
    assert "�" not in shown


def test_no_id_is_broken(session: tuple[int, str]) -> None:
    _, shown = session
    assert set().union(*map(broken, shown.splitlines())) == set()
    assert shown.count("nimblewick/concord-base") > 5


def test_a_broken_id_would_be_seen() -> None:
    assert broken("quillmarsh/sed  derived") == {"quillmarsh/sed"}
    assert broken("  ge-200k     ") == {"ge-200k"}
    assert broken("quillmarsh/sedge-200k: derived, thriftbyte/s…e-mail-int8") == set()


def test_tables_fit_and_no_column_is_a_letter_wide(session: tuple[int, str]) -> None:
    width, shown = session
    for typed, lines in answers(shown).items():
        table = False
        for line in lines:
            table = line.startswith(("#  ", "child ", "repo_id ", "kind ", "score ", "name ")) or (table and bool(line))
            if table:
                assert len(line) <= width, f"{typed}: {line!r}"
        thin = [len(line.strip()) in range(1, 4) for line in lines]
        assert not any(all(thin[at : at + 3]) for at in range(len(thin) - 2)), f"{typed}: {lines}"
    assert shown.count("candidate ") >= 3


def test_the_demo_says_what_runs_next(session: tuple[int, str]) -> None:
    """What it prints at its end, `make demo` having no activated environment, names the program by its path."""
    _, shown = session
    demo = shown.partition("The store is kept. Next:")[2].partition("\n$ ")[0]
    store, *following = [line.strip() for line in demo.splitlines() if line.startswith("  ")]
    assert store.startswith("export PROVENANCE_STORE=/")
    assert len(following) == 3
    for line in following:
        assert Path(line.split()[0]).is_file(), line


def test_the_answer_in_the_readme_is_what_is_printed(session: tuple[int, str]) -> None:
    width, shown = session
    if width < 120:
        pytest.skip("the README shows a terminal of 120 columns")
    printed = re.search(r"^```text\n(.+?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert printed is not None
    answer = [line.rstrip() for line in answers(shown)["provenance query nimblewick/concord-base"]]
    assert printed[1].splitlines() == answer[: len(printed[1].splitlines())]
