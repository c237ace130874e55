"""Every figure of the notebooks and the report, in one style.

Readable without colour (markers, hatches, line styles, numbers), safe for the colour-blind (the
palette of Okabe and Ito, 2008), units on axes, intervals drawn, Chinese from a font found by code.
Importing this module sets matplotlib's style. Functions take values and give a `Figure`; they
compute nothing that a table would want.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from ..datasets.alphabet import PROVINCES, Alphabet
from ..errors import ParameterError
from ..evaluate.accuracy import GAP
from ..evaluate.calibration import Coverage, Reliability
from ..evaluate.intervals import wilson
from ..evaluate.timings import STAGES
from ..toolchain.profile import COMPUTE, MEMORY, Profile

BLACK, GREY, PALE = "#222222", "#767676", "#D9D9D9"
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
SKY, ORANGE, PURPLE = "#56B4E9", "#E69F00", "#CC79A7"
SERIES = tuple({"color": color, "marker": marker, "linestyle": line, "hatch": hatch}
               for color, marker, line, hatch in (
                   (BLUE, "o", "-", ""), (VERMILLION, "s", "--", "////"),
                   (GREEN, "^", "-.", "...."), (ORANGE, "D", ":", "xxxx"),
                   (PURPLE, "v", (0, (5, 1)), "\\\\\\\\"), (SKY, "P", (0, (3, 1, 1, 1)), "++++"),
                   (BLACK, "X", (0, (1, 1)), "||||"), (GREY, "*", (0, (8, 2)), "oooo")))
PRECISION = {"fp32": SERIES[0], "int8": SERIES[1], "fp16": SERIES[2], "bf16": SERIES[3]}
WIDTH = 7.2  # inches: a page's text width

MINUS = "−"


def chinese_fonts() -> list[Path]:
    """Font files with Chinese glyphs: the packaged Noto Sans SC, our subset for plates, the system's.

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
        found = [Path(entry.fname) for entry in font_manager.fontManager.ttflist
                 if _has_glyphs(entry.fname, PROVINCES)][:1]
    if not found:
        raise ParameterError("no font with Chinese characters is to be had. Install the package "
                             "zhplot (pip install zhplot) or a font such as fonts-noto-cjk.")
    return found


def _has_glyphs(path: str, characters: str) -> bool:
    try:
        known = font_manager.get_font(path).get_charmap()
    except (RuntimeError, OSError):
        return False
    return all(ord(character) in known for character in characters)


def _use_style() -> None:
    names = []
    for path in chinese_fonts():
        font_manager.fontManager.addfont(path)
        entry = font_manager.fontManager.ttflist[-1]
        # The regular face serves for bold text too; else matplotlib warns at every title.
        font_manager.fontManager.ttflist.append(dataclasses.replace(entry, weight=700))
        names.append(entry.name)
    mpl.rcParams.update({
        # Explicit names: an alias such as "sans-serif" would not fall back glyph by glyph.
        "font.family": ["DejaVu Sans", *dict.fromkeys(names)], "font.size": 8.5,
        "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "axes.labelsize": 8.5, "axes.edgecolor": GREY, "axes.linewidth": 0.7,
        "axes.spines.top": False, "axes.spines.right": False, "axes.unicode_minus": True,
        "xtick.color": BLACK, "ytick.color": BLACK, "xtick.labelsize": 8, "ytick.labelsize": 8,
        "xtick.major.width": 0.7, "ytick.major.width": 0.7, "legend.frameon": False,
        "legend.fontsize": 8, "lines.linewidth": 1.4, "lines.markersize": 5,
        "hatch.linewidth": 0.6, "grid.color": PALE, "grid.linewidth": 0.6,
        "figure.dpi": 100, "savefig.dpi": 130, "savefig.facecolor": "white",
        "svg.hashsalt": "lprnet-nb", "svg.fonttype": "path", "image.interpolation": "nearest"})


_use_style()


def _figure(height: float, rows: int = 1, columns: int = 1, *, width: float = WIDTH, **options
            ) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width, height), layout="constrained")
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


# The network and its porting traps

_CHAIN = (("image", "3×24×94"), ("conv 3×3", "64×22×92"), ("pool", "64×20×90"),
          ("block", "128×20×90"), ("pool /2", "64×18×44"), ("block", "256×18×44"),
          ("block", "256×18×44"), ("pool /4", "64×16×21"), ("conv 1×4", "256×16×18"),
          ("conv 13×1", "68×4×18"))


def network_diagram() -> Figure:
    """LPRNet as data flow: the backbone, the four kept maps, and the global context."""
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.5, 9.55), ylim=(-2.42, 0.75))
    _bare(axes)
    for column, (name, shape) in enumerate(_CHAIN):
        pool = name.startswith("pool /")
        _box(axes, column, 0, f"{name}\n{shape}", VERMILLION if pool else BLUE, bold=pool)
        if column:
            _arrow(axes, (column - 0.58, 0), (column - 0.42, 0))
    for column, text in ((1, "avg-pool\n5×5"), (3, "avg-pool\n5×5"), (6, "avg-pool\n4×10"),
                         (9, "as it is")):
        _arrow(axes, (column, -0.28), (column, -0.72))
        _box(axes, column, -1, f"{text}\n÷ mean(x²)", GREEN)
        _arrow(axes, (column, -1.28), (min(max(column, 3.4), 5.6), -1.82))
    _box(axes, 4.5, -2.1, "concatenate 516×4×18  →  conv 1×1 to 68  →  mean over height  →  "
         "logits 68×18", BLACK, width=5.6)
    axes.text(-0.45, 0.6, "backbone", color=BLUE, weight="bold")
    axes.text(5.0, 0.6, "bold frame: the pools that stride over channels (trap 1)",
              color=VERMILLION)
    axes.text(7.5, -1, "global context\n(trap 2: the mean\nof what?)", color=GREEN,
              va="center", ha="center")
    return figure


def _box(axes: Axes, x: float, y: float, text: str, color: str, *, width: float = 0.84,
         bold: bool = False) -> None:
    axes.add_patch(FancyBboxPatch((x - width / 2, y - 0.25), width, 0.5, facecolor="white",
                                  boxstyle="round,pad=0,rounding_size=0.07", edgecolor=color,
                                  linewidth=2.4 if bold else 1))
    axes.text(x, y, text, ha="center", va="center", fontsize=6.6, linespacing=1.25)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=7, linewidth=0.8,
                                   color=GREY, shrinkA=0, shrinkB=0))


def workflow() -> Figure:
    """The port from weights to a report, the Chinese terms beside the English ones."""
    figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.48, 4.48), ylim=(-2.02, 0.32))
    _bare(axes)
    for place, (title, detail, color) in enumerate((
            ("weights 权重", "LPRNet, .pth", BLUE),
            ("trace 模型转换", "torch.jit.trace, ONNX", BLUE),
            ("compile 编译", "TPU-MLIR, TPU-NNTC", VERMILLION),
            ("BModel", "FP32, FP16, INT8", VERMILLION),
            ("infer 推理", "device, simulator\nor emulator", GREEN))):
        _step(axes, place, 0, title, detail, color)
        if place:
            _arrow(axes, (place - 0.55, 0), (place - 0.45, 0))
    _step(axes, 0.5, -0.85, "plates 车牌", "published, generated or your own", BLUE, width=1.88)
    _step(axes, 2, -0.85, "calibrate 校准", "thresholds, strategies", VERMILLION)
    _arrow(axes, (1.45, -0.85), (1.55, -0.85))
    _arrow(axes, (2, -0.56), (2, -0.29))
    _step(axes, 4, -0.85, "decode 解码", "CTC, plate grammar", GREEN)
    _arrow(axes, (4, -0.29), (4, -0.56))
    _step(axes, 3, -0.85, "compare 对比", "float against INT8", BLACK)
    _arrow(axes, (3.55, -0.85), (3.45, -0.85))
    _step(axes, 2, -1.7, "report 报告", "accuracy with intervals, paired tests, predicted latency, "
          "every number with its origin", BLACK, width=4.88)
    _arrow(axes, (3, -1.14), (3, -1.41))
    return figure


def _step(axes: Axes, x: float, y: float, title: str, detail: str, color: str, *,
          width: float = 0.88) -> None:
    axes.add_patch(FancyBboxPatch((x - width / 2, y - 0.28), width, 0.56, facecolor="white",
                                  boxstyle="round,pad=0,rounding_size=0.07", edgecolor=color,
                                  linewidth=1.2))
    axes.text(x, y + (0.14 if "\n" in detail else 0.1), title, ha="center", va="center",
              fontsize=7.4, weight="bold", color=color)
    axes.text(x, y - 0.12, detail, ha="center", va="center", fontsize=6, linespacing=1.15)


def pool_equivalence(before: np.ndarray, published: np.ndarray, portable: np.ndarray, step: int
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
        left.add_patch(Rectangle((-0.5, channel - 0.5), before.shape[1], 1, fill=False,
                                 edgecolor=VERMILLION, linewidth=1))
    left.set_title(f"in: every {step}{'nd' if step == 2 else 'th'} channel is kept")
    for axes, values, title in ((middle, published, "3-D max-pool"),
                                (right, portable, "2-D max-pool + slice")):
        axes.imshow(values[:shown // step], aspect="auto", cmap="Greys", vmin=0, vmax=top)
        axes.set_title(title)
    worst = float(np.abs(published - portable).max())
    right.set_xlabel(f"column\n(largest difference: {worst:g})")
    left.set_xlabel("column")
    middle.set_xlabel("column")
    left.set_ylabel("channel")
    for axes in (left, middle, right):
        axes.spines[:].set_visible(False)
    return figure


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
        axes.plot(max(difference, floor), place, "o" if not exact else "D", color=BLUE,
                  markerfacecolor="white" if exact else BLUE, markersize=6)
        axes.annotate("bit-identical" if exact else f"{difference:.1e}",
                      (max(difference, floor), place), xytext=(8, 0), textcoords="offset points",
                      va="center", fontsize=8)
    axes.set(xscale="log", xlim=(floor / 2, 10))
    axes.set_xlabel("largest absolute difference of a logit (logits span tens; 1 would matter)")
    return figure


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
        _interval_points(axes, x, y, [wilson(r["right"], r["images"]) for r in chosen], style,
                         f"mean over the {mean}" + (" (as published)" if mean == "batch" else ""))
        for place, value in zip(x, y):
            axes.annotate(f"{value:.3f}", (place, value), textcoords="offset points",
                          xytext=(-6, 7) if shift < 0 else (6, -7), va="center",
                          ha="right" if shift < 0 else "left", fontsize=8)
    axes.set_xticks(range(len(batches)), [str(b) for b in batches])
    axes.set_xlim(-0.5, len(batches) - 0.5)
    axes.set_xlabel("images in a batch")
    axes.set_ylabel("exact match (95 % interval)")
    axes.grid(axis="y")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=2)
    return figure


def _interval_points(axes: Axes, x: np.ndarray, y: np.ndarray,
                     intervals: Sequence[tuple[float, float]], style: Mapping, label: str,
                     line: bool = True, small: bool = False) -> None:
    low, high = np.array(intervals).T
    axes.errorbar(x, y, yerr=[np.maximum(y - low, 0), np.maximum(high - y, 0)],
                  capsize=1.2 if small else 3, markersize=3.2 if small else 5,
                  color=style["color"], marker=style["marker"], elinewidth=1,
                  linestyle=style["linestyle"] if line else "none", label=label)


def forest(rows: Sequence[Mapping], *, unit: str = "exact match", limits: tuple[float, float]
           | None = None) -> Figure:
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
        axes.errorbar(share, place, xerr=[[share - low], [high - share]], capsize=3, elinewidth=1.2,
                      color=style["color"], marker=style["marker"], markersize=6)
        axes.annotate(f"{share:.3f} ({row['right']}/{row['images']})", (1.0, place),
                      xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=7.5,
                      annotation_clip=False)
        if row.get("published") is not None:
            axes.plot(row["published"], place, "D", markerfacecolor="none", markersize=8,
                      markeredgecolor=BLACK, label=None if published else "published by the vendor")
            published = True
    if limits:
        axes.set_xlim(*limits)
    axes.set_xlabel(f"{unit} (bar: Wilson 95 % interval)")
    if published:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    return figure


def crops(pictures: Sequence[tuple[np.ndarray, str]], *, columns: int = 4, height: float = 0.95
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


def subnormals(layers: Sequence[str], shares: Sequence[float],
               times: Mapping[str, float] | None = None) -> Figure:
    """Share of subnormal values by layer, and what they cost.

    Parameters
    ----------
    times
        Milliseconds an image by name of the variant.
    """
    figure, found = _figure(2.6, 1, 2 if times else 1, width_ratios=(3, 1) if times else None)
    left = found[0, 0]
    left.bar(range(len(layers)), 100 * np.asarray(shares), color=BLUE, width=0.8)
    left.set_xticks(range(len(layers)), layers, rotation=60, ha="right", fontsize=6.5,
                    rotation_mode="anchor")
    left.set_ylabel("subnormal values\n(% of the layer)")
    left.grid(axis="y")
    left.set_axisbelow(True)
    if times:
        right = found[0, 1]
        for place, (name, value) in enumerate(times.items()):
            style = SERIES[1 - place % 2]
            right.bar(place, value, color="white", edgecolor=style["color"], hatch=style["hatch"])
            right.annotate(f"{value:.1f}", (place, value), xytext=(0, 2), ha="center",
                           textcoords="offset points")
        right.set_xticks(range(len(times)), list(times))
        right.set_ylabel("time (ms an image,\ntorch, one thread)")
    return figure


# Compiled models

def latency(rows: Sequence[Mapping]) -> Figure:
    """Predicted latency by chip and precision on a logarithmic axis, measured beside it.

    Parameters
    ----------
    rows
        ``{"label", "precision", "predicted_ms" (None: the compiler has none), "published_ms"}``.
    """
    figure, [[axes]] = _figure(0.33 * len(rows) + 0.95)
    places = _labelled_rows(axes, [row["label"] for row in rows])
    shown: set[str] = set()

    def once(label: str) -> str | None:
        return None if label in shown else shown.add(label) or label

    for place, row in zip(places, rows):
        style = PRECISION[row["precision"]]
        if row["predicted_ms"] is None:
            axes.annotate("no prediction for this chip", (0.02, place), va="center", color=GREY,
                          xycoords=("axes fraction", "data"), fontsize=7.5, style="italic")
        else:
            axes.plot(row["predicted_ms"], place, style["marker"], color=style["color"],
                      markersize=7, label=once("predicted by the compiler"))
            axes.annotate(f"{row['predicted_ms']:.3f}", (row["predicted_ms"], place), va="center",
                          xytext=(8, 0), textcoords="offset points", fontsize=7.5)
        if row.get("published_ms"):
            axes.plot(row["published_ms"], place, "D", markerfacecolor="none", markersize=7,
                      markeredgecolor=BLACK, label=once("measured by the vendor (bmrt_test)"))
            axes.annotate(f"{row['published_ms']:.2f}", (row["published_ms"], place), va="center",
                          xytext=(8, 0), textcoords="offset points", fontsize=7.5)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.3, high * 1.8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("latency (ms an image)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return figure


_KINDS = (("Conv2D", BLUE, ""), ("Pool2D", GREEN, "...."), ("Reduce", PURPLE, "xxxx"),
          ("Div", ORANGE, "\\\\\\\\"), ("Load", GREY, "////"), ("Store", SKY, "----"),
          ("other", PALE, ""))


def timeline(profiles: Mapping[str, Profile]) -> Figure:
    """What the two units of the chip do over the predicted call, one pair of lanes per model."""
    figure, axes = _figure(0.8 * len(profiles) + 0.75, len(profiles), 1)
    drawn: dict[str, Rectangle] = {}
    for spot, (name, profile) in zip(axes[:, 0], profiles.items()):
        clock = profile.cycles / profile.milliseconds / 1000  # cycles a microsecond
        for kind, color, hatch in _KINDS:
            for lane, unit in enumerate((COMPUTE, MEMORY)):
                spans = [(c.start / clock, c.cycles / clock) for c in profile.commands
                         if c.unit == unit and _kind(c.layer) == kind]
                if spans:
                    bars = spot.broken_barh(spans, (lane - 0.4, 0.8), facecolor=color, hatch=hatch,
                                            edgecolor="white", linewidth=0.2)
                    drawn.setdefault(kind, bars)
        busy = profile.busy()
        spot.set_yticks([0, 1], [f"compute {busy[COMPUTE]:.0%}", f"memory {busy[MEMORY]:.0%}"])
        spot.set(ylim=(1.55, -0.55), xlim=(0, 1000 * profile.milliseconds))
        spot.tick_params(axis="y", length=0)
        spot.set_title(f"{name}: {1000 * profile.milliseconds:.0f} µs", fontsize=8.5)
    axes[-1, 0].set_xlabel("predicted time (µs; each model has its own scale)")
    figure.legend([drawn[kind] for kind, *_ in _KINDS if kind in drawn],
                  [kind for kind, *_ in _KINDS if kind in drawn], loc="outside upper center",
                  ncols=len(_KINDS))
    return figure


def _kind(layer: str) -> str:
    kind = layer.rsplit("_", 1)[0]
    return kind if kind in [name for name, *_ in _KINDS] else "other"


def slowest_layers(profile: Profile, limit: int = 15) -> Figure:
    """The layers that take most cycles, compute and memory told apart."""
    rows = sorted(profile.by_layer(), key=lambda row: -row["cycles"])[:limit]
    figure, [[axes]] = _figure(0.22 * len(rows) + 0.8, width=5.8)
    places = _labelled_rows(axes, [str(row["name"]) for row in rows])
    clock = profile.cycles / profile.milliseconds / 1000
    for unit, style in ((COMPUTE, SERIES[0]), (MEMORY, SERIES[1])):
        chosen = [(p, row["cycles"] / clock) for p, row in zip(places, rows) if row["unit"] == unit]
        if chosen:
            y, width = zip(*chosen)
            axes.barh(y, width, height=0.7, color="white" if style["hatch"] else style["color"],
                      edgecolor=style["color"], hatch=style["hatch"], label=unit)
    axes.set_xlabel("predicted time (µs)")
    axes.legend(loc="lower right")
    return figure


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
    for part, style in zip(("weight", "runtime", "instruct"), SERIES):
        size = np.array([row[part] for row in rows]) / 1e6
        axes.barh(places, size, left=left, height=0.62, label=part, edgecolor=style["color"],
                  color="white" if style["hatch"] else style["color"], hatch=style["hatch"])
        left += size
    for place, total in zip(places, left):
        axes.annotate(f"{total:.2f}", (total, place), xytext=(4, 0), va="center",
                      textcoords="offset points", fontsize=8)
    axes.set_xlabel("device memory (MB)")
    axes.set_xlim(0, left.max() * 1.1)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return figure


# Quantization

def histogram(values: np.ndarray, thresholds: Mapping[str, float], *, title: str, levels: int = 255,
              channels: str = "") -> Figure:
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
        axes.plot(threshold, 0.97, style["marker"], color=style["color"], clip_on=False,
                  transform=axes.get_xaxis_transform(), linestyle="none",
                  label=f"{name} {threshold:.4g}: {100 * beyond:.2g} % saturate")
    axes.set(xlabel="activation (absolute value)", ylabel="count", xlim=(0, top))
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.97), handletextpad=0.3, fontsize=7.5,
                frameon=True, facecolor="white", framealpha=0.85, edgecolor="none")


def quantization_noise(values: np.ndarray, thresholds: np.ndarray, levels: int = 255
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


def draw_noise(axes: Axes, values: np.ndarray, thresholds: Mapping[str, float], levels: int) -> None:
    """Saturation against resolution: their noise over the threshold, and where methods stand."""
    flat = np.abs(np.asarray(values, np.float64)).ravel()
    if len(flat) > 200_000:
        flat = flat[:: len(flat) // 200_000 + 1]
    top = max(flat.max(), *thresholds.values()) or 1.0
    grid = np.geomspace(top / 12, top * 1.05, 60)
    saturation, rounding = quantization_noise(flat, grid, levels)
    axes.plot(grid, rounding, color=BLUE, linestyle="--", label="rounding (resolution)")
    axes.plot(grid, np.where(saturation > 0, saturation, np.nan), color=VERMILLION,
              linestyle=":", label="saturation")
    axes.plot(grid, saturation + rounding, color=BLACK, label="both")
    total = sum(quantization_noise(flat, np.array(list(thresholds.values())), levels))
    for (name, threshold), noise, style in zip(thresholds.items(), total, SERIES):
        axes.plot(threshold, noise, style["marker"], color=style["color"], markersize=6,
                  zorder=5)
    both = saturation + rounding
    axes.set(xscale="log", yscale="log", xlabel="threshold", ylabel="mean square error",
             ylim=(both.min() / 30, both.max() * 2))
    axes.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.legend(loc="lower left", fontsize=7)


def draw_readings(axes: np.ndarray, images: np.ndarray, labels: Sequence[str],
                  texts: Sequence[str]) -> None:
    """Plates with what was read of each below it, wrong readings marked."""
    for spot in axes.flat:
        _bare(spot)
    for spot, image, label, text in zip(axes.flat, images, labels, texts):
        good = text == label
        spot.imshow(_rgb(image), interpolation="lanczos")
        spot.set_xlabel(f"{text or '(nothing)'} {'✓' if good else '✗'}", labelpad=2,
                        color=BLACK if good else VERMILLION,
                        weight="normal" if good else "bold")


def channel_ranges(maxima: np.ndarray, step: int, scale: float, kept_scale: float | None = None
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
    for mask, style, label in ((kept, SERIES[1], "kept by the pool"),
                               (~kept, SERIES[0], "global context only")):
        values = np.sort(maxima[mask & alive])[::-1]
        x = place + np.arange(len(values))
        axes.vlines(x, bottom, values, color=style["color"], linewidth=1,
                    linestyle=style["linestyle"])
        axes.plot(x, values, style["marker"], color=style["color"], markersize=6,
                  label=f"{label}: {len(values)} of {mask.sum()} alive")
        place += len(values) + 1
    lines = [(255 * scale, "-", f"largest INT8 value, {255 * scale:.3g}"),
             (scale, "--", f"one step of the shared scale, {scale:.2g}")]
    if kept_scale:
        lines.append((kept_scale, ":", f"one step of the kept channels' own scale, "
                                       f"{kept_scale:.2g}"))
    for value, line, text in lines:
        axes.axhline(value, color=BLACK, linestyle=line, linewidth=0.9)
        axes.annotate(text, (1, value), xycoords=("axes fraction", "data"), ha="left", va="center",
                      xytext=(4, 0), textcoords="offset points", fontsize=7.5,
                      annotation_clip=False)
    axes.set(yscale="log", ylabel="largest activation", ylim=(bottom, 2 * maxima.max()),
             xlabel="channels that are ever active, widest first")
    axes.set_xticks([])
    axes.set_title(f"widest kept channel: {maxima[kept].max() / scale:.0f} of 255 levels",
                   fontsize=8.5)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def layer_fidelity(layers: Sequence[str], series: Mapping[str, Sequence[float | None]], *,
                   unit: str = "SQNR (dB)") -> Figure:
    """How near each layer comes to float, one series per model; gaps where a layer is absent."""
    figure, [[axes]] = _figure(3.1)
    for (name, values), style in zip(series.items(), SERIES):
        there = [(k, v) for k, v in enumerate(values) if v is not None]
        axes.plot(*zip(*there), marker=style["marker"], color=style["color"],
                  linestyle=style["linestyle"], label=name, markersize=4)
    axes.set_xticks(range(len(layers)), layers, rotation=60, ha="right", rotation_mode="anchor",
                    fontsize=6.5)
    axes.set_ylabel(unit)
    axes.grid(axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(4, len(series)),
                borderaxespad=0.2)
    return figure


# Decoding

def ctc_paths(image: np.ndarray, log_probs: np.ndarray, alphabet: Alphabet,
              paths: Mapping[str, np.ndarray], *, title: str = "", highlight: int | None = None
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
    seen = set(np.flatnonzero(np.exp(log_probs).max(axis=1) > 0.02))
    for path in paths.values():
        seen |= set(np.asarray(path).tolist())
    shown = sorted(seen - {alphabet.blank}) + [alphabet.blank]
    figure = Figure(figsize=(WIDTH, 1.5 + 0.17 * len(shown)), layout="constrained")
    top, axes = figure.subplots(2, 1, height_ratios=(1.05, 0.17 * len(shown)))
    _bare(top)
    top.imshow(_rgb(image), aspect="auto", interpolation="lanczos")
    top.set_title(title)
    mesh = axes.imshow(np.exp(log_probs[shown]), aspect="auto", cmap="Greys", vmin=0, vmax=1)
    row = {index: place for place, index in enumerate(shown)}
    for number, ((name, path), style) in enumerate(zip(paths.items(), SERIES)):
        shift = 0.14 * (number - (len(paths) - 1) / 2)
        axes.plot(np.arange(steps) + shift, [row[int(k)] + shift for k in path], label=name,
                  color=style["color"], marker=style["marker"], linestyle=style["linestyle"],
                  markersize=6 - number, markerfacecolor="white" if number % 2 else style["color"],
                  linewidth=1.1)
    if highlight is not None:
        axes.axvspan(highlight - 0.5, highlight + 0.5, facecolor="none", edgecolor=BLACK,
                     linewidth=1.6)
    axes.set_yticks(range(len(shown)), [alphabet.characters[k] if k != alphabet.blank else "blank"
                                        for k in shown])
    axes.set_xticks(range(steps))
    axes.set_xlabel("time step (18 from left to right over the plate)")
    axes.set_ylabel("class")
    figure.legend(loc="outside lower center", ncols=len(paths))
    figure.colorbar(mesh, ax=[top, axes], label="probability", pad=0.01, fraction=0.03, aspect=30)
    return figure


def step_text(log_probs: np.ndarray, alphabet: Alphabet, step: int, limit: int = 3) -> str:
    """The most probable classes of one time step, ``[C]``, in words."""
    best = np.argsort(-log_probs)[:limit]
    return f"step {step}: " + ", ".join(
        f"{'blank' if k == alphabet.blank else alphabet.characters[k]} {np.exp(log_probs[k]):.2f}"
        for k in best)


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
        spot.barh(places, width, height=0.6, edgecolor=style["color"], hatch=style["hatch"],
                  color="white" if style["hatch"] else style["color"])
        for place, row in zip(places, rows):
            text = "not timed" if row[stage] is None else f"{row[stage]:.3g}"
            spot.annotate(text, (row[stage] or 0.0, place), xytext=(3, 0), va="center",
                          textcoords="offset points", fontsize=7.5)
        spot.set_xlim(0, 1.45 * max(width.max(), 1e-9))
        spot.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
        spot.set_title(stage, fontsize=8.5)
    figure.supxlabel("time on this machine (ms an image; each stage has its own scale)",
                     fontsize=8.5)
    return figure


# Comparison

def paired(rows: Sequence[Mapping]) -> Figure:
    """Plates that only one of two models reads right, back to back, with the exact p-value.

    Parameters
    ----------
    rows
        ``{"label", "only_float", "only_other", "p"}``.
    """
    figure, [[axes]] = _figure(0.36 * len(rows) + 0.95)
    places = _labelled_rows(axes, [row["label"] for row in rows])
    lost = np.array([row["only_float"] for row in rows])
    won = np.array([row["only_other"] for row in rows])
    axes.barh(places, -lost, height=0.6, color="white", edgecolor=VERMILLION, hatch="////",
              label="only float reads it right")
    axes.barh(places, won, height=0.6, color=BLUE, label="only INT8 reads it right")
    for place, row in zip(places, rows):
        for value, count, side in ((-row["only_float"], row["only_float"], "right"),
                                   (row["only_other"], row["only_other"], "left")):
            axes.annotate(str(count), (value, place), xytext=(-3 if side == "right" else 3, 0),
                          textcoords="offset points", ha=side, va="center", fontsize=8)
        axes.annotate(_p_value(row["p"]), (1, place), xycoords=("axes fraction", "data"),
                      xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5,
                      annotation_clip=False)
    reach = 1.2 * max(lost.max(initial=1), won.max(initial=1), 1)
    axes.set_xlim(-reach, reach)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(9, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
    axes.set_xlabel("plates")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return figure


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def per_character(rows: Mapping[str, Mapping[str, tuple[int, int]]]) -> Figure:
    """Accuracy of each character with Wilson intervals, one series per model.

    Parameters
    ----------
    rows
        By model: ``{character: (right, of)}``; characters of the first model, most errors first.
    """
    first = next(iter(rows.values()))
    characters = sorted(first, key=lambda c: (min(r[c][0] / r[c][1] for r in rows.values()
                                                  if c in r), c))
    figure, [[axes]] = _figure(2.6)
    spread = 0.66 / max(1, len(rows))
    for number, ((name, counts), style) in enumerate(zip(rows.items(), SERIES)):
        x = np.array([k for k, c in enumerate(characters) if c in counts])
        pairs = [counts[c] for c in characters if c in counts]
        y = np.array([right / of for right, of in pairs])
        _interval_points(axes, x + spread * (number - (len(rows) - 1) / 2), y,
                         [wilson(*pair) for pair in pairs], style, name, line=False, small=True)
    axes.set_xticks(range(len(characters)), [f"{c}\n{first[c][1]}" for c in characters],
                    fontsize=7)
    axes.set_xlabel("character, and how often the labels have it")
    axes.set_ylabel("read right (95 % interval)")
    axes.set_xlim(-0.7, len(characters) - 0.3)
    axes.grid(axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(rows), borderaxespad=0.2)
    return figure


def confusions(errors: Mapping[str, Sequence[tuple[str, str, int]]]) -> Figure:
    """The most frequent errors side by side, as "label → reading" with their counts.

    Parameters
    ----------
    errors
        By model: ``(character, read as, times)``, where `GAP` stands for none.
    """
    total: dict[tuple[str, str], int] = {}
    for rows in errors.values():
        for a, b, times in rows:
            total[a, b] = total.get((a, b), 0) + times
    pairs = sorted(total, key=lambda pair: (-total[pair], pair))[:14]
    figure, [[axes]] = _figure(0.26 * max(2, len(pairs)) + 0.95, width=6.2)
    if not pairs:
        axes.text(0.5, 0.5, "no errors", ha="center", transform=axes.transAxes)
        _bare(axes)
        return figure
    places = _labelled_rows(axes, [_error_text(*pair) for pair in pairs])
    height = 0.8 / len(errors)
    for number, ((name, rows), style) in enumerate(zip(errors.items(), SERIES)):
        times = {(a, b): n for a, b, n in rows}
        axes.barh(places + height * (number - (len(errors) - 1) / 2),
                  [times.get(pair, 0) for pair in pairs], height=height, label=name,
                  color="white" if style["hatch"] else style["color"], hatch=style["hatch"],
                  edgecolor=style["color"])
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axes.set_xlabel("times")
    axes.legend(loc="lower right")
    return figure


def _error_text(label: str, reading: str) -> str:
    if reading == GAP:
        return f"{label} dropped"
    if label == GAP:
        return f"{reading} added"
    return f"{label} → {reading}"


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
        axes.plot(loss[~wrong], y[~wrong], ".", color=BLUE, markersize=3, alpha=0.6,
                  label="same text as float" if place == 0 else None)
        axes.plot(loss[wrong], y[wrong], "x", color=VERMILLION, markersize=5,
                  label="text differs from float's" if place == 0 else None)
        axes.plot([np.median(loss)] * 2, [place - 0.36, place + 0.36], color=BLACK, linewidth=1.6,
                  label="median" if place == 0 else None)
    axes.set_xscale("log")
    axes.set_xlabel(f"1 {MINUS} cosine of the logits with float's, per image (left is nearer)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return figure


def gallery(images: np.ndarray, labels: Sequence[str], readings: Mapping[str, Sequence[str]], *,
            limit: int = 12) -> Figure:
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
        axes.flat[0].text(0, 0.5, "no plate to show", transform=axes.flat[0].transAxes)
    for index in range(count):
        spot = axes.flat[index]
        spot.imshow(_rgb(images[index]), interpolation="lanczos")
        lines = [("label", labels[index])] + [(name, texts[index])
                                              for name, texts in readings.items()]
        for number, (name, text) in enumerate(lines):
            good = text == labels[index]
            spot.annotate(f"{name}", (0, 0), xycoords="axes fraction", xytext=(0, -10 - 11 * number),
                          textcoords="offset points", fontsize=7, color=GREY)
            spot.annotate(text or "(nothing)", (text_at, 0), xycoords="axes fraction",
                          xytext=(0, -10 - 11 * number), textcoords="offset points", fontsize=8.5,
                          weight="normal" if good else "bold", color=BLACK if good else VERMILLION)
            if number:
                spot.annotate("✓" if good else "✗", (1, 0), xycoords="axes fraction",
                              xytext=(-2, -10 - 11 * number), textcoords="offset points",
                              fontsize=8, ha="right", color=GREEN if good else VERMILLION)
    return figure


def reliability(models: Mapping[str, Reliability]) -> Figure:
    """Accuracy against confidence in bins, with intervals and counts, one panel per model."""
    figure, axes = _figure(2.6, 1, max(1, len(models)), sharey=True)
    for spot, (name, bins), style in zip(axes[0], models.items(), SERIES):
        spot.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        _interval_points(spot, bins.confidence, bins.accuracy, bins.ci95, style, name, line=False)
        for x, y, count in zip(bins.confidence, bins.accuracy, bins.count):
            spot.annotate(str(count), (x, y), xytext=(5, -8), textcoords="offset points",
                          fontsize=6.5, color=GREY)
        spot.set(xlim=(-0.02, 1.06), ylim=(-0.02, 1.06), xlabel="confidence")
        spot.annotate(f"ECE {bins.ece:.3f}", (0.98, 0.04), xycoords="axes fraction", ha="right",
                      fontsize=8)
        spot.set_title(name, fontsize=8.5)
        spot.grid(axis="both")
    axes[0, 0].set_ylabel("read right (95 % interval)")
    return figure


def accuracy_coverage(curves: Mapping[str, Coverage]) -> Figure:
    """Accuracy of the plates that are accepted when the least certain are refused."""
    figure, [[axes]] = _figure(2.8, width=5.6)
    for (name, curve), style in zip(curves.items(), SERIES):
        shown = curve.coverage >= 0.3
        axes.step(100 * curve.coverage[shown], curve.accuracy[shown], where="post",
                  color=style["color"], linestyle=style["linestyle"], marker=style["marker"],
                  markersize=4, markevery=0.15, label=name)
    axes.set(xlabel="accepted plates (%)", ylabel="exact match of the accepted", xlim=(101, 30))
    axes.grid(axis="both")
    axes.legend(loc="lower right")
    return figure
