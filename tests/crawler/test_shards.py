"""The index of the shards decides which file a tensor is read from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from provenance.crawler.fingerprint import fingerprint
from provenance.crawler.local.folders import find_local, listed_checkpoints
from provenance.schemas.enums import Source
from provenance.schemas.errors import WeightsError
from provenance.schemas.records import Fingerprint, ListedCheckpoint
from tests.conftest import Tensors, llama, trained

FIRST, SECOND, OVERLAY = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "overlay.safetensors"
INDEX = "model.safetensors.index.json"


def write(folder: Path, files: Mapping[str, Tensors], weight_map: object, head: str = "") -> Path:
    folder.mkdir()
    for name, tensors in files.items():
        save_file(tensors, folder / name)
    if weight_map is not None:
        (folder / INDEX).write_text(head + json.dumps({"weight_map": weight_map}), encoding="utf-8")
    return folder


def listed(folder: Path) -> ListedCheckpoint:
    (repo,) = find_local(folder)
    (one,) = listed_checkpoints(repo)
    return one


def read(folder: Path, source: Source = Source.LOCAL) -> Fingerprint:
    (repo,) = find_local(folder)
    with repo.reader() as reader:
        return fingerprint(replace(listed(folder), source=source), reader, size=None, now=datetime.now(UTC))


def halves(tensors: Tensors) -> dict[str, Tensors]:
    names = sorted(tensors)
    half = len(names) // 2
    return {FIRST: {n: tensors[n] for n in names[:half]}, SECOND: {n: tensors[n] for n in names[half:]}}


def mapped(files: Mapping[str, Tensors]) -> dict[str, str]:
    return {name: file for file, tensors in files.items() for name in tensors}


@pytest.mark.parametrize("source", Source)
def test_an_overlay_replaces_what_base_shards_still_hold(tmp_path: Path, source: Source) -> None:
    base = llama(1, layers=2)
    new = {name: t for name, t in trained(base, 2).items() if "o_proj" in name}
    files = halves(base) | {OVERLAY: new}
    found = read(write(tmp_path / "m", files, mapped(files)), source)
    plain = read(write(tmp_path / "p", {"model.safetensors": base | new}, None))
    assert found.checkpoint.content_digest == plain.checkpoint.content_digest
    assert np.array_equal(found.sample.values, plain.sample.values)
    (note,) = found.checkpoint.notes
    assert note.endswith("copies in other shards than the index assigns were ignored")
    assert found.checkpoint.revision == plain.checkpoint.revision


def test_leftovers_that_no_index_names_are_ignored(tmp_path: Path) -> None:
    base = llama(1, layers=2)
    files = halves(base)
    weight_map = mapped(files)
    files[SECOND]["old.layers.0.self_attn.q_proj.weight"] = base["lm_head.weight"]
    first = next(iter(files[FIRST]))
    files[SECOND][first] = files[FIRST][first]
    found = read(write(tmp_path / "m", files, weight_map, head="\ufeff"))
    assert {row.name for row in found.tensors} == set(base)
    assert [note.rpartition(": ")[2] for note in found.checkpoint.notes] == [
        "copies in other shards than the index assigns were ignored",
        "ignored",
    ]


def test_an_index_that_names_absent_tensors(tmp_path: Path) -> None:
    base = llama(1, layers=2)
    files = halves(base)
    gone = "model.layers.0.self_attn.q_proj.weight"
    weight_map = mapped(files)
    for tensors in files.values():
        tensors.pop(gone, None)
    (note,) = read(write(tmp_path / "m", files, weight_map)).checkpoint.notes
    assert note == f"shards: {gone}: named by the index, but in no shard that it assigns: the checkpoint is incomplete"


def test_an_index_of_something_else_or_nothing_is_not_followed(tmp_path: Path) -> None:
    base = llama(1, layers=2)
    (note,) = read(write(tmp_path / "other", halves(base), {"x": FIRST})).checkpoint.notes
    assert "names none of their tensors" in note
    (note,) = read(write(tmp_path / "none", halves(base), [])).checkpoint.notes
    assert "is not a shard index" in note
    assert "not followed" in note


@pytest.mark.parametrize("weight_map", [None, []])
def test_repeats_without_an_index_that_decides_are_refused(tmp_path: Path, weight_map: object) -> None:
    base = llama(1, layers=2)
    with pytest.raises(WeightsError, match=r"no index of the shards|is not a shard index"):
        read(write(tmp_path / "m", {FIRST: base, SECOND: base}, weight_map))
