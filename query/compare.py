"""One pair in full: every line of evidence, distances of the curves, and strangers of the same shape beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from provenance.indexer.signature import published_score
from provenance.query.engine import candidate_json
from provenance.query.evidence.pair import Pair, Subject
from provenance.query.evidence.profile_correlation import profile_score
from provenance.query.statistics.curves import kl_divergence, wasserstein
from provenance.query.verdict.rule import SUSPICION, assess, settle

SHAPE = ("n_layers", "hidden_size", "n_heads", "n_kv_heads")
MAX_CONTROLS = 200


def compare(pair: Pair, others: Iterable[Subject], n_store: int) -> dict[str, Any]:
    """Everything there is to say about one pair, as the JSON object of `provenance compare`.

    Args:
        pair: the two models; the second is judged as a parent of the first.
        others: stored checkpoints to draw controls from.
        n_store: checkpoints in the store.
    """
    (judged,) = settle([assess(pair, n_store)])
    claims = candidate_json(1, judged)
    del claims["rank"], claims["declared"], claims["merge_weight"]
    a, b = (subject.dossier for subject in (pair.a, pair.b))
    return {
        "format": 1,
        "a": {name: a.meta[name] for name in ("checkpoint_id", "repo_id", *SHAPE)},
        "b": {name: b.meta[name] for name in ("checkpoint_id", "repo_id", *SHAPE)},
        **{name: value for name, value in claims.items() if name not in ("checkpoint_id", "repo_id")},
        "curves": _curves(pair),
        "controls": controls(pair, others),
    }


def controls(pair: Pair, others: Iterable[Subject]) -> dict[str, Any]:
    """How `a` scores against strangers that have the shape of `b`: what the architecture alone explains.

    A stranger is a stored checkpoint of the same shape whose weights agree with neither of the two.

    Returns:
        `n`, and for each score of the curves its median and maximum over the controls, null without controls.
    """
    shape = [pair.b.dossier.meta[name] for name in SHAPE]
    found: list[dict[str, float | None]] = []
    for other in others:
        if len(found) >= MAX_CONTROLS:
            break
        if [other.dossier.meta[name] for name in SHAPE] != shape or _related(other, pair.a) or _related(other, pair.b):
            continue
        found.append(_curves(replace(pair, b=other)))
    result: dict[str, Any] = {"n": len(found)}
    for name in _curves(pair):
        values = [value for row in found if (value := row[name]) is not None]
        result[name] = (
            {"median": float(np.median(values)), "lowest": float(np.min(values)), "highest": float(np.max(values))}
            if values
            else None
        )
    return result


def _related(a: Subject, b: Subject) -> bool:
    if a.dossier.repo_id == b.dossier.repo_id:
        return True
    pair = Pair(a, b)
    log10_p = min(pair.by_position.log10_p, pair.segment.log10_p if pair.segment else 0.0)
    return log10_p < math.log10(SUSPICION)


def _curves(pair: Pair) -> dict[str, float | None]:
    a, b = pair.a.dossier, pair.b.dossier
    return {
        "published_score": published_score(a.curves(), b.curves()),
        "profile_correlation": profile_score(a, b),
        "wasserstein": wasserstein(a.curves(), b.curves()),
        "kl_divergence": kl_divergence(a.curves(), b.curves()),
    }
