"""An adapter beside a whole model: whether what it changes has the shapes of that model. Descriptive, never counted."""

from __future__ import annotations

from typing import TypeAlias

from provenance.indexer.dossier import Dossier
from provenance.query.evidence.pair import Pair
from provenance.schemas.results import Evidence
from provenance.schemas.roles import ROLES

_Place: TypeAlias = tuple[int, int, int]


def measure(pair: Pair) -> Evidence | None:
    """The share of an adapter's targets that exist in the other model in the same shape; null for any other pair."""
    if pair.of_one_kind:
        return None
    a, b = pair.a.dossier, pair.b.dossier
    adapter, model = (a, b) if a.meta.adapter else (b, a)
    targets, matrices = _shapes(adapter), _shapes(model)
    alone = "an adapter alone: its weights say nothing of its base"
    if not targets or not matrices:
        return Evidence("adapter_targets", None, None, None, 0, alone)
    wrong = {place: shape for place, shape in targets.items() if matrices.get(place) != shape}
    fitting = len(targets) - len(wrong)
    note = f"{alone}; {fitting} of its {len(targets)} targets have the shapes of {model.repo_id}"
    if wrong:
        (role, layer, _), shape = next(iter(wrong.items()))
        found = matrices.get(next(iter(wrong)))
        there = f"is {found[0]} x {found[1]} there" if found else "is not there"
        note += f"; {ROLES[role]} of layer {layer}, {shape[0]} x {shape[1]}, {there}"
    return Evidence("adapter_targets", fitting / len(targets), None, None, len(targets), note)


def _shapes(dossier: Dossier) -> dict[_Place, tuple[int, int]]:
    """Shape of every layer matrix by role code, layer and expert."""
    return {
        (int(f["role"]), int(f["layer"]), int(f["expert"])): (int(f["rows"]), int(f["columns"]))
        for f in dossier.facts
        if f["columns"] and f["layer"] >= 0
    }
