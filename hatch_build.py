"""Puts the four rooms at the top of the repository into the one package, `provenance`, also where links are missing.

In a working copy `provenance/crawler` and its three like are symbolic links to the folders at the top, which is how an
editable install, editors and type checkers find them. A checkout by Git on Windows, or a zip archive of the
repository, may hold small text files in their place. Wheels and source archives are therefore made from the folders
themselves; in an unpacked source archive there is one copy of them only, under `provenance/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOMS = ("crawler", "indexer", "query", "schemas")


class Rooms(BuildHookInterface):  # type: ignore[type-arg]
    """Adds `provenance/<room>` to what is built, or refuses to build anything else."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before each build; `version` is `standard` or `editable`."""
        for room in ROOMS:
            top, inside = Path(self.root, room), Path(self.root, "provenance", room)
            if version != "editable":
                build_data["force_include"][str(top if top.is_dir() else inside)] = f"provenance/{room}"
            elif not inside.is_dir():
                self.app.abort(
                    f"provenance/{room} is not a folder: this checkout has no symbolic links, and an editable install "
                    "needs them. Clone anew with `git clone -c core.symlinks=true` (on Windows: in developer mode), "
                    "or install without --editable."
                )
