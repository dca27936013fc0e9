"""The index: everything a query needs, equal to what was crawled, replaced at once, and refused where it is damaged."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import provenance
from provenance.crawler.engine.options import CrawlOptions
from provenance.database import Database
from provenance.indexer.build import build_index, load_dossiers, unindexed_fingerprints
from provenance.indexer.dossier import FACT, Dossier, dossier_of, sketch_cells
from provenance.indexer.dossier_meta import META_COLUMNS, DossierMeta
from provenance.indexer.generation import CURRENT, SKETCH, Generation, open_generation
from provenance.indexer.signature import SPEC, signature, sketch
from provenance.ingest import fingerprint_local
from provenance.schemas.enums import Mode
from provenance.schemas.errors import IndexMissingError, ProvenanceError, StoreCorruptError, UnknownModelError
from provenance.schemas.products import PRODUCTS_SPEC
from provenance.schemas.results import Answer, SearchedStore
from provenance.schemas.sampling import SAMPLE_CELLS
from tests.conftest import LLAMA_CONFIG, llama, trained
from tests.support import layouts
from tests.support.layouts import Layout

WriteRepo = Callable[..., Path]
SHA256 = "5e" * 32
PARENT, CHILD, STRANGER = "org/parent", "org/child", "org/stranger"


def no_backgrounds(dossiers: Sequence[Dossier]) -> dict[str, NDArray[np.float64]]:
    return {}


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `models` and the `store` that they were crawled into.

    A parent, its child, a stranger and two of other families, some listed with all that a listing knows.
    """
    root = tmp_path_factory.mktemp("crawled")
    models = root / "models"
    base = llama(1)
    for repo, tensors in ((PARENT, base), (CHILD, trained(base, 5)), (STRANGER, llama(2))):
        layouts.write(models / repo, Layout(tensors, LLAMA_CONFIG), dtype=torch.float32)
    layouts.write(models / "org" / "gpt2", layouts.gpt2())
    layouts.write(models / "org" / "experts", layouts.experts())
    size = (models / PARENT / "model.safetensors").stat().st_size
    listing = (
        {
            "id": PARENT,
            "sha": "1" * 40,
            "createdAt": "2025-01-01T00:00:00.125Z",
            "cardData": {"license": "mit"},
            "siblings": [{"rfilename": "model.safetensors", "lfs": {"sha256": SHA256, "size": size}}],
        },
        {"id": CHILD, "sha": "2" * 40, "cardData": {"base_model": PARENT}},
    )
    (models / "listing.jsonl").write_text("".join(f"{json.dumps(listed)}\n" for listed in listing), encoding="utf-8")
    with provenance.open(root / "store", create=True) as opened:
        opened.crawl([models])
    return root


@pytest.fixture
def models(crawled: Path, tmp_path: Path) -> Path:
    """A copy of the models, where `write_repo` adds to them."""
    return Path(shutil.copytree(crawled / "models", tmp_path / "models"))


@pytest.fixture
def database(crawled: Path, tmp_path: Path) -> Iterator[Database]:
    """A copy of the store, not indexed."""
    with provenance.open(shutil.copytree(crawled / "store", tmp_path / "store")) as opened:
        yield opened


def dossiers(generation: Generation) -> dict[str, Dossier]:
    return {d.repo_id: d for d in (generation.dossiers[row] for row in range(len(generation)))}


def without_store(answer: Answer) -> dict[str, Any]:
    return {name: part for name, part in answer.to_dict().items() if name != "store"}


def check_equal(found: Dossier, wanted: Dossier) -> None:
    assert replace(found.meta, fingerprint_id=None) == replace(wanted.meta, fingerprint_id=None), "known once stored"
    assert found.facts.dtype == FACT
    assert found.facts.tobytes() == wanted.facts.tobytes()
    n = len(wanted.values)
    np.testing.assert_array_equal(found.values[:n], wanted.values)
    assert not found.values[n:].any()


# ---------------------------------------------------------------- what it holds


@pytest.mark.parametrize("options", [CrawlOptions(), CrawlOptions(mode="sampled", sample="small")])
def test_dossiers_are_those_of_the_fingerprints(models: Path, tmp_path: Path, options: CrawlOptions) -> None:
    wanted = {f.checkpoint.repo_id: dossier_of(f) for f in fingerprint_local(models, options)}
    assert len(wanted) == 5
    with provenance.open(tmp_path / "store", create=True) as opened:
        opened.crawl([models], options)
        loaded = load_dossiers(opened.store, opened.store.manifest())
        generation = build_index(opened.store, no_backgrounds)
    assert [d.repo_id for d in loaded] == sorted(wanted)
    for dossier in loaded:
        check_equal(dossier, wanted[dossier.repo_id])
    mapped = dossiers(generation)
    assert mapped.keys() == wanted.keys()
    for repo, dossier in mapped.items():
        check_equal(dossier, wanted[repo])
        assert dossier.values.shape == (SAMPLE_CELLS,)
        assert list(json.loads(dossier.meta.to_line())) == [*META_COLUMNS, "sha256"]
    parent = mapped[PARENT].meta
    assert (parent.created_at, parent.license) == ("2025-01-01T00:00:00.125000+00:00", "mit")
    assert parent.sha256 == (SHA256,)
    assert mapped[CHILD].meta.declared_parents == (PARENT,)


LINE = (
    b'{"checkpoint_id": "org/a@12", "fingerprint_id": "f1", "repo_id": "org/a", "revision": "12", "subfolder": null, '
    b'"variant": null, "created_at": "2025-01-01T00:00:00.125000+00:00", "license": "mit", "declared_parents": '
    b'["org/b"], "declared_relation": null, "architecture": "LlamaForCausalLM", "model_type": "llama", "n_layers": 6, '
    b'"hidden_size": 64, "n_heads": 4, "n_kv_heads": 2, "n_parameters": 201536, "dtype": "F32", "quantization": null, '
    b'"mode": "full", "sample_version": "sample-v1", "content_digest": "5e5e", "resolved": 56, "adapter": false, '
    b'"notes": ["card: odd"], "sha256": ["5e5e", "ff"]}'
)


def test_metadata_is_the_line_that_it_was_read_from() -> None:
    meta = DossierMeta.from_line(LINE)
    written = meta.to_line().encode()
    assert written == LINE
    assert DossierMeta.from_line(written) == meta
    assert (meta.mode, meta.declared_parents, meta.sha256) == (Mode.FULL, ("org/b",), ("5e5e", "ff"))


@pytest.mark.parametrize("line", [b"", b"[]", b'{"checkpoint_id": "org/a@12"}', LINE.replace(b'"full"', b'"half"')])
def test_what_is_no_metadata_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        DossierMeta.from_line(line)


def test_checkpoints_are_found_by_every_name(database: Database) -> None:
    generation = build_index(database.store, no_backgrounds)
    by_repo = {generation.dossiers.meta(row).repo_id: row for row in range(len(generation))}
    for repo, row in by_repo.items():
        meta = generation.dossiers.meta(row)
        for kind, column in (("id", "checkpoint_id"), ("content", "content_digest"), ("fingerprint", "fingerprint_id")):
            assert generation.find(kind, getattr(meta, column)) == [row]
        assert generation.find("repo", repo) == [row]
    assert generation.find("sha256", SHA256) == [by_repo[PARENT]]
    assert generation.find("parent", PARENT) == [by_repo[CHILD]]
    for kind in ("id", "repo", "content", "sha256", "parent", "fingerprint", "no such kind"):
        assert generation.find(kind, "org/nobody") == []
    # The kind is part of the key.
    assert generation.find("id", PARENT) == []


def test_vectors_are_those_of_the_dossiers(database: Database) -> None:
    generation = build_index(database.store, no_backgrounds)
    for name in (SPEC, SKETCH):
        index = generation.vectors(name)
        assert index.size == len(generation) == 5
        for row in range(len(generation)):
            dossier = generation.dossiers[row]
            vector = signature(dossier.curves()).vector if name == SPEC else sketch(*sketch_cells(dossier))
            scores, rows = index.search(vector[None, :], 1)
            assert rows.tolist() == [[row]]
            assert scores[0, 0] == pytest.approx(1, abs=1e-5)


def test_backgrounds_come_back_as_they_were_learnt(database: Database) -> None:
    learnt = {"one": np.array([0.1, 0.5]), "none": np.zeros(0)}
    seen: list[str] = []

    def learn(of: Sequence[Dossier]) -> dict[str, NDArray[np.float64]]:
        seen.extend(dossier.repo_id for dossier in of)
        return learnt

    found = build_index(database.store, learn).background()
    assert len(seen) == 5
    assert {name: values.tolist() for name, values in found.items()} == {"one": [0.1, 0.5], "none": []}


def test_only_the_latest_fingerprint_of_a_checkpoint_is_indexed(database: Database, models: Path) -> None:
    database.crawl([models], CrawlOptions(mode="sampled", sample="small"))
    database.crawl([models], CrawlOptions(refingerprint=True))
    generation = build_index(database.store, no_backgrounds)
    assert len(generation) == 5
    assert {d.meta.mode for d in dossiers(generation).values()} == {"full"}


def test_signatures_are_stored_once(database: Database, write_repo: WriteRepo, models: Path) -> None:
    for _ in range(2):
        database.index()
        stored = database.store.read("signatures").to_pylist()
        assert len(stored) == len({row["fingerprint_id"] for row in stored}) == 5
    generation = open_generation(database.store.index_path)
    vectors = {row["checkpoint_id"]: row["vector"] for row in stored}
    for dossier in dossiers(generation).values():
        np.testing.assert_array_equal(vectors[dossier.checkpoint_id], signature(dossier.curves()).vector)
    assert {row["spec"] for row in stored} == {SPEC}
    write_repo("org/new", llama(3))
    database.crawl([models])
    database.index()
    assert database.store.read("signatures").num_rows == 6
    assert database.store.verify() == []


# ---------------------------------------------------------------- replacing it


def test_an_open_generation_outlives_its_replacement(database: Database, models: Path, write_repo: WriteRepo) -> None:
    first = build_index(database.store, no_backgrounds)
    before = {repo: dossier.facts.tobytes() for repo, dossier in dossiers(first).items()}
    write_repo("org/new", llama(3))
    database.crawl([models])
    second = build_index(database.store, no_backgrounds)
    assert (len(first), len(second)) == (5, 6)
    assert open_generation(database.store.index_path).name == second.name != first.name
    assert {repo: dossier.facts.tobytes() for repo, dossier in dossiers(first).items()} == before
    assert first.vectors(SPEC).size == 5
    # Its predecessor's predecessor goes, but what is mapped stays readable.
    third = build_index(database.store, no_backgrounds)
    folders = {path.name for path in database.store.index_path.iterdir() if path.is_dir()}
    assert folders == {second.name, third.name}
    assert {repo: dossier.facts.tobytes() for repo, dossier in dossiers(first).items()} == before


def test_a_build_that_fails_changes_nothing(database: Database) -> None:
    first = build_index(database.store, no_backgrounds)
    before = sorted(path.name for path in database.store.index_path.iterdir())

    def fail(of: Sequence[Dossier]) -> dict[str, NDArray[np.float64]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(database.store, fail)
    assert sorted(path.name for path in database.store.index_path.iterdir()) == before
    assert open_generation(database.store.index_path).name == first.name


def test_the_live_generation_is_named_by_a_file_that_is_swapped_whole(database: Database) -> None:
    build_index(database.store, no_backgrounds)
    current = database.store.index_path / CURRENT
    with current.open(encoding="utf-8") as held:
        second = build_index(database.store, no_backgrounds)
        # Who had opened the old file reads the old name to its end: it was replaced, not written over.
        assert held.read().strip() not in ("", second.name)
    assert current.read_text(encoding="utf-8").strip() == second.name


def test_what_a_killed_build_left_is_cleared_once_it_is_old(database: Database) -> None:
    old, young = (database.store.index_path / f".generation-0000000{i}-00000000.tmp" for i in (1, 2))
    for folder in (old, young):
        folder.mkdir()
        (folder / "facts.npy").write_bytes(b"half")
    long_ago = time.time() - 2 * database.store.grace
    os.utime(old, (long_ago, long_ago))
    build_index(database.store, no_backgrounds)
    assert not old.exists()
    assert young.exists()


def test_unknown_kinds_and_specs_are_refused(database: Database) -> None:
    with pytest.raises(ProvenanceError, match="no index of kind 'ivf'; there is auto, flat, exact"):
        database.index(kind="ivf")
    with pytest.raises(ProvenanceError, match="no signature spec 'other'; there is qkvo-std-z-64"):
        database.index(spec="other")
    with pytest.raises(IndexMissingError, match="not indexed yet; run `provenance index`"):
        open_generation(database.store.index_path)
    database.index()
    with pytest.raises(IndexMissingError, match=r"holds no signatures 'other'; name those that it has: qkvo-std-z-64"):
        database.query(PARENT, spec="other")


# ---------------------------------------------------------------- damage

FILES = (
    "manifest.json",
    "keys.npy",
    "samples.npy",
    "facts.npy",
    "fact_offsets.npy",
    "meta.jsonl",
    "meta_offsets.npy",
    "background.npz",
    "checksums.npz",
    f"{SPEC}.faiss",
    f"{SKETCH}.faiss",
    f"{PRODUCTS_SPEC}.faiss",
    "products.npy",
    "product_layers.npy",
    "product_offsets.npy",
    "product_kinds.npy",
    "product_tokens.json",
)


def another_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 2), dtype=np.int8))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a text": lambda path: path.write_text("<html>not found</html>\n" * 50),
    "a list": lambda path: path.write_text("[1, 2]"),
    "zeros": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    "broken header": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8(['"),
    "another array": another_array,
}


@pytest.fixture
def indexed(tmp_path: Path, write_repo: WriteRepo) -> Iterator[Database]:
    """A small indexed store."""
    for i in (1, 2):
        write_repo(f"org/model-{i}", llama(i, layers=3))
    with provenance.open(tmp_path / "store", create=True) as opened:
        opened.crawl([tmp_path / "models"])
        opened.index()
        yield opened


def test_a_damaged_index_says_so_and_can_be_built_again(indexed: Database) -> None:
    generation = open_generation(indexed.store.index_path)
    kept = {name: (generation.folder / name).read_bytes() for name in FILES}
    assert set(kept) == {path.name for path in generation.folder.iterdir()}
    for name in FILES:
        for damage, apply in DAMAGE.items():
            path = generation.folder / name
            apply(path)
            with provenance.open(indexed.store.path) as opened:
                with pytest.raises((StoreCorruptError, IndexMissingError)) as caught:
                    opened.query("org/model-1")
                assert "run `provenance index`" in str(caught.value), (name, damage)
                assert len(str(caught.value).splitlines()) == 1, (name, damage)
            path.write_bytes(kept[name])
    assert indexed.query("org/model-1").candidates
    (generation.folder / "facts.npy").unlink()
    indexed.index()
    assert [c.repo_id for c in indexed.query("org/model-1").candidates] == ["org/model-2"]


@pytest.mark.parametrize("table", ["checkpoints", "tensors", "samples", "files", "signatures", "products"])
def test_damaged_parts_are_refused_or_left_out(indexed: Database, write_repo: WriteRepo, table: str) -> None:
    models = write_repo("org/model-3", llama(3, layers=3)).parents[1]
    indexed.crawl([models])
    indexed.index()
    part = indexed.store.manifest().parts[table][-1]
    path = indexed.store.path / part.path
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(StoreCorruptError, match=rf"{part.path} is not what was written.*--skip-damaged"):
        indexed.index()
    assert indexed.query("org/model-1").candidates  # the index as it was
    built = indexed.index(skip_damaged=True)
    if table in ("tensors", "samples", "checkpoints"):
        assert built.checkpoints < 3
    assert [c.repo_id for c in indexed.query("org/model-1").candidates if c.repo_id == "org/model-2"]


def test_damaged_tombstones_are_never_left_out(indexed: Database) -> None:
    indexed.forget(["org/model-2"])
    part = indexed.store.manifest().parts["tombstones"][-1]
    path = indexed.store.path / part.path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreCorruptError, match=r"tombstones.* restore them from a backup$"):
        indexed.index(skip_damaged=True)


def test_compaction_changes_nothing_for_the_index(indexed: Database, write_repo: WriteRepo) -> None:
    """It knows when rows came, not in which part they lie."""
    live = open_generation(indexed.store.index_path)
    models = write_repo("org/model-3", llama(3, layers=3)).parents[1]
    indexed.crawl([models])
    before = indexed.store.manifest()
    (new,) = unindexed_fingerprints(indexed.store, before, live)
    indexed.compact()
    after = indexed.store.manifest()
    assert len(after.parts["checkpoints"]) < len(before.parts["checkpoints"])
    assert unindexed_fingerprints(indexed.store, after, live) == [new]
    indexed.index()
    write_repo("org/model-4", llama(4, layers=3))
    indexed.compact()
    live = open_generation(indexed.store.index_path)
    assert all(map(live.covers, indexed.store.manifest().parts["checkpoints"]))
    indexed.crawl([models])
    indexed.compact()
    assert len(unindexed_fingerprints(indexed.store, indexed.store.manifest(), live)) == 1


@pytest.mark.parametrize("content", [b"", b"generation-of-old\n", b"\xff\xfe\0", b"../../elsewhere"])
def test_a_damaged_name_of_the_live_generation(indexed: Database, content: bytes) -> None:
    (indexed.store.index_path / CURRENT).write_bytes(content)
    with provenance.open(indexed.store.path) as opened:
        with pytest.raises(StoreCorruptError, match=r"damaged index .*run `provenance index`"):
            opened.query("org/model-1")
        opened.index()
        assert opened.query("org/model-1").candidates


# ---------------------------------------------------------------- asking


def test_an_empty_store_can_be_indexed_and_asked(tmp_path: Path, write_repo: WriteRepo) -> None:
    with provenance.open(tmp_path / "store", create=True) as opened:
        for kind in ("auto", "flat", "exact"):
            assert opened.index(kind=kind).checkpoints == 0
            generation = open_generation(opened.store.index_path)
            assert len(generation) == generation.vectors(SPEC).size == generation.vectors(SKETCH).size == 0
            assert generation.find("repo", "org/name") == []
            with pytest.raises(IndexError):
                generation.dossiers.meta(0)
        answer = opened.query(str(write_repo("org/name", llama(1))))
        assert answer.candidates == ()
        assert answer.store == SearchedStore(0, 0, generation.name)
        with pytest.raises(UnknownModelError, match="not in the store"):
            opened.query("org/nobody")
        assert opened.status().store.checkpoints == 0


def test_what_was_crawled_since_is_found_and_counted(database: Database, models: Path, write_repo: WriteRepo) -> None:
    # Without any index everything is fresh.
    bare = database.query(CHILD)
    assert bare.store == SearchedStore(5, 5, None)
    assert (bare.candidates[0].repo_id, bare.candidates[0].verdict) == (PARENT, "derived")
    database.index()
    indexed = database.query(CHILD)
    assert (indexed.store.checkpoints, indexed.store.unindexed) == (5, 0)
    assert indexed.candidates[0].repo_id == PARENT

    write_repo("org/new", trained(llama(2), 6))
    database.crawl([models])
    new = database.query("org/new")
    assert (new.store.checkpoints, new.store.unindexed) == (6, 1)
    found = {c.repo_id: c.verdict for c in database.query(STRANGER).candidates}
    assert found["org/new"] in ("derived", "related")
    database.index()
    again = database.query("org/new")
    assert (again.store.checkpoints, again.store.unindexed) == (6, 0)
    best = [(answer.candidates[0].repo_id, answer.candidates[0].score) for answer in (new, again)]
    assert best[0] == best[1]
    assert best[0][0] == STRANGER


def test_a_repo_that_changed_since_is_asked_about_as_it_is_now(
    database: Database, models: Path, write_repo: WriteRepo
) -> None:
    database.index()
    before = database.query(STRANGER).model.checkpoint_id
    write_repo(STRANGER, llama(44))
    database.crawl([models])
    after = database.query(STRANGER).model.checkpoint_id
    assert before != after
    with database.connect() as connection:
        latest = connection.sql(f"SELECT checkpoint_id FROM latest_checkpoints WHERE repo_id = '{STRANGER}'").fetchall()
    assert latest == [(after,)]
    assert database.query(after).model.checkpoint_id == after


def test_flat_and_exact_indexes_give_equal_answers(database: Database) -> None:
    answers = []
    for kind in ("flat", "exact"):
        assert database.index(kind=kind).checkpoints == 5
        assert open_generation(database.store.index_path).info["kind"] == kind
        answers.append([without_store(database.query(repo)) for repo in (PARENT, CHILD, STRANGER, "org/gpt2")])
    assert answers[0] == answers[1]
    assert answers[0][1]["candidates"][0]["repo_id"] == PARENT


def test_a_stored_and_indexed_model_is_answered_without_the_tables(database: Database) -> None:
    database.index()
    wanted = {repo: database.query(repo) for repo in (PARENT, CHILD, "org/experts")}
    parts = list(database.store.path.glob("*/*.parquet"))
    assert len(parts) > 5
    for part in parts:
        part.unlink()
    with provenance.open(database.store.path) as opened:
        assert {repo: opened.query(repo) for repo in wanted} == wanted


# ---------------------------------------------------------------- hostile checkpoints


def test_strange_checkpoints_do_not_keep_the_others_from_being_indexed(
    database: Database, models: Path, write_repo: WriteRepo
) -> None:
    """Numbers beyond float32, nothing finite, layers numbered beyond 16 bits, no layers, no tensors."""
    database.index()
    before = {c.repo_id: c.verdict for c in database.query(CHILD).candidates}
    base = llama(1)
    largest = float(np.finfo(np.float64).max)
    strange = {
        "huge": {n: np.sign(t).astype(np.float64) * largest * 0.9 if t.ndim == 2 else t for n, t in base.items()},
        "tiny": {n: t.astype(np.float64) * 1e-300 for n, t in base.items()},
        "nan": {n: np.full_like(t, np.nan) for n, t in base.items()},
        "far": {n.replace("layers.5", "layers.99999"): t for n, t in base.items()},
        "flat": {n: np.ones_like(t) for n, t in base.items()},
        "headless": {"embed_tokens.weight": base["model.embed_tokens.weight"]},
        "nothing": {},
    }
    for name, tensors in strange.items():
        write_repo(f"strange/{name}", tensors, config=LLAMA_CONFIG)
    assert database.crawl([models]).fingerprinted == len(strange)
    fresh = {c.repo_id: c.verdict for c in database.query(CHILD).candidates}
    assert database.index().checkpoints == 5 + len(strange)
    after = {c.repo_id: c.verdict for c in database.query(CHILD, k=50).candidates}
    for repo, verdict in before.items():
        assert fresh.get(repo, verdict) == after[repo] == verdict
    for name in strange:
        answer = database.query(f"strange/{name}", k=50)
        assert len(answer.candidates) == 4 + len(strange)
    far = dossiers(open_generation(database.store.index_path))["strange/far"]
    assert sorted(set(far.facts["layer"].tolist())) == [-1, 0, 1, 2, 3, 4, 99999]


def test_a_store_that_moves_keeps_its_index(database: Database, tmp_path: Path) -> None:
    database.index()
    wanted = without_store(database.query(CHILD))
    shutil.move(database.store.path, tmp_path / "moved")
    with provenance.open(tmp_path / "moved") as opened:
        assert without_store(opened.query(CHILD)) == wanted
