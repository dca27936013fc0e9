"""A plot of one pair: the four curves, and the sampled weights of one against those of the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from provenance.query.evidence.pair import Pair
from provenance.query.statistics.alignment import layer_map
from provenance.query.statistics.grid import common_columns
from provenance.schemas.errors import ProvenanceError
from provenance.schemas.roles import ATTENTION

MAX_POINTS = 4000


def plot_pair(pair: Pair, path: str) -> None:
    """Draw a pair into a `.png` or `.svg` file.

    Raises:
        ProvenanceError: matplotlib is not installed, or the file has another suffix.
    """
    if Path(path).suffix not in (".png", ".svg"):
        raise ProvenanceError(f"{path}: plots are written as .png or .svg")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ProvenanceError(
            "plots need matplotlib; install it with `pip install 'model-provenance[plot]'`"
        ) from error
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots(2, 3)
    names = [subject.dossier.repo_id for subject in (pair.a, pair.b)]
    for place, role in zip(axes[:, :2].ravel(), ATTENTION, strict=True):
        for subject, name in zip((pair.a, pair.b), names, strict=True):
            curve = subject.dossier.curve(role)
            place.plot(np.linspace(0, 1, len(curve)), curve, marker=".", label=name)
        place.set_title(f"std of {role}")
        place.set_xlabel("relative depth")
    axes[0, 0].legend()
    left, right = _cells(pair)
    axes[0, 2].scatter(right, left, s=3, alpha=0.4)
    axes[0, 2].set_title(f"sampled weights, r = {pair.aligned.correlation:.3f}")
    axes[0, 2].set_xlabel(names[1])
    axes[0, 2].set_ylabel(names[0])
    axes[1, 2].hist(left - right, bins=80)
    axes[1, 2].set_title("difference of standardised weights")
    figure.savefig(path)


def _cells(
    pair: Pair,
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Corresponding standardised cells, at most `MAX_POINTS` of them."""
    a, b = pair.a.grid, pair.b.grid
    rows_a, rows_b = layer_map(a, b)
    _, in_a, in_b = common_columns(a, b)
    both = a.mask[np.ix_(rows_a, in_a)] & b.mask[np.ix_(rows_b, in_b)]
    left, right = a.standard[np.ix_(rows_a, in_a)][both], b.standard[np.ix_(rows_b, in_b)][both]
    step = max(1, len(left) // MAX_POINTS)
    return left[::step], right[::step]
