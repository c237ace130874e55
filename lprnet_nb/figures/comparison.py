"""Figures of notebook 05: float against INT8, plate by plate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ..evaluate.accuracy import GAP
from ..evaluate.calibration import Coverage, Reliability
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
    _rgb,
    in_each_language,
)


@in_each_language
def paired(rows: Sequence[Mapping]) -> Figure:
    """Plates that only one of two models reads right, back to back, with the corrected p-value.

    Parameters
    ----------
    rows
        ``{"label", "only_float", "only_other", "p_holm"}``.
    """
    figure, [[axes]] = _figure(0.36 * len(rows) + 0.95)
    places = _labelled_rows(axes, [row["label"] for row in rows])
    lost = np.array([row["only_float"] for row in rows])
    won = np.array([row["only_other"] for row in rows])
    axes.barh(
        places,
        -lost,
        height=0.6,
        color="white",
        edgecolor=VERMILLION,
        hatch="////",
        label=phrase("only float reads it right"),
    )
    axes.barh(places, won, height=0.6, color=BLUE, label=phrase("only INT8 reads it right"))
    for place, row in zip(places, rows):
        for value, count, side in (
            (-row["only_float"], row["only_float"], "right"),
            (row["only_other"], row["only_other"], "left"),
        ):
            axes.annotate(
                str(count),
                (value, place),
                xytext=(-3 if side == "right" else 3, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=8,
            )
        axes.annotate(
            _p_value(row["p_holm"]),
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            annotation_clip=False,
        )
    reach = 1.2 * max(lost.max(initial=1), won.max(initial=1), 1)
    axes.set_xlim(-reach, reach)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(9, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
    axes.set_xlabel(phrase("plates"))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return figure


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


@in_each_language
def per_character(rows: Mapping[str, Mapping[str, tuple[int, int]]]) -> Figure:
    """Accuracy of each character with Wilson intervals, one series per model.

    Parameters
    ----------
    rows
        By model: ``{character: (right, of)}``; characters of the first model, most errors first.
    """
    first = next(iter(rows.values()))
    characters = sorted(
        first, key=lambda c: (min(r[c][0] / r[c][1] for r in rows.values() if c in r), c)
    )
    figure, [[axes]] = _figure(2.6)
    spread = 0.66 / max(1, len(rows))
    for number, ((name, counts), style) in enumerate(zip(rows.items(), SERIES)):
        x = np.array([k for k, c in enumerate(characters) if c in counts])
        pairs = [counts[c] for c in characters if c in counts]
        y = np.array([right / of for right, of in pairs])
        _interval_points(
            axes,
            x + spread * (number - (len(rows) - 1) / 2),
            y,
            [wilson(*pair) for pair in pairs],
            style,
            name,
            line=False,
            small=True,
        )
    axes.set_xticks(range(len(characters)), [f"{c}\n{first[c][1]}" for c in characters], fontsize=7)
    axes.set_xlabel(phrase("character, and how often the labels have it"))
    axes.set_ylabel(phrase("read right (95 % interval)"))
    axes.set_xlim(-0.7, len(characters) - 0.3)
    axes.grid(axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(rows), borderaxespad=0.2)
    return figure


@in_each_language
def confusions(errors: Mapping[str, Sequence[tuple[str, str, int]]]) -> Figure:
    """The most frequent errors side by side, as "label → reading" with their counts.

    Parameters
    ----------
    errors
        By model: ``(character, read as, times)``, where `GAP` stands for none.
    """
    total: dict[tuple[str, str], int] = {}
    for rows in errors.values():
        for a, b, count in rows:
            total[a, b] = total.get((a, b), 0) + count
    pairs = sorted(total, key=lambda pair: (-total[pair], pair))[:14]
    figure, [[axes]] = _figure(0.26 * max(2, len(pairs)) + 0.95, width=6.2)
    if not pairs:
        axes.text(0.5, 0.5, phrase("no errors"), ha="center", transform=axes.transAxes)
        _bare(axes)
        return figure
    places = _labelled_rows(axes, [_error_text(*pair) for pair in pairs])
    height = 0.8 / len(errors)
    for number, ((name, rows), style) in enumerate(zip(errors.items(), SERIES)):
        times = {(a, b): n for a, b, n in rows}
        axes.barh(
            places + height * (number - (len(errors) - 1) / 2),
            [times.get(pair, 0) for pair in pairs],
            height=height,
            label=name,
            color="white" if style["hatch"] else style["color"],
            hatch=style["hatch"],
            edgecolor=style["color"],
        )
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axes.set_xlabel(phrase("times"))
    axes.legend(loc="lower right")
    return figure


def _error_text(label: str, reading: str) -> str:
    if reading == GAP:
        return phrase("{character} dropped", character=label)
    if label == GAP:
        return phrase("{character} added", character=reading)
    return f"{label} → {reading}"


@in_each_language
def fidelity(cosines: Mapping[str, np.ndarray], differs: Mapping[str, np.ndarray]) -> Figure:
    """Distribution of the logits' cosine per image; plates that read differently marked.

    Parameters
    ----------
    cosines
        By model: ``[N]``, INT8 logits against float.
    differs
        By model: bool ``[N]``: the text differs from float's.
    """
    figure, [[axes]] = _figure(0.5 * len(cosines) + 0.95)
    places = _labelled_rows(axes, list(cosines))
    rng = np.random.default_rng(0)  # spreads the points of a row, carries no meaning
    for place, (name, values) in zip(places, cosines.items()):
        loss = np.maximum(1 - np.asarray(values, float), 1e-7)
        y = place + rng.uniform(-0.26, 0.26, len(loss))
        wrong = differs[name]
        axes.plot(
            loss[~wrong],
            y[~wrong],
            ".",
            color=BLUE,
            markersize=3,
            alpha=0.6,
            label=phrase("same text as float") if place == 0 else None,
        )
        axes.plot(
            loss[wrong],
            y[wrong],
            "x",
            color=VERMILLION,
            markersize=5,
            label=phrase("text differs from float's") if place == 0 else None,
        )
        axes.plot(
            [np.median(loss)] * 2,
            [place - 0.36, place + 0.36],
            color=BLACK,
            linewidth=1.6,
            label=phrase("median") if place == 0 else None,
        )
    axes.set_xscale("log")
    axes.set_xlabel(phrase("1 − cosine of the logits with float's, per image (left is nearer)"))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return figure


@in_each_language
def gallery(
    images: np.ndarray,
    labels: Sequence[str],
    readings: Mapping[str, Sequence[str]],
    *,
    limit: int = 12,
) -> Figure:
    """Plates with their truth and what each model reads; wrong characters are marked.

    Parameters
    ----------
    images
        uint8 BGR ``[N, 24, 94, 3]``.
    readings
        By model: one text per image.
    """
    count = min(limit, len(images))
    longest = max(map(len, readings))
    columns = 4 if longest <= 10 else 3
    rows = max(1, -(-count // columns))
    height = 2.9 / columns + 0.155 * (len(readings) + 1)
    text_at = (0.1 + 0.059 * longest) / (WIDTH / columns)  # inches of a character, of a column
    figure, axes = _figure(rows * height, rows, columns)
    for spot in axes.flat:
        _bare(spot)
    if not count:
        axes.flat[0].text(0, 0.5, phrase("no plate to show"), transform=axes.flat[0].transAxes)
    for index in range(count):
        spot = axes.flat[index]
        spot.imshow(_rgb(images[index]), interpolation="lanczos")
        lines = [(phrase("label"), labels[index])] + [
            (name, texts[index]) for name, texts in readings.items()
        ]
        for number, (name, text) in enumerate(lines):
            good = text == labels[index]
            spot.annotate(
                f"{name}",
                (0, 0),
                xycoords="axes fraction",
                xytext=(0, -10 - 11 * number),
                textcoords="offset points",
                fontsize=7,
                color=GREY,
            )
            spot.annotate(
                text or phrase("(nothing)"),
                (text_at, 0),
                xycoords="axes fraction",
                xytext=(0, -10 - 11 * number),
                textcoords="offset points",
                fontsize=8.5,
                weight="normal" if good else "bold",
                color=BLACK if good else VERMILLION,
            )
            if number:
                spot.annotate(
                    "✓" if good else "✗",
                    (1, 0),
                    xycoords="axes fraction",
                    xytext=(-2, -10 - 11 * number),
                    textcoords="offset points",
                    fontsize=8,
                    ha="right",
                    color=GREEN if good else VERMILLION,
                )
    return figure


@in_each_language
def reliability(models: Mapping[str, Reliability]) -> Figure:
    """Accuracy against confidence in bins, with intervals and counts, one panel per model."""
    figure, axes = _figure(2.6, 1, max(1, len(models)), sharey=True)
    for spot, (name, bins), style in zip(axes[0], models.items(), SERIES):
        spot.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        _interval_points(spot, bins.confidence, bins.accuracy, bins.ci95, style, name, line=False)
        for x, y, count in zip(bins.confidence, bins.accuracy, bins.count):
            spot.annotate(
                str(count),
                (x, y),
                xytext=(5, -8),
                textcoords="offset points",
                fontsize=6.5,
                color=GREY,
            )
        spot.set(xlim=(-0.02, 1.06), ylim=(-0.02, 1.06), xlabel=phrase("confidence"))
        spot.annotate(
            f"ECE {bins.ece:.3f}", (0.98, 0.04), xycoords="axes fraction", ha="right", fontsize=8
        )
        spot.set_title(name, fontsize=8.5)
        spot.grid(axis="both")
    axes[0, 0].set_ylabel(phrase("read right (95 % interval)"))
    return figure


@in_each_language
def accuracy_coverage(curves: Mapping[str, Coverage]) -> Figure:
    """Accuracy of the plates that are accepted when the least certain are refused."""
    figure, [[axes]] = _figure(2.8, width=5.6)
    for (name, curve), style in zip(curves.items(), SERIES):
        shown = curve.coverage >= 0.3
        axes.step(
            100 * curve.coverage[shown],
            curve.accuracy[shown],
            where="post",
            color=style["color"],
            linestyle=style["linestyle"],
            marker=style["marker"],
            markersize=4,
            markevery=0.15,
            label=name,
        )
    axes.set(
        xlabel=phrase("accepted plates (%)"),
        ylabel=phrase("exact match of the accepted"),
        xlim=(101, 30),
    )
    axes.grid(axis="both")
    axes.legend(loc="lower right")
    return figure
