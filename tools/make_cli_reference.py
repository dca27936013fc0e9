"""Write docs/cli.md from the help of every command, and docs/tables.md from the columns of `schemas.tables`.

    python -m tools.make_cli_reference [--check]

With --check nothing is written: the exit status is 1 when a page is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pyarrow as pa

from provenance.cli import COMMANDS, provenance
from provenance.schemas.tables import TABLES, schema
from provenance.settings import VARIABLES

DOCS = Path(__file__).resolve().parent.parent / "docs"
WIDTH = 100
NOTICE = "<!-- Written by `python -m tools.make_cli_reference`; change the source, not this page. -->"

VIEWS = """\
## latest_checkpoints

The columns of [`checkpoints`](#checkpoints), with one row per (repo_id, subfolder, variant): the newest revision;
of its fingerprints a full one before a sampled one; of those the newest version.

## descendants

All descendants of a repo, over any number of generations, by the rows of [`lineage`](#lineage) whose verdict is
`derived`.

| column | type | what |
| --- | --- | --- |
| `root` | text | repo id of the ancestor |
| `descendant` | text | repo id of the descendant |
| `depth` | integer | generations between them, on the shortest path |
| `path` | list of text | repo ids on that path, including both ends |
"""


def cli_page() -> str:
    """The help of `provenance` and of each of its commands."""
    top = _context(provenance, "provenance")
    parts = [NOTICE, "# Command line", _fenced(top.get_help())]
    for name in COMMANDS:
        command = provenance.get_command(top, name)
        if command is None:
            raise LookupError(f"provenance.cli.COMMANDS names {name!r}, and there is no such command")
        parts += [f"## provenance {name}", _fenced(_context(command, name, top).get_help())]
    rows = [f"| `{name.replace(', ', '` `')}` | {what} |" for name, what in VARIABLES.items()]
    parts += ["## Environment variables", "\n".join(["| variable | what |", "| --- | --- |", *rows]), COMPLETION]
    return "\n\n".join(parts) + "\n"


def tables_page() -> str:
    """Every table with its columns, and the derived views."""
    parts = [
        NOTICE,
        "# Tables",
        "These views are available in `provenance sql`, and in any DuckDB client that opens `provenance.duckdb` in the "
        "store. Any column may be null, which means not known, never zero.",
    ]
    for table in TABLES:
        rows = [
            f"| `{field.name}` | {_type(field.type)} | {field.metadata[b'doc'].decode()} |" for field in schema(table)
        ]
        parts += [f"## {table}", "\n".join(["| column | type | what |", "| --- | --- | --- |", *rows])]
    return "\n\n".join([*parts, VIEWS])


COMPLETION = """\
## Completion

This makes bash complete commands, options, ids of the store (that of `PROVENANCE_STORE`, or of `--store` where it was
typed before) and names of shipped queries; for zsh write `zsh_source` and `~/.zshrc`:

<!-- not run: changes a home folder -->
```console
$ echo 'eval "$(_PROVENANCE_COMPLETE=bash_source provenance)"' >> ~/.bashrc
```

fish takes it as a file:

<!-- not run: changes a home folder -->
```console
$ _PROVENANCE_COMPLETE=fish_source provenance > ~/.config/fish/completions/provenance.fish
```"""

PAGES = {"cli.md": cli_page, "tables.md": tables_page}


def stale() -> list[str]:
    """Names of the pages that differ from their sources."""
    return [name for name, page in PAGES.items() if not _same(DOCS / name, page())]


def main() -> None:
    if sys.argv[1:] == ["--check"]:
        if names := stale():
            sys.exit(f"stale: {', '.join(names)} in docs/; run `python -m tools.make_cli_reference`")
        return
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    return command.make_context(name, [], parent, resilient_parsing=True, terminal_width=WIDTH)


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def _fenced(text: str) -> str:
    return f"```text\n{text}\n```"


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return f"({', '.join(field.name for field in kind)})"
    names = {"string": "text", "binary": "bytes", "bool": "yes or no", "double": "float", "int64": "integer"}
    return names.get(str(kind), "time, UTC" if pa.types.is_timestamp(kind) else str(kind))


if __name__ == "__main__":
    main()
