"""Plates unlike those of a calibration are told by their readings alone."""

from __future__ import annotations

import numpy as np
import pytest

from lprnet_nb.evaluate.calibrations import packaged_signs
from lprnet_nb.evaluate.likeness import APART, FEWEST, signs_of, unlike, unlike_said

BLANK = 67
PLATE = "皖A12345"


def paths(count: int, first: int = 0, last: int = 16) -> np.ndarray:
    """Paths of 18 steps whose text begins and ends at these."""
    path = np.full((count, 18), BLANK)
    path[:, first] = path[:, last] = 3
    return path


def signs(count: int = 100, texts: str = PLATE, sure: float = 0.9, **path: int) -> dict:
    return signs_of(
        [texts] * count, np.full(count, sure), np.full(count, sure), paths(count, **path), BLANK
    )


def test_signs_are_means_over_plates():
    texts = [PLATE, PLATE[:6], "", "京AD12345"]
    path = np.stack([paths(1)[0], paths(1, 2, 15)[0], np.full(18, BLANK), paths(1, 1, 17)[0]])
    found = signs_of(
        texts, np.array([0.9, 0.5, 0.1, 0.9]), np.array([0.8, 0.8, 0, 0.4]), path, BLANK
    )
    assert {name: mean for name, (mean, _) in found.items()} == {
        "confidence": pytest.approx(0.6),
        "province": pytest.approx(0.5),
        "no plate": 0.5,
        "first": 1.0,  # of those that have a text
        "last": 16.0,
    }
    assert found["no plate"][1] == 0.5 and found["first"][1] == pytest.approx(np.std([0, 2, 1]))


def test_nothing_is_read_off_blank_crops_and_it_is_told():
    empty = signs_of([""] * 30, np.zeros(30), np.zeros(30), np.full((30, 18), BLANK), BLANK)
    assert set(unlike(empty, 30, signs(), 100)) == {"confidence", "province", "no plate"}


@pytest.mark.parametrize(
    ("here", "wanted"),
    [
        ({}, {}),
        ({"sure": 0.86}, {}),
        ({"sure": 0.84}, {"confidence": [0.84, 0.9], "province": [0.84, 0.9]}),
        ({"sure": 1.0}, {}),  # more is no ground for a warning
        ({"first": 2}, {"first": [2, 0]}),
        ({"last": 14}, {"last": [14, 16]}),
        ({"last": 15}, {}),
        ({"texts": PLATE[:6]}, {"no plate": [1, 0]}),
    ],
)
def test_what_is_apart_is_named_with_both_means(here, wanted):
    assert unlike(signs(**here), 100, signs(), 100) == wanted


def test_chance_and_few_plates_are_no_sign():
    low, known = signs(FEWEST, sure=0.7), signs()
    assert unlike(low, FEWEST, known, 100) and not unlike(low, FEWEST - 1, known, 100)
    wide = {**low, "confidence": (0.7, 0.4), "province": (0.7, 0.4)}  # 3 errors: 0.27
    assert not unlike(wide, FEWEST, known, 100) and unlike(wide, 100, known, 100)
    readers = {**known, "no plate": (0.5, 0.5)}
    assert not unlike(known, 100, readers, 100)  # fewer readings that are none


def test_the_advice_names_each_sign_and_the_calibration():
    found = unlike(signs(texts="", sure=0.4, first=3, last=9), 100, signs(), 100)
    said = unlike_said(found, 100, "the 1,000 published plates")
    assert said.startswith("These 100 crops are unlike those that the confidence was calibrated on")
    for part in (
        "the 1,000 published plates",
        "mean confidence 0.40, there 0.90",
        "first character 0.40, there 0.90",
        "100% of the readings are no plates, there 0%",
        "begins at time step 3.0, there at 0.0",
        "ends at time step 9.0, there at 16.0",
        "label some and judge them",
    ):
        assert part in said


def test_known_weights_have_signs():
    for weights in ("published", "generated"):
        known, plates, on = packaged_signs(weights)
        assert set(known) == set(APART) and plates == 1000 and "1,000 published plates" in on
        assert not unlike(known, plates, known, plates)
        # A logistic fit's mean is the share of right readings.
        assert known["confidence"][0] == pytest.approx(
            {"published": 0.894, "generated": 0.878}[weights], abs=0.005
        )
    assert packaged_signs("mine") is None
