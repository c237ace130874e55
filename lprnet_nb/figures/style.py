"""One style for every figure, and the parts that several of them share.

Readable without colour (markers, hatches, line styles, numbers), safe for the colour-blind (the
palette of Okabe and Ito, 2008), units on axes, intervals drawn, Chinese from a font found by code.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any, ParamSpec
from weakref import WeakKeyDictionary

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ..datasets.alphabet import PROVINCES
from ..errors import ParameterError
from ..evaluate.intervals import wilson
from ..language import phrase, speaking, spoken, within

BLACK, GREY, PALE = "#222222", "#767676", "#D9D9D9"


BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"


SKY, ORANGE, PURPLE = "#56B4E9", "#E69F00", "#CC79A7"


SERIES = tuple(
    {"color": color, "marker": marker, "linestyle": line, "hatch": hatch}
    for color, marker, line, hatch in (
        (BLUE, "o", "-", ""),
        (VERMILLION, "s", "--", "////"),
        (GREEN, "^", "-.", "...."),
        (ORANGE, "D", ":", "xxxx"),
        (PURPLE, "v", (0, (5, 1)), "\\\\\\\\"),
        (SKY, "P", (0, (3, 1, 1, 1)), "++++"),
        (BLACK, "X", (0, (1, 1)), "||||"),
        (GREY, "*", (0, (8, 2)), "oooo"),
    )
)


PRECISION = {"fp32": SERIES[0], "int8": SERIES[1], "fp16": SERIES[2], "bf16": SERIES[3]}
WIDTH = 7.2  # inches: a page's text width
MINUS = "−"


def chinese_fonts() -> list[Path]:
    """Font files with Chinese glyphs: packaged Noto Sans SC, our subset for plates, the system's.

    Raises
    ------
    ParameterError
        When there is none; figures would show boxes.
    """
    found = []
    spec = importlib.util.find_spec("zhplot")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        found += sorted(Path(root).glob("fonts/*.?tf"))
    found += sorted((Path(__file__).parents[1] / "datasets" / "fonts").glob("NotoSansSC-R*.ttf"))
    if not found:  # a slow search, so only then
        found = [
            Path(entry.fname)
            for entry in font_manager.fontManager.ttflist
            if _has_glyphs(entry.fname, PROVINCES)
        ][:1]
    if not found:
        raise ParameterError(
            "no font with Chinese characters is to be had. Install the package "
            "zhplot (pip install zhplot) or a font such as fonts-noto-cjk."
        )
    return found


def _has_glyphs(path: str, characters: str) -> bool:
    try:
        known = font_manager.get_font(path).get_charmap()
    except (RuntimeError, OSError):
        return False
    return all(ord(character) in known for character in characters)


@cache
def _use_style() -> None:
    names = []
    for path in chinese_fonts():
        font_manager.fontManager.addfont(path)
        entry = font_manager.fontManager.ttflist[-1]
        # The regular face serves for bold text too; else matplotlib warns at every title.
        font_manager.fontManager.ttflist.append(dataclasses.replace(entry, weight=700))
        names.append(entry.name)
    mpl.rcdefaults()  # a user's matplotlibrc may switch TeX on, or anything else
    mpl.rcParams.update(
        {
            # Explicit names: an alias such as "sans-serif" would not fall back glyph by glyph.
            "font.family": ["DejaVu Sans", *dict.fromkeys(names)],
            "font.size": 8.5,
            "axes.titlesize": 9.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 8.5,
            "axes.labelcolor": BLACK,
            "text.color": BLACK,
            "axes.edgecolor": GREY,
            "axes.linewidth": 0.7,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.unicode_minus": True,
            "xtick.color": BLACK,
            "ytick.color": BLACK,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "xtick.major.width": 0.7,
            "ytick.major.width": 0.7,
            "legend.frameon": False,
            "legend.fontsize": 8,
            "lines.linewidth": 1.4,
            "lines.markersize": 5,
            "hatch.linewidth": 0.6,
            "grid.color": PALE,
            "grid.linewidth": 0.6,
            "figure.dpi": 100,
            "savefig.dpi": 130,
            "savefig.facecolor": "white",
            "svg.hashsalt": "lprnet-nb",
            "svg.fonttype": "path",
            "image.interpolation": "nearest",
        }
    )


_P = ParamSpec("_P")
_again: WeakKeyDictionary[Figure, Callable[[], Figure]] = WeakKeyDictionary()


def in_each_language(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """A figure function whose figures `redrawn` can draw in another language.

    Texts among the values, in lists and tables too, come to it in the language spoken.
    """

    @wraps(draw)
    def drawn(*values: _P.args, **named: _P.kwargs) -> Figure:
        figure = draw(*within(values, spoken()), **within(named, spoken()))
        _again[figure] = partial(drawn, *values, **named)
        return figure

    return drawn


def redrawn(figure: Figure, language: str) -> Figure:
    """A figure as it is in a language; one that cannot be drawn again as it is."""
    again = _again.get(figure)
    if again is None or language == spoken():
        return figure
    with speaking(language):
        return again()


# Colours on a dark page; what is not here (pictures, the hues of series in between) stays.
DARK = {
    "#ffffff": "#151a21",
    BLACK: "#e6e9ee",
    GREY: "#9aa6b5",
    PALE: "#3a4350",
    BLUE: "#4fa9e0",
    VERMILLION: "#f2894a",
    GREEN: "#3cc79d",
    "#CDE9DC": "#1d4a3a",
    "#F8DACB": "#5a2e1b",
    "#EFEFEF": "#2b323c",
}


def as_svg(figure: Figure, **metadata: str) -> bytes:
    """SVG in the colours of the page that shows it, light or dark; the same figure, the same bytes.

    A browser takes the dark ones by the colour scheme of the page, a printer the light ones.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, **metadata})
    rules = "".join(
        f'[style*="{what}: {light.lower()}"]{{{what}:{dark}!important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    svg = re.sub(rb"<!--.*?-->|\n\s+", _shorter, drawn.getvalue(), flags=re.S)
    return svg.replace(b"<defs>", f"<defs>{style}".encode(), 1)


def _shorter(found: re.Match[bytes]) -> bytes:
    """Nothing of a comment, and a line end of white space: a tenth of the file."""
    return b"\n" if found[0].startswith(b"\n") else b""


def blank(width: float, height: float, **options: Any) -> Figure:
    """An empty figure in the one style, its sides in inches; `options` are `Figure`'s."""
    _use_style()
    return Figure(figsize=(width, height), **{"layout": "constrained", **options})


def _figure(
    height: float, rows: int = 1, columns: int = 1, *, width: float = WIDTH, **options: Any
) -> tuple[Figure, np.ndarray]:
    figure = blank(width, height)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _rgb(image: np.ndarray) -> np.ndarray:
    return image[..., ::-1]


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _labelled_rows(axes: Axes, labels: Sequence[str]) -> np.ndarray:
    places = np.arange(len(labels))
    axes.set_yticks(places, labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    return places


def _interval_points(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    intervals: ArrayLike,
    style: Mapping,
    label: str,
    line: bool = True,
    small: bool = False,
) -> None:
    low, high = np.array(intervals).T
    axes.errorbar(
        x,
        y,
        yerr=[np.maximum(y - low, 0), np.maximum(high - y, 0)],
        capsize=1.2 if small else 3,
        markersize=3.2 if small else 5,
        color=style["color"],
        marker=style["marker"],
        elinewidth=1,
        linestyle=style["linestyle"] if line else "none",
        label=label,
    )


@in_each_language
def forest(
    rows: Sequence[Mapping], *, unit: str = "", limits: tuple[float, float] | None = None
) -> Figure:
    """Shares with Wilson 95 % intervals, one per row, and published figures beside them.

    Parameters
    ----------
    rows
        ``{"label", "right", "images"}``, and optionally ``"precision"`` (for the marker) and
        ``"published"`` (share, or None).
    """
    figure, [[axes]] = _figure(0.31 * len(rows) + 0.85)
    places = _labelled_rows(axes, [row["label"] for row in rows])
    published = False
    for place, row in zip(places, rows):
        style = PRECISION.get(row.get("precision", ""), SERIES[0])
        share = row["right"] / row["images"]
        low, high = wilson(row["right"], row["images"])
        axes.errorbar(
            share,
            place,
            xerr=[[share - low], [high - share]],
            capsize=3,
            elinewidth=1.2,
            color=style["color"],
            marker=style["marker"],
            markersize=6,
        )
        axes.annotate(
            f"{share:.3f} ({row['right']}/{row['images']})",
            (1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            annotation_clip=False,
        )
        if row.get("published") is not None:
            axes.plot(
                row["published"],
                place,
                "D",
                markerfacecolor="none",
                markersize=8,
                markeredgecolor=BLACK,
                label=None if published else phrase("published by the vendor"),
            )
            published = True
    if limits:
        axes.set_xlim(*limits)
    axes.set_xlabel(
        phrase("{unit} (bar: Wilson 95 % interval)", unit=unit or phrase("exact match"))
    )
    if published:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    return figure


@in_each_language
def crops(
    pictures: Sequence[tuple[np.ndarray, str]], *, columns: int = 4, height: float = 0.95
) -> Figure:
    """Plate crops (uint8 BGR) with what is to be said of each above it."""
    rows = -(-len(pictures) // columns)
    figure, axes = _figure(rows * height, rows, columns)
    for spot in axes.flat:
        _bare(spot)
    for spot, (image, text) in zip(axes.flat, pictures):
        spot.imshow(_rgb(image), interpolation="lanczos")
        spot.set_title(text, fontsize=8, weight="normal", loc="center", pad=3)
    return figure
