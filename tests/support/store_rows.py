"""Small rows for stores in tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from provenance.schemas.tables import from_rows, schema

NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)

_ENTRY = {"stack": "main", "role": "q", "layer": 3, "expert": None, "shape": [4, 4], "offset": 0, "count": 2}


def example(kind: pa.DataType) -> Any:
    """Some value of an Arrow type."""
    if pa.types.is_string(kind):
        return "naïve 'text'"
    if pa.types.is_integer(kind):
        return 7
    if pa.types.is_floating(kind):
        return -1.5
    if pa.types.is_boolean(kind):
        return True
    if pa.types.is_timestamp(kind):
        return NOW
    if pa.types.is_binary(kind):
        return b"\x00\xff"
    if pa.types.is_list(kind):
        return [example(kind.value_type)] * 2
    if pa.types.is_struct(kind):
        return {field.name: example(field.type) for field in kind}
    raise AssertionError(kind)


def full_and_null(table: str) -> pa.Table:
    """Two rows of a table: one with a value in every column, one of nulls."""
    return from_rows(table, [{field.name: example(field.type) for field in schema(table)}, {}])


def fingerprint(number: int, n_tensors: int = 3, **checkpoint: Any) -> dict[str, pa.Table]:
    """The rows of one valid fingerprint, for one commit."""
    key = {"fingerprint_id": f"f{number}", "checkpoint_id": f"org/model-{number}@{number:012x}"}
    row = {"repo_id": f"org/model-{number}", "revision": f"{number:012x}", "mode": "sampled", "fingerprint_version": 1}
    entries = [{**_ENTRY, "exponent": -3}]
    return {
        "files": from_rows("files", [{**key, "path": "model.safetensors", "size": 10}]),
        "tensors": from_rows("tensors", [{**key, "name": f"t{i}", "shape": [4, 4]} for i in range(n_tensors)]),
        "samples": from_rows("samples", [{**key, "entries": entries, "data": b"\x00<\x00<"}]),
        "products": from_rows("products", [{**key, "spec": "products-v1"}]),
        "checkpoints": from_rows("checkpoints", [{**key, **row, "n_tensors": n_tensors, **checkpoint}]),
    }
