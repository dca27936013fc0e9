"""What somebody who mistyped a name may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

CUTOFF = 0.6
"""Similarity from which a name is suggested (`difflib`'s ratio)."""


def closest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Up to `n` known names like this one, the most similar first: whatever its case, and with or without the owner."""
    by_key: dict[str, str] = {}
    for full in known:
        by_key.setdefault(full.lower(), full)
        by_key.setdefault(full.lower().rpartition("/")[2], full)
    keys = [name.lower(), name.lower().rpartition("/")[2]]
    found = [by_key[match] for key in keys for match in get_close_matches(key, by_key, n, CUTOFF)]
    found += [full for key, full in by_key.items() if len(keys[1]) > 2 and key.startswith(keys[1])]
    return list(dict.fromkeys(found))[:n]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name; empty if no known one is like it."""
    found = closest(name, known)
    if not found:
        return ""
    *others, last = found
    return f"; did you mean {', '.join(others)} or {last}?" if others else f"; did you mean {last}?"
