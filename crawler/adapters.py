"""Adapters: what a LoRA changes, from its two factors, without the weights it applies to.

A target of a LoRA gains `scale * B @ A`, with `A` `[rank, in]` and `B` `[out, rank]`. This update is treated as a
matrix of the target's role: its norm and its sample cells are computed from the factors, and never the whole product.
So two adapters are compared as two models are, and a merged model's change from its base as well. Factors are small and
are read whole in every mode.

Sources: Hu et al. 2021 (LoRA); Kalajdzievski 2023 (rsLoRA: the scale is alpha / sqrt(rank)); Liu et al. 2024 (DoRA);
Liu et al. 2022 (IA3); names as in PEFT.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from provenance.crawler.architectures import resolve_roles
from provenance.crawler.architectures.rows import rows_index
from provenance.crawler.cells import cell_positions
from provenance.crawler.formats.dtypes import decode, is_float
from provenance.crawler.plan import MAX_RANGE_BYTES
from provenance.schemas.protocols import TensorReader
from provenance.schemas.records import TensorRow
from provenance.schemas.sampling import OFFSETS, TILE
from provenance.schemas.tensors import LogicalTensor, Order, ResolvedRoles, TensorEntry

UPDATE = "update"
"""Part, in the table `tensors`, of the row of a whole update; its name is that of the stored `B`."""

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.[^.]+)?\.weight")
_KINDS = (
    ("lora_magnitude_vector", "DoRA"),
    ("lora_", "LoRA"),
    ("ia3_", "IA3"),
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("boft_", "BOFT"),
    ("oft_", "OFT"),
    ("vera_", "VeRA"),
    ("prompt_embeddings", "prompt tuning"),
)
_MAX_ELEMENTS = 2**24  # of a factor: rank 1,024 of 16,384 inputs


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter changes.

    Attributes:
        resolved: the updates as logical tensors of their targets; the entry of each is the target's, in its shape.
        rows: a row of `tensors` for each.
        cells: float64 sample cells of each, null for one that has none.
        notes: what kind of adapter it is, in words.
    """

    resolved: ResolvedRoles
    rows: tuple[TensorRow, ...]
    cells: tuple[NDArray[np.float64] | None, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Pair:
    """The two factors of one target."""

    a: TensorEntry
    b: TensorEntry
    scale: float

    @property
    def first(self) -> int:
        return min(self.a.start, self.b.start)

    @property
    def stop(self) -> int:
        return max(self.a.stop, self.b.stop)

    def target(self, module: str, *, turned: bool) -> TensorEntry:
        """The target as if it were stored; `turned` for GPT-2's Conv1D, which stores `[in, out]`."""
        shape = self.b.shape[0], self.a.shape[1]
        return TensorEntry(f"{module}.weight", self.b.dtype, shape[::-1] if turned else shape, self.b.file, 0, 0)


def read_adapter(reader: TensorReader, entries: Sequence[TensorEntry], config: Mapping[str, object] | None) -> Adapter:
    """Read the factors of an adapter whole.

    Args:
        reader: reads its files.
        entries: its stored tensors.
        config: parsed adapter_config.json, or null: then the scale is 1.

    Raises:
        CheckpointError: a file cannot be read.
    """
    config = config or {}
    pairs, left_out = _pairs(entries, config)
    turned = config.get("fan_in_fan_out") is True
    resolved = resolve_roles([pair.target(module, turned=turned) for module, pair in pairs.items()], None)
    parts: dict[str, list[LogicalTensor]] = defaultdict(list)
    for tensor in resolved.tensors:
        parts[tensor.name].append(tensor)
    of_pair = {pair: parts[f"{module}.weight"] for module, pair in pairs.items()}
    tensors, rows, cells = [], [], []
    for pair, a, b in _factors(reader, of_pair):
        for tensor in of_pair[pair]:
            found, row = _update(tensor, a, b, pair)
            tensors.append(tensor)
            rows.append(row)
            cells.append(found)
    notes = (_kind(entries, config, pairs), *left_out, *resolved.notes)
    return Adapter(replace(resolved, tensors=tuple(tensors)), tuple(rows), tuple(cells), notes)


def _update(
    tensor: LogicalTensor, a: NDArray[np.float64], b: NDArray[np.float64], pair: _Pair
) -> tuple[NDArray[np.float64] | None, TensorRow]:
    """Sample cells and row of one update, or of a part of it. Exact: `|BA|² = sum((BᵀB) * (AAᵀ))`."""
    if tensor.rows is not None:
        b = b[rows_index(tensor.rows)]
    n = b.shape[0] * a.shape[1]
    with np.errstate(invalid="ignore", over="ignore"):
        mean = float(b.sum(axis=0) @ a.sum(axis=1)) / n if n else math.nan
        variance = float(((b.T @ b) * (a @ a.T)).sum()) / n - mean * mean if n else math.nan
        cells = _cells(tensor, a, b)
    known = math.isfinite(variance)
    row = TensorRow(
        pair.b.name,
        tensor.part or UPDATE,
        tensor.role,
        tensor.layer,
        tensor.stack,
        tensor.expert,
        tensor.shape,
        pair.b.dtype,
        n,
        n_read=n,
        mean=mean if known else None,
        std=math.sqrt(max(0.0, variance)) if known else None,
        std_error=0.0 if known else None,
        digest=None if cells is None else _digest(tensor, cells),
    )
    return cells, row


def _cells(tensor: LogicalTensor, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The update at the sample cells, in sampling order."""
    plain = replace(tensor, transposed=False, rows=None)
    where = cell_positions(plain)
    if where is None or not len(where):
        return None
    reach = OFFSETS[-1] + TILE
    block = b[:reach] @ a[:, :reach]
    found: NDArray[np.float64] = block[where[:, 0], where[:, 1]]
    return found


def _digest(tensor: LogicalTensor, cells: NDArray[np.float64]) -> str | None:
    """As of a stored tensor, but in single precision: the last bits of a product differ between machines."""
    if np.all(cells == cells[0]):
        return None
    label = f"{UPDATE}|{tensor.shape}|".encode()
    return hashlib.sha256(label + (cells.astype(np.float32) + np.float32(0)).tobytes()).hexdigest()[:32]


def _pairs(entries: Sequence[TensorEntry], config: Mapping[str, object]) -> tuple[dict[str, _Pair], list[str]]:
    """The complete pairs of factors by module, and notes about the others."""
    sides: dict[str, dict[str, TensorEntry]] = defaultdict(dict)
    for entry in entries:
        if (match := _FACTOR.fullmatch(entry.name)) is not None:
            sides[match["module"]][match["side"]] = entry
    pairs, odd = {}, 0
    for module, found in sides.items():
        a, b = found.get("A"), found.get("B")
        if a is None or b is None or not _fit(a, b):
            odd += 1
        else:
            pairs[module] = _Pair(a, b, _scale(module, a.shape[0], config))
    return pairs, [
        f"the updates of {odd} targets are not known: they lack two matrices that fit each other"
    ] if odd else []


def _fit(a: TensorEntry, b: TensorEntry) -> bool:
    matrices = len(a.shape) == len(b.shape) == 2 and 0 not in a.shape + b.shape
    stored = is_float(a.dtype) and is_float(b.dtype) and a.order is b.order is Order.ROWS
    return matrices and stored and a.shape[0] == b.shape[1] and max(a.n_elements, b.n_elements) <= _MAX_ELEMENTS


def _scale(module: str, rank: int, config: Mapping[str, object]) -> float:
    """`alpha / rank`, with the alpha of the module if the config gives it one; 1 if no alpha is known.

    PEFT takes the keys of `alpha_pattern` as regular expressions; here they only match as ends of names.
    """
    patterns = config.get("alpha_pattern")
    patterns = patterns if isinstance(patterns, Mapping) else {}
    own = [value for key, value in patterns.items() if f".{module}".endswith(f".{key}")]
    alpha = own[0] if own else config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        return 1.0
    return alpha / (math.sqrt(rank) if config.get("use_rslora") is True else rank)


def _factors(
    reader: TensorReader, pairs: Iterable[_Pair]
) -> Iterator[tuple[_Pair, NDArray[np.float64], NDArray[np.float64]]]:
    """Every pair with its `A` and its scaled `B`. Neighbours in the file are read together, in bounded memory."""
    groups: list[list[_Pair]] = []
    for pair in sorted(pairs, key=lambda pair: (pair.a.file, pair.first)):
        group = groups[-1] if groups else []
        if group and _near([*group, pair]):
            group.append(pair)
        else:
            groups.append([pair])
    for group in groups:
        if _near(group):
            first, stop = min(pair.first for pair in group), max(pair.stop for pair in group)
            (data,) = reader.read(group[0].a.file, [(first, stop)])
            parts = [data[e.start - first : e.stop - first] for pair in group for e in (pair.a, pair.b)]
        else:
            parts = [next(iter(reader.read(e.file, [(e.start, e.stop)]))) for p in group for e in (p.a, p.b)]
        for pair, a, b in zip(group, parts[::2], parts[1::2], strict=True):
            yield pair, _matrix(pair.a, a), _matrix(pair.b, b) * pair.scale


def _near(group: Sequence[_Pair]) -> bool:
    """Whether some pairs lie so close together in one file that they are read as one range."""
    files = {entry.file for pair in group for entry in (pair.a, pair.b)}
    return len(files) == 1 and max(p.stop for p in group) - min(p.first for p in group) <= MAX_RANGE_BYTES


def _matrix(entry: TensorEntry, data: bytes | memoryview) -> NDArray[np.float64]:
    return decode(data, entry.dtype).reshape(entry.shape).astype(np.float64)


def _kind(entries: Sequence[TensorEntry], config: Mapping[str, object], pairs: Mapping[str, _Pair]) -> str:
    """An adapter in one sentence."""
    kind = next((kind for mark, kind in _KINDS if any(mark in entry.name for entry in entries)), "adapter")
    if kind == "LoRA" and config.get("use_rslora") is True:
        kind = "rsLoRA"
    words = [f"an adapter alone ({kind})"]
    if pairs:
        ranks, scales = {pair.a.shape[0] for pair in pairs.values()}, {pair.scale for pair in pairs.values()}
        words.append(f"rank {_span(ranks)}, scale {_span(scales)}, {len(pairs)} targets")
    saved = [entry.name for entry in entries if not any(mark in entry.name for mark, _ in _KINDS)]
    if saved:
        words.append(f"{len(saved)} tensors saved whole (modules_to_save)")
    return ": ".join([words[0], "; ".join(words[1:])]) if words[1:] else words[0]


def _span(numbers: set[int] | set[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
