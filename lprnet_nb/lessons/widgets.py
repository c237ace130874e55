"""Figures that answer to the hand in JupyterLab, and stand still in a report.

Each function leaves a static figure where no front end asks (papermill, HTML) and shows the same
figure under sliders where one does.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from .. import figures
from ..datasets.alphabet import Alphabet
from ..datasets.images import PlateImages
from ..decode.ctc import log_softmax
from ..figures.style import WIDTH
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
    """A figure that is drawn again whenever one of its controls moves.

    Parameters
    ----------
    draw
        Called with the controls' values by name.
    controls
        By the name of the argument.
    """
    image = ipywidgets.Image(format="png")

    def redraw(_: Any = None) -> None:
        shown = io.BytesIO()
        figure = draw(**{name: control.value for name, control in controls.items()})
        figure.savefig(shown, format="png", dpi=110)
        image.value = shown.getvalue()

    for control in controls.values():
        control.observe(redraw, names="value")
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
            draw(**{key: control.value for key, control in controls.items()}), name, caption
        )


def threshold(
    output: Output,
    name: str,
    weights: Weights,
    plates: PlateImages,
    layer: int,
    methods: Mapping[str, float],
) -> None:
    """Drag a layer's threshold: saturation, resolution, and what eight plates then read.

    Parameters
    ----------
    methods
        Thresholds that methods chose, to compare with; the slider starts at the first.
    """
    few = plates.take(slice(8))
    values = quantize.activations(weights, few.images, layer)
    labels = few.labels or ("",) * len(few)
    start = next(iter(methods.values()))

    def draw(threshold: float) -> Figure:
        chosen = {"chosen": threshold, **methods}
        texts = quantize.read_with_threshold(weights, few.images, layer, threshold)
        figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.35, 1))
        left, right = top.subplots(1, 2, width_ratios=(1.5, 1))
        figures.draw_histogram(left, values, chosen)
        figures.draw_noise(right, values, chosen, quantize.LEVELS)
        left.set_title(f"layer {layer} of {len(few)} plates")
        figures.draw_readings(bottom.subplots(2, 4), few.images, labels, texts)
        return figure

    slider = ipywidgets.FloatLogSlider(
        value=start / 4,
        base=10,
        min=float(np.log10(values.max() / 200)),
        max=float(np.log10(values.max() * 1.1)),
        step=0.02,
        description="threshold",
        continuous_update=False,
        readout_format=".3g",
    )
    _show(
        output,
        name,
        f"Layer {layer} alone quantized at a quarter of the first method's "
        "threshold: what saturates, what is rounded, and what eight plates then read.",
        draw,
        {"threshold": slider},
    )


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
        "One plate, step by step: class probabilities, the paths of two decoders, "
        "and the candidates of the framed step.",
        draw,
        {
            "plate": ipywidgets.IntSlider(
                value=start,
                min=0,
                max=len(plates) - 1,
                description="plate",
                continuous_update=False,
            ),
            "step": ipywidgets.IntSlider(
                value=undecided,
                min=0,
                max=logits.shape[2] - 1,
                description="step",
                continuous_update=False,
            ),
        },
    )
