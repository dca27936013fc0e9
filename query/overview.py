"""What the store holds, and what is known of one model: figures, no claims."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from provenance.indexer.dossier import Dossier
from provenance.query.analytics import as_rows, run_sql
from provenance.schemas.errors import ProvenanceError
from provenance.schemas.roles import ROLES

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

FORMAT = 1
"""Version of the JSON objects of `provenance status` and `show`."""

_STORE = """
select count(*) as checkpoints, count(distinct repo_id) as repos, coalesce(sum(bytes_read), 0)::bigint as bytes_read,
       coalesce(sum(total_bytes), 0)::bigint as bytes_of_weights, count(*) filter (adapter) as adapters
from latest_checkpoints
"""
_RUNS = """
with latest as (
    from runs
    qualify row_number() over (partition by run_id order by finished_at desc nulls last) = 1
    order by started_at desc
    limit 5
), visits as (
    -- A run that was killed, or that still goes on, has no row from its end: its visits are counted instead.
    select run_id, count(*) as listed, count(*) filter (status = 'done') as fingerprinted,
           count(*) filter (status = 'skipped') as skipped, count(*) filter (status = 'failed') as failed,
           sum(bytes_read)::bigint as bytes_read, sum(requests)::bigint as range_requests, max("at") as last
    from outcomes
    where run_id in (select run_id from latest where finished_at is null)
    group by run_id
)
select run_id, started_at, finished_at, greatest(latest.listed, visits.listed) as listed,
       coalesce(visits.fingerprinted, latest.fingerprinted) as fingerprinted,
       coalesce(visits.skipped, latest.skipped) as skipped, coalesce(visits.failed, latest.failed) as failed,
       round(coalesce(visits.fingerprinted, latest.fingerprinted) * 3600
             / nullif(epoch(coalesce(finished_at, visits.last)) - epoch(started_at), 0), 1) as rate,
       coalesce(visits.bytes_read, latest.bytes_read) as bytes_read, api_requests, resolve_requests,
       coalesce(visits.range_requests, latest.range_requests) as range_requests, waited, budgets, stopped
from latest left join visits using (run_id)
order by started_at desc
"""
_REASONS = """
select status, stage, error, reason, count(*) as n, any_value(message) as example
from outcomes
where run_id = (select max(run_id) from runs) and status <> 'done'
group by all
order by n desc, error, reason
limit 20
"""
_STARTED = """
select min(started_at) as started_at from runs
where run_id = case when $run = 'last' then (select max(run_id) from runs) else $run end
"""
_ARRIVALS = """
select checkpoint_id, model_type, n_parameters, declared_parents, license, fingerprinted_at
from checkpoints
where fingerprinted_at >= $since
order by fingerprinted_at, checkpoint_id
"""
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
        "runs": [{**run, "budgets": _budgets(run)} for run in _rows(connection, _RUNS)],
        "reasons": _rows(connection, _REASONS),
        "unresolved": _rows(connection, _UNRESOLVED),
    }


def arrivals(connection: duckdb.DuckDBPyConnection, since: str) -> pa.Table:
    """Checkpoints fingerprinted since a date or time (ISO 8601, UTC unless it says otherwise) or the start of a run.

    Args:
        connection: one that has the views.
        since: the time, the id of a run, or `last` for the last run.

    Returns:
        one row a checkpoint, oldest first: `checkpoint_id`, `model_type`, `n_parameters`, `declared_parents`,
        `license`, `fingerprinted_at`.

    Raises:
        ProvenanceError: `since` is none of these.
    """
    # As Arrow: DuckDB needs a further package to hand out times of a time zone as Python values.
    found = connection.sql(_STARTED, params={"run": since}).to_arrow_table()["started_at"][0].as_py()
    try:
        time = found or datetime.fromisoformat(since)
    except ValueError as error:
        raise ProvenanceError(
            f"{since!r} is neither a date or time (2026-11-20, 2026-11-20T06:30), nor a run of this store; "
            "`provenance status` lists the last runs"
        ) from error
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return connection.sql(_ARRIVALS, params={"since": time}).to_arrow_table()


def mentions(connection: duckdb.DuckDBPyConnection, repos: Collection[str]) -> dict[str, tuple[int, datetime | None]]:
    """Of the repos that the store says anything of: the number of checkpoints, and the time of the newest row."""
    rows = connection.sql(_MENTIONS, params={"repos": list(repos)}).to_arrow_table().to_pylist()
    return {row["repo_id"]: (row["checkpoints"], row["newest"]) for row in rows}


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


def _budgets(run: Mapping[str, Any]) -> dict[str, dict[str, float | None]] | None:
    """The hub's budgets during a run, by resource: requests granted a window, its seconds, and the share used of them.

    Null where the hub reported none. The share is null while the run has not ended.
    """
    budgets = json.loads(run["budgets"] or "{}")
    spent = {"api": run["api_requests"], "resolvers": run["resolve_requests"]}
    found = {}
    for resource, budget in budgets.items():
        quota, window, share = budget["quota"], budget["window"], None
        if quota and window and run["finished_at"] and spent.get(resource) is not None:
            seconds = (run["finished_at"] - run["started_at"]).total_seconds()
            share = round(spent[resource] / (quota * max(1.0, seconds / window)), 3)
        found[resource] = {"quota": quota, "window": window, "share": share}
    return found or None


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
