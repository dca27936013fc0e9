"""Recall: which stored checkpoints to examine. A candidate is not a claim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from provenance.indexer.dossier import Dossier, sketch_cells
from provenance.indexer.generation import SKETCH, Generation
from provenance.indexer.signature import product_vector, signature, sketch
from provenance.schemas.naming import repo_key, short_key
from provenance.schemas.products import PRODUCTS_SPEC

POOL = 100
"""Neighbours taken from each search."""

NEAR = 0.3
"""Least cosine of product vectors: one that convicts has 0.5 (give or take 1/16), strangers of the zoo 0.31 at most."""


def candidates(
    query: Dossier,
    generation: Generation | None,
    unindexed: Sequence[Dossier],
    *,
    spec: str | None = None,
    pool: int = POOL,
) -> list[Dossier]:
    """Checkpoints that may be relatives of `query`, without its own repo.

    They come from the signature search (robust to permutation and long training), the sketch search (robust to changes
    of depth and shape), the search by products (robust to every inner disguise, where both were read whole), equal
    digests, and declarations of cards in either direction. All checkpoints crawled after the last `provenance index`
    (`unindexed`) are included.
    """
    recalled: list[Dossier] = list(unindexed)
    if generation is not None and len(generation):
        rows: set[int] = set()
        vectors = {
            spec or str(generation.info["spec"]): signature(query.curves()).vector,
            SKETCH: sketch(*sketch_cells(query)),
        }
        for name, vector in vectors.items():
            if vector.any():
                rows.update(generation.nearest(name, vector, pool))
        if query.products is not None:
            rows.update(generation.nearest(PRODUCTS_SPEC, product_vector(query.products), pool, NEAR))
        rows.update(_by_name(query, generation))
        if len(rows) < pool:
            # A small store is examined completely, so that the answer does not depend on the searches.
            rows.update(islice(generation.rows(), pool))
        recalled += [generation.dossiers[row] for row in sorted(rows)]
    return [dossier for dossier in newest(recalled) if dossier.repo_id != query.repo_id]


def newest(dossiers: Iterable[Dossier]) -> list[Dossier]:
    """The first dossier of every (repo, subfolder, variant); newer dossiers must come before those they replace."""
    first: dict[tuple[str, str | None, str | None], Dossier] = {}
    for dossier in dossiers:
        first.setdefault((dossier.repo_id, dossier.meta.subfolder, dossier.meta.variant), dossier)
    return list(first.values())


def _by_name(query: Dossier, generation: Generation) -> set[int]:
    meta = query.meta
    rows = set(generation.find("content", str(meta.content_digest)))
    for digest in meta.sha256:
        rows.update(generation.find("sha256", digest))
    for parent in meta.declared_parents or ():
        rows.update(generation.find("repo", parent))
    for key in {repo_key(query.repo_id), short_key(query.repo_id)}:
        rows.update(generation.find("parent", key))
    return rows
