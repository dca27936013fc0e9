"""What is read: every wanted cell, every byte in full mode, and of a large model very little."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.crawler.architectures import resolve_roles
from provenance.crawler.architectures.rows import rows_index
from provenance.crawler.cells import MAX_VECTOR_ELEMENTS
from provenance.crawler.formats.dtypes import is_numeric, stored_bytes
from provenance.crawler.formats.safetensors import DTYPE_BITS
from provenance.crawler.plan import (
    MAX_RANGE_BYTES,
    SAMPLE_SIZES,
    ByteRange,
    MatrixPlan,
    plan_matrices,
    plan_ranges,
)
from provenance.schemas.roles import LAYER_MATRICES, VECTORS, Role
from provenance.schemas.sampling import VECTOR_BUDGET, matrix_cells, sequence
from provenance.schemas.tensors import LogicalTensor, OutputRows, TensorEntry

START = 808
"""Where the first tensor begins in the files of these tests."""

FLOATS = ["F64", "F32", "F16", "BF16", "F8_E4M3"]


def entry(name: str, shape: tuple[int, ...], dtype: str = "BF16", start: int = START, file: str = "a") -> TensorEntry:
    n = int(np.prod(shape, dtype=object)) if shape else 1
    return TensorEntry(name, dtype, shape, file, start, start + n * DTYPE_BITS[dtype] // 8)


@st.composite
def stored_matrices(draw: st.DrawFn) -> list[LogicalTensor]:
    """One stored matrix as its logical parts: whole or fused by head, in either orientation, of any size."""
    dtype = draw(st.sampled_from(FLOATS))
    transposed = draw(st.booleans())
    columns = draw(st.integers(1, 1000) | st.integers(1, 6_000_000))
    heads, head = draw(st.integers(1, 12)), 2 * draw(st.integers(1, 50))
    kind = draw(st.sampled_from(["whole", "rotary", "by head"]))
    if kind == "by head":
        rows = 3 * heads * head
        parts = {part: OutputRows(i * head, head, heads, 3 * head) for i, part in enumerate("qkv")}
    else:
        rows = heads * head
        parts = {"q": OutputRows(0, rows, rotary_head=head)} if kind == "rotary" else {}
    shape = (columns, rows) if transposed else (rows, columns)
    of = entry("w", shape, dtype)
    if not parts:
        role = draw(st.sampled_from(LAYER_MATRICES))
        return [LogicalTensor("w", None, role, 0, (rows, columns), of, stored_shape=shape, transposed=transposed)]
    return [
        LogicalTensor(
            "w",
            part,
            Role(part),
            0,
            (of_part.count, columns),
            of,
            stored_shape=shape,
            transposed=transposed,
            rows=of_part,
        )
        for part, of_part in parts.items()
    ]


def cell_bytes(tensor: LogicalTensor) -> set[int]:
    """Offset in the file of every sample cell, worked out one cell at a time."""
    index = rows_index(tensor.rows) if tensor.rows else np.arange(tensor.shape[0])
    width = tensor.stored_shape[1]
    item = DTYPE_BITS[tensor.entry.dtype] // 8
    found = set()
    for cell in matrix_cells((tensor.shape[0], tensor.shape[1]), tensor.role):
        _, row, column = sequence()[cell].tolist()
        stored = int(index[row])
        at = column * width + stored if tensor.transposed else stored * width + column
        found.add(tensor.entry.start + (tensor.element_offset + at) * item)
    return found


def covered(ranges: list[ByteRange], offset: int) -> bool:
    return any(r.start <= offset < r.stop for r in ranges)


def check_sound(plans: list[MatrixPlan], ranges: list[ByteRange]) -> None:
    """Ranges rise without overlap, are no longer than allowed, and hold each band of each plan once."""
    widest = max((plan.row_bytes for plan in plans), default=0)
    assert all(r.stop - r.start <= max(MAX_RANGE_BYTES, widest) for r in ranges)
    for before, after in pairwise(ranges):
        assert before.stop <= after.start
    pieces = [piece for r in ranges for piece in r.pieces]
    assert all(r.start <= p.start < p.stop <= r.stop for r in ranges for p in r.pieces)
    for plan in plans:
        assert all(0 <= low < high <= plan.rows for low, high in plan.bands)
        assert all(a[1] <= b[0] for a, b in pairwise(plan.bands))
        mine = [(p.rows[0], p.start, p.stop) for p in pieces if p.plan is plan]
        row = plan.row_bytes
        assert mine == [(low, plan.offset + low * row, plan.offset + high * row) for low, high in plan.bands]


@given(stored_matrices(), st.sampled_from(sorted(SAMPLE_SIZES)))
@settings(max_examples=150, deadline=None)
def test_the_bands_hold_every_sample_cell(parts: list[LogicalTensor], preset: str) -> None:
    size = SAMPLE_SIZES[preset]
    plans = plan_matrices(parts, size)
    ranges = plan_ranges(plans, size.gap_bytes)["a"]
    check_sound(plans, ranges)
    for part in parts:
        missed = [offset for offset in cell_bytes(part) if not covered(ranges, offset)]
        assert not missed


@given(stored_matrices())
@settings(max_examples=60, deadline=None)
def test_larger_presets_read_no_less(parts: list[LogicalTensor]) -> None:
    read = [sum(high - low for p in plan_matrices(parts, s) for low, high in p.bands) for s in SAMPLE_SIZES.values()]
    assert read == sorted(read)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(DTYPE_BITS)),
            st.lists(st.integers(0, 3000), max_size=3),
            st.sampled_from([1, 1, 1, 40]),
        ),
        max_size=12,
    )
)
@settings(deadline=None)
def test_full_mode_reads_every_byte_of_every_number_once(specs: list[tuple[str, list[int], int]]) -> None:
    tensors, start = [], START
    for i, (dtype, lengths, many) in enumerate(specs):
        shape = tuple(length * many for length in lengths) if len(lengths) < 3 else tuple(n % 40 for n in lengths)
        shape = shape if DTYPE_BITS[dtype] % 8 == 0 else (*shape, 8)
        of = entry(f"t{i}", shape, dtype, start)
        start = of.stop
        tensors.append(LogicalTensor(of.name, None, Role.OTHER, None, shape, of, stored_shape=shape))
    plans = plan_matrices(tensors, None)
    ranges = plan_ranges(plans, 0)
    check_sound(plans, ranges.get("a", []))
    assert all(plan.complete for plan in plans)
    wanted = [(t.entry.start, t.entry.stop) for t in tensors if is_numeric(t.entry.dtype) and t.entry.n_elements]
    found = [(p.start, p.stop) for r in ranges.get("a", []) for p in r.pieces]
    assert joined(found) == joined(wanted)


def joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans with those that meet made one; overlapping ones are a fault."""
    out: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        assert not out or start >= out[-1][1], "read twice"
        if out and start == out[-1][1]:
            out[-1] = (out[-1][0], stop)
        else:
            out.append((start, stop))
    return out


@pytest.mark.parametrize("size", [None, SAMPLE_SIZES["default"]])
def test_each_expert_of_a_stack_is_a_matrix_of_its_own(size: object) -> None:
    of = entry("experts", (6, 96, 64), "F32")
    tensors = [
        LogicalTensor(
            "experts", None, Role.UP, 0, (96, 64), of, expert=e, element_offset=e * 96 * 64, stored_shape=(96, 64)
        )
        for e in range(6)
    ]
    plans = plan_matrices(tensors, SAMPLE_SIZES["default"] if size else None)
    # Of the experts a sampled crawl reads the first two.
    assert [plan.offset for plan in plans] == [START + e * 96 * 64 * 4 for e in range(2 if size else 6)]
    assert [plan.parts for plan in plans] == [(tensor,) for tensor in tensors[: len(plans)]]


@pytest.mark.parametrize(
    ("role", "stack", "layer"), [("embed", "main", None), ("other", "main", 0), ("q", "vision", 0), ("o", "cross", 0)]
)
def test_a_sampled_crawl_leaves_the_rest_alone(role: str, stack: str, layer: int | None) -> None:
    matrix = LogicalTensor(
        "w", None, Role(role), layer, (64, 64), entry("w", (64, 64)), stack=stack, stored_shape=(64, 64)
    )
    assert plan_matrices([matrix], SAMPLE_SIZES["large"]) == []
    assert len(plan_matrices([matrix], None)) == 1


@pytest.mark.parametrize("role", ["other", "attn_norm", "q_bias"])
def test_vectors_are_read_whole(role: str) -> None:
    vector = LogicalTensor("v", None, Role(role), 0, (9000,), entry("v", (9000,)), stored_shape=(9000,))
    (plan,) = plan_matrices([vector], SAMPLE_SIZES["small"])
    assert plan.complete
    assert (plan.rows, plan.columns) == (9000, 1)


def test_of_very_long_vectors_only_the_sample_is_read() -> None:
    n = MAX_VECTOR_ELEMENTS + 2
    rows = {"other": None, "attn_norm": None, "q_bias": OutputRows(4, 1, n // 3, 3)}
    tensors = [
        LogicalTensor(role, None, Role(role), 0, (n if r is None else r.count,), entry(role, (n,), file=role), rows=r)
        for role, r in rows.items()
    ]
    plans = {plan.parts[0].role: plan.bands for plan in plan_matrices(tensors, SAMPLE_SIZES["small"])}
    assert plans == {"attn_norm": ((0, VECTOR_BUDGET),), "q_bias": ((0, 4 + 3 * (VECTOR_BUDGET - 1) + 1),)}


def test_tensors_without_numbers_are_not_read() -> None:
    of = [entry("p", (8, 8), "F4"), entry("c", (8, 8), "C64"), entry("e", (0, 8), "F32"), entry("z", (0,), "F32")]
    tensors = [LogicalTensor(e.name, None, Role.OTHER, 0, e.shape, e, stored_shape=e.shape) for e in of]
    assert plan_matrices(tensors, None) == []
    assert plan_matrices(tensors, SAMPLE_SIZES["default"]) == []
    assert plan_ranges([], 0) == {}


def test_scalars_are_one_element() -> None:
    scalar = LogicalTensor("s", None, Role.OTHER, 0, (), entry("s", (), "F32"))
    (plan,) = plan_matrices([scalar], None)
    assert (plan.rows, plan.columns, plan.bands, plan.complete) == (1, 1, ((0, 1),), True)


def test_bands_closer_than_the_gap_are_one_range() -> None:
    of = entry("w", (100, 16), "F32")
    matrix = LogicalTensor("w", None, Role.QUERY, 0, (100, 16), of, stored_shape=(100, 16))
    plans = plan_matrices([matrix], SAMPLE_SIZES["small"])
    assert plans[0].bands == ((0, 4), (20, 24), (52, 56))
    between = [16 * 64, 28 * 64]
    assert [len(plan_ranges(plans, gap)["a"]) for gap in (between[0] - 1, between[0], between[1])] == [3, 2, 1]


def llama_entries(*, layers: int, hidden: int, ffn: int, heads: int, kv_heads: int, shards: int) -> list[TensorEntry]:
    """All tensors of a bfloat16 Llama in the order in which transformers shards them."""
    kv = hidden // heads * kv_heads
    shapes: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (32_000, hidden))]
    in_layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "mlp.down_proj": (hidden, ffn),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "post_attention_layernorm": (hidden,),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.v_proj": (kv, hidden),
    }
    for layer in range(layers):
        shapes += [(f"model.layers.{layer}.{name}.weight", shape) for name, shape in in_layer.items()]
    shapes += [("model.norm.weight", (hidden,)), ("lm_head.weight", (32_000, hidden))]
    total = sum(2 * int(np.prod(shape)) for _, shape in shapes)
    entries, written = [], 0
    starts: dict[str, int] = {}
    for name, shape in shapes:
        file = f"model-{min(shards, 1 + written * shards // total):05d}-of-{shards:05d}.safetensors"
        found = entry(name, shape, "BF16", starts.get(file, 20_000), file)
        entries.append(found)
        starts[file] = found.stop
        written += found.stop - found.start
    return entries


@pytest.mark.parametrize(
    ("geometry", "most_ranges", "most_megabytes"),
    [
        ({"layers": 32, "hidden": 4096, "ffn": 11008, "heads": 32, "kv_heads": 32, "shards": 2}, 850, 28),
        ({"layers": 80, "hidden": 8192, "ffn": 28672, "heads": 64, "kv_heads": 8, "shards": 30}, 2100, 150),
    ],
    ids=["7B", "70B"],
)
def test_of_a_large_model_little_is_read(geometry: dict[str, int], most_ranges: int, most_megabytes: int) -> None:
    entries = llama_entries(**geometry)
    assert len({e.file for e in entries}) == geometry["shards"]
    resolved = resolve_roles(entries, None)
    assert resolved.n_layers == geometry["layers"]
    size = SAMPLE_SIZES["default"]
    plans = plan_matrices(resolved.tensors, size)
    ranges = plan_ranges(plans, size.gap_bytes)
    n_ranges = sum(len(of_file) for of_file in ranges.values())
    megabytes = sum(r.stop - r.start for of_file in ranges.values() for r in of_file) / 1e6
    found = f"{n_ranges} ranges, {megabytes:.1f} MB (allowed: {most_ranges} ranges, {most_megabytes} MB)"
    assert n_ranges <= most_ranges, found
    assert megabytes <= most_megabytes, found
    # Little, but of every layer: five bands of each attention matrix, one of each feed-forward matrix, norms whole.
    read = {t.role for plan in plans for t in plan.parts}
    assert read == {*LAYER_MATRICES, *VECTORS} - {"q_a", "q_b", "kv_a", "kv_b", "q_bias", "k_bias", "v_bias"}
    assert len(plans) == 9 * geometry["layers"] + 1, found


# ---------------------------------------------------------------- block types

MATRICES_7B = {
    "attn_q": (4096, 4096),
    "attn_k": (4096, 4096),
    "attn_v": (4096, 4096),
    "attn_output": (4096, 4096),
    "ffn_gate": (11008, 4096),
    "ffn_up": (11008, 4096),
    "ffn_down": (4096, 11008),
}


def planned(dtype: str, size: str | None) -> tuple[int, int, int]:
    """Ranges, their bytes, and all bytes of a Llama of 7B whose matrices have this dtype."""
    entries, at = list[TensorEntry](), START
    for layer in range(32):
        for name, shape in MATRICES_7B.items():
            stop = at + stored_bytes(dtype, shape[0] * shape[1])
            entries.append(TensorEntry(f"blk.{layer}.{name}.weight", dtype, shape, "a", at, stop))
            at = stop
    resolved = resolve_roles(entries, {"model_type": "llama", "num_attention_heads": 32})
    sample = SAMPLE_SIZES[size] if size else None
    (ranges,) = plan_ranges(plan_matrices(resolved.tensors, sample), sample.gap_bytes if sample else 0).values()
    return len(ranges), sum(r.stop - r.start for r in ranges), at - START


@pytest.mark.parametrize("size", SAMPLE_SIZES)
@pytest.mark.parametrize("dtype", ["Q8_0", "Q6_K", "Q4_K", "Q2_K", "IQ1_S"])
def test_a_packed_model_takes_no_more_requests_and_hardly_more_bytes_than_a_dense_one(dtype: str, size: str) -> None:
    requests, n_bytes, _ = planned("BF16", size)
    packed_requests, packed_bytes, _ = planned(dtype, size)
    assert packed_requests <= requests
    assert packed_bytes <= 1.1 * n_bytes


@pytest.mark.parametrize("dtype", ["Q4_0", "IQ1_S"])
def test_every_block_is_read_in_full_mode(dtype: str) -> None:
    _, n_bytes, whole = planned(dtype, None)
    assert n_bytes == whole
