"""Sets of facts in 8 bytes each, so that those of a million checkpoints fit into a few megabytes.

A fact that is only ever looked up is kept as 64 bits of a digest: that a million lookups among a million facts find one
by mistake has a chance of 1 in 10 million.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

_NEWEST = 1 << 16


def fact(*parts: str) -> int:
    """64 bits that stand for some texts, none of which holds a NUL."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


class FactSet:
    """A set of 64-bit numbers: sorted, but for the newest. One thread may add to it while others look up."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._newest: set[int] = set()

    def add(self, known: int) -> None:
        """Take in a number, as `fact` gives it."""
        self._newest.add(known)
        if len(self._newest) >= _NEWEST:
            self.sort()

    def sort(self) -> None:
        """Move the newest to the others, 8 bytes each."""
        self._sorted = np.union1d(self._sorted, np.fromiter(self._newest, np.uint64))
        self._newest = set()  # not cleared: another thread may look for one that it misses among the sorted

    def __contains__(self, known: int) -> bool:
        newest, others = self._newest, self._sorted
        if known in newest:
            return True
        place = int(np.searchsorted(others, np.uint64(known)))
        return place < len(others) and int(others[place]) == known
