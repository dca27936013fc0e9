"""Convert fingerprints to rows of the store's tables, and back."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np

from provenance.indexer.store.store import Store
from provenance.schemas.enums import Mode, Source
from provenance.schemas.errors import StoreError
from provenance.schemas.products import ANCHORS, PRODUCTS_SPEC, ProductSketch
from provenance.schemas.records import CheckpointRow, Fingerprint, RepoFile, SampleEntry, TensorRow, WeightSample
from provenance.schemas.roles import ROLE_BY_NAME
from provenance.schemas.tables import schema

Row: TypeAlias = dict[str, Any]


class _Columns:
    """Converts records of one kind to rows field by field: `dataclasses.asdict` makes deep copies and is far slower."""

    def __init__(self, kind: type[CheckpointRow | RepoFile | TensorRow | SampleEntry]) -> None:
        self.names = tuple(field.name for field in fields(kind))
        self._values = attrgetter(*self.names)

    def rows(self, records: Iterable[object], keys: Mapping[str, str]) -> list[Row]:
        """A row for each record, with the key columns `keys` before the record's columns."""
        names, values = (*keys, *self.names), tuple(keys.values())
        return [dict(zip(names, values + self._values(record), strict=True)) for record in records]


_CHECKPOINT, _FILE, _TENSOR, _ENTRY = map(_Columns, (CheckpointRow, RepoFile, TensorRow, SampleEntry))


def fingerprint_rows(fingerprints: Iterable[Fingerprint], run_id: str) -> dict[str, list[Row]]:
    """Rows of `checkpoints`, `files`, `tensors`, `samples`, `products`, joined by one `fingerprint_id` a fingerprint.

    The id differs in every run, so that rows of a killed run never join a later run's checkpoint. It begins with the
    time, so that the rows of a few checkpoints are close together and can be found among millions.
    """
    batch: dict[str, list[Row]] = {"files": [], "tensors": [], "samples": [], "products": [], "checkpoints": []}
    for fingerprint in fingerprints:
        checkpoint, sample = fingerprint.checkpoint, fingerprint.sample
        identity = f"{checkpoint.checkpoint_id}|{checkpoint.mode}|{checkpoint.fingerprint_version}|{run_id}"
        digest = hashlib.sha256(identity.encode()).hexdigest()
        fingerprint_id = f"{int(checkpoint.fingerprinted_at.timestamp()):08x}{digest[:20]}"
        keys = {"fingerprint_id": fingerprint_id, "checkpoint_id": checkpoint.checkpoint_id}
        batch["files"] += _FILE.rows(fingerprint.files, keys)
        batch["tensors"] += _TENSOR.rows(fingerprint.tensors, keys)
        batch["samples"].append(
            {
                **keys,
                "sample_version": sample.version,
                "entries": _ENTRY.rows(sample.entries, {}),
                "data": sample.values.astype("<f2").tobytes(),
            }
        )
        if fingerprint.products is not None:
            batch["products"].append({**keys, **_products_row(fingerprint.products)})
        batch["checkpoints"] += _CHECKPOINT.rows([checkpoint], {"fingerprint_id": fingerprint_id})
    return batch


def stored_fingerprint(store: Store, fingerprint_id: str) -> Fingerprint:
    """Read a fingerprint back from the store. Of every table only the parts that may contain it are read.

    Raises:
        StoreError: there is none with this id, or it has a role, mode or source that this version does not know.
    """
    import pyarrow.dataset as ds

    manifest = store.manifest()

    def rows(table: str, columns: Sequence[str]) -> list[Row]:
        if not (paths := [str(store.path / part.path) for part in manifest.parts[table]]):
            return []
        parts = ds.dataset(paths, schema=schema(table), format="parquet")
        own: list[Row] = parts.to_table(list(columns), filter=ds.field("fingerprint_id") == fingerprint_id).to_pylist()
        return own

    checkpoints = rows("checkpoints", _CHECKPOINT.names)
    samples = rows("samples", ("sample_version", "entries", "data"))
    if not checkpoints or not samples:
        raise StoreError(f"{store.path}: there is no fingerprint {fingerprint_id}")
    (sample,), products = samples, rows("products", PRODUCT_COLUMNS)
    try:
        return Fingerprint(
            _checkpoint(checkpoints[0]),
            tuple(RepoFile(**row) for row in rows("files", _FILE.names)),
            tuple(TensorRow(**_typed(row)) for row in rows("tensors", _TENSOR.names)),
            WeightSample(
                sample["sample_version"],
                tuple(SampleEntry(**_typed(entry)) for entry in sample["entries"]),
                np.frombuffer(sample["data"], dtype="<f2"),
            ),
            product_sketch(products[0]) if products else None,
        )
    except (KeyError, ValueError) as error:
        raise StoreError(
            f"{store.path}: fingerprint {fingerprint_id} holds a word that this version does not know ({error}); "
            "crawl it again with --refingerprint"
        ) from error


PRODUCT_COLUMNS = ("spec", "anchors", "tokens", "layers", "vo", "fu", "notes")
"""Columns of `products` without its keys."""


def _products_row(sketch: ProductSketch) -> Row:
    return {
        "spec": PRODUCTS_SPEC,
        "anchors": list(sketch.anchors),
        "tokens": None if sketch.tokens is None else list(sketch.tokens),
        "layers": list(sketch.layers),
        "vo": sketch.vo.astype("<f2").tobytes(),
        "fu": sketch.fu.astype("<f2").tobytes(),
        "notes": list(sketch.notes),
    }


def product_sketch(row: Mapping[str, Any]) -> ProductSketch | None:
    """A sketch from its row; null if it was made by another rule, or is not as long as it says."""
    layers, anchors, tokens = row["layers"] or (), row["anchors"] or (), row["tokens"]
    if row["spec"] != PRODUCTS_SPEC or not layers or len(anchors) != ANCHORS or None in (*layers, *anchors):
        return None
    shape = len(layers), ANCHORS, ANCHORS
    if any(len(row[name] or b"") != 2 * math.prod(shape) for name in ("vo", "fu")):
        return None
    vo, fu = (np.frombuffer(row[name], dtype="<f2").reshape(shape).astype(np.float32) for name in ("vo", "fu"))
    notes = tuple(row["notes"] or ())
    return ProductSketch(tuple(layers), vo, fu, tuple(anchors), notes, None if tokens is None else tuple(tokens))


def _checkpoint(row: Row) -> CheckpointRow:
    lists = {name: tuple(row[name] or ()) for name in ("tags", "notes")}
    declared = row["declared_parents"]
    parents = {"declared_parents": None if declared is None else tuple(declared)}
    return CheckpointRow(**{**row, **lists, **parents, "source": Source(row["source"]), "mode": Mode(row["mode"])})


def _typed(row: Row) -> Row:
    """The row of a tensor, or of its entry in the sample, with the types of the records."""
    return {**row, "role": ROLE_BY_NAME[row["role"]], "shape": tuple(row["shape"])}
