"""`provenance env`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click

from provenance.commands.options import format_option, store_option, wide_option

PACKAGES = ("click", "duckdb", "faiss-cpu", "huggingface_hub", "numpy", "polars", "pyarrow", "rich", "urllib3")


@click.command()
@store_option
@format_option
@wide_option
def env(store: str | None, output: str | None, wide: bool) -> None:
    """Show versions, platform, store and settings, for reports of bugs.

    Neither tokens nor names and passwords in addresses are shown.

    \b
    Examples:
      provenance env
      provenance env --format markdown
    """
    from provenance.output import choose_format, print_json, print_rows

    facts = dict(_facts(store))
    chosen = choose_format(output)
    if chosen == "json":
        print_json(facts)
    else:
        print_rows([{"what": name, "value": value} for name, value in facts.items()], chosen, wide=wide)


def _facts(store: str | None) -> Iterator[tuple[str, str]]:
    import platform
    import sys
    from importlib.metadata import PackageNotFoundError, version

    from provenance import __version__
    from provenance.settings import SECRET, VARIABLES, store_path

    yield "provenance", __version__
    yield "executable", sys.argv[0]
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "platform", platform.platform()
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, "not installed"
    path = store_path(store).absolute()
    yield "store", str(path)
    yield "store format", _format(path)
    yield "hub", without_secrets(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    for names in VARIABLES:
        for name in names.split(", "):
            if name in os.environ:
                yield name, "set" if names in SECRET else without_secrets(os.environ[name])


def _format(path: os.PathLike[str]) -> str:
    from provenance.indexer.store.store import Store
    from provenance.schemas.errors import StoreError
    from provenance.schemas.tables import FORMAT_VERSION

    try:
        Store.open(os.fspath(path))
    except StoreError as error:
        return f"not readable: {error}"
    return str(FORMAT_VERSION)


def without_secrets(text: str) -> str:
    """An address without user, password, query and fragment; any other text as it is."""
    from urllib.parse import urlsplit, urlunsplit

    try:
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "not an address"
    return urlunsplit((parts.scheme, host, parts.path, "", "")) if parts.netloc else text
