"""One checkpoint in, one fingerprint out: header -> roles -> ranges -> statistics and weight sample.

`fingerprint` is a pure, picklable function of what was listed and of a reader: where the bytes come from, and where
the result goes, is somebody else's business.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provenance.crawler.architectures import read_names
from provenance.crawler.formats.dtypes import is_float
from provenance.crawler.formats.safetensors import PREFIX_BYTES, header_stop, parse_header
from provenance.crawler.plan import SampleSize, plan_matrices, plan_ranges
from provenance.crawler.scan import scan_matrices
from provenance.schemas.enums import Stage
from provenance.schemas.errors import WeightsError
from provenance.schemas.identity import UNKNOWN_REVISION, CheckpointId
from provenance.schemas.protocols import TensorReader
from provenance.schemas.records import (
    Fingerprint,
    ListedCheckpoint,
    LogicalTensor,
    ResolvedRoles,
    SampleEntry,
    TensorEntry,
    TensorStatistics,
    WeightSample,
)
from provenance.schemas.roles import MAIN_STACK, VECTORS
from provenance.schemas.sampling import MATRIX_BUDGET, SAMPLE_VERSION, VECTOR_BUDGET, allot, is_sampled
from provenance.schemas.tables import FINGERPRINT_VERSION

_HEADER_GUESS = 32 * 1024
_MAX_CONFIG_BYTES = 4 * 1024 * 1024
_MAX_LENGTH = 2**63 - 1


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
        now: time of the visit, timezone-aware.
        earlier: a fingerprint of the same mode, of files with the same digests: only the headers are read then,
            unless the config decides which rows of a tensor have which role.

    Raises:
        HeaderError: a weight file's header breaks the format.
        WeightsError: files are missing, truncated or contradict each other.
        CheckpointError: anything else that keeps this one checkpoint from being read.
    """
    repo = listed.identity.repo_id
    entries = [entry for path in listed.weight_files for entry in read_header(reader, path, repo)]
    _refuse_impossible(entries, repo)
    config, config_note = listed.config, list[str]()
    reading = read_names(entries)
    if config is None or reading.needs_config:
        config, config_note = _read_config(reader, listed.config_file)
    resolved = reading.with_config(config)
    layout = [_tensor_row(tensor, None) for tensor in resolved.tensors]
    # Another config may cut a fused tensor otherwise, into parts of the same names and shapes.
    known = None if earlier is None or reading.needs_config else _same_layout(layout, earlier.tensors)
    if earlier is not None and known is not None and _as_planned(resolved.tensors, known, size):
        rows, sample = known, earlier.sample
    else:
        scans = _scan(reader, resolved.tensors, size)
        rows = [_tensor_row(tensor, scans.get(_key(tensor))) for tensor in resolved.tensors]
        sample = _weight_sample(resolved.tensors, scans)
    content = _digest(
        sorted(
            f"{r['stack']}|{r['role']}|{r['layer']}|{r['expert']}|{r['digest']}"
            for r in rows
            if r["digest"] is not None and r["role"] != "other"
        )
    )
    identity = listed.identity
    if identity.revision == UNKNOWN_REVISION:
        header = sorted(f"{e.name}|{e.dtype}|{e.shape}" for e in entries)
        cells = sorted(f"{r['name']}|{r['part']}|{r['digest']}" for r in rows)
        identity = replace(identity, revision=_digest(header + cells))
    sizes = {file.path: file.size for file in listed.files}
    checkpoint = {
        **_identity_columns(identity, listed),
        **_shape_columns(resolved, entries, rows),
        "total_bytes": sum(sizes[path] for path in listed.weight_files),
        "n_files": len(listed.weight_files),
        "bytes_read": reader.bytes_read,
        "requests": reader.requests,
        "mode": "full" if size is None else "sampled",
        "sample_version": SAMPLE_VERSION,
        "fingerprint_version": FINGERPRINT_VERSION,
        "fingerprinted_at": now,
        "content_digest": content,
        "notes": [*resolved.notes, *config_note],
    }
    files = tuple(
        {name: getattr(file, name) for name in ("path", "size", "sha256", "xet_hash", "resolved_revision")}
        for file in listed.files
    )
    return Fingerprint(checkpoint, files, tuple(rows), sample)


def read_header(reader: TensorReader, path: str, repo: str) -> tuple[TensorEntry, ...]:
    """The validated header of one safetensors file: one read, or two where it is long.

    Raises:
        HeaderError: the header breaks the format.
    """
    file_size = reader.size(path)
    # A small file has a small header: the guess never costs much more than the header itself.
    guess = min(file_size, max(PREFIX_BYTES, min(_HEADER_GUESS, file_size // 128)))
    (first,) = reader.read(path, [(0, guess)])
    stop = header_stop(first, file_size=file_size, file=path, repo=repo)
    data = bytes(first[:stop])
    if len(data) < stop:
        (rest,) = reader.read(path, [(len(data), stop)])
        data += bytes(rest)
    return parse_header(data, file_size=file_size, file=path, repo=repo).entries


def _refuse_impossible(entries: Sequence[TensorEntry], repo: str) -> None:
    seen: dict[str, str] = {}
    for entry in entries:
        if entry.name in seen:
            raise WeightsError(
                f"{repo}: tensor {entry.name!r} stands in {seen[entry.name]} and again in {entry.file}; "
                "shards must not overlap"
            )
        seen[entry.name] = entry.file
        # The format allows any unsigned 64-bit length beside a zero; the store's columns are signed.
        if max(entry.shape, default=0) > _MAX_LENGTH:
            raise WeightsError(
                f"{repo}: tensor {entry.name!r} in {entry.file} has the shape {list(entry.shape)[:4]}, and no tensor "
                "is that long; write the file anew",
                stage=Stage.HEADER,
            )


def _read_config(reader: TensorReader, path: str | None) -> tuple[Mapping[str, Any] | None, list[str]]:
    if path is None:
        return None, []
    length = reader.size(path)
    if length > _MAX_CONFIG_BYTES:
        return None, [f"{path} is {length:,} bytes long and was not read"]
    (data,) = reader.read(path, [(0, length)])
    try:
        config = json.loads(bytes(data))
    except (ValueError, RecursionError):
        return None, [f"{path} is not valid JSON and was ignored"]
    return (config, []) if isinstance(config, dict) else (None, [f"{path} is not a JSON object and was ignored"])


def _key(tensor: LogicalTensor) -> tuple[str, str | None, int | None]:
    return tensor.name, tensor.part, tensor.expert


@dataclass(frozen=True, slots=True)
class _Measured:
    """What is kept of a scanned tensor: the bands themselves would add up to all that was read."""

    statistics: TensorStatistics
    digest: str | None
    cells: NDArray[np.float64] | None


def _scan(
    reader: TensorReader, tensors: Sequence[LogicalTensor], size: SampleSize | None
) -> dict[tuple[str, str | None, int | None], _Measured]:
    ranges = plan_ranges(plan_matrices(tensors, size), size.gap_bytes if size else 0)
    return {
        _key(scan.tensor): _Measured(scan.statistics(), scan.digest(), scan.cells)
        for path, planned in ranges.items()
        for scan in scan_matrices(reader, path, planned)
    }


def _tensor_row(tensor: LogicalTensor, scan: _Measured | None) -> dict[str, Any]:
    n_elements = 1
    for length in tensor.shape:
        n_elements *= length
    statistics = TensorStatistics() if scan is None else scan.statistics
    return {
        "name": tensor.name,
        "part": tensor.part,
        "role": tensor.role,
        "layer": tensor.layer,
        "stack": tensor.stack,
        "expert": tensor.expert,
        "shape": list(tensor.shape),
        "dtype": tensor.entry.dtype,
        "n_elements": n_elements,
        **{name: getattr(statistics, name) for name in TensorStatistics.__slots__},
        "digest": None if scan is None else scan.digest,
    }


_LAYOUT = ("name", "part", "role", "layer", "stack", "expert", "shape", "dtype")


def _same_layout(
    rows: Sequence[Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]] | None:
    """The earlier rows in the order of `rows`; null where they are not of the same tensors in the same roles."""

    def place(row: Mapping[str, Any]) -> str:
        return repr([row[name] for name in _LAYOUT])

    known = {place(row): dict(row) for row in earlier}
    places = [place(row) for row in rows]
    return [known[place] for place in places] if len(earlier) == len(rows) and known.keys() == set(places) else None


def _as_planned(tensors: Sequence[LogicalTensor], rows: Sequence[Mapping[str, Any]], size: SampleSize | None) -> bool:
    """Whether as much was read of every whole tensor as would be now: a sampled crawl may have been of another size."""
    read = {_key(tensor): row["n_read"] for tensor, row in zip(tensors, rows, strict=True)}
    return all(
        read[_key(plan.parts[0])] == sum(stop - start for start, stop in plan.bands) * plan.columns
        for plan in plan_matrices(tensors, size)
        if len(plan.parts) == 1 and plan.parts[0].rows is None
    )


def _identity_columns(identity: CheckpointId, listed: ListedCheckpoint) -> dict[str, Any]:
    metadata = listed.metadata
    columns = {name: getattr(metadata, name) for name in type(metadata).__slots__}
    columns["tags"], columns["declared_parents"] = list(metadata.tags), list(metadata.declared_parents)
    return {
        "checkpoint_id": str(identity),
        "repo_id": identity.repo_id,
        "revision": identity.revision,
        "subfolder": identity.subfolder,
        "variant": identity.variant,
        "source": listed.source,
        **columns,
        "author": metadata.author or (identity.repo_id.split("/")[0] if "/" in identity.repo_id else None),
    }


def _shape_columns(
    resolved: ResolvedRoles, entries: Sequence[TensorEntry], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    elements: Counter[str] = Counter()
    for entry in entries:
        elements[entry.dtype] += entry.n_elements
    known = sum(row["role"] != "other" for row in rows)
    return {
        "architecture": resolved.architecture,
        "model_type": resolved.model_type,
        "n_layers": resolved.n_layers,
        "hidden_size": resolved.hidden_size,
        "n_heads": resolved.n_heads,
        "n_kv_heads": resolved.n_kv_heads,
        "n_parameters": sum(n for dtype, n in elements.items() if is_float(dtype)),
        "dtype": elements.most_common(1)[0][0] if elements else None,
        "quantization": resolved.quantization,
        "n_tensors": len(entries),
        "resolved": known,
        "unresolved": len(rows) - known,
        "adapter": resolved.adapter,
    }


def _weight_sample(
    tensors: Sequence[LogicalTensor], scans: Mapping[tuple[str, str | None, int | None], _Measured]
) -> WeightSample:
    """The prefix of every sampled tensor's cells that the budgets allow, as scaled float16."""
    sampled = sorted(
        (
            (tensor, scan.cells)
            for tensor in tensors
            if tensor.stack == MAIN_STACK
            and is_sampled(tensor.role, tensor.expert)
            and (scan := scans.get(_key(tensor))) is not None
            and scan.cells is not None
        ),
        key=lambda pair: _canonical(pair[0]),
    )
    kept: list[int] = [0] * len(sampled)
    for vectors, budget in ((False, MATRIX_BUDGET), (True, VECTOR_BUDGET)):
        members = [i for i, (tensor, _) in enumerate(sampled) if (tensor.role in VECTORS) is vectors]
        for i, count in zip(members, allot([len(sampled[i][1]) for i in members], budget), strict=True):
            kept[i] = count
    entries: list[SampleEntry] = []
    values: list[NDArray[np.float16]] = []
    offset = 0
    for (tensor, cells), count in zip(sampled, kept, strict=True):
        if count == 0:
            continue
        exponent, half = to_scaled_half(cells[:count])
        entries.append(
            SampleEntry(tensor.stack, tensor.role, tensor.layer, tensor.expert, tensor.shape, offset, count, exponent)
        )
        values.append(half)
        offset += count
    return WeightSample(
        SAMPLE_VERSION, tuple(entries), np.concatenate(values) if values else np.zeros(0, dtype=np.float16)
    )


def _canonical(tensor: LogicalTensor) -> tuple[str, int, int]:
    """A sampled tensor's place in the sample, wherever it is stored: by role, layer and expert, nulls first."""
    return (
        tensor.role,
        -1 if tensor.layer is None else tensor.layer,
        -1 if tensor.expert is None else tensor.expert,
    )


def to_scaled_half(values: NDArray[np.floating[Any]]) -> tuple[int, NDArray[np.float16]]:
    """Values as float16 under a power of two that uses float16's whole range.

    A power of two changes no mantissa: bfloat16 and float16 weights within 2**-24 of the largest come back exactly.

    Returns:
        exponent `e` and float16 values `h`, so that `values ~ h * 2**e`; non-finite values become NaN.
    """
    finite = np.isfinite(values)
    peak = float(np.abs(values[finite]).max()) if finite.any() else 0.0
    exponent = int(np.frexp(peak)[1]) - 15 if peak > 0 else 0
    scaled = np.ldexp(values.astype(np.float64), -exponent)
    return exponent, np.where(finite, scaled, np.nan).astype(np.float16)


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
