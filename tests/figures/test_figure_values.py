"""Every figure's data, read back from its lines, bars, pictures and texts."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.container import ErrorbarContainer

from lprnet_nb.datasets.alphabet import PUBLISHED
from lprnet_nb.evaluate.calibration import accuracy_coverage, reliability
from lprnet_nb.evaluate.intervals import wilson
from lprnet_nb.figures.comparison import accuracy_coverage as draw_coverage
from lprnet_nb.figures.comparison import confusions, fidelity, gallery, paired, per_character
from lprnet_nb.figures.comparison import reliability as draw_reliability
from lprnet_nb.figures.compiled import latency, memory, slowest_layers, timeline
from lprnet_nb.figures.decoding import ctc_paths, timings
from lprnet_nb.figures.network import agreement, coupling, pool_equivalence, subnormals
from lprnet_nb.figures.quantization import (
    channel_ranges,
    histogram,
    layer_costs,
    layer_fidelity,
    quantization_noise,
)
from lprnet_nb.figures.study import accuracy as study_accuracy
from lprnet_nb.figures.study import company, pareto, releases, roles
from lprnet_nb.figures.style import crops, forest
from lprnet_nb.toolchain.profile import COMPUTE, MEMORY, Command, Profile
from lprnet_nb.toolchain.releases import VERSIONS

RNG = np.random.default_rng(11)


def labels(axes: Axes, which: str = "y") -> list[str]:
    return [text.get_text() for text in getattr(axes, f"get_{which}ticklabels")()]


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def marks(axes: Axes, marker: str | None = None) -> list[tuple[float, float]]:
    """Points of lines that are marked, in the order of drawing."""
    return [
        tuple(point)
        for line in axes.lines
        if line.get_marker() not in ("None", "", None) and marker in (None, line.get_marker())
        for point in line.get_xydata()
    ]


def bars(container: ErrorbarContainer, along: int) -> np.ndarray:
    """Ends of error bars, ``[N, 2]``, along x (0) or y (1)."""
    _, _, (drawn,) = container
    return np.array([segment[:, along] for segment in drawn.get_segments()])


def image_at(axes: Axes, number: int = 0) -> np.ndarray:
    return np.asarray(axes.images[number].get_array())


# The network


def test_pools_show_the_row_and_both_outputs():
    before, one, other = RNG.random((8, 5)), RNG.random((4, 3)), RNG.random((4, 3))
    left, middle, right = pool_equivalence(before, one, other, 2).axes
    for axes, values in ((left, before), (middle, one), (right, other)):
        np.testing.assert_array_equal(image_at(axes), values)
        assert axes.images[0].get_clim() == (0, before.max())
    assert [patch.get_y() + 0.5 for patch in left.patches] == [0, 2, 4, 6]
    largest = float(re.search(r"difference: ([\d.]+)", right.get_xlabel())[1])
    assert largest == pytest.approx(np.abs(one - other).max(), rel=1e-4)


def test_agreement_stands_at_the_difference():
    [axes] = agreement(["a", "b", "c"], [0.0, 2e-5, 0.3]).axes
    assert labels(axes) == ["a", "b", "c"]
    assert marks(axes) == [(1e-7, 0), (2e-5, 1), (0.3, 2)]
    assert texts(axes) == ["bit-identical", "2.0e-05", "3.0e-01"]
    low, high = axes.get_xlim()
    assert low < 1e-7 and high > 0.3


def test_coupling_tells_the_two_means_apart():
    rows = [
        {"batch": batch, "batch_mean": mean, "right": right, "images": 50}
        for batch, mean, right in (
            (4, "image", 41),
            (1, "image", 40),
            (1, "batch", 39),
            (4, "batch", 12),
        )
    ]
    [axes] = coupling(rows).axes
    assert labels(axes, "x") == ["1", "4"]
    found = {container.get_label(): container for container in axes.containers}
    for name, rights in (
        ("mean over the image", (40, 41)),
        ("mean over the batch (as published)", (39, 12)),
    ):
        line = found[name][0]
        assert line.get_ydata().tolist() == [right / 50 for right in rights]
        assert np.rint(line.get_xdata()).tolist() == [0, 1]
        np.testing.assert_allclose(bars(found[name], 1), [wilson(r, 50) for r in rights])
    assert set(texts(axes)) == {"0.820", "0.800", "0.780", "0.240"}


def test_forest_rows_have_their_own_share_interval_and_published_figure():
    rows = [
        {"label": "a", "right": 40, "images": 50, "precision": "fp32", "published": 0.9},
        {"label": "b", "right": 30, "images": 40, "precision": "int8", "published": None},
        {"label": "c", "right": 5, "images": 50, "published": 0.2},
    ]
    [axes] = forest(rows, limits=(0, 1)).axes
    assert labels(axes) == ["a", "b", "c"] and axes.get_xlim() == (0, 1)
    for place, (row, container) in enumerate(zip(rows, axes.containers, strict=True)):
        assert container[0].get_xydata().tolist() == [[row["right"] / row["images"], place]]
        assert bars(container, 0)[0] == pytest.approx(wilson(row["right"], row["images"]))
    assert marks(axes, "D") == [(0.9, 0), (0.2, 2)]
    assert texts(axes) == ["0.800 (40/50)", "0.750 (30/40)", "0.100 (5/50)"]


def test_crops_are_in_rgb_under_their_texts():
    pictures = RNG.integers(0, 256, (3, 24, 94, 3), dtype=np.uint8)
    found = crops(list(zip(pictures, "abc")), columns=2).axes
    assert [axes.get_title() for axes in found] == ["a", "b", "c", ""]
    for axes, picture in zip(found, pictures):
        np.testing.assert_array_equal(image_at(axes), picture[..., ::-1])


def test_subnormals_are_shares_in_per_cent_and_times_in_ms():
    left, right = subnormals(["a", "b"], [0.25, 0.5], {"as they are": 9.0, "cleared": 2.5}).axes
    assert [bar.get_height() for bar in left.patches] == [25, 50]
    assert [bar.get_height() for bar in right.patches] == [9.0, 2.5]
    assert labels(right, "x") == ["as they are", "cleared"] and texts(right) == ["9.0", "2.5"]


# Compiled models


def test_latency_keeps_predicted_and_published_apart():
    [axes] = latency(
        [
            {"label": "a", "precision": "fp32", "predicted_ms": 0.2, "published_ms": 0.8},
            {"label": "b", "precision": "int8", "predicted_ms": None, "published_ms": 0.4},
            {"label": "c", "precision": "int8", "predicted_ms": 0.1, "published_ms": None},
        ]
    ).axes
    assert labels(axes) == ["a", "b", "c"]
    by_label: dict[str, list] = {}
    kind = ""
    for line in axes.lines:
        kind = {"D": "published"}.get(line.get_marker(), "predicted")
        by_label.setdefault(kind, []).extend(line.get_xydata().tolist())
    assert by_label == {"predicted": [[0.2, 0], [0.1, 2]], "published": [[0.8, 0], [0.4, 1]]}
    assert texts(axes) == ["0.200", "0.80", "no prediction for this chip", "0.40", "0.100"]
    legend = {
        text.get_text(): handle.get_marker()
        for text, handle in zip(axes.get_legend().texts, axes.get_legend().legend_handles)
    }
    assert legend["measured by the vendor (bmrt_test)"] == "D"
    assert legend["predicted by the compiler"] != "D" and axes.get_xscale() == "log"


PROFILE = Profile(
    (
        Command("Load_1", MEMORY, "GDMA", 0, 499, 64),
        Command("Conv2D_2", COMPUTE, "CONV", 500, 1699, 0),
        Command("Reshape_3", COMPUTE, "X", 1700, 1999, 0),
        Command("Store_4", MEMORY, "GDMA", 1900, 1999, 8),
    ),
    2000,
    0.004,
    1,
    0.0,
)


def test_timeline_has_each_command_on_its_lane_in_microseconds():
    [axes] = timeline({"m": PROFILE}).axes
    spans = [
        (path.get_extents().x0, path.get_extents().x1, round(path.get_extents().y0 + 0.4))
        for found in axes.collections
        if isinstance(found, PolyCollection)
        for path in found.get_paths()
    ]
    # 2,000 cycles are 4 µs: 2 ns each.
    np.testing.assert_allclose(sorted(spans), [(0, 1, 1), (1, 3.4, 0), (3.4, 4, 0), (3.8, 4, 1)])
    assert labels(axes) == ["compute 75%", "memory 30%"] and axes.get_xlim() == (0, 4)
    assert axes.get_title("left") == "m: 4 µs"


def test_slowest_layers_come_first_with_their_unit():
    [axes] = slowest_layers(PROFILE, limit=3).axes
    assert labels(axes) == ["Conv2D_2", "Load_1", "Reshape_3"]
    found = {
        container.get_label(): [
            (bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in container
        ]
        for container in axes.containers
    }
    assert found[COMPUTE] == [pytest.approx((0, 2.4)), pytest.approx((2, 0.6))]
    assert found[MEMORY] == [pytest.approx((1, 1.0))]


def test_memory_is_stacked_in_megabytes():
    [axes] = memory(
        [
            {"label": "a", "weight": 1_000_000, "instruct": 250_000, "runtime": 500_000},
            {"label": "b", "weight": 3_000_000, "instruct": 0, "runtime": 0},
        ]
    ).axes
    found = {
        container.get_label(): [(bar.get_x(), bar.get_width()) for bar in container]
        for container in axes.containers
    }
    assert found == {
        "weights": [(0, 1), (0, 3)],
        "runtime": [(1, 0.5), (3, 0)],
        "instructions": [(1.5, 0.25), (3, 0)],
    }
    assert texts(axes) == ["1.75", "3.00"]


# Quantization


def test_noise_is_of_the_nearest_step():
    values = np.array([0.4, 0.6, 1.5, -2.7])
    saturation, rounding = quantization_noise(values, np.array([2.0, 4.0]), levels=2)
    # Steps of 1 and 2. 0.4, 0.6, 1.5, 2 → 0, 1, 2 (ties to even), 2; then 0, 0, 2, 2.
    assert saturation == pytest.approx([0.7**2 / 4, 0])
    assert rounding == pytest.approx(
        [(0.4**2 + 0.4**2 + 0.5**2) / 4, (0.4**2 + 0.6**2 + 0.5**2 + 0.7**2) / 4]
    )


def test_histogram_counts_and_thresholds():
    values = np.concatenate([np.full(30, 1.0), np.full(9, -4.0), [9.0]])
    left, right = histogram(values, {"kl": 5.0, "max": 9.0}, title="t", levels=100).axes
    counts = [
        (bar.get_x(), bar.get_x() + bar.get_width(), bar.get_height())
        for bar in left.patches
        if bar.get_height()
    ]
    assert [count for *_, count in counts] == [30, 9, 1]
    assert all(low <= value <= high for (low, high, _), value in zip(counts, (1, 4, 9)))
    assert [line.get_xdata()[0] for line in left.lines if line.get_marker() == "None"] == [5, 9]
    assert [text.get_text() for text in left.get_legend().texts] == [
        "kl 5: 2.5 % saturate",
        "max 9: 0 % saturate",
    ]
    curves = {line.get_label(): line for line in right.lines}
    grid = curves["both"].get_xdata()
    saturation, rounding = quantization_noise(values, grid, 100)
    np.testing.assert_allclose(curves["both"].get_ydata(), saturation + rounding)
    np.testing.assert_allclose(curves["rounding (resolution)"].get_ydata(), rounding)
    np.testing.assert_allclose(
        curves["saturation"].get_ydata(), np.where(saturation > 0, saturation, np.nan)
    )
    own = quantization_noise(values, np.array([5.0, 9.0]), 100)
    np.testing.assert_allclose(marks(right), np.stack([[5, 9], sum(own)], 1))


def test_channels_are_told_apart_by_whether_the_pool_keeps_them():
    maxima = np.array([10.0, 50.0, 0.0, 40.0, 20.0, 30.0])
    [axes] = channel_ranges(maxima, 2, 0.5, 0.1).axes
    drawn = {
        line.get_label().split(":")[0]: line.get_ydata().tolist()
        for line in axes.lines
        if line.get_marker() != "None"
    }
    assert drawn == {"kept by the pool": [20, 10], "global context only": [50, 40, 30]}
    assert {
        line.get_label().split(": ")[-1] for line in axes.lines if line.get_marker() != "None"
    } == {"2 of 3 alive", "3 of 3 alive"}
    assert [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "None"] == [
        127.5,
        0.5,
        0.1,
    ]
    assert axes.get_title("left") == "widest kept channel: 40 of 255 levels"
    tops = [segment[1, 1] for found in axes.collections for segment in found.get_segments()]
    assert tops == [20, 10, 50, 40, 30]


def test_layers_that_are_absent_leave_gaps():
    [axes] = layer_fidelity(["a", "b", "c"], {"kl": [1.5, None, 3.5], "mse": [2, 4, 6]}).axes
    assert labels(axes, "x") == ["a", "b", "c"]
    assert {line.get_label(): line.get_xydata().tolist() for line in axes.lines} == {
        "kl": [[0, 1.5], [2, 3.5]],
        "mse": [[0, 2], [1, 4], [2, 6]],
    }


def test_costs_stand_beside_what_cures_bring():
    left, right = layer_costs(
        ["a", "b"], [0.7, 0.2], [("fork", 29.0), ("float", 28.0)], int8_db=26.0, without_db=29.5
    ).axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([70, 20])
    assert [text.get_text() for text in left.texts] == ["70.0", "20.0"]
    assert labels(left, "y") == ["a", "b"] and labels(right, "y") == ["fork", "float"]
    marks = [line.get_xydata()[0].tolist() for line in right.lines if len(line.get_xdata()) == 1]
    assert marks == [[29, 0], [28, 1]]
    lines = {line.get_label(): line.get_xdata()[0] for line in right.lines}
    assert lines["as it is"] == 26 and lines["without this layer's error"] == 29.5
    assert left.yaxis_inverted() and right.yaxis_inverted()  # the costliest on top


# Decoding


def test_paths_run_over_the_probabilities_of_their_classes():
    log_probs = np.full((68, 18), np.log(1e-6))
    log_probs[PUBLISHED.blank] = np.log(0.9)
    log_probs[12, 4:6] = np.log([0.3, 0.8])
    path = np.full(18, PUBLISHED.blank)
    path[4:6] = 12
    picture = RNG.integers(0, 256, (24, 94, 3), dtype=np.uint8)
    top, axes = ctc_paths(picture, log_probs, PUBLISHED, {"greedy": path}, highlight=4).axes[:2]
    np.testing.assert_array_equal(image_at(top), picture[..., ::-1])
    assert labels(axes) == [PUBLISHED.characters[12], "blank"]
    np.testing.assert_allclose(image_at(axes), np.exp(log_probs[[12, PUBLISHED.blank]]))
    [line] = [line for line in axes.lines if line.get_label() == "greedy"]
    assert line.get_xdata().tolist() == list(range(18))
    assert line.get_ydata().tolist() == [0 if step in (4, 5) else 1 for step in range(18)]
    [box] = axes.patches
    assert (box.get_extents().x0 < box.get_extents().x1) and (
        box.get_x(),
        box.get_x() + box.get_width(),
    ) == (3.5, 4.5)


def test_timings_of_each_stage():
    rows = [
        {"label": "a", "decode": 1.0, "preprocess": None, "inference": 3.0, "postprocess": 0.1},
        {"label": "b", "decode": 2.0, "preprocess": 0.5, "inference": 30.0, "postprocess": 7},
    ]
    found = timings(rows).axes
    assert labels(found[0]) == ["a", "b"]
    stages = ("decode", "preprocess", "inference", "postprocess")
    for axes, stage in zip(found, stages, strict=True):
        assert axes.get_title("left") == stage
        assert [bar.get_width() for bar in axes.patches] == [row[stage] or 0 for row in rows]
    assert texts(found[1]) == ["not timed", "0.5"]


# Comparison


def test_paired_counts_are_on_their_own_side():
    [axes] = paired(
        [
            {"label": "a", "only_float": 30, "only_other": 2, "p_holm": 1e-9},
            {"label": "b", "only_float": 4, "only_other": 9, "p_holm": 0.267},
        ]
    ).axes
    lost, won = axes.containers
    assert (lost.get_label(), won.get_label()) == (
        "only float reads it right",
        "only INT8 reads it right",
    )
    assert [bar.get_width() for bar in lost] == [-30, -4]
    assert [bar.get_width() for bar in won] == [2, 9]
    assert texts(axes) == ["30", "2", "p < 0.001", "4", "9", "p = 0.267"]


def test_characters_with_most_errors_come_first():
    rows = {"float": {"皖": (9, 10), "1": (4, 8)}, "int8": {"皖": (3, 10), "1": (7, 8)}}
    [axes] = per_character(rows).axes
    assert labels(axes, "x") == ["皖\n10", "1\n8"]  # 0.3 is least
    for name, container in zip(rows, axes.containers, strict=True):
        pairs = [rows[name]["皖"], rows[name]["1"]]
        assert container.get_label() == name
        assert container[0].get_ydata().tolist() == [right / of for right, of in pairs]
        assert np.rint(container[0].get_xdata()).tolist() == [0, 1]
        np.testing.assert_allclose(bars(container, 1), [wilson(*pair) for pair in pairs])


def test_confusions_are_counted_by_model():
    [axes] = confusions(
        {"float": [("1", "∅", 3), ("∅", "皖", 1)], "int8": [("皖", "苏", 5), ("1", "∅", 1)]}
    ).axes
    assert labels(axes) == ["皖 → 苏", "1 dropped", "皖 added"]
    found = {
        container.get_label(): [bar.get_width() for bar in container]
        for container in axes.containers
    }
    assert found == {"float": [0, 3, 1], "int8": [5, 1, 0]}


def test_fidelity_marks_what_reads_differently():
    cosines, differs = np.array([0.999, 0.9, 0.99, 1.0]), np.array([False, True, False, False])
    [axes] = fidelity({"kl": cosines}, {"kl": differs}).axes
    drawn = {line.get_label(): line.get_xdata().tolist() for line in axes.lines}
    assert drawn["same text as float"] == pytest.approx([0.001, 0.01, 1e-7])
    assert drawn["text differs from float's"] == pytest.approx([0.1])
    assert drawn["median"] == pytest.approx([0.0055] * 2)


def test_gallery_says_who_is_right():
    pictures = RNG.integers(0, 256, (2, 24, 94, 3), dtype=np.uint8)
    found = gallery(pictures, ["A1", "B2"], {"float": ["A1", "B3"], "int8": ["", "B2"]}).axes
    for axes, picture in zip(found, pictures):
        np.testing.assert_array_equal(image_at(axes), picture[..., ::-1])
    assert texts(found[0]) == ["label", "A1", "float", "A1", "✓", "int8", "(nothing)", "✗"]
    assert texts(found[1]) == ["label", "B2", "float", "B3", "✗", "int8", "B2", "✓"]


def test_reliability_has_confidence_across_and_accuracy_up():
    confidence = np.array([0.1, 0.15, 0.55, 0.6, 0.62, 0.95, 0.97])
    right = np.array([True, False, False, False, True, True, True])
    one, other = (reliability(confidence, which, bins=4) for which in (right, ~right))
    found = draw_reliability({"float": one, "int8": other}).axes
    for axes, name, bins in zip(found, ("float", "int8"), (one, other), strict=True):
        [container] = axes.containers
        np.testing.assert_allclose(container[0].get_xdata(), [0.125, 0.59, 0.96])
        np.testing.assert_allclose(container[0].get_ydata(), bins.accuracy)
        np.testing.assert_allclose(bars(container, 1), bins.ci95)
        assert texts(axes) == ["2", "3", "2", f"ECE {bins.ece:.3f}"]
        assert axes.get_title("left") == name and axes.get_xlabel() == "confidence"
    assert found[0].containers[0][0].get_ydata() == pytest.approx([0.5, 1 / 3, 1])


def test_coverage_runs_from_all_plates_to_few():
    sure = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    curve = accuracy_coverage(sure, np.array([True, True, False, True, False]))
    [axes] = draw_coverage({"float": curve}).axes
    [line] = axes.lines
    np.testing.assert_allclose(line.get_xydata(), [[40, 1], [60, 2 / 3], [80, 3 / 4], [100, 3 / 5]])


# The study


def line(strategy: str, chip: str, mean: float, **more) -> dict:
    return {
        "strategy": strategy,
        "chip": chip,
        "scheme": "cross-fit",
        "draws": 5,
        "mean": mean,
        "low": mean - 0.011,
        "high": mean + 0.006,
        "interval": (mean - 0.02, mean + 0.017),
        **more,
    }


def test_study_shows_mean_draws_and_interval():
    lines = [
        line("mse", "BM1684X", 0.88),
        line("kl", "BM1684X", 0.85),
        line("mse", "BM1684", 0.86),
        line("kl-tune0", "BM1684", 0.1),
        {"strategy": "kl-bc", "chip": "BM1684", "scheme": "within", "draws": 0, "error": "no"},
    ]
    [axes] = study_accuracy(lines, 0.894).axes
    assert labels(axes) == ["mse", "kl", "kl-tune0", "kl-bc (on test images)"]
    drawn = [found for found in axes.lines if np.ptp(found.get_ydata()) == 0]
    places = {"mse": 0, "kl": 1}
    for one in lines[:3]:
        place = places[one["strategy"]] + (-0.11 if one["chip"] == "BM1684X" else 0.11)
        mine = [
            found.get_xdata().tolist()
            for found in drawn
            if found.get_ydata()[0] == pytest.approx(place)
        ]
        assert mine == [list(one["interval"]), [one["low"], one["high"]], [one["mean"]]]
    [reference] = [found for found in axes.lines if np.ptp(found.get_ydata())]
    assert reference.get_xdata()[0] == 0.894 and reference.get_label() == "float 0.894"
    assert texts(axes) == ["◂ 0.100", "refused by the tool, 1"]


def test_pareto_stands_at_time_and_mean():
    lines = [
        line("mse", "BM1684X", 0.88, latency_ms=0.05),
        line("slow", "BM1684X", 0.87, latency_ms=0.06),
        line("best", "BM1684X", 0.89, latency_ms=0.07),
        line("kl", "BM1684X", 0.86, latency_ms=0.08),
    ]
    [axes] = pareto(lines, 0.894).axes
    found = {
        text.get_text(): container
        for text, container in zip(axes.get_legend().texts, axes.containers)
    }
    by_place = {
        tuple(container[0].get_xydata()[0]): bars(container, 1)[0] for container in axes.containers
    }
    assert set(by_place) == {(0.05, 0.88), (0.07, 0.89), (0.08, 0.86)}
    for (_, mean), ends in by_place.items():
        assert ends == pytest.approx((mean - 0.02, mean + 0.017))
    assert list(found) == ["mse", "best", "kl"]
    assert (0.06, 0.87) in marks(axes, ".")
    [front] = [one for one in axes.lines if one.get_drawstyle() == "steps-post"]
    assert front.get_xydata().tolist() == [[0.05, 0.88], [0.07, 0.89]]
    assert [one.get_ydata()[0] for one in axes.lines if one.get_linestyle() == "--"] == [0.894]


def test_roles_are_in_the_panel_of_their_mode():
    lines = [
        {"chip": "BM1684X", "mode": mode, "role": role, "steps_off": off, "images": 10}
        for mode, role, off in (
            ("float", "input", 40),
            ("float", "neck", 30),
            ("int8", "input", 7),
            ("int8", "neck", 3),
            ("all", None, 50),
        )
    ]
    left, right = roles(lines).axes
    assert labels(left) == ["input", "neck"]
    assert marks(left) == [(40, 0), (30, 1)] and marks(right) == [(7, 0), (3, 1)]
    assert [one.get_xdata()[0] for one in left.lines if one.get_marker() == "None"] == [50]
    assert left.get_xlabel().endswith("of 180")


def test_company_counts_images_that_change():
    lines = [
        {
            "chip": "BM1684X",
            "batch_mean": mean,
            "moved": moved,
            "images": 100,
            "batch": 4,
            "right": right,
        }
        for mean, moved, right in (("batch", 30, (70, 81, 76)), ("image", 0, (88, 88, 88)))
    ]
    [axes] = company(lines).axes
    assert labels(axes) == ["BM1684X, mean over the batch", "BM1684X, mean over the image"]
    assert [bar.get_width() for bar in axes.patches] == [30, 0]
    assert texts(axes) == ["30 of 100; right: 70 to 81", "0 of 100; right: 88 to 88"]
    assert "other 3 of" in axes.get_xlabel()


def test_releases_stand_where_they_are_among_all_with_their_values():
    def line(release, chip, mean, predicted):
        ends = {"low": mean - 0.01, "high": mean + 0.02}
        known = {"release": release, "chip": chip, "strategy": "kl", "mean": mean, **ends}
        return {**known, "predicted_ms": predicted}

    drawn = [("1.6", 0.88, 0.083), ("1.30.2", 0.89, 0.059)]
    lines = [line(release, "BM1684X", mean, ms) for release, mean, ms in drawn]
    lines += [line("1.6", "BM1684", 0.87, 5.0), line("1.9", "BM1684", 0.86, None)]
    first, second, time = releases(lines).axes
    found = [
        [(round(x), round(float(y), 3)) for x, y in axes.lines[0].get_xydata()]
        for axes in (first, second, time)
    ]
    assert found[0] == [(0, 0.88), (27, 0.89)] and found[1] == [(0, 0.87), (5, 0.86)]
    assert found[2] == [(0, 0.083), (27, 0.059)]  # of the first chip
    [band] = [one for one in first.collections if isinstance(one, PolyCollection)]
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min().round(3), heights.max().round(3)) == (0.87, 0.91)
    assert [tick.get_text() for tick in time.get_xticklabels()] == list(VERSIONS)
