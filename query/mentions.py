"""Mentions of a repo in a store, including failed visits and declarations in cards."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

_MENTIONS = """
with mentions as (
    select repo_id, checkpoint_id, fingerprinted_at as time from checkpoints
    union all select repo_id, null, "at" from outcomes
    union all select repo_id, null, examined_at from verdicts
    union all select unnest([child, parent]), null, detected_at from lineage
)
select repo_id, count(checkpoint_id) as checkpoints, max(time) as newest
from mentions where list_contains($repos, repo_id) group by repo_id
"""


def mentions(connection: duckdb.DuckDBPyConnection, repos: Collection[str]) -> dict[str, tuple[int, datetime | None]]:
    """For each repo that the store mentions: the number of checkpoints, and the time of the newest row."""
    rows = connection.sql(_MENTIONS, params={"repos": list(repos)}).to_arrow_table().to_pylist()
    return {row["repo_id"]: (row["checkpoints"], row["newest"]) for row in rows}
