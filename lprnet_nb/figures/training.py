"""Figures of the training notebook, in the style of `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..datasets.images import PlateImages
from ..evaluate.intervals import wilson
from ..language import phrase
from .style import SERIES, WIDTH, blank, in_each_language

TOP = 1.02  # of axes of shares: a marker at 1 is seen whole


@in_each_language
def sheets(sets: Mapping[str, PlateImages], columns: int = 6, zoom: int = 3) -> Figure:
    """Contact sheets of several sets, one below the other, titled by their names."""
    from ..datasets.generate import contact_sheet

    drawn = {name: contact_sheet(plates, columns, zoom) for name, plates in sets.items()}
    heights = [WIDTH * sheet.shape[0] / sheet.shape[1] for sheet in drawn.values()]
    figure = blank(WIDTH, sum(heights) + 0.3 * len(drawn))
    rows = figure.subplots(len(drawn), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, sheet) in zip(rows, drawn.items()):
        axes.imshow(sheet[..., ::-1])
        axes.set_title(name, loc="left")
        axes.set_axis_off()
    return figure


@in_each_language
def progress(reports: Sequence[Mapping]) -> Figure:
    """Loss (log scale) and held-out exact match by training step."""
    figure = blank(WIDTH, 2.6)
    left, right = figure.subplots(1, 2)
    steps = [report["step"] for report in reports]
    left.plot(steps, [report["loss"] for report in reports], color=SERIES[0]["color"], marker="o")
    left.set(xlabel=phrase("step"), ylabel=phrase("CTC loss a character"), yscale="log")
    right.plot(
        steps, [report["exact_match"] for report in reports], color=SERIES[1]["color"], marker="s"
    )
    right.set(xlabel=phrase("step"), ylabel=phrase("exact match, held-out plates"), ylim=(0, TOP))
    return figure


@in_each_language
def margins(curves: Mapping[str, Mapping[float, float]], count: int) -> Figure:
    """Exact match by added margin, one line a set of weights, Wilson intervals at 95 %."""
    percent = {
        name: {100 * margin: share for margin, share in curve.items()}
        for name, curve in curves.items()
    }
    return _curves(percent, count, phrase("margin added on each side, % of the crop's side"))


@in_each_language
def severities(curves: Mapping[str, Mapping[float, float]], count: int) -> Figure:
    """Exact match by severity of the pictures, one line a set, Wilson intervals at 95 %."""
    return _curves(
        curves, count, phrase("severity of view and image; 1 is the generator's default"), 0.5
    )


def _curves(
    curves: Mapping[str, Mapping[float, float]], count: int, label: str, bottom: float = 0
) -> Figure:
    figure = blank(WIDTH, 3.2)
    axes: Axes = figure.subplots()
    for style, (name, curve) in zip(SERIES, curves.items()):
        x, y = np.array(sorted(curve)), np.array([curve[place] for place in sorted(curve)])
        low, high = np.array([wilson(round(v * count), count) for v in y]).T
        axes.errorbar(
            x,
            y,
            np.clip([y - low, high - y], 0, None),
            label=name,
            capsize=2,
            color=style["color"],
            marker=style["marker"],
            linestyle=style["linestyle"],
        )
    lowest = min(min(curve.values()) for curve in curves.values())
    axes.set(xlabel=label, ylabel=phrase("exact match"), ylim=(min(bottom, lowest), TOP))
    axes.legend()
    return figure


@in_each_language
def by_group(rows: Sequence[Mapping]) -> Figure:
    """Exact match of groups ``{group, k, n}``, Wilson intervals at 95 %."""
    figure = blank(WIDTH, 2.6)
    axes: Axes = figure.subplots()
    values = np.array([row["k"] / row["n"] for row in rows])
    low, high = np.array([wilson(row["k"], row["n"]) for row in rows]).T
    axes.errorbar(
        range(len(rows)),
        values,
        np.clip([values - low, high - values], 0, None),
        fmt="o",
        color=SERIES[0]["color"],
        capsize=2,
    )
    axes.set_xticks(range(len(rows)), [row["group"] for row in rows])
    axes.set(ylabel=phrase("exact match"), ylim=(0, TOP))
    return figure
