"""Who is said to be the parent, with dates, without, and with wrong ones: a part of `provenance evaluate`, by itself.

    python -m benchmarks.directions STORE TRUTH.csv

Prints one table to standard output, and every wrong direction to standard error.
"""

from __future__ import annotations

import sys
from pathlib import Path

import provenance
from provenance.query.engine import judge
from provenance.query.evaluation.markdown import table
from provenance.query.evaluation.orderings import orderings
from provenance.query.evaluation.truth import Judged, read_truth


def main(store: str, truth_table: str) -> None:
    truth = read_truth(Path(truth_table))
    with provenance.open(store) as database:
        stored = [d for d in database.catalogue.dossiers() if d.repo_id in truth]
        judged = [Judged(truth[d.repo_id], judge(d, database.catalogue)) for d in stored]
    found, wrong, _, merges = orderings(judged, truth)
    print(table(found.to_dicts()))
    print(f"{merges.parents_named} of {merges.merges} merges have just their parents named.")
    for line in wrong:
        print(f"wrong, dates {line.dates}: {line.candidate} {line.direction} of {line.model}", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(*sys.argv[1:])
    else:
        print(__doc__)
