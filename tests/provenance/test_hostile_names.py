"""Text that strangers wrote never moves the cursor, turns the direction of reading or forges a line on a terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import provenance
from provenance.output import clean
from tests.conftest import LLAMA_CONFIG, llama, trained
from tests.support.command_line import Run

EYE = np.eye(8, dtype=np.float32)
ESCAPE, OVERRIDE, TITLE = "\x1b[31mred", "\u202egnp.exe", "\x1b]0;owned\x07\x9b2J"
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def hostile_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repos whose configs, cards, tags, tensor names and file names try to write on the terminal."""
    folder = tmp_path_factory.mktemp("hostile") / "models"
    config = json.dumps({**LLAMA_CONFIG, "model_type": ESCAPE, "architectures": [TITLE]})
    base = llama(1)
    repos = {"base": base, "tuned": trained(base, 2), "unread": {f"model.layers.0.{OVERRIDE}.q_proj.weight": EYE}}
    for name, tensors in repos.items():
        (folder / "evil" / name).mkdir(parents=True)
        save_file(tensors, folder / "evil" / name / "model.safetensors")
        (folder / "evil" / name / "config.json").write_text(config)
    (folder / "evil" / "broken").mkdir()
    (folder / "evil" / "broken" / f"{ESCAPE}.safetensors").write_bytes(b"\xff" * 100)
    listing = {"cardData": {"license": TITLE + OVERRIDE + "\nforged line"}, "tags": [ESCAPE, OVERRIDE]}
    lines = [json.dumps({"id": f"evil/{name}", **listing}) for name in repos]
    (folder / "listing.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def hostile(hostile_models: Path) -> Path:
    """A store with those repos."""
    with provenance.open(hostile_models.parent / "store", create=True) as database:
        summary = database.crawl([hostile_models])
        assert (summary.fingerprinted, summary.failed) == (3, 1)
        assert len(list(database.refresh_lineage())) == 3
        return database.store.path


def test_report_of_a_crawl_is_clean(run: Run, hostile_models: Path) -> None:
    done = run("crawl", str(hostile_models), "--store", "new")
    assert re.match(r"failed: .*evil/broken.*\n3 fingerprinted, 0 skipped, 1 failed of 4 listed", done.err)
    assert not UNSAFE.search(done.err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["query", "evil/tuned", "--format", "table"],
        ["compare", "evil/tuned", "evil/base", "--format", "table"],
        ["show", "evil/tuned", "--format", "table"],
        ["status", "--format", "table"],
        ["status", "--since", "last", "--format", "table"],
        ["forget", f"{TITLE}/{OVERRIDE}", "--yes"],
        ["export", OVERRIDE],
        ["lineage", "--format", "tree"],
        [
            "sql",
            "select license, tags, model_type, {'a': license} as s, architecture from checkpoints",
            "--format",
            "table",
        ],
        ["sql", "select message from outcomes", "--format", "table"],
        ["sql", "pivot (select license, 1 as n from checkpoints) on license using sum(n)", "--format", "table"],
        ["sql", f"select '{OVERRIDE}' from nothing{ESCAPE}"],
        ["sql", "--named", f"{OVERRIDE}"],
        ["query", f"{TITLE}/{OVERRIDE}"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]).encode("unicode_escape").decode(),
)
def test_no_control_characters_reach_the_terminal(run: Run, hostile: Path, arguments: list[str]) -> None:
    done = run(*arguments, "--store", str(hostile))
    assert done.out or done.err
    assert not UNSAFE.search(done.out)
    assert not UNSAFE.search(done.err)
    assert not re.search(r"^forged line", done.out, re.MULTILINE)


def test_json_keeps_what_strangers_wrote(run: Run, hostile: Path) -> None:
    done = run("sql", "select distinct license from checkpoints where license is not null", "--store", str(hostile))
    assert done.json == [{"license": TITLE + OVERRIDE + "\nforged line"}]
    assert done.raw.isascii(), "escaped, so harmless on a terminal too"


def test_clean_replaces_what_moves_the_cursor_or_cannot_be_encoded() -> None:
    assert clean("a\x1b[0m\tb\r\nc\u2028\x85\udc80é‑漢") == "a�[0m�b��c���é‑漢"
