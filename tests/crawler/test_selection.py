"""Every row of the table that decides which files of a repo are its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.crawler.selection import Selection, names_a_model, select_weights
from provenance.schemas.errors import SkippedCheckpoint, WeightsError


def select(*paths: str, documents: Mapping[str, Any] | None = None) -> list[Selection]:
    """Select from paths; `documents` are JSON files among them."""
    texts = {path: json.dumps(document) for path, document in (documents or {}).items()}
    return select_weights([*paths, *texts], lambda path: json.loads(texts[path]))


def shards(stem: str, total: int, *, digits: int = 5, start: int = 1, late: str = "") -> list[str]:
    return [f"{stem}-{n:0{digits}d}-of-{total:0{digits}d}{late}.safetensors" for n in range(start, total + start)]


def index(*files: str) -> dict[str, Any]:
    return {"metadata": {}, "weight_map": {f"tensor.{n}": file for n, file in enumerate(files)}}


ONE_CHECKPOINT = {
    "single file": (["model.safetensors", "config.json", "README.md"], ["model.safetensors"], "config.json"),
    "no config": (["model.safetensors"], ["model.safetensors"], None),
    "params.json in place of a config": (["model.safetensors", "params.json"], ["model.safetensors"], "params.json"),
    "config.json goes before params.json": (
        ["model.safetensors", "params.json", "config.json"],
        ["model.safetensors"],
        "config.json",
    ),
    "shards of five digits": (shards("model", 12)[::-1], shards("model", 12), None),
    "shards of six digits": (shards("model", 3, digits=6), shards("model", 3, digits=6), None),
    "shards counted from 0": (shards("model", 3, start=0), shards("model", 3, start=0), None),
    "shards from 0 to the total": (
        ["model-00000-of-00001.safetensors", "model-00001-of-00001.safetensors"],
        ["model-00000-of-00001.safetensors", "model-00001-of-00001.safetensors"],
        None,
    ),
    "the single file goes before the shards": (
        ["model.safetensors", *shards("model", 2)],
        ["model.safetensors"],
        None,
    ),
    "the plain file goes before a variant": (
        ["model.fp16.safetensors", "model.safetensors"],
        ["model.safetensors"],
        None,
    ),
    "an incomplete variant does not matter beside the plain file": (
        ["model.safetensors", "model.fp16-00001-of-00002.safetensors"],
        ["model.safetensors"],
        None,
    ),
    "consolidated is the same again": (
        ["consolidated.safetensors", "consolidated.00.safetensors", *shards("model", 2)],
        shards("model", 2),
        None,
    ),
    "consolidated alone": (["consolidated.safetensors", "params.json"], ["consolidated.safetensors"], "params.json"),
    "consolidated in parts": (
        ["consolidated.10.safetensors", *[f"consolidated.{n:02d}.safetensors" for n in range(10)]],
        [f"consolidated.{n:02d}.safetensors" for n in range(11)],
        None,
    ),
    "consolidated in shards": (shards("consolidated", 2), shards("consolidated", 2), None),
    "an adapter beside full weights": (
        ["adapter_config.json", "adapter_model.safetensors", "model.safetensors"],
        ["model.safetensors"],
        None,
    ),
    "an adapter alone": (
        ["adapter_config.json", "adapter_model.safetensors", "training_args.bin"],
        ["adapter_model.safetensors"],
        "adapter_config.json",
    ),
    "an adapter's own config goes before that of its base": (
        ["adapter_model.safetensors", "adapter_config.json", "config.json"],
        ["adapter_model.safetensors"],
        "adapter_config.json",
    ),
    "an adapter goes before unknown names": (
        ["adapter_model.safetensors", "non_lora_trainables.safetensors"],
        ["adapter_model.safetensors"],
        None,
    ),
    "one file of any name": (["sd_xl_base_1.0.safetensors"], ["sd_xl_base_1.0.safetensors"], None),
    "shards of any name": (shards("my.net", 2), shards("my.net", 2), None),
    "a known name goes before others": (
        ["model.safetensors", "value_head.safetensors"],
        ["model.safetensors"],
        None,
    ),
    "pickles and GGUF beside safetensors": (
        ["model.safetensors", "pytorch_model.bin", "model.Q4_K_M.gguf"],
        ["model.safetensors"],
        None,
    ),
    "PyTorch's file": (["pytorch_model.bin", "training_args.bin"], ["pytorch_model.bin"], None),
    "PyTorch's shards": (
        ["pytorch_model-00002-of-00002.bin", "pytorch_model-00001-of-00002.bin", "optimizer.bin", "rng_state_0.pth"],
        ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
        None,
    ),
    "Meta's own file": (["consolidated.00.pth", "params.json"], ["consolidated.00.pth"], "params.json"),
    "one PyTorch file of any name": (["net.pt", "scheduler.pt", "optimizer_0.pt"], ["net.pt"], None),
    "a known PyTorch name goes before others": (
        ["pytorch_model.bin", "openvino_model.bin"],
        ["pytorch_model.bin"],
        None,
    ),
    "an adapter in PyTorch's format": (["adapter_model.bin", "non_lora_trainables.bin"], ["adapter_model.bin"], None),
    "sub-folders do not count beside weights at the root": (
        ["model.safetensors", "original/model.safetensors", "onnx/model.onnx", "checkpoint-5/model.safetensors"],
        ["model.safetensors"],
        None,
    ),
}


@pytest.mark.parametrize("row", ONE_CHECKPOINT)
def test_one_checkpoint(row: str) -> None:
    paths, weight_files, config_file = ONE_CHECKPOINT[row]
    assert select(*paths) == [Selection(None, None, tuple(weight_files), config_file)]


def test_index_names_the_shards_and_their_order() -> None:
    files = ["model-00002-of-00003.safetensors", "model-00010-of-00003.safetensors", "model-00001-of-00003.safetensors"]
    (found,) = select(*files, documents={"model.safetensors.index.json": index(*files, files[0])})
    assert found.weight_files == (files[2], files[0], files[1])


def test_index_of_pytorch_shards() -> None:
    files = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    (found,) = select(*files, "extra.bin", documents={"pytorch_model.bin.index.json": index(*files[::-1])})
    assert list(found.weight_files) == files


def test_variants_of_pytorch_files() -> None:
    found = select("pytorch_model.fp16.bin", "pytorch_model.ema.bin")
    assert [(s.variant, s.weight_files) for s in found] == [
        ("ema", ("pytorch_model.ema.bin",)),
        ("fp16", ("pytorch_model.fp16.bin",)),
    ]


def test_missing_pytorch_shards_are_named() -> None:
    with pytest.raises(WeightsError, match=r"'pytorch_model-00002-of-00003\.bin'"):
        select("pytorch_model-00001-of-00003.bin", "pytorch_model-00003-of-00003.bin")


def test_a_whole_set_of_shards_is_taken_without_its_index() -> None:
    files, name = shards("model", 3), "model.safetensors.index.json"
    (found,) = select(name, *files, "consolidated.safetensors", documents={})
    assert list(found.weight_files) == files


def test_the_index_counts_where_it_might_name_more_than_the_shards() -> None:
    files, draft = shards("model", 3), "mtp.safetensors"
    (found,) = select(*files, draft, documents={"model.safetensors.index.json": index(*files, draft)})
    assert set(found.weight_files) == {*files, draft}


def test_index_decides_between_sets_of_shards() -> None:
    new, old = shards("model", 2), shards("model", 3)
    (found,) = select(*new, *old, documents={"model.safetensors.index.json": index(*new)})
    assert list(found.weight_files) == new


def test_largest_indexed_set_of_unknown_names_wins() -> None:
    large, small = shards("big", 3), shards("small", 2)
    (found,) = select(
        *large,
        *small,
        "other.safetensors",
        documents={"big.safetensors.index.json": index(*large), "small.safetensors.index.json": index(*small)},
    )
    assert list(found.weight_files) == large


def test_two_indexed_sets_of_one_size_are_not_guessed_at() -> None:
    documents = {f"{name}.safetensors.index.json": index(f"{name}-1.safetensors") for name in ("a", "b")}
    with pytest.raises(SkippedCheckpoint, match=r"several unrelated.*a\.safetensors\.index\.json.*b\.safetensors"):
        select("a-1.safetensors", "b-1.safetensors", documents=documents)


def test_variants_are_checkpoints_where_the_plain_one_is_absent() -> None:
    late = shards("model", 2, late=".int8")
    found = select("model.fp16.safetensors", "model.ema-00001-of-00001.safetensors", *late, "pytorch_model.bin")
    assert found == [
        Selection(None, "ema", ("model.ema-00001-of-00001.safetensors",), None),
        Selection(None, "fp16", ("model.fp16.safetensors",), None),
        Selection(None, "int8", tuple(late), None),
    ]


def test_side_files_of_macos_are_no_weights() -> None:
    (found,) = select("model.safetensors", "._model.safetensors", "._config.json", "x/._y.safetensors")
    assert found == Selection(None, None, ("model.safetensors",), None)
    with pytest.raises(SkippedCheckpoint, match="no weights of any kind"):
        select("README.md", "._README.md")


def test_index_of_a_variant() -> None:
    files = shards("model.fp16", 2)
    (found,) = select(*files, documents={"model.safetensors.index.fp16.json": index(*files)})
    assert found == Selection(None, "fp16", tuple(files), None, "model.safetensors.index.fp16.json")


def test_a_pipeline_has_a_checkpoint_a_folder() -> None:
    found = select(
        "model_index.json",
        "sd-v1-5.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        *[f"text_encoder/{shard}" for shard in shards("model", 2)],
        "safety_checker/pytorch_model.bin",
        "safety_checker/config.json",
        "scheduler/scheduler_config.json",
    )
    assert found == [
        Selection("safety_checker", None, ("safety_checker/pytorch_model.bin",), "safety_checker/config.json"),
        Selection("text_encoder", None, tuple(f"text_encoder/{shard}" for shard in shards("model", 2)), None),
        Selection("unet", None, ("unet/diffusion_pytorch_model.safetensors",), "unet/config.json"),
    ]


def test_a_pipeline_without_parts_falls_back_on_its_root() -> None:
    (found,) = select("model_index.json", "all-in-one.safetensors", "unet/diffusion_pytorch_model.msgpack")
    assert found.weight_files == ("all-in-one.safetensors",)


def test_sub_folders_count_when_the_root_has_no_weights() -> None:
    found = select("README.md", "step-1/model.safetensors", "deep/er/model.safetensors", "deep/er/config.json")
    assert [(s.subfolder, s.config_file) for s in found] == [("deep/er", "deep/er/config.json"), ("step-1", None)]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["training_args.bin", "a/optimizer.pt"], "states of a training.*a/optimizer.pt.*training_args.bin"),
        (["last.ckpt"], "pickles that are never loaded .*last.ckpt"),
        (["a.pt", "b.bin"], "several unrelated PyTorch files .*'a.pt', 'b.bin'"),
        (["model.pt", "model.bin"], "several unrelated PyTorch files"),
        (["mmproj-F16.gguf", "imatrix.gguf"], "only GGUF files that go with a model: .*'imatrix.gguf'"),
        (["old.ggml"], "from before GGUF"),
        (["onnx/model.onnx"], "ONNX"),
        (["tf_model.h5"], "TensorFlow"),
        (["flax_model.msgpack"], "Flax"),
        (["mmproj.gguf", "last.ckpt"], "pickles.*GGUF"),
        (["config.json"], "no weights of any kind"),
        ([], "no weights of any kind"),
        (["a.safetensors", "b.safetensors"], "several unrelated.*'a.safetensors', 'b.safetensors'"),
        ([f"lora{n}.safetensors" for n in range(8)], "and 3 more"),
        ([*shards("model", 2), *shards("model", 3)], "several sets and no index"),
    ],
)
def test_nothing_to_read_is_skipped_with_the_reason(paths: list[str], message: str) -> None:
    with pytest.raises(SkippedCheckpoint, match=message):
        select(*paths)


@pytest.mark.parametrize("digits", [5, 6])
def test_missing_shards_are_named(digits: int) -> None:
    files = shards("model.fp16", 9, digits=digits)
    with pytest.raises(WeightsError) as caught:
        select(files[0], *files[2:7])
    assert all(repr(name) in str(caught.value) for name in (files[1], files[7], files[8]))
    assert str(caught.value).startswith("3 shards")


def test_missing_consolidated_part_is_named() -> None:
    with pytest.raises(WeightsError, match=r"'consolidated\.01\.safetensors'"):
        select("consolidated.00.safetensors", "consolidated.02.safetensors")


def test_files_that_only_the_index_knows_are_named() -> None:
    files = shards("model", 3)
    with pytest.raises(WeightsError, match=r"names 2 of 3 files that are missing.*00002-of-00003.*00003-of-00003"):
        select("x/" + files[0], documents={"x/model.safetensors.index.json": index(*files)})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (index("../model.safetensors"), "own folder"),
        (index("/etc/model.safetensors"), "own folder"),
        (index("other/model.safetensors"), "own folder"),
        (index("other\\model.safetensors"), "own folder"),
        (index("pytorch_model.bin"), "not a safetensors file"),
        ({"weight_map": {"w": 3}}, "not a safetensors file"),
        ({"weight_map": {"w": None}}, "not a safetensors file"),
        ({"weight_map": {}}, "no weight_map"),
        ({"weight_map": ["model.safetensors"]}, "no weight_map"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
        (None, "no weight_map"),
    ],
)
def test_hostile_indexes_are_refused(document: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        select("other/model.safetensors", "pytorch_model.bin", documents={"model.safetensors.index.json": document})


def test_a_broken_part_of_a_pipeline_is_not_passed_over() -> None:
    with pytest.raises(WeightsError, match=r"unet/diffusion_pytorch_model-00001"):
        select("model_index.json", "vae/model.safetensors", "unet/diffusion_pytorch_model-00001-of-00002.safetensors")


def test_names_in_errors_stay_on_one_line_and_encodable() -> None:
    with pytest.raises(WeightsError) as caught:
        select(documents={"model.safetensors.index.json": index("a\n\ud800.safetensors")})
    assert "\n" not in str(caught.value)
    assert str(caught.value).encode()


@given(st.integers(1, 40), st.sampled_from(["model", "my.net", "consolidated"]), st.data())
def test_shards_are_complete_or_the_missing_ones_are_counted(total: int, stem: str, data: st.DataObject) -> None:
    complete = shards(stem, total)
    present = data.draw(st.lists(st.sampled_from(complete), min_size=1, unique=True))
    if len(present) == total:
        (found,) = select(*present)
        assert list(found.weight_files) == complete
    else:
        with pytest.raises(WeightsError, match=f"^{total - len(present)} shards"):
            select(*present)


_PATHS = st.builds(
    lambda folder, stem, shard, end: f"{folder}{stem}{shard}{end}",
    st.sampled_from(["", "unet/", "a/b/"]),
    st.sampled_from(["model", "model.fp16", "consolidated", "consolidated.00", "adapter_model", "x", "config"]),
    st.sampled_from(["", "-00001-of-00002", "-00002-of-00002", "-000001-of-000001"]),
    st.sampled_from([".safetensors", ".fp16.safetensors", ".bin", ".json", ".gguf"]),
)


@given(st.lists(_PATHS, unique=True))
def test_whatever_lies_there_the_selections_hold(paths: list[str]) -> None:
    try:
        found = select(*paths)
    except (WeightsError, SkippedCheckpoint):
        return
    assert found
    assert len({(s.subfolder, s.variant) for s in found}) == len(found)
    for s in found:
        assert s.weight_files
        assert len(set(s.weight_files)) == len(s.weight_files)
        for path in (*s.weight_files, *([s.config_file] if s.config_file else [])):
            assert path in paths
            assert path.rpartition("/")[0] == (s.subfolder or "")


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("model.safetensors", False),
        ("model.fp16.safetensors", False),
        ("consolidated.00.safetensors", False),
        ("adapter_model.safetensors", False),
        ("llama-3.2-1b.safetensors", True),
        ("model-q4.gguf", True),
        ("pytorch_model.bin", False),
        ("net.pth", True),
    ],
)
def test_names_a_model(name: str, own: bool) -> None:
    assert names_a_model(name) is own
