"""Which rows of a fused or rotary-permuted matrix belong together: every layout against labels written row by row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.crawler.architectures import fused, rows_index
from provenance.crawler.architectures.config import Settings
from provenance.schemas.tensors import OutputRows


@settings(deadline=None)
@given(
    heads=st.integers(1, 6), group=st.integers(1, 4), head=st.integers(1, 5),
    layout=st.sampled_from([fused.per_head, fused.grouped, fused.contiguous, fused.falcon, fused.bigcode]),
    new_decoder=st.booleans(),
)  # fmt: skip
def test_layouts_share_out_every_row_once(
    heads: int, group: int, head: int, layout: fused.Layout, new_decoder: bool
) -> None:
    kv_heads, heads = heads, heads * group
    settings = Settings(n_heads=heads, n_kv_heads=kv_heads, new_decoder=new_decoder)
    interleaved = layout is fused.per_head or (layout in (fused.falcon, fused.bigcode) and kv_heads != 1)
    if interleaved and not (layout is fused.falcon and new_decoder):
        kv_heads = heads
    rows = (heads + 2 * kv_heads) * head
    # The oracle labels every stored row with its part, head after head as the layouts' names say.
    one = layout in (fused.grouped, fused.falcon) and (layout is fused.grouped or new_decoder)
    if one:
        labels = (["q"] * (heads // kv_heads) + ["k", "v"]) * kv_heads
    elif interleaved:
        labels = ["q", "k", "v"] * heads
    else:
        labels = ["q"] * heads + ["k"] * kv_heads + ["v"] * kv_heads
    stored = [label for label in labels for _ in range(head)]
    for known in (None, heads * head):
        for part, found in layout(rows, fused.Geometry(settings, known)).items():
            assert rows_index(found).tolist() == [row for row, label in enumerate(stored) if label == part]


@pytest.mark.parametrize(
    ("layout", "rows", "geometry", "reason"),
    [
        (fused.thirds, 10, fused.Geometry(Settings()), "do not divide"),
        (fused.thirds, 12, fused.Geometry(Settings(), 5), "do not make the 5 inputs"),
        (fused.contiguous, 20, fused.Geometry(Settings(), 20), "do not divide"),
        (fused.contiguous, 22, fused.Geometry(Settings(), 10), "no multiple"),
        (fused.contiguous, 5, fused.Geometry(Settings(), 10), "do not divide"),
        (fused.grouped, 12, fused.Geometry(Settings(n_heads=4)), "key/value heads"),
        (fused.grouped, 12, fused.Geometry(Settings(n_heads=4, n_kv_heads=3)), "do not divide"),
        (fused.per_head, 12, fused.Geometry(Settings(n_heads=4), 8), "do not make"),
        (fused.codegen, 20, fused.Geometry(Settings()), "four blocks"),
        (fused.gated_query, 18, fused.Geometry(Settings(n_heads=4)), "do not divide"),
        (fused.halves, 7, fused.Geometry(Settings()), "halves"),
        (fused.pairs, 7, fused.Geometry(Settings()), "pairs"),
    ],
)
def test_layouts_refuse_what_does_not_fit(
    layout: fused.Layout, rows: int, geometry: fused.Geometry, reason: str
) -> None:
    with pytest.raises(fused.Unresolved, match=reason):
        layout(rows, geometry)


@pytest.mark.parametrize(
    ("rows", "query", "reason"), [(8, None, "missing"), (10, 12, "no whole number"), (9, 9, "rotary pairs")]
)
def test_rotary_refuses_what_does_not_fit(rows: int, query: int | None, reason: str) -> None:
    with pytest.raises(fused.Unresolved, match=reason):
        fused.rotary(rows, fused.Geometry(Settings(n_heads=3), query))


@settings(deadline=None)
@given(
    start=st.integers(0, 5),
    pairs=st.integers(1, 5),
    heads=st.integers(1, 4),
    groups=st.integers(1, 3),
    gap=st.integers(0, 4),
)
def test_rows_index_is_the_plain_loop(start: int, pairs: int, heads: int, groups: int, gap: int) -> None:
    size = 2 * pairs * heads
    rows = OutputRows(start, size, groups, size + gap)
    plain = [start + group * (size + gap) + row for group in range(groups) for row in range(size)]
    assert rows_index(rows).tolist() == plain
    turned = rows_index(replace(rows, rotary_head=2 * pairs))
    # Meta's converter: view(heads, rows / heads / 2, 2).transpose(1, 2).reshape(rows)
    converted = np.array(plain).reshape(groups * heads, pairs, 2).transpose(0, 2, 1).reshape(-1)
    assert turned.tolist() == converted.tolist()
    for h in range(groups * heads):
        for half in range(2):
            for i in range(pairs):
                assert turned[(2 * h + half) * pairs + i] == plain[2 * pairs * h + 2 * i + half]


@pytest.mark.parametrize("rotary_head", [3, 4, -2])
def test_rows_index_refuses_half_a_head(rotary_head: int) -> None:
    with pytest.raises(ValueError, match="no whole number of rotary heads"):
        rows_index(OutputRows(0, 6, rotary_head=rotary_head))
