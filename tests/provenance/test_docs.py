"""The documentation says what the program does: pages up to date, links that lead somewhere, examples that run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import provenance
from provenance.cli import COMMANDS
from provenance.cli import provenance as command_line
from tests.support.terminal import clean_environment, commands, make_clone, script
from tools import make_cli_reference

ROOT = Path(__file__).resolve().parents[2]
MINIATURE = ROOT / "provenance" / "miniature"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("C*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
FOLDERS = ("crawler", "indexer", "query", "schemas")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_generated_pages_are_fresh() -> None:
    assert make_cli_reference.stale() == [], "run `python -m tools.make_cli_reference`"


def test_check_refuses_a_stale_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_cli_reference, "DOCS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_cli_reference"])
    make_cli_reference.main()
    monkeypatch.setattr(sys, "argv", ["make_cli_reference", "--check"])
    make_cli_reference.main()
    with (tmp_path / "tables.md").open("a") as page:
        page.write("| one more | row | by hand |\n")
    with pytest.raises(SystemExit, match=r"tables\.md") as refused:
        make_cli_reference.main()
    assert "cli.md" not in str(refused.value)


def test_every_command_has_its_place_in_the_reference() -> None:
    reference = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert re.findall(r"^## provenance (\S+)$", reference, re.MULTILINE) == list(COMMANDS)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name(page)} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{name(page)} links to {target}"


def modules() -> set[str]:
    """The modules of the package as `folder/name.py`, without the `__init__.py` of each folder."""
    package = ROOT / "provenance"
    folders = package, *(package / folder for folder in FOLDERS)  # links in a checkout, folders in an sdist
    files = {path.relative_to(package).as_posix() for folder in folders for path in folder.rglob("*.py")}
    found = {path for path in files if not path.endswith("__init__.py")}
    return {path if path.startswith(FOLDERS) else f"provenance/{path}" for path in found}


def floor_plan(text: str) -> list[str]:
    """The modules that the tables of docs/code.md name: under a heading with their folder, in the first column."""
    found = []
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        folder, rows = re.match(r"`(.+?)`", section), re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
        assert folder, section
        found += [f"{folder[1]}{name}.py" for row in rows for name in re.findall(r"`([\w/]+)`", row)]
    return found


def test_floor_plan_is_the_tree() -> None:
    text = (ROOT / "docs" / "code.md").read_text(encoding="utf-8")
    named = floor_plan(text.partition("\n## Floor plan\n")[2].partition("\n## ")[0])
    assert len(named) == len(set(named)), "named twice"
    assert modules() - set(named) == set(), "not named in docs/code.md"
    assert set(named) - modules() == set(), "named in docs/code.md, and not there"


PATH = re.compile(r"`((?:crawler|indexer|query|schemas|provenance|tests|tools|benchmarks)/[\w./-]*)`")


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "decisions"], ids=name)
def test_named_paths_exist(page: Path) -> None:
    for path in PATH.findall(page.read_text(encoding="utf-8")):
        at = ROOT / "provenance" if path.startswith(FOLDERS) else ROOT
        assert (at / path).exists(), f"{name(page)} names {path}"


def test_examples_are_found_unless_marked(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ first\noutput\n$ second \\\n    --more\n```\n\n"
        "<!-- not run: needs a network -->\n```console\n$ third\n```\n\n```sh\n$ fourth\n```\n"
    )
    assert commands(page) == ["first", "second \\\n    --more"]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_examples_run(page: Path, tmp_path: Path) -> None:
    """In order, in one shell, in a clone; pages other than the README find the miniature family under ./models."""
    make_clone(tmp_path)
    environment = clean_environment()
    if page.name != "README.md":  # it is the README that says how to find the program
        shutil.copytree(MINIATURE, tmp_path / "models")
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script(commands(page))],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_code_of_the_notebook_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with provenance.open("demo-store", create=True) as database:
        database.crawl([MINIATURE])
    text = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        exec(block, names)
    assert names["answer"].candidates[0].repo_id == "quillmarsh/sedge-200k"
    assert names["candidates"].height == 3
    assert names["lineage"].height >= 5
    assert len(names["found"]) == 7
    assert names["steps"] == [(done, 7) for done in range(1, 8)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store in which everything occurs that the JSON objects have keys for, failures included."""
    folder = tmp_path_factory.mktemp("json")
    shutil.copytree(MINIATURE, folder / "models")
    base = folder / "models" / "quillmarsh" / "sedge-200k"
    for repo in ("unknown", "broken"):
        shutil.copytree(base, folder / "models" / "strange" / repo)
    weights = folder / "models" / "strange" / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    unknown = folder / "models" / "strange" / "unknown" / "model.safetensors"
    # Names of equal length leave the header's lengths as they are.
    unknown.write_bytes(unknown.read_bytes().replace(b"model.layers.", b"model.strata."))
    with provenance.open(folder / "store", create=True) as database:
        summary = database.crawl([folder / "models"])
        assert (summary.fingerprinted, summary.failed) == (8, 1)
        database.index()
        status = database.status()
        assert status.runs
        assert status.reasons
        assert status.unresolved
    return str(folder / "store")


def paths(value: object, path: str = "") -> Iterator[str]:
    """The paths of all leaves of a JSON value; an empty list is a leaf."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for item in value:
            yield from paths(item, f"{path}[]")
    else:
        yield f"{path}[]" if value == [] else path


def documented(command: str) -> list[str]:
    """The paths that docs/json.md gives for a command."""
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {command}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    return [path for cell in cells for path in re.findall(r"`([^`]+)`", cell)]


def matches(path: str, pattern: str) -> bool:
    return re.fullmatch(re.sub(r"<\w+>", r"[^.\\[]+", re.escape(pattern)), path) is not None


@pytest.mark.parametrize(
    "arguments",
    [
        ["query", "nimblewick/concord-base"],
        ["compare", "nimblewick/concord-base", "quillmarsh/sedge-200k"],
        ["show", "nimblewick/concord-base"],
        ["show", str(MINIATURE / "nimblewick" / "concord-base")],
        ["status"],
        ["evaluate", str(MINIATURE / "lineage.csv")],
    ],
    ids=lambda arguments: " ".join(arguments[:1] + [Path(a).name for a in arguments[1:]]),
)
def test_json_page_lists_the_keys(store: str, arguments: list[str]) -> None:
    result = CliRunner().invoke(command_line, [*arguments, "--store", store, "--format", "json"])
    assert result.exit_code == 0, result.output
    value: Any = json.loads(result.stdout)
    assert value.get("format", 1) == 1
    real, patterns = set(paths(value)), documented(arguments[0])
    empty = tuple(path for path in real if path.endswith("[]"))  # of what it would hold nothing is known
    unknown = {path for path in real - set(empty) if not any(matches(path, pattern) for pattern in patterns)}
    assert not unknown, "printed and not documented"
    gone = {p for p in patterns if not p.startswith(empty) and not any(matches(path, p) for path in real)}
    assert not gone, "documented and not printed"
