"""The bootstrap interval is the percentile one, and its seed is used."""

from __future__ import annotations

import numpy as np
import pytest

from lprnet_nb.evaluate.intervals import bootstrap


def test_a_skewed_statistic_has_a_percentile_interval():
    values = np.random.default_rng(0).exponential(1, 25) ** 3
    chosen = np.random.default_rng(1)
    means = [chosen.choice(values, 25).mean() for _ in range(8000)]
    low, high = np.percentile(means, [2.5, 97.5])
    # The basic interval is that one mirrored at the mean: far from it for a skewed sample.
    assert 2 * values.mean() - high < low / 2
    assert bootstrap(values, resamples=4000) == pytest.approx((low, high), rel=0.1)


def test_another_seed_draws_others():
    values = np.arange(20.0)
    assert bootstrap(values, seed=1, resamples=200) != bootstrap(values, seed=2, resamples=200)
    assert bootstrap(values, seed=1, resamples=200) == bootstrap(values, seed=1, resamples=200)
