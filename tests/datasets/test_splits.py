"""Folds and calibration draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lprnet_nb.datasets.splits import cross_fit, folds, within
from lprnet_nb.errors import ParameterError

EVALUATE, ORDER = [2, 5, 8, 12], [688, 178, 526, 766]


@given(st.integers(2, 200), st.integers(2, 10), st.integers(0, 2**31))
def test_folds_cover_all_images_once(count, parts, seed):
    if parts > count:
        with pytest.raises(ParameterError, match="folds"):
            folds(count, parts, seed)
        return
    made = folds(count, parts, seed)
    assert np.array_equal(np.sort(np.concatenate(made)), np.arange(count))
    assert {len(part) for part in made} <= {count // parts, count // parts + 1}


@given(st.integers(4, 100), st.integers(2, 4), st.integers(0, 50))
def test_calibration_images_are_never_evaluated(count, parts, draw):
    for split in cross_fit(count, parts, draw):
        assert not np.intersect1d(split.order, split.evaluate).size
        assert len(split.order) + len(split.evaluate) == count


def test_small_draws_are_part_of_larger_ones():
    split = cross_fit(1000, 2, 3)[1]
    assert set(split.calibrate(20)) < set(split.calibrate(100)) < set(split.calibrate(450))
    assert len(np.unique(split.calibrate(450))) == 450


def test_draws_are_fixed_by_their_seed():
    first, again, other = (cross_fit(1000, 2, draw)[0] for draw in (0, 0, 1))
    assert np.array_equal(first.order, again.order)
    assert not np.array_equal(first.evaluate, other.evaluate)
    # Values of NumPy's PCG64: another generator would silently make another study.
    assert first.evaluate[:4].tolist() == EVALUATE and first.order[:4].tolist() == ORDER


def test_too_many_calibration_images():
    with pytest.raises(ParameterError, match="500 lie outside the fold"):
        cross_fit(1000, 2, 0)[0].calibrate(501)


def test_within_draws_from_what_is_evaluated():
    split = within(50, 1)
    assert np.array_equal(np.sort(split.order), split.evaluate)
