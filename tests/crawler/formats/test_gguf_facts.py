"""What GGUF metadata says of a model, and what becomes of nonsense in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from provenance.crawler.architectures.config import read_settings
from provenance.crawler.formats.gguf import Value
from provenance.crawler.formats.gguf_facts import card_of, check_model, config_of, with_declarations
from provenance.schemas.errors import SkippedCheckpoint, WeightsError
from provenance.schemas.records import RepoMetadata
from provenance.schemas.tensors import TensorEntry

DECLARED: dict[str, Value] = {
    "general.license": "apache-2.0",
    "general.source.repo_url": "https://huggingface.co/org/Model-7B-Chat",
    "general.base_model.count": 2,
    "general.base_model.0.name": "Model 7B",
    "general.base_model.0.repo_url": "https://huggingface.co/org/Model-7B",
    "general.base_model.1.repo_url": "https://huggingface.co/other/Base",
    "general.base_model.2.repo_url": "https://huggingface.co/org/uncounted",
}


def entries(*dtypes: str) -> list[TensorEntry]:
    return [TensorEntry(f"t{i}", dtype, (32, 256), "m.gguf", 0, 0) for i, dtype in enumerate(dtypes)]


def test_facts_of_the_architecture_become_a_config() -> None:
    metadata: dict[str, Value] = {
        "general.architecture": "qwen2",
        "general.file_type": 15,
        "qwen2.embedding_length": 896,
        "qwen2.attention.head_count": 14,
        "qwen2.attention.head_count_kv": 2,
        "llama.attention.head_count": 99,
    }
    settings = read_settings(config_of(metadata, entries("Q4_K", "Q6_K", "F32")))
    assert (settings.model_type, settings.hidden_size) == ("qwen2", 896)
    assert (settings.n_heads, settings.n_kv_heads, settings.quantization) == (14, 2, "Q4_K_M")


@pytest.mark.parametrize(
    ("heads", "kv_heads", "expected"),
    [
        ((32, 0, 32), (8, 8, 8), (32, 8)),
        ((32,), (8, 4), (32, None)),
        ("many", 2.5, (None, None)),
        ((), (), (None, None)),
    ],
)
def test_counts_by_layer_are_one_count_or_none(heads: Value, kv_heads: Value, expected: tuple[Any, Any]) -> None:
    metadata = {
        "general.architecture": "deci",
        "deci.attention.head_count": heads,
        "deci.attention.head_count_kv": kv_heads,
    }
    settings = read_settings(config_of(metadata, []))
    assert (settings.n_heads, settings.n_kv_heads) == expected


@pytest.mark.parametrize(
    ("file_type", "dtypes", "packing"),
    [
        (15, ("Q4_K", "Q6_K"), "Q4_K_M"),
        (1024, ("Q6_K", "Q4_K", "Q4_K"), "Q4_K"),
        (None, ("F32", "F32", "Q8_0"), "Q8_0"),
        ("15", ("MXFP4",), "MXFP4"),
        (15, ("F16", "F32"), None),
        (1, ("F16",), None),
    ],
)
def test_the_packing_is_what_the_blocks_and_the_file_type_say(
    file_type: Value | None, dtypes: tuple[str, ...], packing: str | None
) -> None:
    metadata = {} if file_type is None else {"general.file_type": file_type}
    assert read_settings(config_of(metadata, entries(*dtypes))).quantization == packing


def test_a_file_declares_what_it_was_made_from() -> None:
    found = with_declarations(RepoMetadata(), DECLARED, "packer/Model-7B-Chat-GGUF")
    assert found == RepoMetadata(
        license="apache-2.0", declared_parents=("org/Model-7B-Chat", "org/Model-7B", "other/Base")
    )


def test_old_files_name_their_source_without_an_address() -> None:
    found = with_declarations(RepoMetadata(), {"general.source.huggingface.repository": "org/Model"}, "packer/M")
    assert found.declared_parents == ("org/Model",)


def test_what_was_listed_comes_first() -> None:
    listed = RepoMetadata(license="mit", declared_parents=("ORG/model-7b",), downloads=3)
    found = with_declarations(listed, DECLARED, "org/Model-7B-Chat")
    assert found == RepoMetadata(license="mit", declared_parents=("ORG/model-7b", "other/Base"), downloads=3)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"general.base_model.count": 2**63, "general.license": 3},
        {"general.base_model.count": 1, "general.base_model.0.repo_url": "https://example.org/../../etc/passwd"},
        {"general.base_model.count": "1", "general.base_model.0.repo_url": "org/name"},
        {"general.base_model.count": 1, "general.base_model.0.repo_url": ("org/name",)},
    ],
)
def test_nonsense_declares_nothing(metadata: dict[str, Value]) -> None:
    assert replace(with_declarations(RepoMetadata(), metadata, "org/m"), notes=()) == RepoMetadata()
    assert len(str(card_of(metadata))) < 200


def test_what_is_no_model_is_skipped() -> None:
    for metadata in ({"general.type": "imatrix"}, {"general.type": "mmproj"}, {"general.architecture": "clip"}):
        with pytest.raises(SkippedCheckpoint, match=r"m\.gguf is .*not a model"):
            check_model(metadata, ["m.gguf"])
    check_model({"general.type": "model", "split.count": 1}, ["m.gguf"])
    check_model({"general.type": "adapter", "split.count": 0}, ["m.gguf"])


def test_a_part_of_a_split_model_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"a\.gguf is one of 3 files of a model, of which 1 are here"):
        check_model({"split.count": 3}, ["a.gguf"])
