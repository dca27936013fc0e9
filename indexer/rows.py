"""Fingerprints as rows of the store's tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from schemas.records import Fingerprint


def fingerprint_rows(fingerprints: Iterable[Fingerprint], run_id: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of `checkpoints`, `files`, `tensors` and `samples`, tied together by one `fingerprint_id` each.

    The id is new in every run, so that rows which a killed run left behind never join a later run's checkpoint.
    """
    batch: dict[str, list[dict[str, Any]]] = {"files": [], "tensors": [], "samples": [], "checkpoints": []}
    for found in fingerprints:
        row = found.checkpoint
        identity = f"{row['checkpoint_id']}|{row['mode']}|{row['fingerprint_version']}|{run_id}"
        keys = {
            "fingerprint_id": hashlib.sha256(identity.encode()).hexdigest()[:20],
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
