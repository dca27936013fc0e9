"""p-values: of a block statistic, of several lines together, over a store, and what they make probable."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

MIN_BLOCKS = 8
"""With fewer independent blocks than this a block statistic says nothing."""

RESOLUTION = 1e-6

_LN10 = math.log(10.0)


def block_t(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, int]:
    """Student's t of block sums: `z_b = sum_b / sqrt(count_b)`, `t = mean(z) / (sd(z) / sqrt(n))`.

    For standardised cells of independent matrices every `z_b` has mean 0, whatever its variance: the statistic
    normalises itself (Efron 1969; de la Peña, Lai & Shao, *Self-Normalized Processes*, 2009, eq. 1.1).

    Returns:
        t and the number of blocks; t is 0 with fewer than `MIN_BLOCKS` blocks. A spread below `RESOLUTION` of the mean
        is rounding: blocks of two copies agree exactly.
    """
    used = counts > 0
    z = sums[used] / np.sqrt(counts[used])
    n = len(z)
    if n < MIN_BLOCKS:
        return 0.0, n
    mean = float(z.mean())
    spread = max(float(z.std(ddof=1)), RESOLUTION * abs(mean))
    return (mean / spread * math.sqrt(n) if spread > 0 else 0.0), n


def student_log10_p(t: NDArray[np.float64] | float, degrees: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """log10 of the two-sided p-value of Student's t; exact where a float can hold it, its leading series below.

    p = I_x(df/2, 1/2) with x = df / (df + t²); for small x, I_x(a, b) = x^a (1-x)^b / (a B(a, b)) * F(a+b, 1; a+1; x)
    (DLMF 8.17.8), where F is between 1 and 1 / (1 - x).
    """
    t, degrees = np.broadcast_arrays(np.asarray(t, np.float64), np.asarray(degrees, np.float64))
    x = degrees / (degrees + t * t)
    a = degrees / 2
    p = special.betainc(a, 0.5, x)
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = a * np.log(x) + 0.5 * np.log1p(-x) - np.log(a) - special.betaln(a, 0.5) - np.log1p(-x)
        exact = np.log(p)
    result: NDArray[np.float64] = np.minimum(np.where(p > 1e-280, exact, tail) / _LN10, 0.0)
    return result


def combine_log10_p(log10_ps: Sequence[float]) -> float:
    """Bonferroni over lines of evidence about one pair: min p times the number of lines. Survives any dependence."""
    return min(0.0, min(log10_ps) + math.log10(len(log10_ps))) if log10_ps else 0.0


def adjust_log10_p(log10_p: float, n_store: int) -> float:
    """Bonferroni over the store: the candidates were picked from all of it by the same data."""
    return min(0.0, log10_p + math.log10(max(1, n_store)))


def to_p(log10_p: float) -> float:
    """A p-value from its log10; 0 where a float cannot hold it."""
    return 0.0 if log10_p < -300 else float(10.0**log10_p)


def empirical_p(value: float, background: NDArray[np.float64]) -> float | None:
    """Share of background values at least as large, (k + 1) / (n + 1) (Davison & Hinkley 1997, eq. 4.11).

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
    """Whether a correlation lies more than `OUTLYING` robust standard deviations above a background of correlations.

    Measured on Fisher's scale by median and median absolute deviation, which a few relatives among the supposed
    strangers hardly move.
    """
    if len(background) < MIN_BLOCKS:
        return False
    scale = np.arctanh(np.clip(background, -0.999999, 0.999999))
    centre = float(np.median(scale))
    spread = 1.4826 * float(np.median(np.abs(scale - centre)))
    return math.atanh(min(max(value, -0.999999), 0.999999)) > centre + OUTLYING * spread


def trim(background: NDArray[np.float64]) -> NDArray[np.float64]:
    """A background without the scores that lie out of its own line: relatives that nobody recognised."""
    return background[[not outlies(float(value), background) for value in background]]


EXPECTED_RELATIVES = 5.0
SHAPE = 0.1


def probability(log10_p: float, n_store: int) -> float:
    """Probability that the pair is not independent: 1 - local false discovery rate.

    p-values of relatives are modelled as Beta(0.1, 1) (Sellke, Bayarri & Berger 2001, eq. 3), those of strangers
    as uniform; the stated prior expects `EXPECTED_RELATIVES` relatives in the store, at most one candidate in two.
    """
    prior = min(0.5, EXPECTED_RELATIVES / max(1, n_store))
    log_odds = math.log(prior / (1 - prior)) + math.log(SHAPE) + (SHAPE - 1) * log10_p * _LN10
    return 1 / (1 + math.exp(-log_odds)) if log_odds > -700 else 0.0
