"""Figures: glyphs instead of boxes, intervals where they belong, light, legible without colour."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lprnet_nb import figures
from lprnet_nb.datasets.alphabet import PROVINCES, PUBLISHED
from lprnet_nb.decode import log_softmax
from lprnet_nb.evaluate import wilson
from lprnet_nb.evaluate.calibration import accuracy_coverage, reliability
from lprnet_nb.figures import style
from lprnet_nb.language import phrase, spoken
from lprnet_nb.toolchain.profile import parse_profile

TERMS = "量化校准门限饱和分辨率解码空白符误差置信度移植追踪预处理补边下沉训练后学警港澳挂使领"
PROFILE = parse_profile(
    "Load_1|GDMA_TENSOR|s:0|b:0|g:1|e:399|t:400|dr:0|sz:64|bw:1\n"
    "Conv2D_2|CONV|s:400|b:1|g:1|e:799|t:400\n"
    "API_END total_cycle:1000|b:2|g:3\nflops: 12, runtime: 0.001ms,"
)
RNG = np.random.default_rng(0)
# As smooth as photographs; noise would weigh more than any plate.
IMAGES = np.tile(np.linspace(0, 255, 94, dtype=np.uint8)[None, None, :, None], (4, 24, 1, 3))
LABELS = ["京PL3N67", "皖A11234", "粤B55555", "新Z0000X"]
LOGITS = RNG.normal(0, 4, (4, 68, 18)).astype(np.float32)
SURE, RIGHT = RNG.random(60), RNG.random(60) < 0.8

DRAWN: dict[str, Callable[[], Figure]] = {
    "network": figures.network_diagram,
    "pools": lambda: figures.pool_equivalence(
        RNG.random((128, 90)), np.ones((64, 44)), np.ones((64, 44)), 2
    ),
    "agreement": lambda: figures.agreement(["TorchScript 追踪", "ONNX"], [0.0, 2e-5]),
    "coupling": lambda: figures.coupling(
        [
            {"batch": b, "batch_mean": m, "right": 890 + b, "images": 1000}
            for b in (1, 4)
            for m in ("batch", "image")
        ]
    ),
    "forest": lambda: figures.forest(
        [
            {
                "label": "BM1684X fp32",
                "right": 894,
                "images": 1000,
                "precision": "fp32",
                "published": 0.894,
            },
            {
                "label": "BM1684X int8 量化",
                "right": 1000,
                "images": 1000,
                "precision": "int8",
                "published": None,
            },
        ]
    ),
    "crops": lambda: figures.crops(list(zip(IMAGES, LABELS))),
    "subnormals": lambda: figures.subnormals(["a", "b"], [0.5, 0.0], {"x": 5.0, "y": 1.0}),
    "latency": lambda: figures.latency(
        [
            {"label": "a", "precision": "fp32", "predicted_ms": 0.2, "published_ms": 0.8},
            {"label": "b", "precision": "int8", "predicted_ms": None, "published_ms": None},
        ]
    ),
    "timeline": lambda: figures.timeline({"a": PROFILE, "b": PROFILE}),
    "slowest": lambda: figures.slowest_layers(PROFILE),
    "memory": lambda: figures.memory([{"label": "a", "weight": 1, "instruct": 2, "runtime": 3}]),
    "histogram": lambda: figures.histogram(
        RNG.exponential(5, 9000), {"kl": 20.0, "max": 60.0}, title="layer 13"
    ),
    "channels": lambda: figures.channel_ranges(
        np.r_[np.zeros(100), RNG.random(156) * 9], 4, 0.5, 0.02
    ),
    "layers": lambda: figures.layer_fidelity(
        ["a", "b", "c"], {"kl": [1, None, 3], "mse": [2, 2, 2]}
    ),
    "costs": lambda: figures.layer_costs(
        ["a", "b"], [0.7, 0.2], [("fork", 29.0), ("float", 28.0)], int8_db=26.0, without_db=29.5
    ),
    "paths": lambda: figures.ctc_paths(
        IMAGES[0],
        log_softmax(LOGITS)[0],
        PUBLISHED,
        {"greedy: 皖": LOGITS[0].argmax(0)},
        highlight=3,
    ),
    "timings": lambda: figures.timings(
        [{"label": "a", "decode": 1.0, "preprocess": None, "inference": 3.0, "postprocess": 0.1}]
    ),
    "paired": lambda: figures.paired(
        [{"label": "a", "only_float": 30, "only_other": 0, "p": 0.5, "p_holm": 1e-9}]
    ),
    "characters": lambda: figures.per_character(
        {"float": {"皖": (9, 10), "1": (4, 8)}, "int8": {"皖": (8, 10)}}
    ),
    "confusions": lambda: figures.confusions(
        {"float": [("1", "∅", 3), ("∅", "皖", 1)], "int8": [("皖", "苏", 2)]}
    ),
    "no confusions": lambda: figures.confusions({"float": []}),
    "fidelity": lambda: figures.fidelity({"kl": 1 - RNG.random(50) / 99}, {"kl": RIGHT[:50]}),
    "gallery": lambda: figures.gallery(
        IMAGES, LABELS, {"float": LABELS, "int8": ["", *LABELS[1:]]}
    ),
    "empty gallery": lambda: figures.gallery(IMAGES[:0], [], {"float": []}),
    "reliability": lambda: figures.reliability({"float": reliability(SURE, RIGHT, bins=4)}),
    "coverage": lambda: figures.accuracy_coverage({"float": accuracy_coverage(SURE, RIGHT)}),
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_is_light_and_has_all_its_glyphs(name: str, caplog) -> None:
    picture = io.BytesIO()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")  # "Glyph ... missing", layouts that collapse, log of nothing
        DRAWN[name]().savefig(picture, format="png", dpi=110)
        chinese = figures.redrawn(DRAWN[name](), "zh")
        chinese.savefig(io.BytesIO(), format="png", dpi=60)
    assert not caplog.records
    assert len(picture.getvalue()) < 200_000


def test_a_figure_is_drawn_again_in_the_other_language() -> None:
    """With what is handed to it in both; the first stays as it is."""
    rows = [{"label": phrase("float"), "right": 8, "images": 9}]
    english = figures.forest(rows)
    chinese = figures.redrawn(english, "zh")
    assert english.axes[0].get_xlabel() == "exact match (bar: Wilson 95 % interval)"
    assert chinese.axes[0].get_xlabel() == "整牌准确率（横线：Wilson 95 % 区间）"
    assert [one.get_text() for one in chinese.axes[0].get_yticklabels()] == ["浮点"]
    assert figures.redrawn(english, "en") is english and spoken() == "en"


def _light(color: str) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("name", ["forest", "paired", "histogram", "reliability"])
def test_a_figure_can_be_read_on_a_dark_page(name: str) -> None:
    """Every colour, text without one of its own too, stands out against the dark ground."""
    svg = figures.as_svg(DRAWN[name]()).decode()
    rules = dict(re.findall(r'\[style\*="fill: (#\w+)"\]\{fill:(#\w+)!important\}', svg))
    ground, body = rules["#ffffff"], svg.partition("</style>")[2]
    used = set(re.findall(r"(?:fill|stroke): (#\w{6})", body)) - {"#ffffff"}
    soft = {style.PALE.lower()}  # grids and bars' grounds
    assert used - soft and "prefers-color-scheme: dark" in svg
    for color in used - soft:
        dark = rules.get(color, color)
        assert (_light(dark) + 0.05) / (_light(ground) + 0.05) > 3, (color, dark)
    texts = re.findall(r'<g id="text_\d+">\s*<g ([^>]*)>', body)
    assert texts and all("fill: #" in one for one in texts)


def test_chinese_comes_from_a_font_that_was_found() -> None:
    path = figures.chinese_fonts()[0]
    known = font_manager.get_font(path).get_charmap()
    assert not [c for c in PROVINCES + TERMS if ord(c) not in known]


def test_the_packaged_subset_is_enough_for_plates(monkeypatch) -> None:
    monkeypatch.setattr(style.importlib.util, "find_spec", lambda name: None)
    known = font_manager.get_font(figures.chinese_fonts()[0]).get_charmap()
    assert not [c for c in PROVINCES if ord(c) not in known]


def test_the_same_figure_gives_the_same_bytes() -> None:
    drawn = []
    for _ in range(2):
        svg = io.BytesIO()
        DRAWN["forest"]().savefig(svg, format="svg", metadata={"Date": None})
        drawn.append(svg.getvalue())
    assert drawn[0] == drawn[1]


def test_series_differ_without_colour() -> None:
    for kind in ("marker", "linestyle", "hatch"):
        assert len({str(each[kind]) for each in style.SERIES}) == len(style.SERIES)
    # Side by side most often: they differ in lightness too.
    grey = [np.dot(to_rgb(each["color"]), (0.299, 0.587, 0.114)) for each in style.SERIES[:2]]
    assert abs(grey[0] - grey[1]) > 0.05


def test_forest_draws_wilson_intervals_and_published_figures() -> None:
    axes = DRAWN["forest"]().axes[0]
    bars = [c.get_segments()[0] for c in axes.collections]
    for bar, right in zip(bars, (894, 1000)):
        assert bar[:, 0] == pytest.approx(wilson(right, 1000))
    published = [line for line in axes.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in published] == [0.894]


def test_paired_bars_go_both_ways() -> None:
    axes = DRAWN["paired"]().axes[0]
    assert [patch.get_width() for patch in axes.patches] == [-30, 0]
    assert "p < 0.001" in [text.get_text() for text in axes.texts]


def test_noise_of_a_threshold() -> None:
    values = np.array([0.0, 0.4, 1.0, 3.0])
    saturation, rounding = figures.quantization_noise(values, np.array([1.0, 3.0]), levels=1)
    assert saturation.tolist() == [1.0, 0.0]  # (3 - 1)^2 / 4
    # Steps of 1 and of 3: 0.4 → 0; then 0.4 → 0 and 1 → 0.
    assert rounding == pytest.approx([0.16 / 4, (0.16 + 1.0) / 4])


def test_axes_have_units() -> None:
    assert "µs" in DRAWN["timeline"]().axes[-1].get_xlabel()
    assert "MB" in DRAWN["memory"]().axes[0].get_xlabel()
    assert "ms" in DRAWN["latency"]().axes[0].get_xlabel()
    assert "dB" in DRAWN["layers"]().axes[0].get_ylabel()


def test_a_step_in_words() -> None:
    log_probs = np.log(np.full(68, 0.1 / 66))
    log_probs[[PUBLISHED.blank, 12]] = np.log([0.6, 0.3])
    assert figures.step_text(log_probs, PUBLISHED, 4, limit=2) == "step 4: blank 0.60, 皖 0.30"
