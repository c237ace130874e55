import json
from pathlib import Path

import numpy as np
import pytest

from lprnet_nb.decode import DECODERS
from lprnet_nb.errors import ParameterError
from lprnet_nb.evaluate import (
    accuracy_coverage,
    calibrations,
    log_loss,
    reliability,
    wilson,
)
from lprnet_nb.evaluate.calibration import Calibration, fit_calibration
from lprnet_nb.evaluate.calibrations import FILE, packaged_calibration
from lprnet_nb.places import repository


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
    assert reliability(confidence, correct, equal_counts=equal_counts).ece < 0.012
    inflated = 1 - (1 - confidence) / 3
    assert reliability(inflated, correct, equal_counts=equal_counts).ece == pytest.approx(
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


def test_a_calibration_is_found_again():
    confidence, right = drawn()
    odds = np.log(confidence / (1 - confidence))
    inflated = 1 / (1 + np.exp(-(0.5 + 2 * odds)))  # sure of itself more than it is right
    found = fit_calibration(inflated, right, "drawn plates")
    assert (found.intercept, found.slope) == pytest.approx((-0.25, 0.5), abs=0.05)
    assert found.on == "drawn plates"
    assert reliability(inflated, right).ece > 0.02 > reliability(found.apply(inflated), right).ece
    ordered = found.apply(np.sort(inflated))
    assert (np.diff(ordered) >= 0).all() and found.apply([0.0, 1.0]).max() < 1


def test_a_calibration_that_says_the_opposite_is_not_made():
    assert fit_calibration([0.9, 0.9, 0.2, 0.2], [False, False, True, True], "four").slope > 0
    assert Calibration(0, 1, "").apply([0.3]) == pytest.approx([0.3])


def test_packaged_calibrations_are_of_the_known_weights_and_decoders():
    for weights in ("published", "generated"):
        for decoder in (*DECODERS, "plate, 3 views"):
            if decoder == "plate-new-energy":  # of which the published plates have none
                continue
            found = packaged_calibration(weights, decoder)
            assert found is not None and found.slope > 0 and "1,000 published plates" in found.on
    assert packaged_calibration("published", "plate-new-energy") is None
    assert packaged_calibration("mine", "greedy") is None
    assert packaged_calibration("published", "my-grammar") is None


def test_the_page_has_what_was_measured():
    page = (repository() / "docs" / "decoding.md").read_text("utf8")
    for row in json.loads((Path(calibrations.__file__).parent / FILE).read_text("utf8")):
        assert row["ece_calibrated"] < row["ece"]
        if row["decoder"] in ("greedy", "plate", "plate, 3 views"):
            line = f"| {row['weights']} | `{row['decoder']}` | {row['ece']:.3f} | "
            assert line + f"{row['ece_calibrated']:.3f} |" in page


@pytest.mark.parametrize(
    "call",
    [
        lambda: reliability([0.5], [True, False]).ece,
        lambda: reliability([], []).ece,
        lambda: reliability([1.2], [True]).ece,
        lambda: reliability([0.5], [True], bins=0),
        lambda: accuracy_coverage([0.5], [True]).at(0),
        lambda: fit_calibration([0.5, 0.6], [True, True], "two"),
        lambda: fit_calibration([0.5, 0.6], [False, False], "two"),
    ],
)
def test_impossible_parameters_are_refused(call):
    with pytest.raises(ParameterError):
        call()
