"""The dossier: all data of one checkpoint that a query needs, in a memory-mapped form.

A dossier is a row of metadata (JSON), an array of fixed-width facts (one per tensor with a role) and a fixed-width
weight sample. A query of a stored model reads only dossiers and vectors, never Parquet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from provenance.indexer.dossier_meta import META_COLUMNS, DossierMeta, meta_of
from provenance.schemas.roles import ATTENTION, LAYER_MATRICES, MAIN_STACK, ROLE_CODE, VECTORS, Role
from provenance.schemas.sampling import SAMPLED_EXPERTS, SEQUENCE_LENGTH, matrix_cells

if TYPE_CHECKING:
    from provenance.schemas.products import ProductSketch
    from provenance.schemas.records import Fingerprint

FACT = np.dtype(
    [
        ("digest", "<u8"),
        ("rows", "<u4"),
        ("columns", "<u4"),
        ("offset", "<u4"),
        ("count", "<u4"),
        ("mean", "<f4"),
        ("std", "<f4"),
        ("std_error", "<f4"),
        ("skewness", "<f4"),
        ("kurtosis", "<f4"),
        ("layer", "<i4"),
        ("expert", "<i2"),
        ("exponent", "<i2"),
        ("role", "u1"),
        ("padding", "u1"),
    ]
)
"""One tensor: `columns` is 0 for vectors; a null `layer` or `expert` is -1, a null `digest` is 0."""

CONFIG_SUFFIX = ".json"
"""Ending of the files of a checkpoint that hold no weights; unrelated models may share a config."""

_STATISTICS = ("mean", "std", "std_error", "skewness", "kurtosis")
_TENSOR_COLUMNS = ("role", "layer", "expert", "shape", "digest", *_STATISTICS)
_ENTRY_COLUMNS = ("offset", "count", "exponent")
"""Source columns of the facts: those of a tensor, and those of its entry in the sample."""

_MATRIX_CODES = np.array([ROLE_CODE[role] for role in LAYER_MATRICES], dtype=np.uint8)
_MAX_LENGTH = np.iinfo(np.uint32).max
_MAX_FLOAT = float(np.finfo(np.float32).max)
"""Larger numbers, which only float64 checkpoints can have, count as unknown: their squares would overflow."""

_VECTOR_CODES = np.array([ROLE_CODE[role] for role in VECTORS], dtype=np.uint8)


@dataclass(frozen=True)
class Dossier:
    """The data of one checkpoint that a query needs.

    Attributes:
        meta: listed, declared and measured metadata.
        facts: `[n]` of dtype `FACT`, ordered by role, layer, expert.
        values: float16 `[<= 16384]` sample values, scaled by each fact's exponent.
        products: what no inner disguise changes of its layers; null where not every weight was read.
    """

    meta: DossierMeta
    facts: NDArray[np.void]
    values: NDArray[np.float16] = field(repr=False)
    products: ProductSketch | None = field(default=None, repr=False)

    @property
    def repo_id(self) -> str:
        return self.meta.repo_id

    @property
    def checkpoint_id(self) -> str:
        return self.meta.checkpoint_id

    @property
    def has_tokens(self) -> bool:
        """Whether it has a token embedding, without which its products cannot be sketched."""
        return bool((self.facts["role"] == ROLE_CODE[Role.EMBEDDING]).any())

    def curve(self, role: Role, statistic: str = "std") -> NDArray[np.float64]:
        """One statistic of one dense role over the layers, in layer order `[n_layers]`."""
        facts = self.facts
        chosen = facts[(facts["role"] == ROLE_CODE[role]) & (facts["expert"] < 0) & (facts["layer"] >= 0)]
        values: NDArray[np.float64] = chosen[np.argsort(chosen["layer"], kind="stable")][statistic].astype(np.float64)
        return values

    def curves(self, statistic: str = "std") -> dict[str, NDArray[np.float64]]:
        """The curves of q, k, v, o that exist."""
        if statistic not in self._curves:
            curves = {role: self.curve(role, statistic) for role in ATTENTION}
            self._curves[statistic] = {role: curve for role, curve in curves.items() if len(curve)}
        return self._curves[statistic]

    @cached_property
    def _curves(self) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Curves by statistic, cached because a query compares one model with many."""
        return {}

    @cached_property
    def matrices(self) -> Cells:
        """Sample cells of the layer matrices."""
        return self._cells(self.facts[np.isin(self.facts["role"], _MATRIX_CODES) & (self.facts["count"] > 0)])

    @cached_property
    def vectors(self) -> Cells:
        """Sample cells of norms and biases."""
        return self._cells(self.facts[np.isin(self.facts["role"], _VECTOR_CODES) & (self.facts["count"] > 0)])

    def _cells(self, facts: NDArray[np.void]) -> Cells:
        counts = facts["count"].astype(np.int64)
        if len(facts) == 0:
            return Cells(facts, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        owner = np.repeat(np.arange(len(facts)), counts)
        values = np.concatenate([self.values[f["offset"] : f["offset"] + f["count"]] for f in facts])
        position = np.concatenate(
            [
                matrix_cells((int(f["rows"]), int(f["columns"])), _ROLE_NAMES[f["role"]])[: f["count"]]
                if f["columns"]
                else np.arange(f["count"])
                for f in facts
            ]
        )
        weights = np.ldexp(values.astype(np.float64), facts["exponent"].astype(np.int32)[owner])
        keep = np.abs(weights) <= _MAX_FLOAT
        return Cells(facts, owner[keep], position[keep].astype(np.int64), weights[keep])


@dataclass(frozen=True)
class Cells:
    """Sampled weights of several tensors.

    Attributes:
        facts: the tensors.
        owner: `[n]` index into `facts` of the tensor of each cell.
        position: `[n]` its position in the sampling sequence (vectors: its element).
        weights: `[n]` float64 weights.
    """

    facts: NDArray[np.void]
    owner: NDArray[np.int64]
    position: NDArray[np.int64]
    weights: NDArray[np.float64]

    def standardised(self) -> NDArray[np.float64]:
        """Weights centred and scaled per tensor; zero for constant tensors."""
        return standardise(self.weights, self.owner, len(self.facts))


def standardise(weights: NDArray[np.float64], owner: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Centre and scale `weights` within each of `n` groups; a group without spread becomes zero."""
    count = np.maximum(np.bincount(owner, minlength=n), 1)
    mean = np.bincount(owner, weights, minlength=n) / count
    centred = weights - mean[owner]
    spread = np.sqrt(np.bincount(owner, centred**2, minlength=n) / count)
    peak = np.zeros(n)
    np.maximum.at(peak, owner, np.abs(weights))
    flat = spread <= 1e-9 * peak
    out: NDArray[np.float64] = np.where(flat[owner], 0.0, centred / np.where(flat, 1.0, spread)[owner])
    return out


def sketch_cells(dossier: Dossier) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The input of the search sketch: standardised cells summed over layers and experts.

    The sum over the layers makes the sketch robust to dropped, repeated and reordered layers: matching layers add up,
    the others are noise.

    Returns:
        keys `[n]` (role code * 400 + position) and values `[n]`.
    """
    cells = dossier.matrices
    keys = cells.facts["role"].astype(np.int64)[cells.owner] * SEQUENCE_LENGTH + cells.position
    unique, where = np.unique(keys, return_inverse=True)
    return unique, np.bincount(where, cells.standardised(), minlength=len(unique)).astype(np.float32)


def dossier_of(fingerprint: Fingerprint) -> Dossier:
    """The dossier of a fingerprint in memory."""
    entries = {(e.role, e.layer, e.expert): e for e in fingerprint.sample.entries}
    rows = []
    for tensor in fingerprint.tensors:
        if tensor.stack != MAIN_STACK or tensor.role == Role.OTHER or (tensor.expert or 0) >= SAMPLED_EXPERTS:
            continue
        entry = entries.get((tensor.role, tensor.layer, tensor.expert))
        row = {name: getattr(tensor, name) for name in _TENSOR_COLUMNS}
        rows.append(row | {name: entry and getattr(entry, name) for name in _ENTRY_COLUMNS})
    checkpoint = {name: getattr(fingerprint.checkpoint, name, None) for name in META_COLUMNS}
    return Dossier(
        meta_of(checkpoint, [file.sha256 for file in fingerprint.files if is_weights(file.path)]),
        facts_of(rows),
        fingerprint.sample.values,
        fingerprint.products,
    )


def is_weights(path: str) -> bool:
    """Whether a file of a checkpoint contains weights."""
    return not path.endswith(CONFIG_SUFFIX)


def facts_of(rows: Sequence[Mapping[str, Any]]) -> NDArray[np.void]:
    """Rows of tensors joined with their sample entries, as facts in canonical order."""
    facts = np.zeros(len(rows), dtype=FACT)
    for i, row in enumerate(rows):
        shape = row["shape"]
        fact = facts[i]
        fact["digest"] = int(row["digest"][:16], 16) if row["digest"] else 0
        fact["rows"] = min(shape[0], _MAX_LENGTH) if shape else 1
        fact["columns"] = min(shape[1], _MAX_LENGTH) if len(shape) == 2 else 0
        for name in _ENTRY_COLUMNS:
            fact[name] = row[name] or 0
        for name in _STATISTICS:
            fact[name] = row[name] if row[name] is not None and abs(row[name]) <= _MAX_FLOAT else np.nan
        fact["role"] = ROLE_CODE[row["role"]]
        fact["layer"] = -1 if row["layer"] is None else row["layer"]
        fact["expert"] = -1 if row["expert"] is None else row["expert"]
    return facts[np.lexsort((facts["expert"], facts["layer"], facts["role"]))]


_ROLE_NAMES = {code: role for role, code in ROLE_CODE.items()}
