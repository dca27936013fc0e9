"""A terminal of a given width, and a folder in which the README can be typed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.command_line import MINIATURE, ROOT

EXAMPLE = re.compile(r"(?P<skip><!-- not run: .+? -->\s*)?^```console\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of a page's ```console blocks that begin with `$ `, with those that a backslash continues."""
    found = []
    for example in EXAMPLE.finditer(page.read_text(encoding="utf-8")):
        if example["skip"] is None:
            found += re.findall(r"^\$ ((?:.*\\\n)*.*)$", example["text"], re.MULTILINE)
    return found


def make_clone(folder: Path) -> None:
    """What a newcomer has after `git clone` and the installation by `make`."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, folder / name)
    shutil.copytree(MINIATURE, folder / "provenance" / "miniature")
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    real = Path(sys.executable).parent
    (programs / "provenance").symlink_to(real / "provenance")
    (programs / "activate").write_text(f'PATH="{real}:$PATH"\n')
    (folder / ".venv" / ".ready").touch()


def script(typed: Sequence[str]) -> str:
    """Commands as one session of a shell that stops at the first that fails; each is shown before its output."""
    return "set -eo pipefail\n" + "".join(f"cat <<'TYPED'\n$ {line}\nTYPED\n{line}\n" for line in typed)


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of somebody who has set nothing up."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PROVENANCE_STORE", "COLUMNS", "LINES")}
    return kept | more


def on_terminal(arguments: Sequence[str], width: int, folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """The exit status of a program, and what a terminal of this width shows of it."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
        with subprocess.Popen(
            arguments, cwd=folder, env=dict(environment), stdin=theirs, stdout=theirs, stderr=theirs
        ) as program:
            os.close(theirs)
            shown = b""
            try:
                while piece := os.read(ours, 1 << 16):
                    shown += piece
            except OSError:  # Linux says so when the other side has closed
                pass
            return program.wait(timeout=120), shown.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)
