"""Where did these weights come from? The public API of the provenance database.

    import provenance
    with provenance.open("./provenance-store") as database:
        database.crawl(["./models"])
        database.index()
        answer = database.query("org/name")
        print(answer.verdict, answer.candidates[0].verdict)

Results are typed records of `provenance.schemas.results`. Heavy dependencies are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provenance.database import Database, open_database
    from provenance.query.analytics import SqlRows
    from provenance.schemas.comparison import Comparison
    from provenance.schemas.enums import Direction, ModelVerdict, Relation, Verdict, Witness
    from provenance.schemas.errors import ProvenanceError
    from provenance.schemas.evaluation import Evaluation
    from provenance.schemas.figures import StoreStatus
    from provenance.schemas.results import Answer, Candidate, Evidence, ModelDescription

    open = open_database  # noqa: A001 - reads as provenance.open(...), like gzip.open

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Candidate",
    "Comparison",
    "Database",
    "Direction",
    "Evaluation",
    "Evidence",
    "ModelDescription",
    "ModelVerdict",
    "ProvenanceError",
    "Relation",
    "SqlRows",
    "StoreStatus",
    "Verdict",
    "Witness",
    "__version__",
    "open",
]

_MODULES = {
    "database": ("Database",),
    "query.analytics": ("SqlRows",),
    "schemas.comparison": ("Comparison",),
    "schemas.enums": ("Direction", "ModelVerdict", "Relation", "Verdict", "Witness"),
    "schemas.errors": ("ProvenanceError",),
    "schemas.evaluation": ("Evaluation",),
    "schemas.figures": ("StoreStatus",),
    "schemas.results": ("Answer", "Candidate", "Evidence", "ModelDescription"),
}
_LAZY = {name: (module, name) for module, names in _MODULES.items() for name in names}
_LAZY["open"] = ("database", "open_database")


if not TYPE_CHECKING:  # a type checker would give every name the type of this function

    def __getattr__(name: str) -> object:
        if name in _LAZY:
            from importlib import import_module

            module, attribute = _LAZY[name]
            return getattr(import_module(f"provenance.{module}"), attribute)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
