"""The SQL of the views over a store's parts, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from provenance.indexer.store.tombstones import DATED, TOMBSTONES, not_forgotten
from provenance.schemas.tables import FINGERPRINT_TABLES, TABLES, schema

LATEST_CHECKPOINTS = """
WITH dated AS (
    -- A revision is as new as its newest row, so that a sampled and a later full fingerprint of it tie here.
    SELECT *, max(last_modified) OVER revision_rows AS modified, max(fingerprinted_at) OVER revision_rows AS visited
    FROM checkpoints
    WINDOW revision_rows AS (PARTITION BY repo_id, subfolder, variant, revision)
), best AS (
    SELECT fingerprint_id FROM dated
    QUALIFY row_number() OVER (
        PARTITION BY repo_id, subfolder, variant
        ORDER BY modified DESC NULLS LAST, visited DESC NULLS LAST, revision, mode = 'full' DESC NULLS LAST,
            fingerprint_version DESC NULLS LAST, fingerprinted_at DESC NULLS LAST, fingerprint_id
    ) = 1
)
SELECT * FROM checkpoints WHERE fingerprint_id IN (SELECT fingerprint_id FROM best)
"""
"""For every (repo_id, subfolder, variant), the best fingerprint of the newest revision."""

DESCENDANTS = """
WITH RECURSIVE edge AS (
    SELECT DISTINCT parent, child FROM lineage
    WHERE verdict = 'derived' AND (direction = 'parent' OR direction IS NULL) AND parent <> child
), walk(root, descendant, depth, path) USING KEY (root, descendant) AS (
    SELECT parent, child, 1, [parent, child] FROM edge
    UNION
    -- Breadth first, and no repo is reached twice from one root: this ends on cycles, and stays small if lineage
    -- contains grandparents too, where the number of distinct paths doubles with every generation.
    SELECT walk.root, edge.child, walk.depth + 1, min(list_append(walk.path, edge.child))
    FROM walk JOIN edge ON edge.parent = walk.descendant
    ANTI JOIN recurring.walk AS seen ON seen.root = walk.root AND seen.descendant = edge.child
    WHERE walk.depth < 50 AND edge.child <> walk.root
    GROUP BY walk.root, edge.child, walk.depth
)
SELECT root, descendant, depth, path FROM walk
"""
"""One row for every (root, descendant), both repo ids, with a shortest path from root to descendant."""

DERIVED: Mapping[str, str] = {"latest_checkpoints": LATEST_CHECKPOINTS, "descendants": DESCENDANTS}


_SQL_TYPES = {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.binary(): "BLOB"}


def parts_source(table: str, addresses: Sequence[str]) -> str:
    """A FROM item with the rows of the Parquet files of a table at `addresses`, of which there may be none."""
    if not addresses:
        columns = ", ".join(f'NULL::{_sql_type(field.type)} AS "{field.name}"' for field in schema(table))
        return f"(SELECT {columns} WHERE false)"
    names = ", ".join(_literal(address) for address in addresses)
    # A folder named `x=1` above the store must not become a column.
    return f"read_parquet([{names}], hive_partitioning = false)"


def view_statements(addresses: Mapping[str, Sequence[str]], *, tombstones: bool) -> list[str]:
    """The CREATE VIEW statements of all views, in the order of their dependencies.

    Args:
        addresses: addresses of the live parts of every table of `schemas.tables.TABLES`, for SQL.
        tombstones: whether there are any; without them the views are simpler.
    """
    statements = []
    for table in sorted(TABLES, key=lambda name: (name != TOMBSTONES, name in FINGERPRINT_TABLES)):
        source = parts_source(table, addresses[table])
        select = not_forgotten(table, source) if tombstones and table in DATED else f"SELECT * FROM {source}"
        if table in FINGERPRINT_TABLES:
            select += " WHERE fingerprint_id IN (SELECT fingerprint_id FROM checkpoints)"
        statements.append(f"CREATE VIEW {table} AS {select}")
    statements += [f"CREATE VIEW {name} AS {select}" for name, select in DERIVED.items()]
    return statements


def _sql_type(kind: pa.DataType) -> str:
    return f"{_sql_type(kind.value_type)}[]" if pa.types.is_list(kind) else _SQL_TYPES[kind]


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
