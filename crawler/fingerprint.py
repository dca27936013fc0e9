"""One checkpoint in, one fingerprint out: header -> roles -> ranges -> statistics, weight sample, sketched products.

`fingerprint` is a pure, picklable function of a listed checkpoint and a reader. It depends neither on the source of the
bytes nor on the destination of the result.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from provenance.crawler.adapters import Adapter, read_adapter
from provenance.crawler.anchors import anchor_tokens, read_tokenizer, spread_anchors
from provenance.crawler.formats.dtypes import is_float
from provenance.crawler.formats.gguf_facts import with_declarations
from provenance.crawler.formats.packing.packed import PackedEntry
from provenance.crawler.headers import Headers, read_headers
from provenance.crawler.metadata import with_adapter_base
from provenance.crawler.oddities import value_notes
from provenance.crawler.plan import SampleSize, plan_matrices
from provenance.crawler.product_plan import plan_products, vocabulary
from provenance.crawler.products import ProductSums
from provenance.crawler.sample import weight_sample
from provenance.crawler.scan import See, scan_matrices
from provenance.schemas.enums import Mode
from provenance.schemas.identity import UNKNOWN_REVISION, CheckpointId
from provenance.schemas.products import ANCHORS, ProductSketch
from provenance.schemas.protocols import TensorReader
from provenance.schemas.records import CheckpointRow, Fingerprint, ListedCheckpoint, TensorRow
from provenance.schemas.roles import Role
from provenance.schemas.sampling import SAMPLE_VERSION
from provenance.schemas.tables import FINGERPRINT_VERSION
from provenance.schemas.tensors import LogicalTensor, ResolvedRoles, TensorEntry, TensorStatistics

_PIECE = 256
"""Bytes read at the start, in the middle and at the end of every tensor, for the revision of a folder without one."""


def fingerprint(
    listed: ListedCheckpoint,
    reader: TensorReader,
    *,
    size: SampleSize | None,
    now: datetime,
    earlier: Fingerprint | None = None,
) -> Fingerprint:
    """Fingerprint one checkpoint.

    Args:
        listed: the checkpoint and the files that hold its weights.
        reader: reads those files.
        size: how much is read; null reads every weight (mode `full`).
        now: the time of the fingerprint, timezone-aware.
        earlier: a fingerprint of the same mode, of files with the same digests: with it only the headers are read,
            unless the config decides which rows of a tensor have which role, or they are of an adapter.

    Raises:
        HeaderError: a weight file's header violates the format.
        WeightsError: files are missing, truncated or contradict each other.
        CheckpointError: any other reason why this checkpoint cannot be read.
    """
    repo = listed.identity.repo_id
    headers = read_headers(reader, listed)
    resolved, gguf = headers.resolved, headers.gguf
    if gguf is not None:
        listed = replace(listed, metadata=with_declarations(listed.metadata, gguf, repo))
    # With another config, a fused tensor may be split differently into parts of the same names and shapes.
    anew = earlier is None or headers.config_decides or resolved.adapter
    known = None if earlier is None or anew else _same_layout(resolved.tensors, earlier.tensors)
    if earlier is not None and known is not None and _as_planned(resolved.tensors, known, size):
        rows, sample, products = known, earlier.sample, earlier.products
    else:
        sums = _product_sums(reader, resolved) if size is None else None
        measured = _measure(reader, resolved.tensors, size, sums.add if sums else None)
        products = _stored_products(reader, listed, sums.sketch()) if sums else None
        rows = [_tensor_row(tensor, measured.get(_key(tensor))) for tensor in resolved.tensors]
        cells = [(tensor, measured[key].cells) for tensor in resolved.tensors if (key := _key(tensor)) in measured]
        if resolved.adapter:
            adapter = read_adapter(reader, headers.stored, headers.config)
            resolved = _with_updates(resolved, adapter)
            listed = replace(listed, metadata=with_adapter_base(listed.metadata, repo, headers.config))
            rows += adapter.rows
            cells += zip(adapter.resolved.tensors, adapter.cells, strict=True)
        sample = weight_sample(cells)
    identity = listed.identity
    if identity.revision == UNKNOWN_REVISION:
        identity = replace(identity, revision=_revision(headers.stored, rows, reader))
    mode = Mode.FULL if size is None else Mode.SAMPLED
    checkpoint = _checkpoint_row(identity, listed, resolved, headers, rows, reader, mode, now)
    return Fingerprint(checkpoint, listed.files, tuple(rows), sample, products)


def _with_updates(resolved: ResolvedRoles, adapter: Adapter) -> ResolvedRoles:
    """The roles of an adapter's stored tensors, with the layers and the width of what it changes."""
    updates = adapter.resolved
    return replace(
        resolved,
        n_layers=updates.n_layers,
        hidden_size=updates.hidden_size,
        notes=(*adapter.notes, *resolved.notes),
    )


def _revision(entries: Sequence[TensorEntry], rows: Sequence[TensorRow], reader: TensorReader) -> str:
    """What stands for the commit of a folder without one: a digest that any retraining changes, the same in each mode.

    Of headers, of sampled cells, and of some bytes of every tensor: embeddings and heads have no cells.
    """
    header = sorted(f"{entry.name}|{entry.dtype}|{entry.shape}" for entry in entries)
    cells = sorted(f"{row.name}|{row.part}|{row.digest}" for row in rows)
    pieces: dict[str, list[tuple[str, int, int]]] = defaultdict(list)  # by file: a label, and the bytes
    for entry in sorted(entries, key=lambda entry: entry.start):
        last = max(entry.start, entry.stop - _PIECE)
        for start in sorted({entry.start, (entry.start + last) // 2, last}):
            label = f"{entry.name}|{start - entry.start}"
            pieces[entry.file].append((label, start, min(entry.stop, start + _PIECE)))
    read = [
        f"{label}|{hashlib.sha256(data).hexdigest()}"
        for path, places in pieces.items()
        for (label, *_), data in zip(places, reader.read(path, [place[1:] for place in places]), strict=True)
    ]
    return _digest([*header, *cells, *sorted(read)])


# Stored name, part and expert, which identify a logical tensor of a checkpoint.
_Key: TypeAlias = tuple[str, str | None, int | None]


def _key(tensor: LogicalTensor) -> _Key:
    return tensor.name, tensor.part, tensor.expert


@dataclass(frozen=True, slots=True)
class _Measured:
    """The results of a scanned tensor, kept without its bands to save memory."""

    statistics: TensorStatistics
    digest: str | None
    cells: NDArray[np.float64] | None


def _product_sums(reader: TensorReader, resolved: ResolvedRoles) -> ProductSums | None:
    """What takes the products of a checkpoint that is read whole; null where no tokens can be sketched between."""
    n_tokens = vocabulary(resolved)
    return ProductSums(reader, plan_products(resolved, spread_anchors(n_tokens))) if n_tokens >= ANCHORS else None


def _stored_products(reader: TensorReader, listed: ListedCheckpoint, sketch: ProductSketch) -> ProductSketch | None:
    """A sketch as it is stored, with the strings of its tokens; null if nothing of it is finite."""
    if not any(np.isfinite(values).any() for values in (sketch.vo, sketch.fu)):
        return None
    path = PurePosixPath(listed.config_file or listed.weight_files[0]).with_name("tokenizer.json")
    tokens = anchor_tokens(read_tokenizer(reader, str(path)), sketch.anchors)
    vo, fu = (values.astype(np.float16).astype(np.float32) for values in (sketch.vo, sketch.fu))
    return replace(sketch, vo=vo, fu=fu, tokens=tokens)


def _measure(
    reader: TensorReader, tensors: Sequence[LogicalTensor], size: SampleSize | None, see: See | None
) -> dict[_Key, _Measured]:
    plans, gap_bytes = plan_matrices(tensors, size), size.gap_bytes if size else 0
    return {
        _key(scan.tensor): _Measured(scan.statistics(), scan.digest(), scan.cells)
        for scan in scan_matrices(reader, plans, gap_bytes, see)
    }


def _tensor_row(tensor: LogicalTensor, measured: _Measured | None) -> TensorRow:
    n_elements = 1
    for length in tensor.shape:
        n_elements *= length
    place = (tensor.name, tensor.part, tensor.role, tensor.layer, tensor.stack, tensor.expert, tensor.shape)
    if measured is None:
        return TensorRow(*place, tensor.entry.dtype, n_elements)
    statistics = measured.statistics
    return TensorRow(
        *place,
        tensor.entry.dtype,
        n_elements,
        n_read=statistics.n_read,
        mean=statistics.mean,
        std=statistics.std,
        std_error=statistics.std_error,
        skewness=statistics.skewness,
        kurtosis=statistics.kurtosis,
        min=statistics.min,
        max=statistics.max,
        n_nonfinite=statistics.n_nonfinite,
        digest=measured.digest,
    )


def _same_layout(tensors: Sequence[LogicalTensor], earlier: Sequence[TensorRow]) -> list[TensorRow] | None:
    """The earlier rows in the order of `tensors`; null if they are not the same tensors in the same roles."""
    known = {(r.name, r.part, r.role, r.layer, r.stack, r.expert, r.shape, r.dtype): r for r in earlier}
    places = [(t.name, t.part, t.role, t.layer, t.stack, t.expert, t.shape, t.entry.dtype) for t in tensors]
    same = len(earlier) == len(tensors) and known.keys() == set(places)
    return [known[place] for place in places] if same else None


def _as_planned(tensors: Sequence[LogicalTensor], rows: Sequence[TensorRow], size: SampleSize | None) -> bool:
    """Whether the earlier crawl read as much of every whole tensor as `size` asks for; sample sizes may differ."""
    read = {_key(tensor): row.n_read for tensor, row in zip(tensors, rows, strict=True)}
    return all(
        read[_key(plan.parts[0])] == sum(stop - start for start, stop in plan.bands) * plan.columns
        for plan in plan_matrices(tensors, size)
        if len(plan.parts) == 1 and plan.parts[0].rows is None
    )


def _checkpoint_row(
    identity: CheckpointId,
    listed: ListedCheckpoint,
    resolved: ResolvedRoles,
    headers: Headers,
    rows: Sequence[TensorRow],
    reader: TensorReader,
    mode: Mode,
    now: datetime,
) -> CheckpointRow:
    metadata, unpacked = listed.metadata, headers.unpacked
    sizes = {file.path: file.size for file in listed.files}
    elements: Counter[str] = Counter()
    parameters, n_tensors = 0, 0
    counted: set[tuple[str, int, int]] = set()
    for entry in unpacked.entries:
        stored = entry.stored if isinstance(entry, PackedEntry) else 0
        n_tensors += stored or 1
        place = (entry.file, entry.start, entry.stop)
        if place in counted and not stored:
            continue  # tied to another: they share their bytes
        counted.add(place)
        elements[entry.dtype] += entry.n_elements
        parameters += entry.n_elements if stored or is_float(entry.dtype) else 0
    with_role = [row for row in rows if row.role != Role.OTHER]
    return CheckpointRow(
        checkpoint_id=str(identity),
        repo_id=identity.repo_id,
        revision=identity.revision,
        subfolder=identity.subfolder,
        variant=identity.variant,
        source=listed.source,
        author=metadata.author or (identity.repo_id.split("/")[0] if "/" in identity.repo_id else None),
        created_at=metadata.created_at,
        last_modified=metadata.last_modified,
        downloads=metadata.downloads,
        likes=metadata.likes,
        license=metadata.license,
        gated=metadata.gated,
        private=metadata.private,
        pipeline_tag=metadata.pipeline_tag,
        tags=metadata.tags,
        declared_parents=metadata.declared_parents,
        declared_relation=metadata.declared_relation,
        architecture=resolved.architecture,
        model_type=resolved.model_type,
        n_layers=resolved.n_layers,
        hidden_size=resolved.hidden_size,
        n_heads=resolved.n_heads,
        n_kv_heads=resolved.n_kv_heads,
        n_parameters=parameters,
        dtype=elements.most_common(1)[0][0] if elements else None,
        quantization=resolved.quantization or unpacked.method,
        n_tensors=n_tensors,
        n_files=len(listed.weight_files),
        total_bytes=sum(sizes[path] for path in listed.weight_files),
        bytes_read=reader.bytes_read,
        requests=reader.requests,
        mode=mode,
        sample_version=SAMPLE_VERSION,
        fingerprint_version=FINGERPRINT_VERSION,
        fingerprinted_at=now,
        content_digest=_content_digest(with_role),
        resolved=len(with_role),
        unresolved=len(rows) - len(with_role),
        adapter=resolved.adapter,
        notes=(*metadata.notes, *headers.notes, *value_notes(rows), *resolved.notes, *unpacked.notes),
    )


def _content_digest(rows: Iterable[TensorRow]) -> str:
    return _digest(sorted(f"{r.stack}|{r.role}|{r.layer}|{r.expert}|{r.digest}" for r in rows if r.digest is not None))


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
