"""What commands print about the miniature family, held against files: keys, their order, words, values, layout.

`GOLDEN=write pytest tests/provenance/test_golden.py` writes the files anew. Masked are times, names that differ from
run to run, and sizes on disk. The last digits of floats depend on the machine and may differ.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import provenance
from provenance.crawler.engine.options import CrawlOptions
from tests.support.command_line import CHILD, DECLARED, MINIATURE, PARENT, STRANGER, Run

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TWIN, SHORTER = "quillmarsh/sedge-200k-suite", "halfstair/short-basalt-4l"
FOLDER, TRUTH = str(MINIATURE / CHILD), str(MINIATURE / "lineage.csv")

CASES = {
    "query-child.json": ("query", CHILD),
    "query-root.json": ("query", PARENT, "-k", "3"),
    "query-twin.json": ("query", TWIN),
    "query-shorter.json": ("query", SHORTER, "-k", "2"),
    "query-folder.json": ("query", FOLDER, "-k", "2"),
    "query-certain.csv": ("query", DECLARED, "--min-probability", "0.9"),
    "query-child.table": ("query", CHILD),
    "compare-child-parent.json": ("compare", CHILD, PARENT),
    "compare-shorter-stranger.json": ("compare", SHORTER, STRANGER),
    "compare-child-shorter.table": ("compare", CHILD, SHORTER),
    "compare-child-parent.table": ("compare", CHILD, PARENT),
    "show-child.json": ("show", CHILD),
    "show-folder.json": ("show", FOLDER),
    "show-child.table": ("show", CHILD),
    "status.json": ("status",),
    "arrivals.json": ("status", "--since", "2001-01-01"),
    "arrivals.csv": ("status", "--since", "2001-01-01"),
    "evaluate.json": ("evaluate", TRUTH),
    "evaluate.table": ("evaluate", TRUTH),
    "lineage.json": ("lineage",),
    "lineage.csv": ("lineage", CHILD),
    "lineage.tree": ("lineage", "--descendants", PARENT),
    "lineage.dot": ("lineage", SHORTER),
}
NOW = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\.\d+\+00:00"
MASKS = {
    r"\d{8}T\d{6}-[0-9a-f]{8}": "RUN",
    r"generation-\d{8}-[0-9a-f]{16}": "GENERATION",
    rf'("(?:started|finished|fingerprinted|detected)_at": )"{NOW}"': r'\1"TIME"',
    rf"{NOW}$": "TIME",
    r'("(?:bytes_on_disk|rate)": )[\d.]+': r"\1SIZE",
}
FLOAT = re.compile(r"(?<![\w.])-?\d+(?:\.\d+(?:e[+-]?\d+)?|e[+-]?\d+)(?![\w.])")


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature family, crawled by one worker for the sake of its order, indexed, with its table `lineage`."""
    folder = tmp_path_factory.mktemp("golden") / "store"
    with provenance.open(folder, create=True) as database:
        database.crawl([MINIATURE], CrawlOptions(workers=1))
        database.index()
        assert len(list(database.refresh_lineage())) == 7
    return folder


def masked(text: str, store: Path) -> str:
    text = text.replace(str(store), "STORE")
    for pattern, mask in MASKS.items():
        text = re.sub(pattern, mask, text, flags=re.MULTILINE)
    return text


@pytest.mark.parametrize("name", CASES)
def test_output_is_what_it_was(name: str, run: Run, examined: Path) -> None:
    _, _, output = name.partition(".")
    done = run(*CASES[name], "--format", output, "--store", str(examined))
    assert done.status == 0, done.err
    text, file = masked(done.out, examined), GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
    wanted = file.read_text(encoding="utf-8")
    assert FLOAT.sub("FLOAT", text) == FLOAT.sub("FLOAT", wanted)
    assert [float(x) for x in FLOAT.findall(text)] == pytest.approx(
        [float(x) for x in FLOAT.findall(wanted)], rel=1e-6, abs=1e-300
    )


def test_every_file_has_its_case() -> None:
    assert {file.name for file in GOLDEN.iterdir()} == set(CASES)
