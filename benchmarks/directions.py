"""Who is said to be the parent, with dates, without, and with wrong ones.

    python -m benchmarks.directions STORE TRUTH.csv


Every stored model of the truth table is asked about three times: with the dates and cards of the store, with neither,
and with the dates dealt out at random (seed 0; no cards). A copy of an ancestor counts as the ancestor.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import provenance
from provenance.indexer.dossier import Dossier
from provenance.query.catalogue import Catalogue
from provenance.query.engine import judge
from provenance.query.evaluation.truth import Truth, read_truth
from provenance.schemas.enums import Direction, ModelVerdict, Relation

COPIES = ("reupload", "renamed", "config_disguise", "convert", "cast")
"""How the relations of a truth table begin that leave the weights as they are."""


@dataclass
class Tally:
    """Derivatives that do not hide, how many of them are called derived and have a direct parent first; merges, and how
    many have just their parents named as such; directions said of pairs that are no copies, and right."""

    models: int = 0
    derived: int = 0
    parent_first: int = 0
    merges: int = 0
    named: int = 0
    said: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)


def original(model: str, truth: Mapping[str, Truth]) -> str:
    """The model itself, or what it is a copy of."""
    while model in truth and truth[model].relation.startswith(COPIES) and truth[model].parents:
        model = truth[model].parents[0]
    return model


def descends(child: str, ancestor: str, truth: Mapping[str, Truth]) -> bool:
    """Whether the weights of one come from the other, or from what the other is a copy of."""
    lines = [child] if child in truth else []
    above: set[str] = set()
    while lines:
        parents = truth[lines.pop()].parents
        lines += [parent for parent in parents if parent in truth and parent not in above]
        above |= set(parents)
    known = {original(model, truth) for model in above}
    return original(ancestor, truth) in known and original(ancestor, truth) != original(child, truth)


def measure(dossiers: Sequence[Dossier], truth: Mapping[str, Truth]) -> Tally:
    """Ask about every model."""
    tally, catalogue = Tally(), Catalogue(unindexed=dossiers)
    for dossier in dossiers:
        model, answer = truth[dossier.repo_id], judge(dossier, catalogue)
        for candidate in answer.candidates:
            if candidate.is_relative and candidate.relation is not Relation.IDENTICAL:
                pair = (model.model, candidate.repo_id)
                if candidate.direction in (Direction.PARENT, Direction.CHILD):
                    tally.said += 1
                    right = descends(*(pair if candidate.direction is Direction.PARENT else pair[::-1]), truth)
                    tally.right += right
                    tally.wrong += [] if right else [f"{pair[1]} {candidate.direction} of {pair[0]}"]
        if model.parents and not model.attack and not dossier.meta.adapter:
            tally.models += 1
            tally.derived += answer.verdict is ModelVerdict.DERIVED
            first = answer.candidates[0].repo_id if answer.candidates else ""
            if len(model.parents) > 1:
                merged = {one.repo_id for one in answer.candidates if one.merge_weight is not None}
                tally.merges += 1
                tally.named += merged == set(model.parents)
            tally.parent_first += original(first, truth) in {original(parent, truth) for parent in model.parents}
    return tally


def main(store: str, table: str) -> None:
    truth = read_truth(Path(table))
    with provenance.open(store) as database:
        stored = [dossier for dossier in database.catalogue.dossiers() if dossier.repo_id in truth]
    dates = [dossier.meta.created_at for dossier in stored]
    random.Random(0).shuffle(dates)
    bare = [replace(d, meta=replace(d.meta, created_at=None, declared_parents=())) for d in stored]
    dealt = [replace(d, meta=replace(d.meta, created_at=date)) for d, date in zip(bare, dates, strict=True)]
    names = ("dates", "derivatives", "derived", "parent first", "merges", "parents named", "directions said", "right")
    print(f"| {' | '.join(names)} |\n|" + " --- |" * len(names))
    for name, dossiers in (("as stored", stored), ("none", bare), ("shuffled", dealt)):
        t = measure(dossiers, truth)
        figures = (t.models, t.derived, t.parent_first, t.merges, t.named, t.said, t.right)
        print(f"| {name} | {' | '.join(map(str, figures))} |")
        for line in t.wrong[:10]:
            print(f"  wrong: {line}", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(*sys.argv[1:])
    else:
        print(__doc__)
