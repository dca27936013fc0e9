"""`query` and `compare` say the same of every pair, and so does the lineage table."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import provenance
from tests.support.command_line import MINIATURE


def test_query_and_compare_never_disagree(store: Path) -> None:
    with provenance.open(store) as database:
        repos = [dossier.repo_id for dossier in database.catalogue.dossiers()]
        said = {
            (repo, candidate.repo_id): (candidate.verdict, candidate.direction, candidate.relation)
            for repo in repos
            for candidate in database.query(repo, k=len(repos)).candidates
        }
        assert said.keys() == set(permutations(repos, 2))
        for (model, candidate), claim in said.items():
            pair = database.compare(model, candidate)
            assert (pair.verdict, pair.direction, pair.relation) == claim, (model, candidate)


def test_the_lineage_table_holds_what_query_says(tmp_path: Path) -> None:
    with provenance.open(tmp_path / "store", create=True) as database:
        database.crawl([MINIATURE])
        list(database.refresh_lineage())
        rows = [row for row in database.lineage() if row.verdict is not None]
        assert rows
        for row in rows:
            answer = database.query(row.child, k=50)
            candidate = next(one for one in answer.candidates if one.repo_id == row.parent)
            assert (row.verdict, row.direction, row.relation) == (
                candidate.verdict,
                candidate.direction,
                candidate.relation,
            )
