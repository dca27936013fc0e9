"""Checkpoints drawn from the tables' own words, of any shapes, with any config: nothing is told twice."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from itertools import groupby, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.crawler.architectures import read_names, resolve_roles, rows_index
from provenance.crawler.architectures.config import Settings, read_settings
from provenance.crawler.architectures.names import (
    BOTTLENECK,
    CROSS,
    DOUBLE_UP,
    DRAFT_STEMS,
    FAMILIES,
    FUSED,
    GATED_QUERY,
    HEAD_AXIS,
    NO_SOFTMAX,
    OUTSIDE,
    ROLE_OF_STEM,
    TOWERS,
    VARIANTS,
)
from provenance.schemas.roles import ROLES
from provenance.schemas.tensors import LogicalTensor, ResolvedRoles, TensorEntry

FLOATS = ("BF16", "F32", "F8_E4M3")
PROJECTION = re.compile(
    r"\.(?:[qkvo]_proj|[qkv]_lin|to_[qkv]|query|key|value|w[qkvo]|wqkv|Wqkv|W_pack|c_attn|qkv|qkv_proj|in_proj"
    r"|query_key_value|gate_up_proj|[qkv]_[ab]_proj)(?:\.weight)?$"
)
COUNTS = ("num_attention_heads", "n_heads", "n_head", "num_key_value_heads", "num_kv_heads", "hidden_size", "d_model")
SECTIONS = ("text_config", "llm_config", "attn_config", "decoder", "quantization_config")
FAMILY_NAMES = sorted(
    {family for fused in (*FUSED.values(), *DOUBLE_UP.values(), GATED_QUERY) for family in fused.layouts}
)
KNOWN = sorted({*ROLE_OF_STEM, *FUSED, *DOUBLE_UP, *HEAD_AXIS})
STEMS = [
    *(sorted(rows) for rows in FAMILIES.values()),
    *([stem] for stem in (*FUSED, *DOUBLE_UP, *HEAD_AXIS, *sorted(DRAFT_STEMS), BOTTLENECK)),
    *(list(stems) for _, stems in groupby(KNOWN, key=lambda stem: stem.rpartition(".")[0])),
    *([variant.holds, *variant.roles] for variant in VARIANTS),
]
"""Names that stand in one layer together."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = (
    st.sampled_from([1, 2, 4, 6, 12])
    | st.integers(-2, 40)
    | st.sampled_from([0, 10**9, 2**63, "8", [4, 6, 8], True, 8.0])
    | JSON
)
FLAT = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(COUNTS, NUMBERS),
        "model_type": st.sampled_from(FAMILY_NAMES) | JSON,
        "architectures": JSON,
        "multi_query": st.booleans(),
        "new_decoder_architecture": st.booleans(),
    },
)
CONFIGS = st.none() | st.builds(
    lambda outer, inner: outer | inner, FLAT, st.dictionaries(st.sampled_from(SECTIONS), FLAT | JSON)
)
SIZES = st.sampled_from([1, 2, 4, 8, 12, 24, 36, 48, 72, 96]) | st.sampled_from([0, 3, 7, 2**40])
PREFIXES = ["", "model.", "gpt_neox.", "encoder.", "a.b.", *(f"{tower}." for tower in TOWERS)]


def entry(name: str, shape: tuple[int, ...], dtype: str = "BF16") -> TensorEntry:
    return TensorEntry(name, dtype, shape, "model.safetensors", 0, 0)


@st.composite
def layers(draw: st.DrawFn) -> list[TensorEntry]:
    """Whole families of names in few layers, most of one width, and something strange here and there."""
    width, rows = draw(SIZES), draw(SIZES)
    found: dict[str, TensorEntry] = {}
    container = draw(st.sampled_from(PREFIXES)) + draw(
        st.sampled_from(["layers", "h", "blocks", "layer", "self_attends"])
    )
    for stems in draw(st.lists(st.sampled_from(STEMS), min_size=1, max_size=4)):
        for stem in draw(st.lists(st.sampled_from(stems), min_size=1, max_size=9, unique=True)):
            name = stem.replace("experts.*", f"experts.{draw(st.integers(0, 2))}")
            for cross, own in CROSS:
                if name.startswith(own) and draw(st.booleans()):
                    name = cross + name.removeprefix(own)
            suffix = draw(st.sampled_from([".weight"] * 6 + ["", ".bias", ".qweight", ".weight_scale"]))
            plain = st.sampled_from(
                [(rows, width), (width, rows), (3 * width, width), (2 * rows, width), (3, rows, width)]
            )
            shape = draw(plain | st.lists(SIZES, max_size=4).map(tuple))
            full = f"{container}.{draw(st.integers(0, 1))}.{name}{suffix}"
            found[full] = entry(full, shape, draw(st.sampled_from(FLOATS * 3 + ("I8", "nonsense"))))
    for stem in draw(
        st.lists(st.sampled_from([*OUTSIDE, "layers.0", "layers.0.", "h.99999999999.q_proj.weight"]), max_size=2)
    ):
        found[stem] = entry(stem, draw(st.lists(SIZES, max_size=2).map(tuple)))
    if draw(st.booleans()):
        fc = f"{container.rpartition('.')[0]}.fc.weight".removeprefix(".")
        found[fc] = entry(fc, (width, 2 * width))
    for member in draw(st.lists(st.sampled_from(sorted(NO_SOFTMAX)), max_size=1)):
        found[member] = entry(f"{container}.0.self_attn.{member}", (4,))
    return list(found.values())


def check(entries: list[TensorEntry], resolved: ResolvedRoles) -> None:
    assert list(dict.fromkeys(t.name for t in resolved.tensors)) == [found.name for found in entries]
    slots = Counter((t.stack, t.role, t.layer, t.expert) for t in resolved.tensors if t.role != "other")
    assert set(slots.values()) <= {1}
    by_entry: dict[str, list[LogicalTensor]] = defaultdict(list)
    for tensor in resolved.tensors:
        by_entry[tensor.name].append(tensor)
    for parts in by_entry.values():
        _inside_and_apart(parts)
    noted = " ".join(resolved.notes)
    for name, parts in by_entry.items():
        looks = PROJECTION.search(f".{name}") and len(parts[0].entry.shape) >= 2
        if looks and all(part.role == "other" for part in parts) and len(resolved.notes) < 50:
            assert f"{re.sub(r'[0-9]+', '*', name)}:" in noted
    for number in (resolved.n_heads, resolved.n_kv_heads, resolved.hidden_size):
        assert number is None or (type(number) is int and number > 0)


def _inside_and_apart(parts: list[LogicalTensor]) -> None:
    """Every part lies inside the stored tensor, and no two share an element."""
    whole = math.prod(parts[0].entry.shape)
    taken: dict[int, list[int]] = defaultdict(list)
    sizes = set()
    for part in parts:
        assert part.role in ROLES
        size = math.prod(part.stored_shape)
        sizes.add(size)
        assert 0 <= part.element_offset <= whole - size
        stored_rows = part.stored_shape[1 if part.transposed else 0] if part.stored_shape else 1
        if part.rows is not None:
            assert part.shape[0] == part.rows.count > 0
            assert part.rows.groups == 1 or part.rows.stride >= part.rows.size
            assert part.rows.start >= 0
            assert part.rows.start + part.rows.stride * (part.rows.groups - 1) + part.rows.size <= stored_rows
        if part.role != "other" and len(part.shape) == 2:
            assert part.shape[1] == part.stored_shape[0 if part.transposed else 1]
            assert part.entry.dtype in FLOATS
            assert 0 not in part.shape
        if len(parts) > 1 and stored_rows < 10**4:
            assert part.rows is not None or len({p.element_offset for p in parts}) == len(parts)
            taken[part.element_offset] += range(stored_rows) if part.rows is None else rows_index(part.rows).tolist()
    assert all(len(rows) == len(set(rows)) for rows in taken.values())
    offsets = sorted({part.element_offset for part in parts})
    assert len(sizes) == 1
    assert all(b - a >= max(sizes) for a, b in pairwise(offsets))


@settings(deadline=None, max_examples=400)
@given(entries=layers(), config=CONFIGS)
def test_whatever_comes_every_tensor_is_told_once(entries: list[TensorEntry], config: dict[str, Any] | None) -> None:
    reading = read_names(entries)
    resolved = reading.with_config(config)
    check(entries, resolved)
    assert resolved == resolve_roles(entries, config)
    assert resolved.model_type is None or isinstance(resolved.model_type, str)
    bare = reading.with_config(None)
    check(entries, bare)
    again = resolve_roles(entries[::-1], config)
    assert {(t.name, t.part, t.expert): t.role for t in again.tensors} == {
        (t.name, t.part, t.expert): t.role for t in resolved.tensors
    }


@pytest.mark.parametrize(
    "garbage", [[], "x", 3, None, {"num_attention_heads": {"a": None}}, {"architectures": [None, 3]}, {"n_heads": True}]
)
def test_a_config_of_the_wrong_kind_counts_as_none(garbage: Any) -> None:
    assert read_settings(garbage) == Settings()
