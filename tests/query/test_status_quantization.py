"""`status` counts packed checkpoints by method, and those that could not be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import provenance
from tests.conftest import Tensors, llama
from tests.crawler.formats.packing.test_packed import write
from tests.support.packed import CASES, pack_all


def test_methods_are_counted(tmp_path: Path) -> None:
    dense = llama(1, layers=1, hidden=64, ffn=96)
    unknown: Tensors = {f"model.layers.0.self_attn.{p}_proj.W_q": np.zeros((64, 8), np.uint8) for p in "qkvo"}
    write(tmp_path / "models" / "org" / "dense", dense)
    for name in ("gptq 4", "gptq 8", "nf4"):
        tensors, _ = pack_all(dense, CASES[name])
        write(tmp_path / "models" / "org" / name.replace(" ", "-"), tensors, CASES[name])
    write(tmp_path / "models" / "org" / "hqq", unknown)
    with provenance.open(tmp_path / "store", create=True) as database:
        database.crawl([f"{tmp_path / 'models'}/"])
        found = [(row.method, row.checkpoints, row.unread) for row in database.status().quantization]
    assert found == [("gptq", 2, 0), ("bitsandbytes", 1, 0), ("hqq", 1, 1)]
