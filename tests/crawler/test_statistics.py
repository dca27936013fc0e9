"""Moments against float64 numpy, and the jackknife against the real spread."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from provenance.crawler.formats.dtypes import decode
from provenance.crawler.statistics import PIECE, Moments
from provenance.schemas.tensors import TensorStatistics

Floats = NDArray[np.floating[Any]]

FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}


def measure(*chunks: Floats) -> TensorStatistics:
    moments = Moments()
    for chunk in chunks:
        moments.update(chunk)
    return moments.result()


def std_error(bands: Sequence[Floats], n_elements: int) -> float | None:
    """Of bands `[rows, columns]`; a flat one is a row."""
    moments = Moments()
    bands = [np.atleast_2d(band) for band in bands]
    for band in bands:
        moments.update_rows(band)
    return moments.std_error([len(band) for band in bands], n_elements)


def oracle(values: Floats) -> TensorStatistics:
    """Two passes in long double over numbers scaled to at most 1."""
    finite = values[np.isfinite(values)].astype(np.longdouble).ravel()
    if finite.size == 0:
        return TensorStatistics(n_read=values.size, n_nonfinite=values.size)
    scale = np.abs(finite).max() or np.longdouble(1)
    scaled = finite / scale
    deviations = scaled - scaled.mean()
    variance = (deviations**2).mean()
    constant = finite.min() == finite.max()
    return TensorStatistics(
        n_read=values.size,
        mean=float(finite.mean()),
        std=0.0 if constant else float(np.sqrt(variance) * scale),
        std_error=0.0,
        skewness=None if constant else float((deviations**3).mean() / variance**1.5),
        kurtosis=None if constant else float((deviations**4).mean() / variance**2),
        min=float(finite.min()),
        max=float(finite.max()),
        n_nonfinite=values.size - finite.size,
    )


def assert_close(found: TensorStatistics, expected: TensorStatistics, tolerance: float = 1e-6) -> None:
    assert (found.n_read, found.n_nonfinite) == (expected.n_read, expected.n_nonfinite)
    assert (found.min, found.max, found.std_error) == (expected.min, expected.max, expected.std_error)
    if expected.mean is None or expected.std is None:
        assert found == expected
        return
    # A mean or a skewness near zero is only as good as the spread that it is small against.
    assert found.mean == pytest.approx(expected.mean, rel=tolerance, abs=tolerance * expected.std)
    assert found.std == pytest.approx(expected.std, rel=tolerance, abs=0.0)
    if expected.kurtosis is None:
        assert found.kurtosis is found.skewness is None
        return
    assert found.kurtosis == pytest.approx(expected.kurtosis, rel=tolerance, abs=0.0)
    assert found.skewness == pytest.approx(expected.skewness, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.02), (4.0, 0.02), (-0.5, 3.0)])
def test_every_float_dtype(dtype: str, mean: float, std: float) -> None:
    """Also at a mean of 200 standard deviations."""
    generator = torch.Generator().manual_seed(1)
    stored = (torch.randn(3 * PIECE + 17, generator=generator, dtype=torch.float64) * std + mean).to(FLOATS[dtype])
    found = measure(decode(stored.view(torch.uint8).numpy().tobytes(), dtype))
    exact = stored.to(torch.float64)
    assert_close(found, oracle(exact.numpy()))
    assert found.std == pytest.approx(exact.std(correction=0).item(), rel=1e-6)
    assert found.mean == pytest.approx(exact.mean().item(), rel=1e-6, abs=1e-6 * std)


@pytest.mark.parametrize(
    ("scale", "kind"),
    [(s, np.float64) for s in (1e-300, 1e-160, 1e-30, 1e30, 1e160, 1e300)]
    + [(s, np.float32) for s in (1e-45, 1e-38, 1e-30, 1e30, 1e38)],
)
def test_tiny_and_huge_scales(scale: float, kind: type[np.floating[Any]]) -> None:
    values = (np.random.default_rng(2).uniform(-3, 3, 2 * PIECE + 5) * scale).astype(kind)
    assert_close(measure(values), oracle(values))


@pytest.mark.parametrize("scales", [(0.0, 1e-300, 1.0, 1e300), (1e300, 1.0), (1e-30, 1e30), (1e-320, 0.0)])
def test_scale_that_changes_on_the_way(scales: tuple[float, ...]) -> None:
    rng = np.random.default_rng(3)
    chunks = [rng.standard_normal(1000) * scale for scale in scales]
    assert_close(measure(*chunks), oracle(np.concatenate(chunks)))


@pytest.mark.parametrize("largest", [sys.float_info.max, math.ulp(0.0)])
def test_ends_of_the_float64_range(largest: float) -> None:
    found = measure(np.array([largest, -largest] * 50))
    assert (found.mean, found.std) == (0.0, largest)
    assert (found.skewness, found.kurtosis) == pytest.approx((0.0, 1.0))


def test_pieces_with_means_far_apart() -> None:
    """The first piece says nothing about the rest: what one fixed pilot mean gets wrong."""
    rng = np.random.default_rng(4)
    chunks = [rng.standard_normal(PIECE) * 1e-6 + centre for centre in (0.0, 1e3, 1e3, 1e3)]
    assert_close(measure(np.concatenate(chunks)), oracle(np.concatenate(chunks)))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.floats(width=32), max_size=12), max_size=6),
    st.sampled_from([np.float32, np.float64]),
)
def test_any_chunks_of_any_numbers(chunks: list[list[float]], kind: type[np.floating[Any]]) -> None:
    arrays = [np.array(chunk, dtype=kind) for chunk in chunks]
    values = np.concatenate([np.empty(0, dtype=kind), *arrays])
    if values.size == 0:
        assert measure(*arrays) == TensorStatistics()
    else:
        assert_close(measure(*arrays), oracle(values))


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20), st.integers(1, 20))
def test_any_float64_without_warning_or_overflow(values: list[float], cut: int) -> None:
    """Over the whole range of float64, however it is cut; `std` and the extremes stay in order."""
    array = np.array(values)
    found = measure(array[:cut], array[cut:])
    expected = oracle(array)
    assert (found.min, found.max) == (expected.min, expected.max)
    assert found.mean is not None
    assert min(values) <= found.mean <= max(values)
    assert found.std is not None
    assert expected.std is not None
    # Spreads below the resolution of float64 at the largest value are noise, to numpy as well.
    largest = float(np.abs(array).max())
    assert found.std == pytest.approx(expected.std, rel=1e-6, abs=4e-16 * largest + math.ulp(0.0))


def test_shape_and_cut_do_not_matter() -> None:
    values = np.random.default_rng(5).standard_normal((700, 301)).astype(np.float32) + 3
    expected = oracle(values)
    assert_close(measure(values), expected)
    assert_close(measure(values.T), expected)
    assert_close(measure(*values), expected)
    assert_close(measure(values[:1], values[1:1], values[1:]), expected)
    assert_close(measure(values[:, ::2], values[:, 1::2]), expected)


def test_nonfinite_elements_are_counted_and_left_out() -> None:
    values = np.random.default_rng(6).standard_normal(2 * PIECE).astype(np.float32)
    values[[0, 5, PIECE + 1]] = np.nan, np.inf, -np.inf
    found = measure(values)
    assert (found.n_read, found.n_nonfinite) == (2 * PIECE, 3)
    assert_close(found, oracle(values))
    values[:PIECE] = np.nan
    assert_close(measure(values), oracle(values))


def test_every_pattern_of_bfloat16_is_read_without_a_warning() -> None:
    """Signalling NaN among them, which warn where they are cast."""
    values = decode(np.arange(2**16, dtype="<u2").tobytes(), "BF16")
    assert_close(measure(values), oracle(values))
    moments = Moments()
    moments.update_rows(values.reshape(-1, 128))
    assert_close(moments.result(), oracle(values))


def test_nothing_to_measure() -> None:
    assert Moments().result() == TensorStatistics()
    assert Moments().result(0.5) == TensorStatistics()
    assert measure(np.empty(0, dtype=np.float32)) == TensorStatistics()
    assert measure(np.full(7, np.nan)) == TensorStatistics(n_read=7, n_nonfinite=7)


@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, -3.3e30, 1e300, 5e-324])
def test_constant_tensor(value: float) -> None:
    found = measure(np.full(2 * PIECE + 1, value))
    assert (found.mean, found.std, found.skewness, found.kurtosis) == (value, 0.0, None, None)


def test_standard_error_is_passed_on() -> None:
    moments = Moments()
    moments.update(np.arange(3.0))
    assert moments.result(0.25).std_error == 0.25
    assert moments.result(None).std_error is None


def matrix(rng: np.random.Generator, kind: str) -> NDArray[np.float64]:
    """240 x 50, a fresh draw of one law."""
    shape = (240, 50)
    noise = rng.standard_normal(shape) * 0.02
    if kind == "rows that differ":
        return noise * rng.uniform(0.5, 1.5, (shape[0], 1))
    if kind == "heavy tails":
        return rng.standard_t(8, shape) * 0.02
    return noise + (4.0 if kind == "mean of 200 std" else 0.0)


@pytest.mark.parametrize("kind", ["gaussian", "rows that differ", "heavy tails", "mean of 200 std"])
@pytest.mark.parametrize(("rows", "n_bands"), [(8, 5), (24, 5), (40, 2), (40, 1)])
def test_standard_error_is_the_real_spread(kind: str, rows: int, n_bands: int) -> None:
    """Over many matrices, the root mean square of the estimate and of the true error agree within a factor of two."""
    rng = np.random.default_rng(7)
    errors, estimates = [], []
    for _ in range(120):
        whole = matrix(rng, kind)
        starts = np.linspace(0, len(whole) - rows, n_bands, dtype=int)
        bands = [whole[start : start + rows] for start in starts]
        estimate = std_error(bands, whole.size)
        assert estimate is not None
        estimates.append(estimate)
        errors.append(np.concatenate(bands).std() - whole.std())
    ratio = np.sqrt(np.mean(np.square(estimates)) / np.mean(np.square(errors)))
    assert 0.5 < ratio < 2.0


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=6), min_size=3, max_size=6),
    st.floats(1.1, 10.0),
)
def test_jackknife_by_its_formula(groups: list[list[float]], times: float) -> None:
    bands = [np.array(group) for group in groups]
    n = sum(band.size for band in bands)
    n_elements = math.ceil(n * times)
    stds = [np.concatenate(bands[:j] + bands[j + 1 :]).std() for j in range(len(bands))]
    expected = math.sqrt((1 - n / n_elements) * (len(bands) - 1) * np.var(stds))
    largest = max(float(np.abs(band).max()) for band in bands)
    assert std_error(bands, n_elements) == pytest.approx(expected, rel=1e-6, abs=1e-7 * largest)


@pytest.mark.parametrize("scale", [1e-310, 1e-160, 1e30, 1e160, 1e300])
def test_standard_error_scales_with_the_tensor(scale: float) -> None:
    bands = list(np.random.default_rng(8).standard_normal((5, 4, 10)))
    plain = std_error(bands, 1000)
    assert plain is not None
    assert std_error([band * scale for band in bands], 1000) == pytest.approx(plain * scale, rel=1e-6)


def test_standard_error_at_the_edges() -> None:
    rng = np.random.default_rng(9)
    flat = [rng.standard_normal(50) for _ in range(3)]
    assert std_error(flat, 150) == 0.0
    assert std_error([], 0) == 0.0
    assert std_error([], 100) is None
    assert std_error(flat[:2], 1000) is None
    assert std_error([flat[0].reshape(2, 25)], 1000) is None
    assert std_error([np.full((4, 5), np.nan)], 1000) is None
    assert std_error([np.zeros((3, 5))], 1000) == 0.0
    assert std_error([np.full(5, 0.1)] * 3, 1000) == pytest.approx(0.0, abs=1e-12)


@settings(deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda width: st.lists(st.lists(st.floats(width=32), min_size=width, max_size=width), min_size=1, max_size=9)
    )
)
def test_rows_are_measured_as_pieces_are(rows: list[list[float]]) -> None:
    """Whatever is not finite among them: whole rows too."""
    values = np.array(rows, dtype=np.float32)
    moments = Moments()
    moments.update_rows(values)
    assert_close(moments.result(), oracle(values))


@pytest.mark.parametrize("columns", [1, 300, PIECE - 1, PIECE + 1])
def test_rows_of_any_length(columns: int) -> None:
    values = np.random.default_rng(11).standard_normal((9, columns)) + 100.0
    moments = Moments()
    moments.update_rows(values[:5])
    moments.update_rows(values[5:])
    assert_close(moments.result(), oracle(values))


def test_a_band_without_finite_elements_moves_no_other() -> None:
    rng = np.random.default_rng(12)
    bands = [rng.standard_normal((2, 10)) for _ in range(4)]
    void = np.full((2, 10), np.nan)
    found = std_error([bands[0], void, *bands[1:]], 1000)
    # The share that was read is larger, all else is the same.
    alone = std_error(bands, 1000)
    assert found is not None
    assert alone is not None
    assert found == pytest.approx(alone * math.sqrt((1 - 0.10) / (1 - 0.08)), rel=1e-9)


def test_standard_error_leaves_out_nonfinite_elements_and_empty_bands() -> None:
    rng = np.random.default_rng(10)
    bands = [rng.standard_normal((4, 10)) for _ in range(3)]
    holed = [np.concatenate([band, np.full((4, 1), np.nan)], axis=1) for band in bands]
    # The share that was read counts what was read, finite or not.
    assert std_error([*holed, np.empty((0, 11))], 1100) == pytest.approx(std_error(bands, 1000), rel=1e-9)
