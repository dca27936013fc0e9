"""Sketches of products of many checkpoints in one folder, memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from provenance.indexer.pages import CheckedArray, CheckedFile
from provenance.schemas.errors import StoreCorruptError
from provenance.schemas.products import ANCHORS, ProductSketch


class ProductFile:
    """`products.npy` has a row for every layer of every checkpoint with a sketch, `product_tokens.json` the anchors.

    Few checkpoints have anchors of their own, so each kind is written once.

    Raises:
        StoreCorruptError: a file is missing or damaged, or they do not fit each other.
    """

    def __init__(self, folder: Path, sums: Mapping[str, NDArray[np.uint32]]) -> None:
        """Map the files in `folder`; `sums` are its checksums."""
        self._sketches = CheckedArray(folder / "products.npy", sums, np.float16)
        self._layers = CheckedArray(folder / "product_layers.npy", sums, np.int64)
        self._offsets = CheckedArray(folder / "product_offsets.npy", sums, np.int64)
        self._kinds = CheckedArray(folder / "product_kinds.npy", sums, np.int64)
        tokens = CheckedFile(folder / "product_tokens.json", sums)
        kinds = json.loads(tokens.read(0, len(tokens)).tobytes())
        self._anchors = [(tuple(anchors), None if words is None else tuple(words)) for anchors, words in kinds]
        n = int(self._offsets[len(self._offsets) - 1])
        if (
            self._sketches.shape != (n, 2, ANCHORS, ANCHORS)
            or len(self._layers) != n
            or len(self._offsets) != len(self._kinds) + 1
        ):
            raise StoreCorruptError(f"{folder}: the files of the index do not fit each other; run `provenance index`")

    def __bool__(self) -> bool:
        """Whether any checkpoint has a sketch."""
        return bool(self._anchors)

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, row: int) -> ProductSketch | None:
        kind = int(self._kinds[row])
        if kind < 0:
            return None
        here = slice(int(self._offsets[row]), int(self._offsets[row + 1]))
        anchors, tokens = self._anchors[kind]
        vo, fu = self._sketches[here].swapaxes(0, 1)  # not copied: a catalogue holds many
        return ProductSketch(tuple(self._layers[here].tolist()), vo, fu, anchors, tokens=tokens)

    @staticmethod
    def write(folder: Path, sketches: Sequence[ProductSketch | None]) -> None:
        """Write sketches, one or none for each checkpoint, into a folder."""
        kinds: dict[tuple[tuple[int, ...], tuple[str, ...] | None], int] = {}
        kind = [-1 if s is None else kinds.setdefault((s.anchors, s.tokens), len(kinds)) for s in sketches]
        ends = np.cumsum([0, *(0 if s is None else len(s.layers) for s in sketches)], dtype=np.int64)
        shape = int(ends[-1]), 2, ANCHORS, ANCHORS
        values = np.lib.format.open_memmap(folder / "products.npy", mode="w+", dtype=np.float16, shape=shape)
        for sketch, start, stop in zip(sketches, ends[:-1], ends[1:], strict=True):
            if sketch is not None:
                values[start:stop] = np.stack([sketch.vo, sketch.fu], axis=1)
        values.flush()
        layers = [layer for sketch in sketches if sketch is not None for layer in sketch.layers]
        np.save(folder / "product_layers.npy", np.array(layers, dtype=np.int64))
        np.save(folder / "product_offsets.npy", ends)
        np.save(folder / "product_kinds.npy", np.array(kind, dtype=np.int64))
        (folder / "product_tokens.json").write_text(json.dumps(list(kinds)), encoding="utf-8")
