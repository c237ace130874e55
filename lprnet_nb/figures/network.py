"""Figures of notebook 01: the network, the workflow, and the porting traps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from ..evaluate.intervals import wilson
from ..language import phrase
from .style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    SERIES,
    VERMILLION,
    WIDTH,
    _bare,
    _figure,
    _interval_points,
    _labelled_rows,
    blank,
    in_each_language,
)

_CHAIN = (
    ("image", "3×24×94"),
    ("conv 3×3", "64×22×92"),
    ("pool", "64×20×90"),
    ("block", "128×20×90"),
    ("pool /2", "64×18×44"),
    ("block", "256×18×44"),
    ("block", "256×18×44"),
    ("pool /4", "64×16×21"),
    ("conv 1×4", "256×16×18"),
    ("conv 13×1", "68×4×18"),
)


@in_each_language
def network_diagram() -> Figure:
    """LPRNet as data flow: the backbone, the four kept maps, and the global context."""
    figure = blank(WIDTH, 2.9)
    axes = figure.subplots()
    axes.set(xlim=(-0.5, 9.55), ylim=(-2.42, 0.75))
    _bare(axes)
    for column, (name, shape) in enumerate(_CHAIN):
        pool = name.startswith("pool /")
        _box(axes, column, 0, f"{name}\n{shape}", VERMILLION if pool else BLUE, bold=pool)
        if column:
            _arrow(axes, (column - 0.58, 0), (column - 0.42, 0))
    for column, text in (
        (1, "avg-pool\n5×5"),
        (3, "avg-pool\n5×5"),
        (6, "avg-pool\n4×10"),
        (9, phrase("as it is")),
    ):
        _arrow(axes, (column, -0.28), (column, -0.72))
        _box(axes, column, -1, f"{text}\n÷ mean(x²)", GREEN)
        _arrow(axes, (column, -1.28), (min(max(column, 3.4), 5.6), -1.82))
    _box(
        axes,
        4.5,
        -2.1,
        phrase("concatenate 516×4×18  →  conv 1×1 to 68  →  mean over height  →  logits 68×18"),
        BLACK,
        width=5.6,
    )
    axes.text(-0.45, 0.6, phrase("backbone"), color=BLUE, weight="bold")
    axes.text(
        5.0,
        0.6,
        phrase("bold frame: the pools that stride over channels (trap 1)"),
        color=VERMILLION,
    )
    axes.text(
        7.5,
        -1,
        phrase("global context\n(trap 2: the mean\nof what?)"),
        color=GREEN,
        va="center",
        ha="center",
    )
    return figure


def _box(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    color: str,
    *,
    width: float = 0.84,
    bold: bool = False,
) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - 0.25),
            width,
            0.5,
            facecolor="white",
            boxstyle="round,pad=0,rounding_size=0.07",
            edgecolor=color,
            linewidth=2.4 if bold else 1,
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=6.6, linespacing=1.25)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=7,
            linewidth=0.8,
            color=GREY,
            shrinkA=0,
            shrinkB=0,
        )
    )


@in_each_language
def workflow() -> Figure:
    """The port from weights to a report, the Chinese terms beside the English ones."""
    figure = blank(WIDTH, 2.3)
    axes = figure.subplots()
    axes.set(xlim=(-0.48, 4.48), ylim=(-2.02, 0.32))
    _bare(axes)
    for place, (title, detail, color) in enumerate(
        (
            ("weights 权重", "LPRNet, .pth", BLUE),
            ("trace 模型转换", "torch.jit.trace, ONNX", BLUE),
            ("compile 编译", "TPU-MLIR, TPU-NNTC", VERMILLION),
            ("BModel", "FP32, FP16, INT8", VERMILLION),
            ("infer 推理", phrase("device, simulator\nor emulator"), GREEN),
        )
    ):
        _step(axes, place, 0, title, detail, color)
        if place:
            _arrow(axes, (place - 0.55, 0), (place - 0.45, 0))
    _step(
        axes,
        0.5,
        -0.85,
        "plates 车牌",
        phrase("published, generated or your own"),
        BLUE,
        width=1.88,
    )
    _step(axes, 2, -0.85, "calibrate 校准", phrase("thresholds, strategies"), VERMILLION)
    _arrow(axes, (1.45, -0.85), (1.55, -0.85))
    _arrow(axes, (2, -0.56), (2, -0.29))
    _step(axes, 4, -0.85, "decode 解码", phrase("CTC, plate grammar"), GREEN)
    _arrow(axes, (4, -0.29), (4, -0.56))
    _step(axes, 3, -0.85, "compare 对比", phrase("float against INT8"), BLACK)
    _arrow(axes, (3.55, -0.85), (3.45, -0.85))
    _step(
        axes,
        2,
        -1.7,
        "report 报告",
        phrase(
            "accuracy with intervals, paired tests, predicted latency, every number with its origin"
        ),
        BLACK,
        width=4.88,
    )
    _arrow(axes, (3, -1.14), (3, -1.41))
    return figure


def _step(
    axes: Axes, x: float, y: float, title: str, detail: str, color: str, *, width: float = 0.88
) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - 0.28),
            width,
            0.56,
            facecolor="white",
            boxstyle="round,pad=0,rounding_size=0.07",
            edgecolor=color,
            linewidth=1.2,
        )
    )
    axes.text(
        x,
        y + (0.14 if "\n" in detail else 0.1),
        title,
        ha="center",
        va="center",
        fontsize=7.4,
        weight="bold",
        color=color,
    )
    axes.text(x, y - 0.12, detail, ha="center", va="center", fontsize=6, linespacing=1.15)


@in_each_language
def pool_equivalence(
    before: np.ndarray, published: np.ndarray, portable: np.ndarray, step: int
) -> Figure:
    """One row of a feature map before and after the pool that strides over channels.

    Parameters
    ----------
    before
        ``[C, W]``: one image row, all channels.
    published, portable
        ``[C / step, W']``: the 3-D pool, and 2-D pool plus slice.
    """
    figure, [[left, middle, right]] = _figure(2.7, 1, 3, width_ratios=(1.5, 1, 1))
    shown = min(24, len(before) // step * step)
    top = before[:shown].max()
    left.imshow(before[:shown], aspect="auto", cmap="Greys", vmin=0, vmax=top)
    for channel in range(0, shown, step):
        left.add_patch(
            Rectangle(
                (-0.5, channel - 0.5),
                before.shape[1],
                1,
                fill=False,
                edgecolor=VERMILLION,
                linewidth=1,
            )
        )
    left.set_title(
        phrase("in: every second channel is kept")
        if step == 2
        else phrase("in: every {step}th channel is kept", step=step)
    )
    for axes, values, title in (
        (middle, published, phrase("3-D max-pool")),
        (right, portable, phrase("2-D max-pool + slice")),
    ):
        axes.imshow(values[: shown // step], aspect="auto", cmap="Greys", vmin=0, vmax=top)
        axes.set_title(title)
    worst = float(np.abs(published - portable).max())
    right.set_xlabel(phrase("column\n(largest difference: {worst:g})", worst=worst))
    left.set_xlabel(phrase("column"))
    middle.set_xlabel(phrase("column"))
    left.set_ylabel(phrase("channel"))
    for axes in (left, middle, right):
        axes.spines[:].set_visible(False)
    return figure


@in_each_language
def agreement(forms: Sequence[str], differences: Sequence[float]) -> Figure:
    """Largest difference of logits from the published network, one row per form.

    Parameters
    ----------
    differences
        Largest absolute difference of each form; 0 is shown as bit-identical.
    """
    figure, [[axes]] = _figure(0.34 * len(forms) + 0.75)
    places = _labelled_rows(axes, forms)
    floor = 1e-7
    for place, difference in zip(places, differences):
        exact = difference == 0
        axes.plot(
            max(difference, floor),
            place,
            "o" if not exact else "D",
            color=BLUE,
            markerfacecolor="white" if exact else BLUE,
            markersize=6,
        )
        axes.annotate(
            phrase("bit-identical") if exact else f"{difference:.1e}",
            (max(difference, floor), place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set(xscale="log", xlim=(floor / 2, 10))
    axes.set_xlabel(
        phrase("largest absolute difference of a logit (logits span tens; 1 would matter)")
    )
    return figure


@in_each_language
def coupling(rows: Sequence[Mapping]) -> Figure:
    """Exact match over batch size, mean per image against mean over the batch.

    Parameters
    ----------
    rows
        ``{"batch", "batch_mean", "right", "images"}``.
    """
    figure, [[axes]] = _figure(2.7, width=5.4)
    batches = sorted({row["batch"] for row in rows})
    for style, mean, shift in ((SERIES[1], "batch", -0.07), (SERIES[0], "image", 0.07)):
        chosen = sorted((r for r in rows if r["batch_mean"] == mean), key=lambda r: r["batch"])
        x = np.array([batches.index(r["batch"]) for r in chosen]) + shift
        y = np.array([r["right"] / r["images"] for r in chosen])
        _interval_points(
            axes,
            x,
            y,
            [wilson(r["right"], r["images"]) for r in chosen],
            style,
            phrase("mean over the batch (as published)")
            if mean == "batch"
            else phrase("mean over the image"),
        )
        for place, value in zip(x, y):
            axes.annotate(
                f"{value:.3f}",
                (place, value),
                textcoords="offset points",
                xytext=(-6, 7) if shift < 0 else (6, -7),
                va="center",
                ha="right" if shift < 0 else "left",
                fontsize=8,
            )
    axes.set_xticks(range(len(batches)), [str(b) for b in batches])
    axes.set_xlim(-0.5, len(batches) - 0.5)
    axes.set_xlabel(phrase("images in a batch"))
    axes.set_ylabel(phrase("exact match (95 % interval)"))
    axes.grid(axis="y")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=2)
    return figure


@in_each_language
def subnormals(
    layers: Sequence[str], shares: Sequence[float], times: Mapping[str, float] | None = None
) -> Figure:
    """Share of subnormal values by layer, and what they cost.

    Parameters
    ----------
    times
        Milliseconds an image by name of the variant.
    """
    figure, found = _figure(2.6, 1, 2 if times else 1, width_ratios=(3, 1) if times else None)
    left = found[0, 0]
    left.bar(range(len(layers)), 100 * np.asarray(shares), color=BLUE, width=0.8)
    left.set_xticks(
        range(len(layers)), layers, rotation=60, ha="right", fontsize=6.5, rotation_mode="anchor"
    )
    left.set_ylabel(phrase("subnormal values\n(% of the layer)"))
    left.grid(axis="y")
    left.set_axisbelow(True)
    if times:
        right = found[0, 1]
        for place, value in enumerate(times.values()):
            style = SERIES[1 - place % 2]
            right.bar(place, value, color="white", edgecolor=style["color"], hatch=style["hatch"])
            right.annotate(
                f"{value:.1f}",
                (place, value),
                xytext=(0, 2),
                ha="center",
                textcoords="offset points",
            )
        right.set_xticks(range(len(times)), list(times))
        right.set_ylabel(phrase("time (ms an image,\ntorch, one thread)"))
    return figure
