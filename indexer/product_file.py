"""Sketches of products of many checkpoints in one folder, memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from provenance.indexer.arrays import map_array
from provenance.schemas.errors import StoreCorruptError
from provenance.schemas.products import ANCHORS, ProductSketch


class ProductFile:
    """`products.npy` has a row for every layer of every checkpoint with a sketch, `product_tokens.json` the anchors.

    Few checkpoints have anchors of their own, so each kind is written once.

    Raises:
        StoreCorruptError: the files are inconsistent.
        OSError, ValueError: a file is missing, truncated, or contains something else.
    """

    def __init__(self, folder: Path) -> None:
        self._sketches = map_array(folder / "products.npy", np.float16)
        self._layers = map_array(folder / "product_layers.npy", np.int64)
        self._offsets = map_array(folder / "product_offsets.npy", np.int64)
        self._kinds = map_array(folder / "product_kinds.npy", np.int64)
        kinds = json.loads((folder / "product_tokens.json").read_text(encoding="utf-8"))
        self._anchors = [(tuple(anchors), None if tokens is None else tuple(tokens)) for anchors, tokens in kinds]
        n = int(self._offsets[-1])
        if (
            self._sketches.shape != (n, 2, ANCHORS, ANCHORS)
            or len(self._layers) != n
            or len(self._offsets) != len(self._kinds) + 1
            or self._kinds.max(initial=-1) >= len(self._anchors)
        ):
            raise StoreCorruptError(f"{folder}: the files of the index do not fit each other; run `provenance index`")

    def __bool__(self) -> bool:
        """Whether any checkpoint has a sketch."""
        return bool(self._anchors)

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, row: int) -> ProductSketch | None:
        if self._kinds[row] < 0:
            return None
        here = slice(int(self._offsets[row]), int(self._offsets[row + 1]))
        anchors, tokens = self._anchors[int(self._kinds[row])]
        vo, fu = self._sketches[here].astype(np.float32).swapaxes(0, 1)
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
