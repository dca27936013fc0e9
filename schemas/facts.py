"""Sets of facts in 8 bytes each, so that those of a million checkpoints fit into a few megabytes.

Facts are only looked up, never listed, so 64 bits of a digest suffice: the probability that a million lookups among a
million facts give any false positive is 1 in 10 million.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

_NEWEST = 1 << 16


def fact(*parts: str) -> int:
    """A 64-bit digest of some texts, none of which contains a NUL."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


class FactSet:
    """A set of 64-bit numbers: a sorted array and a small set of new ones. One thread may add while others look up."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._newest: set[int] = set()

    def add(self, known: int) -> None:
        """Add a number returned by `fact`."""
        self._newest.add(known)
        if len(self._newest) >= _NEWEST:
            self.sort()

    def sort(self) -> None:
        """Merge the new numbers into the sorted array, 8 bytes each."""
        self._sorted = np.union1d(self._sorted, np.fromiter(self._newest, np.uint64))
        self._newest = set()  # a new set: another thread may still search the old one

    def __contains__(self, known: int) -> bool:
        newest, others = self._newest, self._sorted
        if known in newest:
            return True
        place = int(np.searchsorted(others, np.uint64(known)))
        return place < len(others) and int(others[place]) == known
