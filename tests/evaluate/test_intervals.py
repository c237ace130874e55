import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from lprnet_nb.errors import ParameterError
from lprnet_nb.evaluate import wilson


@pytest.mark.parametrize("k, n", [(0, 10), (10, 10), (894, 1000), (88, 100), (1, 3)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_wilson_equals_statsmodels(k, n, level):
    expected = proportion_confint(k, n, alpha=1 - level, method="wilson")
    assert wilson(k, n, level) == pytest.approx(expected, abs=1e-9)


def test_wilson_is_scipys_to_the_bit():
    for n in (1, 2, 7, 50, 100, 999, 1000, 20_000):
        for k in {0, 1, n // 3, n // 2, n - 1, n}:
            interval = binomtest(k, n).proportion_ci(0.95, method="wilson")
            assert wilson(k, n) == (interval.low, interval.high)


def test_wilson_of_the_published_figure():
    assert wilson(894, 1000) == pytest.approx((0.8733896, 0.9115949), abs=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(3, 2),
        lambda: wilson(0, 0),
        lambda: wilson(1, 2, 95),
    ],
)
def test_impossible_parameters_are_refused(call):
    with pytest.raises(ParameterError):
        call()
