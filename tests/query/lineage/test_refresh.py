"""The lineage table is brought up to date: no more is examined than an arrival can change, and a kill loses nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

import provenance
from provenance.database import Database
from provenance.query.lineage import refresh
from tests.conftest import LLAMA_CONFIG, Tensors, llama, trained

ROOT = llama(1)
MODELS: dict[str, Tensors] = {
    "org/root": ROOT,
    **{f"org/child-{i}": trained(ROOT, 10 + i, 0.2) for i in range(5)},
    "org/grandchild": trained(trained(ROOT, 10, 0.2), 30, 0.06),
    "else/where": llama(2),
}
"""In the order of their creation."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = [{"id": name, "createdAt": f"2025-01-{day:02}T00:00:00.000Z"} for day, name in enumerate(MODELS, start=1)]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "listing.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "models"


def arrive(database: Database, folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        save_file(MODELS[name], folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps(LLAMA_CONFIG))
    database.crawl([folder])


def examined(database: Database) -> set[str]:
    return {checkpoint_id.partition("@")[0] for checkpoint_id in database.refresh_lineage()}


def claims(database: Database) -> tuple[list[Any], dict[str, str]]:
    """What the tables say, but for when, and for what depends on the size of the store."""
    rows = [
        (row.child, row.parent, row.rank, row.verdict, row.direction, row.relation, row.merge_weight, row.score)
        for row in database.lineage()
    ]
    return rows, {row["repo_id"]: row["verdict"] for row in database.store.read("verdicts").to_pylist()}


def test_an_arrival_in_a_crowd_does_not_examine_the_crowd(folder: Path, tmp_path: Path) -> None:
    late = "org/child-4"
    with provenance.open(tmp_path / "store", create=True) as database:
        arrive(database, folder, [name for name in MODELS if name != late])
        assert examined(database) == MODELS.keys() - {late}
        arrive(database, folder, [late])
        assert examined(database) == {late}
        assert examined(database) == set()
        found = claims(database)
    with provenance.open(tmp_path / "at once", create=True) as database:
        database.crawl([folder])
        examined(database)
        assert claims(database) == found


@pytest.mark.parametrize("late", ["org/root", "org/child-0"])
def test_what_descends_from_an_arrival_is_examined_again(folder: Path, tmp_path: Path, late: str) -> None:
    with provenance.open(tmp_path / "store", create=True) as database:
        arrive(database, folder, [name for name in MODELS if name != late])
        examined(database)
        arrive(database, folder, [late])
        again = examined(database)
        descends = {"org/grandchild"} if late != "org/root" else {name for name in MODELS if name.startswith("org")}
        assert {late} | descends <= again
        assert "else/where" not in again
        parents = {(row.child, row.parent) for row in database.lineage() if row.verdict == "derived"}
        assert {(child, late) for child in descends - {late}} <= parents


@pytest.mark.parametrize("stopped_after", [1, 4, 7])
def test_a_killed_refresh_goes_on_to_the_same_tables(
    folder: Path, tmp_path: Path, stopped_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with provenance.open(tmp_path / "whole", create=True) as database:
        arrive(database, folder, MODELS)
        examined(database)
        wanted = claims(database)
    with provenance.open(tmp_path / "killed", create=True) as database:
        database.crawl([folder])
        monkeypatch.setattr(refresh, "WRITE_SECONDS", 0.0)
        found = database.refresh_lineage()
        going = iter(found)
        first = {next(going) for _ in range(stopped_after)}
        assert found.total == len(MODELS)
        del going
    with provenance.open(tmp_path / "killed") as database:
        rest = set(database.refresh_lineage())
        assert len(first | rest) == len(MODELS) > len(rest)
        assert claims(database) == wanted
        assert database.store.verify() == []
