"""The default store. The only module that reads the environment variable."""

from __future__ import annotations

import os
from pathlib import Path

STORE_VARIABLE = "PROVENANCE_STORE"
DEFAULT_STORE = "./provenance-store"


def store_path(given: str | os.PathLike[str] | None) -> Path:
    """The store to use: the one given, else `PROVENANCE_STORE`, else `./provenance-store`."""
    return Path(given or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE)
