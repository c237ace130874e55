"""The study over worlds: splits, verdicts by other means, the committed file, a small run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binomtest
from typer.testing import CliRunner

from lprnet_nb import cli
from lprnet_nb.datasets.splits import apart
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.figures import study as study_figures
from lprnet_nb.figures.style import redrawn
from lprnet_nb.report import readme
from lprnet_nb.study import cells, replication, results, worlds
from lprnet_nb.toolchain.strategies import STRATEGIES

COUNT = 400
FORK = ("mse-forked", "mse")


def test_draws_calibrate_apart_and_judge_the_same():
    splits = apart(50, 3, 10, seed=43)
    calibrating = [set(split.order.tolist()) for split in splits]
    judged = set(splits[0].evaluate.tolist())
    assert [len(each) for each in calibrating] == [10] * 3 and len(judged) == 20
    assert len(set.union(*calibrating)) == 30 and not set.union(*calibrating) & judged
    assert all(np.array_equal(split.evaluate, splits[0].evaluate) for split in splits)
    assert [split.draw for split in splits] == [0, 1, 2]
    with pytest.raises(ParameterError, match="30 images are too few: 3 draws .* Give 31 or more"):
        apart(30, 3, 10, seed=43)


def test_a_plan_judges_the_splits_that_it_is_given():
    split = apart(50, 3, 10, seed=43)[1]
    plan = cells.Plan((STRATEGIES["mse"],), ("BM1684X",), (0, 1, 2), given=(split,))
    assert plan.splits(50) == [("cross-fit", split)]


def test_thresholds_that_are_not_tuned_share_a_pass_with_those_that_are():
    def passes(*names):
        return [[s.name for s in each] for each in cells._passes([STRATEGIES[n] for n in names])]

    assert passes("mse", "kl", "mse-in-out") == [["kl", "mse", "mse-in-out"]]
    # Untuned KL is no by-product of tuned KL; other images, forms and ACIQ have their own pass.
    assert passes("mse", "kl-tune0", "kl", "mse-20", "mse-forked", "aciq-gauss") == [
        ["kl", "mse"],
        ["kl-tune0"],
        ["mse-20"],
        ["mse-forked"],
        ["aciq-gauss"],
    ]


def row(plates, weights, strategy, draw, right, chip="BM1684X"):
    return {
        "plates": plates,
        "weights": weights,
        "strategy": strategy,
        "chip": chip,
        "draw": draw,
        "images": COUNT,
        "correct": int(right.sum()),
        "bits": cells.pack(right),
    }


def readings(start, stop):
    return (np.arange(COUNT) >= start) & (np.arange(COUNT) < stop)


@pytest.fixture
def told():
    """Fork and mse in four worlds: better, worse, as good, and better on too few draws."""
    pairs = {
        ("generated", "published"): [(0, 340), (0, 300)] * 3,
        ("generated", "generated"): [(0, 300), (0, 340)] * 3,
        ("margin+5", "published"): [(0, 300), (0, 300)] * 3,
        ("margin+5", "generated"): [(0, 340), (0, 300)] * 2,
    }
    rows = [
        row(*key, FORK[number % 2], number // 2, readings(*ends))
        for key, given in pairs.items()
        for number, ends in enumerate(given)
    ]
    known = {"images": COUNT, "correct": 320}
    described = [{"plates": p, "weights": w, "float": known} for p, w in pairs]
    return {"format": 1, "provenance": {}, "worlds": described, "rows": rows}


def original():
    rows = [
        {**row("", "", FORK[n % 2], n // 2, readings(0, 310 - n % 2)), "scheme": "cross-fit"}
        for n in range(6)
    ]
    rows.append({**row("", "", "mse", 0, readings(0, 300), "CV186X"), "scheme": "cross-fit"})
    known = {"images": COUNT, "correct": 320, "bits": cells.pack(readings(0, 320))}
    return {"format": 1, "provenance": {}, "float": known, "rows": rows}


def test_each_world_is_judged_by_the_studys_rule(told):
    lines = replication.lines(told, original())
    found = {(line["plates"], line["weights"]): line for line in lines}
    assert [line["verdict"] for line in found.values()] == [
        "cannot be told",  # one plate of 400
        "holds",
        "does not hold",
        "does not hold",
        "cannot be told",  # two draws
    ]
    assert {line["chip"] for line in lines} == {"BM1684X"}  # of the original, chips of the file
    best = found["generated", "published"]
    assert best["difference"] == pytest.approx(40 / COUNT) and best["float"] == 0.8
    assert (best["better"], best["worse"]) == (40, 0)
    # Holm by hand: 5 lines; the two smallest raw p are those of 40 plates, times 5, 4 and 3.
    raw = binomtest(40, 40, 0.5).pvalue
    assert best["p"] == pytest.approx(5 * raw)
    assert found["margin+5", "published"]["p"] == 1.0


def test_where_float_reads_next_to_nothing_nothing_is_told(told):
    """Half a point is no small gain there: an interval below it would say "does not hold"."""
    told["worlds"][2]["float"] = {"images": COUNT, "correct": 39}
    lines = replication.lines(told)
    assert [line["verdict"] for line in lines][2] == "cannot be told"
    assert "published weights: margin 5/10 %: float reads 0.098 there" in replication.said(lines)[1]
    told["worlds"][2]["float"]["correct"] = 40
    assert [line["verdict"] for line in replication.lines(told)][2] == "does not hold"


def test_a_plate_counts_once_whatever_the_draws(told):
    """Better in one draw and worse in another is neither."""
    told["rows"] = [
        row("generated", "published", "mse-forked", 0, readings(0, 310)),
        row("generated", "published", "mse", 0, readings(0, 300)),
        row("generated", "published", "mse-forked", 1, readings(5, 300)),
        row("generated", "published", "mse", 1, readings(0, 300)),
        row("generated", "published", "mse-forked", 2, readings(0, 300)),
        row("generated", "published", "mse", 2, readings(0, 305)),
    ]
    told["worlds"] = told["worlds"][:1]
    [line] = replication.lines(told)
    # 300 to 304 gain in draw 0 and are lost in draw 2, 305 to 309 gain, 0 to 4 are lost.
    assert (line["better"], line["worse"], line["p"]) == (5, 5, 1.0)


def test_counts_leave_the_original_out(told):
    [one] = replication.counts(replication.lines(told, original()))
    assert (one["strategy"], one["baseline"]) == FORK
    assert [one[verdict] for verdict in replication.VERDICTS] == [1, 2, 1]
    assert (one["worlds"], one["first"], one["beyond"]) == (4, "cannot be told", 3)
    said = replication.said(replication.lines(told, original()))
    assert said[0] == (
        "4 comparisons in 4 other worlds, 2 to 3 draws each: the advice holds in 1, does not in 2, "
        "and in 1 it cannot be told."
    )
    assert said[1].startswith("Corrected for all 5 comparisons")
    assert "2 gains and 1 losses in other worlds are" in said[1]
    assert said[1].endswith("beyond chance: mse-forked over mse (3).")
    [row] = replication.worlds_table(replication.lines(told, original()))
    assert (row["pair"], row["BM1684X"]) == ("mse-forked over mse", "1 / 2 / 1")


def test_findings_are_the_studys_tips():
    """All six of the findings to replicate, each judged by strategies that a world runs."""
    pairs = {tip.title: tip.pairs for tip in replication.FINDINGS}
    tips = {tip.title: tip.pairs for tip in results.TIPS}
    asked = [title for title in pairs if title in tips]
    assert len(asked) == len(pairs) - 1 == 7
    assert all(set(pairs[title]) <= set(tips[title]) for title in asked)
    used = {name for each in pairs.values() for pair in each for name in pair}
    assert used == set(worlds.STUDIED)
    assert len(worlds.OTHERS) == len(set(worlds.OTHERS)) == 9
    assert worlds.COMMITTED not in worlds.OTHERS


def test_the_forest_shows_every_gain_in_both_languages(told):
    lines = replication.lines(told, original())
    figure = study_figures.forest(lines, replication.named(lines))
    axes = figure.axes[0]
    drawn = sorted(
        line.get_xdata()[0]
        for line in axes.lines
        if line.get_marker() == "o" and len(line.get_xdata())
    )
    assert drawn == pytest.approx(sorted(100 * line["difference"] for line in lines))
    marks = [text.get_text() for text in axes.texts]
    assert sorted(marks) == sorted("?✓✗✗?")
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows[0] == "published weights: photographs" and len(rows) == len(set(rows)) == 5
    redrawn(figure, "zh")


def test_what_cannot_be_asked(tmp_path):
    with pytest.raises(ParameterError, match="world 'moon' is unknown. Choose of photographs"):
        worlds.grow_worlds(tmp_path / "w.json", ["moon"])
    with pytest.raises(ParameterError, match="draws 4: a world has plates for 1 to 3"):
        worlds.grow_worlds(tmp_path / "w.json", draws=4)
    (tmp_path / "w.json").write_text('{"format": 1, "rows": []}')
    with pytest.raises(DataError, match="no study over worlds: 'provenance' is missing"):
        worlds.read_worlds(tmp_path / "w.json")


@pytest.mark.parametrize(
    "options",
    [
        ("--worlds", "all", "--chips", "BM1684"),
        ("--worlds", "all", "--decoder", "plate"),
        ("--worlds", "all", "--releases", "all"),
        ("--releases", "all", "--draws", "2"),
    ],
)
def test_options_that_would_be_passed_over_are_refused(options, tmp_path):
    result = CliRunner().invoke(cli.app, ["study", str(tmp_path / "w.json"), *options])
    assert isinstance(result.exception, ParameterError)
    assert "takes none of the other options" in str(result.exception)


def test_a_file_of_other_strategies_is_not_grown(tmp_path, compiler):
    path = tmp_path / "w.json"
    begun = worlds._begun(path)
    path.write_text(json.dumps(begun))
    assert worlds._begun(path) == begun
    path.write_text(json.dumps({**begun, "provenance": {**begun["provenance"], "seed": 1}}))
    with pytest.raises(DataError, match="study over worlds of seed 1, this one would be of 43"):
        worlds._begun(path)


def test_the_committed_worlds_are_whole():
    path = replication.worlds_path()
    assert path is not None
    found = worlds.read_worlds(path)
    keys = [(world["plates"], world["weights"]) for world in found["worlds"]]
    assert set(keys) == set(worlds.OTHERS) and len(keys) == len(set(keys))
    images = {"generated": worlds.JUDGED}
    seen = set()
    for one in found["rows"]:
        key = (one["plates"], one["weights"], one["strategy"], one["chip"], one["draw"])
        assert key not in seen, key
        seen.add(key)
        assert one["images"] == images.get(one["plates"], 700), key
        assert int(one["bits"], 16).bit_count() == one["correct"], key
    by_world = {(p, w, draw) for p, w, *_, draw in seen}
    assert len(seen) == len(by_world) * len(worlds.STUDIED) * len(worlds.CHIPS)
    for world in found["worlds"]:
        assert int(world["float"]["bits"], 16).bit_count() == world["float"]["correct"]
    lines = replication.replicated()
    for line in lines:  # the difference of counts, without any bits
        if (line["plates"], line["weights"]) != worlds.COMMITTED:
            counts = {
                name: [
                    one["correct"]
                    for one in found["rows"]
                    if all(one[k] == line[k] for k in ("plates", "weights", "chip"))
                    and one["strategy"] == line[name]
                ]
                for name in ("strategy", "baseline")
            }
            assert len(counts["strategy"]) == line["draws"]
            total = sum(counts["strategy"]) - sum(counts["baseline"])
            judged = images.get(line["plates"], 700) * line["draws"]
            assert line["difference"] == pytest.approx(total / judged)
    columns = readme._tip_table(readme.read_runs(), ["BM1684X", "BM1684"], readme.WORDS["en"], "en")
    fork = next(row for row in columns if row[0].startswith("a convolution of their own"))
    verdicts = [
        line["verdict"]
        for line in lines
        if (line["strategy"], line["baseline"], line["chip"]) == (*FORK, "BM1684X")
        and (line["plates"], line["weights"]) != worlds.COMMITTED
    ]
    told = " / ".join(str(verdicts.count(verdict)) for verdict in replication.VERDICTS)
    assert columns[0][-2:] == ["elsewhere, BM1684X", "elsewhere, BM1684"] and fork[-2] == told


@pytest.mark.slow
def test_a_small_world_resumes_and_refuses_what_comes_out_otherwise(
    tmp_path, monkeypatch, compiler
):
    for name, value in (("JUDGED", 12), ("CALIBRATION", 4), ("DRAWS", 2), ("CHIPS", ("BM1684X",))):
        monkeypatch.setattr(worlds, name, value)
    monkeypatch.setattr(worlds, "STUDIED", ("mse", "mse-forked-b4-square"))
    monkeypatch.setattr(worlds, "OTHERS", (("generated", "generated"),))
    few = {name: strategy.model_copy(update={"images": 4}) for name, strategy in STRATEGIES.items()}
    monkeypatch.setattr(worlds, "STRATEGIES", few)
    path, said = tmp_path / "w.json", []
    worlds.grow_worlds(path, draws=1, report=said.append)
    first = worlds.read_worlds(path)
    assert [one["draw"] for one in first["rows"]] == [0, 0] and len(said) == 1
    worlds.grow_worlds(path, draws=2, report=said.append)
    both = worlds.read_worlds(path)
    assert both["rows"][:2] == first["rows"] and len(both["rows"]) == 4 and len(said) == 2
    [world] = both["worlds"]
    assert world["float"]["images"] == 12
    both["rows"][1]["readings"] = "otherwise"
    path.write_text(json.dumps(both))
    with pytest.raises(DataError, match="mse-forked-b4-square on BM1684X reads other texts"):
        worlds.grow_worlds(path, draws=2)
