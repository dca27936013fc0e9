"""Bringing the lineage table up to date with the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from provenance.query.engine import Answer
from provenance.query.lineage.graph import lineage_rows, verdict_row
from provenance.schemas import tables

if TYPE_CHECKING:
    from provenance.indexer.dossier import Dossier
    from provenance.indexer.store.store import Store

_Rows = list[dict[str, Any]]


def refresh_lineage(store: Store, dossiers: Sequence[Dossier], answer: Callable[[Dossier], Answer]) -> Iterator[str]:
    """Examine new checkpoints and their relatives, and replace `lineage` and `verdicts`.

    Args:
        store: the store.
        dossiers: all latest checkpoints.
        answer: gives the answer about one of them.

    Yields:
        the checkpoint id of each model as it has been examined.
    """
    current = {d.meta["fingerprint_id"]: d for d in dossiers}
    by_repo = {d.repo_id: d for d in dossiers}
    kept = [row for row in store.read("verdicts").to_pylist() if row["fingerprint_id"] in current]
    known = {row["fingerprint_id"] for row in kept}
    rows: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    examined: set[str] = set()
    queue = [d for key, d in current.items() if key not in known]
    arrived = {d.repo_id for d in queue}
    while queue:
        dossier = queue.pop()
        if dossier.meta["fingerprint_id"] in examined:
            continue
        examined.add(dossier.meta["fingerprint_id"])
        found = answer(dossier)
        now = datetime.now(UTC)
        rows += lineage_rows(found, now)
        verdicts.append(verdict_row(found, now))
        if dossier.repo_id in arrived:
            # What an arrival is related to may have got a new parent or a new sibling by it.
            queue += [by_repo[c.repo_id] for c in found.candidates if c.verdict in ("derived", "related")]
        yield dossier.checkpoint_id
    again = {row["checkpoint_id"] for row in verdicts}
    stored = {d.checkpoint_id for d in dossiers}
    rows += [r for r in store.read("lineage").to_pylist() if r["child_id"] in stored and r["child_id"] not in again]
    verdicts += [row for row in kept if row["checkpoint_id"] not in again]
    if examined:
        rows, verdicts = _without_forgotten(store, rows, verdicts)
        rows.sort(key=lambda row: (row["child"], row["rank"] or 0, row["parent"]))
        verdicts.sort(key=lambda row: row["checkpoint_id"])
        store.replace("lineage", tables.from_rows("lineage", rows))
        store.replace("verdicts", tables.from_rows("verdicts", verdicts))
        store.write_views()


def unsettle(store: Store, parents: Collection[str]) -> None:
    """Drop the verdicts about all checkpoints whose lineage names some parents: the next refresh examines them again.

    Args:
        parents: repo ids.
    """
    lineage, verdicts = store.read("lineage", ["child_id", "parent"]), store.read("verdicts")
    children = lineage.filter(pc.is_in(lineage["parent"], value_set=pa.array(parents, pa.string())))["child_id"]
    unsettled = pc.is_in(verdicts["checkpoint_id"], value_set=children.combine_chunks())
    if pc.any(unsettled).as_py():
        store.replace("verdicts", verdicts.filter(pc.invert(unsettled)))


def _without_forgotten(store: Store, rows: _Rows, verdicts: _Rows) -> tuple[_Rows, _Rows]:
    """Rows of `lineage` and `verdicts` but for those that would name a forgotten repo anew.

    A card may declare one as parent. One that was forgotten while it was examined was compared with others: these lose
    their verdict too.
    """
    forgotten = set(store.tombstones())
    if forgotten:
        forgotten -= set(store.read("checkpoints", ["repo_id"])["repo_id"].to_pylist())  # those that came back
    gone = [row for row in rows if row["child"] in forgotten or row["parent"] in forgotten]
    unsettled = {row["child_id"] for row in gone if row.get("parent_id")}
    return (
        [row for row in rows if row["child"] not in forgotten and row["parent"] not in forgotten],
        [row for row in verdicts if row["repo_id"] not in forgotten and row["checkpoint_id"] not in unsettled],
    )
