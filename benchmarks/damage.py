"""Flipped bytes in a store: `python -m benchmarks.damage [FLIPS]`, some ten minutes with the default of 200.

A small store is crawled and indexed. Then one byte at a time is changed, at random places of every kind of file, and a
fresh process state asks: does `verify` name the file, and does `query` give the old answer or a named error? `wrong`
counts other answers, which must be 0; an error that is not meant for a user ends the run with its traceback.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import provenance
from provenance.schemas.errors import ProvenanceError

MINIATURE = Path(provenance.__file__).parent / "miniature"
MODEL = "sedge-200k-suite"


def kinds(store: Path) -> dict[str, list[Path]]:
    """The files of a store by kind; the views in `provenance.duckdb` are derived, and no command reads them."""
    found = {
        "FORMAT": [store / "FORMAT"],
        "MANIFEST": [store / "MANIFEST"],
        "parts": sorted(store.glob("*/part-*.parquet")),
        "index/CURRENT": [store / "index" / "CURRENT"],
    }
    live = store / "index" / (store / "index" / "CURRENT").read_text().strip()
    for path in sorted(live.iterdir()):
        found.setdefault(f"index *{path.suffix}", []).append(path)
    return found


def ask(store: Path) -> tuple[str, str]:
    """The answer to a query, or its error; and what `verify` finds."""
    try:
        with provenance.open(store) as database:
            answer = json.dumps(database.query(MODEL).to_dict(), default=str)
    except ProvenanceError as error:
        answer = f"error: {error}"
    try:
        with provenance.open(store) as database:
            problems = "\n".join(database.verify())
    except ProvenanceError as error:
        problems = str(error)
    return answer, problems


def main(flips: int) -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    print("| files | flips | found by verify | same answer | named error | wrong |\n|" + " --- |" * 6)
    with TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        with provenance.open(store, create=True) as database:
            for source in sorted(path for path in MINIATURE.iterdir() if path.is_dir()):
                database.crawl([source])
            database.index()
        sound, nothing = ask(store)
        assert sound.startswith("{")
        assert not nothing
        for kind, paths in kinds(store).items():
            counts: Counter[str] = Counter()
            for _ in range(flips):
                path = paths[int(rng.integers(len(paths)))]
                whole = path.read_bytes()
                place = int(rng.integers(len(whole)))
                path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :])
                answer, problems = ask(store)
                path.write_bytes(whole)
                counts["found"] += bool(problems)
                outcome = "same" if answer == sound else answer.partition(":")[0]
                counts[outcome if outcome in ("same", "error") else "wrong"] += 1
            row = [counts[name] for name in ("found", "same", "error", "wrong")]
            print(f"| {kind} | {flips} | " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
