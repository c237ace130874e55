"""Figures of the quantization study, in the style of `figures`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..language import phrase, spoken, within
from ..toolchain.releases import VERSIONS
from .style import BLACK, GREY, MINUS, PALE, SERIES, WIDTH, blank, in_each_language


def _rows(axes: Axes, labels: Sequence[str]) -> np.ndarray:
    places = np.arange(len(labels))
    axes.set_yticks(places, labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    return places


@in_each_language
def accuracy(lines: Sequence[Mapping[str, Any]], reference: float) -> Figure:
    """Exact match per strategy and chip: every draw's range, the mean, its interval, and float's.

    Parameters
    ----------
    lines
        `study_results.summarize`'s lines; settings that a tool refuses have its words below.
    reference
        Float's exact match.
    """
    most = max((line["draws"] for line in lines), default=0)
    names = list(dict.fromkeys(_label(line, most) for line in lines))
    chips = list(dict.fromkeys(line["chip"] for line in lines))
    notes = list(dict.fromkeys(_note(line) for line in lines if "error" in line))
    said = [
        part
        for number, note in enumerate(notes, 1)
        for part in textwrap.wrap(f"{number}: {note}", 125)
    ]
    figure = blank(WIDTH, 0.13 * max(2, len(chips)) * len(names) + 0.13 * len(said) + 1.2)
    axes = figure.subplots()
    _rows(axes, names)
    shifts = 0.22 * (np.arange(len(chips)) - (len(chips) - 1) / 2)
    shown = [line for line in lines if line.get("mean", 0) > READABLE]
    left = min([line["interval"][0] for line in shown], default=0.8) - 0.012
    for line in lines:
        style = SERIES[chips.index(line["chip"])]
        place = names.index(_label(line, most)) + shifts[chips.index(line["chip"])]
        if "error" in line or line["mean"] <= READABLE:
            text = (
                phrase("refused by the tool, {number}", number=notes.index(_note(line)) + 1)
                if "error" in line
                else f"◂ {line['mean']:.3f}"
            )
            axes.annotate(
                text,
                (left, place),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=6.5,
                color=style["color"],
            )
            continue
        axes.plot(line["interval"], [place] * 2, color=style["color"], linewidth=1)
        axes.plot(
            [line["low"], line["high"]],
            [place] * 2,
            color=style["color"],
            linewidth=4,
            alpha=0.45,
            solid_capstyle="butt",
        )
        axes.plot(
            line["mean"],
            place,
            color=style["color"],
            marker=style["marker"],
            linestyle="none",
            markersize=5,
            label=None if line["chip"] in axes.get_legend_handles_labels()[1] else line["chip"],
        )
    axes.axvline(
        reference,
        color=BLACK,
        linewidth=1,
        linestyle="--",
        label=phrase("float {share:.3f}", share=reference),
    )
    axes.set_xlim(left=left)
    axes.set_xlabel(phrase("exact match: mean (mark), draws (thick), 95 % interval (thin)"))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=5)
    if said:
        figure.supxlabel("\n".join(said), x=0.01, ha="left", fontsize=6.5)
    return figure


@in_each_language
def releases(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Exact match along all releases, a panel a chip, and the predicted time below.

    Those that `lines` lack keep their place, empty.

    Parameters
    ----------
    lines
        `study.upgrades.summarize`'s.
    """
    chips = list(dict.fromkeys(line["chip"] for line in lines))
    strategies = list(dict.fromkeys(line["strategy"] for line in lines))
    figure = blank(WIDTH, 1.7 * (len(chips) + 1) + 0.5)
    panels = figure.subplots(len(chips) + 1, 1, sharex=True, squeeze=False)[:, 0]
    for axes, chip in zip(panels, [*chips, None], strict=True):
        for style, strategy in zip(SERIES, strategies):
            timed = [
                line
                for line in lines
                if line["strategy"] == strategy
                and (line["chip"] == chip if chip else line["predicted_ms"])
            ]
            if chip is None:
                timed = [line for line in timed if line["chip"] == chips[0]]
            places = [VERSIONS.index(line["release"]) for line in timed]
            values = [line["mean" if chip else "predicted_ms"] for line in timed]
            axes.plot(
                places,
                values,
                color=style["color"],
                marker=style["marker"],
                markersize=4,
                linewidth=1,
                label=strategy,
            )
            if chip:
                ends = [[line[end] for line in timed] for end in ("low", "high")]
                axes.fill_between(places, *ends, color=style["color"], alpha=0.12, linewidth=0)
        axes.grid(axis="y")
        axes.set_ylabel(
            phrase("{chip}\nexact match", chip=chip)
            if chip
            else phrase("{chip}\npredicted ms", chip=chips[0])
        )
    panels[-1].set_ylim(bottom=0)
    panels[-1].set_xticks(range(len(VERSIONS)), VERSIONS, rotation=90)
    panels[-1].set_xlabel(
        phrase("release of TPU-MLIR that generated the code; bands: lowest to highest draw")
    )
    panels[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(strategies))
    return figure


NEAR = 0.03  # of float's exact match: what lies further below is left out of a front
READABLE = 0.7  # below it a strategy is named with its mean, and not drawn to scale


def _label(line: Mapping[str, Any], most: int) -> str:
    origin = {
        "within": phrase(" (on test images)"),
        "generated": phrase(" (on generated plates)"),
    }
    return line["strategy"] + origin.get(line["scheme"], "") + _few(line["draws"], most)


def _few(draws: int, most: int) -> str:
    return phrase(" ({count} of {most} draws)", count=draws, most=most) if 0 < draws < most else ""


def _note(line: Mapping[str, Any]) -> str:
    return f"{line['chip']} {line['strategy']}: {line['error']}"


@in_each_language
def pareto(
    lines: Sequence[Mapping[str, Any]], reference: float, named: Sequence[str] = ("kl", "mse")
) -> Figure:
    """Exact match against predicted latency; the best for their time are joined.

    Parameters
    ----------
    lines
        `study_results.summarize`'s lines of one chip.
    reference
        Float's exact match.
    named
        Strategies that are named beside the best for their time.
    """
    points = sorted(
        (line["latency_ms"], -line["mean"], number)
        for number, line in enumerate(lines)
        if line.get("latency_ms")
        and line.get("mean", 0) > READABLE
        and line["scheme"] == "cross-fit"
    )
    figure = blank(WIDTH, 3.4)
    axes = figure.subplots()
    front: list[tuple[float, float, int]] = []
    for time, negative, number in points:
        if not front or negative < front[-1][1]:
            front.append((time, negative, number))
    axes.step(
        [time for time, *_ in front],
        [-negative for _, negative, _ in front],
        where="post",
        color=GREY,
        linewidth=0.8,
        zorder=0,
    )
    chosen = [lines[number]["strategy"] for *_, number in front]
    chosen += [name for name in named if name not in chosen]
    handles: dict[str, Artist | ErrorbarContainer] = {}
    others = phrase("others")
    for time, negative, number in points:
        line = lines[number]
        low, high = line["interval"]
        error = [[-negative - low], [high + negative]]
        if line["strategy"] in chosen:
            style = SERIES[chosen.index(line["strategy"]) % len(SERIES)]
            handles[line["strategy"]] = axes.errorbar(
                time,
                -negative,
                yerr=error,
                capsize=2,
                color=style["color"],
                marker=style["marker"],
                linestyle="none",
                elinewidth=0.8,
            )
        else:
            handles[others] = axes.plot(
                time, -negative, color=GREY, marker=".", linestyle="none", zorder=1
            )[0]
    axes.axhline(reference, color=BLACK, linewidth=1, linestyle="--")
    axes.set(
        xlabel=phrase("predicted time of a call in ms"),
        ylabel=phrase("exact match (95 % interval)"),
    )
    axes.grid(axis="y", color=PALE)
    order = [name for name in (*chosen, others) if name in handles]
    axes.legend(
        [handles[name] for name in order],
        order,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        fontsize=7,
    )
    return figure


@in_each_language
def front(
    found: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], reference: float
) -> Figure:
    """Exact match against cost, a panel a chip: searched, each budget, and made by hand.

    Parameters
    ----------
    found, others
        `study.searched.lines` and `study.searched.hand_made`; those far below are not drawn.
    reference
        Float's exact match.
    """
    chips = list(dict.fromkeys(line["chip"] for line in found))
    figure = blank(WIDTH, 2.9 * len(chips))
    panels = figure.subplots(len(chips), 1, squeeze=False)[:, 0]
    for axes, chip in zip(panels, chips):
        mine = [line for line in found if line["chip"] == chip]
        hand = [x for x in others if x["chip"] == chip and x["mean"] > reference - NEAR]
        best = sorted(hand, key=lambda x: (x["cost"], -x["mean"]))
        best = [x for n, x in enumerate(best) if all(x["mean"] > y["mean"] for y in best[:n])]
        for line in hand:
            axes.plot(line["cost"], line["mean"], color=GREY, marker=".", linestyle="none")
        if best:
            ends = [[x["cost"] for x in best], [x["mean"] for x in best]]
            axes.step(*ends, where="post", color=GREY, linewidth=0.8, label=phrase("made by hand"))
        for number, line in enumerate(best, 1):
            axes.annotate(
                str(number),
                (line["cost"], line["mean"]),
                xytext=(3, 3),
                textcoords="offset points",
                fontsize=7,
                color=GREY,
            )
        names = "\n".join(f"{n} {line['strategy']}" for n, line in enumerate(best, 1))
        axes.text(0.99, 0.03, names, transform=axes.transAxes, ha="right", fontsize=7, color=GREY)
        style, mean = SERIES[0], np.array([line["mean"] for line in mine])
        low, high = np.array([line["interval"] for line in mine]).T
        axes.errorbar(
            [line["cost"] for line in mine],
            mean,
            yerr=[mean - low, high - mean],
            color=style["color"],
            marker=style["marker"],
            capsize=2,
            elinewidth=0.8,
            linestyle="-",
            linewidth=0.8,
            label=phrase("searched, on plates that it has not seen (95 % interval)"),
        )
        axes.axhline(reference, color=BLACK, linewidth=1, linestyle="--", label=phrase("float"))
        unit = (
            phrase("predicted ms of a call")
            if mine[0]["unit"] == "ms"
            else phrase("part of the work in float")
        )
        axes.set(title=chip, xlabel=unit, ylabel=phrase("exact match"))
        axes.set_xlim(right=1.15 * max(line["cost"] for line in [*mine, *best]))
        axes.grid(axis="y", color=PALE)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=7
    )
    return figure


@in_each_language
def roles(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Time steps that INT8 reads unlike float: one role in float, and one role quantized."""
    usable = [line for line in lines if "steps_off" in line]
    chips = list(dict.fromkeys(line["chip"] for line in usable))
    names = list(dict.fromkeys(line["role"] for line in usable if line["role"]))
    figure = blank(WIDTH, 0.27 * len(names) + 1.2)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, mode, title in (
        (left, "float", phrase("only this role in float")),
        (right, "int8", phrase("only this role quantized")),
    ):
        _rows(axes, names)
        for chip in chips:
            style = SERIES[chips.index(chip)]
            found = {
                line["role"]: line["steps_off"]
                for line in usable
                if line["chip"] == chip and line["mode"] == mode
            }
            axes.plot(
                [found.get(name, np.nan) for name in names],
                range(len(names)),
                color=style["color"],
                marker=style["marker"],
                linestyle="none",
                label=chip,
            )
            for line in usable:
                if mode == "float" and line["mode"] == "all" and line["chip"] == chip:
                    axes.axvline(
                        line["steps_off"],
                        color=style["color"],
                        linewidth=0.8,
                        linestyle=style["linestyle"],
                        label=phrase("{chip}, all in INT8", chip=chip),
                    )
        axes.set_title(title)
        axes.set_xlim(left=0)
        axes.set_xlabel(
            phrase("steps read unlike float, of {count}", count=18 * usable[0]["images"])
        )
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), fontsize=7, ncols=2)
    return figure


@in_each_language
def company(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Images that read differently beside others, mean over the batch against over the image."""
    figure = blank(WIDTH, 0.42 * len(lines) + 0.9)
    axes = figure.subplots()
    labels = [
        phrase("{chip}, mean over the batch", chip=line["chip"])
        if line["batch_mean"] == "batch"
        else phrase("{chip}, mean over the image", chip=line["chip"])
        for line in lines
    ]
    places = _rows(axes, labels)
    for place, line in zip(places, lines):
        style = SERIES[0 if line["batch_mean"] == "image" else 1]
        axes.barh(
            place,
            line["moved"],
            height=0.5,
            color=style["color"],
            hatch=style["hatch"],
            edgecolor="white",
        )
        axes.annotate(
            phrase(
                "{moved} of {images}; right: {low} to {high}",
                moved=line["moved"],
                images=line["images"],
                low=min(line["right"]),
                high=max(line["right"]),
            ),
            (line["moved"], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
        )
    axes.set_xlim(0, max(1, *(line["moved"] for line in lines)) * 1.9)
    axes.set_xlabel(
        phrase(
            "images that change their reading with the other {count} of their batch",
            count=lines[0]["batch"] - 1,
        )
    )
    return figure


@in_each_language
def verdict_matrix(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Gain and verdict of each tip by chip, in points of exact match with its 95 % interval.

    Parameters
    ----------
    lines
        `study.results.verdicts`' lines.
    """
    rows = list(dict.fromkeys((x["tip"], x["strategy"], x["baseline"]) for x in lines))
    chips = list(dict.fromkeys(line["chip"] for line in lines))
    figure = blank(WIDTH, 0.33 * len(rows) + 0.6)
    axes = figure.subplots()
    axes.set(xlim=(-0.5, len(chips) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    most = max(line["draws"] for line in lines)
    labels = [f"{tip}\n{strategy} {MINUS} {baseline}" for tip, strategy, baseline in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.set_xticks(range(len(chips)), chips, fontsize=8, weight="bold")
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    for line in lines:
        place = (
            chips.index(line["chip"]),
            rows.index((line["tip"], line["strategy"], line["baseline"])),
        )
        mark, color, _ = VERDICTS[line["verdict"]]
        low, high = (100 * end for end in line["interval"])
        axes.add_patch(
            Rectangle((place[0] - 0.48, place[1] - 0.46), 0.96, 0.92, color=color, linewidth=0)
        )
        few = f" ({line['draws']}/{most})" if line["draws"] < most else ""
        ends = phrase("{low:+.1f} to {high:+.1f}", low=low, high=high)
        said = f"{mark} {100 * line['difference']:+.1f}{few}\n{ends}"
        axes.annotate(
            said.replace("-", MINUS),
            place,
            ha="center",
            va="center",
            fontsize=7,
            linespacing=1.25,
        )
    figure.supxlabel(
        "   ".join(f"{mark} {within(name, spoken())}" for mark, _, name in VERDICTS.values())
        + "   "
        + phrase("(1/{most}): fewer draws than {most}", most=most),
        fontsize=8,
    )
    return figure


# Mark, background and name of each verdict; the marks tell them apart without colour.
VERDICTS = {
    "holds": ("✓", "#CDE9DC", phrase("holds")),
    "does not hold": ("✗", "#F8DACB", phrase("does not hold")),
    "cannot be told": ("?", "#EFEFEF", phrase("cannot be told")),
}


@in_each_language
def forest(lines: Sequence[Mapping[str, Any]], worlds: Mapping[tuple[str, str], str]) -> Figure:
    """Gain of each finding over worlds, with its 95 % interval and verdict: a panel a finding.

    Parameters
    ----------
    lines
        `study.replication.lines`.
    worlds
        What is written of each ``(plates, weights)``, from top to bottom.
    """
    findings = list(dict.fromkeys((x["tip"], x["strategy"], x["baseline"]) for x in lines))
    chips = list(dict.fromkeys(line["chip"] for line in lines))
    height = 0.34 + 0.105 * len(chips) * len(worlds)
    figure = blank(WIDTH, (len(findings) + 1) // 2 * (height + 0.25) + 0.7)
    panels = figure.subplots((len(findings) + 1) // 2, 2, sharey=True, squeeze=False).ravel()
    for axes, finding in zip(panels, findings):
        places = _rows(axes, list(worlds.values()))
        axes.tick_params(axis="y", labelsize=6.5)
        axes.axvline(0, color=BLACK, linewidth=0.8)
        for line in lines:
            if (line["tip"], line["strategy"], line["baseline"]) == finding:
                row = list(worlds).index((line["plates"], line["weights"]))
                _gain(axes, line, places[row], chips)
        tip, strategy, baseline = finding
        title = textwrap.fill(tip, 42) + f"\n{strategy} {MINUS} {baseline}"
        axes.set_title(title, fontsize=7.5)
    for axes in panels[len(findings) :]:
        axes.set_visible(False)
    for chip, style in zip(chips, SERIES):
        panels[0].plot([], [], color=style["color"], marker=style["marker"], label=chip)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    marks = "   ".join(f"{mark} {within(name, spoken())}" for mark, _, name in VERDICTS.values())
    points = phrase("points of exact match gained, with the 95 % interval")
    figure.supxlabel(f"{points}   {marks}", fontsize=8)
    return figure


def _gain(axes: Axes, line: Mapping[str, Any], place: float, chips: Sequence[str]) -> None:
    """A finding's gain in one world on one chip, and the verdict's mark at the right edge."""
    number = chips.index(line["chip"])
    style = SERIES[number]
    place = place + 0.36 * (number - (len(chips) - 1) / 2)
    ends = [100 * end for end in line["interval"]]
    axes.plot(ends, [place] * 2, color=style["color"], linewidth=1)
    axes.plot(
        100 * line["difference"],
        place,
        color=style["color"],
        marker=style["marker"],
        markersize=3.5,
    )
    axes.annotate(
        VERDICTS[line["verdict"]][0],
        (1, place),
        xycoords=("axes fraction", "data"),
        xytext=(2 + 7 * number, 0),
        textcoords="offset points",
        va="center",
        fontsize=6.5,
        color=style["color"],
    )


@dataclass(frozen=True)
class Step:
    """One step of the way from float to what is read in the end.

    Attributes
    ----------
    name
        For the axis; may have line ends.
    by_chip
        ``(mean, low, high)`` of exact match by chip; equal ends where there is one measurement.
    reference
        Float's exact match, read the same way; None where that is not the point.
    """

    name: str
    by_chip: Mapping[str, tuple[float, float, float]]
    reference: float | None = None


@in_each_language
def staircase(steps: Sequence[Step]) -> Figure:
    """Exact match step by step: each chip's mean and draws, and float read in the same way."""
    chips = list(dict.fromkeys(chip for step in steps for chip in step.by_chip))
    figure = blank(WIDTH, 3.5)
    axes = figure.subplots()
    for place, step in enumerate(steps):
        for chip, (mean, low, high) in step.by_chip.items():
            style = SERIES[chips.index(chip)]
            x = place + 0.16 * (chips.index(chip) - (len(chips) - 1) / 2)
            axes.plot(
                [x, x],
                [low, high],
                color=style["color"],
                linewidth=4,
                alpha=0.45,
                solid_capstyle="butt",
            )
            axes.plot(x, mean, color=style["color"], marker=style["marker"], markersize=5)
        if step.reference is not None:
            axes.plot([place - 0.42, place + 0.42], [step.reference] * 2, "--", color=BLACK, lw=1)
        means = [mean for mean, _, _ in step.by_chip.values()]
        tops = [high for _, _, high in step.by_chip.values()]
        axes.annotate(
            _span(means or [step.reference or 0]),
            (place, max([*tops, step.reference or 0])),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            weight="bold",
        )
    axes.set_xticks(range(len(steps)), [step.name for step in steps])
    axes.set_xlim(-0.6, len(steps) - 0.4)
    axes.margins(y=0.12)
    axes.grid(axis="y", color=PALE)
    axes.set_axisbelow(True)
    axes.set_ylabel(phrase("exact match"))
    for chip, style in zip(chips, SERIES):
        axes.plot([], [], color=style["color"], marker=style["marker"], linestyle="", label=chip)
    axes.plot([], [], "--", color=BLACK, linewidth=1, label=phrase("float, read the same way"))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=5)
    return figure


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} – {high}"


def layers_left(chips: Mapping[str, Sequence[tuple[str, float]]]) -> Figure:
    """What the output gains where one layer makes no error, a panel a chip.

    Parameters
    ----------
    chips
        By chip: layers, named with their operation, and gains in dB, the largest first.
    """
    figure = blank(WIDTH, 0.5 + 0.21 * max(map(len, chips.values())))
    panels = figure.subplots(1, len(chips), squeeze=False)[0]
    most = max(gain for rows in chips.values() for _, gain in rows)
    for axes, (chip, rows) in zip(panels, chips.items()):
        axes.barh([name for name, _ in rows], [gain for _, gain in rows], color=SERIES[0]["color"])
        for place, (_, gain) in enumerate(rows):
            axes.annotate(
                f"{gain:.2f}",
                (gain, place),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize=7)
        axes.set(title=chip, xlim=(0, 1.2 * most), xlabel=phrase("gain of the output's SNR, dB"))
    return figure
