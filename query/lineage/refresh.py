"""Update the lineage table from the store."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from provenance.query.catalogue import Catalogue
from provenance.query.engine import judge
from provenance.query.lineage.rows import lineage_rows, verdict_row
from provenance.query.verdict.rule import Assessment
from provenance.schemas import tables
from provenance.schemas.enums import Direction
from provenance.schemas.lineage import LineageRow, VerdictRow
from provenance.schemas.tabular import Rows

if TYPE_CHECKING:
    from provenance.indexer.dossier import Dossier
    from provenance.indexer.store.store import Store

WRITE_SECONDS = 300.0
"""What was examined is written this often: a refresh that is killed goes on from there."""


class LineageRefresh:
    """Examines new checkpoints and what may descend from them, and updates `lineage` and `verdicts`.

    Iterate over it to do so; it yields the checkpoint id of each model after its examination.

    Attributes:
        total: models examined and waiting; it grows while new ones are found to be the ancestors of others.
    """

    def __init__(self, store: Store, catalogue: Catalogue) -> None:
        """Find what is new in a store.

        Args:
            store: the store.
            catalogue: its checkpoints.
        """
        self._store, self._catalogue = store, catalogue
        dossiers = catalogue.dossiers()
        self._by_repo = {d.repo_id: d for d in dossiers}
        self._current = pa.array([d.checkpoint_id for d in dossiers], pa.string())
        self._fingerprints = pa.array([d.meta.fingerprint_id for d in dossiers], pa.string())
        known = set(store.read("verdicts", ["fingerprint_id"])["fingerprint_id"].to_pylist())
        self._queue = [d for d in dossiers if d.meta.fingerprint_id not in known]
        self._seen = {d.checkpoint_id for d in self._queue}
        self._new = frozenset(self._seen)
        self.total = len(self._queue)
        self._rows: list[LineageRow] = []
        self._verdicts: list[VerdictRow] = []

    def __iter__(self) -> Iterator[str]:
        written = time.monotonic()
        while self._queue:
            dossier = self._queue.pop()
            self._examine(dossier)
            if not self._queue or time.monotonic() - written > WRITE_SECONDS:
                self._write()
                written = time.monotonic()
            yield dossier.checkpoint_id
        if self.total:
            self._store.write_views()

    def _examine(self, dossier: Dossier) -> None:
        judgement = judge(dossier, self._catalogue)
        now = datetime.now(UTC)
        self._rows += lineage_rows(judgement, now)
        self._verdicts.append(verdict_row(judgement, now))
        if dossier.checkpoint_id in self._new:
            for candidate in judgement.candidates:
                other = self._by_repo[candidate.repo_id]
                # A card that names the arrival is judged anew, whatever the weights say.
                concerned = may_descend(candidate) or candidate.meta.declares(dossier.repo_id)
                if concerned and other.checkpoint_id not in self._seen:
                    self._seen.add(other.checkpoint_id)
                    self._queue.append(other)
                    self.total += 1

    def _write(self) -> None:
        """Put what was examined in the place of what was said of the same models.

        Models that wait have no verdict until they are examined, so that a killed refresh does not forget them.
        """
        rows, verdicts = _without_forgotten(self._store, self._rows, self._verdicts)
        replaced = pa.array([row.checkpoint_id for row in self._verdicts], pa.string())
        waiting = pa.array([dossier.checkpoint_id for dossier in self._queue], pa.string())
        lineage, known = self._store.read("lineage"), self._store.read("verdicts")
        child = lineage["child_id"]
        lineage = lineage.filter(pc.and_(_in(child, self._current), pc.invert(_in(child, replaced))))
        known = known.filter(_in(known["fingerprint_id"], self._fingerprints))
        known = known.filter(pc.invert(_in(known["checkpoint_id"], pa.concat_arrays([replaced, waiting]))))
        new_rows = Rows(LineageRow, rows).to_arrow().cast(tables.schema("lineage"))
        new_verdicts = Rows(VerdictRow, verdicts).to_arrow().cast(tables.schema("verdicts"))
        order = [("child", "ascending"), ("rank", "ascending"), ("parent", "ascending")]
        lineage = pa.concat_tables([lineage, new_rows])
        # A parent that only a card names has no rank, and comes first.
        keys = pa.table(
            {name: pc.fill_null(lineage[name], 0) if name == "rank" else lineage[name] for name, _ in order}
        )
        self._store.replace("lineage", lineage.take(pc.sort_indices(keys, order)))
        self._store.replace("verdicts", pa.concat_tables([known, new_verdicts]).sort_by("checkpoint_id"))
        self._rows, self._verdicts = [], []


def may_descend(candidate: Assessment) -> bool:
    """Whether a candidate of a new model may have it as an ancestor.

    The table holds what each model descends from. So an arrival changes what is said of its descendants, and of those
    relatives whose direction is open; a sibling among thousands, or an ancestor, keeps its rows.
    """
    if candidate.disguised and candidate.date_order > 0:
        return candidate.direction is Direction.CHILD
    return candidate.is_relative and candidate.direction in (Direction.CHILD, Direction.UNKNOWN)


def _in(values: pa.ChunkedArray, some: pa.Array) -> pa.ChunkedArray:
    return pc.is_in(values, value_set=some)


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
