"""What a person sees and presses: colours, widths, Ctrl-C, a pipe that closes, completion, and how much is said."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from provenance.commands.env import without_secrets
from provenance.schemas.tables import FORMAT_VERSION
from provenance.settings import VARIABLES
from tests.support.command_line import CHILD, MINIATURE, PARENT, SCRIPT, STRANGER, Run
from tests.support.terminal import clean_environment, on_terminal

ROWS = [
    ["query", CHILD],
    ["compare", CHILD, PARENT],
    ["show", CHILD],
    ["status"],
    ["status", "--since", "2001-01-01"],
    ["lineage"],
    ["sql", "select repo_id, n_layers, license from checkpoints order by repo_id"],
    ["sql", "--list"],
    ["evaluate", str(MINIATURE / "lineage.csv")],
    ["env"],
]


@pytest.mark.parametrize("arguments", ROWS, ids=lambda arguments: " ".join(arguments[:2]))
def test_every_command_that_prints_rows_has_every_format(run: Run, arguments: list[str]) -> None:
    run("lineage", "--refresh")
    printed = {name: run(*arguments, "--format", name) for name in ("table", "json", "ndjson", "csv", "parquet")}
    assert {done.status for done in printed.values()} == {0}, [done.err for done in printed.values()]
    lines = [json.loads(line) for line in printed["ndjson"].out.splitlines()]
    table = pq.read_table(io.BytesIO(printed["parquet"].raw))
    assert table.num_rows == len(lines) > 0
    assert set(table.column_names) <= set(lines[0])
    assert printed["csv"].out.partition("\n")[0].split(",") == table.column_names
    assert printed["table"].out
    markdown = run(*arguments, "--format", "markdown").out
    if arguments[0] == "evaluate":
        assert markdown.startswith("7 of 7 models")
    else:
        head, rule, *rows = markdown.splitlines()
        assert len(rows) == len(lines)
        assert {line.replace("\\|", "").count("|") for line in (head, rule, *rows)} == {head.count("|")}


def test_markdown_of_strangers_text_stays_one_cell(run: Run) -> None:
    out = run("sql", "select 'a|b' || chr(10) || '| c' as x, 1.5 as y", "--format", "markdown").out
    assert out == "| x | y |\n| --- | ---: |\n| a\\|b�\\| c | 1.5 |\n"
    assert run("sql", "select 1 as x where false", "--format", "markdown").out == "| x |\n| --- |\n"


@pytest.mark.parametrize(
    ("set_to", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)], ids=str
)
def test_colours_on_a_terminal(store: Path, tmp_path: Path, set_to: dict[str, str], coloured: bool) -> None:
    around = clean_environment(**{"TERM": "xterm-256color", **set_to})
    status, shown = on_terminal([SCRIPT, "query", CHILD, "--store", str(store)], 100, tmp_path, around)
    assert status == 0
    assert ("\x1b[1;35mderived\x1b[0m" in shown) == coloured


def test_colours_in_a_pipe_only_by_force(store: Path, tmp_path: Path) -> None:
    command = [SCRIPT, "query", CHILD, "--store", str(store), "--format", "table"]
    for forced in (False, True):
        around = clean_environment(**({"FORCE_COLOR": "1", "TERM": "xterm"} if forced else {}))
        done = subprocess.run(command, env=around, capture_output=True, text=True, timeout=60)
        assert ("\x1b[" in done.stdout) == forced


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_tables_fit_every_width(store: Path, tmp_path: Path, width: int) -> None:
    command = [SCRIPT, "sql", "select * from checkpoints", "--store", str(store)]
    status, shown = on_terminal(command, width, tmp_path, clean_environment(TERM="dumb"))
    assert status == 0
    table, _, remark = shown.partition("not shown for want of width:")
    assert all(len(line) <= width for line in table.splitlines())
    assert len(table.splitlines()) <= 7 + 3
    assert "--wide" in remark
    wide = on_terminal([*command, "--wide"], width, tmp_path, clean_environment(TERM="dumb"))[1]
    assert "not shown" not in wide
    assert f"{CHILD}@690a87d854d5" in wide


def test_ctrl_c_is_130_and_one_word(store: Path) -> None:
    command = [SCRIPT, "sql", "--store", str(store)]
    with subprocess.Popen(
        command, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdin.write(b"select 42 as answer;\n")
        program.stdin.flush()
        while b"42" not in program.stdout.readline():
            pass
        time.sleep(0.1)  # it reads stdin again
        program.send_signal(signal.SIGINT)
        assert program.wait(timeout=60) == 130
        assert program.stderr.read().strip() == b"interrupted"


def test_a_crawl_without_success_fails_and_counts_reasons(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad" / "one"
    bad.mkdir(parents=True)
    (bad / "model.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "pickled" / "two").mkdir(parents=True)
    (tmp_path / "pickled" / "two" / "pytorch_model.bin").write_bytes(b"x" * 100)
    done = run("crawl", "./bad", "--store", "a")
    assert done.status == 1
    assert done.err.splitlines()[-1].endswith("; failed: 1 malformed")
    mixed = run("crawl", "./bad", str(MINIATURE / CHILD), "./pickled", "--store", "b")
    assert mixed.status == 1, "a SOURCE of which nothing is in the store"
    assert mixed.err.splitlines()[-1].endswith("; skipped: 1 no-weights; failed: 1 malformed")
    assert mixed.err.splitlines()[-1].startswith("1 fingerprinted, 1 skipped, 1 failed of 3 listed; ")
    again = run("crawl", str(MINIATURE / CHILD), "--store", "b")
    assert again.status == 0
    assert again.err.splitlines()[-1].endswith("; skipped: 1 known")
    (tmp_path / "whole").mkdir()
    (tmp_path / "bad").rename(tmp_path / "whole" / "bad")
    shutil.copytree(MINIATURE / STRANGER, tmp_path / "whole" / "good")
    assert run("crawl", "./whole", "--store", "b").status == 0, "one bad checkpoint of a folder is a row of `outcomes`"


def test_a_named_repo_that_fails_is_a_failed_crawl(run: Run) -> None:
    done = run("crawl", str(MINIATURE / CHILD), "no/thing", "--endpoint", "http://127.0.0.1:9", "--store", "c")
    assert done.status == 1
    assert done.err.splitlines()[-1].startswith("1 fingerprinted, 0 skipped, 1 failed of 2 listed")


def test_quiet_says_errors_only(run: Run) -> None:
    assert run("-q", "verify").err == run("verify", "-q").err == ""
    assert run("verify").err == "the store is sound\n"
    assert run("-q", "query", CHILD).json["verdict"] == "derived"
    assert run("-q", "show", "zzz/qqq").err.startswith("provenance: zzz/qqq: not in the store")
    assert run("-V").out == run("--version").out


def test_verbose_shows_the_log(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    level = logging.getLogger("provenance").level
    try:
        run("verify", "-v")
        assert logging.getLogger("provenance").isEnabledFor(logging.DEBUG)
        run("verify")
        assert not logging.getLogger("provenance").isEnabledFor(logging.INFO)
    finally:
        logging.getLogger("provenance").setLevel(level)


def test_progress_is_a_bar_with_the_time_left(store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "copy")
    around = clean_environment(TERM="xterm", NO_COLOR="1")
    for command, word in (("index", "indexing"), ("verify", "verifying"), ("compact", "compacting")):
        status, shown = on_terminal([SCRIPT, command, "--store", str(copy)], 100, tmp_path, around)
        assert status == 0
        assert f"{word} " in shown
        assert re.search(r"━.* \d+/\d+ .*\d:\d\d", shown), shown
    quiet = on_terminal([SCRIPT, "-q", "index", "--store", str(copy)], 100, tmp_path, around)[1]
    assert quiet == ""


def test_shells_complete_ids_and_queries(store: Path) -> None:
    def completions(*words: str) -> list[str]:
        around = clean_environment(
            _PROVENANCE_COMPLETE="bash_complete",
            COMP_WORDS=" ".join(("provenance", *words)),
            COMP_CWORD=str(len(words)),
            PROVENANCE_STORE=str(store),
        )
        done = subprocess.run([SCRIPT], env=around, capture_output=True, text=True, timeout=60)
        return [line.partition(",")[2] for line in done.stdout.splitlines() if line]

    assert completions("query", "quill") == [PARENT, f"{PARENT}-suite"]
    assert completions("compare", CHILD, "vant") == [STRANGER]
    assert completions("sql", "--named", "und") == ["undeclared"]
    assert "query" in completions("q")
    assert completions("query", "--store", "nowhere", "quill") == []


def test_env_shows_what_a_report_needs_and_no_secret(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "https://user:hidden@hub.example.org/path?token=hidden#hidden")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hidden@proxy")
    for output in ("json", "table", "markdown"):
        done = run("env", "--format", output)
        assert done.status == 0
        assert "secret" not in done.out
        assert "hidden" not in done.out
    found = run("env").json
    assert found["store"] == str(store)
    assert found["store format"] == str(FORMAT_VERSION)
    assert found["hub"] == "https://hub.example.org/path"
    assert found["HF_TOKEN"] == found["HTTPS_PROXY"] == "set"
    assert run("env", "--store", "nowhere").json["store format"].startswith("not readable: no store at ")
    assert without_secrets("http://[") == "not an address"


def test_variables_are_in_the_docs() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for names in VARIABLES for name in names.split(", "))
