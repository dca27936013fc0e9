"""What tests of the command line share: names of the miniature family, and how a run ended."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MINIATURE = ROOT / "provenance" / "miniature"
SCRIPT = str(Path(sys.executable).parent / "provenance")

CHILD, PARENT, DECLARED, STRANGER = (
    "nimblewick/concord-base",
    "quillmarsh/sedge-200k",
    "ostrel/sedge-mail",
    "vantorrel/basalt-200k",
)


@dataclass(frozen=True)
class Done:
    """How a run of the command line ended: exit status, stdout as bytes, stderr."""

    status: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


Run = Callable[..., Done]


def environment(store: Path) -> dict[str, str]:
    """The environment of a script that uses `store`."""
    return {**os.environ, "PROVENANCE_STORE": str(store)}
