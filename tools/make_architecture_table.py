"""Write the coverage table of docs/architectures.md: the roles of every class of transformers, checked by its graph.

    python -m tools.make_architecture_table [SHARE/SHARES]

Prints what is wrong or unknown, and fails if anything is wrong. With a share, as in `0/8`, only prints.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "architectures.md"
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"
PROCESSES = 2

if TYPE_CHECKING:
    from tests.crawler.architectures.sweep import Result


def swept(job: tuple[str, str]) -> Result:
    """The result for one class; runs in a separate process."""
    import torch
    import transformers

    from tests.crawler.architectures.sweep import sweep

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    return sweep(*job)


def table(results: list[Result], version: str) -> str:
    """The section between the markers, as Markdown."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        status = "no softmax attention" if result.status == "right" and not result.softmax else result.status
        groups[status].append(result)
    lines = [f"Written by `make architectures` with transformers {version}: {len(results)} classes.", ""]
    lines += ["| status | classes |", "|---|---|"]
    lines += [f"| {status} | {len(groups[status])} |" for status in sorted(groups)]
    unseen = sorted((r for r in results if r.stacks_seen < r.stacks), key=lambda r: r.name)
    stacks, seen = (sum(getattr(r, of) for r in results) for of in ("stacks", "stacks_seen"))
    lines += [
        "",
        f"Stacks with attention: {stacks}, of which {seen} took part in a forward pass; nothing but their names tells",
    ]
    lines += [f"of the others ({', '.join(f'`{r.name}` {r.stacks - r.stacks_seen}' for r in unseen)})."]
    for status in ("right", "no softmax attention"):
        lines += ["", f"### {status.capitalize()}", "", ", ".join(sorted(f"`{r.name}`" for r in groups[status]))]
    for status in ("wrong", "unknown"):
        if groups[status]:
            lines += ["", f"### {status.capitalize()}", "", "| class | what |", "|---|---|"]
            found = sorted(groups[status], key=lambda r: r.name)
            lines += [f"| `{r.name}` | {_cell('; '.join(r.wrong or r.unknown))} |" for r in found]
    lines += ["", "### Not judged", "", "| class | why |", "|---|---|"]
    lines += [f"| `{r.name}` | {_cell(r.reason)} |" for r in sorted(groups["unjudged"], key=lambda r: r.name)]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")[:200]


def main(arguments: list[str]) -> int:
    """Sweep, print, write; 1 if anything is wrong."""
    import transformers

    from tests.crawler.architectures.zoo import architectures

    jobs = list(architectures().items())
    if arguments:
        share, shares = map(int, arguments[0].split("/"))
        jobs = jobs[share::shares]
    with ProcessPoolExecutor(PROCESSES) as pool:
        results = list(pool.map(swept, jobs))
    for result in results:
        for line in (*result.wrong, *result.unknown):
            sys.stdout.write(f"{result.status:8} {result.name}: {line}\n")
    if not arguments:
        document = DOCUMENT.read_text(encoding="utf-8")
        head, _, rest = document.partition(BEGIN)
        tail = rest.partition(END)[2]
        section = table(results, transformers.__version__)
        DOCUMENT.write_text(f"{head}{BEGIN}\n{section}\n{END}{tail}", encoding="utf-8")
    return int(any(result.wrong for result in results))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
