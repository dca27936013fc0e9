"""Bringing the lineage table up to date with the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from query.engine import Answer
from query.lineage import lineage_rows, verdict_row
from schemas import tables

if TYPE_CHECKING:
    from indexer.dossier import Dossier
    from indexer.store import Store


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
    if examined or len(kept) < len(known):
        rows.sort(key=lambda row: (row["child"], row["rank"] or 0, row["parent"]))
        verdicts.sort(key=lambda row: row["checkpoint_id"])
        store.replace("lineage", tables.from_rows("lineage", rows))
        store.replace("verdicts", tables.from_rows("verdicts", verdicts))
        store.write_views()
