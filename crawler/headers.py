"""What the headers and the config of a checkpoint say of its tensors: all that is known before a weight is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from provenance.crawler.architectures import read_names
from provenance.crawler.formats.gguf import Value
from provenance.crawler.formats.gguf_facts import check_model, config_of
from provenance.crawler.formats.header import FileHeader, read_header
from provenance.crawler.formats.packing.recognise import Unpacked, may_be_packed, unpack
from provenance.crawler.formats.safetensors import MAX_TENSORS
from provenance.crawler.shards import follow_index
from provenance.schemas.enums import Stage
from provenance.schemas.errors import WeightsError
from provenance.schemas.protocols import TensorReader
from provenance.schemas.records import ListedCheckpoint
from provenance.schemas.tensors import ResolvedRoles, TensorEntry

_MAX_CONFIG_BYTES = 4 * 1024 * 1024
_MAX_LENGTH = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Headers:
    """The tensors of a checkpoint, as stored and with their roles.

    Attributes:
        stored: all stored tensors, file after file.
        unpacked: the same, with one entry for each group of tensors that makes one packed matrix.
        resolved: the roles of the unpacked ones.
        config: parsed config.json, params.json or adapter_config.json, or the part of it that was listed where that was
            enough; of a GGUF file what its metadata says; null without one.
        config_decides: the same files with another config.json may have other roles.
        gguf: metadata of a GGUF file, else null.
        notes: what the index of the shards leaves out; why a config was ignored.
    """

    stored: tuple[TensorEntry, ...]
    unpacked: Unpacked
    resolved: ResolvedRoles
    config: Mapping[str, object] | None
    config_decides: bool
    gguf: Mapping[str, Value] | None
    notes: tuple[str, ...]


def read_headers(reader: TensorReader, listed: ListedCheckpoint) -> Headers:
    """Read the headers of all files of a checkpoint, and its config where they leave a question open.

    Raises:
        HeaderError: the header of a file violates its format.
        WeightsError: files are missing or contradict each other, or have too many tensors.
        SkippedCheckpoint: the files are of a format that is not read, or no model.
        CheckpointError: a file cannot be read.
    """
    headers = _file_headers(reader, listed)
    found, shard_notes = follow_index(listed, [entry for header in headers for entry in header.entries], reader)
    stored = tuple(found)
    _check_lengths(stored, listed.identity.repo_id)
    if (gguf := headers[0].gguf) is not None:
        check_model(gguf, listed.weight_files)
        facts = config_of(gguf, stored)
        resolved = read_names(stored).with_config(facts)
        return Headers(stored, Unpacked(stored, None, ()), resolved, facts, False, gguf, tuple(shard_notes))
    config, notes = listed.config, list[str]()
    whole = config is None or may_be_packed(stored)  # a listing has a part of the config only
    if whole:
        config, notes = _read_config(reader, listed.config_file)
    unpacked = unpack(stored, config, reader)
    reading = read_names(unpacked.entries)
    resolved = reading.with_config(config or listed.config)
    if (reading.needs_config or resolved.adapter) and not whole:
        config, notes = _read_config(reader, listed.config_file)
        resolved = reading.with_config(config or listed.config)
    return Headers(stored, unpacked, resolved, config, reading.needs_config, None, (*shard_notes, *notes))


def _file_headers(reader: TensorReader, listed: ListedCheckpoint) -> list[FileHeader]:
    repo, n_tensors = listed.identity.repo_id, 0
    headers = []
    for path in listed.weight_files:
        headers.append(read_header(reader, path, repo))
        n_tensors += len(headers[-1].entries)
        if n_tensors > MAX_TENSORS:
            raise WeightsError(f"{repo}: more than {MAX_TENSORS:,} tensors are not read", stage=Stage.HEADER)
    return headers


def _check_lengths(entries: Sequence[TensorEntry], repo: str) -> None:
    for entry in entries:
        # The format allows any unsigned 64-bit length if another one is zero; the store's columns are signed.
        if max(entry.shape, default=0) > _MAX_LENGTH:
            raise WeightsError(
                f"{repo}: tensor {entry.name!r} in {entry.file} has the shape {list(entry.shape)[:4]}, and no tensor "
                "is that long; write the file again",
                stage=Stage.HEADER,
            )


def _read_config(reader: TensorReader, path: str | None) -> tuple[Mapping[str, object] | None, list[str]]:
    """A config, null where there is none of use; and a note that says why it was ignored."""
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
