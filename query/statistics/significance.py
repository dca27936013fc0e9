"""p-values: of a block statistic, combined over lines, corrected for the store, and the resulting probability."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_BLOCKS = 8
"""Minimum number of independent blocks for a block statistic."""

RESOLUTION = 1e-6

_LN10 = math.log(10.0)


def block_t(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, int]:
    """Student's t of block sums: `z_b = sum_b / sqrt(count_b)`, `t = mean(z) / (sd(z) / sqrt(n))`.

    For standardised cells of independent matrices every `z_b` has mean 0 and an unknown variance: the statistic is
    self-normalised (Efron 1969; de la Peña, Lai & Shao, *Self-Normalized Processes*, 2009, eq. 1.1).

    Returns:
        t and the number of blocks; t is 0 with fewer than `MIN_BLOCKS` blocks. The spread is at least `RESOLUTION`
        times the mean, because the blocks of two copies agree up to rounding.
    """
    used = counts > 0
    z = sums[used] / np.sqrt(counts[used])
    n = len(z)
    if n < MIN_BLOCKS:
        return 0.0, n
    mean = float(z.mean())
    spread = max(float(z.std(ddof=1)), RESOLUTION * abs(mean))
    return (mean / spread * math.sqrt(n) if spread > 0 else 0.0), n


def student_log10_p(t: float, degrees: float) -> float:
    """log10 of the two-sided p-value of Student's t, I_x(df/2, 1/2) with x = df / (df + t²); it never underflows."""
    square = t * t / degrees
    if square == 0:
        return 0.0
    a, b = degrees / 2, 0.5
    log_x, log_y = -math.log1p(square), -math.log1p(1 / square)
    # x^a y^b / B(a, b), the factor of the continued fraction in both tails.
    front = a * log_x + b * log_y + _log_gamma_ratio(a) - 0.5 * math.log(math.pi)
    x, y = math.exp(log_x), math.exp(log_y)
    if x < (a + 1) / (a + b + 2):
        return min(0.0, (front + math.log(_fraction(a, b, x) / a)) / _LN10)
    return min(0.0, math.log1p(-math.exp(front) * _fraction(b, a, y) / b) / _LN10)


def _log_gamma_ratio(a: float) -> float:
    """log(Γ(a + 1/2) / Γ(a)); from a = 20 on, where the two nearly cancel, by its series in 1/a (DLMF 5.11.8)."""
    if a < 20:
        return math.lgamma(a + 0.5) - math.lgamma(a)
    z = 1 / (a * a)
    return 0.5 * math.log(a) - (1 / 8 - z * (1 / 192 - z * (1 / 640 - z * (17 / 14336 - z * 31 / 18432)))) / a


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of I_x(a, b) (DLMF 8.17.22), by Lentz's method; for x < (a + 1) / (a + b + 2).

    It takes about sqrt(max(a, b)) steps.
    """
    c, d, value, m = 1.0, 0.0, 1.0, 0
    while m == 0 or abs(c * d - 1) > 1e-14:
        for numerator in (
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
            (m + 1) * (b - m - 1) * x / ((a + 2 * m + 1) * (a + 2 * m + 2)),
        ):
            c, d = 1 + numerator / c, 1 / (1 + numerator * d)
            value *= c * d
        m += 1
    return 1 / value


def combine_log10_p(log10_ps: Sequence[float], n_lines: int) -> float:
    """Bonferroni over lines of evidence about one pair: min p times the number of lines. Valid for any dependence.

    Args:
        log10_ps: of the lines that gave evidence.
        n_lines: number of lines that could have given evidence.
    """
    return min(0.0, min(log10_ps) + math.log10(n_lines)) if log10_ps else 0.0


def adjust_log10_p(log10_p: float, n_store: int) -> float:
    """Bonferroni over the store: the candidates were selected from all of it with the same data."""
    return min(0.0, log10_p + math.log10(max(1, n_store)))


def to_p(log10_p: float) -> float:
    """A p-value from its log10; 0 if it is too small for a float."""
    return 0.0 if log10_p < -300 else float(10.0**log10_p)


def empirical_p(value: float, background: NDArray[np.float64]) -> float | None:
    """Fraction of background values at least as large, (k + 1) / (n + 1) (Davison & Hinkley 1997, eq. 4.11).

    Args:
        value: the score.
        background: sorted scores of unrelated pairs.

    Returns:
        p-value, never below 1 / (n + 1); null without a background.
    """
    n = len(background)
    if n == 0 or not math.isfinite(value):
        return None
    return float((n - np.searchsorted(background, value, side="left") + 1) / (n + 1))


OUTLYING = 6.0


def outlies(value: float, background: NDArray[np.float64]) -> bool:
    """Whether a correlation is more than `OUTLYING` robust standard deviations above a background of correlations.

    Computed on Fisher's scale with median and median absolute deviation, which are robust to a few relatives among the
    supposedly unrelated pairs.
    """
    if len(background) < MIN_BLOCKS:
        return False
    scale = np.arctanh(np.clip(background, -0.999999, 0.999999))
    centre = float(np.median(scale))
    spread = 1.4826 * float(np.median(np.abs(scale - centre)))
    return math.atanh(min(max(value, -0.999999), 0.999999)) > centre + OUTLYING * spread


def trim(background: NDArray[np.float64]) -> NDArray[np.float64]:
    """A background without its outliers, which are unrecognised relatives."""
    return background[[not outlies(float(value), background) for value in background]]


EXPECTED_RELATIVES = 5.0
SHAPE = 0.1


def probability(log10_p: float, n_store: int) -> float:
    """Probability that the pair is not independent: 1 - local false discovery rate.

    p-values of relatives are modelled as Beta(0.1, 1) (Sellke, Bayarri & Berger 2001, eq. 3), those of unrelated models
    as uniform. The prior expects `EXPECTED_RELATIVES` relatives in the store, and is at most 1/2.
    """
    prior = min(0.5, EXPECTED_RELATIVES / max(1, n_store))
    log_odds = math.log(prior / (1 - prior)) + math.log(SHAPE) + (SHAPE - 1) * log10_p * _LN10
    return 1 / (1 + math.exp(-log_odds)) if log_odds > -700 else 0.0
