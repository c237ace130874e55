"""Widgets: still pictures where nobody asks, redrawn when a control moves."""

from __future__ import annotations

import json

import ipywidgets
import numpy as np
import pytest
from matplotlib.figure import Figure

from lprnet_nb.datasets.alphabet import PUBLISHED
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


def test_a_still_threshold(published, weights, tmp_path) -> None:
    widgets.threshold(
        Output(tmp_path), "drag", weights, published.take(slice(2)), 13, {"kl": 200.0}
    )
    assert (
        "layer 13".lower()
        in json.loads((tmp_path / "figures" / "drag.json").read_text("utf8"))["caption"].lower()
    )


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
    exact = quantize.read_with_threshold(weights, few.images, 13, 400.0)
    assert exact == list(few.labels)
    assert quantize.read_with_threshold(weights, few.images, 13, 0.5) != exact
    with pytest.raises(ParameterError, match="layer 12 .* Choose from 2, 6, 10"):
        quantize.activations(weights, few.images, 12)
    with pytest.raises(ParameterError, match="positive"):
        quantize.read_with_threshold(weights, few.images, 13, 0.0)
