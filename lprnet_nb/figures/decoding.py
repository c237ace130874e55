"""Figures of notebook 04: CTC paths, readings, and the vendor's timing columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ..datasets.alphabet import Alphabet
from ..evaluate.timings import STAGES
from ..language import phrase
from .style import (
    BLACK,
    SERIES,
    WIDTH,
    _bare,
    _figure,
    _labelled_rows,
    _rgb,
    blank,
    in_each_language,
)


@in_each_language
def ctc_paths(
    image: np.ndarray,
    log_probs: np.ndarray,
    alphabet: Alphabet,
    paths: Mapping[str, np.ndarray],
    *,
    title: str = "",
    highlight: int | None = None,
) -> Figure:
    """Class probabilities over the time steps, with paths drawn over them.

    Parameters
    ----------
    image
        uint8 BGR ``[24, 94, 3]``.
    log_probs
        ``[C, T]``.
    paths
        Class index per step, int ``[T]``, by name such as ``"greedy: 皖A1"``.
    highlight
        A time step to mark.
    """
    steps = log_probs.shape[1]
    seen: set[int] = set(np.flatnonzero(np.exp(log_probs).max(axis=1) > 0.02).tolist())
    for path in paths.values():
        seen |= set(np.asarray(path).tolist())
    shown = [*sorted(seen - {alphabet.blank}), alphabet.blank]
    figure = blank(WIDTH, 1.5 + 0.17 * len(shown))
    top, axes = figure.subplots(2, 1, height_ratios=(1.05, 0.17 * len(shown)))
    _bare(top)
    top.imshow(_rgb(image), aspect="auto", interpolation="lanczos")
    top.set_title(title)
    mesh = axes.imshow(np.exp(log_probs[shown]), aspect="auto", cmap="Greys", vmin=0, vmax=1)
    row = {index: place for place, index in enumerate(shown)}
    for number, ((name, path), style) in enumerate(zip(paths.items(), SERIES)):
        shift = 0.14 * (number - (len(paths) - 1) / 2)
        axes.plot(
            np.arange(steps) + shift,
            [row[int(k)] + shift for k in path],
            label=name,
            color=style["color"],
            marker=style["marker"],
            linestyle=style["linestyle"],
            markersize=6 - number,
            markerfacecolor="white" if number % 2 else style["color"],
            linewidth=1.1,
        )
    if highlight is not None:
        axes.axvspan(
            highlight - 0.5, highlight + 0.5, facecolor="none", edgecolor=BLACK, linewidth=1.6
        )
    axes.set_yticks(
        range(len(shown)),
        [alphabet.characters[k] if k != alphabet.blank else phrase("blank") for k in shown],
    )
    axes.set_xticks(range(steps))
    axes.set_xlabel(phrase("time step (18 from left to right over the plate)"))
    axes.set_ylabel(phrase("class"))
    figure.legend(loc="outside lower center", ncols=len(paths))
    figure.colorbar(
        mesh, ax=[top, axes], label=phrase("probability"), pad=0.01, fraction=0.03, aspect=30
    )
    return figure


def step_text(log_probs: np.ndarray, alphabet: Alphabet, step: int, limit: int = 3) -> str:
    """The most probable classes of one time step, ``[C]``, in words."""
    best = np.argsort(-log_probs)[:limit]
    names = [phrase("blank") if k == alphabet.blank else alphabet.characters[k] for k in best]
    return phrase("step {step}: ", step=step) + ", ".join(
        f"{name} {np.exp(log_probs[k]):.2f}" for name, k in zip(names, best)
    )


@in_each_language
def timings(rows: Sequence[Mapping]) -> Figure:
    """Milliseconds an image by stage, as the vendor's tables have them.

    Parameters
    ----------
    rows
        ``{"label", "decode", "preprocess", "inference", "postprocess"}``; None where not timed.
    """
    figure, axes = _figure(0.33 * len(rows) + 0.85, 1, len(STAGES), sharey=True)
    for spot, stage, style in zip(axes[0], STAGES, SERIES):
        places = _labelled_rows(spot, [row["label"] for row in rows])
        width = np.array([row[stage] or 0.0 for row in rows])
        spot.barh(
            places,
            width,
            height=0.6,
            edgecolor=style["color"],
            hatch=style["hatch"],
            color="white" if style["hatch"] else style["color"],
        )
        for place, row in zip(places, rows):
            text = phrase("not timed") if row[stage] is None else f"{row[stage]:.3g}"
            spot.annotate(
                text,
                (row[stage] or 0.0, place),
                xytext=(3, 0),
                va="center",
                textcoords="offset points",
                fontsize=7.5,
            )
        spot.set_xlim(0, 1.45 * max(width.max(), 1e-9))
        spot.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
        spot.set_title(stage, fontsize=8.5)
    figure.supxlabel(
        phrase("time on this machine (ms an image; each stage has its own scale)"), fontsize=8.5
    )
    return figure
