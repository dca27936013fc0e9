"""One checkpoint fused, renamed and re-prefixed in the ways of other families: its samples and curves stay the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from provenance.crawler.fingerprint import fingerprint
from provenance.crawler.local.folders import find_local, listed_checkpoints
from provenance.crawler.local.reader import LocalReader
from provenance.schemas.records import Fingerprint
from provenance.schemas.roles import Role
from tests.conftest import Tensors
from tests.support import layouts
from tests.support.layouts import CONFIG, KV_HEADS, LAYERS, Layout, separate, write

PREFIXES = (
    "",
    "model.",
    "transformer.",
    "language_model.model.",
    "base_model.model.model.",
    "_orig_mod.model.",
    "module.model.",
)
Array = NDArray[Any]


def fingerprint_of(folder: Path, layout: Layout) -> Fingerprint:
    (repo,) = find_local(write(folder, layout))
    (listed,) = listed_checkpoints(repo)
    with LocalReader(repo.folder, repo.root) as reader:
        return fingerprint(listed, reader, size=None, now=datetime(2026, 1, 2, tzinfo=UTC))


def fused(stems: Mapping[str, Callable[[dict[str, Array]], Array]], config: Mapping[str, Any], kv_heads: int) -> Layout:
    """The small Llama with the matrices of every layer stored under other stems."""
    tensors: Tensors = separate(kv_heads=kv_heads)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        own = {role: tensors.pop(f"{at}self_attn.{role}_proj.weight") for role in "qkvo"}
        own |= {role: tensors.pop(f"{at}mlp.{role}_proj.weight") for role in ("gate", "up", "down")}
        tensors |= {f"{at}{stem}.weight": np.ascontiguousarray(join(own)) for stem, join in stems.items()}
    return Layout(tensors, {**CONFIG, "num_key_value_heads": kv_heads, **config})


def by_group(own: dict[str, Array]) -> Array:
    cut = [np.split(own[role], KV_HEADS) for role in "qkv"]
    return np.concatenate([piece for group in zip(*cut, strict=True) for piece in group])


PLAIN = {"mlp.gate_proj": lambda p: p["gate"], "mlp.up_proj": lambda p: p["up"], "mlp.down_proj": lambda p: p["down"]}
SAME: dict[str, tuple[int, Layout]] = {
    **{
        prefix or "no prefix": (
            KV_HEADS,
            Layout({n if "lm_head" in n else prefix + n.removeprefix("model."): t for n, t in separate().items()}),
        )
        for prefix in PREFIXES
    },
    "Phi-3": (KV_HEADS, layouts.phi3()),
    "Meta": (KV_HEADS, layouts.meta()),
    "InternLM2": (
        KV_HEADS,
        fused({"attention.wqkv": by_group, "attention.wo": lambda p: p["o"], "feed_forward.w1": lambda p: p["gate"],
               "feed_forward.w3": lambda p: p["up"], "feed_forward.w2": lambda p: p["down"]},
              {"model_type": "internlm2"}, KV_HEADS),
    ),
    "Baichuan": (
        4,
        fused({"self_attn.W_pack": lambda p: np.concatenate([p[role] for role in "qkv"]),
               "self_attn.o_proj": lambda p: p["o"], **PLAIN}, {"model_type": "baichuan"}, 4),
    ),
    "GTE": (
        KV_HEADS,
        fused({"attention.qkv_proj": lambda p: np.concatenate([p[role] for role in "qkv"]),
               "attention.o_proj": lambda p: p["o"], "mlp.down_proj": lambda p: p["down"],
               "mlp.up_gate_proj": lambda p: np.concatenate([p["up"], p["gate"]])}, {"model_type": "gte"}, KV_HEADS),
    ),
    "Megatron-core": (
        KV_HEADS,
        fused({"self_attention.linear_qkv": by_group, "self_attention.linear_proj": lambda p: p["o"],
               "mlp.linear_fc1": lambda p: np.concatenate([p["gate"], p["up"]]), "mlp.linear_fc2": lambda p: p["down"]},
              {"model_type": "megatron"}, KV_HEADS),
    ),
}  # fmt: skip
KEYS = ("stack", "role", "layer", "expert")


def curves(found: Fingerprint) -> dict[tuple[Any, ...], Any]:
    return {tuple(getattr(row, key) for key in KEYS): row.std for row in found.tensors if row.role != Role.OTHER}


@pytest.mark.parametrize("name", SAME)
def test_samples_and_curves_are_those_of_the_plain_checkpoint(name: str, tmp_path: Path) -> None:
    kv_heads, other = SAME[name]
    plain = fingerprint_of(tmp_path / "plain", Layout(separate(kv_heads=kv_heads)))
    found = fingerprint_of(tmp_path / "other", other)
    # Permuted rows are summed in another order.
    assert curves(found) == pytest.approx(curves(plain), rel=1e-12)
    assert len(curves(plain)) >= 7 * LAYERS
    ours, theirs = ([replace(e, offset=0) for e in f.sample.entries] for f in (found, plain))
    assert ours == theirs
    np.testing.assert_array_equal(found.sample.values, plain.sample.values)
