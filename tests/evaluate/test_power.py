from __future__ import annotations

import numpy as np
import pytest

from lprnet_nb.errors import ParameterError
from lprnet_nb.evaluate.power import Spread, least_seen, plates_needed, spread


def test_the_parts_of_a_spread_are_told_apart():
    """Drawn with known variances: plates 0.04, draws 0.0009, both 0.01."""
    chance = np.random.default_rng(0)
    plates, draws = 3000, 200
    change = (
        chance.normal(0, 0.2, plates)
        + chance.normal(0, 0.03, draws)[:, None]
        + chance.normal(0, 0.1, (draws, plates))
    )
    found = spread(change)
    assert found.plates == pytest.approx(0.04, rel=0.1)
    assert found.draws == pytest.approx(0.0009, rel=0.25)
    assert found.both == pytest.approx(0.01, rel=0.02)
    assert found.of_mean(1000, 5) == pytest.approx(0.04 / 1000 + 0.0009 / 5 + 0.01 / 5000, rel=0.2)


def test_a_spread_of_few_is_no_spread():
    with pytest.raises(ParameterError, match="two draws of two plates"):
        spread(np.zeros((1, 10)))


@pytest.mark.parametrize("draws", [1, 5])
def test_so_many_plates_see_it_four_times_of_five(draws):
    one = Spread(plates=0.02, draws=0.00001, both=0.01)
    wanted = plates_needed(lambda n: 0.015, lambda n: one.of_mean(n, draws))
    sd = one.of_mean(wanted, draws) ** 0.5
    measured = np.random.default_rng(1).normal(0.015, sd, 20000)
    seen = np.mean(np.abs(measured) > 1.959964 * sd)
    assert 0.795 < seen < 0.82  # rounded up
    assert least_seen(one.of_mean(wanted, draws)) == pytest.approx(0.015, rel=0.05)


def test_more_draws_ask_for_fewer_plates_and_draws_alone_may_be_too_few():
    one = Spread(plates=0.02, draws=0.00001, both=0.02)
    by_draws = [
        plates_needed(lambda n: 0.01, lambda n, k=k: one.of_mean(n, k)) for k in (1, 2, 5, 10)
    ]
    assert by_draws == sorted(by_draws, reverse=True) and by_draws[0] > 2 * by_draws[-1]
    assert plates_needed(lambda n: 0.003, lambda n: one.of_mean(n, 1)) is None
