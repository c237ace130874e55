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


def test_around_ccpds_plates_the_scene_is_taken_in(tmp_path, capsys):
    """Scenes of a red street, in which each plate stands: repeated edges would show no red."""
    for index, plate in enumerate(generate_plates(6, seed=5, forms=("blue",)).images):
        street = np.zeros((200, 300, 3), np.uint8)
        street[..., 2] = 255
        street[80:128, 60:248] = cv2.resize(plate, (188, 48))
        name = f"01-90_90-60&80_248&128-247&127_60&127_60&80_247&80-0_0_22_27_27_33_{index}-37-15"
        cv2.imencode(".png", street)[1].tofile(tmp_path / f"{name}.png")
    plain, wide = (data_of(tmp_path, margin) for margin in ("none", "10/20"))
    around = wide.plates.images[:, [0, -1]].reshape(-1, 3)
    assert (around == (0, 0, 255)).all() and wide.plates.name.endswith(", margin 10/20")
    assert wide.plates.labels == plain.plates.labels and wide.judged.labels is None
    assert (wide.calibration_images(6)[:, 0] == (0, 0, 255)).all()
    middle = wide.plates.images[:, 4:20, 9:85].astype(int)
    again = np.stack([cv2.resize(i, (76, 16)) for i in plain.plates.images]).astype(int)
    assert np.abs(middle - again).mean() < 25  # the plate, smaller
    chosen = data_of(tmp_path, "auto")
    red = [m for m in CANDIDATES if m.x > 0]
    assert set(chosen.choice.confidence) >= set(red) and chosen.choice.plates == 6


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
