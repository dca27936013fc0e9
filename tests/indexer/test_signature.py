"""Signatures, the published score and the sketch against plain oracles, and golden values that pin their specs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from provenance.indexer.signature import (
    DIMENSION,
    N_SKETCH_KEYS,
    POINTS,
    SPEC,
    product_vector,
    published_score,
    resample,
    signature,
    sketch,
)
from provenance.schemas.products import ProductSketch
from provenance.schemas.roles import ATTENTION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Curves = dict[str, list[float]]

PLAIN = {"q": [1.0, 2.0, 3.0, 4.0], "k": [5.0, 1.0, 4.0, 2.0, 3.0], "v": [2.0, 2.0, 2.0], "o": [1.0, 9.0]}

# Every ninth point of each role of signature(PLAIN); v is constant.
GOLDEN_SIGNATURE = """
q -0.12306 -0.08790 -0.05274 -0.01758 +0.01758 +0.05274 +0.08790 +0.12306
k +0.19006 -0.00473 -0.11431 +0.03179 +0.05614 -0.04126 -0.02908 +0.01961
v +0.00000 +0.00000 +0.00000 +0.00000 +0.00000 +0.00000 +0.00000 +0.00000
o -0.12306 -0.08790 -0.05274 -0.01758 +0.01758 +0.05274 +0.08790 +0.12306
"""

# The first 64 signs of some keys. Those of key 0 are SplitMix64's first output from seed 0, lowest bit first.
GOLDEN_SIGNS = """
   0 ++++-+-++-++--+++-+++---++-++++-+--+++-----+-+-+-----+---+---+++
   1 ++-++--+--+-+++----+-+-++---+-+--+-+-++-+--+---++--+++--++-++---
 399 +-++++-++-+-+-++--+-+--+------------+-----+---+-++--+---+-+--+--
8399 --+++-+-+--+--+-+-++-+---+++--+++-++--+---+-++-++-+---++---+---+
"""
SPLITMIX64_FROM_ZERO = 0xE220A8397B1DCDAF

values = st.floats(0.01, 1.0)
curve = st.lists(values, min_size=2, max_size=40).filter(lambda x: max(x) - min(x) > 0.01)
curves = st.fixed_dictionaries(dict.fromkeys(ATTENTION, curve))


def interpolated(curve: list[float], n: int) -> list[float]:
    """Linear interpolation written out: point `i` of `n` lies at `i * (layers - 1) / (n - 1)`."""
    out = []
    for i in range(n):
        at = i * (len(curve) - 1) / (n - 1)
        low = min(int(at), len(curve) - 2)
        out.append(curve[low] + (at - low) * (curve[low + 1] - curve[low]))
    return out


def pearson(x: list[float], y: list[float]) -> float:
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    covariance = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    spread_x = math.fsum((a - mean_x) ** 2 for a in x)
    spread_y = math.fsum((b - mean_y) ** 2 for b in y)
    return covariance / math.sqrt(spread_x * spread_y)


def z_scored(x: list[float]) -> list[float]:
    mean = math.fsum(x) / len(x)
    spread = math.sqrt(math.fsum((a - mean) ** 2 for a in x) / len(x))
    return [(a - mean) / spread for a in x]


def varied(curve: list[float]) -> bool:
    return max(curve) - min(curve) > 0.01


@given(curves, curves, st.sets(st.sampled_from(ATTENTION), max_size=3))
def test_inner_product_is_the_mean_pearson_correlation_of_the_resampled_curves(
    a: Curves, b: Curves, without: set[str]
) -> None:
    roles = [role for role in ATTENTION if role not in without]
    first = {role: interpolated(a[role], POINTS) for role in roles}
    second = {role: interpolated(b[role], POINTS) for role in roles}
    assume(all(varied(c) for c in (*first.values(), *second.values())))
    expected = np.mean([pearson(first[role], second[role]) for role in roles])

    got_a, got_b = (signature({role: x[role] for role in roles}) for x in (a, b))

    assert got_a.missing == got_b.missing == tuple(role for role in ATTENTION if role in without)
    assert np.dot(got_a.vector, got_b.vector) == pytest.approx(expected, abs=2e-6)
    assert np.linalg.norm(got_a.vector) == pytest.approx(1, abs=1e-6)


@given(curves, st.floats(0.01, 100), st.floats(0, 10))
def test_scale_and_shift_do_not_matter(a: Curves, scale: float, shift: float) -> None:
    moved = {role: [scale * (x + shift) for x in curve] for role, curve in a.items()}
    assume(all(varied(interpolated(curve, POINTS)) for curve in a.values()))
    np.testing.assert_allclose(signature(moved).vector, signature(a).vector, atol=1e-5)
    assert published_score(moved, a) == pytest.approx(1, abs=1e-9)


@given(curves, curves)
def test_published_score_is_that_of_the_paper(a: Curves, b: Curves) -> None:
    correlations = []
    for role in ATTENTION:
        x, y = z_scored(a[role]), z_scored(b[role])
        n = max(len(x), len(y))
        correlations.append(pearson(interpolated(x, n), interpolated(y, n)))
    expected = math.fsum(correlations) / len(correlations)
    assert published_score(a, b) == pytest.approx(expected, abs=1e-9)
    assert published_score(b, a) == pytest.approx(expected, abs=1e-9)


@given(curve)
def test_a_curve_scores_one_with_itself_and_never_more(x: list[float]) -> None:
    score = published_score({"k": x}, {"k": x})
    assert score == pytest.approx(1, abs=1e-12)
    assert score is not None
    assert score <= 1


def test_golden_signature() -> None:
    got = signature(PLAIN)
    rows = got.vector.reshape(len(ATTENTION), POINTS)[:, ::9]
    lines = [" ".join([role, *(f"{x:+.5f}" for x in row)]) for role, row in zip(ATTENTION, rows, strict=True)]
    assert "\n".join(lines) == GOLDEN_SIGNATURE.strip()
    assert got.missing == ("v",)
    assert got.vector.dtype == np.float32
    assert got.vector.shape == (DIMENSION,) == (256,)
    assert SPEC == "qkvo-std-z-64"
    with pytest.raises(ValueError, match="read-only"):
        got.vector[0] = 1


def test_published_score_of_a_pair_worked_by_hand() -> None:
    # q: [1, 2, 4] over four depths is [1, 5/3, 8/3, 4], less its mean [-4, -2, 1, 5] / 3; the other less its mean is
    # [-3, -1, 1, 3] / 2. Their products sum to 5, their squares to 46/9 and 5: 5 / sqrt(230 / 9) = 15 / sqrt(230).
    # k: two rising lines, 1. v is missing in one, o is constant in one.
    a = {"q": [1, 2, 3, 4], "k": [1, 2], "v": [1, 2, 3], "o": [3, 3, 3]}
    b = {"q": [1, 2, 4], "k": [0, 5, 10], "o": [1, 2, 3]}
    assert published_score(a, b) == pytest.approx((15 / math.sqrt(230) + 1) / 2, abs=1e-12)


@pytest.mark.parametrize(
    "shapeless",
    [
        [],
        [0.3],
        [0.02] * 12,
        [0.0, 0.0, 0.0],
        [0.1 + 0.2, 0.3, 0.3],
        np.array([0.02, np.nextafter(np.float32(0.02), np.float32(1)), 0.02], np.float32),
        [0.1, math.nan, 0.3],
        [0.1, math.inf, 0.3],
    ],
    ids=["empty", "one layer", "constant", "zero", "rounded float64", "rounded float32", "NaN", "infinite"],
)
def test_a_curve_without_shape_is_missing(shapeless: list[float]) -> None:
    got = signature({**PLAIN, "v": [1.0, 2.0, 4.0], "k": shapeless})
    assert got.missing == ("k",)
    assert not got.vector[POINTS : 2 * POINTS].any()
    assert np.linalg.norm(got.vector) == pytest.approx(1, abs=1e-6)
    assert published_score({"k": shapeless}, {"k": [1.0, 2.0, 3.0]}) is None
    assert published_score({"k": [1.0, 2.0, 3.0]}, {"k": shapeless}) is None


def test_a_curve_that_becomes_constant_by_resampling_is_missing() -> None:
    # 127 layers at 64 points: exactly every other layer is hit.
    assert signature({"q": [0.1, 0.2] * 63 + [0.1]}).missing == ATTENTION


def test_nothing_to_go_by_gives_the_zero_vector() -> None:
    got = signature({"gate": [1.0, 2.0, 3.0]})
    assert got.missing == ATTENTION
    assert not got.vector.any()
    assert published_score({"gate": [1.0, 2.0]}, {"gate": [1.0, 2.0]}) is None


def test_a_role_missing_on_one_side_counts_as_uncorrelated() -> None:
    whole, part = {role: [1.0, 3.0, 2.0] for role in ATTENTION}, {"q": [1.0, 3.0, 2.0]}
    assert np.dot(signature(whole).vector, signature(part).vector) == pytest.approx(1 / math.sqrt(4 * 1), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-310, 1e308], ids=["subnormal", "huge"])
def test_magnitudes_at_the_ends_of_float64(scale: float) -> None:
    curve = np.array([0.25, 1.5, -0.75, 0.5])
    expected = signature({"q": curve}).vector
    np.testing.assert_allclose(signature({"q": curve * scale}).vector, expected, atol=1e-6)


def test_a_curve_of_two_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one value a layer, got an array of shape \(2, 2\)"):
        signature({"q": np.ones((2, 2))})
    with pytest.raises(ValueError, match="one value a layer"):
        published_score({"q": np.ones((2, 2))}, {"q": [1.0, 2.0]})


@given(st.lists(values, min_size=2, max_size=40), st.integers(2, 80))
def test_resample_interpolates_linearly(x: list[float], n: int) -> None:
    np.testing.assert_allclose(resample(x, n), interpolated(x, n), atol=1e-12)
    assert resample(x, len(x)).tolist() == x


def test_resample_at_its_edges() -> None:
    assert resample([7.0], 3).tolist() == [7.0, 7.0, 7.0]
    assert resample([1.0, 2.0], 1).tolist() == [1.0]
    with pytest.raises(ValueError, match="cannot resample 0 layers to 4 points"):
        resample([], 4)
    with pytest.raises(ValueError, match="cannot resample 2 layers to 0 points"):
        resample([1.0, 2.0], 0)


def basis_sketches() -> NDArray[np.float32]:
    """The sign rows, seen through the public function: a sketch of one key with value 1 is its row / 16."""
    rows = [sketch(np.array([key]), np.ones(1, np.float32)) for key in (0, 1, 399, N_SKETCH_KEYS - 1)]
    return np.stack(rows)


def test_golden_signs() -> None:
    rows = basis_sketches()
    np.testing.assert_allclose(np.abs(rows), 1 / 16)
    keys = (0, 1, 399, N_SKETCH_KEYS - 1)
    lines = [f"{key:>4} " + "".join("-+"[int(x > 0)] for x in row[:64]) for key, row in zip(keys, rows, strict=True)]
    assert "\n".join(lines) == GOLDEN_SIGNS.strip("\n")
    word = sum(1 << bit for bit in range(64) if rows[0, bit] > 0)
    assert word == SPLITMIX64_FROM_ZERO
    assert N_SKETCH_KEYS == 21 * 400


def test_signs_follow_splitmix64_in_plain_integers() -> None:
    def output(counter: int) -> int:
        z = (counter + 1) * 0x9E3779B97F4A7C15 % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    for key in (0, 7, 1234, 8399):
        row = sketch(np.array([key]), np.ones(1, np.float32))
        expected = [output(4 * key + j // 64) >> (j % 64) & 1 for j in range(256)]
        assert (row > 0).tolist() == [bit == 1 for bit in expected]


def test_golden_sketch() -> None:
    got = sketch(np.array([0, 401, 8399]), np.array([1, 2, -0.5], np.float32), 8)
    assert " ".join(f"{x:+.5f}" for x in got) == (
        "-0.07715 -0.07715 -0.23146 -0.23146 +0.07715 +0.54006 -0.54006 +0.54006"
    )
    assert got.dtype == np.float32


@pytest.mark.parametrize("cosine", [-0.9, -0.3, 0.0, 0.2, 0.6, 0.95])
def test_inner_product_of_sketches_estimates_the_cosine(cosine: float) -> None:
    # A fixed seed: among all pairs of keys some do lie further off than four standard errors.
    rng = np.random.default_rng(7)
    errors = []
    for _ in range(50):
        keys = rng.choice(N_SKETCH_KEYS, 800, replace=False)
        x, noise = rng.normal(size=(2, 800))
        noise -= noise @ x / (x @ x) * x
        y = cosine * x / np.linalg.norm(x) + math.sqrt(1 - cosine**2) * noise / np.linalg.norm(noise)
        shuffle = rng.permutation(800)
        first = sketch(keys, x.astype(np.float32))
        second = sketch(keys[shuffle], y[shuffle].astype(np.float32))
        errors.append(float(first @ second) - cosine)
    assert np.abs(errors).max() < 4 / math.sqrt(256)
    standard_error = (1 - cosine**2) / math.sqrt(256)
    assert 0.7 < math.sqrt(np.mean(np.square(errors))) / standard_error < 1.3


def test_keys_of_one_side_only_lower_the_cosine() -> None:
    rng = np.random.default_rng(3)
    keys = rng.choice(N_SKETCH_KEYS, 4000, replace=False)
    x = rng.normal(size=4000).astype(np.float32)
    half = sketch(keys[:2000], x[:2000])
    cosine = np.linalg.norm(x[:2000]) / np.linalg.norm(x)
    assert half @ sketch(keys, x) == pytest.approx(cosine, abs=4 / math.sqrt(256))


cells = st.lists(st.tuples(st.integers(0, N_SKETCH_KEYS - 1), st.integers(-8, 8)), max_size=60)


@given(cells, st.integers(1, 256))
def test_a_smaller_sketch_is_the_scaled_prefix_of_a_larger_one(items: list[tuple[int, int]], dimension: int) -> None:
    keys = np.array([key for key, _ in items], dtype=np.int64)
    x = np.array([value for _, value in items], dtype=np.float32)
    prefix = sketch(keys, x)[:dimension]
    length = np.linalg.norm(prefix)
    expected = prefix / length if length > 0 else prefix
    np.testing.assert_allclose(sketch(keys, x, dimension), expected, atol=1e-5)


@given(cells, st.randoms(use_true_random=False))
def test_a_sketch_adds_equal_keys_up_in_any_order(items: list[tuple[int, int]], random: object) -> None:
    total: dict[int, int] = {}
    for key, value in items:
        total[key] = total.get(key, 0) + value
    random.shuffle(items)  # type: ignore[attr-defined]
    keys = np.array([key for key, _ in items], dtype=np.int64)
    x = np.array([value for _, value in items], dtype=np.float32)
    merged = sketch(np.array(list(total), dtype=np.int64), np.array(list(total.values()), dtype=np.float32))
    np.testing.assert_allclose(sketch(keys, x), merged, atol=2e-5)


def test_empty_zero_and_extreme_sketches() -> None:
    assert not sketch(np.zeros(0, np.int64), np.zeros(0, np.float32)).any()
    assert not sketch(np.array([1, 2]), np.zeros(2, np.float32)).any()
    keys, x = np.array([5, 900, 77]), np.array([1, -2, 3], np.float32)
    for scale in (np.float32(2.0**-140), np.float32(2.0**126)):
        np.testing.assert_array_equal(sketch(keys, x * scale), sketch(keys, x))


@pytest.mark.parametrize(
    ("keys", "x", "dimension", "message"),
    [
        ([1, 2], [1.0], 256, r"one value a key, got keys \(2,\) and values \(1,\)"),
        ([[1]], [[1.0]], 256, "one value a key"),
        ([-1], [1.0], 256, r"sketch keys -1 … -1 are not all in 0 … 8399"),
        ([0, N_SKETCH_KEYS], [1.0, 1.0], 256, r"sketch keys 0 … 8400"),
        ([1], [1.0], 0, "sketch dimension 0 is not in 1 … 256"),
        ([1], [1.0], 257, "sketch dimension 257"),
        ([1, 2], [1.0, math.nan], 256, "finite values"),
        ([1, 2], [-math.inf, 1.0], 256, "finite values"),
    ],
)
def test_sketch_refuses(keys: list[int], x: list[float], dimension: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sketch(np.array(keys), np.array(x, dtype=np.float32), dimension)


def test_every_public_constant_of_the_spec_is_in_its_name() -> None:
    roles, statistic, scaling, points = SPEC.split("-")
    assert roles == "".join(ATTENTION)
    assert (statistic, scaling, points) == ("std", "z", str(POINTS))


# --- products


def products(layers: int, seed: int = 1) -> ProductSketch:
    """Sketches of a model whose layers have nothing to do with each other."""
    vo, fu = np.random.default_rng(seed).normal(0, 1 / 16, (2, layers, 16, 16)).astype(np.float32)
    return ProductSketch(tuple(range(layers)), vo, fu, tuple(range(16)))


@given(st.integers(1, 40), st.floats(0, 2), st.integers(0, 1000))
def test_product_vectors_estimate_the_correlation_of_the_layers(layers: int, noise: float, seed: int) -> None:
    model, other = products(layers, seed), products(layers, seed + 5000)
    copy = replace(model, vo=model.vo + noise * other.vo, fu=model.fu + noise * other.fu)
    a, b = product_vector(model), product_vector(copy)
    assert np.linalg.norm(a) == pytest.approx(1, abs=1e-6)
    assert a @ b == pytest.approx(1 / math.sqrt(1 + noise**2), abs=0.3)
    assert abs(a @ product_vector(products(layers, seed + 9000))) < 0.4


def test_product_vectors_of_a_model_cut_in_depth_stay_near() -> None:
    model = products(24)
    cut = replace(model, layers=tuple(range(20)), vo=model.vo[:20], fu=model.fu[:20])
    assert product_vector(model) @ product_vector(products(24)) == pytest.approx(1)
    assert product_vector(model) @ product_vector(cut) > product_vector(model) @ product_vector(products(20, 2)) + 0.1


def test_what_is_missing_of_the_products_is_left_out() -> None:
    model = products(12)
    holed = replace(model, vo=model.vo.copy(), fu=np.full_like(model.fu, np.nan))
    holed.vo[3] = np.nan
    assert product_vector(model) @ product_vector(holed) > 0.5
    assert not product_vector(None).any()
    assert not product_vector(replace(holed, vo=holed.fu)).any()
