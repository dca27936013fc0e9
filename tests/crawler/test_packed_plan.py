"""What is read of a packed matrix: every cell, in full every byte of its codes, and of a wide one few columns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.crawler.cells import cell_positions
from provenance.crawler.formats.packing.packed import PackedEntry, Packing
from provenance.crawler.formats.packing.recognise import unpack
from provenance.crawler.packed_bands import MAX_UNPACKED, aligned
from provenance.crawler.plan import BATCH_BYTES, MAX_RANGE_BYTES, SAMPLE_SIZES, plan_batches, plan_matrices
from provenance.schemas.roles import LAYER_MATRICES, Role
from provenance.schemas.tensors import LogicalTensor, TensorEntry


class NoReader:
    """Nothing has to be read to know these packings."""

    bytes_read = requests = 0

    def size(self, path: str) -> int:
        raise AssertionError(path)

    def read(self, path: str, ranges: object) -> object:
        raise AssertionError(path)


def entry(name: str, dtype: str, shape: tuple[int, ...], start: int, bits: int) -> TensorEntry:
    size = int(np.prod(shape, dtype=object)) * bits // 8
    return TensorEntry(name, dtype, shape, "a", start, start + size)


def packed(kind: str, out: int, n_in: int, role: Role = Role.QUERY, base: str = "w", start: int = 0) -> LogicalTensor:
    """One packed matrix, `out` and `n_in` multiples of 128."""
    shapes: dict[str, list[tuple[str, str, tuple[int, ...], int]]] = {
        "awq": [
            (".qweight", "I32", (n_in, out // 8), 32),
            (".qzeros", "I32", (n_in // 128, out // 8), 32),
            (".scales", "F16", (n_in // 128, out), 16),
        ],
        "gptq": [
            (".qweight", "I32", (n_in // 8, out), 32),
            (".qzeros", "I32", (n_in // 128, out // 8), 32),
            (".scales", "F16", (n_in // 128, out), 16),
        ],
        "fp8": [
            (".weight", "F8_E4M3", (out, n_in), 8),
            (".weight_scale_inv", "F32", (out // 128, n_in // 128), 32),
        ],
        "mxfp4": [(".weight_packed", "U8", (out, n_in // 2), 8), (".weight_scale", "U8", (out, n_in // 32), 8)],
    }
    entries = []
    for ending, dtype, shape, bits in shapes[kind]:
        entries.append(entry(base + ending, dtype, shape, start, bits))
        start = entries[-1].stop + 1000
    (found,) = unpack(entries, None, NoReader()).entries
    return LogicalTensor(found.name, None, role, 0, found.shape, found, stored_shape=found.shape)


def packing_of(tensor: LogicalTensor) -> Packing:
    assert isinstance(tensor.entry, PackedEntry)
    return tensor.entry.packing


KINDS = ["awq", "gptq", "fp8", "mxfp4"]
lengths = st.integers(1, 90).map(lambda n: 128 * n)


@given(st.sampled_from(KINDS), lengths, lengths, st.sampled_from(LAYER_MATRICES), st.sampled_from(sorted(SAMPLE_SIZES)))
@settings(max_examples=150)
def test_bands_hold_every_cell(kind: str, out: int, n_in: int, role: Role, preset: str) -> None:
    tensor = packed(kind, out, n_in, role)
    (plan,) = plan_matrices([tensor], SAMPLE_SIZES[preset])
    step = packing_of(tensor).step
    assert all(low % step == 0 and (high % step == 0 or high == plan.rows) for low, high in plan.bands)
    assert all(before[1] <= after[0] for before, after in zip(plan.bands, plan.bands[1:], strict=False))
    where = cell_positions(plan.parts[0])
    assert where is not None
    rows = {row for low, high in plan.bands for row in range(low, high)}
    assert set(where[:, 0].tolist()) <= rows
    assert where[:, 1].max() < plan.columns <= packing_of(tensor).shape[1]
    for batch in plan_batches([plan], SAMPLE_SIZES[preset].gap_bytes):
        for ranges in batch.values():
            pieces = [piece for r in ranges for piece in r.pieces]
            assert all(r.start <= p.start < p.stop <= r.stop for r in ranges for p in r.pieces)
            assert {(p.rows, p.index) for p in pieces} == {
                (band, i) for band in plan.bands for i in range(len(plan.spans(*band)))
            }


@pytest.mark.parametrize("kind", KINDS)
def test_in_full_all_codes_are_read_in_chunks(kind: str) -> None:
    tensors = [packed(kind, 4096, 8192, base=f"w{i}", start=i * 10**8) for i in range(2)]
    plans = plan_matrices(tensors, None)
    for plan in plans:
        assert plan.bands[0][0] == 0
        assert plan.bands[-1][1] == plan.rows
        assert all(before[1] == after[0] for before, after in zip(plan.bands, plan.bands[1:], strict=False))
        assert all((high - low) * plan.columns <= MAX_UNPACKED for low, high in plan.bands)
    codes = sum(span.stop - span.start for plan in plans for band in plan.bands for span in list(plan.spans(*band))[:1])
    assert codes == sum(plan.entry.stop - plan.entry.start for plan in plans)
    for batch in plan_batches(plans, 0):
        ranges = [r for own in batch.values() for r in own]
        assert all(r.stop - r.start <= MAX_RANGE_BYTES for r in ranges)
        assert sum(piece.stop - piece.start for r in ranges for piece in r.pieces) <= BATCH_BYTES


def test_of_a_wide_matrix_the_first_columns_are_read() -> None:
    """The rows of an AWQ matrix are its inputs: one of these may have 250,000 weights."""
    size = SAMPLE_SIZES["default"]
    (up,) = plan_matrices([packed("awq", 249_856, 4096, Role.UP)], size)
    assert sum(high - low for low, high in up.bands) == 20
    assert 20 * up.columns * 2 >= size.band_bytes
    assert up.columns <= 832
    (query,) = plan_matrices([packed("awq", 4096, 4096)], size)
    assert query.columns * 20 * 2 == 5 * size.band_bytes


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 9)), max_size=6), st.sampled_from([1, 4, 8, 32]))
def test_aligned_intervals(bands: list[tuple[int, int]], step: int) -> None:
    wanted = sorted((low, low + height) for low, height in bands)
    found = aligned(wanted, 100, step)
    covered = {row for low, high in found for row in range(low, high)}
    assert covered == {
        row for low, high in wanted for row in range(low // step * step, -(-high // step) * step) if row < 100
    }
    assert all(before[1] < after[0] for before, after in itertools.pairwise(found))
