"""What the store holds, and what is known of one model: figures, no claims."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.dossier import Dossier
from query.analytics import as_rows, run_sql
from schemas.roles import ROLES

if TYPE_CHECKING:
    import duckdb

FORMAT = 1
"""Version of the JSON objects of `provenance status` and `show`."""

_STORE = """
select count(*) as checkpoints, count(distinct repo_id) as repos, coalesce(sum(bytes_read), 0)::bigint as bytes_read,
       coalesce(sum(total_bytes), 0)::bigint as bytes_of_weights, count(*) filter (adapter) as adapters
from latest_checkpoints
"""
_RUNS = """
select run_id, started_at, finished_at, listed, fingerprinted, skipped, failed, bytes_read, api_requests,
       resolve_requests, range_requests
from runs
qualify row_number() over (partition by run_id order by finished_at desc nulls last) = 1
order by started_at desc
limit 5
"""
_REASONS = """
select status, stage, error, count(*) as n, any_value(message) as example
from outcomes
where run_id = (select max(run_id) from runs) and status <> 'done'
group by all
order by n desc, error
limit 20
"""
_UNRESOLVED = """
select coalesce(model_type, '(none)') as model_type, count(*) as checkpoints, any_value(repo_id) as example,
       any_value(notes) as notes
from latest_checkpoints
where not adapter and coalesce(n_layers, 0) = 0
group by all
order by checkpoints desc
limit 20
"""
_ROLES = """
select stack, role, count(*) as tensors, count(distinct layer) as layers, sum(n_elements)::bigint as elements,
       sum(n_read)::bigint as read, avg(std) as mean_std
from tensors
where fingerprint_id = ?
group by stack, role
order by stack <> 'main', stack, role = 'other', role
"""


def status(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Figures of the store, its last runs, reasons of what failed in the last one, and model types without roles."""
    return {
        "format": FORMAT,
        "store": _rows(connection, _STORE)[0],
        "runs": _rows(connection, _RUNS),
        "reasons": _rows(connection, _REASONS),
        "unresolved": _rows(connection, _UNRESOLVED),
    }


def describe(dossier: Dossier, connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Metadata, roles and curves of one checkpoint, stored or not; see `docs/json.md`.

    Values of a curve that were not measured are null.
    """
    model = {k: v for k, v in dossier.meta.items() if k not in ("fingerprint_id", "sha256")}
    names = ("stack", "role", "tensors", "layers", "elements", "read", "mean_std")
    if dossier.meta["fingerprint_id"] is None:
        roles = _roles_in_memory(dossier)
    else:
        rows = connection.execute(_ROLES, [dossier.meta["fingerprint_id"]]).fetchall()
        roles = [dict(zip(names, row, strict=True)) for row in rows]
    curves = {
        statistic: {
            role: [float(x) if np.isfinite(x) else None for x in curve]
            for role, curve in dossier.curves(statistic).items()
        }
        for statistic in ("std", "skewness", "kurtosis")
    }
    return {"format": FORMAT, "model": model, "roles": roles, "curves": curves}


def _rows(connection: duckdb.DuckDBPyConnection, statement: str) -> list[dict[str, Any]]:
    return as_rows(run_sql(connection, statement)[0])


def _roles_in_memory(dossier: Dossier) -> list[dict[str, Any]]:
    facts = dossier.facts
    rows = []
    for code in np.unique(facts["role"]):
        own = facts[facts["role"] == code]
        elements = own["rows"].astype(np.int64) * np.maximum(own["columns"], 1)
        rows.append(
            {
                "stack": "main",
                "role": ROLES[code],
                "tensors": len(own),
                "layers": len(np.unique(own["layer"])),
                "elements": int(elements.sum()),
                "read": None,
                "mean_std": float(np.nanmean(own["std"])) if np.isfinite(own["std"]).any() else None,
            }
        )
    return rows
