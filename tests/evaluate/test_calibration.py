import numpy as np
import pytest

from lprnet_nb.errors import ParameterError
from lprnet_nb.evaluate import (
    accuracy_coverage,
    cross_fit_temperature,
    ece,
    log_loss,
    reliability,
    wilson,
)


def drawn(images=20000, seed=0):
    """Confidences that are true: right with just that probability."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(5, 1, images)
    return confidence, rng.random(images) < confidence


def test_reliability_by_hand():
    result = reliability([0.95, 0.92, 0.15, 1.0], [True, False, False, True], bins=10)
    assert result.low == pytest.approx([0.1, 0.9])
    assert result.high == pytest.approx([0.2, 1.0])
    assert result.count.tolist() == [1, 3]
    assert result.confidence == pytest.approx([0.15, (0.95 + 0.92 + 1) / 3])
    assert result.accuracy == pytest.approx([0, 2 / 3])
    assert result.ci95[1] == pytest.approx(wilson(2, 3))
    assert result.ece == pytest.approx((0.15 + abs(2.87 - 2)) / 4)


@pytest.mark.parametrize("equal_counts", [False, True])
def test_true_confidences_are_calibrated_and_inflated_ones_are_not(equal_counts):
    confidence, correct = drawn()
    assert ece(confidence, correct, equal_counts=equal_counts) < 0.012
    inflated = 1 - (1 - confidence) / 3
    assert ece(inflated, correct, equal_counts=equal_counts) == pytest.approx(
        inflated.mean() - correct.mean(), abs=0.01
    )


def test_bins_of_equal_counts():
    confidence, correct = drawn(1000)
    assert reliability(confidence, correct, bins=5, equal_counts=True).count.tolist() == [200] * 5
    assert reliability([0.5] * 4, [True] * 4, equal_counts=True).count.tolist() == [4]


def test_log_loss_by_hand():
    assert log_loss([0.8, 0.4], [True, False]) == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)
    assert np.isfinite(log_loss([1.0], [False]))


def test_coverage_by_hand():
    curve = accuracy_coverage([0.9, 0.5, 0.8, 0.5], [True, False, True, True])
    # The two of 0.5 come together.
    assert curve.coverage == pytest.approx([0.25, 0.5, 1])
    assert curve.accuracy == pytest.approx([1, 1, 0.75])
    assert curve.threshold == pytest.approx([0.9, 0.8, 0.5])
    assert curve.area == pytest.approx(0.25 * 1 + 0.25 * 1 + 0.5 * 0.75)
    assert (curve.at(0.5), curve.at(0.51), curve.at(1)) == (1, 0.75, 0.75)


def test_coverage_does_not_depend_on_the_order_of_images():
    confidence, correct = drawn(200)
    confidence = confidence.round(1)
    mixed = np.random.default_rng(1).permutation(200)
    a = accuracy_coverage(confidence, correct)
    b = accuracy_coverage(confidence[mixed], correct[mixed])
    assert np.array_equal(a.accuracy, b.accuracy)
    assert a.accuracy[-1] == correct.mean()


def test_cross_fit_finds_the_true_temperature():
    confidence, correct = drawn(5000)
    logit = np.log(confidence / (1 - confidence))
    sharp = 1 / (1 + np.exp(-4 * logit))  # four times too sure
    table = [1 / (1 + np.exp(-4 * logit / t)) for t in [1, 2, 4, 8]]
    fit = cross_fit_temperature([1, 2, 4, 8], np.array(table), np.array([correct] * 4))
    assert fit.temperature.tolist() == [4] * 5
    assert np.allclose(fit.confidence, confidence)
    assert ece(fit.confidence, fit.correct) < 0.02 < ece(sharp, correct)
    assert np.bincount(fit.fold).tolist() == [1000] * 5


def test_cross_fit_does_not_look_at_the_image_itself():
    # One outlier would change its own fold's choice; it may only change the other folds'.
    confidence = np.array([[0.9] * 10, [0.6] * 10])
    correct = np.array([[True] * 10] * 2)
    base = cross_fit_temperature([1, 2], confidence, correct, folds=10)
    wrong = correct.copy()
    wrong[:, 3] = False
    confidence[0, 3] = 1.0
    changed = cross_fit_temperature([1, 2], confidence, wrong, folds=10)
    own = base.fold[3]
    assert changed.temperature[own] == base.temperature[own] == 1
    assert (np.delete(changed.temperature, own) == 2).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: ece([0.5], [True, False]),
        lambda: ece([], []),
        lambda: ece([1.2], [True]),
        lambda: reliability([0.5], [True], bins=0),
        lambda: accuracy_coverage([0.5], [True]).at(0),
        lambda: cross_fit_temperature([1], np.ones((2, 4)), np.ones((2, 4))),
        lambda: cross_fit_temperature([1], np.ones((1, 4)), np.ones((1, 4)), folds=5),
    ],
)
def test_impossible_parameters_are_refused(call):
    with pytest.raises(ParameterError):
        call()
