"""Packed repos read by ranges from a hub: the same rows as from a folder, and few of the bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import provenance
from provenance.crawler.engine.options import CrawlOptions
from provenance.demo_hub import LoopbackHub, folder_repos
from tests.crawler.engine.test_hub_crawl import crawl_both, rows
from tests.crawler.formats.packing.test_packed import dense, write
from tests.support.packed import CASES, pack_all


def test_every_format_is_the_same_through_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    listing = []
    for i, (name, case) in enumerate(CASES.items()):
        repo_id = f"org/{name.replace(' ', '-')}"
        write(folder / repo_id, pack_all(dense(), case)[0], case, shards=1 + i % 2)
        listing.append({"id": repo_id, "sha": f"{i:040}", "createdAt": "2026-01-01T00:00:00.000Z"})
    (folder / "listing.jsonl").write_text("\n".join(map(json.dumps, listing)))
    local, hub = crawl_both(folder, tmp_path, "default")
    for table in ("tensors", "samples"):
        assert rows(hub, table) == rows(local, table)
    columns = ("n_layers", "n_parameters", "n_tensors", "dtype", "quantization", "content_digest", "resolved")
    here, there = ([[row[c] for c in columns] for row in rows(store, "checkpoints")] for store in (local, hub))
    assert here == there
    assert {row[0] for row in here} == {2}


def test_of_a_large_matrix_little_is_read(tmp_path: Path) -> None:
    """AWQ stores inputs as rows: of these, 20 hold sampled weights, and of each the first columns do."""
    rng = np.random.default_rng(0)
    n, tensors = 4096, {}
    for name in ("self_attn.q_proj", "mlp.up_proj"):
        base = f"model.layers.0.{name}"
        tensors[f"{base}.qweight"] = rng.integers(-(2**31), 2**31, (n, n // 8), np.int32)
        tensors[f"{base}.qzeros"] = rng.integers(-(2**31), 2**31, (n // 128, n // 8), np.int32)
        tensors[f"{base}.scales"] = rng.random((n // 128, n)).astype(np.float16)
    write(tmp_path / "models" / "org" / "awq", tensors, CASES["awq"])
    (tmp_path / "models" / "listing.jsonl").write_text(json.dumps({"id": "org/awq", "sha": "1" * 40}))
    with (
        LoopbackHub(folder_repos(tmp_path / "models")) as served,
        provenance.open(tmp_path / "store", create=True) as database,
    ):
        database.crawl(["org/awq"], CrawlOptions(endpoint=served.endpoint))
    (checkpoint,) = rows(tmp_path / "store", "checkpoints")
    assert checkpoint["n_parameters"] == 2 * n * n
    matrices = {row["role"]: row for row in rows(tmp_path / "store", "tensors")}
    with provenance.open(tmp_path / "store") as database, database.connect() as connection:
        ((read, total),) = connection.sql("select bytes_read, total_bytes from checkpoints").fetchall()
    assert read < total / 20
    # As many weights as in the bands of the same matrix in 16 bits: five of 16,384 and one.
    assert matrices["q"]["n_read"] == 5 * 16_384
    assert 16_384 <= matrices["up"]["n_read"] < 2 * 16_384
