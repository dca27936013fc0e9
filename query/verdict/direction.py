"""Who came first: dates, structure and the asymmetry of training for a pair; distance geometry for a family."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from provenance.indexer.dossier import Dossier
from provenance.indexer.dossier_meta import DossierMeta
from provenance.query.evidence.pair import Pair
from provenance.query.statistics.alignment import Slopes
from provenance.query.statistics.grid import matrices
from provenance.schemas.enums import Direction
from provenance.schemas.roles import ROLE_CODE, Role
from provenance.schemas.sampling import SEQUENCE_LENGTH

CONSISTENT = 0.8
"""Share of matrices that must agree before the asymmetry of slopes says who came first."""

MIN_GAP = 0.01
EXPERTS_AGREE = 0.5
ZEROS = 0.05

CARRIED_SLOPE, CARRIED_CORRELATION = 0.85, 0.5
"""A checkpoint lies on the way from the reference to the model when its change is carried on (see `carries`)."""


def older(a: DossierMeta, b: DossierMeta) -> bool | None:
    """Whether `a` was created before `b`; null when a date is missing or they are equal."""
    first, second = a.created_at, b.created_at
    if first is None or second is None or first == second:
        return None
    return first < second


def pair_direction(pair: Pair) -> Direction:
    """What the candidate is to the model: `parent`, `child` or `unknown`.

    Dates of creation decide where both are known, then what the cards declare, then structure (the one with zeros
    where the other has weights was pruned, the one whose experts resemble each other was upcycled), then training
    itself: it adds to its starting point a change that hardly depends on it, so the slope of the child on its parent
    stays near 1 while the slope of the parent on its child falls. What none of these settles is unknown.
    """
    model, candidate = pair.a.dossier.meta, pair.b.dossier.meta
    first = older(candidate, model)
    if first is not None:
        return Direction.PARENT if first else Direction.CHILD
    if candidate.repo_id in (model.declared_parents or ()):
        return Direction.PARENT
    if model.repo_id in (candidate.declared_parents or ()):
        return Direction.CHILD
    found = pair.slopes
    if found is None or found.equal:
        return Direction.UNKNOWN
    if abs(found.zeros_a - found.zeros_b) > ZEROS:
        return Direction.PARENT if found.zeros_a > found.zeros_b else Direction.CHILD
    routed = [bool(np.any(s.dossier.facts["role"] == ROLE_CODE[Role.ROUTER])) for s in (pair.a, pair.b)]
    if routed[0] != routed[1]:
        # Experts that resemble each other were copied from one dense block; otherwise the dense model was cut out.
        upcycled = experts_agree((pair.a if routed[0] else pair.b).dossier)
        return Direction.PARENT if routed[0] == upcycled else Direction.CHILD
    return _from_slopes(found)


def experts_agree(dossier: Dossier) -> bool:
    """Whether the first two experts resemble each other: the mark of an upcycled model."""
    cells = dossier.matrices
    expert = cells.facts["expert"][cells.owner]
    tensor = cells.facts["role"].astype(np.int64) * 65_536 + cells.facts["layer"]
    keys = tensor[cells.owner] * SEQUENCE_LENGTH + cells.position
    standard = cells.standardised()
    _, first, second = np.intersect1d(keys[expert == 0], keys[expert == 1], assume_unique=True, return_indices=True)
    if len(first) == 0:
        return False
    return bool(np.mean(standard[expert == 0][first] * standard[expert == 1][second]) > EXPERTS_AGREE)


def _from_slopes(found: Slopes) -> Direction:
    gap = abs(found.a_on_b - 1) - abs(found.b_on_a - 1)
    if gap > MIN_GAP and found.nearer_a >= CONSISTENT:
        return Direction.CHILD
    if gap < -MIN_GAP and found.nearer_a <= 1 - CONSISTENT:
        return Direction.PARENT
    return Direction.UNKNOWN


def frame(pairs: Sequence[Pair]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lay the model of `pairs` and all their candidates on the model's grid.

    Returns:
        the model's weights `[n]` and the candidates' `[len(pairs), n]` at the corresponding layers, each scaled by the
        model's spread of the matrix; NaN where a checkpoint has no such cell.
    """
    grid = pairs[0].a.grid
    role = matrices(grid.columns)
    scale = np.ones(grid.weights.shape)
    for code in np.unique(role):
        at = np.flatnonzero(role == code)
        spread = grid.weights[:, at].std(axis=1, where=grid.mask[:, at])
        scale[:, at] = np.where(spread > 0, spread, np.nan)[:, None]
    model = np.where(grid.mask, grid.weights / scale, np.nan)
    laid = np.full((len(pairs), *model.shape), np.nan)
    for i, pair in enumerate(pairs):
        rows_a, rows_b = pair.layers
        other = pair.b.grid
        _, in_a, in_b = np.intersect1d(grid.columns, other.columns, assume_unique=True, return_indices=True)
        values = np.where(other.mask, other.weights, np.nan)[np.ix_(rows_b, in_b)]
        laid[i][np.ix_(rows_a, in_a)] = values / scale[np.ix_(rows_a, in_a)]
    return model.ravel(), laid.reshape(len(pairs), -1)


def carries(model: NDArray[np.float64], through: NDArray[np.float64], reference: NDArray[np.float64]) -> bool | None:
    """Whether the model carries on the change that `through` made to `reference`.

    With u = model - reference and v = through - reference: a descendant of `through` has u = v + something independent
    of v (slope of u on v near 1); a merge has a share of v (high correlation); for a sibling, which started again from
    the reference, u and v are nearly independent.

    Returns:
        null where `through` equals the reference or nothing is shared.
    """
    u, v = model - reference, through - reference
    use = np.isfinite(u) & np.isfinite(v)
    u, v = u[use], v[use]
    uu, vv, uv = float(u @ u), float(v @ v), float(u @ v)
    if vv == 0:
        return None
    return uv / vv >= CARRIED_SLOPE or (uu > 0 and uv / math.sqrt(uu * vv) >= CARRIED_CORRELATION)
