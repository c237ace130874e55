"""Figures that answer to the hand in JupyterLab, and stand still in a report.

Each function leaves a static figure where no front end asks (papermill, HTML) and shows the same
figure under sliders where one does.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from .. import figures
from ..datasets.alphabet import Alphabet
from ..datasets.images import PlateImages
from ..decode.ctc import log_softmax
from ..figures.style import in_each_language
from ..language import phrase, spoken
from ..measure.output import Output
from ..model.weights import Weights
from . import quantize


def is_live() -> bool:
    """Whether a front end with widgets runs this cell: those name the cell in their request."""
    try:
        from IPython import get_ipython

        request = get_ipython().kernel.get_parent("shell")
    except AttributeError:  # no kernel: a script or a test
        return False
    return "cellId" in request.get("metadata", {})


def picture(
    draw: Callable[..., Figure],
    controls: Mapping[str, ipywidgets.Widget],
) -> ipywidgets.VBox:
    """A figure that is drawn again while one of its controls moves.

    What arrives while a picture is drawn is drawn once, at its latest value: a drag never lags.

    Parameters
    ----------
    draw
        Called with the controls' values by name.
    controls
        By the name of the argument.
    """
    image = ipywidgets.Image(format="png")
    waiting: list[asyncio.TimerHandle] = []

    def redraw() -> None:
        waiting.clear()
        shown = io.BytesIO()
        figure = draw(**{name: control.value for name, control in controls.items()})
        figure.savefig(shown, format="png", dpi=100, pil_kwargs={"compress_level": 1})
        image.value = shown.getvalue()

    def moved(_: Any) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no kernel: a script or a test
            redraw()
            return
        if not waiting:
            waiting.append(loop.call_later(0.02, redraw))

    for control in controls.values():
        control.observe(moved, names="value")
    redraw()
    return ipywidgets.VBox([ipywidgets.HBox(list(controls.values())), image])


def _show(
    output: Output,
    name: str,
    caption: str,
    draw: Callable[..., Figure],
    controls: Mapping[str, ipywidgets.Widget],
) -> None:
    if is_live():
        from IPython.display import display

        display(picture(draw, controls))
    else:
        output.figure(
            in_each_language(draw)(**{key: control.value for key, control in controls.items()}),
            name,
            caption,
        )


def threshold(
    output: Output,
    name: str,
    weights: Weights,
    plates: PlateImages,
    layer: int,
    methods: Mapping[str, float],
) -> tuple[float, float, int]:
    """Drag a layer's threshold: what its map keeps, and how plates then read that float reads.

    Parameters
    ----------
    methods
        Thresholds that methods chose, marked beside the one that is dragged.

    Returns
    -------
    tuple
        What `quantize.harmless` says of the plates shown.
    """
    few = quantize.read_right(weights, plates, 8)
    values = quantize.activations(weights, few.images, layer)
    largest = float(values.max())
    low, high, broken = quantize.harmless(weights, few, layer, largest)
    read = quantize.reader_with_threshold(weights, few.images, layer)
    least, most = quantize.RANGE
    limits = least * largest, most * largest

    @cache
    def hand(_: str) -> Callable[..., Figure]:  # its words are of the language spoken
        return figures.threshold_hand(few.images, few.known_labels, values, methods, limits, layer)

    def draw(threshold: float) -> Figure:
        cut = quantize.quantized(values, threshold)
        return hand(spoken())(threshold, cut, read(threshold))

    slider = ipywidgets.FloatLogSlider(
        value=low / 2,
        base=10,
        min=float(np.log10(largest * quantize.RANGE[0])),
        max=float(np.log10(largest * quantize.RANGE[1])),
        step=0.01,
        description="threshold",
        continuous_update=True,
        readout_format=".3g",
        layout={"width": "640px"},
    )
    _show(
        output,
        name,
        phrase(
            "Layer {layer} alone quantized at {threshold:.3g}, half of what all plates still read "
            "right at: its map before and after, and what plates read that float reads right.",
            layer=layer,
            threshold=low / 2,
        ),
        draw,
        {"threshold": slider},
    )
    return low, high, broken


def ctc(
    output: Output,
    name: str,
    plates: PlateImages,
    logits: np.ndarray,
    alphabet: Alphabet,
    paths: Callable[[int], Mapping[str, np.ndarray]],
    start: int = 0,
) -> None:
    """Pick a plate and step through its time steps.

    Parameters
    ----------
    logits
        ``[N, C, T]``.
    paths
        Gives, for the number of a plate, paths (class index by step) by their labels.
    start
        Number of the plate that is shown first.
    """
    log_probs = log_softmax(logits)
    undecided = int(log_probs[start].max(axis=0).argmin())

    def draw(plate: int, step: int) -> Figure:
        return figures.ctc_paths(
            plates.images[plate],
            log_probs[plate],
            alphabet,
            paths(plate),
            highlight=step,
            title=f"{plates.labels[plate] if plates.labels else plates.names[plate]}: "
            + figures.step_text(log_probs[plate][:, step], alphabet, step),
        )

    _show(
        output,
        name,
        phrase(
            "One plate, step by step: class probabilities, the paths of two decoders, and the "
            "candidates of the framed step."
        ),
        draw,
        {
            "plate": ipywidgets.IntSlider(
                value=start,
                min=0,
                max=len(plates) - 1,
                description="plate",
            ),
            "step": ipywidgets.IntSlider(
                value=undecided,
                min=0,
                max=logits.shape[2] - 1,
                description="step",
            ),
        },
    )
