"""Figures of notebook 03: activations, thresholds, and where INT8 loses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..language import phrase
from .style import (
    BLACK,
    BLUE,
    GREY,
    PALE,
    SERIES,
    SKY,
    VERMILLION,
    WIDTH,
    _bare,
    _figure,
    _rgb,
    blank,
    in_each_language,
)


@in_each_language
def histogram(
    values: np.ndarray,
    thresholds: Mapping[str, float],
    *,
    title: str,
    levels: int = 255,
    channels: str = "",
) -> Figure:
    """Histogram of a layer's activations with thresholds over it, and what each costs.

    Parameters
    ----------
    values
        Activations, any shape.
    thresholds
        By the name of the method that chose them.
    levels
        Integer steps from 0 to the threshold (255 for uint8, 127 for int8).
    """
    figure, [[left, right]] = _figure(2.7, 1, 2, width_ratios=(1.5, 1))
    draw_histogram(left, values, thresholds)
    left.set_title(title)
    draw_noise(right, values, thresholds, levels)
    return figure


def draw_histogram(axes: Axes, values: np.ndarray, thresholds: Mapping[str, float]) -> None:
    """Magnitudes of activations on a logarithmic count axis, thresholds as marked lines."""
    flat = np.abs(np.asarray(values, np.float64)).ravel()
    top = max(flat.max(), *thresholds.values()) * 1.03 or 1.0
    axes.hist(flat, bins=120, range=(0, top), color=PALE, edgecolor=GREY, linewidth=0.2, log=True)
    for (name, threshold), style in zip(thresholds.items(), SERIES):
        beyond = (flat > threshold).mean()
        axes.axvline(threshold, color=style["color"], linestyle=style["linestyle"])
        axes.plot(
            threshold,
            0.97,
            style["marker"],
            color=style["color"],
            clip_on=False,
            transform=axes.get_xaxis_transform(),
            linestyle="none",
            label=phrase(
                "{name} {threshold:.4g}: {share:.2g} % saturate",
                name=name,
                threshold=threshold,
                share=100 * beyond,
            ),
        )
    axes.set(xlabel=phrase("activation (absolute value)"), ylabel=phrase("count"), xlim=(0, top))
    axes.legend(
        loc="upper right",
        bbox_to_anchor=(1, 0.97),
        handletextpad=0.3,
        fontsize=7.5,
        frameon=True,
        facecolor="white",
        framealpha=0.85,
        edgecolor="none",
    )


def quantization_noise(
    values: np.ndarray, thresholds: np.ndarray, levels: int = 255
) -> tuple[np.ndarray, np.ndarray]:
    """Mean square error of saturation (饱和) and of rounding, for each threshold.

    Parameters
    ----------
    values
        Activations, any shape; magnitudes count.
    thresholds
        ``[K]``, positive.
    levels
        Integer steps from 0 to the threshold.

    Returns
    -------
    tuple
        float64 ``[K]`` each. Rounding is measured, not the ``step^2 / 12`` of theory: values that
        are exactly 0 lose nothing.
    """
    flat = np.abs(np.asarray(values, np.float64)).ravel()
    saturation, rounding = np.empty(len(thresholds)), np.empty(len(thresholds))
    for index, threshold in enumerate(thresholds):
        step = threshold / levels
        inside = np.minimum(flat, threshold)
        saturation[index] = ((flat - inside) ** 2).mean()
        rounding[index] = ((np.rint(inside / step) * step - inside) ** 2).mean()
    return saturation, rounding


def draw_noise(
    axes: Axes, values: np.ndarray, thresholds: Mapping[str, float], levels: int
) -> None:
    """Saturation against resolution: their noise over the threshold, and where methods stand."""
    flat = np.abs(np.asarray(values, np.float64)).ravel()
    if len(flat) > 200_000:
        flat = flat[:: len(flat) // 200_000 + 1]
    top = max(flat.max(), *thresholds.values()) or 1.0
    grid = np.geomspace(top / 12, top * 1.05, 60)
    saturation, rounding = quantization_noise(flat, grid, levels)
    axes.plot(grid, rounding, color=BLUE, linestyle="--", label=phrase("rounding (resolution)"))
    axes.plot(
        grid,
        np.where(saturation > 0, saturation, np.nan),
        color=VERMILLION,
        linestyle=":",
        label=phrase("saturation"),
    )
    axes.plot(grid, saturation + rounding, color=BLACK, label=phrase("both"))
    total = np.add(*quantization_noise(flat, np.array(list(thresholds.values())), levels))
    for threshold, noise, style in zip(thresholds.values(), total, SERIES):
        axes.plot(threshold, noise, style["marker"], color=style["color"], markersize=6, zorder=5)
    both = saturation + rounding
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=phrase("threshold"),
        ylabel=phrase("mean square error"),
        ylim=(both.min() / 30, both.max() * 2),
    )
    axes.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.legend(loc="lower left", fontsize=7)


def threshold_hand(
    images: np.ndarray,
    labels: Sequence[str],
    values: np.ndarray,
    methods: Mapping[str, float],
    limits: tuple[float, float],
    layer: int,
    levels: int = 255,
) -> Callable[[float, np.ndarray, Sequence[str]], Figure]:
    """A threshold in the hand: the values it cuts, a map before and after, and what is read.

    The axes stay as they are, and only what changes is set anew, so that it can be dragged.

    Parameters
    ----------
    images, labels
        uint8 BGR ``[N, 24, 94, 3]``, up to eight, and what float reads of them.
    values
        The layer's output in float, ``[N, C, H, W]``, from 0 on.
    methods
        Thresholds that methods chose.
    limits
        The smallest and the largest threshold there will be.

    Returns
    -------
    callable
        Takes a threshold, the values quantized at it, and the readings; gives the figure.
    """
    figure = blank(WIDTH, 4.9, layout=None)
    places = figure.add_gridspec(
        2, 2, left=0.075, right=0.985, top=0.945, bottom=0.52, hspace=0.5, wspace=0.16
    )
    left, right = figure.add_subplot(places[:, 0]), places[:, 1].subgridspec(2, 2, hspace=0.45)
    reading = figure.add_gridspec(2, 4, left=0.02, right=0.98, top=0.335, bottom=0.07, hspace=1.1)
    positive = values[values > 0].astype(np.float64)
    grid = np.geomspace(*limits, 80)
    counts, _ = np.histogram(positive, grid)
    left.stairs(counts, grid, fill=True, color=PALE, edgecolor=GREY, linewidth=0.4)
    left.set(
        xscale="log",
        yscale="log",
        xlim=limits,
        ylim=(0.7, None),
        ylabel=phrase("count"),
        xlabel=phrase("activation, threshold"),
    )
    left.minorticks_off()  # they take a third of the time that a redraw has
    left.set_title(phrase("layer {layer} of {count} plates", layer=layer, count=len(images)))
    for (name, threshold), style in zip(methods.items(), SERIES[1:]):
        left.axvline(threshold, color=style["color"], linestyle=style["linestyle"], label=name)
    step = left.axvspan(limits[0], limits[0], color=SKY, alpha=0.3, label=phrase("rounded to 0"))
    line = left.axvline(
        limits[0], color=SERIES[0]["color"], linewidth=2, label=phrase("in the hand")
    )
    left.legend(
        loc="upper left",
        bbox_to_anchor=(-0.05, -0.2),
        ncols=5,
        fontsize=6.5,
        columnspacing=0.8,
        handlelength=1.4,
    )
    changing = []
    for row, (channel, title) in enumerate(_two_channels(values)):
        for column, word in enumerate((phrase("float"), "INT8")):
            axes = figure.add_subplot(right[row, column])
            _bare(axes)
            axes.set_title(f"{title}, {word}", fontsize=8)
            shown = axes.imshow(
                values[0, channel], cmap="Greys", vmin=0, vmax=values[0, channel].max() or 1
            )
            if column:
                changing.append((channel, shown))
    spots = [figure.add_subplot(reading[k // 4, k % 4]) for k in range(len(images))]
    texts = []
    for spot, image, label in zip(spots, images, labels):
        _bare(spot)
        spot.imshow(_rgb(image), interpolation="lanczos")
        spot.set_title(
            phrase("float: {text}", text=label), fontsize=7.5, weight="normal", loc="center", pad=2
        )
        texts.append(spot.set_xlabel(" ", labelpad=2))
    count = figure.text(0.53, 0.4, "", fontsize=8, linespacing=1.4)

    def update(threshold: float, quantized: np.ndarray, readings: Sequence[str]) -> Figure:
        line.set_xdata([threshold] * 2)
        step.set_width(max(threshold / levels / 2, limits[0]) - limits[0])
        for channel, shown in changing:
            shown.set_data(quantized[0, channel])
        for text, label, found in zip(texts, labels, readings):
            good = found == label
            text.set(
                text=f"INT8: {found or phrase('(nothing)')} {'✓' if good else '✗'}",
                color=BLACK if good else VERMILLION,
                weight="normal" if good else "bold",
            )
        right = sum(a == b for a, b in zip(labels, readings))
        count.set_text(
            phrase(
                "threshold {threshold:.3g}: {right} of {count} read right\n"
                "{above:.2g} % of the values above 0 saturate, {zero:.2g} % become 0",
                threshold=threshold,
                right=right,
                count=len(labels),
                above=100 * (positive > threshold).mean(),
                zero=100 * (positive < threshold / levels / 2).mean(),
            )
        )
        return figure

    return update


def _two_channels(values: np.ndarray) -> list[tuple[int, str]]:
    """Of the first image's map: the widest channel, and the middle one of those that show much."""
    tops = values[0].max(axis=(1, 2))
    order = np.argsort(-tops)
    active = order[: max(1, int((tops > tops.max() / 100).sum()))]
    return [
        (int(active[0]), phrase("widest channel")),
        (int(active[len(active) // 2]), phrase("middle channel")),
    ]


@in_each_language
def channel_ranges(
    maxima: np.ndarray, step: int, scale: float, kept_scale: float | None = None
) -> Figure:
    """Largest value of each channel of a map that is pooled with a channel stride.

    Parameters
    ----------
    maxima
        ``[C]``: largest activation per channel over the calibration images.
    step
        The pool keeps every `step`-th channel.
    scale
        Quantization step of the whole map.
    kept_scale
        Quantization step of the kept channels where they have a scale of their own.
    """
    figure, [[axes]] = _figure(2.9)
    kept = np.zeros(len(maxima), bool)
    kept[::step] = True
    bottom = min(scale, kept_scale or scale) / 3
    alive = maxima > bottom
    place = 0
    for mask, style, label in (
        (kept, SERIES[1], phrase("kept by the pool")),
        (~kept, SERIES[0], phrase("global context only")),
    ):
        values = np.sort(maxima[mask & alive])[::-1]
        x = place + np.arange(len(values))
        axes.vlines(
            x, bottom, values, color=style["color"], linewidth=1, linestyle=style["linestyle"]
        )
        axes.plot(
            x,
            values,
            style["marker"],
            color=style["color"],
            markersize=6,
            label=phrase(
                "{label}: {count} of {all} alive", label=label, count=len(values), all=mask.sum()
            ),
        )
        place += len(values) + 1
    lines = [
        (255 * scale, "-", phrase("largest INT8 value, {value:.3g}", value=255 * scale)),
        (scale, "--", phrase("one step of the shared scale, {scale:.2g}", scale=scale)),
    ]
    if kept_scale:
        lines.append(
            (
                kept_scale,
                ":",
                phrase("one step of the kept channels' own scale, {scale:.2g}", scale=kept_scale),
            )
        )
    for value, line, text in lines:
        axes.axhline(value, color=BLACK, linestyle=line, linewidth=0.9)
        axes.annotate(
            text,
            (1, value),
            xycoords=("axes fraction", "data"),
            ha="left",
            va="center",
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=7.5,
            annotation_clip=False,
        )
    axes.set(
        yscale="log",
        ylabel=phrase("largest activation"),
        ylim=(bottom, 2 * maxima.max()),
        xlabel=phrase("channels that are ever active, widest first"),
    )
    axes.set_xticks([])
    axes.set_title(
        phrase(
            "widest kept channel: {levels:.0f} of 255 levels", levels=maxima[kept].max() / scale
        ),
        fontsize=8.5,
    )
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@in_each_language
def layer_fidelity(
    layers: Sequence[str], series: Mapping[str, Sequence[float | None]], *, unit: str = "SQNR (dB)"
) -> Figure:
    """How near each layer comes to float, one series per model; gaps where a layer is absent."""
    figure, [[axes]] = _figure(3.1)
    for (name, values), style in zip(series.items(), SERIES):
        there = [(k, v) for k, v in enumerate(values) if v is not None]
        axes.plot(
            *zip(*there),
            marker=style["marker"],
            color=style["color"],
            linestyle=style["linestyle"],
            label=name,
            markersize=4,
        )
    axes.set_xticks(
        range(len(layers)), layers, rotation=60, ha="right", rotation_mode="anchor", fontsize=6.5
    )
    axes.set_ylabel(unit)
    axes.grid(axis="y")
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=min(4, len(series)), borderaxespad=0.2
    )
    return figure


@in_each_language
def layer_costs(
    layers: Sequence[str],
    shares: Sequence[float],
    cures: Sequence[tuple[str, float]],
    *,
    int8_db: float,
    without_db: float | None,
) -> Figure:
    """What each layer alone costs at the output, and what cures of the costliest one bring.

    Parameters
    ----------
    layers, shares
        The costliest first, and their parts of the noise at the output, from 0 to 1.
    cures
        Cures of the first layer, and the output's SNR with each, in dB.
    int8_db
        The output's SNR as it is.
    without_db
        The output's SNR where the first layer has no error: what no cure of it exceeds by much.
    """
    figure, [[left, right]] = _figure(3.0, 1, 2, width_ratios=(1.2, 1))
    places = np.arange(len(layers))
    left.barh(places, np.multiply(100, shares), color=BLUE)
    for place, share in zip(places, shares):
        left.annotate(
            f"{100 * share:.1f}",
            (100 * share, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
        )
    left.set_yticks(places, layers, fontsize=7.5)
    left.invert_yaxis()
    left.set(xlabel=phrase("part of the noise at the output, %"), xlim=(0, 115 * max(shares)))
    left.set_title(phrase("each layer alone in INT8"))
    marks = np.arange(len(cures))
    for mark, (_, value), style in zip(marks, cures, SERIES[1:]):
        right.plot(value, mark, style["marker"], color=style["color"], markersize=7)
    right.axvline(int8_db, color=BLACK, linestyle="--", label=phrase("as it is"))
    if without_db is not None:
        right.axvline(
            without_db, color=GREY, linestyle=":", label=phrase("without this layer's error")
        )
    right.set_yticks(marks, [name for name, _ in cures])
    right.set_ylim(max(len(cures), 1) - 0.5, -0.5)
    right.set(xlabel=phrase("SNR of the output, dB"))
    right.set_title(phrase("cures of {layer}", layer=layers[0]))
    figure.legend(loc="outside lower right", ncols=2)
    return figure
