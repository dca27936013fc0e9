"""Directions found when no checkpoint has a date or a card: `python -m benchmarks.undated STORE TRUTH.csv`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import provenance
from provenance.query.catalogue import Catalogue
from provenance.query.engine import judge
from provenance.query.evaluation.truth import Truth, read_truth
from provenance.query.statistics.background import Background


def ancestors(model: str, truth: Mapping[str, Truth]) -> set[str]:
    """All repos whose weights a model descends from."""
    found: set[str] = set()
    for parent in truth[model].parents if model in truth else ():
        found |= {parent} | ancestors(parent, truth)
    return found


def main(store: str, table: str) -> None:
    truth = read_truth(Path(table))
    with provenance.open(store) as database:
        dossiers = [
            replace(d, meta=replace(d.meta, created_at=None, declared_parents=()))
            for d in database.dossiers()
            if d.repo_id in truth
        ]
    counts: Counter[tuple[str, str, str]] = Counter()
    catalogue = Catalogue(None, dossiers, Background({}))
    for dossier in dossiers:
        above = ancestors(dossier.repo_id, truth)
        for candidate in judge(dossier, catalogue).candidates:
            if candidate.is_relative:
                below = dossier.repo_id in ancestors(candidate.repo_id, truth)
                true = "ancestor" if candidate.repo_id in above else "descendant" if below else "sibling"
                counts[true, candidate.verdict, candidate.direction] += 1
    print("| truly | verdict | direction | pairs |\n| --- | --- | --- | --- |")
    for (true, verdict, direction), n in sorted(counts.items()):
        print(f"| {true} | {verdict} | {direction} | {n} |")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(*sys.argv[1:])
    else:
        print(__doc__)
