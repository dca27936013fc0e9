"""`provenance index`: build a new generation from vectors, dossiers and keys of all latest checkpoints."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from provenance.indexer.dossier import CONFIG_SUFFIX, Dossier, facts_of, sketch_cells
from provenance.indexer.dossier_file import DossierFile
from provenance.indexer.dossier_meta import META_COLUMNS, meta_of
from provenance.indexer.generation import (
    CURRENT,
    GENERATION_MANIFEST,
    SKETCH,
    Generation,
    generation_name,
    keys_of,
    open_generation,
)
from provenance.indexer.pages import write_checksums
from provenance.indexer.signature import DIMENSION, SKETCH_DIMENSION, SPEC, product_vector, signature, sketch
from provenance.indexer.store.check import part_problems
from provenance.indexer.store.files import replace_text, sha256_of, sync
from provenance.indexer.store.rows import PRODUCT_COLUMNS, product_sketch
from provenance.indexer.store.swap import writing
from provenance.indexer.store.tombstones import TOMBSTONES
from provenance.indexer.vectors import ExactIndex, FlatIndex
from provenance.schemas import tables
from provenance.schemas.enums import Reason
from provenance.schemas.errors import ProvenanceError, StoreCorruptError
from provenance.schemas.naming import renamed_to, repo_key
from provenance.schemas.products import PRODUCTS_SPEC
from provenance.schemas.protocols import Advance
from provenance.schemas.sampling import SAMPLED_EXPERTS
from provenance.schemas.tables import FINGERPRINT_TABLES

if TYPE_CHECKING:
    from provenance.indexer.store.manifest import Manifest
    from provenance.indexer.store.store import Store

KINDS: dict[str, type[FlatIndex] | type[ExactIndex]] = {"auto": FlatIndex, "flat": FlatIndex, "exact": ExactIndex}
"""`auto` is currently the same as `flat`."""

_Matrix: TypeAlias = NDArray[np.float32]

_UNFINISHED = ".tmp"

_FACT_ROWS = f"""
with entry as (select fingerprint_id, unnest(entries, recursive := true) from samples)
select t.fingerprint_id, t.role, t.layer, t.expert, t.shape, t.digest, t.mean, t.std, t.std_error, t.skewness,
       t.kurtosis, e."offset", e."count", e.exponent
from tensors t
join latest_checkpoints c using (fingerprint_id)
left join entry e on e.fingerprint_id = t.fingerprint_id and e.stack = t.stack and e.role = t.role
     and e.layer is not distinct from t.layer and e.expert is not distinct from t.expert
where t.stack = 'main' and t.role <> 'other' and coalesce(t.expert, 0) < {SAMPLED_EXPERTS}
order by t.fingerprint_id
"""


_RENAMED = f"select repo_id, message from outcomes where reason = '{Reason.RENAMED}' order by \"at\""

_WEIGHT_FILES = f"select * from files where path not like '%{CONFIG_SUFFIX}'"


def load_dossiers(store: Store, manifest: Manifest, fingerprints: Sequence[str] | None = None) -> list[Dossier]:
    """The dossiers of all latest checkpoints, or of some fingerprints, from the Parquet parts.

    Returns:
        dossiers sorted by repo id and checkpoint id.
    """
    with store.connect(manifest) as connection:
        where = "" if fingerprints is None else "where list_contains($ids, fingerprint_id)"
        parameters = {} if fingerprints is None else {"ids": list(fingerprints)}

        def rows(query: str) -> list[dict[str, Any]]:
            result: list[dict[str, Any]] = connection.sql(query, params=parameters).to_arrow_table().to_pylist()
            return result

        columns = ", ".join(META_COLUMNS)
        checkpoints = rows(f"select {columns} from latest_checkpoints {where} order by repo_id, checkpoint_id")
        files = rows(f"select fingerprint_id, sha256 from ({_WEIGHT_FILES}) {where}")
        samples = {r["fingerprint_id"]: r["data"] for r in rows(f"select fingerprint_id, data from samples {where}")}
        facts = rows(f"select * from ({_FACT_ROWS}) {where} order by fingerprint_id")
        columns = ", ".join(PRODUCT_COLUMNS)
        products = {
            r["fingerprint_id"]: product_sketch(r)
            for r in rows(f"select fingerprint_id, {columns} from products {where}")
        }
    digests: dict[str, list[str]] = {}
    for row in files:
        digests.setdefault(row["fingerprint_id"], []).append(row["sha256"])
    by_id = {key: list(group) for key, group in groupby(facts, key=lambda r: r["fingerprint_id"])}
    return [
        Dossier(
            meta_of(row, digests.get(row["fingerprint_id"], [])),
            facts_of(by_id.get(row["fingerprint_id"], [])),
            np.frombuffer(samples.get(row["fingerprint_id"], b""), dtype="<f2"),
            products.get(row["fingerprint_id"]),
        )
        for row in checkpoints
    ]


def unindexed_fingerprints(store: Store, manifest: Manifest, generation: Generation | None) -> list[str]:
    """Fingerprint ids of latest checkpoints that are not in the live generation, sorted."""
    if generation is None:
        with store.connect(manifest) as connection:
            rows = connection.execute("select fingerprint_id from latest_checkpoints").fetchall()
        return sorted(row[0] for row in rows)
    covered = {part.path for part in manifest.parts["checkpoints"] if generation.covers(part)}
    recent = store.read("checkpoints", ["fingerprint_id"], manifest=manifest.without(covered))["fingerprint_id"]
    new = [found for found in recent.to_pylist() if not generation.find("fingerprint", found)]
    if not new:
        return []
    with store.connect(manifest) as connection:
        latest = "select fingerprint_id from latest_checkpoints where fingerprint_id in (select unnest($new))"
        return sorted(row[0] for row in connection.execute(latest, {"new": new}).fetchall())


def renamed_repos(store: Store, manifest: Manifest) -> dict[str, str]:
    """The new ids of repos that a hub redirected, by the key of the old one (`schemas.naming`)."""
    with store.connect(manifest) as connection:
        rows = connection.execute(_RENAMED).fetchall()
    return {repo_key(old): new for old, message in rows if (new := renamed_to(message))}


def build_index(
    store: Store,
    learn_backgrounds: Callable[[Sequence[Dossier]], Mapping[str, NDArray[np.float64]]],
    *,
    kind: str = "auto",
    spec: str = SPEC,
    skip_damaged: bool = False,
    advance: Advance | None = None,
) -> Generation:
    """Build a new generation over all latest checkpoints, store the signatures that are missing, and switch to it.

    Args:
        store: the store.
        learn_backgrounds: returns the sorted scores of unrelated pairs by line of evidence. It is a parameter because
            lines of evidence belong to `query`.
        kind: one of `KINDS`.
        spec: the signature; currently only `SPEC`.
        skip_damaged: leave out the checkpoints with rows in damaged parts, instead of refusing.
        advance: told of every checkpoint whose vectors are made.

    Raises:
        ProvenanceError: an unknown signature spec or kind of index.
        StoreCorruptError: parts of the store are damaged.
        StoreError: the index cannot be written.
    """
    if kind not in KINDS:
        raise ProvenanceError(f"no index of kind {kind!r}; there is {', '.join(KINDS)}")
    if spec != SPEC:
        raise ProvenanceError(f"no signature spec {spec!r}; there is {SPEC}")
    manifest = store.manifest()
    damaged = _damaged_parts(store, manifest, skip=skip_damaged)
    readable = manifest.without(damaged)
    forgotten = store.tombstones(readable)
    dossiers = [d for d in load_dossiers(store, readable) if not damaged or (len(d.values) and len(d.facts))]
    signatures, sketches, products = _vectors(dossiers, advance)
    vectors = {spec: signatures, SKETCH: sketches, PRODUCTS_SPEC: products}
    backgrounds = dict(learn_backgrounds(dossiers))
    index = KINDS[kind]
    info: dict[str, Any] = {
        "build": uuid.uuid4().hex,
        "checkpoints": len(dossiers),
        "sequence": manifest.sequence,
        "forgotten": {repo: at.isoformat() for repo, at in forgotten.items()},
        "renamed": renamed_repos(store, readable),
        "spec": spec,
        "kind": kind,
        "vectors": {name: f"{name}{index.SUFFIX}" for name in vectors},
    }
    with writing(store.path) as stack:
        store.index_path.mkdir(exist_ok=True)
        remove_unused_generations(store)
        folder = store.index_path / f".generation-{info['build']}{_UNFINISHED}"
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir()
        DossierFile.write(folder, dossiers)
        np.save(folder / "keys.npy", keys_of([d.meta for d in dossiers]))
        for name, rows in vectors.items():
            index.build(rows).save(folder / info["vectors"][name])
        np.savez(folder / "background.npz", allow_pickle=False, **backgrounds)
        write_checksums(folder)
        info["files"] = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(folder.iterdir())
        }
        (folder / GENERATION_MANIFEST).write_text(json.dumps(info, indent=1), encoding="utf-8")
        for path in folder.iterdir():
            sync(path)
        live = generation_name(manifest.sequence, sha256_of(folder / GENERATION_MANIFEST))
        folder.rename(store.index_path / live)
        _switch(store.index_path, live)
    if not damaged:
        _store_signatures(store, manifest, dossiers, signatures, spec)
    return open_generation(store.index_path)


def _damaged_parts(store: Store, manifest: Manifest, *, skip: bool) -> dict[str, str]:
    """The damaged parts that may be left out, and what is wrong with them.

    Raises:
        StoreCorruptError: there are some, and they may not.
    """
    damaged = part_problems(store.path, manifest, ("checkpoints", *FINGERPRINT_TABLES))
    # Without its tombstones, a store would show what was forgotten.
    needed = part_problems(store.path, manifest, (TOMBSTONES,))
    if needed or (damaged and not skip):
        found = [*needed.values(), *damaged.values()]
        way = "" if needed else ", or run `provenance index --skip-damaged`, which leaves out what has rows in them"
        raise StoreCorruptError(f"damaged parts: {'; '.join(found[:5])}; restore them from a backup{way}")
    return damaged


def _vectors(dossiers: Sequence[Dossier], advance: Advance | None) -> tuple[_Matrix, _Matrix, _Matrix]:
    """The signature, the sketch and the vector of products of every dossier, a row each."""
    signatures, sketches, products = (
        np.zeros((len(dossiers), n), dtype=np.float32) for n in (DIMENSION, SKETCH_DIMENSION, SKETCH_DIMENSION)
    )
    for row, dossier in enumerate(dossiers):
        signatures[row] = signature(dossier.curves()).vector
        sketches[row] = sketch(*sketch_cells(dossier))
        products[row] = product_vector(dossier.products)
        if advance:
            advance(row + 1, len(dossiers))
    return signatures, sketches, products


def _store_signatures(store: Store, manifest: Manifest, dossiers: Sequence[Dossier], vectors: Any, spec: str) -> None:
    known = store.read("signatures", ["fingerprint_id", "spec"], manifest=manifest).to_pylist()
    stored = {(row["fingerprint_id"], row["spec"]) for row in known}
    rows: list[dict[str, object]] = [
        {
            "fingerprint_id": dossier.meta.fingerprint_id,
            "checkpoint_id": dossier.checkpoint_id,
            "spec": spec,
            "vector": vector,
        }
        for dossier, vector in zip(dossiers, vectors, strict=True)
        if (dossier.meta.fingerprint_id, spec) not in stored
    ]
    if rows:
        signatures: pa.Table = tables.from_rows("signatures", rows)
        store.commit({"signatures": signatures})


def _switch(index_path: Path, name: str) -> None:
    """Make a generation the live one, and remove all but it and its predecessor."""
    current = index_path / CURRENT
    previous = current.read_text(encoding="utf-8", errors="replace").strip() if current.exists() else None
    replace_text(current, name + "\n")
    for folder in index_path.iterdir():
        # The predecessor stays for readers that have just read CURRENT; older ones are no longer used.
        if folder.is_dir() and folder.name.startswith("generation-") and folder.name not in {name, previous}:
            shutil.rmtree(folder, ignore_errors=True)


def remove_unused_generations(store: Store) -> None:
    """Remove unfinished generations of killed builds and the live one's predecessor, after the grace period."""
    current = store.index_path / CURRENT
    live = current.read_text(encoding="utf-8", errors="replace").strip() if current.exists() else None
    before = time.time() - store.grace
    for folder in (*store.index_path.glob(f".generation-*{_UNFINISHED}"), *store.index_path.glob("generation-*")):
        try:
            # A predecessor was in use until its successor went live, which is when CURRENT was written.
            ages = [folder] if folder.name.startswith(".") else [folder, current]
            if folder.name != live and max(path.stat().st_mtime for path in ages) < before:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # its builder has just finished
            continue
