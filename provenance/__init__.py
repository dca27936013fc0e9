"""Where did these weights come from? The public API of the provenance database.

    import provenance
    with provenance.open("./provenance-store") as database:
        database.crawl(["./models"])
        database.index()
        answer = database.query("org/name")

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provenance.database import Database, open_database
    from provenance.schemas.errors import ProvenanceError

__version__ = "0.1.0"
__all__ = ["Database", "ProvenanceError", "__version__", "open"]

_LAZY = {
    "Database": ("provenance.database", "Database"),
    "open": ("provenance.database", "open_database"),
    "ProvenanceError": ("provenance.schemas.errors", "ProvenanceError"),
}

if TYPE_CHECKING:
    open = open_database  # noqa: A001 - reads as provenance.open(...), like gzip.open


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        module, attribute = _LAZY[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
