"""Widgets: still pictures where nobody asks, redrawn when a control moves."""

from __future__ import annotations

import asyncio
import json

import ipywidgets
import numpy as np
import pytest
from matplotlib.figure import Figure

from lprnet_nb.datasets.alphabet import PUBLISHED
from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.errors import ParameterError
from lprnet_nb.lessons import quantize, widgets
from lprnet_nb.measure.output import Output


def test_a_picture_follows_its_control() -> None:
    seen = []

    def draw(level: int) -> Figure:
        seen.append(level)
        figure = Figure(figsize=(1, 1))
        figure.subplots().plot([0, level])
        return figure

    slider = ipywidgets.IntSlider(value=1, min=0, max=9)
    image = widgets.picture(draw, {"level": slider}).children[-1]
    before = image.value
    slider.value = 7
    assert seen == [1, 7]
    assert image.value[:4] == b"\x89PNG" and image.value != before


def test_no_front_end_asks_here() -> None:
    assert not widgets.is_live()


def test_a_picture_is_drawn_once_for_what_arrived_meanwhile() -> None:
    seen = []

    async def drag() -> None:
        slider = ipywidgets.IntSlider(value=0, min=0, max=9)
        widgets.picture(
            lambda level: seen.append(level) or Figure(figsize=(1, 1)), {"level": slider}
        )
        for level in range(1, 8):
            slider.value = level
        await asyncio.sleep(0.2)
        slider.value = 9
        await asyncio.sleep(0.2)

    asyncio.run(drag())
    assert seen == [0, 7, 9]


@pytest.fixture(scope="module")
def in_hand(published, weights):
    """Layer 13's slider: the plates it shows, its figure's function, and what was returned."""
    found = {}
    shown, widgets._show = widgets._show, lambda *given: found.update(draw=given[3], on=given[4])
    try:
        borne = widgets.threshold(
            Output(None), "drag", weights, published.take(slice(40)), 13, {"kl": 200.0}
        )
    finally:
        widgets._show = shown
    return found["draw"], found["on"]["threshold"], borne


def read_right(figure: Figure) -> int:
    return sum("✓" in axes.get_xlabel() for axes in figure.axes)


def test_the_slider_shows_its_claim(in_hand) -> None:
    draw, slider, (low, high, broken) = in_hand
    largest = 10**slider.max / quantize.RANGE[1]
    assert 10**slider.min < largest / 100 and low <= largest <= high * 1.001
    assert read_right(draw(largest)) == 8 == read_right(draw(low)) == read_right(draw(high))
    assert read_right(draw(low / 2)) == 8 - broken < 8
    assert read_right(draw(10**slider.min)) == 0
    assert read_right(draw(10**slider.max)) < 8  # ten times the largest value hurts as well


def test_the_slider_changes_its_map_and_keeps_its_axes(in_hand) -> None:
    draw, slider, _ = in_hand
    largest = 10**slider.max / quantize.RANGE[1]
    before = [(axes.get_xlim(), axes.get_ylim()) for axes in draw(largest).axes]
    wide, narrow = (
        [
            axes.images[0].get_array().copy()
            for axes in draw(t).axes
            if "INT8" in axes.get_title(loc="left")
        ]
        for t in (largest, largest / 50)
    )
    after = [(axes.get_xlim(), axes.get_ylim()) for axes in draw(largest / 50).axes]
    assert after == before
    assert len(wide) == 2 and narrow[0].max() == pytest.approx(largest / 50)
    assert not np.array_equal(wide[1], narrow[1])


def test_a_still_threshold(published, weights, tmp_path) -> None:
    widgets.threshold(
        Output(tmp_path), "drag", weights, published.take(slice(9)), 13, {"kl": 200.0}
    )
    caption = json.loads((tmp_path / "figures" / "drag.json").read_text("utf8"))["caption"]
    assert "layer 13" in caption.lower()


def test_still_steps(published, tmp_path) -> None:
    plates = published.take(slice(2))
    logits = np.random.default_rng(0).normal(size=(2, 68, 18)).astype(np.float32)
    widgets.ctc(
        Output(tmp_path),
        "steps",
        plates,
        logits,
        PUBLISHED,
        lambda k: {"greedy": logits[k].argmax(0)},
    )
    assert list((tmp_path / "figures").glob("steps.*g"))


def test_one_quantized_layer(published, weights) -> None:
    few = published.take(slice(4))
    read = quantize.reader_with_threshold(weights, few.images, 13)
    assert read(400.0) == list(few.labels)
    assert read(0.5) != read(400.0)
    with pytest.raises(ParameterError, match=r"layer 12 .* Choose from 2, 6, 10"):
        quantize.activations(weights, few.images, 12)
    with pytest.raises(ParameterError, match="positive"):
        read(0.0)


def test_only_plates_that_float_reads_are_shown(published, weights) -> None:
    few = published.take(slice(8))
    other = ("京A00000", *few.labels[1:3], "京A00000", *few.labels[4:])
    asked = PlateImages(few.name, few.images, few.names, other)
    read = quantize.read_images(weights, few.images)
    right = [name for name, a, b in zip(few.names, other, read) if a == b]
    assert list(quantize.read_right(weights, asked, 3).names) == right[:3]
    assert few.names[0] not in right and few.names[3] not in right and len(right) > 3


def test_quantized_values() -> None:
    values = np.array([0, 0.4, 1.6, 255, 300], np.float32)
    assert quantize.quantized(values, 255).tolist() == [0, 0, 2, 255, 255]
    assert quantize.quantized(values, 25.5)[:3] == pytest.approx([0, 0.4, 1.6], abs=1e-6)
