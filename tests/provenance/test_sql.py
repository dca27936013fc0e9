"""`provenance sql`: formats, limits, statements from stdin and from a person, and what it must never do."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.command_line import MINIATURE, ROOT, SCRIPT, Run, environment


def test_sql_in_every_format(run: Run) -> None:
    statement = "select repo_id, n_layers, tags, created_at, null::bigint as gap from checkpoints order by repo_id"
    rows = run("sql", statement, "--format", "json").json
    assert [row["repo_id"] for row in rows] == sorted(
        p.parent.relative_to(MINIATURE).as_posix() for p in MINIATURE.glob("*/*/config.json")
    )
    assert rows[0]["n_layers"] == 4
    printed = list(csv.DictReader(io.StringIO(run("sql", statement, "--format", "csv").out)))
    assert [(row["repo_id"], json.loads(row["tags"]), row["gap"]) for row in printed] == [
        (row["repo_id"], row["tags"], "") for row in rows
    ]
    columns = pq.read_table(io.BytesIO(run("sql", statement, "--format", "parquet").raw))
    assert [str(kind) for kind in columns.schema.types[:2]] == ["string", "int64"]
    assert columns["tags"].to_pylist() == [row["tags"] for row in rows]
    assert columns["created_at"][0].as_py().isoformat() == rows[0]["created_at"]
    table = run("sql", statement, "--format", "table").out
    assert re.search(r"^halfstair/short-basalt-4l +4  transformers, safetensors, ", table, re.MULTILINE)


def test_sql_without_rows_keeps_its_columns(run: Run) -> None:
    statement = "select repo_id, n_layers from checkpoints where false"
    assert run("sql", statement, "--format", "csv").out == "repo_id,n_layers\n"
    assert run("sql", statement, "--format", "json").json == []
    columns = pq.read_table(io.BytesIO(run("sql", statement, "--format", "parquet").raw))
    assert [str(kind) for kind in columns.schema.types] == ["string", "int64"]
    assert run("sql", statement, "--format", "table").out == "no rows\n"


def test_sql_values_that_json_does_not_know(run: Run) -> None:
    done = run("sql", "select 'nan'::double as x, ['inf'::float] as y, sum(2) as n, 0.5 as h, 'ab'::blob as b, 1 as x")
    assert done.json == [{"x": None, "y": [None], "n": 2, "h": 0.5, "b": "6162", "x_1": 1}]


def test_sql_values_as_csv(run: Run) -> None:
    """What other programs read back as the same values; the kinds that CSV does not know are text."""
    statement = """select * from (values
        (1, 0.5::double, 'a,"b"', true, timestamptz '2025-01-02 03:04:05.5+00', date '2025-01-02', 2::hugeint,
         [1.5, 'nan'::double], {'a': 'x'}, 'ab'::blob, interval 90 minute, uuid '00000000-0000-0000-0000-000000000001'),
        (null, null, null, null, null, null, null, null, null, null, null, null),
        (-1, 1e-7, '', false, timestamptz '1969-01-01 00:00:00+00', date '0001-01-01', 10::hugeint ** 30,
         [], {'a': null}, ''::blob, interval 0 day, uuid '00000000-0000-0000-0000-000000000002')
    ) as rows(i, f, s, b, t, d, h, l, o, y, v, u)"""
    text = run("sql", statement, "--format", "csv").out
    header, first, gap, second = csv.reader(io.StringIO(text))
    assert "".join(header) == "ifsbtdhloyvu"
    assert gap == [""] * 12
    assert first[:6] == ["1", "0.5", 'a,"b"', "True", "2025-01-02 03:04:05.500000+00:00", "2025-01-02"]
    assert first[7:10] == ["[1.5, null]", '{"a": "x"}', "6162"]
    assert second[2:6] == ["", "False", "1969-01-01 00:00:00+00:00", "0001-01-01"]
    assert second[7:10] == ["[]", '{"a": null}', ""]
    assert [float(row[1]) for row in (first, second)] == [0.5, 1e-7]
    assert [float(row[6]) for row in (first, second)] == [2, 1e30]
    assert '\n-1,1e-7,"",False,' in text, "an empty text is not null"
    endless = run("sql", "select 'infinity'::timestamp as t", "--format", "csv")
    assert (endless.status, endless.raw) == (1, b"")
    assert "cast it to text" in endless.err


def test_sql_limit(run: Run) -> None:
    done = run("sql", "select repo_id from checkpoints", "--limit", "2", "--format", "csv")
    assert len(done.out.splitlines()) == 3
    assert done.err == "only the first 2 rows are shown; use --limit for more\n"
    exact = run("sql", "select repo_id from checkpoints", "--limit", "7", "--format", "csv")
    assert (len(exact.out.splitlines()), exact.err) == (8, "")


def test_sql_ships_queries_that_run(run: Run) -> None:
    listed = run("sql", "--list").out.splitlines()[1:]
    names = sorted(path.stem for path in (ROOT / "provenance" / "query" / "sql").glob("*.sql"))
    assert [line.split()[0] for line in listed] == names
    assert all(len(line.split()) > 3 for line in listed)
    for name in names:
        assert run("sql", "--named", name, "--format", "json").status == 0


@pytest.mark.parametrize(
    "statement",
    [
        "select * from read_text('{secret}')",
        "select * from '{secret}'",
        "copy checkpoints to '{secret}'",
        "attach '{secret}' as other",
        "install httpfs",
        "set enable_external_access = true",
    ],
)
def test_sql_reaches_nothing_but_the_store(run: Run, tmp_path: Path, statement: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\nhidden\n")
    done = run("sql", statement.format(secret=secret))
    assert (done.status, done.raw) == (1, b"")
    assert secret.read_text() == "a\nhidden\n"


def test_sql_changes_nothing(run: Run, store: Path) -> None:
    before = run("sql", "select * from checkpoints").raw
    for statement in (
        "delete from checkpoints",
        "update checkpoints set license = 'x'",
        "insert into runs select * from runs",
    ):
        assert run("sql", statement).status == 1
    assert run("sql", "drop view checkpoints").status == 1
    assert run("sql", "select * from checkpoints").raw == before


def test_sql_reads_statements_from_stdin(run: Run) -> None:
    done = run("sql", "--format", "csv", stdin="select 1 as one;\nselect\n  2 as two;\nselect 3 as three")
    assert (done.status, done.out, done.err) == (0, "one\n1\ntwo\n2\nthree\n3\n", "")


def test_sql_stops_at_the_first_wrong_statement_of_stdin(run: Run) -> None:
    done = run("sql", "--format", "csv", stdin="select 1 as one;\nselec;\nselect 3 as three;")
    assert (done.status, done.out) == (1, "one\n1\n")
    assert re.fullmatch(r'provenance: SQL: .*syntax error at or near "selec"\n  LINE 1: selec;\n {10}\^+\n', done.err)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a pseudo-terminal."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)


def on_terminal(terminal: tuple[int, int], store: Path, *arguments: str, typed: bytes = b"") -> str:
    """What a terminal shows of the script's stdin, stdout and stderr."""
    ours, theirs = terminal
    around = {**environment(store), "COLUMNS": "100", "TERM": "dumb"}
    with subprocess.Popen([SCRIPT, *arguments], env=around, stdin=theirs, stdout=theirs, stderr=theirs) as script:
        os.close(theirs)
        os.write(ours, typed)
        shown = b""
        try:
            while piece := os.read(ours, 1 << 16):
                shown += piece
        except OSError:  # Linux says so when the other side has closed
            pass
        assert script.wait(timeout=60) == 0
    return shown.decode().replace("\r\n", "\n")


def test_terminal_shows_a_table_of_a_thousand_rows(terminal: tuple[int, int], store: Path) -> None:
    shown = on_terminal(terminal, store, "sql", "select range as n from range(1500)")
    assert [int(line) for line in shown.splitlines() if line.strip().isdigit()] == list(range(1000))
    assert shown.rstrip().endswith("only the first 1000 rows are shown; use --limit for more")


def test_prompt_goes_on_after_a_mistake(terminal: tuple[int, int], store: Path) -> None:
    typed = b"selec;\nselect 40\n+ 2 as answer;\n\x04"
    shown = on_terminal(terminal, store, "sql", typed=typed)
    assert "Ctrl-D leaves" in shown
    assert re.search(r"SQL: .*syntax error.*\n(?s:.*)answer *\n *42 *\n", shown)


@pytest.mark.parametrize("output", ["csv", "table", "json"])
def test_closed_pipe_is_no_error_to_report(store: Path, output: str) -> None:
    arguments = [SCRIPT, "sql", "select range as n, repeat('x', 90) as x from range(5000)", "--format", output]
    with subprocess.Popen(arguments, env=environment(store), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as script:
        assert script.stdout is not None
        assert script.stderr is not None
        assert script.stdout.readline()
        script.stdout.close()
        assert script.stderr.read() == b""
