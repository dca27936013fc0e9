"""`sample-v1` is published: its cells are pinned by golden vectors, and its promises by properties."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.schemas.roles import ATTENTION, FEED_FORWARD, LATENT_ATTENTION, ROLES, VECTORS, Role
from provenance.schemas.sampling import (
    MATRIX_BUDGET,
    N_TILES,
    OFFSETS,
    SAMPLE_CELLS,
    SAMPLE_VERSION,
    SEQUENCE_LENGTH,
    TILE,
    VECTOR_BUDGET,
    allot,
    is_sampled,
    matrix_cells,
    n_cells,
    sequence,
)

FIRST_CELLS = """
0 0 0       1 0 20      5 20 0      6 20 20     2 0 52      7 20 52     10 52 0     11 52 20
12 52 52    3 0 196     8 20 196    13 52 196   15 196 0    16 196 20   17 196 52   18 196 196
4 0 748     9 20 748    14 52 748   19 196 748  20 748 0    21 748 20   22 748 52   23 748 196
24 748 748  0 1 1       1 1 21      5 21 1      6 21 21     2 1 53      7 21 53     10 53 1
11 53 21    12 53 53    3 1 197     8 21 197    13 53 197   15 197 1    16 197 21   17 197 53
"""
"""Tile, row and column of the first 40 cells."""

SEQUENCE_DIGEST = "0addc494700e9312e883f5a44561152e5a089bc2524ad3b012c4bc67a3a3e5c5"
"""sha256 of all 400 lines `tile row column`, joined by line feeds."""

CELLS = {
    # shape: whole sequence, first row of tiles
    (4096, 4096): (400, 80),
    (11008, 4096): (400, 80),
    (752, 752): (400, 80),
    (751, 752): (380, 80),
    (200, 200): (256, 64),
    (96, 64): (144, 48),
    (64, 96): (144, 48),
    (8, 4096): (80, 80),
    (4096, 8): (80, 16),
    (4, 4): (16, 16),
    (3, 5): (12, 12),
    (1, 1): (1, 1),
    (0, 7): (0, 0),
}

FIRST_BAND = (*FEED_FORWARD, Role.ROUTER)
WHOLE = ATTENTION + LATENT_ATTENTION

shapes = st.tuples(st.integers(0, 900), st.integers(0, 900))
matrix_roles = st.sampled_from(WHOLE + FIRST_BAND)


def coordinates(shape: tuple[int, int], role: Role) -> list[tuple[int, int]]:
    return [(row, column) for _, row, column in sequence()[matrix_cells(shape, role)].tolist()]


def test_the_first_forty_cells() -> None:
    wanted = np.array(FIRST_CELLS.split(), dtype=int).reshape(-1, 3)
    assert sequence()[:40].tolist() == wanted.tolist()


def test_the_digest_of_all_cells() -> None:
    lines = "\n".join(f"{tile} {row} {column}" for tile, row, column in sequence().tolist())
    assert hashlib.sha256(lines.encode()).hexdigest() == SEQUENCE_DIGEST


def test_the_constants_of_the_version() -> None:
    assert (SAMPLE_VERSION, OFFSETS, TILE) == ("sample-v1", (0, 20, 52, 196, 748), 4)
    assert (MATRIX_BUDGET, VECTOR_BUDGET, SAMPLE_CELLS) == (12_288, 4_096, 16_384)
    assert (SEQUENCE_LENGTH, N_TILES) == (400, 25)


@pytest.mark.parametrize("shape", CELLS)
def test_the_number_of_cells(shape: tuple[int, int]) -> None:
    whole, first_band = CELLS[shape]
    assert {role: n_cells(role, shape) for role in WHOLE} == dict.fromkeys(WHOLE, whole)
    assert {role: n_cells(role, shape) for role in FIRST_BAND} == dict.fromkeys(FIRST_BAND, first_band)


def test_vectors_have_their_elements_and_other_ranks_none() -> None:
    for role in VECTORS:
        assert n_cells(role, (5000,)) == 5000
        assert n_cells(role, (5, 4)) == n_cells(role, ()) == 0
    assert n_cells(Role.QUERY, (64,)) == n_cells(Role.QUERY, (2, 64, 64)) == 0


def test_which_tensors_are_sampled() -> None:
    sampled = {role for role in ROLES if is_sampled(role, None)}
    assert sampled == {*WHOLE, *FIRST_BAND, *VECTORS}
    assert [expert for expert in range(5) if is_sampled(Role.UP, expert)] == [0, 1]
    assert not any(is_sampled(role, 0) for role in (Role.EMBEDDING, Role.HEAD, Role.OTHER))


def test_every_pass_touches_every_tile_and_each_tile_is_filled() -> None:
    cells = sequence()
    for start in range(0, SEQUENCE_LENGTH, N_TILES):
        assert sorted(cells[start : start + N_TILES, 0]) == list(range(N_TILES))
    wanted = {(a + i, b + j) for a in OFFSETS for b in OFFSETS for i in range(TILE) for j in range(TILE)}
    assert {(row, column) for _, row, column in cells.tolist()} == wanted
    # After each four passes a tile has had every row and every column once more.
    for tile in range(N_TILES):
        of_tile = cells[cells[:, 0] == tile]
        for start in range(0, TILE**2, TILE):
            assert [len(set(of_tile[start : start + TILE, axis].tolist())) for axis in (1, 2)] == [TILE, TILE]


@pytest.mark.parametrize("head", [64, 80, 96, 128])
def test_the_bands_fall_at_different_places_inside_heads(head: int) -> None:
    places = [(offset + i) % head for offset in OFFSETS for i in range(TILE)]
    assert len(set(places)) == len(places)


def test_cached_cells_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        matrix_cells((64, 64), Role.QUERY)[0] = 1


@given(shapes, matrix_roles)
def test_cells_lie_inside_the_shape_and_none_is_left_out(shape: tuple[int, int], role: Role) -> None:
    last = TILE if role in FIRST_BAND else shape[0]
    wanted = {(r, c) for _, r, c in sequence().tolist() if r < min(shape[0], last) and c < shape[1]}
    found = coordinates(shape, role)
    assert set(found) == wanted
    assert len(found) == len(wanted)


@given(shapes, shapes, matrix_roles)
def test_the_cells_of_a_part_are_those_of_the_whole_in_it_in_the_same_order(
    a: tuple[int, int], b: tuple[int, int], role: Role
) -> None:
    small = (min(a[0], b[0]), min(a[1], b[1]))
    for large in (a, b):
        inside = [(r, c) for r, c in coordinates(large, role) if r < small[0] and c < small[1]]
        assert inside == coordinates(small, role)


@given(shapes, st.sampled_from(FIRST_BAND))
def test_feed_forward_cells_are_the_first_row_of_tiles_of_the_attention_cells(
    shape: tuple[int, int], role: Role
) -> None:
    assert coordinates(shape, role) == [(r, c) for r, c in coordinates(shape, Role.QUERY) if r < TILE]


@given(st.lists(st.integers(0, 500), max_size=40), st.integers(0, 5000))
def test_a_budget_is_shared_by_the_longest_common_prefix_that_fits(available: list[int], budget: int) -> None:
    longest = max(
        length for length in range(max(available, default=0) + 1) if sum(min(n, length) for n in available) <= budget
    )
    assert allot(available, budget) == [min(n, longest) for n in available]


@pytest.mark.parametrize(
    ("available", "budget", "kept"),
    [
        ([], 4, []),
        ([5, 0, 3], 8, [5, 0, 3]),
        ([5, 0, 3], 7, [4, 0, 3]),
        ([10, 1], 6, [5, 1]),
        ([3, 3, 3], 2, [0, 0, 0]),
        ([400] * 128 + [80] * 96, MATRIX_BUDGET, [54] * 224),
        ([4096] * 65, VECTOR_BUDGET, [63] * 65),
    ],
)
def test_golden_shares(available: list[int], budget: int, kept: list[int]) -> None:
    assert allot(available, budget) == kept
