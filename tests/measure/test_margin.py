"""The margin of a run reaches every crop, judged or calibrated on, and is said."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.datasets.margins import CANDIDATES, Margin, widen
from lprnet_nb.errors import ParameterError
from lprnet_nb.measure.data import datasets_for
from lprnet_nb.measure.parameters import check


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Fifty generated plates, cut to their paint, named by their text."""
    place = tmp_path_factory.mktemp("tight")
    plates = generate_plates(50, seed=5)
    for text, image in zip(plates.labels, widen(plates.images, Margin(-0.06, -0.12))):
        cv2.imencode(".png", image)[1].tofile(place / f"{text}.png")
    return place


def data_of(folder, margin: str, **more):
    return datasets_for(check(DATA=str(folder), WEIGHTS="generated", MARGIN=margin, **more))


def test_judged_and_calibrated_on_alike(folder):
    plain, wide = (data_of(folder, margin, IMAGES=20) for margin in ("none", "5/10"))
    given = Margin(0.05, 0.1)
    assert np.array_equal(wide.plates.images, widen(plain.plates.images, given))
    assert not np.array_equal(wide.plates.images, plain.plates.images)
    assert np.array_equal(wide.calibration_images(9), widen(plain.calibration_images(9), given))
    assert wide.plates.name == f"{plain.plates.name}, margin 5/10"
    assert wide.plates.labels == plain.plates.labels
    assert wide.description()["margin"] == "5/10" and "margin" not in plain.description()


def test_auto_asks_the_float_network(folder, capsys):
    data = data_of(folder, "auto", IMAGES=0)
    assert data.choice is not None and set(data.choice.confidence) == set(CANDIDATES)
    assert data.margin == data.choice.margin and data.margin.y > 0
    assert data.description()["margin"] == str(data.margin)
    assert data.choice.said() in capsys.readouterr().err
    assert data.choice.plates == 50 == len(data.plates)


def test_the_published_plates_stay_as_they_are(published, monkeypatch):
    for margin in ("auto", "5/10"):
        with pytest.raises(ParameterError, match="published ones are judged as they are"):
            datasets_for(check(DATA="published", MARGIN=margin))


def test_what_is_no_margin_is_refused_before_anything():
    with pytest.raises(ParameterError, match="Choose auto, none, or X/Y"):
        check(MARGIN="10")
    assert check(MARGIN="7.50/15").margin == "7.5/15" and check(MARGIN="0/0").margin == "none"
