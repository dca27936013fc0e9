"""Statistics of a store, its last crawls, and new checkpoints; no claims."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from provenance.query.analytics import run_sql
from provenance.query.catalogue import Catalogue
from provenance.schemas.errors import ProvenanceError
from provenance.schemas.figures import (
    Arrival,
    BudgetFigures,
    QuantizationFigures,
    ReasonFigures,
    RunFigures,
    StoreFigures,
    StoreStatus,
    UnresolvedFigures,
)
from provenance.schemas.tabular import Rows

if TYPE_CHECKING:
    import duckdb

    from provenance.indexer.store.store import Store

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
    -- A run that was killed or is still running has no final row: its visits are counted instead.
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
_UNRESOLVED = """
select coalesce(model_type, '(none)') as model_type, count(*) as checkpoints, any_value(repo_id) as example,
       any_value(notes) as notes
from latest_checkpoints
where not adapter and coalesce(n_layers, 0) = 0
group by all
order by checkpoints desc
limit 20
"""
_QUANTIZATION = """
select quantization as method, count(*) as checkpoints, count(*) filter (coalesce(n_layers, 0) = 0) as unread,
       min(repo_id) as example
from latest_checkpoints
where quantization is not null
group by all
order by checkpoints desc, method
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


def status(store: Store, catalogue: Catalogue) -> StoreStatus:
    """Statistics of the store, its last runs, failures of the last one, model types without roles, and packings."""
    manifest = store.manifest()
    with store.connect(manifest) as connection:
        (figures,) = _rows(connection, _STORE)
        runs = [row | {"budgets": _budgets(row)} for row in _rows(connection, _RUNS)]
        reasons, unresolved = _rows(connection, _REASONS), _rows(connection, _UNRESOLVED)
        quantization = _rows(connection, _QUANTIZATION)
    figures |= {
        "path": str(store.path),
        "unindexed": len(catalogue.unindexed),
        "generation": catalogue.generation.name if catalogue.generation else None,
        "bytes_on_disk": sum(part.bytes for parts in manifest.parts.values() for part in parts),
    }
    return StoreStatus(
        StoreFigures.from_row(figures),
        Rows(RunFigures, map(RunFigures.from_row, runs)),
        Rows(ReasonFigures, map(ReasonFigures.from_row, reasons)),
        Rows(UnresolvedFigures, map(UnresolvedFigures.from_row, unresolved)),
        Rows(QuantizationFigures, map(QuantizationFigures.from_row, quantization)),
    )


def arrivals(connection: duckdb.DuckDBPyConnection, since: str) -> Rows[Arrival]:
    """Checkpoints fingerprinted since a date or time (ISO 8601, UTC without an offset) or the start of a run.

    Args:
        connection: has the views.
        since: the time, the id of a run, or `last` for the last run.

    Returns:
        the checkpoints, oldest first.

    Raises:
        ProvenanceError: `since` is none of these.
    """
    # Through Arrow: DuckDB needs another package to return times with a time zone as Python values.
    started = connection.sql(_STARTED, params={"run": since}).to_arrow_table()["started_at"][0].as_py()
    try:
        time = started or datetime.fromisoformat(since)
    except ValueError:
        raise ProvenanceError(
            f"{since!r} is neither a date or time (2026-11-20, 2026-11-20T06:30), nor a run of this store; "
            "`provenance status` lists the last runs"
        ) from None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    rows = connection.sql(_ARRIVALS, params={"since": time}).to_arrow_table().to_pylist()
    return Rows(Arrival, map(Arrival.from_row, rows))


def _rows(connection: duckdb.DuckDBPyConnection, statement: str) -> list[dict[str, Any]]:
    return run_sql(connection, statement).rows()


def _budgets(run: Mapping[str, Any]) -> dict[str, BudgetFigures] | None:
    """The hub's rate limits during a run, by resource: requests per window, seconds per window, and fraction used.

    Null if the hub reported none. The fraction is null until the run has ended.
    """
    budgets = json.loads(run["budgets"] or "{}")
    spent = {"api": run["api_requests"], "resolvers": run["resolve_requests"]}
    figures = {}
    for resource, budget in budgets.items():
        quota, window, share = budget["quota"], budget["window"], None
        if quota and window and run["finished_at"] and spent.get(resource) is not None:
            seconds = (run["finished_at"] - run["started_at"]).total_seconds()
            share = round(spent[resource] / (quota * max(1.0, seconds / window)), 3)
        figures[resource] = BudgetFigures(quota, window, share)
    return figures or None
