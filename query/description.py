"""Description of one model, stored or not: metadata and statistics, no claims."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from provenance.indexer.dossier import Dossier
from provenance.query.unread import crawl_notes, notes_of
from provenance.schemas.results import ModelDescription, ModelMetadata, Note, RoleFigures
from provenance.schemas.roles import MAIN_STACK, ROLES
from provenance.schemas.tabular import Rows

if TYPE_CHECKING:
    import duckdb

_ROLES = """
select stack, role, count(*) as tensors, count(distinct layer) as layers, sum(n_elements)::bigint as elements,
       sum(n_read)::bigint as read, avg(std) as mean_std
from tensors
where fingerprint_id = ?
group by stack, role
order by stack <> 'main', stack, role = 'other', role
"""


def describe(dossier: Dossier, connection: duckdb.DuckDBPyConnection) -> ModelDescription:
    """Metadata, roles and curves of one checkpoint, stored or not."""
    if dossier.meta.fingerprint_id is None:
        roles = _roles_in_memory(dossier)
    else:
        rows = connection.execute(_ROLES, [dossier.meta.fingerprint_id]).fetchall()
        roles = [RoleFigures(*row) for row in rows]
    curves = {
        statistic: {
            role: tuple(float(x) if np.isfinite(x) else None for x in curve)
            for role, curve in dossier.curves(statistic).items()
        }
        for statistic in ("std", "skewness", "kurtosis")
    }
    model = ModelMetadata.from_attributes(dossier.meta)
    notes = [*notes_of(dossier), *crawl_notes(dossier.meta)]
    return ModelDescription(model, Rows(RoleFigures, roles), curves, Rows(Note, notes))


def _roles_in_memory(dossier: Dossier) -> list[RoleFigures]:
    facts = dossier.facts
    rows = []
    for code in np.unique(facts["role"]):
        own = facts[facts["role"] == code]
        elements = own["rows"].astype(np.int64) * np.maximum(own["columns"], 1)
        rows.append(
            RoleFigures(
                stack=MAIN_STACK,
                role=ROLES[code],
                tensors=len(own),
                layers=len(np.unique(own["layer"])),
                elements=int(elements.sum()),
                read=None,
                mean_std=float(np.nanmean(own["std"])) if np.isfinite(own["std"]).any() else None,
            )
        )
    return rows
