"""The training notebook's figures draw the values that they are given."""

from __future__ import annotations

import numpy as np
import pytest

from lprnet_nb.datasets.generate import contact_sheet, generate_plates
from lprnet_nb.evaluate.intervals import wilson
from lprnet_nb.figures import training as figures


@pytest.mark.parametrize("draw, scale", [(figures.margins, 100), (figures.severities, 1)])
def test_curves_stand_where_they_were_measured_with_their_intervals(draw, scale):
    curves = {"ours": {0.1: 0.25, -0.1: 0.5}, "theirs": {0.1: 1.0, -0.1: 0.0}}
    axes = draw(curves, 40).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(curves)
    for container, curve in zip(axes.containers, curves.values()):
        line, _, (bars,) = container
        np.testing.assert_allclose(line.get_xdata(), scale * np.array([-0.1, 0.1]))
        np.testing.assert_allclose(line.get_ydata(), [curve[-0.1], curve[0.1]])
        for segment, value in zip(bars.get_segments(), line.get_ydata()):
            np.testing.assert_allclose(segment[:, 1], wilson(round(40 * value), 40), atol=1e-12)


def test_groups_are_named_and_in_order():
    rows = [{"group": "京", "k": 3, "n": 4}, {"group": "沪", "k": 1, "n": 2}]
    axes = figures.by_group(rows).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["京", "沪"]
    assert axes.containers[0][0].get_ydata().tolist() == [0.75, 0.5]


def test_progress_shows_every_report():
    reports = [
        {"step": 10, "loss": 2.0, "exact_match": 0.0},
        {"step": 20, "loss": 0.5, "exact_match": 0.75},
    ]
    left, right = figures.progress(reports).axes
    assert left.lines[0].get_ydata().tolist() == [2.0, 0.5] and left.get_yscale() == "log"
    assert right.lines[0].get_xydata().tolist() == [[10, 0], [20, 0.75]]


def test_sheets_hold_the_sets_pixels():
    plates = generate_plates(3, 0)
    axes = figures.sheets({"three": plates}, columns=3, zoom=1).axes[0]
    assert axes.get_title(loc="left") == "three"
    np.testing.assert_array_equal(
        axes.images[0].get_array(), contact_sheet(plates, 3, 1)[..., ::-1]
    )
