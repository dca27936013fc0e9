"""Make `query/statistics/background.json`, the bundled background, from a store.

    python -m tools.make_background STORE REPO...

REPO... are checkpoints of the store that were trained independently of each other; every pair of them is scored.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import provenance
from provenance.query.evidence.pair import Pair, Subject
from provenance.query.evidence.registry import LINES
from provenance.query.statistics.background import key, stratum
from provenance.schemas.enums import Null

TARGET = Path(__file__).resolve().parents[1] / "provenance" / "query" / "statistics" / "background.json"


def main(store: str, repos: list[str]) -> None:
    """Score every pair of the named checkpoints and write the sorted scores."""
    with provenance.open(store) as database:
        subjects = [Subject(database.find(repo)) for repo in repos]
    scores: dict[str, list[float]] = defaultdict(list)
    for a, b in combinations(subjects, 2):
        for line in LINES:
            if line.null is Null.EMPIRICAL and (found := line.measure(Pair(a, b))) and found.value is not None:
                scores[key(line.name, stratum(a.dossier, b.dossier))].append(round(found.value, 4))
    lines = [f" {json.dumps(name)}: {json.dumps(sorted(values))}" for name, values in sorted(scores.items())]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
