"""Weights that hold nothing to compare: not finite, all zero, all one value. One note for each kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from provenance.schemas.records import TensorRow
from provenance.schemas.roles import LAYER_MATRICES

_NAMED = 3
_LONG = 80

_KINDS: tuple[tuple[str, Callable[[TensorRow], bool]], ...] = (
    ("holds nothing but NaN or infinities", lambda row: row.n_nonfinite == row.n_read),
    ("holds some NaN or infinities", lambda row: row.n_nonfinite > 0),
    ("is all zero", lambda row: row.min == row.max == 0),
    ("has one value in all its cells", lambda row: row.min is not None and row.min == row.max),
)


def value_notes(rows: Iterable[TensorRow]) -> list[str]:
    """What is odd about the values that were read of the layer matrices, and where values are not finite, of any."""
    found: dict[str, list[TensorRow]] = defaultdict(list)
    for row in rows:
        if row.n_read == 0 or (row.role not in LAYER_MATRICES and row.n_nonfinite == 0):
            continue
        kind = next((kind for kind, holds in _KINDS if holds(row)), None)
        if kind is not None:
            found[kind].append(row)
    return [f"values: {_some(found[kind])} {kind}" for kind, _ in _KINDS if kind in found]


def _some(rows: Sequence[TensorRow]) -> str:
    names = [row.name[:_LONG].encode("unicode_escape").decode("ascii") for row in rows[:_NAMED]]
    more = len(rows) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
