import numpy as np
import pytest

from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.datasets.margins import NONE, Margin, parse_margin, said_margin, widen, with_margin
from lprnet_nb.errors import ParameterError


def bar() -> np.ndarray:
    """A white cross on black: 14 columns and 8 rows wide."""
    image = np.zeros((1, 24, 94, 3), np.uint8)
    image[:, :, 40:54] = 255
    return image


def test_a_margin_moves_the_edges():
    image = bar()
    assert widen(image, NONE) is image
    assert (widen(image, Margin(0.5, 0.5))[0, 12, :, 0] > 127).sum() in (7, 8)
    assert (widen(image, Margin(-0.25, -0.25))[0, 12, :, 0] > 127).sum() == 28
    lines = np.ascontiguousarray(np.zeros((1, 24, 94, 3), np.uint8))
    lines[:, 8:16] = 255
    assert (widen(lines, Margin(0.0, 0.5))[0, :, 47, 0] > 127).sum() == 4  # the height alone
    assert (widen(lines, Margin(0.5, 0.0)) == lines).all()


def test_what_a_margin_adds_is_the_edge():
    image = np.random.default_rng(0).integers(0, 256, (1, 24, 94, 3), dtype=np.uint8)
    wide = widen(image, Margin(0.25, 0.0))[0]
    assert (wide[:, :16] == image[0, :, :1]).all() and (wide[:, -16:] == image[0, :, -1:]).all()


def test_a_set_says_its_margin():
    plates = PlateImages("bar", bar(), ("bar.png",), ("京A12345",))
    found = with_margin(plates, Margin(0.075, 0.15))
    assert found.name == "bar, margin 7.5/15" and found.labels == plates.labels
    assert found.digest != plates.digest and with_margin(plates, NONE) is plates


@pytest.mark.parametrize(
    "text", ["", "wide", "10", "5/", "-50/0", "0/101", "nan/1", "inf/0", "5/5/5", "1e1/2"]
)
def test_a_margin_that_is_none_is_refused(text):
    with pytest.raises(ParameterError, match="Choose auto, none, or X/Y"):
        parse_margin(text)


def test_where_nothing_can_be_chosen_auto_is_refused():
    assert said_margin("5/10") == Margin(0.05, 0.1) and said_margin("none") == NONE
    with pytest.raises(ParameterError, match="'auto' is for a folder of crops"):
        said_margin("auto")


def test_impossible_margins_are_refused_where_they_are_used():
    for margin in (Margin(-0.5, 0.0), Margin(0.0, 1.01)):
        with pytest.raises(ParameterError, match="not possible"):
            widen(bar(), margin)


def test_margins_are_read_as_people_write_them():
    assert parse_margin(" 5% / 10 % ") == Margin(0.05, 0.1)
    assert parse_margin("-2.5/+3") == Margin(-0.025, 0.03)
    assert parse_margin("AUTO") is None and parse_margin("None") == NONE
