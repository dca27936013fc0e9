"""The public Python API: what the facade returns, and under which names a user finds it."""

from __future__ import annotations

import json
from collections.abc import Iterator

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
