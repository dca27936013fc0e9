"""The default store, and the environment variables that are heeded."""

from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType

STORE_VARIABLE = "PROVENANCE_STORE"
DEFAULT_STORE = "./provenance-store"

VARIABLES = MappingProxyType(
    {
        STORE_VARIABLE: "folder of the store where --store is not given",
        "HF_ENDPOINT": "address of the hub where --endpoint is not given",
        "HF_TOKEN": "token for the hub, else that of `hf auth login`; never printed or stored",
        "HF_HOME": "where `hf auth login` keeps the token",
        "HF_HUB_OFFLINE": "1 refuses every request to a hub",
        "PROVENANCE_PRIVATE_HOSTS": "hosts, separated by commas, that may have private addresses, as the endpoint may",
        "HTTPS_PROXY, HTTP_PROXY, NO_PROXY": "proxies for the hub",
        "NO_COLOR": "any value: no colours",
        "FORCE_COLOR": "any value: colours also where no terminal is seen",
        "COLUMNS": "width of the terminal, where it should not be asked for it",
    }
)
"""Environment variable -> what it does."""

SECRET = frozenset({"HF_TOKEN", "HTTPS_PROXY, HTTP_PROXY, NO_PROXY"})
"""Variables whose values are shown to nobody."""


def store_path(given: str | os.PathLike[str] | None) -> Path:
    """The store to use: the one given, else `PROVENANCE_STORE`, else `./provenance-store`."""
    return Path(given or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE)
