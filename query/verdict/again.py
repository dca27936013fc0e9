"""Relatives settled anew with other metadata, to see what the order of a family owes to dates and cards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from provenance.query.evidence.pair import Pair, Subject
from provenance.query.verdict.deep import order_of, rerank
from provenance.query.verdict.rule import SETTLED, Assessment, Families, settle
from provenance.schemas.enums import Direction, Relation, Verdict


def settled_again(
    assessments: Sequence[Assessment], other: Callable[[Subject], Subject], families: Families
) -> list[Assessment]:
    """Settle candidates anew with other metadata; the evidence of the weights is not measured again.

    Args:
        assessments: settled candidates of one model.
        other: gives a checkpoint with its other metadata.
        families: those worked out with this metadata so far.
    """
    renewed = [(a, Pair(other(a.pair.a), other(a.pair.b), a.pair.background)) for a in assessments]
    settled = settle([_unsettled(a, pair) for a, pair in renewed if not a.disguised], families)
    disguised = [replace(a, pair=pair, direction=order_of(pair)) for a, pair in renewed if a.disguised]
    return rerank([*settled, *disguised])


def _unsettled(me: Assessment, pair: Pair) -> Assessment:
    """The same pair before it was settled, with other metadata."""
    return replace(
        me,
        pair=pair,
        evidence=tuple(line for line in me.evidence if line.kind not in SETTLED),
        verdict=Verdict.RELATED if me.is_relative else me.verdict,
        direction=Direction.UNKNOWN,
        relation=Relation.UNKNOWN,
        declared=pair.b.dossier.repo_id in (pair.a.dossier.meta.declared_parents or ()),
        merge=None,
        layers=(),
        steps=0,
    )
