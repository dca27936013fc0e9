"""Dossiers of many checkpoints in one folder, memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from provenance.indexer.arrays import map_array
from provenance.indexer.dossier import FACT, Dossier
from provenance.indexer.dossier_meta import DossierMeta
from provenance.indexer.product_file import ProductFile
from provenance.schemas.errors import StoreCorruptError
from provenance.schemas.sampling import SAMPLE_CELLS


class DossierFile:
    """Dossiers of many checkpoints in one folder, memory-mapped: `meta.jsonl`, `facts.npy`, `samples.npy`, offsets.

    Their sketches of products lie beside them.

    Raises:
        StoreCorruptError: the files are inconsistent, or the metadata of a row cannot be read.
        OSError, ValueError: a file is missing, truncated, or contains something else.
    """

    def __init__(self, folder: Path, *, products: bool) -> None:
        """Map the files in `folder`; an index of an earlier version has no `products`."""
        self._samples = map_array(folder / "samples.npy", np.float16)
        self._facts = map_array(folder / "facts.npy", FACT)
        self._fact_offsets = map_array(folder / "fact_offsets.npy", np.int64)
        self._meta = np.memmap(folder / "meta.jsonl", dtype=np.uint8, mode="r") if len(self._samples) else None
        self._meta_offsets = map_array(folder / "meta_offsets.npy", np.int64)
        self._products = ProductFile(folder) if products else None
        lengths = len(self._facts), 0 if self._meta is None else len(self._meta)
        if (
            not len(self._samples) + 1 == len(self._fact_offsets) == len(self._meta_offsets)
            or (self._products is not None and len(self._products) != len(self._samples))
            or (int(self._fact_offsets[-1]), int(self._meta_offsets[-1])) != lengths
        ):
            raise StoreCorruptError(f"{folder}: the files of the index do not fit each other; run `provenance index`")

    @property
    def has_products(self) -> bool:
        """Whether the products of any checkpoint are known."""
        return bool(self._products)

    def __len__(self) -> int:
        return len(self._samples)

    def meta(self, row: int) -> DossierMeta:
        """Metadata of one checkpoint."""
        if self._meta is None:
            raise IndexError(row)
        raw = self._meta[int(self._meta_offsets[row]) : int(self._meta_offsets[row + 1])].tobytes()
        try:
            return DossierMeta.from_line(raw)
        except ValueError as error:
            raise StoreCorruptError(
                f"damaged index (metadata of row {row}: {error}); run `provenance index`"
            ) from error

    def __getitem__(self, row: int) -> Dossier:
        facts = self._facts[int(self._fact_offsets[row]) : int(self._fact_offsets[row + 1])]
        products = self._products[row] if self._products is not None else None
        return Dossier(self.meta(row), np.asarray(facts), np.asarray(self._samples[row]), products)

    @staticmethod
    def write(folder: Path, dossiers: Sequence[Dossier]) -> None:
        """Write dossiers into a new folder."""
        n = len(dossiers)
        samples = np.lib.format.open_memmap(
            folder / "samples.npy", mode="w+", dtype=np.float16, shape=(n, SAMPLE_CELLS)
        )
        with (folder / "meta.jsonl").open("wb") as stream:
            ends = [0]
            for i, dossier in enumerate(dossiers):
                samples[i, : len(dossier.values)] = dossier.values
                stream.write(dossier.meta.to_line().encode() + b"\n")
                ends.append(stream.tell())
        samples.flush()
        np.save(folder / "meta_offsets.npy", np.array(ends, dtype=np.int64))
        sizes = np.array([0, *(len(d.facts) for d in dossiers)], dtype=np.int64)
        np.save(folder / "fact_offsets.npy", np.cumsum(sizes))
        np.save(folder / "facts.npy", np.concatenate([d.facts for d in dossiers]) if n else np.zeros(0, dtype=FACT))
        ProductFile.write(folder, [dossier.products for dossier in dossiers])
