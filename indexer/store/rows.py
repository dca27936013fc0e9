"""Fingerprints as rows of the store's tables, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from provenance.indexer.store.store import Store
from provenance.schemas.errors import StoreError
from provenance.schemas.records import Fingerprint, SampleEntry, WeightSample
from provenance.schemas.tables import schema


def fingerprint_rows(fingerprints: Iterable[Fingerprint], run_id: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of `checkpoints`, `files`, `tensors` and `samples`, tied together by one `fingerprint_id` each.

    The id is new in every run, so that rows which a killed run left behind never join a later run's checkpoint. It
    begins with the time, so that those of a few checkpoints lie together and can be found among millions.
    """
    batch: dict[str, list[dict[str, Any]]] = {"files": [], "tensors": [], "samples": [], "checkpoints": []}
    for found in fingerprints:
        row = found.checkpoint
        identity = f"{row['checkpoint_id']}|{row['mode']}|{row['fingerprint_version']}|{run_id}"
        digest = hashlib.sha256(identity.encode()).hexdigest()
        keys = {
            "fingerprint_id": f"{int(row['fingerprinted_at'].timestamp()):08x}{digest[:20]}",
            "checkpoint_id": row["checkpoint_id"],
        }
        batch["files"] += [{**keys, **file} for file in found.files]
        batch["tensors"] += [{**keys, **tensor} for tensor in found.tensors]
        entries = [{name: getattr(e, name) for name in type(e).__slots__} for e in found.sample.entries]
        batch["samples"].append(
            {
                **keys,
                "sample_version": found.sample.version,
                "entries": entries,
                "data": found.sample.values.astype("<f2").tobytes(),
            }
        )
        batch["checkpoints"].append({**row, **keys})
    return batch


def stored_fingerprint(store: Store, fingerprint_id: str) -> Fingerprint:
    """A fingerprint as it was before it was stored. Of every table only the parts that may hold it are read.

    Raises:
        StoreError: there is none with this id.
    """
    import pyarrow.dataset as ds

    manifest = store.manifest()

    def rows(table: str) -> list[dict[str, Any]]:
        paths = [str(store.path / part.path) for part in manifest.parts[table]]
        parts = ds.dataset(paths, schema=schema(table), format="parquet")
        found: list[dict[str, Any]] = parts.to_table(filter=ds.field("fingerprint_id") == fingerprint_id).to_pylist()
        return found

    checkpoints, samples = rows("checkpoints"), rows("samples")
    if not checkpoints or not samples:
        raise StoreError(f"{store.path}: there is no fingerprint {fingerprint_id}")
    (sample,) = samples
    keys = ("fingerprint_id", "checkpoint_id")
    files, tensors = (
        tuple({name: value for name, value in row.items() if name not in keys} for row in rows(table))
        for table in ("files", "tensors")
    )
    entries = tuple(SampleEntry(**{**entry, "shape": tuple(entry["shape"])}) for entry in sample["entries"])
    values = np.frombuffer(sample["data"], dtype="<f2")
    return Fingerprint(checkpoints[0], files, tensors, WeightSample(sample["sample_version"], entries, values))
