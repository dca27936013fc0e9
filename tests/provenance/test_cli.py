"""The command line: help, exit statuses, what goes to stdout and what to stderr, formats, and which store."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import provenance
from provenance.cli import COMMANDS
from provenance.indexer.store.store import Store
from provenance.schemas.tables import from_rows
from tests.conftest import llama
from tests.support.command_line import CHILD, DECLARED, MINIATURE, PARENT, ROOT, SCRIPT, STRANGER, Run, environment

WriteRepo = Callable[..., Path]

# Help


def test_commands_are_the_modules() -> None:
    modules = {path.stem.removesuffix("_") for path in (ROOT / "provenance" / "commands").glob("[a-z]*.py")}
    assert set(COMMANDS) == modules - {"options"}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_an_example_and_explains_every_option(run: Run, command: str) -> None:
    done = run(*command.split(), "--help")
    assert (done.status, done.err) == (0, "")
    assert re.search(rf"^  Examples:\n    provenance {command}", done.out, re.MULTILINE)
    options = done.out.partition("\nOptions:\n")[2].partition("\nCommands:")[0]
    for option in re.split(r"\n(?=  -)", options):
        assert len(option.split()) > 3, f"{option!r} has no help"


def test_version(run: Run) -> None:
    assert run("--version").out == f"provenance, version {provenance.__version__}\n"


# Exit statuses


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["query", "nobody/nothing"], "not in the store"),
        (["query", "./nothing"], "no such folder"),
        (["query", "."], "no weights of any kind"),
        (["query", CHILD, "--spec", "foo"], "no signatures 'foo'; name those that it has: qkvo-std-z-64"),
        (["show", "nobody/nothing"], "not in the store"),
        (["compare", CHILD, "nobody/nothing"], "not in the store"),
        (["lineage", "nobody/nothing"], "provenance lineage --refresh"),
        (["index", "--spec", "nonsense"], "nonsense"),
        (["crawl", "./nothing", "--store", "new"], "no such folder"),
        (["sql", "select nothing from checkpoints"], "nothing"),
        (["sql", "select date '290000-01-01'"], "cast it to text"),
        (["status", "--store", "nowhere"], "no store at .*nowhere.*provenance crawl"),
        (["verify", "--store", "nowhere"], "no store"),
        (["query", CHILD, "--store", "nowhere"], "no store"),
        (["sql", "select 1", "--store", "nowhere"], "no store"),
        (["lineage", "--store", "nowhere"], "no store"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_failure_is_one_line_on_stderr(run: Run, arguments: list[str], reason: str) -> None:
    done = run(*arguments)
    assert done.status == 1
    assert done.raw == b""
    assert re.fullmatch(r"provenance: .+\n", done.err)
    assert re.search(reason, done.err)
    assert "�" not in done.err


def test_script_fails_without_traceback(store: Path) -> None:
    done = subprocess.run(
        [SCRIPT, "query", "nobody/nothing"], env=environment(store), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("provenance: nobody/nothing: not in the store")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["--nothing"],
        ["query"],
        ["query", CHILD, "--nothing"],
        ["query", CHILD, "-k", "0"],
        ["query", CHILD, "--min-probability", "2"],
        ["query", CHILD, "--fail-on", "anything"],
        ["query", CHILD, "--format", "xml"],
        ["show", CHILD, "--format", "xml"],
        ["query", CHILD, "--explain", "--format", "csv"],
        ["sql", "--named", "undeclred"],
        ["crawl"],
        ["crawl", ".", "--workers", "0"],
        ["sql", "select 1", "--named", "families"],
        ["sql", "select 1", "--limit", "0"],
        ["evaluate", "nowhere.csv"],
    ],
    ids=" ".join,
)
def test_wrong_usage(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.status, done.raw) == (2, b"")
    assert "Error: " in done.err


@pytest.mark.parametrize(
    ("model", "conditions", "status"),
    [
        (CHILD, ["derived"], 3),
        (CHILD, ["undeclared"], 3),
        (CHILD, ["license"], 3),
        (DECLARED, ["derived"], 3),
        (DECLARED, ["undeclared"], 0),
        (DECLARED, ["undeclared", "license"], 3),
        (PARENT, ["derived", "undeclared", "license"], 0),
        (STRANGER, ["derived", "undeclared", "license"], 0),
        (CHILD, [], 0),
    ],
)
def test_fail_on(run: Run, model: str, conditions: list[str], status: int) -> None:
    done = run("query", model, *(word for condition in conditions for word in ("--fail-on", condition)))
    assert done.status == status
    assert done.json["model"]["repo_id"] == model, "the answer is printed all the same"


def test_equal_license_is_no_condition(run: Run) -> None:
    arguments = ("query", "halfstair/short-basalt-4l", "-k", "1", "--fail-on")
    assert run(*arguments, "license").status == 0
    assert run(*arguments, "undeclared").status == 3


# Results


KEYS = [
    "rank", "checkpoint_id", "repo_id", "verdict", "relation", "direction", "declared", "probability", "p_value",
    "p_adjusted", "log10_p", "score", "merge_weight", "license", "created_at", "decided_by",
    "undeclared", "license_differs",
]  # fmt: skip


def test_query_in_every_format(run: Run) -> None:
    answer = run("query", CHILD, "--format", "json", "-k", "3").json
    assert answer["verdict"] == "derived"
    assert [list(candidate) for candidate in answer["candidates"]] == [[*KEYS, "merge", "layers", "evidence"]] * 3
    assert answer["candidates"][0]["repo_id"] == PARENT
    printed = list(csv.DictReader(io.StringIO(run("query", CHILD, "--format", "csv", "-k", "3").out)))
    columns = pq.read_table(io.BytesIO(run("query", CHILD, "--format", "parquet", "-k", "3").raw))
    assert list(printed[0]) == columns.column_names == KEYS
    for candidate, text, row in zip(answer["candidates"], printed, columns.to_pylist(), strict=True):
        assert row == {key: candidate[key] for key in KEYS}
        assert text == {key: "" if row[key] is None else str(row[key]) for key in KEYS}
    table = run("query", CHILD, "--format", "table", "-k", "3")
    assert table.out.startswith(f"{answer['model']['checkpoint_id']}: derived\n")
    rows = table.out.partition("\n#  candidate ")[2].splitlines()[1:]
    assert [line.split()[:3] for line in rows] == [
        [str(c["rank"]), c["repo_id"], c["verdict"]] for c in answer["candidates"]
    ]
    assert table.err == "7 checkpoints searched\n"


def test_json_is_what_a_program_gets_by_default(run: Run) -> None:
    for arguments in (["query", CHILD], ["show", CHILD], ["status"], ["sql", "select 1 as one"]):
        assert run(*arguments).json == run(*arguments, "--format", "json").json


def test_min_probability_leaves_candidates_out(run: Run) -> None:
    everything = run("query", CHILD).json["candidates"]
    certain = run("query", CHILD, "--min-probability", "0.9").json["candidates"]
    assert [c["repo_id"] for c in certain] == [c["repo_id"] for c in everything if c["probability"] >= 0.9]
    assert 0 < len(certain) < len(everything)


def test_show_draws_curves_and_counts_roles(run: Run) -> None:
    found = run("show", CHILD, "--format", "json").json
    table = run("show", CHILD, "--format", "table").out
    assert f"checkpoint_id       {found['model']['checkpoint_id']}\n" in table
    roles = {row["role"]: row for row in found["roles"]}
    assert (roles["q"]["tensors"], roles["q"]["elements"], roles["q"]["read"]) == (6, 6 * 64 * 64, 6 * 64 * 64)
    for role, curve in found["curves"]["std"].items():
        bars = re.search(rf"^  {role} +([▁-█]+)  ", table, re.MULTILINE)
        assert bars is not None
        assert len(bars[1]) == len(curve)
        assert {"▁", "█"} <= set(bars[1])
        assert [bar for _, bar in sorted(zip(curve, bars[1], strict=True))] == sorted(bars[1])


def test_show_of_a_folder_says_what_show_of_the_stored_model_says(run: Run) -> None:
    stored, read = run("show", CHILD).json, run("show", str(MINIATURE / CHILD)).json
    assert read["curves"] == {
        kind: {role: pytest.approx(curve) for role, curve in curves.items()}
        for kind, curves in stored["curves"].items()
    }
    assert [(r["role"], r["tensors"], r["elements"]) for r in sorted(read["roles"], key=lambda r: r["role"])] == [
        (r["role"], r["tensors"], r["elements"]) for r in stored["roles"]
    ]


def test_show_of_layers_without_a_measure(run: Run, write_repo: WriteRepo) -> None:
    tensors = llama(1)
    tensors["model.layers.2.self_attn.q_proj.weight"][:] = float("nan")
    folder = str(write_repo("some/one", tensors))
    assert run("show", folder).json["curves"]["std"]["q"][2] is None
    assert re.search(r"^  q +[▁-█]{2}·[▁-█]{3}  ", run("show", folder, "--format", "table").out, re.MULTILINE)


def test_status_as_a_table(run: Run, store: Path) -> None:
    done = run("status", "--format", "table")
    assert done.out.startswith(f"{store}: 7 checkpoints of 7 repos, 0 not indexed; ")
    assert "\nruns\n" in done.out


def test_status_of_runs_that_ended_and_of_one_that_was_killed(run: Run, tmp_path: Path) -> None:
    made = Store.create(tmp_path / "runs")
    start, minute = datetime(2026, 11, 20, 1, tzinfo=UTC), timedelta(minutes=1)
    budgets = {"api": {"quota": 1000, "window": 300}, "resolvers": {"quota": None, "window": None}}
    ended = {"listed": 40, "fingerprinted": 30, "skipped": 9, "failed": 1, "bytes_read": 5, "stopped": "the time is up"}
    traffic = {"api_requests": 240, "resolve_requests": 60, "waited": 12.5, "budgets": json.dumps(budgets)}
    begun = {"run_id": "1", "started_at": start, "listed": 0, "fingerprinted": 0, "skipped": 0, "failed": 0}
    killed = {**begun, "run_id": "2", "started_at": start + 60 * minute}
    done = {**begun, **ended, **traffic, "finished_at": start + 10 * minute}
    visits = [
        {"run_id": "2", "status": status, "reason": reason, "bytes_read": 7, "requests": 2, "repo_id": "a/b", "at": at}
        for status, reason, at in (
            ("done", None, start + 61 * minute),
            ("done", None, start + 70 * minute),
            ("failed", "gated", start + 65 * minute),
            ("failed", "network", start + 65 * minute),
            ("failed", "gated", start + 65 * minute),
        )
    ]
    made.commit({"runs": from_rows("runs", [begun, done, killed]), "outcomes": from_rows("outcomes", visits)})
    found = run("status", "--store", "runs").json
    second, first = found["runs"]
    assert [first[name] for name in ("listed", "fingerprinted", "rate", "waited")] == [40, 30, 180.0, 12.5]
    assert first["stopped"] == "the time is up"
    assert first["budgets"] == {
        "api": {"quota": 1000, "window": 300, "share": 0.12},
        "resolvers": {"quota": None, "window": None, "share": None},
    }
    names = ("finished_at", "listed", "fingerprinted", "skipped", "failed", "rate", "bytes_read", "range_requests")
    assert [second[name] for name in names] == [None, 5, 2, 0, 3, 12.0, 35, 10]
    assert second["budgets"] is second["waited"] is second["stopped"] is None
    assert [(row["reason"], row["n"]) for row in found["reasons"]] == [("gated", 2), ("network", 1)]
    table = run("status", "--store", "runs", "--format", "table").out
    assert re.search(r"40 +30 +\d+ +\d+ +180 ", table)
    assert re.search(r"api 1000 in\s+300 s: 12%|api 1000 in", table)


def test_status_since_lists_arrivals(run: Run, store: Path, tmp_path: Path) -> None:
    copy = str(shutil.copytree(store, tmp_path / "copy"))
    (first,) = run("sql", "select distinct run_id from runs", "--store", copy).json
    columns = ["checkpoint_id", "model_type", "n_parameters", "declared_parents", "license", "fingerprinted_at"]
    everything = run("status", "--since", first["run_id"], "--store", copy).json
    assert len(everything) == 7
    assert list(everything[0]) == columns
    assert run("status", "--since", "last", "--store", copy).json == everything
    newest = everything[-1]["fingerprinted_at"]
    assert everything == sorted(everything, key=lambda row: row["fingerprinted_at"])
    assert run("status", "--since", newest, "--store", copy).json[-1] == everything[-1]
    assert len(run("status", "--since", "2001-01-01", "--store", copy).json) == 7
    printed = csv.DictReader(io.StringIO(run("status", "--since", "2001-01-01T12:30", "--format", "csv").out))
    assert [row["checkpoint_id"] for row in printed] == [row["checkpoint_id"] for row in everything]
    none = run("status", "--since", "2999-01-01", "--format", "parquet", "--store", copy)
    assert pq.read_table(io.BytesIO(none.raw)).column_names == columns
    run("crawl", str(MINIATURE / CHILD), "--mode", "sampled", "--store", copy)
    assert [r["checkpoint_id"].partition("@")[0] for r in run("status", "--since", "last", "--store", copy).json] == [
        CHILD
    ]
    assert CHILD in run("status", "--since", "last", "--format", "table", "--store", copy).out
    wrong = run("status", "--since", "yesterday")
    assert (wrong.status, wrong.raw) == (1, b"")
    assert "neither a date or time" in wrong.err


def test_crawl_index_verify_compact_print_no_results(run: Run, tmp_path: Path) -> None:
    for command, report in (
        (["crawl", str(MINIATURE / "quillmarsh")], "2 fingerprinted, 0 skipped, 0 failed of 2 listed"),
        (["crawl", str(MINIATURE / "quillmarsh")], "0 fingerprinted, 2 skipped"),
        (["index", "--kind", "exact"], "indexed 2 checkpoints (qkvo-std-z-64)"),
        (["verify"], "the store is sound"),
        (["compact"], "parts became"),
    ):
        done = run(*command, "--store", "small")
        assert (done.status, done.raw) == (0, b""), done.err
        assert report in done.err
    (facts,) = (tmp_path / "small" / "index").glob("generation-*/facts.npy")
    facts.write_bytes(facts.read_bytes() + b"x")
    broken = run("verify", "--store", "small")
    assert broken.status == 1
    assert re.fullmatch(r"index/generation-.+/facts\.npy has \d+ bytes, .+; run `provenance index`.*\n", broken.out)
    for part in (tmp_path / "small" / "tensors").glob("*.parquet"):
        part.write_bytes(part.read_bytes()[:-1])
    broken = run("verify", "--store", "small")
    assert broken.status == 1
    assert re.search(r"tensors/part-.+\.parquet", broken.out)


def test_one_broken_checkpoint_is_reported_and_the_crawl_goes_on(run: Run, write_repo: WriteRepo) -> None:
    folder = write_repo("good/one", llama(1)).parents[1]
    (write_repo("bad/one", llama(2)) / "model.safetensors").write_bytes(b"\xff" * 100)
    done = run("crawl", str(folder), "--store", "mixed")
    assert (done.status, done.raw) == (0, b"")
    assert re.match(r"failed: bad/one/model\.safetensors: .+\n1 fingerprinted, 0 skipped, 1 failed of 2 ", done.err)
    reasons = run("status", "--store", "mixed").json["reasons"]
    assert [(r["status"], r["error"], r["n"]) for r in reasons] == [("failed", "HeaderError", 1)]


# Which store


def test_store_is_the_option_then_the_environment_then_the_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("crawl", str(MINIATURE / PARENT), "--store", "given")
    monkeypatch.delenv("PROVENANCE_STORE")
    run("crawl", str(MINIATURE / STRANGER))
    assert (tmp_path / "provenance-store" / "MANIFEST").exists()

    def repos(*arguments: str) -> list[str]:
        return [row["repo_id"] for row in run("sql", "select repo_id from checkpoints", *arguments).json]

    assert repos() == [STRANGER]
    monkeypatch.setenv("PROVENANCE_STORE", "given")
    assert repos() == [PARENT]
    assert repos("--store", "provenance-store") == [STRANGER]


def test_query_of_a_folder_is_stored_only_when_asked(run: Run) -> None:
    run("crawl", str(MINIATURE / PARENT), "--store", "small")
    for save, stored in (([], 1), (["--save"], 2)):
        done = run("query", str(MINIATURE / CHILD), *save, "--store", "small")
        assert done.json["candidates"][0]["repo_id"] == PARENT
        assert done.json["store"]["unindexed"] == stored
        assert run("status", "--store", "small").json["store"]["checkpoints"] == stored


# Evaluation

TRUTH = f"""\
model,parents,root,relation,attack,weights_derived
{PARENT},,{PARENT},root,false,false
{CHILD},{PARENT},{PARENT},full_ft,false,true
{STRANGER},,{STRANGER},root,false,false
not/stored,,not/stored,root,false,false
"""


def test_evaluate(run: Run, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text(TRUTH)
    done = run("evaluate", "truth.csv", "--save", "result.json")
    assert done.status == 0
    assert json.loads((tmp_path / "result.json").read_text()) == done.json
    assert done.json["models"] == {"in_table": 4, "stored": 3}
    assert done.json["retrieval"]["non-attack"] == {
        "models": 1, "family@1": 1.0, "family@5": 1.0, "parent@1": 1.0, "parent@5": 1.0, "derived": 1.0,
    }  # fmt: skip
    assert done.json["accusations"]["accused"] == 0
    table = run("evaluate", "truth.csv", "--format", "table").out
    assert table.startswith("3 of 4 models of the table are stored.\n0 of 4 unrelated pairs accused.\n")
    assert re.search(r"^non-attack +1 +1\.000 ", table, re.MULTILINE)
    markdown = run("evaluate", "truth.csv", "--format", "markdown").out
    assert "| non-attack | 1 | 1.000 |" in markdown
    rows = list(csv.DictReader(io.StringIO(run("evaluate", "truth.csv", "--format", "csv").out)))
    assert [row["model"] for row in rows] == [row["model"] for row in done.json["models_detail"]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "columns model, parents"),
        ("model,parents\na/b,\n", "columns root, relation, attack, weights_derived are missing"),
        ("model,parents,root,relation,attack,weights_derived\n", "empty"),
        (TRUTH + f"{CHILD},,,,false,false\n", "twice"),
        (TRUTH.splitlines()[0] + "\nnot/stored,,,,false,false\n", "holds none"),
        (TRUTH + "a/b,,\n", "line 6 has too few cells"),
        (TRUTH + "\xff", "UTF-8"),
        (TRUTH + "x" * 200_000, "field larger than"),
    ],
)
def test_evaluate_refuses_a_broken_table(run: Run, tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "truth.csv").write_text(text, encoding="latin-1")
    done = run("evaluate", "truth.csv")
    assert (done.status, done.raw) == (1, b"")
    assert re.fullmatch(rf"provenance: .*{reason}.*\n", done.err)


def test_evaluate_cannot_save_where_there_is_no_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text(TRUTH)
    done = run("evaluate", "truth.csv", "--save", "nowhere/result.json")
    assert done.status == 1
    assert re.fullmatch(r"Error: .*nowhere/result\.json.*\n", done.err)
