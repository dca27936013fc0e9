"""Pairs of a family, all at once, against the same figures computed pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from provenance.query.evidence.pair import Subject
from provenance.query.statistics.alignment import slopes
from provenance.query.statistics.frame import Frame, frame_of
from provenance.query.statistics.grid import Grid
from tests.conftest import Tensors, llama, trained
from tests.support.dossiers import dossier, layers_of

ROOT = llama(1)
CHILD = trained(ROOT, 2, 0.3)
COUSIN = trained(ROOT, 3, 0.5)


def grid(tensors: Tensors) -> Grid:
    return Subject(dossier(tensors)).grid


@pytest.fixture(scope="module")
def frame() -> Frame:
    return frame_of([grid(ROOT), grid(CHILD), grid(COUSIN)])


def test_slopes_are_those_of_each_pair_by_itself(frame: Frame) -> None:
    rows = np.arange(6)
    alone = slopes(grid(ROOT), grid(CHILD), rows, rows)
    assert alone is not None
    assert frame.shared.slope[0, 1] == pytest.approx(alone.b_on_a, abs=1e-9)
    assert frame.shared.slope[1, 0] == pytest.approx(alone.a_on_b, abs=1e-9)


def test_independent_changes_add_up(frame: Frame) -> None:
    distance = frame.shared.distance
    np.testing.assert_allclose(distance, distance.T, atol=1e-12)
    assert np.diag(distance) == pytest.approx(0, abs=1e-9)
    # Changes of 0.3 and 0.5 of the spread, in units of the mean variance of the two.
    assert distance[0, 1] == pytest.approx(0.09 / 1.045, rel=0.1)
    assert distance[0, 2] == pytest.approx(0.25 / 1.125, rel=0.1)
    assert distance[1, 2] == pytest.approx(0.34 / 1.17, rel=0.1)


def test_a_child_varies_more_than_its_parent(frame: Frame) -> None:
    mean, t = frame.shared.asymmetry
    assert mean[0, 1] > 0
    assert t[0, 1] > 3
    np.testing.assert_allclose(mean, -mean.T, atol=1e-12)
    np.testing.assert_allclose(t, -t.T, atol=1e-9)


def test_a_change_is_carried_on_by_descendants_only() -> None:
    grandchild = trained(CHILD, 4, 0.3)
    frame = frame_of([grid(ROOT), grid(CHILD), grid(grandchild), grid(COUSIN)])
    found = frame.carried(0)
    slope, error = found.slope, found.error
    assert abs(slope[2, 1] - 1) < 4 * error[2, 1]
    assert abs(slope[3, 1]) < 4 * error[3, 1]
    assert (slope[2, 0], error[2, 0]) == (0.0, np.inf)


def test_slopes_of_changes_are_those_of_the_changes_themselves(frame: Frame) -> None:
    found = frame.carried(0)
    u, v = frame.weights[1] - frame.weights[0], frame.weights[2] - frame.weights[0]
    rest = u - (u @ v) / (v @ v) * v
    assert found.slope[1, 2] == pytest.approx((u @ v) / (v @ v), abs=1e-9)
    assert found.correlation[1, 2] == pytest.approx((u @ v) / np.sqrt((u @ u) * (v @ v)), abs=1e-9)
    assert found.error[1, 2] == pytest.approx(np.sqrt(rest @ rest / (len(u) - 1) / (v @ v)), rel=1e-6)


def test_layers_that_were_dropped_are_missing_and_the_others_correspond() -> None:
    frame = frame_of([grid(layers_of(CHILD, [0, 1, 4, 5])), grid(CHILD)])
    assert frame.mask[1].all()
    assert frame.mask[0].mean() == pytest.approx(4 / 6)
    assert not frame.equal[0, 1]
    assert frame.shared.distance[0, 1] == pytest.approx(0, abs=1e-12)


def test_copies_are_equal_and_zeros_are_counted() -> None:
    thin = {n: np.where(np.abs(t) < np.median(np.abs(t)), 0, t) if t.ndim == 2 else t for n, t in ROOT.items()}
    frame = frame_of([grid(ROOT), grid(dict(ROOT)), grid(thin)])
    assert frame.equal.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    whole, half = frame.zeros[0, 2], frame.zeros[2, 0]
    assert whole == 0
    assert half == pytest.approx(0.5, abs=0.05)


def test_strangers_are_far_and_uncorrelated() -> None:
    shared = frame_of([grid(ROOT), grid(llama(77))]).shared
    assert shared.distance[0, 1] == pytest.approx(2, rel=0.1)
    assert abs(shared.correlation[0, 1]) < 0.05


def test_members_without_a_common_shape_share_what_they_have() -> None:
    other = llama(5, layers=3, hidden=32, heads=2, kv_heads=1, ffn=48)
    shared = frame_of([grid(ROOT), grid(other)]).shared
    assert np.isfinite(shared.distance).all()
    assert shared.correlation[0, 0] == pytest.approx(1)
