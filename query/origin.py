"""Where a stored checkpoint was read, and so where it may be read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provenance.schemas.enums import Source

if TYPE_CHECKING:
    import duckdb

_ORIGIN = """
select source, (select max(resolved_revision) from files where files.fingerprint_id = checkpoints.fingerprint_id)
from checkpoints where fingerprint_id = ?
"""


def origin(connection: duckdb.DuckDBPyConnection, fingerprint_id: str) -> tuple[Source, str | None]:
    """Its source, and the whole commit where one is known."""
    found = connection.execute(_ORIGIN, [fingerprint_id]).fetchone()
    return (Source.LOCAL, None) if found is None else (Source(found[0]), found[1])
