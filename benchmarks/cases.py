"""What strangers' repositories look like: `python -m benchmarks.cases [CASES]` makes each case, asks, and compares.

CASES is a folder of scripts `case-NN.py FOLDER`, each of which writes small repos into FOLDER; by default
`../shared/cases`. Printed are the case, the question, the right answer, the answer, and whether they agree.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import provenance
from provenance import Database
from provenance.query.lineage.forest import Forest
from provenance.schemas.results import Answer, Candidate

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"

Row = tuple[str, str, object, object]
"""Case, question, right answer, answer."""


class Case:
    """One case: its repos, crawled into a store of its own."""

    def __init__(self, scripts: Path, work: Path, number: str, *arguments: str) -> None:
        self.folder, self.script = work / f"case-{number}", scripts / f"case-{number}.py"
        self.make(*arguments)
        self.store = work / f"store-{number}"
        self.errors = self.crawl()
        self.database: Database = provenance.open(self.store)
        list(self.database.refresh_lineage())
        self.rows = self.database.lineage()

    def make(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, str(self.script), str(self.folder), *arguments], check=True, capture_output=True
        )

    def crawl(self) -> str:
        """Crawl the repos; returns what was printed to stderr."""
        command = [sys.executable, "-m", "provenance", "crawl", str(self.folder), "--store", str(self.store)]
        return subprocess.run(command, check=False, capture_output=True, text=True).stderr

    def repos(self) -> set[str]:
        return {dossier.repo_id for dossier in self.database.catalogue.dossiers()}

    def ask(self, repo: str) -> Answer:
        return self.database.query(repo, k=50)

    def pair(self, repo: str, other: str) -> Candidate:
        return next(one for one in self.ask(repo).candidates if one.repo_id == other)

    def notes(self, repo: str, word: str) -> bool:
        return any(word in note.text for note in self.ask(repo).notes)

    def undeclared(self) -> set[str]:
        return {row.child for row in self.rows if row.undeclared}


def wrapped(case: Case) -> Iterator[Row]:
    for name in sorted(case.repos() - {"wrap/plain"}):
        yield "01", f"{name} beside wrap/plain", "identical", str(case.pair(name, "wrap/plain").relation)


def overlaid(case: Case) -> Iterator[Row]:
    left = case.pair("hub/leftovers", "hub/base")
    yield "02", "leftovers beside base", "identical", str(left.relation)
    yield "02", "leftovers are noted", True, case.notes("hub/leftovers", "ignored")
    overlay = case.pair("hub/abliterated", "hub/base")
    yield "02", "overlay beside base", "related finetune", f"{overlay.verdict} {overlay.relation}"
    yield "02", "stale copies are noted", True, case.notes("hub/abliterated", "ignored")


def carded(case: Case) -> Iterator[Row]:
    kids = sorted(repo for repo in case.repos() if repo.startswith("kids/"))
    for kid in kids:
        answer = case.ask(kid)
        (parent,) = (row.undeclared for row in case.rows if (row.child, row.parent) == (kid, "acme/root-1"))
        right = None if kid == "kids/prose-only" else False
        yield "04", f"{kid}: undeclared", right, parent
        if kid not in ("kids/license-other", "kids/prose-only"):
            said = [(str(claim.status), claim.license_differs) for claim in answer.claims]
            yield "04", f"{kid}: the claim, and whether licenses differ", [("confirmed", False)], said
    yield "04", "what could not be read is noted", True, case.notes("kids/prose-only", "card:")


def spelled(case: Case) -> Iterator[Row]:
    yield "05", "undeclared", {"kids/selfref", "loop/a", "loop/b"}, case.undeclared()
    for one, other in (("loop/a", "loop/b"), ("loop/b", "loop/a")):
        yield "05", f"{one} beside {other}: direction", "unknown", str(case.pair(one, other).direction)
    yield (
        "05",
        "kids/list: a declared parent that is not stored",
        "not-stored",
        _status(case, "kids/list", "nobody/nothing"),
    )
    forest = Forest(case.rows)
    nodes = {node for top in forest.roots() for node in (top, *(edge.child for _, edge in forest.walk(top)))}
    shown = {repo for node in nodes for repo in forest.repos(node)}
    yield "05", "all repos are in the tree", case.repos(), shown


def _status(case: Case, repo: str, parent: str) -> str:
    return next(str(claim.status) for claim in case.ask(repo).claims if claim.parent == parent)


def valued(case: Case) -> Iterator[Row]:
    for name in sorted(case.repos() - {"rel/base", "rel/huge", "rel/tiny"}):
        yield "06", f"{name} is noted", True, case.notes(name, "values:")
    one = case.pair("rel/nan-one-layer", "rel/base")
    yield "06", "one layer of NaN beside base", "related finetune", f"{one.verdict} {one.relation}"
    cut = [c.relation for name in case.repos() for c in case.ask(name).candidates if c.relation == "depth-changed"]
    yield "06", "depth-changed anywhere", [], cut
    for name in ("rel/zero-all", "rel/nan-all", "rel/zero-all-but-head"):
        accused = [c.repo_id for c in case.ask(name).candidates if c.verdict in ("derived", "related")]
        yield "06", f"relatives of {name}", [], accused


def retrained(case: Case) -> Iterator[Row]:
    revisions = {case.ask("me/tune").model.checkpoint_id}
    for step in range(1, 5):
        case.make(str(step))
        case.crawl()
        case.database.refresh()
        revisions.add(case.ask("me/tune").model.checkpoint_id)
        yield "07", f"revisions after change {step}", step + 1, len(revisions)


def broken(case: Case) -> Iterator[Row]:
    words = {
        "pickle": "never loaded",
        "html": "it is a web page",
        "lfs": "git lfs pull",
        "zero-bytes": "the file is empty",
        "truncated": "cut short",
        "trailing": "followed by other bytes",
    }
    for name, word in words.items():
        line = next((line for line in case.errors.splitlines() if f"odd/{name}/" in line), "")
        yield "08", f"{name}: {word}", True, word in line
    for name in ("config-bom", "config-huge", "config-invalid", "empties", "bom-index"):
        yield "08", f"{name} beside plain", "identical", str(case.pair(f"odd/{name}", "odd/plain").relation)
    lying = case.pair("odd/lying-index", "odd/plain").relation
    yield (
        "08",
        "an index that lies: noted, and not identical",
        (True, True),
        (
            case.notes("odd/lying-index", "incomplete"),
            lying != "identical",
        ),
    )
    yield "08", "warnings on stderr", False, "Warning" in case.errors


def foldered(case: Case) -> Iterator[Row]:
    repos = case.repos()
    yield "10", "repos read", 8, len(repos)
    yield "10", "asked by their own names", True, all(case.ask(repo).model.repo_id == repo for repo in repos)
    yield "10", "base of the DoRA", ("org/my-model",), case.ask("org/dora").model.declared_parents


def mixed(case: Case) -> Iterator[Row]:
    accused = [
        c.repo_id for c in case.ask("x/shares-embeddings-norms").candidates if c.verdict in ("derived", "related")
    ]
    yield "11", "relatives of a stranger with shared embeddings", [], accused
    pair = case.pair("old/child", "old/base")
    yield "11", "equal default dates: direction", "unknown", str(pair.direction)
    yield "11", "escape codes", False, "\x1b" in case.errors


def stitched(case: Case) -> Iterator[Row]:
    parents = {c.repo_id for c in case.ask("mix/franken").candidates if c.verdict == "derived"}
    yield "12", "parents of mix/franken", {"a/a", "b/b"}, parents


QUESTIONS: dict[str, Callable[[Case], Iterator[Row]]] = {
    "01": wrapped,
    "02": overlaid,
    "04": carded,
    "05": spelled,
    "06": valued,
    "07": retrained,
    "08": broken,
    "10": foldered,
    "11": mixed,
    "12": stitched,
}


def main() -> None:
    """Print one line for every question, and how many are right."""
    scripts = Path(sys.argv[1]) if len(sys.argv) > 1 else CASES
    if not scripts.is_dir():
        print(f"{scripts}: no cases there, nothing to measure")
        return
    total = right_ones = 0
    with tempfile.TemporaryDirectory() as work:
        for number, questions in QUESTIONS.items():
            more = (str(Path(work) / "case-11"),) if number == "12" else ()
            for name, question, right, found in questions(Case(scripts, Path(work), number, *more)):
                total += 1
                right_ones += right == found
                print(f"{name}  {'ok ' if right == found else 'NO '} {question}: right {right!r}, answer {found!r}")
    print(f"{right_ones} of {total} right")


if __name__ == "__main__":
    main()
