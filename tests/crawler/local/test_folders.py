"""Folders of checkpoints as people have them: nested, linked, cached, listed, broken."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.crawler.local.folders import LocalRepo, find_local, listed_checkpoints
from provenance.crawler.local.reader import LocalReader
from provenance.schemas.errors import SkippedCheckpoint, SourceError, WeightsError
from provenance.schemas.identity import UNKNOWN_REVISION
from provenance.schemas.protocols import TensorReader
from provenance.schemas.records import RepoMetadata

SHA, OTHER_SHA = "a1" * 20, "b2" * 20


def write(root: Path, *paths: str, content: str | bytes = "{}") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content.encode() if isinstance(content, str) else content)


def link(path: Path, target: str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def listing(root: Path, *objects: dict[str, Any]) -> None:
    write(root, "listing.jsonl", content="".join(json.dumps(listed) + "\n" for listed in objects))


def by_id(root: Path) -> dict[str, LocalRepo]:
    repos = list(find_local(root))
    assert len({repo.repo_id for repo in repos}) == len(repos)
    return {repo.repo_id: repo for repo in repos}


def weights(repo: LocalRepo) -> list[tuple[str, ...]]:
    return [selection.weight_files for selection in repo.selections()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a neighbour that must not be reached."""
    write(tmp_path, "outside/model.safetensors", "outside/config.json")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


# ---------------------------------------------------------------- which folders are repos


def test_repo_id_is_the_last_two_parts_under_the_root(root: Path) -> None:
    write(root, "bert/model.safetensors", "org/gpt/model.safetensors", "a/b/org/deep/model.safetensors")
    write(root, "org/with space/model.safetensors")
    assert sorted(by_id(root)) == ["bert", "org/deep", "org/gpt", "org/with-space-b8b8f2"]


def test_folder_names_in_any_script_stay_readable_and_distinct(root: Path) -> None:
    names = [
        "模型/通义",
        "模型/千问",
        "org/my model",
        "org/my-model",
        "org/🤗",
        "हिन्दी/मॉडल",
        "org/a\u202eb",
        "org/-dash",
    ]
    write(root, *(f"{name}/model.safetensors" for name in names))
    found = by_id(root)
    assert len(found) == len(names)
    assert {"模型/通义", "模型/千问", "org/my-model", "org/🤗", "हिन्दी/मॉडल", "org/-dash"} < found.keys()
    assert sum(id_.startswith(("org/my-model-", "org/a-b-")) for id_ in found) == 2


def test_an_adapter_declares_the_base_in_its_config(root: Path) -> None:
    write(root, "a/adapter_model.safetensors", "b/adapter_model.safetensors", "c/adapter_model.safetensors")
    write(root, "a/adapter_config.json", content='\ufeff{"base_model_name_or_path": "org/base"}')
    write(root, "b/adapter_config.json", content='{"base_model_name_or_path": "/tmp/base"}')
    write(root, "c/adapter_config.json", content="{")
    write(root, "a/README.md", content="---\nbase_model: Org/Base\n---\n")
    found = by_id(root)
    assert found["a"].metadata == RepoMetadata(declared_parents=("Org/Base",))
    assert found["b"].metadata.notes == ("card: the base model '/tmp/base' is no repo id",)
    assert found["c"].metadata.notes == ("card: adapter_config.json cannot be read, nor the base model in it",)


def test_a_root_that_is_the_checkpoint_has_its_own_last_two_parts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, "my org/gpt/model.safetensors")
    assert list(by_id(root / "my org" / "gpt")) == ["my-org-b93604/gpt"]
    monkeypatch.chdir(root / "my org" / "gpt")
    assert list(by_id(Path())) == ["my-org-b93604/gpt"]


def test_broken_and_unreadable_kinds_are_visited_too(root: Path) -> None:
    write(root, "o/config/config.json", "o/pickled/last.ckpt", "o/gguf/m.gguf", "o/text/notes.txt")
    write(root, "o/shards/model-00001-of-00002.safetensors", "o/index/model.safetensors.index.json")
    repos = by_id(root)
    assert sorted(repos) == ["o/config", "o/gguf", "o/index", "o/pickled", "o/shards"]
    assert [s.weight_files for s in repos["o/gguf"].selections()] == [("m.gguf",)]
    for name in ("o/config", "o/pickled"):
        with pytest.raises(SkippedCheckpoint):
            repos[name].selections()
    for name in ("o/index", "o/shards"):
        with pytest.raises(WeightsError):
            listed_checkpoints(repos[name])


def test_an_empty_source_is_one_repo(root: Path) -> None:
    (repo,) = find_local(root)
    assert repo.repo_id.endswith("/root")
    with pytest.raises(SkippedCheckpoint, match="no weights of any kind"):
        repo.selections()


def test_hidden_folders_and_files_are_passed_over(root: Path) -> None:
    write(root, ".git/model.safetensors", ".cache/x/model.safetensors", "a/.hidden.safetensors", "a/model.safetensors")
    repos = by_id(root)
    assert [file.path for file in repos["a"].files] == ["model.safetensors"]
    assert list(repos) == ["a"]


def test_sub_folders_of_a_repo(root: Path) -> None:
    write(root, "m/model.safetensors", "m/1_Pooling/config.json", "m/step-5/model.safetensors")
    assert {name: weights(repo) for name, repo in by_id(root).items()} == {
        "m": [("model.safetensors",)],
        "m/step-5": [("model.safetensors",)],
    }


def test_a_stray_config_at_the_root_hides_nothing(root: Path) -> None:
    write(root, "config.json", "o/m/config.json")
    assert "o/m" in by_id(root)


def test_a_pipeline_owns_its_sub_folders(root: Path) -> None:
    write(root, "o/sd/model_index.json", "o/sd/unet/diffusion_pytorch_model.safetensors", "o/sd/unet/config.json")
    write(root, "o/sd/text_encoder/model.safetensors")
    (repo,) = find_local(root)
    found = listed_checkpoints(repo)
    assert [str(checkpoint.identity) for checkpoint in found] == ["o/sd@0:text_encoder", "o/sd@0:unet"]
    assert [file.path for file in found[1].files] == ["unet/diffusion_pytorch_model.safetensors", "unet/config.json"]
    assert found[1].config_file == "unet/config.json"


def test_the_later_of_two_folders_with_one_id_is_a_fault(root: Path) -> None:
    write(root, "x/org/m/model.safetensors", "y/org/m/model.safetensors")
    first, second = find_local(root)
    assert (first.repo_id, second.repo_id) == ("org/m", "org/m")
    assert weights(first) == [("model.safetensors",)]
    with pytest.raises(WeightsError, match=r"same repo id, org/m, as .*x/org/m") as caught:
        second.selections()
    assert caught.value.stage == "listing"


def test_index_json_is_read_from_the_folder(root: Path) -> None:
    shards = ["model-base.safetensors", "model-draft.safetensors"]
    write(root, *[f"m/{shard}" for shard in shards])
    index = "m/model.safetensors.index.json"
    write(root, index, content=json.dumps({"weight_map": {"b": shards[1], "a": shards[0]}}))
    (repo,) = find_local(root)
    assert weights(repo) == [tuple(shards)]
    write(root, index, content=json.dumps({"weight_map": {"b": "../../outside/model.safetensors"}}))
    with pytest.raises(WeightsError, match="own folder"):
        repo.selections()
    for malformed in ("{", b"\xff", "[" * 100_000):
        write(root, index, content=malformed)
        with pytest.raises(WeightsError, match="not valid JSON"):
            repo.selections()


def test_a_subfolder_that_no_id_can_hold_is_a_weights_error(root: Path) -> None:
    write(root, "sd/model_index.json", "sd/a#b/model.safetensors")
    (repo,) = find_local(root)
    with pytest.raises(WeightsError, match="reserved character"):
        listed_checkpoints(repo)


# ---------------------------------------------------------------- single files and unusable sources


def test_a_single_file_stands_for_itself(root: Path) -> None:
    write(root, "o/m/model.safetensors", "o/m/other.safetensors", "o/m/config.json", "o/m/model.safetensors.index.json")
    (repo,) = find_local(root / "o/m/model.safetensors")
    assert (repo.repo_id, weights(repo)) == ("o/m", [("model.safetensors",)])
    (found,) = listed_checkpoints(repo)
    assert (found.config_file, found.identity.revision) == ("config.json", UNKNOWN_REVISION)
    (repo,) = find_local(root / "o/m/other.safetensors")
    assert (repo.repo_id, weights(repo)) == ("m/other", [("other.safetensors",)])


def test_a_single_shard_is_an_outcome(root: Path) -> None:
    write(root, "o/m/model-00001-of-00002.safetensors", "o/m/model-00002-of-00002.safetensors")
    (repo,) = find_local(root / "o/m/model-00001-of-00002.safetensors")
    with pytest.raises(WeightsError, match="one shard of several"):
        repo.selections()


def test_a_single_gguf_file_is_a_repo_named_after_it(root: Path) -> None:
    write(root, "o/m/Llama-3-8B.Q4_K_M.gguf", "o/m/Llama-3-8B.Q8_0.gguf", "o/m/config.json")
    (repo,) = find_local(root / "o/m/Llama-3-8B.Q4_K_M.gguf")
    (found,) = listed_checkpoints(repo)
    assert (repo.repo_id, found.identity.variant, found.config_file) == ("m/Llama-3-8B.Q4_K_M", "Q4_K_M", None)
    both = [found.identity.variant for repo in find_local(root / "o/m") for found in listed_checkpoints(repo)]
    assert both == ["Q4_K_M", "Q8_0"]


def test_sources_that_cannot_be_used(root: Path) -> None:
    write(root, "notes.txt")
    link(root / "loop", "loop")
    for name, message in (("nowhere", "No such file"), ("notes.txt", "neither a folder"), ("loop", "symbolic links")):
        with pytest.raises(SourceError, match=message):
            find_local(root / name)


# ---------------------------------------------------------------- links


def test_links_inside_the_root_are_followed(root: Path) -> None:
    write(root, "store/blob", content="12345")
    link(root / "o/m/model.safetensors", "../../store/blob")
    link(root / "z", "o/m")
    (repo,) = find_local(root)
    assert [(file.path, file.size) for file in repo.files] == [("model.safetensors", 5)]
    with repo.reader() as reader:
        assert list(reader.read("model.safetensors", [(1, 3)])) == [b"23"]


def test_a_folder_goes_by_its_own_name_not_by_a_link(root: Path) -> None:
    write(root, "real/model.safetensors")
    link(root / "alias", "real")
    assert list(by_id(root)) == ["real"]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "pytorch_model.bin", "model.safetensors.index.json"]
)
def test_a_file_that_leads_out_fails_its_repo_and_no_other(root: Path, name: str) -> None:
    write(root, "good/model.safetensors", "bad/adapter_model.safetensors")
    link(root / "bad" / name, "../../outside/model.safetensors")
    repos = by_id(root)
    assert weights(repos["good"]) == [("model.safetensors",)]
    with pytest.raises(WeightsError, match=rf"bad/{name}' leads out of"):
        repos["bad"].selections()


def test_a_file_that_says_nothing_of_the_weights_may_lead_anywhere(root: Path) -> None:
    write(root, "m/model.safetensors")
    link(root / "m/tokenizer.json", "../../outside/config.json")
    link(root / "m/README.md", "../../outside/config.json")
    (repo,) = find_local(root)
    assert [file.path for file in repo.files] == ["model.safetensors"]


@pytest.mark.parametrize("pipeline", [False, True])
def test_a_folder_that_leads_out_is_not_entered(root: Path, pipeline: bool) -> None:
    write(root, "sd/vae/model.safetensors", *(["sd/model_index.json"] if pipeline else []))
    link(root / "sd/unet", "../../outside")
    repos = by_id(root)
    with pytest.raises(WeightsError, match="sd/unet' leads out of"):
        repos["sd" if pipeline else "sd/unet"].selections()
    assert all("outside" not in file.path for repo in repos.values() for file in repo.files)


def test_loops_and_broken_links_end(root: Path) -> None:
    write(root, "o/m/adapter_model.safetensors")
    link(root / "o/m/up", "..")
    link(root / "o/self", ".")
    link(root / "o/m/model.safetensors", "model.safetensors")
    link(root / "o/n/model.safetensors", "gone")
    repos = by_id(root)
    assert sorted(repos) == ["o/m", "o/n"]
    for repo in repos.values():
        with pytest.raises(WeightsError, match=r"model\.safetensors' cannot be read"):
            repo.selections()


def test_a_thicket_of_links_does_not_multiply(root: Path) -> None:
    for n in range(40):
        write(root, f"f{n}/model.safetensors")
        for way in "ab":
            link(root / f"f{n}" / way, f"../f{n + 1}")
    assert len(list(find_local(root))) == 40


def test_pipes_and_unprintable_names_are_faults(root: Path) -> None:
    (root / "p").mkdir()
    os.mkfifo(root / "p/model.safetensors")
    write(root, "n/a\nb.safetensors")
    for repo in find_local(root):
        assert "\n" not in (repo.fault or "")
        with pytest.raises(WeightsError, match="regular file with a printable name"):
            repo.selections()
    with LocalReader(root / "p", root) as reader, pytest.raises(WeightsError, match="not a regular file"):
        reader.size("model.safetensors")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
def test_what_may_not_be_read_is_an_outcome(root: Path) -> None:
    write(root, "a/model.safetensors", "b/model.safetensors")
    (root / "a").chmod(0)
    (root / "b/model.safetensors").chmod(0)
    try:
        repos = by_id(root)
        with pytest.raises(WeightsError, match="cannot be listed"):
            repos["a"].selections()
        with repos["b"].reader() as reader, pytest.raises(WeightsError, match="cannot be opened"):
            reader.size("model.safetensors")
    finally:
        (root / "a").chmod(0o700)


# ---------------------------------------------------------------- Hugging Face cache


def cached(hub: Path, name: str, sha: str, *, main: str | None = None) -> Path:
    """One snapshot in the cache layout of huggingface_hub: links into blobs."""
    home = hub / name
    write(home, "blobs/" + "cd" * 32, content=f"weights of {sha}")
    write(home, "blobs/e69de29b", content="{}")
    link(home / "snapshots" / sha / "model.safetensors", "../../blobs/" + "cd" * 32)
    link(home / "snapshots" / sha / "config.json", "../../blobs/e69de29b")
    if main is not None:
        write(home, "refs/main", content=main)
    return home / "snapshots" / sha


def test_cache_gives_id_revision_and_digest(root: Path) -> None:
    cached(root, "models--org--name", SHA, main=SHA)
    cached(root, "models--gpt2", OTHER_SHA, main=OTHER_SHA)
    repos = by_id(root)
    assert {name: repo.revision for name, repo in repos.items()} == {"org/name": SHA, "gpt2": OTHER_SHA}
    (found,) = listed_checkpoints(repos["org/name"])
    assert str(found.identity) == f"org/name@{SHA[:12]}"
    assert {file.path: file.sha256 for file in found.files} == {"model.safetensors": "cd" * 32, "config.json": None}
    assert {file.resolved_revision for file in found.files} == {SHA}


@pytest.mark.parametrize("below", ["", "models--org--name", f"models--org--name/snapshots/{SHA}"])
def test_cache_may_be_entered_at_any_level(root: Path, below: str) -> None:
    cached(root, "models--org--name", SHA, main=SHA)
    (repo,) = find_local(root / below)
    assert (repo.repo_id, repo.revision) == ("org/name", SHA)
    with repo.reader() as reader:
        assert reader.size("model.safetensors") == len(f"weights of {SHA}")


def test_cache_file_by_itself(root: Path) -> None:
    (repo,) = find_local(cached(root, "models--org--name", SHA) / "model.safetensors")
    assert (repo.repo_id, repo.revision, repo.fault) == ("org/name", SHA, None)


def test_only_the_snapshot_of_main_counts_or_else_the_newest(root: Path) -> None:
    old, new = cached(root, "models--o--n", OTHER_SHA), cached(root, "models--o--n", SHA)
    os.utime(old, (1_000_000, 1_000_000))
    for main, chosen in ((OTHER_SHA, old), (None, new), ("../../../outside", new), ("f" * 40, new)):
        (root / "models--o--n/refs/main").unlink(missing_ok=True)
        if main is not None:
            write(root, "models--o--n/refs/main", content=main)
        (repo,) = find_local(root)
        assert (repo.folder, repo.revision) == (chosen, chosen.name)


def test_a_cache_owns_the_sub_folders_of_its_snapshot(root: Path) -> None:
    home = cached(root, "models--o--n", SHA)
    link(home / "original/model.safetensors", "../../../blobs/" + "cd" * 32)
    (repo,) = find_local(root)
    assert weights(repo) == [("model.safetensors",)]


def test_cache_links_may_not_leave_its_own_blobs(root: Path) -> None:
    snapshot = cached(root, "models--o--n", SHA)
    (snapshot / "model.safetensors").unlink()
    link(snapshot / "model.safetensors", "../../../../outside/model.safetensors")
    for source in (root, snapshot):
        (repo,) = find_local(source)
        with pytest.raises(WeightsError, match="leads out of"):
            repo.selections()
    link(root / "models--x--y", "../outside")
    assert "leads out" in (by_id(root)["models--x--y"].fault or "")


def test_a_cache_behind_a_link_is_outside(root: Path) -> None:
    cached(root.parent / "hub", "models--o--n", SHA)
    link(root / "models--o--n", root.parent / "hub/models--o--n")
    reader = LocalReader(root / "models--o--n/snapshots" / SHA, root)
    with pytest.raises(WeightsError, match="leads out of"):
        reader.size("model.safetensors")


def test_a_cache_without_snapshots_is_no_repo(root: Path) -> None:
    write(root, "models--o--n/refs/main", "o/m/model.safetensors")
    (root / "models--o--n/snapshots").mkdir()
    assert list(by_id(root)) == ["o/m"]


# ---------------------------------------------------------------- listing.jsonl and cards


def test_listing_supplies_revision_metadata_and_digests(root: Path) -> None:
    write(root, "o/m/model.safetensors", content="12345")
    write(root, "o/m/README.md", content="---\nlicense: lie\n---\n")
    write(root, "o/pointer/model.safetensors", content="version https://git-lfs.github.com/spec/v1")
    lfs = {"rfilename": "model.safetensors", "lfs": {"sha256": "ab" * 32, "size": 5}}
    created = {"createdAt": "2025-01-06T09:00:00.000Z"}
    listing(root, {"id": "o/m", "sha": SHA, "siblings": [lfs], **created}, {"id": "o/pointer", "siblings": [lfs]})
    repos = by_id(root)
    assert repos["o/m"].revision == SHA
    assert repos["o/m"].metadata.created_at is not None
    assert repos["o/m"].metadata.license is None
    assert [file.sha256 for file in repos["o/m"].files] == [None, "ab" * 32]
    (found,) = listed_checkpoints(repos["o/m"])
    assert (str(found.identity), found.source) == (f"o/m@{SHA[:12]}", "local")
    assert found.metadata == repos["o/m"].metadata
    assert [file.sha256 for file in repos["o/pointer"].files] == [None]


def test_a_listed_folder_is_a_repo_and_owns_its_sub_folders(root: Path) -> None:
    write(root, "o/m/model.safetensors", "o/m/original/model.safetensors", "o/empty/README.md")
    listing(root, {"id": "o/m"}, {"id": "o/empty"}, {"id": "o/elsewhere"})
    repos = by_id(root)
    assert sorted(repos) == ["o/empty", "o/m"]
    assert weights(repos["o/m"]) == [("model.safetensors",)]


def test_a_snapshot_keeps_its_own_commit(root: Path) -> None:
    cached(root, "models--o--n", SHA)
    digest = {"rfilename": "config.json", "size": 2, "lfs": {"size": 2, "sha256": "ab" * 32}}
    listing(root, {"id": "o/n", "sha": OTHER_SHA, "likes": 3, "siblings": [digest]})
    (repo,) = find_local(root)
    assert (repo.revision, repo.metadata.likes) == (SHA, 3)
    assert "ab" * 32 not in {file.sha256 for file in repo.files}


def test_a_malformed_listing_names_file_and_line(root: Path) -> None:
    write(root, "listing.jsonl", content='{"id": "a/b"}\n{"id": }\n')
    with pytest.raises(SourceError, match=r"listing\.jsonl, line 2: not valid JSON"):
        find_local(root)


def test_a_listing_that_leads_out_is_refused(root: Path) -> None:
    link(root / "listing.jsonl", "../outside/config.json")
    with pytest.raises(SourceError, match=r"listing\.jsonl' leads out of"):
        find_local(root)


def test_without_a_listing_the_card_speaks_and_dates_stay_null(root: Path) -> None:
    write(root, "o/m/model.safetensors", "o/plain/model.safetensors")
    write(root, "o/m/README.md", content="---\nlicense: mit\nbase_model: [a/b, o/m]\n---\n")
    repos = by_id(root)
    assert repos["o/m"].metadata == RepoMetadata(license="mit", declared_parents=("a/b",))
    assert repos["o/plain"].metadata == RepoMetadata()


# ---------------------------------------------------------------- the reader

CONTENT = bytes(range(256)) * 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    write(folder, "w.safetensors", "sub/w.safetensors", content=CONTENT)
    return folder


positions = st.integers(0, len(CONTENT))


@given(st.lists(st.tuples(positions, positions).map(lambda pair: (min(pair), max(pair)))))
def test_ranges_are_the_bytes_of_the_file(data: Path, ranges: Sequence[tuple[int, int]]) -> None:
    with LocalReader(data, data) as reader:
        protocol: TensorReader = reader
        assert list(protocol.read("sub/w.safetensors", ranges)) == [CONTENT[start:stop] for start, stop in ranges]
        assert reader.bytes_read == sum(stop - start for start, stop in ranges)
        assert reader.requests == len(ranges)
        assert reader.size("w.safetensors") == len(CONTENT)
        assert reader.head("w.safetensors", 10) == CONTENT[:10]
        assert reader.head("w.safetensors", 10**6) == CONTENT


@pytest.mark.parametrize("span", [(0, len(CONTENT) + 1), (10**15, 10**15 + 1), (0, 10**15), (-1, 3), (3, 2)])
def test_ranges_beyond_the_file_are_refused(data: Path, span: tuple[int, int]) -> None:
    with LocalReader(data, data) as reader, pytest.raises(WeightsError) as caught:
        list(reader.read("w.safetensors", [span]))
    assert caught.value.stage == "read"


@pytest.mark.parametrize("path", ["../reader/w", "sub/../../x", "/etc/passwd", "", ".", "a\0b", "sub\\w.safetensors"])
def test_paths_out_of_the_repo_are_refused(data: Path, path: str) -> None:
    with LocalReader(data / "sub", data) as reader, pytest.raises(WeightsError, match="refused"):
        reader.size(path)


def test_missing_files_and_folders_are_weights_errors(data: Path) -> None:
    with LocalReader(data, data) as reader:
        with pytest.raises(WeightsError, match="No such file"):
            reader.size("absent.safetensors")
        with pytest.raises(WeightsError, match="not a regular file"):
            reader.size("sub")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_open_files_are_bounded_and_closed(tmp_path: Path) -> None:
    names = [f"{n}.safetensors" for n in range(40)]
    for name in names:
        write(tmp_path, name, content=name)
    before = open_files()
    with LocalReader(tmp_path, tmp_path) as reader:
        for name in names * 2:
            assert list(reader.read(name, [(0, len(name))])) == [name.encode()]
            assert open_files() <= before + 16
        reads = [reader.read(name, [(0, 1), (1, 2)]) for name in names]
        firsts = [next(read) for read in reads]
        assert firsts == [name[:1].encode() for name in names]
        assert [next(read) for read in reads] == [name[1:2].encode() for name in names]
    assert open_files() == before


def test_a_pickled_reader_opens_its_files_anew(data: Path) -> None:
    with LocalReader(data, data) as reader:
        assert reader.size("w.safetensors") == len(CONTENT)
        copy = pickle.loads(pickle.dumps(reader))
    with copy:
        assert list(copy.read("w.safetensors", [(5, 9)])) == [CONTENT[5:9]]
        assert (copy.requests, reader.requests) == (1, 0)


def test_a_file_cut_short_while_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, "w.safetensors", content=CONTENT)
    with LocalReader(tmp_path, tmp_path) as reader:
        read = reader.read("w.safetensors", [(0, 4), (1000, 1200)])
        assert next(read) == CONTENT[:4]
        os.truncate(tmp_path / "w.safetensors", 1100)
        with pytest.raises(WeightsError, match="1100 bytes, 1200 are needed"):
            next(read)
