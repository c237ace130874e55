import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from lprnet_nb.errors import ParameterError
from lprnet_nb.evaluate import bootstrap, wilson


@pytest.mark.parametrize("k, n", [(0, 10), (10, 10), (894, 1000), (88, 100), (1, 3)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_wilson_equals_statsmodels(k, n, level):
    expected = proportion_confint(k, n, alpha=1 - level, method="wilson")
    assert wilson(k, n, level) == pytest.approx(expected, abs=1e-9)


def test_wilson_of_the_published_figure():
    assert wilson(894, 1000) == pytest.approx((0.8733896, 0.9115949), abs=1e-6)


def test_bootstrap_of_a_share_comes_near_wilson_and_repeats():
    outcomes = np.arange(1000) < 894
    low, high = bootstrap(outcomes, resamples=2000)
    assert (low, high) == pytest.approx(wilson(894, 1000), abs=0.004)
    assert bootstrap(outcomes, resamples=2000) == (low, high)


def test_bootstrap_keeps_rows_together():
    pairs = np.stack([np.arange(50), np.arange(50) * 2], axis=1).astype(float)
    low, high = bootstrap(
        pairs, lambda rows: (rows[:, 1] / np.maximum(rows[:, 0], 1)).max(), resamples=50
    )
    assert (low, high) == (2.0, 2.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(3, 2),
        lambda: wilson(0, 0),
        lambda: wilson(1, 2, 95),
        lambda: bootstrap(np.array([1.0])),
    ],
)
def test_impossible_parameters_are_refused(call):
    with pytest.raises(ParameterError):
        call()
