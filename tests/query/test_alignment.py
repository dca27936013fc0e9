"""Grids, agreement, and which layers correspond, against plain loops over cells and over all runs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from provenance.indexer.dossier import Dossier
from provenance.query.statistics.alignment import (
    NOTHING,
    LayerBlocks,
    agreement,
    best_segment,
    layer_blocks,
    layer_map,
    matching_segment,
    slopes,
)
from provenance.query.statistics.grid import Grid, channels, common_columns, grid_of, group_sums, tiles, units
from provenance.query.statistics.significance import MIN_BLOCKS, block_t, student_log10_p
from provenance.schemas.roles import LAYER_MATRICES, ROLES
from provenance.schemas.sampling import SEQUENCE_LENGTH, sequence
from tests.conftest import llama, trained
from tests.support.dossiers import MIXTRAL_CONFIG, dossier, layers_of, upcycled, without

BASE = llama(1)


def grid(tensors: dict[str, NDArray[np.float32]]) -> Grid:
    return grid_of(dossier(tensors))


def rows(n: int) -> NDArray[np.int64]:
    return np.arange(n, dtype=np.int64)


def cell(column: int) -> tuple[str, int, int]:
    """Role, row and column of a column of the grid."""
    _, row, place = sequence()[column % SEQUENCE_LENGTH]
    return ROLES[column // SEQUENCE_LENGTH], int(row), int(place)


def test_the_grid_holds_the_weights_of_every_sampled_cell() -> None:
    found = grid(BASE)
    names = {"q": "self_attn.q_proj", "o": "self_attn.o_proj", "down": "mlp.down_proj", "gate": "mlp.gate_proj"}
    seen = set()
    for k, column in enumerate(found.columns):
        role, row, place = cell(int(column))
        if role not in names:
            continue
        seen.add(role)
        for at, layer in enumerate(found.layers):
            if found.mask[at, k]:
                weight = BASE[f"model.layers.{layer}.{names[role]}.weight"][row, place]
                assert found.weights[at, k] == pytest.approx(weight, rel=2e-3, abs=1e-5)
    assert seen == set(names)
    assert list(found.layers) == list(range(6))
    assert np.all(np.diff(found.columns) > 0)
    assert not found.weights[~found.mask].any()


def test_standard_cells_are_centred_and_scaled_per_matrix() -> None:
    found = grid(BASE)
    roles = found.columns // SEQUENCE_LENGTH
    for code in np.unique(roles):
        for layer in range(6):
            own = found.standard[layer, roles == code][found.mask[layer, roles == code]]
            assert own.mean() == pytest.approx(0, abs=1e-9)
            assert own.std() == pytest.approx(1)


def test_the_grid_holds_layer_matrices_only() -> None:
    assert {cell(int(c))[0] for c in grid(BASE).columns} <= set(LAYER_MATRICES)


def test_expert_0_stands_where_a_layer_has_no_dense_matrix() -> None:
    sparse = grid_of(dossier(upcycled(BASE, 9, amount=0.0), config=MIXTRAL_CONFIG))
    _, in_a, in_b = common_columns(grid(BASE), sparse)
    dense = grid(BASE)
    # The budget of cells is shared by more matrices: compare where both have a cell.
    both = dense.mask[:, in_a] & sparse.mask[:, in_b]
    assert both.any(axis=1).all()
    assert {cell(int(sparse.columns[k]))[0] for k in in_b[both.any(axis=0)]} >= {"gate", "up", "down"}
    np.testing.assert_allclose(dense.weights[:, in_a][both], sparse.weights[:, in_b][both], atol=2e-5)


def test_groups_follow_the_residual_stream_and_the_units_inside() -> None:
    columns = grid(BASE).columns
    for k, column in enumerate(columns):
        role, row, place = cell(int(column))
        inward = role not in ("o", "down")
        assert channels(columns)[k] == (place if inward else row)
        same_unit = np.flatnonzero(units(columns) == units(columns)[k])
        assert {cell(int(columns[j]))[0] for j in same_unit} == {role}
        assert len({cell(int(columns[j]))[1 if inward else 2] for j in same_unit}) == 1


@given(st.integers(1, 4), st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(0, 99))
def test_group_sums_against_a_loop(n: int, labels: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(n, len(labels)))
    groups = np.array(labels, dtype=np.int64)
    expected = np.stack([values[:, groups == label].sum(axis=1) for label in sorted(set(labels))], axis=1)
    np.testing.assert_allclose(group_sums(values, groups), expected, atol=1e-12)


def pairs_of_cells(a: Grid, b: Grid, at: int, to: int) -> Iterator[tuple[int, float, float]]:
    """Key and both standardised values of every cell that layer `at` of `a` and layer `to` of `b` share."""
    place = {int(key): k for k, key in enumerate(b.columns)}
    for k, key in enumerate(a.columns):
        j = place.get(int(key))
        if j is not None and a.mask[at, k] and b.mask[to, j]:
            yield int(key), float(a.standard[at, k]), float(b.standard[to, j])


@pytest.mark.parametrize("other", [trained(BASE, 2, 0.5), llama(3), llama(4, hidden=80, heads=5, layers=7)])
def test_agreement_against_a_plain_loop(other: dict[str, NDArray[np.float32]]) -> None:
    a, b = grid(BASE), grid(other)
    found = agreement(a, b, rows(6), rows(6))
    by_tile: dict[tuple[int, int], list[float]] = {}
    by_channel: dict[int, list[tuple[float, float]]] = {}
    by_unit: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for layer in range(6):
        for key, x, y in pairs_of_cells(a, b, layer, layer):
            role, row, column = cell(key)
            inner, outer = (column, row) if role in ("o", "down") else (row, column)
            by_tile.setdefault((layer, int(tiles(np.array([key]))[0])), []).append(x * y)
            by_channel.setdefault(outer, []).append((x, y))
            by_unit.setdefault((role, inner), []).append((x, y))
    tests = [block_t(np.array([sum(v) for v in by_tile.values()]), np.array([float(len(v)) for v in by_tile.values()]))]
    for groups in ([*by_channel.values()], [*by_unit.values()]):
        values = [np.array(own).T for own in groups]
        correlations = [float(x @ y / np.sqrt((x @ x) * (y @ y))) for x, y in values]
        tests.append(block_t(np.array(correlations), np.ones(len(groups))))
    assert found.n == sum(len(v) for v in by_tile.values())
    assert found.correlation == pytest.approx(sum(map(sum, by_tile.values())) / found.n)
    assert found.t == pytest.approx(tests[0][0])
    assert found.log10_p == pytest.approx(max(float(student_log10_p(t, n - 1)) for t, n in tests))


def test_agreement_tells_a_relative_from_a_stranger() -> None:
    a = grid(BASE)
    assert agreement(a, a, rows(6), rows(6)).correlation == pytest.approx(1)
    assert agreement(a, a, rows(6), rows(6)).log10_p < -50
    assert agreement(a, grid(trained(BASE, 5, 1.0)), rows(6), rows(6)).log10_p < -10
    assert agreement(a, grid(llama(6)), rows(6), rows(6)).log10_p > -3
    assert agreement(a, a, rows(5), rows(5) + 1).log10_p > -3


def test_agreement_is_symmetric_and_finds_a_flipped_sign() -> None:
    flipped = {name: -tensor for name, tensor in BASE.items()}
    a, b = grid(BASE), grid(flipped)
    found = agreement(a, b, rows(6), rows(6))
    assert found.correlation == pytest.approx(-1)
    assert found.log10_p < -50
    assert agreement(b, a, rows(6), rows(6)).log10_p == pytest.approx(found.log10_p)


def test_agreement_does_not_drown_in_one_loud_channel() -> None:
    def loud(tensors: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        scale = np.exp(1.5 * np.random.default_rng(0).normal(size=96)).astype(np.float32)
        return {n: t * scale[: t.shape[1]] if t.ndim == 2 else t for n, t in tensors.items()}

    assert agreement(grid(loud(BASE)), grid(loud(trained(BASE, 7, 0.3))), rows(6), rows(6)).log10_p < -6


def test_nothing_in_common_is_nothing() -> None:
    a, empty = grid(BASE), grid_of(without(dossier(BASE), *LAYER_MATRICES))
    assert empty.weights.shape == (0, 0)
    assert agreement(a, empty, rows(0), rows(0)) == NOTHING
    assert agreement(a, a, rows(0), rows(0)) == NOTHING
    attention, feed_forward = (
        grid_of(without(dossier(BASE), *roles)) for roles in (("gate", "up", "down"), ("q", "k", "v", "o"))
    )
    assert agreement(attention, feed_forward, rows(6), rows(6)) == NOTHING
    assert slopes(attention, feed_forward, rows(6), rows(6)) is None
    assert slopes(a, a, rows(0), rows(0)) is None
    assert best_segment(layer_blocks(a, empty)) is None
    assert matching_segment(empty, a) is None
    assert [len(found) for found in layer_map(a, empty)] == [0, 0]


def test_few_blocks_stay_silent() -> None:
    narrow = grid(llama(1, hidden=16, heads=4, kv_heads=2, ffn=16))
    found = agreement(narrow, narrow, rows(6), rows(6))
    assert found.correlation == pytest.approx(1)
    assert found.log10_p == 0.0


@pytest.mark.parametrize("other", [layers_of(trained(BASE, 2), [0, 2, 3, 5]), llama(8, hidden=48, ffn=48, layers=3)])
def test_layer_blocks_against_a_plain_loop(other: dict[str, NDArray[np.float32]]) -> None:
    a, b = grid(BASE), grid(other)
    found = layer_blocks(a, b)
    for at in range(len(a.layers)):
        for to in range(len(b.layers)):
            sums: dict[int, list[float]] = {}
            for key, x, y in pairs_of_cells(a, b, at, to):
                sums.setdefault(int(tiles(np.array([key]))[0]), []).append(x * y)
            z = [sum(v) / math.sqrt(len(v)) for v in sums.values()]
            assert found.count[at, to] == len(z)
            assert found.total[at, to] == pytest.approx(sum(z))
            assert found.squares[at, to] == pytest.approx(sum(v * v for v in z))
            assert found.z[at, to] == pytest.approx(sum(z) / math.sqrt(len(z)))


def every_run(blocks: LayerBlocks) -> Iterator[tuple[float, list[int], list[int]]]:
    """log10 p of every run of corresponding layers, one by one."""
    n, m = blocks.total.shape
    for first in range(n):
        for second in range(m):
            for length in range(1, min(n - first, m - second) + 1):
                a, b = list(range(first, first + length)), list(range(second, second + length))
                total, squares, count = (float(x[a, b].sum()) for x in (blocks.total, blocks.squares, blocks.count))
                if count < MIN_BLOCKS or total <= 0:
                    yield 0.0, a, b
                    continue
                mean = total / count
                deviation = math.sqrt(max(0.0, squares - count * mean**2) / (count - 1))
                if deviation > 1e-6 * mean:
                    yield float(student_log10_p(mean / deviation * math.sqrt(count), count - 1)), a, b


sums = arrays(np.float64, (3, 4), elements=st.floats(-30, 30))


@settings(max_examples=60)
@given(sums, arrays(np.float64, (3, 4), elements=st.floats(1, 50)), st.integers(4, 20))
def test_best_segment_against_every_run(total: NDArray[np.float64], spare: NDArray[np.float64], tiles: int) -> None:
    count = np.full(total.shape, float(tiles))
    blocks = LayerBlocks(total, total**2 / count + spare, count)
    found, runs = best_segment(blocks), list(every_run(blocks))
    best = min(p for p, _, _ in runs)
    if found is None:
        assert best == pytest.approx(0.0, abs=1e-12)  # sums whose squares vanish agree by nothing
        return
    assert found.tried == len(runs)
    own = next(p for p, a, b in runs if a == list(found.rows_a) and b == list(found.rows_b))
    assert found.log10_p == pytest.approx(min(0.0, own + math.log10(len(runs))), abs=1e-9)
    # Ranked by an approximation: another run may be better by a trifle.
    assert own <= best + 0.02 + 0.01 * abs(best)


@pytest.mark.parametrize("kept", [[0, 1, 2], [2, 3, 4], [3, 4, 5]])
def test_a_run_of_layers_is_found_wherever_it_stands(kept: list[int]) -> None:
    found = matching_segment(grid(layers_of(trained(BASE, 3, 0.2), kept)), grid(BASE))
    assert found is not None
    assert (list(found.rows_a), list(found.rows_b)) == ([0, 1, 2], kept)
    assert found.log10_p < -6


def test_strangers_have_no_segment_to_speak_of() -> None:
    found = matching_segment(grid(layers_of(llama(21), [0, 1, 2, 3])), grid(BASE))
    assert found is None or found.log10_p > -3


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([0, 1, 4, 5], [0, 1, 4, 5]),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
        ([0, 1, 2, 3, 2, 3, 4, 5], [0, 1, 2, 3, 2, 3, 4, 5]),
        ([5, 0, 3], [5, 0, 3]),
    ],
)
def test_layers_are_mapped_when_dropped_repeated_or_moved(layers: list[int], expected: list[int]) -> None:
    child = grid(layers_of(trained(BASE, 4, 0.3), layers))
    here, there = layer_map(child, grid(BASE))
    assert sorted(zip(here.tolist(), there.tolist(), strict=True)) == list(enumerate(expected))
    back, forth = layer_map(grid(BASE), child)
    assert {(b, a) for a, b in zip(back.tolist(), forth.tolist(), strict=True)} <= set(enumerate(expected))


def test_layers_of_strangers_of_another_depth_correspond_nowhere() -> None:
    here, there = layer_map(grid(llama(30, layers=9)), grid(BASE))
    assert len(here) == len(there) == 0


def test_equal_depths_correspond_by_position() -> None:
    here, there = layer_map(grid(llama(31)), grid(BASE))
    assert list(here) == list(there) == list(range(6))


def plain_slopes(a: Dossier, b: Dossier) -> list[tuple[float, float, float]]:
    """Variances and covariance of the common cells of every matrix."""
    out = []
    x, y = grid_of(a), grid_of(b)
    for layer in range(len(x.layers)):
        for code in np.unique(x.columns // SEQUENCE_LENGTH):
            own: list[tuple[float, float]] = []
            for k, key in enumerate(x.columns):
                j = np.flatnonzero(y.columns == key)
                if key // SEQUENCE_LENGTH == code and len(j) and x.mask[layer, k] and y.mask[layer, j[0]]:
                    own.append((float(x.weights[layer, k]), float(y.weights[layer, j[0]])))
            if len(own) > 2:
                matrix = np.cov(np.array(own).T, ddof=0)
                out.append((float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 1])))
    return out


def test_slopes_against_a_plain_loop() -> None:
    parent = llama(1, layers=2)
    a, b = dossier(parent), dossier(trained(parent, 2, 0.8))
    found = slopes(grid_of(a), grid_of(b), rows(2), rows(2))
    assert found is not None
    moments = np.array(plain_slopes(a, b))
    va, vb, cov = moments.T
    n = np.array([grid_of(a).mask[0, grid_of(a).columns // SEQUENCE_LENGTH == c].sum() for c in codes(a)] * 2)
    weight = cov**2 / (va * vb) * n
    assert len(moments) == 14
    assert found.b_on_a == pytest.approx(float(np.average(cov / va, weights=weight)))
    assert found.a_on_b == pytest.approx(float(np.average(cov / vb, weights=weight)))


def codes(found: Dossier) -> list[int]:
    return [int(c) for c in np.unique(grid_of(found).columns // SEQUENCE_LENGTH)]


def test_slopes_know_which_of_two_came_first() -> None:
    a, b = grid(BASE), grid(trained(BASE, 2, 0.8))
    found, back = slopes(a, b, rows(6), rows(6)), slopes(b, a, rows(6), rows(6))
    assert found is not None
    assert back is not None
    assert found.b_on_a == pytest.approx(1, abs=0.05)
    assert found.a_on_b == pytest.approx(1 / 1.64, abs=0.05)
    assert found.b_on_a == pytest.approx(back.a_on_b)
    assert found.change_kurtosis == pytest.approx(3, abs=0.3)
    assert not found.equal


def test_slopes_of_copies_zeros_and_rounding() -> None:
    a = grid(BASE)
    same = slopes(a, a, rows(6), rows(6))
    assert same is not None
    assert same.equal
    assert math.isnan(same.change_kurtosis)
    half = {n: np.where(np.abs(t) < np.median(np.abs(t)), 0, t).astype(np.float32) for n, t in BASE.items()}
    pruned = slopes(a, grid(half), rows(6), rows(6))
    assert pruned is not None
    assert pruned.zeros_a == 0
    assert pruned.zeros_b == pytest.approx(0.5, abs=0.03)
    coarse = {n: (np.round(t / t.std() * 2) / 2 * t.std()).astype(np.float32) for n, t in BASE.items()}
    rounded = slopes(a, grid(coarse), rows(6), rows(6))
    assert rounded is not None
    assert rounded.change_kurtosis == pytest.approx(1.8, abs=0.15)


def test_slopes_of_matrices_that_do_not_agree_at_all_are_null() -> None:
    flipped = {name: -tensor for name, tensor in BASE.items()}
    assert slopes(grid(BASE), grid(flipped), rows(6), rows(6)) is None
    constant = {n: np.full_like(t, 0.5) if t.ndim == 2 else t for n, t in BASE.items()}
    assert slopes(grid(BASE), grid(constant), rows(6), rows(6)) is None
