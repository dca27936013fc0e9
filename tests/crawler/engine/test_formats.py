"""A crawl reads one model in several formats alike, from a folder and from a hub."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

import provenance
from provenance.crawler.engine.options import CrawlOptions
from provenance.demo_hub import HubRepo, LoopbackHub
from provenance.demo_hub.files import MemoryFile
from provenance.schemas.enums import Relation
from tests.conftest import llama


def pickled(tensors: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


def shards(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    names = list(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    files = {f"pytorch_model-0000{n}-of-00002.bin": half for n, half in enumerate(halves, start=1)}
    index = {"weight_map": {name: file for file, half in files.items() for name in half}}
    contents = {file: pickled({name: tensors[name] for name in half}) for file, half in files.items()}
    return contents | {"pytorch_model.bin.index.json": json.dumps(index).encode()}


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    """One model as safetensors, as PyTorch's file and in shards; and an old file."""
    tensors = {
        name: torch.from_numpy(array.astype(np.float32)) for name, array in llama(1, hidden=256, ffn=512).items()
    }
    old = io.BytesIO()
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    repos = {
        "org/safe": {"model.safetensors": save(tensors)},
        "org/bin": {"pytorch_model.bin": pickled(tensors), "training_args.bin": b"never read"},
        "org/shards": shards(tensors),
        "org/old": {"pytorch_model.bin": old.getvalue()},
    }
    served = [HubRepo(name, {path: MemoryFile(data) for path, data in files.items()}) for name, files in repos.items()]
    with LoopbackHub(served) as hub:
        yield hub


@pytest.mark.parametrize("mode", ["sampled", "full"])
def test_formats_are_read_alike_by_ranges(hub: LoopbackHub, mode: str, tmp_path: Path) -> None:
    with provenance.open(tmp_path / "store", create=True) as database:
        summary = database.crawl(
            ["org/safe", "org/bin", "org/shards", "org/old"], CrawlOptions(mode, endpoint=hub.endpoint)
        )
        assert (summary.fingerprinted, summary.skipped, summary.failed) == (3, 1, 0)
        rows = database.store.read(
            "checkpoints", ["repo_id", "content_digest", "bytes_read", "total_bytes"]
        ).to_pylist()
        assert len({row["content_digest"] for row in rows}) == 1
        read = {row["repo_id"]: row["bytes_read"] / row["total_bytes"] for row in rows}
        assert read["org/bin"] == pytest.approx(read["org/safe"], abs=0.05)
        found = database.compare("org/bin", "org/safe")
        assert found.relation is Relation.IDENTICAL
        assert found.score == pytest.approx(1)
        (outcome,) = (o for o in database.store.read("outcomes").to_pylist() if o["status"] == "skipped")
        assert (outcome["repo_id"], outcome["reason"]) == ("org/old", "no-weights")
        assert "as PyTorch wrote before version 1.6; save it again" in outcome["message"]
