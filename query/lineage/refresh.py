"""Update the lineage table from the store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from provenance.query.catalogue import Catalogue
from provenance.query.engine import judge
from provenance.query.lineage.rows import lineage_rows, verdict_row
from provenance.schemas import tables
from provenance.schemas.results import LineageRow, VerdictRow
from provenance.schemas.tabular import Record, Rows

R = TypeVar("R", bound=Record)

if TYPE_CHECKING:
    from provenance.indexer.store.store import Store
    from provenance.schemas.protocols import Advance


def refresh_lineage(store: Store, catalogue: Catalogue, advance: Advance | None = None) -> Iterator[str]:
    """Examine new checkpoints and their relatives, and replace `lineage` and `verdicts`.

    Args:
        store: the store.
        catalogue: its checkpoints.
        advance: told of every model after its examination; the number of all grows while relatives are found.

    Yields:
        the checkpoint id of each model after its examination.
    """
    dossiers = catalogue.dossiers()
    current = {d.meta.fingerprint_id: d for d in dossiers}
    by_repo = {d.repo_id: d for d in dossiers}
    kept = [row for row in _stored(store, "verdicts", VerdictRow) if row.fingerprint_id in current]
    known = {row.fingerprint_id for row in kept}
    rows: list[LineageRow] = []
    verdicts: list[VerdictRow] = []
    examined: set[str | None] = set()
    queue = [d for key, d in current.items() if key not in known]
    new_repos = {d.repo_id for d in queue}
    while queue:
        dossier = queue.pop()
        if dossier.meta.fingerprint_id in examined:
            continue
        examined.add(dossier.meta.fingerprint_id)
        judgement = judge(dossier, catalogue)
        now = datetime.now(UTC)
        rows += lineage_rows(judgement, now)
        verdicts.append(verdict_row(judgement, now))
        if dossier.repo_id in new_repos:
            # A relative of a new checkpoint may have a new parent or sibling.
            queue += [by_repo[c.repo_id] for c in judgement.candidates if c.is_relative]
        if advance:
            waiting = {d.meta.fingerprint_id for d in queue} - examined
            advance(len(examined), len(examined) + len(waiting))
        yield dossier.checkpoint_id
    replaced = {row.checkpoint_id for row in verdicts}
    unchanged = {d.checkpoint_id for d in dossiers} - replaced
    rows += [row for row in _stored(store, "lineage", LineageRow) if row.child_id in unchanged]
    verdicts += [row for row in kept if row.checkpoint_id not in replaced]
    if examined:
        rows, verdicts = _without_forgotten(store, rows, verdicts)
        rows.sort(key=lambda row: (row.child, row.rank or 0, row.parent))
        verdicts.sort(key=lambda row: row.checkpoint_id)
        store.replace("lineage", Rows(LineageRow, rows).to_arrow().cast(tables.schema("lineage")))
        store.replace("verdicts", Rows(VerdictRow, verdicts).to_arrow().cast(tables.schema("verdicts")))
        store.write_views()


def invalidate_verdicts(store: Store, parents: Collection[str]) -> None:
    """Drop the verdicts about all children of some parents, so that the next refresh examines these again.

    Args:
        parents: repo ids.
    """
    lineage, verdicts = store.read("lineage", ["child_id", "parent"]), store.read("verdicts")
    children = lineage.filter(pc.is_in(lineage["parent"], value_set=pa.array(parents, pa.string())))["child_id"]
    invalid = pc.is_in(verdicts["checkpoint_id"], value_set=children.combine_chunks())
    if pc.any(invalid).as_py():
        store.replace("verdicts", verdicts.filter(pc.invert(invalid)))


def _stored(store: Store, table: str, kind: type[R]) -> list[R]:
    """The rows of a table."""
    return [kind.from_row(row) for row in store.read(table).to_pylist()]


def _without_forgotten(
    store: Store, rows: Sequence[LineageRow], verdicts: Sequence[VerdictRow]
) -> tuple[list[LineageRow], list[VerdictRow]]:
    """The rows of `lineage` and `verdicts` without those that would name a forgotten repo again.

    A card may declare a forgotten repo as parent. A repo that was forgotten during the refresh was compared with
    others: their verdicts are dropped too.
    """
    forgotten = set(store.tombstones())
    if forgotten:
        forgotten -= set(store.read("checkpoints", ["repo_id"])["repo_id"].to_pylist())  # crawled again since
    dropped = [row for row in rows if row.child in forgotten or row.parent in forgotten]
    invalid = {row.child_id for row in dropped if row.parent_id}
    return (
        [row for row in rows if row.child not in forgotten and row.parent not in forgotten],
        [row for row in verdicts if row.repo_id not in forgotten and row.checkpoint_id not in invalid],
    )
