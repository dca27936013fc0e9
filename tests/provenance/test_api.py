"""The public Python API: what the facade returns, and under which names a user finds it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import provenance
from provenance import Database, Direction, ModelVerdict, Relation, Verdict
from provenance.schemas.tables import schema
from tests.support.command_line import CHILD, MINIATURE, PARENT, Run


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with provenance.open(tmp_path_factory.mktemp("api") / "store", create=True) as opened:
        opened.crawl([MINIATURE])
        opened.index()
        list(opened.refresh_lineage())
        yield opened


def test_an_answer_is_typed(database: Database) -> None:
    answer = database.query(CHILD, k=3)
    assert isinstance(answer, provenance.Answer)
    assert answer.verdict is ModelVerdict.DERIVED
    first = answer.candidates[0]
    assert isinstance(first, provenance.Candidate)
    assert (first.repo_id, first.rank) == (PARENT, 1)
    assert (first.verdict, first.direction, first.relation) == (Verdict.DERIVED, Direction.PARENT, Relation.FINETUNE)
    assert isinstance(first.verdict, Verdict)
    assert all(isinstance(evidence, provenance.Evidence) for evidence in first.evidence)


def test_an_answer_is_a_frame_of_its_candidates(database: Database) -> None:
    answer = database.query(CHILD)
    nested = ("evidence", "layers", "merge")
    rows = [{name: row[name] for name in row if name not in nested} for row in answer.candidates.to_dicts()]
    assert answer.to_arrow().to_pylist() == answer.to_polars().to_dicts() == rows
    assert len(rows) == 6
    assert answer.to_polars().columns == list(rows[0])


def test_lineage_and_arrivals_are_frames(database: Database) -> None:
    assert database.lineage().to_polars().columns == schema("lineage").names
    arrivals = database.arrivals("last")
    assert sorted(arrivals.to_polars()["checkpoint_id"].to_list()) == sorted(a.checkpoint_id for a in arrivals)
    assert len(arrivals) == 7


def test_every_result_gives_the_json_of_its_command(database: Database, run: Run) -> None:
    store, truth = str(database.store.path), MINIATURE / "lineage.csv"
    for arguments, result in (
        (["query", CHILD], database.query(CHILD)),
        (["compare", CHILD, PARENT], database.compare(CHILD, PARENT)),
        (["show", CHILD], database.show(CHILD)),
        (["status"], database.status()),
        (["evaluate", str(truth)], database.evaluate(truth)),
    ):
        found = result.to_dict()
        assert run(*arguments, "--store", store).json == json.loads(json.dumps(found, allow_nan=False))


def test_every_public_name_is_there() -> None:
    for name in provenance.__all__:
        assert getattr(provenance, name) is not None


def test_sql_gives_rows_as_what_they_are_needed_for(database: Database) -> None:
    found = database.sql("select repo_id, n_layers from latest_checkpoints order by repo_id")
    rows = found.rows()
    assert list(found) == rows == found.pl().to_dicts() == found.arrow().to_pylist()
    assert found.columns == ["repo_id", "n_layers"]
    assert (len(found), found.more, rows[0]) == (7, False, {"repo_id": "halfstair/short-basalt-4l", "n_layers": 4})
    assert repr(found) == "7 rows of (repo_id, n_layers); take them with .rows(), .pl(), .df() or .arrow()"
    few = database.sql("from latest_checkpoints", limit=2)
    assert (len(few), few.more) == (2, True)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("", "no statement"),
        ("-- nothing", "no statement"),
        ("select 1; select 2", "2 statements"),
        ("drop view checkpoints", "DROP is no query"),
        ("set threads = 1", "SET is no query"),
        ("create table x as select 1", "CREATE is no query"),
        ("select 1 from (select", "syntax error"),
    ],
)
def test_sql_refuses_what_is_no_query(database: Database, statement: str, reason: str) -> None:
    with pytest.raises(provenance.ProvenanceError, match=reason) as refused:
        database.sql(statement)
    assert "\n" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None, "nothing of DuckDB's own"


@pytest.mark.parametrize(
    "statement",
    ["describe tensors", "from runs", "summarize runs", "explain select 1", "with x as (select 1) from x", "values (1)",
     "pivot (select license, 1 as n from checkpoints) on license using sum(n)", "show tables", "select 1;"],
)  # fmt: skip
def test_sql_runs_every_kind_of_query(database: Database, statement: str) -> None:
    assert len(database.sql(statement)) > 0 or statement == "from runs"


def test_results_are_tables_in_a_notebook_and_escaped(database: Database) -> None:
    html = database.sql("select '<script>&' as \"<b>\", null as gap, 1.23456::double as x")._repr_html_()
    assert html == (
        "<table><thead><tr><th>&lt;b&gt;</th><th>gap</th><th>x</th></tr></thead>"
        "<tbody><tr><td>&lt;script&gt;&amp;</td><td></td><td>1.235</td></tr></tbody></table>"
    )
    many = database.sql("select range as n from range(50)")._repr_html_()
    assert many.count("<tr>") == 21
    assert many.endswith("<p>20 of 50 rows</p>")
    answer = database.query(CHILD)._repr_html_()
    assert answer.startswith(f"<p><b>{CHILD}@690a87d854d5</b>: derived</p><table>")
    assert f"<td>{PARENT}</td><td>derived</td><td>parent</td>" in answer
    assert "<th>parent</th>" in database.lineage()._repr_html_()


def test_names_of_the_package_complete() -> None:
    assert set(provenance.__all__) <= set(dir(provenance))


def test_long_work_says_how_far_it_is(database: Database, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []

    def advance(done: int, total: int) -> None:
        steps.append((done, total))

    def told() -> list[tuple[int, int]]:
        seen = steps.copy()
        steps.clear()
        return seen

    with provenance.open(tmp_path / "other", create=True) as other:
        other.take_over(database.store.path, advance)
        assert told() == [(7, 7)]
        other.index(advance=advance)
        assert told() == [(n, 7) for n in range(1, 8)]
        refresh = other.refresh_lineage()
        seen = [(done, refresh.total) for done, _ in enumerate(refresh, start=1)]
        assert seen == [(n, 7) for n in range(1, 8)]
        other.evaluate(MINIATURE / "lineage.csv", advance)
        assert told() == [(n, 7) for n in range(1, 8)]
        for work in (other.verify, other.compact):
            work(advance)
            seen = told()
            assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))
