"""Similarity of shapes and configuration. Shown with every score as a warning; never counted as evidence."""

from __future__ import annotations

from provenance.query.evidence.pair import Pair
from provenance.schemas.results import Evidence

_FIELDS = ("n_layers", "hidden_size", "n_heads", "n_kv_heads", "n_parameters", "model_type")
_SHAPE = ("role", "rows", "columns")


def measure(pair: Pair) -> Evidence | None:
    """Mean of two fractions: equal fields among those known for both models, and shapes that both have (Jaccard)."""
    a, b = pair.a.dossier, pair.b.dossier
    settings = [(getattr(a.meta, name), getattr(b.meta, name)) for name in _FIELDS]
    known = [(x, y) for x, y in settings if x is not None and y is not None]
    equal = sum(x == y for x, y in known)
    shapes = [set(zip(*(d.facts[name].tolist() for name in _SHAPE), strict=True)) for d in (a, b)]
    union = shapes[0] | shapes[1]
    if not union or not known:
        return None
    value = (equal / len(known) + len(shapes[0] & shapes[1]) / len(union)) / 2
    return Evidence("architecture", value, None, None, len(known), "equal shapes; not evidence of origin")
