"""Sketches of products: no inner disguise and no way of storing changes them, and what is read was planned."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from provenance.crawler.anchors import spread_anchors
from provenance.crawler.architectures import resolve_roles
from provenance.crawler.fingerprint import fingerprint
from provenance.crawler.formats.gguf_facts import config_of
from provenance.crawler.formats.header import read_header
from provenance.crawler.local.folders import find_local, listed_checkpoints
from provenance.crawler.local.reader import LocalReader
from provenance.crawler.plan import SAMPLE_SIZES
from provenance.crawler.product_plan import plan_products, vocabulary
from provenance.crawler.products import read_products, standard
from provenance.schemas.errors import WeightsError
from provenance.schemas.products import Product, ProductSketch
from tests.conftest import Tensors, llama
from tests.support import layouts
from tests.support.disguises import DISGUISES, Disguise
from tests.support.gguf_files import write_gguf
from tests.support.layouts import CONFIG, HEADS, KV_HEADS, LAYERS, Layout, separate

ANCHORS = (3, 30, 8, 1, 27, 14)
"""Not in order: what is read is in the file's order, what is returned in theirs."""


@dataclass
class Visit:
    sketch: ProductSketch
    planned: int
    read: int
    requests: int


class Stored:
    """Writes checkpoints under a folder and sketches them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def visit(
        self,
        tensors: Tensors,
        config: Any = CONFIG,
        *,
        dtype: torch.dtype = torch.float64,
        shards: int = 1,
        anchors: Sequence[int] = ANCHORS,
        layers: Iterable[int] | None = None,
        products: Iterable[Product] = tuple(Product),
    ) -> Visit:
        self.count += 1
        folder = layouts.write(self.folder / str(self.count), Layout(tensors, None), dtype=dtype, shards=shards)
        files = sorted(path.name for path in folder.glob("*.safetensors"))
        with LocalReader(folder, folder) as reader:
            resolved = resolve_roles([e for file in files for e in read_header(reader, file, "").entries], config)
            plan = plan_products(resolved, anchors, layers=layers, products=products)
            before, requests = reader.bytes_read, reader.requests
            sketch = read_products(reader, plan)
            return Visit(sketch, plan.n_bytes, reader.bytes_read - before, reader.requests - requests)

    def sketch(self, tensors: Tensors, config: Any = CONFIG, **how: Any) -> ProductSketch:
        return self.visit(tensors, config, **how).sketch

    def of(self, layout: Layout, **how: Any) -> ProductSketch:
        return self.sketch(layout.tensors, layout.config, **how)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def wide(tensors: Tensors) -> Tensors:
    return {name: t.astype(np.float64) for name, t in tensors.items()}


def assert_equal(a: ProductSketch, b: ProductSketch, tolerance: float = 1e-5) -> None:
    assert a.layers == b.layers
    np.testing.assert_allclose(a.vo, b.vo, atol=tolerance)
    np.testing.assert_allclose(a.fu, b.fu, atol=tolerance)


def oracle(tensors: Tensors, layer: int, anchors: Sequence[int], heads: int, kv_heads: int) -> tuple[Any, Any]:
    """Both sketches by the formula, with the products made."""
    weights = {name.split(".", 3)[3]: t for name, t in tensors.items() if name.startswith(f"model.layers.{layer}.")}
    v, o, up, down = (weights[f"{name}_proj.weight"] for name in ("self_attn.v", "self_attn.o", "mlp.up", "mlp.down"))
    v = np.repeat(v.reshape(kv_heads, -1, v.shape[1]), heads // kv_heads, axis=0).reshape(-1, v.shape[1])
    rows = tensors["model.embed_tokens.weight"][list(anchors)]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    products = (
        o @ v @ np.diag(weights["input_layernorm.weight"]),
        down @ up @ np.diag(weights["post_attention_layernorm.weight"]),
    )
    centre = np.eye(len(rows)) - 1 / len(rows)
    found = [centre @ rows @ product @ rows.T @ centre for product in products]
    return tuple(sketch / np.linalg.norm(sketch) for sketch in found)


def test_sketch_is_what_the_formula_says(stored: Stored) -> None:
    tensors = wide(separate())
    found = stored.sketch(tensors)
    assert found.layers == tuple(range(LAYERS))
    assert found.anchors == ANCHORS
    assert found.notes == ()
    for layer in range(LAYERS):
        vo, fu = oracle(tensors, layer, ANCHORS, HEADS, KV_HEADS)
        np.testing.assert_allclose(found.vo[layer], vo, atol=1e-6)
        np.testing.assert_allclose(found.fu[layer], fu, atol=1e-6)


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_no_disguise_changes_a_sketch(stored: Stored, disguise: str, heads: tuple[int, int]) -> None:
    config = {"model_type": "llama", "num_attention_heads": heads[0], "num_key_value_heads": heads[1]}
    tensors = wide(llama(1, heads=heads[0], kv_heads=heads[1]))
    changed = getattr(Disguise(*heads, seed=5), disguise)(tensors)
    assert any(not np.array_equal(changed[name], tensors[name]) for name in tensors)
    assert_equal(stored.sketch(tensors, config), stored.sketch(changed, config))


def test_strangers_have_other_sketches(stored: Stored) -> None:
    a, b = stored.sketch(separate(1)), stored.sketch(separate(2))
    assert np.abs(np.einsum("lij,lij->l", a.vo, b.vo)).max() < 0.6
    assert np.abs(np.einsum("lij,lij->l", a.fu, b.fu)).max() < 0.6


@pytest.mark.parametrize(
    ("plain", "other"),
    [
        (Layout(separate()), layouts.meta()),
        (Layout(separate()), layouts.phi3()),
        (layouts.phi(), layouts.gpt2()),
        (layouts.phi(), layouts.neox()),
        (layouts.experts(), layouts.stacked_experts()),
    ],
    ids=["meta", "phi3", "gpt2", "neox", "stacked experts"],
)
def test_storage_changes_nothing(stored: Stored, plain: Layout, other: Layout) -> None:
    assert_equal(stored.of(plain), stored.of(other))
    assert_equal(stored.of(plain, dtype=torch.float32), stored.of(other, dtype=torch.bfloat16, shards=3))


def test_experts_in_another_order_are_the_same_mixture(stored: Stored) -> None:
    layout = layouts.experts()
    turned = {
        name.replace(".experts.0.", ".experts.x.").replace(".experts.2.", ".experts.0.").replace("x.", "2."): t
        for name, t in layout.tensors.items()
    }
    assert turned.keys() == layout.tensors.keys()
    assert not np.array_equal(
        turned["model.layers.0.mlp.experts.0.up_proj.weight"],
        layout.tensors["model.layers.0.mlp.experts.0.up_proj.weight"],
    )
    assert_equal(stored.of(layout), stored.sketch(turned, layout.config))


def test_gain_of_gemma_is_one_plus_its_weight(stored: Stored) -> None:
    tensors = wide(separate())
    moved = {name: t - 1 if name.endswith("layernorm.weight") else t for name, t in tensors.items()}
    assert_equal(stored.sketch(tensors), stored.sketch(moved, {**CONFIG, "model_type": "gemma"}))


def test_layer_norm_ignores_what_all_channels_share(stored: Stored) -> None:
    """Where norms subtract the mean, a model may add any constant to a whole row of what it writes."""
    layout, rng = layouts.phi(), np.random.default_rng(3)
    tensors = wide(layout.tensors)
    for layer in range(LAYERS):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.bias"] = np.zeros(layouts.HIDDEN)
    shifted = dict(tensors)
    for name, t in tensors.items():
        if name.endswith("embed_tokens.weight"):
            shifted[name] = t + rng.normal(0, 1, (len(t), 1))
        if name.endswith(("dense.weight", "fc2.weight")):
            shifted[name] = t + rng.normal(0, 1, (1, t.shape[1]))
    assert_equal(stored.sketch(tensors, layout.config), stored.sketch(shifted, layout.config))


@pytest.mark.parametrize("make", [lambda: Layout(separate()), layouts.phi3, layouts.gpt2, layouts.stacked_experts])
def test_as_much_is_read_as_was_planned(stored: Stored, make: Any) -> None:
    layout = make()
    visit = stored.visit(layout.tensors, layout.config, dtype=torch.bfloat16)
    assert visit.read == visit.planned > 0
    some = stored.visit(layout.tensors, layout.config, dtype=torch.bfloat16, layers=[1], products=[Product.VO])
    assert some.read == some.planned < visit.planned / 2
    assert some.sketch.layers == (1,)
    np.testing.assert_array_equal(some.sketch.vo[0], visit.sketch.vo[1])
    assert np.isnan(some.sketch.fu).all()


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_a_gguf_file_has_the_sketch_of_its_original(stored: Stored, tmp_path: Path, kind: str) -> None:
    tensors, config = separate(), {**CONFIG, "model_type": kind}
    expected = stored.sketch(tensors, config)
    # llama.cpp's converter adds the 1 of Gemma's norms to their weights.
    stored_norms = {name: t + (t.ndim == 1 and kind == "gemma") for name, t in tensors.items()}
    write_gguf(tmp_path / "m.gguf", stored_norms, {**config, "num_hidden_layers": LAYERS}, "F32")
    with LocalReader(tmp_path, tmp_path) as reader:
        header = read_header(reader, "m.gguf", "")
        assert header.gguf is not None
        resolved = resolve_roles(header.entries, config_of(header.gguf, header.entries))
        assert_equal(read_products(reader, plan_products(resolved, ANCHORS)), expected)


def test_plan_names_its_bytes(stored: Stored) -> None:
    hidden, ffn = layouts.HIDDEN, layouts.FFN
    visit = stored.visit(separate(), dtype=torch.bfloat16)
    matrices = hidden * (KV_HEADS * layouts.HEAD + hidden + 2 * ffn)
    assert visit.planned == 2 * (len(ANCHORS) * hidden + LAYERS * (2 * hidden + matrices))


def test_memory_is_bounded_by_a_range(stored: Stored, tmp_path: Path) -> None:
    """Twelve layers of 12 MB are read, and no more than three of them are ever in memory: a range and its numbers."""
    hidden, ffn = 512, 2560
    one = {
        "self_attn.v_proj": torch.ones(hidden, hidden),
        "self_attn.o_proj": torch.ones(hidden, hidden),
        "mlp.up_proj": torch.ones(ffn, hidden),
        "mlp.down_proj": torch.ones(hidden, ffn),
        "input_layernorm": torch.ones(hidden),
        "post_attention_layernorm": torch.ones(hidden),
    }
    tensors = {f"model.layers.{i}.{name}.weight": t.clone() for i in range(12) for name, t in one.items()}
    save_file(tensors | {"model.embed_tokens.weight": torch.randn(64, hidden)}, tmp_path / "model.safetensors")
    del tensors
    with LocalReader(tmp_path, tmp_path) as reader:
        plan = plan_products(resolve_roles(read_header(reader, "model.safetensors", "").entries, None), range(16))
        assert plan.n_bytes > 12 * 12_000_000
        tracemalloc.start()
        read_products(reader, plan)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 40_000_000


class FaultyReader(LocalReader):
    """Ends a file early, as a cut download does."""

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        return super().read(path, [(start, stop + self.size(path)) for start, stop in ranges])


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    layouts.write(tmp_path / "a", Layout(separate()))
    folder = tmp_path / "a"
    with LocalReader(folder, folder) as reader:
        plan = plan_products(resolve_roles(read_header(reader, "model.safetensors", "").entries, CONFIG), ANCHORS)
    with FaultyReader(folder, folder) as reader, pytest.raises(WeightsError, match="incomplete"):
        read_products(reader, plan)


def test_what_cannot_be_told_is_left_out_with_its_reason(stored: Stored) -> None:
    tensors = separate()
    tensors.pop("model.layers.0.self_attn.o_proj.weight")
    tensors.pop("model.layers.1.input_layernorm.weight")
    tensors["model.layers.1.mlp.up_proj.weight"] = np.full_like(tensors["model.layers.1.mlp.up_proj.weight"], np.inf)
    found = stored.sketch(tensors)
    assert np.isnan(found.vo[0]).all()
    assert np.isfinite(found.vo[1]).all()
    assert np.isfinite(found.fu[0]).all()
    assert np.isnan(found.fu[1]).all()
    assert sorted(note.split(":")[0] for note in found.notes) == ["fu", "vo", "vo"]
    assert any("not found (layers 0)" in note for note in found.notes)
    assert any("no gain of a norm before it (layers 1)" in note for note in found.notes)
    assert any("no finite product (layer 1)" in note for note in found.notes)


def test_grouped_heads_without_a_config_are_declined(stored: Stored) -> None:
    found = stored.sketch(separate(), None)
    assert np.isnan(found.vo).all()
    assert np.isfinite(found.fu).all()
    assert any("heads could not be told apart" in note for note in found.notes)
    # Where every query head has values of its own, no number of heads is needed.
    assert np.isfinite(stored.sketch(separate(kv_heads=HEADS), None).vo).all()


def test_anchors_have_to_be_tokens_of_the_vocabulary(stored: Stored) -> None:
    for anchors in ((1, 1, 2), (0, 32), (-1, 3)):
        with pytest.raises(WeightsError, match="anchors must be different tokens of the 32"):
            stored.sketch(separate(), anchors=anchors)
    without = separate()
    without.pop("model.embed_tokens.weight")
    with pytest.raises(WeightsError, match="no token embedding"):
        stored.sketch(without)


def test_nothing_is_left_of_a_product_that_says_nothing() -> None:
    assert np.isnan(standard(np.zeros((3, 3)))).all()
    assert np.isnan(standard(np.full((3, 3), np.inf))).all()
    assert np.linalg.norm(standard(np.arange(9.0).reshape(3, 3) ** 2)) == pytest.approx(1)


# --- in the pass of a crawl


@pytest.mark.parametrize(
    ("layout", "stored"),
    [
        pytest.param(lambda: Layout(separate(), CONFIG), {}, id="separate"),
        pytest.param(lambda: Layout(separate(), CONFIG), {"shards": 3}, id="in shards"),
        pytest.param(layouts.phi3, {}, id="fused"),
        pytest.param(layouts.gpt2, {}, id="transposed and fused"),
        pytest.param(layouts.experts, {}, id="experts"),
        pytest.param(layouts.stacked_experts, {}, id="stacked experts"),
    ],
)
def test_a_full_crawl_makes_the_sketch_that_reading_alone_makes(
    tmp_path: Path, layout: Callable[[], Layout], stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provenance.crawler.plan.MAX_RANGE_BYTES", 3000)  # several chunks a matrix
    folder = layouts.write(tmp_path / "org" / "model", layout(), **stored)
    (repo,) = find_local(folder)
    (listed,) = listed_checkpoints(repo)
    with repo.reader() as reader:
        found = fingerprint(listed, reader, size=None, now=datetime.now(UTC)).products
        assert fingerprint(listed, reader, size=SAMPLE_SIZES["small"], now=datetime.now(UTC)).products is None
        resolved = resolve_roles(
            [e for f in listed.weight_files for e in read_header(reader, f, "").entries], layout().config
        )
        wanted = read_products(reader, plan_products(resolved, spread_anchors(vocabulary(resolved))))
    assert found is not None
    assert found.anchors == wanted.anchors
    assert_equal(found, wanted, tolerance=2e-3)  # float16
    assert np.isfinite(found.vo).all()


def test_a_full_crawl_notes_the_tokens(tmp_path: Path) -> None:
    tensors = separate()
    folder = layouts.write(tmp_path / "org" / "model", Layout(tensors, CONFIG))
    size = len(tensors["model.embed_tokens.weight"])
    (repo,) = find_local(folder)
    (listed,) = listed_checkpoints(repo)

    def tokens() -> tuple[str, ...] | None:
        with repo.reader() as reader:
            found = fingerprint(listed, reader, size=None, now=datetime.now(UTC)).products
        assert found is not None
        return found.tokens

    assert tokens() is None
    (folder / "tokenizer.json").write_text("[")
    assert tokens() is None
    vocab = {f"Ġ{i}" + "x" * 100 if i % 2 else f"\ud800{i}": i for i in range(size)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}}))
    named = tokens()
    assert named is not None
    for token, place in zip(named, spread_anchors(size), strict=True):
        assert token.startswith(f" {place}x" if place % 2 else f"\\ud800{place}")
        assert len(token) <= 70


def test_a_sketch_of_strange_weights_is_left_out(tmp_path: Path) -> None:
    huge = float(np.finfo(np.float64).max)
    for name, change in {"huge": lambda t: np.sign(t) * huge, "nan": lambda t: t * np.nan}.items():
        tensors = {n: change(t.astype(np.float64)) for n, t in separate().items()}
        folder = layouts.write(tmp_path / "org" / name, Layout(tensors, CONFIG), dtype=torch.float64)
        (repo,) = find_local(folder)
        (listed,) = listed_checkpoints(repo)
        with repo.reader() as reader:
            assert fingerprint(listed, reader, size=None, now=datetime.now(UTC)).products is None
