import numpy as np
import pytest
from scipy import stats

from lprnet_nb.errors import ParameterError
from lprnet_nb.evaluate import holm, mcnemar_exact
from lprnet_nb.evaluate.paired import over_draws


def outcomes(both, only_a, only_b, neither):
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return a, b


@pytest.mark.parametrize(
    "table", [(101, 59, 121, 33), (5, 1, 9, 0), (880, 14, 6, 100), (10, 3, 3, 2), (0, 0, 1, 0)]
)
def test_mcnemar_is_the_binomial_test_on_the_discordant(table):
    result = mcnemar_exact(*outcomes(*table))
    assert (result.b, result.c) == table[1:3]
    assert result.p == pytest.approx(stats.binomtest(table[1], table[1] + table[2]).pvalue)


def test_mcnemar_textbook_value():
    # 1 against 9 discordant pairs: 2 * (1 + 10) / 2**10.
    assert mcnemar_exact(*outcomes(5, 1, 9, 0)).p == pytest.approx(22 / 1024)


def test_mcnemar_without_differences_is_one():
    assert mcnemar_exact([True, False], [True, False]).p == 1.0


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, then made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).shape == (0,)


@pytest.mark.parametrize(
    "call",
    [
        lambda: mcnemar_exact([True], [True, False]),
        lambda: mcnemar_exact([], []),
        lambda: holm([0.5, 1.5]),
    ],
)
def test_impossible_parameters_are_refused(call):
    with pytest.raises(ParameterError):
        call()


def test_a_plate_counts_once_whatever_the_number_of_draws():
    """Four plates; the second draw judges the last three, in another order."""
    ours = np.array([True, False, True, False]), np.array([True, True, False])
    theirs = np.array([False, True, True, False]), np.array([False, False, False])
    total, test = over_draws(
        4, [(slice(None), ours[0], theirs[0]), (np.array([3, 1, 2]), ours[1], theirs[1])]
    )
    assert total.tolist() == [1, 0, 0, 1]  # the second plate gains in one draw and loses in one
    assert (test.b, test.c, test.p) == (2, 0, 0.5)
