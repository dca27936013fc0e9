"""Which shard a tensor is read from: the index of the shards decides, where there is one.

A repo can keep stale copies of tensors that a later shard replaces, and leftovers of another version. Loaders follow
the `weight_map` of the index, and so does this.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

from provenance.schemas.enums import Source
from provenance.schemas.errors import WeightsError
from provenance.schemas.protocols import TensorReader
from provenance.schemas.records import ListedCheckpoint
from provenance.schemas.tensors import TensorEntry

MAX_INDEX_BYTES = 32 * 1024 * 1024
"""Limit of a shard index. The largest known have 15 MB (140,000 tensors); parsed, one takes 25 times its size."""

_NAMED = 3
_LONG = 80


def follow_index(
    listed: ListedCheckpoint, entries: list[TensorEntry], reader: TensorReader
) -> tuple[list[TensorEntry], list[str]]:
    """The tensors of a checkpoint, and notes about those that its index does not assign to the file they are in.

    On a hub, where it costs a request, the index is read only if a tensor is in several shards.

    Args:
        listed: the checkpoint.
        entries: the tensors of all its files.
        reader: reads the index.

    Raises:
        WeightsError: a tensor is in several files, and no index says which counts.
    """
    repo, path = listed.identity.repo_id, listed.index_file
    repeated = len({entry.name for entry in entries}) < len(entries)
    notes: list[str] = []
    if path is not None and (repeated or listed.source is Source.LOCAL):
        try:
            weight_map = weight_map_of(read_index(reader, path), path)
            entries, notes = assigned(entries, weight_map, path.rpartition("/")[0])
        except WeightsError as error:
            if repeated:
                raise
            notes = [f"shards: {error}; it was not followed"]
    _check_repeats(entries, repo)
    return entries, notes


def read_index(reader: TensorReader, path: str) -> object:
    """The JSON of a shard index.

    Raises:
        WeightsError: it is too long or no JSON.
    """
    length = reader.size(path)
    if length > MAX_INDEX_BYTES:
        raise WeightsError(f"{path} is too long: a shard index has at most {MAX_INDEX_BYTES:,} bytes")
    try:
        return json.loads(b"".join(reader.read(path, [(0, length)])).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not valid JSON: {error}") from error


def weight_map_of(index: object, path: str) -> Mapping[str, str]:
    """The file of every tensor, in a shard index.

    Raises:
        WeightsError: the index is malformed.
    """
    weight_map = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise WeightsError(f"{path} is not a shard index: it has no weight_map of tensor names to files")
    return weight_map


def assigned(
    entries: Sequence[TensorEntry], weight_map: Mapping[str, str], folder: str
) -> tuple[list[TensorEntry], list[str]]:
    """The tensors that an index assigns to the file they are in, and a note for each kind of others.

    Args:
        entries: of all files.
        weight_map: of the index; if it names none of the tensors, it is not followed.
        folder: of the index in its repo, empty for the root.

    Returns:
        tensors in their order. A tensor that the index does not name is left out; one that it assigns to a file
        without it is missing.
    """
    prefix = f"{folder}/" if folder else ""
    kept = [entry for entry in entries if prefix + str(weight_map.get(entry.name)) == entry.file]
    if not kept:
        return list(entries), ["shards: their index names none of their tensors, and was not followed"]
    found = {entry.name for entry in kept}
    stale = {entry.name for entry in set(entries).difference(kept) if entry.name in weight_map}
    leftover = {entry.name for entry in entries if entry.name not in weight_map}
    missing = [name for name in weight_map if name not in found]
    notes = [
        _note(stale & found, "copies in other shards than the index assigns were ignored"),
        _note(leftover, "in no entry of the index: ignored"),
        _note(missing, "named by the index, but in no shard that it assigns: the checkpoint is incomplete"),
    ]
    return kept, [note for note in notes if note]


def _check_repeats(entries: Sequence[TensorEntry], repo: str) -> None:
    files: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        files[entry.name].append(entry.file)
    for name, places in files.items():
        if len(places) > 1:
            raise WeightsError(
                f"{repo}: tensor {name!r} is in {places[0]} and again in {places[1]}, and no index of the shards says "
                "which counts; remove one, or add the index"
            )


def _note(names: Sequence[str] | set[str], what: str) -> str:
    if not names:
        return ""
    some = ", ".join(_safe(name) for name in sorted(names)[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"shards: {some}{more}: {what}"


def _safe(name: str) -> str:
    return name[:_LONG].encode("unicode_escape").decode("ascii")
