from __future__ import annotations

import numpy as np
import pytest

from lprnet_nb.errors import ParameterError
from lprnet_nb.evaluate.decision import decide, paired_difference


def outcomes(only_float: int, only_model: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Plates read right by the model and by float, from the numbers of unlike ones."""
    model, reference = np.ones(images, bool), np.ones(images, bool)
    model[:only_float] = False
    reference[only_float : only_float + only_model] = False
    return model, reference


def test_the_interval_is_agresti_and_mins():
    """By hand: (8 - 14) / 1002 ± 1.96 sqrt(14.5 + 8.5 - 36 / 1002) / 1002."""
    half = 1.959963985 * (23 - 36 / 1002) ** 0.5 / 1002
    assert paired_difference(14, 8, 1000) == pytest.approx((-6 / 1002 - half, -6 / 1002 + half))
    assert paired_difference(8, 14, 1000) == pytest.approx((6 / 1002 - half, 6 / 1002 + half))
    assert paired_difference(1, 0, 1)[0] == -1.0


@pytest.mark.parametrize(
    "images, only_a, only_b", [(100, 0.02, 0.02), (100, 0.05, 0.01), (1000, 0.014, 0.008)]
)
def test_it_keeps_its_level_where_few_plates_differ(images, only_a, only_b):
    """Exact: the chances of all counts whose interval has the truth in it, added up."""
    from scipy.stats import multinomial

    most = int(images * (only_a + only_b) + 12 * (images * (only_a + only_b)) ** 0.5)
    covered = 0.0
    for a in range(min(most, images) + 1):
        for b in range(min(most, images - a) + 1):
            low, high = paired_difference(a, b, images)
            if low <= only_b - only_a <= high:
                covered += multinomial.pmf(
                    [a, b, images - a - b], images, [only_a, only_b, 1 - only_a - only_b]
                )
    assert covered > 0.945


def test_a_loss_is_judged_by_its_whole_interval():
    assert decide(*outcomes(0, 0, 1000)).outcome == "within"
    assert decide(*outcomes(30, 5, 1000)).outcome == "not within"
    found = decide(*outcomes(14, 8, 1000))
    assert (found.outcome, found.difference) == ("too few plates", -0.006)
    assert found.low == pytest.approx(-0.01536, abs=1e-5)
    # The same plates, another tolerance.
    assert decide(*outcomes(14, 8, 1000), tolerance=2.0).outcome == "within"
    assert decide(*outcomes(30, 5, 1000), tolerance=5.0).outcome == "within"
    # A gain is no loss, however sure.
    assert decide(*outcomes(0, 60, 1000), tolerance=0.0).outcome == "within"


@pytest.mark.parametrize("a, b, images", [(2, 0, 100), (14, 8, 1000), (4, 2, 100)])
def test_the_number_that_would_decide_decides_four_times_of_five(a, b, images):
    wanted = decide(*outcomes(a, b, images)).decides
    assert wanted > images
    counts = np.random.default_rng(0).multinomial(
        wanted, [a / images, b / images, 1 - (a + b) / images], 3000
    )
    ends = [paired_difference(int(one), int(other), wanted) for one, other, _ in counts]
    decided = np.mean([not low <= -0.01 <= high for low, high in ends])
    assert 0.77 < decided < 0.86  # a number that is rounded up to two digits, a skewed count


def test_readings_that_never_differ_decide_on_more_plates():
    wanted = decide(*outcomes(0, 0, 100)).decides
    assert decide(*outcomes(0, 0, 100)).outcome == "too few plates"
    assert decide(*outcomes(0, 0, wanted)).outcome == "within"


def test_a_loss_on_the_tolerance_itself_is_decided_by_no_number():
    found = decide(*outcomes(10, 0, 1000))
    assert (found.outcome, found.decides) == ("too few plates", None)


def test_refuses_what_is_no_tolerance():
    for bad in (-0.1, 100.1, float("nan")):
        with pytest.raises(ParameterError, match="points: name 0 to 100"):
            decide(*outcomes(1, 1, 10), tolerance=bad)
    with pytest.raises(ParameterError, match="not possible"):
        paired_difference(6, 5, 10)
