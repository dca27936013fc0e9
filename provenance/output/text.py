"""Single values as text for a person."""

from __future__ import annotations

import math
import re
from datetime import datetime

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

ELLIPSIS = "…"


def clean(text: object) -> str:
    """Untrusted text, without control and direction-changing characters."""
    return _CONTROL.sub("�", str(text))


def clean_lines(text: str) -> str:
    """Untrusted text of several lines, each without control and direction-changing characters."""
    return "\n".join(map(clean, text.split("\n")))


def show(value: object) -> str:
    """One value as text for a person."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if value and (abs(value) < 1e-3 or abs(value) >= 1e6) else f"{value:.3f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, list | tuple):
        return ", ".join(clean(item) for item in value)
    return clean(value)


def show_bytes(n: float) -> str:
    """A number of bytes with a unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def chance(log10_p: float) -> str:
    """A p-value in words, from its logarithm: `by chance 1 in 630`, `by chance under 1 in 10^26`."""
    if log10_p > -1:
        return "no more than chance gives"
    if log10_p > -4:
        one_in = float(f"{10**-log10_p:.2g}")
        return f"by chance 1 in {one_in:,.0f}"
    # 1e-26 itself is 1 in 10^26; anything smaller is under it.
    return f"by chance under 1 in 10^{math.floor(-log10_p)}"


def shorten(text: str, width: int) -> str:
    """Text of at most `width` terminal cells: a name keeps both ends, several words their beginning."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    if " " in text:
        return set_cell_size(text, width - 1).rstrip() + ELLIPSIS
    tail = (width - 1) // 2
    end = text[-tail:] if tail else ""
    while cell_len(end) > tail:
        end = end[1:]
    return set_cell_size(text, width - 1 - cell_len(end)).rstrip() + ELLIPSIS + end
