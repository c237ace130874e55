"""Figures of notebook 02: what is inside a BModel and what the compiler predicts of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..language import phrase
from ..toolchain.profile import COMPUTE, MEMORY, Profile
from .style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PRECISION,
    PURPLE,
    SERIES,
    SKY,
    VERMILLION,
    _figure,
    _labelled_rows,
    in_each_language,
)


@in_each_language
def latency(rows: Sequence[Mapping]) -> Figure:
    """Predicted latency by chip and precision on a logarithmic axis, measured beside it.

    Parameters
    ----------
    rows
        ``{"label", "precision", "predicted_ms" (None: the compiler has none), "published_ms"}``,
        and ``"measured_ms", "measured_by"`` where a box has run the model.
    """
    figure, [[axes]] = _figure(0.33 * len(rows) + 0.95)
    places = _labelled_rows(axes, [row["label"] for row in rows])
    shown: set[str] = set()

    def once(label: str) -> str | None:
        if label in shown:
            return None
        shown.add(label)
        return label

    for place, row in zip(places, rows):
        style = PRECISION[row["precision"]]
        if row["predicted_ms"] is None:
            axes.annotate(
                phrase("no prediction for this chip"),
                (0.02, place),
                va="center",
                color=GREY,
                xycoords=("axes fraction", "data"),
                fontsize=7.5,
                style="italic",
            )
        else:
            axes.plot(
                row["predicted_ms"],
                place,
                style["marker"],
                color=style["color"],
                markersize=7,
                label=once(phrase("predicted by the compiler")),
            )
            axes.annotate(
                f"{row['predicted_ms']:.3f}",
                (row["predicted_ms"], place),
                va="center",
                xytext=(8, 0),
                textcoords="offset points",
                fontsize=7.5,
            )
        if row.get("published_ms"):
            axes.plot(
                row["published_ms"],
                place,
                "D",
                markerfacecolor="none",
                markersize=7,
                markeredgecolor=BLACK,
                label=once(phrase("measured by the vendor (bmrt_test)")),
            )
            axes.annotate(
                f"{row['published_ms']:.2f}",
                (row["published_ms"], place),
                va="center",
                xytext=(8, 0),
                textcoords="offset points",
                fontsize=7.5,
            )
        if row.get("measured_ms"):
            axes.plot(
                row["measured_ms"],
                place,
                "*",
                color=VERMILLION,
                markersize=10,
                label=once(phrase("measured here ({by})", by=row["measured_by"])),
            )
            axes.annotate(
                f"{row['measured_ms']:.3g}",
                (row["measured_ms"], place),
                ha="center",
                va="bottom",
                xytext=(0, 4),
                textcoords="offset points",
                fontsize=7.5,
            )
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.3, high * 1.8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(phrase("latency (ms an image)"))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return figure


_KINDS = (
    ("Conv2D", BLUE, ""),
    ("Pool2D", GREEN, "...."),
    ("Reduce", PURPLE, "xxxx"),
    ("Div", ORANGE, "\\\\\\\\"),
    ("Load", GREY, "////"),
    ("Store", SKY, "----"),
    ("other", PALE, ""),
)


@in_each_language
def timeline(profiles: Mapping[str, Profile]) -> Figure:
    """What the two units of the chip do over the predicted call, one pair of lanes per model."""
    figure, axes = _figure(0.8 * len(profiles) + 0.75, len(profiles), 1)
    drawn: dict[str, Rectangle] = {}
    for spot, (name, profile) in zip(axes[:, 0], profiles.items()):
        clock = profile.cycles / profile.milliseconds / 1000  # cycles a microsecond
        for kind, color, hatch in _KINDS:
            for lane, unit in enumerate((COMPUTE, MEMORY)):
                spans = [
                    (c.start / clock, c.cycles / clock)
                    for c in profile.commands
                    if c.unit == unit and _kind(c.layer) == kind
                ]
                if spans:
                    bars = spot.broken_barh(
                        spans,
                        (lane - 0.4, 0.8),
                        facecolor=color,
                        hatch=hatch,
                        edgecolor="white",
                        linewidth=0.2,
                    )
                    drawn.setdefault(kind, bars)
        busy = profile.busy()
        spot.set_yticks(
            [0, 1], [_unit_name(unit) + f" {busy[unit]:.0%}" for unit in (COMPUTE, MEMORY)]
        )
        spot.set(ylim=(1.55, -0.55), xlim=(0, 1000 * profile.milliseconds))
        spot.tick_params(axis="y", length=0)
        spot.set_title(f"{name}: {1000 * profile.milliseconds:.0f} µs", fontsize=8.5)
    axes[-1, 0].set_xlabel(phrase("predicted time (µs; each model has its own scale)"))
    figure.legend(
        [drawn[kind] for kind, *_ in _KINDS if kind in drawn],
        [kind for kind, *_ in _KINDS if kind in drawn],
        loc="outside upper center",
        ncols=len(_KINDS),
    )
    return figure


def _unit_name(unit: str) -> str:
    return phrase("compute") if unit == COMPUTE else phrase("memory")


def _kind(layer: str) -> str:
    kind = layer.rsplit("_", 1)[0]
    return kind if kind in [name for name, *_ in _KINDS] else "other"


@in_each_language
def slowest_layers(profile: Profile, limit: int = 15) -> Figure:
    """The layers that take most cycles, compute and memory told apart."""
    rows = sorted(profile.by_layer(), key=lambda row: -row["cycles"])[:limit]
    figure, [[axes]] = _figure(0.22 * len(rows) + 0.8, width=5.8)
    places = _labelled_rows(axes, [row["name"] for row in rows])
    clock = profile.cycles / profile.milliseconds / 1000
    for unit, style in ((COMPUTE, SERIES[0]), (MEMORY, SERIES[1])):
        chosen = [(p, row["cycles"] / clock) for p, row in zip(places, rows) if row["unit"] == unit]
        if chosen:
            y, width = zip(*chosen)
            axes.barh(
                y,
                width,
                height=0.7,
                color="white" if style["hatch"] else style["color"],
                edgecolor=style["color"],
                hatch=style["hatch"],
                label=_unit_name(unit),
            )
    axes.set_xlabel(phrase("predicted time (µs)"))
    axes.legend(loc="lower right")
    return figure


@in_each_language
def memory(rows: Sequence[Mapping]) -> Figure:
    """Device memory by use, stacked.

    Parameters
    ----------
    rows
        ``{"label", "weight", "instruct", "runtime"}``, bytes.
    """
    figure, [[axes]] = _figure(0.33 * len(rows) + 0.95)
    places = _labelled_rows(axes, [row["label"] for row in rows])
    left = np.zeros(len(rows))
    names = {
        "weight": phrase("weights"),
        "runtime": phrase("runtime"),
        "instruct": phrase("instructions"),
    }
    for (part, name), style in zip(names.items(), SERIES):
        size = np.array([row[part] for row in rows]) / 1e6
        axes.barh(
            places,
            size,
            left=left,
            height=0.62,
            label=name,
            edgecolor=style["color"],
            color="white" if style["hatch"] else style["color"],
            hatch=style["hatch"],
        )
        left += size
    for place, total in zip(places, left):
        axes.annotate(
            f"{total:.2f}",
            (total, place),
            xytext=(4, 0),
            va="center",
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xlabel(phrase("device memory (MB)"))
    axes.set_xlim(0, left.max() * 1.1)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return figure
