"""Which GGUF files of a folder are models, and what their variants are called."""

from __future__ import annotations

import pytest

from provenance.crawler.gguf_selection import gguf_models, goes_with_a_model
from provenance.crawler.selection import Selection, select_weights
from provenance.schemas.errors import WeightsError


def split(stem: str, n: int) -> list[str]:
    return [f"{stem}-{i:05d}-of-{n:05d}.gguf" for i in range(1, n + 1)]


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("llama-2-7b-chat.Q4_K_M.gguf", "Q4_K_M"),
        ("Meta-Llama-3-8B-Instruct-IQ2_XXS.gguf", "IQ2_XXS"),
        ("qwen2.5-7b-instruct-q4_0.gguf", "Q4_0"),
        ("gemma-3-4b-it-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("Model.i1-Q6_K.gguf", "Q6_K"),
        ("model-Q4_0_4_8.gguf", "Q4_0_4_8"),
        ("model-f16.gguf", "F16"),
        ("model.BF16.gguf", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("bitnet-TQ2_0.gguf", "TQ2_0"),
        ("Model-Q4_K_M-imat.gguf", "Q4_K_M"),
        ("Q8_0.gguf", "Q8_0"),
        ("Q4-model.gguf", None),
        ("model.gguf", None),
        ("ggml-model-i2_s.gguf", None),
    ],
)
def test_the_variant_is_the_packing_that_ends_the_name(name: str, variant: str | None) -> None:
    assert gguf_models([name, "README.md", "config.json"]) == [(variant, (name,))]


def test_each_packing_of_a_model_is_a_checkpoint() -> None:
    names = ["M-Q8_0.gguf", "M.Q4_K_M.gguf", "mmproj-F16.gguf", "M.imatrix.gguf", "imatrix.gguf", *split("M-BF16", 2)]
    assert gguf_models(names) == [
        ("BF16", tuple(split("M-BF16", 2))),
        ("Q4_K_M", ("M.Q4_K_M.gguf",)),
        ("Q8_0", ("M-Q8_0.gguf",)),
    ]


@pytest.mark.parametrize(
    "names", [["a-Q8_0.gguf", "b-Q8_0.gguf"], ["a.gguf", "b-Q4_0.gguf"], ["m-Q8_0.gguf", "m.q8_0.gguf"]]
)
def test_where_the_packing_does_not_tell_them_apart_the_whole_name_does(names: list[str]) -> None:
    assert gguf_models(names) == [(name.removesuffix(".gguf"), (name,)) for name in sorted(names)]


def test_a_whole_file_beside_its_parts_is_taken_alone() -> None:
    assert gguf_models(["M-Q8_0.gguf", *split("M-Q8_0", 3)]) == [("Q8_0", ("M-Q8_0.gguf",))]


def test_an_incomplete_model_does_not_hide_the_others() -> None:
    broken = split("M-Q8_0", 4)[:3]
    assert gguf_models([*broken, "M-Q4_0.gguf"]) == [("Q4_0", ("M-Q4_0.gguf",))]
    with pytest.raises(WeightsError, match=r"1 of 4 files .* missing: the first is 'M-Q8_0-00004-of-00004\.gguf'"):
        gguf_models(broken)


def test_what_goes_with_a_model_is_none() -> None:
    assert all(
        map(goes_with_a_model, ["mmproj-model-f16.gguf", "M-mmproj.gguf", "imatrix.gguf", "ggml-vocab-phi.gguf"])
    )
    assert not goes_with_a_model("M-Q4_K_M-imatrix.gguf")
    assert gguf_models(["mmproj.gguf"]) == []


def test_gguf_counts_where_there_are_no_safetensors() -> None:
    def read_json(path: str) -> object:
        raise AssertionError(path)

    assert select_weights(["m.Q8_0.gguf", "config.json", "pytorch_model.bin"], read_json) == [
        Selection(None, "Q8_0", ("m.Q8_0.gguf",), None)
    ]
    (found,) = select_weights(["m.Q8_0.gguf", "model.safetensors"], read_json)
    assert found.weight_files == ("model.safetensors",)
    parts = select_weights(["Q4_0/m-Q4_0.gguf", *(f"BF16/{name}" for name in split("m-BF16", 2))], read_json)
    assert [(s.subfolder, s.variant, len(s.weight_files)) for s in parts] == [("BF16", "BF16", 2), ("Q4_0", "Q4_0", 1)]
