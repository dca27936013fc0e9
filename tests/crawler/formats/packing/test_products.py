"""The products of layers that `--deep` reads are those of the weights that the packed ones stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from provenance.crawler.anchors import spread_anchors
from provenance.crawler.architectures import resolve_roles
from provenance.crawler.formats.header import read_header
from provenance.crawler.formats.packing.recognise import unpack
from provenance.crawler.local.reader import LocalReader
from provenance.crawler.product_plan import plan_products
from provenance.crawler.products import read_products
from provenance.schemas.errors import WeightsError
from provenance.schemas.products import ProductSketch
from tests.crawler.formats.packing.test_packed import packed, write
from tests.support.packed import CASES, gptq

CONFIG = {"model_type": "llama", "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


def sketch(folder: Path, facts: object = None) -> ProductSketch:
    config = CONFIG | {"quantization_config": facts}
    with LocalReader(folder, folder) as reader:
        entries = unpack(read_header(reader, "model.safetensors", "x").entries, config, reader).entries
        plan = plan_products(resolve_roles(entries, config), spread_anchors(32))
        found = read_products(reader, plan)
    assert not found.notes
    return found


@pytest.mark.parametrize("name", ["gptq 4 act-order", "gptq 3", "awq", "nf4 nested", "fp8 block", "pack 4", "mlx 4"])
def test_products_of_packed_layers(name: str, tmp_path: Path) -> None:
    tensors, weights = packed(name)
    found = sketch(write(tmp_path / "packed", tensors), CASES[name].quantization)
    wanted = sketch(write(tmp_path / "dense", weights))
    assert found.layers == wanted.layers == (0, 1)
    np.testing.assert_allclose(found.vo, wanted.vo, atol=1e-4)
    np.testing.assert_allclose(found.fu, wanted.fu, atol=1e-4)


def test_single_rows_of_an_embedding_that_is_packed_across_them_cannot_be_read(tmp_path: Path) -> None:
    tensors, _ = packed("gptq 4")
    embedding = tensors["model.embed_tokens.weight"]
    rest = {name: tensor for name, tensor in tensors.items() if name != "model.embed_tokens.weight"}
    stored = {f"model.embed_tokens{ending}": tensor for ending, tensor in gptq(embedding)[0].items()}
    with pytest.raises(WeightsError, match="stored across its rows"):
        sketch(write(tmp_path / "packed", rest | stored))
