"""What is published: one top-level package, whole archives, types that a client sees, and no dependency without use."""

from __future__ import annotations

import ast
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import provenance
from tests.support.command_line import MINIATURE, ROOT

ROOMS = ("crawler", "indexer", "query", "schemas")
BESIDE = ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore")
"""What a build needs beside the code."""

FILES = (
    "Makefile",
    "constraints.txt",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    ".gitattributes",
    ".pre-commit-config.yaml",
)
FOLDERS = ("provenance", "tests", "tools", "benchmarks", "docs", ".ci")
"""What else the source archive holds: all that its own `make lint` and `make test` need."""

REVEALED = {
    'provenance.open("x")': "provenance.database.Database",
    'provenance.open("x").query("m")': "provenance.schemas.results.Answer",
    'provenance.open("x").query("m").candidates[0].verdict': "provenance.schemas.enums.Verdict",
}
"""Expression -> what mypy says that it is."""


def build(root: Path, target: str, into: Path) -> Path:
    """Build a `wheel` or `sdist` of `root`, without a network and without an environment of its own."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(into)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = into.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(ROOT, "sdist", folder)) as archive:
        assert all(member.isreg() for member in archive.getmembers()), "no links: not every system can make them"
        archive.extractall(folder, filter="data")
    (root,) = (path for path in folder.iterdir() if path.is_dir())
    return root


def files_under(folder: Path) -> set[str]:
    """Paths relative to `folder` of all files below it, links followed, compiled ones left out."""
    found = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root).relative_to(folder)
        folders[:] = [name for name in folders if name != "__pycache__"]
        found |= {(here / name).as_posix() for name in files}
    return found


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# ---------------------------------------------------------------- what the archives hold


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = contents(wheel).keys()
    code = {name for name in names if ".dist-info/" not in name}
    assert code == {f"provenance/{name}" for name in files_under(ROOT / "provenance")}
    for room in ROOMS:
        assert f"provenance/{room}/__init__.py" in code
    assert {"provenance/py.typed", "provenance/__main__.py", "provenance/miniature/lineage.csv"} <= code
    assert {Path(name).suffix for name in code} >= {".py", ".sql", ".json", ".jsonl", ".safetensors", ".csv", ".md"}
    assert f"model_provenance-{provenance.__version__}.dist-info/licenses/LICENSE" in names


def test_the_source_archive_is_whole_and_has_one_copy_of_everything(unpacked: Path) -> None:
    assert {path.name for path in unpacked.iterdir()} == {*BESIDE, *FILES, *FOLDERS, "PKG-INFO"}
    for folder in FOLDERS:
        assert files_under(unpacked / folder) == files_under(ROOT / folder)
    assert os.access(unpacked / ".ci" / "run", os.X_OK)


def test_a_wheel_of_the_source_archive_is_the_same(wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    assert contents(build(unpacked, "wheel", tmp_path)) == contents(wheel)


# ---------------------------------------------------------------- a checkout without symbolic links


@pytest.fixture
def linkless(tmp_path: Path) -> Path:
    """A working copy as Git leaves it on Windows: small text files where it has links."""
    root = tmp_path / "checkout"
    root.mkdir()
    for name in BESIDE:
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "provenance", root / "provenance", ignore=shutil.ignore_patterns("__pycache__", *ROOMS))
    for room in ROOMS:
        shutil.copytree(ROOT / "provenance" / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
        (root / "provenance" / room).write_text(f"../{room}")
    return root


def test_without_links_the_archives_are_the_same(linkless: Path, wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    for target in ("wheel", "sdist"):
        (tmp_path / target).mkdir()
    assert contents(build(linkless, "wheel", tmp_path / "wheel")) == contents(wheel)
    with tarfile.open(build(linkless, "sdist", tmp_path / "sdist")) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers()}
    assert names == {
        name for name in files_under(unpacked) if name.startswith("provenance/") or name in (*BESIDE, "PKG-INFO")
    }


def test_without_links_an_editable_install_is_refused(linkless: Path, tmp_path: Path) -> None:
    code = f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=linkless, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "provenance/crawler is not a folder: this checkout has no symbolic links" in done.stderr
    assert "git clone -c core.symlinks=true" in done.stderr
    assert not list(tmp_path.glob("*.whl"))


# ---------------------------------------------------------------- installed


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel; its dependencies are those of the running environment."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install"]
    subprocess.run([*install, "--quiet", "--no-deps", "--no-index", str(wheel)], check=True, timeout=60)
    (packages,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return python


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Somebody's own folder, in which the names of our rooms mean something else."""
    (tmp_path / "query.py").write_text("MINE = 'my own query'\n")
    for name in ("crawler", "schemas", "indexer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"MINE = 'my own {name}'\n")
    return tmp_path


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PROVENANCE_STORE")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_works_beside_modules_of_the_same_names(installed: Path, project: Path) -> None:
    (project / "script.py").write_text(f"""
import provenance
import crawler, indexer, query, schemas

with provenance.open("store", create=True) as database:
    database.crawl([{str(MINIATURE / "quillmarsh")!r}])
    database.index()
    database.query("sedge-200k")
print(query.MINE, crawler.MINE, schemas.MINE, indexer.MINE, sep=", ")
print(provenance.__file__)
""")
    mine, file = run(installed, "script.py", cwd=project).splitlines()
    assert mine == "my own query, my own crawler, my own schemas, my own indexer"
    assert Path(file).is_relative_to(installed.parents[1])
    count = "select count(*) as n from checkpoints"
    shown = run(installed, "-m", "provenance", "sql", count, "--store", "store", "--format", "csv", cwd=project)
    assert shown == "n\n2\n"
    script = installed.with_name("provenance")
    assert run(script, "--version", cwd=project) == f"provenance, version {provenance.__version__}\n"


def test_a_client_sees_the_types(wheel: Path, project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """By the wheel alone: what mypy would find in the dependencies takes it half a minute, and changes nothing."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    lines = "".join(f"reveal_type({expression})\n" for expression in REVEALED)
    (project / "client.py").write_text(f"import provenance\n\n{lines}")
    python = str(folder / "bin" / "python")
    shown = run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "client.py", cwd=project)
    assert re.findall(r'Revealed type is "(.+)"', shown) == list(REVEALED.values())


# ---------------------------------------------------------------- dependencies


@pytest.fixture(scope="module")
def required(wheel: Path) -> dict[str, set[str]]:
    """Names of the distributions that the wheel requires, by extra; `""` has those that everybody gets."""
    (metadata,) = (text for name, text in contents(wheel).items() if name.endswith(".dist-info/METADATA"))
    found: dict[str, set[str]] = {"": set()}
    for line in email.message_from_bytes(metadata).get_all("Requires-Dist", []):
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        assert name is not None
        found.setdefault(extra[1] if extra else "", set()).add(re.sub(r"[-_.]+", "-", name[0]).lower())
    return found


def imported(wheel: Path) -> dict[str, set[str]]:
    """Top-level names that the shipped modules import anywhere -> the modules that do."""
    found: dict[str, set[str]] = {}
    for module, text in contents(wheel).items():
        for node in ast.walk(ast.parse(text)) if module.endswith(".py") else ():
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}: imports are absolute"
                names = [node.module or ""]
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(module)
    return found


def test_every_dependency_is_imported_and_every_import_is_required(wheel: Path, required: dict[str, set[str]]) -> None:
    owners = packages_distributions()
    used = {
        re.sub(r"[-_.]+", "-", owners[name][0]).lower(): modules
        for name, modules in imported(wheel).items()
        if name not in sys.stdlib_module_names and name != "provenance"
    }
    assert used.pop("matplotlib") == {"provenance/plot.py"}
    assert required["plot"] == {"matplotlib"}
    assert used.keys() == required[""]


def test_nothing_heavy_comes_with_it(required: dict[str, set[str]]) -> None:
    assert required["models"] == {"torch", "transformers", "safetensors"}
    assert not required[""] & {"torch", "transformers", "safetensors", "scipy", "pandas", "matplotlib"}


def test_no_module_needs_a_module_that_some_system_lacks(wheel: Path) -> None:
    assert not imported(wheel).keys() & {"fcntl", "msvcrt", "resource", "termios", "pwd", "grp", "winreg"}


def test_constraints_pin_all_that_is_required(required: dict[str, set[str]]) -> None:
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert set().union(*required.values()) - {"model-provenance"} <= {name.replace("_", "-").lower() for name in pinned}
