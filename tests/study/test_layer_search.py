"""The search: its steps on known worths, its file, and a small real one."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.datasets.splits import cross_fit
from lprnet_nb.decode import decode
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.model.trace import float_logits
from lprnet_nb.study import band, search, searched
from lprnet_nb.study.cells import pack
from lprnet_nb.study.cost import float_share, share_of_layers
from lprnet_nb.study.search import Costs, Found, Search, Unit
from lprnet_nb.toolchain.compile import CalibrationTable, TopGraph, mixed_table
from lprnet_nb.toolchain.strategies import (
    STRATEGIES,
    Strategy,
    make_strategy,
    read_strategy,
    recommended,
)

COUNT = 400


def layer(name, op, *inputs, shape=(1, 4, 2, 2)):
    return {"name": name, "op": f"top.{op}", "inputs": list(inputs), "shape": list(shape)}


LAYERS = [
    layer("in", "Input"),
    layer("c1", "Conv", "in", "w1", "b1"),
    layer("s1", "Scale", "c1", "k", "l"),
    layer("p", "MaxPool", "s1"),
    layer("a[1]", "Mul", "p", "p"),
]


@pytest.fixture
def graph(tmp_path):
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "lprnet.mlir").write_text("")
    return TopGraph(tmp_path / "top", LAYERS, False, "digest", "1.30.2")


def test_units_are_what_the_chip_computes_at_once(graph):
    assert search.units(graph) == [
        Unit(("in",), "Input"),
        Unit(("c1", "s1"), "Conv"),
        Unit(("p",), "MaxPool"),
        Unit(("a[1]",), "Mul"),
    ]
    # A layer's name is no pattern, whatever is in it.
    assert search.units(graph)[3].roles == ("name:a[[]1]",)
    mixed = Strategy(name="s", method="mse", layer_methods=(("name:a[[]1]", "max"),))
    assert mixed.methods == ["max", "mse"]


def test_a_table_takes_each_layer_from_its_method(graph, tmp_path):
    tables = {}
    for number, method in enumerate(("mse", "max")):
        path = tmp_path / method
        path.write_text(
            "# a head\n" + "".join(f"{x['name']} {number}.5 -{number}.5 1\n" for x in LAYERS)
        )
        tables[method] = CalibrationTable(path, None, method, "1.30.2")
    strategy = make_strategy(
        name="s", method="mse", layer_methods=[["name:c1", "max"], ["op:M*", "max"]]
    )
    made = mixed_table(tables, graph, strategy)
    found = {name: values[0] for name, values in made.thresholds().items()}
    assert found == {"in": 0.5, "c1": 1.5, "s1": 0.5, "p": 1.5, "a[1]": 1.5}
    assert made.digest not in ("mse", "max") and made.release == "1.30.2"
    assert mixed_table(tables, graph, strategy.of_one_method("max")) is tables["max"]


def test_methods_of_layers_are_a_part_of_the_key_and_of_the_file(tmp_path):
    plain, mixed = (
        make_strategy(name="s", method="mse", layer_methods=pairs)
        for pairs in ((), (("block4", "kl"),))
    )
    assert plain.key() != mixed.key()
    # A model of before there was the field keeps its key.
    assert "layer_methods" not in plain.key()
    (tmp_path / "s.json").write_text(json.dumps(search.fields_of(mixed)))
    assert read_strategy(tmp_path / "s.json") == mixed
    with pytest.raises(ParameterError, match="role 'block5' is not known"):
        make_strategy(name="s", layer_methods=[["block5", "kl"]])
    with pytest.raises(ParameterError, match="one table for all layers"):
        make_strategy(name="s", search="search_qtable", layer_methods=[["block4", "kl"]])


def found(expected, right):
    return Found(Strategy(name="s"), expected, right, 1.0)


def test_a_step_brings_more_than_noise():
    base = found(10.0, 9)
    assert found(10.3, 8).improves(base)
    assert not found(10.2, 12).improves(base)  # plates more, by chance
    assert max(found(10.0, 9), found(10.0, 11), key=lambda one: one.rank).right == 11


class Walk(Search):
    """A search whose candidates have known worths: the steps alone."""

    def __init__(self, graph, worth, budget=10.0):
        self.graph, self.worth, self.budget = graph, worth, budget
        self.found, self.refused = {}, {}
        self.costs = self

    def graph_of(self):
        return self.graph

    def of(self, strategy):
        return 1.0 + len(strategy.float_roles)

    def _table(self, form, method):
        value = 1.0 + search.METHODS.index(method)
        thresholds = {x["name"]: (value,) for x in LAYERS}
        return dataclasses.make_dataclass("Table", ["thresholds"])(lambda: thresholds)

    def _try(self, strategy, cost):
        key = search.digest(strategy.key())
        if key not in self.found and cost <= self.budget:
            right = self.worth(strategy)
            self.found[key] = Found(strategy, right, right, cost)
        return self.found.get(key)


def walked(graph, worth, budget=10.0, kind=Walk):
    walk = kind(graph, worth, budget)
    walk.costs = dataclasses.make_dataclass("C", ["of", "graph", "unit"])(
        walk.of, lambda form: graph, "ms"
    )
    start = walk._try(Strategy(name="s", method="mse"), 1.0)
    return walk, walk._float(walk._methods(start))


def test_it_finds_the_layer_in_float_and_the_method_that_help(graph):
    def worth(strategy):
        methods = dict(strategy.layer_methods)
        right = 10 + 5 * ("name:p" in strategy.float_roles) + 2 * (methods.get("name:in") == "kl")
        right -= 3 * ("name:c1" in strategy.float_roles)
        return right

    _, best = walked(graph, worth)
    assert best.right == 17
    assert best.strategy.float_roles == ("name:p",)
    assert best.strategy.layer_methods == (("name:in", "kl"),)


def test_it_stays_within_its_budget_and_every_smaller_one(graph):
    def worth(strategy):  # all help; the convolution is two layers, and dear
        roles = strategy.float_roles
        return 10 + 9 * ("name:c1" in roles) + ("name:p" in roles) + 2 * ("name:a[[]1]" in roles)

    walk, best = walked(graph, worth, budget=3.0)
    assert best.cost <= 3.0
    assert {one.right for one in (walk.best(3.0),)} == {19}
    assert walk.best(2.0).strategy.float_roles == ("name:a[[]1]",)
    assert walk.best(1.0).strategy.float_roles == ()
    with pytest.raises(ParameterError, match="no candidate costs 0.5 ms"):
        walk.best(0.5)


def test_what_helps_most_and_costs_too_much_ends_no_search(graph):
    def worth(strategy):
        roles = strategy.float_roles
        return 10 + 9 * ("name:c1" in roles) + ("name:p" in roles) + 2 * ("name:a[[]1]" in roles)

    class Dear(Walk):
        def of(self, strategy):
            return super().of(strategy) + ("name:c1" in strategy.float_roles)

    _, best = walked(graph, worth, budget=3.0, kind=Dear)  # the convolution alone costs 4
    assert (best.right, best.cost) == (13, 3.0)


def test_what_costs_more_than_was_added_up_is_passed_over(graph):
    walk, _ = walked(graph, lambda strategy: 10)
    two = Strategy(name="s", float_roles=("name:p", "name:c1"))  # costs 3
    walk.found["two"] = Found(two, 20, 20, 1.5)
    assert walk.best(2.0).right == 10 and walk.best(3.0).right == 20
    assert walk.best(3.0).cost == 3.0


@dataclasses.dataclass
class Fixed:
    weights: object
    chip: str = "BM1684X"
    unit: str = "ms"

    def of(self, strategy):
        return {"published": 0.0588, "forked": 0.0408}[strategy.form]


def test_a_budget_that_nothing_meets_is_refused_before_the_search(weights):
    costs = Fixed(weights)
    assert search.levels(costs, 0.0498) == [0.0408, 0.0438, 0.0468, 0.0498]
    assert search.levels(costs, 0.0408) == [0.0408]
    with pytest.raises(ParameterError, match=r"0.04 ms is met by nothing.*BM1684X takes 0.0408"):
        search.levels(costs, 0.04)


def test_too_few_plates_are_refused():
    images = np.zeros((249, 24, 94, 3), np.uint8)
    few = PlateImages("few", images, tuple("A" * 249), tuple(map(str, range(249))))
    with pytest.raises(ParameterError, match="249 plates are too few for a search: it takes 250"):
        search.check_plates(few)
    with pytest.raises(DataError, match="no labels"):
        search.check_plates(dataclasses.replace(few, labels=None))


def test_sets_of_plates_never_meet():
    split = cross_fit(COUNT, search.FOLDS, 0)[0]
    calibrate, on = split.order[: search.CALIBRATION], split.order[search.CALIBRATION :]
    assert not set(calibrate) & set(on)
    assert not set(split.order) & set(split.evaluate)
    assert len(calibrate) + len(on) + len(split.evaluate) == COUNT
    assert not len(search.shipped_split(COUNT).evaluate)


def test_of_the_others_those_are_read_that_float_is_least_sure_of(weights, monkeypatch):
    plates = generate_plates(12, seed=5, workers=0)
    split = cross_fit(len(plates), 3, 0)[0]
    margins = np.arange(12.0)[::-1].copy()  # the last plate is the least sure
    monkeypatch.setattr(search, "CALIBRATION", 2)
    monkeypatch.setattr(search, "SHARE", 0.5)
    monkeypatch.setattr(search, "margins", lambda *_: margins)
    lesson = Search(weights, plates, "BM1684X", split, 1.0).lesson
    on = split.order[2:]
    assert sorted(lesson.names) == sorted(plates.names[k] for k in sorted(on)[-3:])


def test_the_margins_are_the_readings_own_and_kept(weights, monkeypatch):
    plates = generate_plates(3, seed=6, workers=0)
    made = search.margins(plates, weights)
    readings = decode(float_logits(weights, plates), weights.alphabet)
    np.testing.assert_array_equal(made, readings.margin)
    monkeypatch.setattr(search, "float_logits", None)
    np.testing.assert_array_equal(search.margins(plates, weights), made)


def bits(right):
    return pack(np.arange(COUNT) < right)


@pytest.fixture
def file():
    point = {"chip": "BM1684X", "images": COUNT, "folds": []}
    return {
        "format": 1,
        "provenance": {"plates": {"digest": "p"}, "weights": {"digest": "w"}},
        "float": {"images": COUNT, "correct": 380, "bits": bits(380)},
        "points": [
            {**point, "draw": draw, "budget": budget, "cost": cost, "bits": bits(right)}
            for draw, budget, cost, right in (
                (0, 0.041, 0.0408, 370),
                (0, 0.045, 0.0449, 390),
                (1, 0.041, 0.0408, 372),
                (1, 0.045, 0.0445, 380),
            )
        ],
        "shipped": [
            {"chip": "BM1684X", "budget": 0.045, "strategy": {"name": "searched", "method": "mse"}}
        ],
        "units": [{"chip": "BM1684X", "unit": "ms"}],
        "counts": [],
    }


def study_of(**draws):
    rows = [
        {
            "strategy": name,
            "chip": "BM1684X",
            "scheme": "cross-fit",
            "draw": draw,
            "images": COUNT,
            "bits": bits(count),
        }
        for name, counts in draws.items()
        for draw, count in enumerate(counts)
    ]
    return {
        "provenance": {
            "plates": {"digest": "p"},
            "weights": {"digest": "w"},
            "draws": [0, 1],
            "strategies": {},
        },
        "rows": rows,
        "float": {"images": COUNT, "correct": 380, "bits": bits(380)},
        "models": [
            {"strategy": name, "chip": "BM1684X", "predicted_latency_ms": 0.042} for name in draws
        ],
    }


def test_lines_are_means_over_draws_and_costs_over_folds(file):
    first, last = searched.lines(file)
    assert (first["mean"], first["low"], first["high"]) == (371 / COUNT, 370 / COUNT, 372 / COUNT)
    assert last["cost"] == pytest.approx(0.0447) and last["mean"] == pytest.approx(385 / COUNT)
    assert last["interval"][0] < last["mean"] < last["interval"][1]


def test_it_is_compared_on_the_same_draws(file):
    """With the recommended strategy on the searches' own folds, on draws that both have."""
    assert searched.against(file, "BM1684X") is None
    other = {"strategy": "kl", "scheme": "cross-fit", "images": COUNT}
    file["beside"] = [
        {**other, "chip": chip, "draw": draw, "bits": bits(right)}
        for chip, draw, right in (
            ("BM1684", 0, 100),
            ("BM1684X", 0, 380),
            ("BM1684X", 1, 380),
            ("BM1684X", 2, 300),
        )
    ]
    found = searched.against(file, "BM1684X")
    assert found["strategy"] == "kl" and found["difference"] == pytest.approx(5 / COUNT)
    assert (found["only_searched"], found["only_other"], found["draws"]) == (10, 0, 2)
    assert found["verdict"] == "cannot be told"  # of two draws
    assert searched.against(file, "BM1684") is None  # which was not searched


def test_the_recommended_one_is_calibrated_as_the_searches_are(weights, monkeypatch):
    """On each fold by the same plates: the first of those outside it, as `Search` takes them."""
    taken = {}
    monkeypatch.setattr(
        searched, "run_cells", lambda plan, plates, weights: taken.setdefault("plan", plan) and []
    )
    plates = generate_plates(300, seed=5, workers=0)
    assert searched.beside(weights, plates, "BM1684X", 2) == []
    plan = taken["plan"]
    splits = [split for scheme, split in plan.splits(300) if scheme == "cross-fit"]
    searches = [split for draw in range(2) for split in cross_fit(300, search.FOLDS, draw)]
    [strategy] = plan.strategies
    assert strategy == recommended("BM1684X") and plan.chips == ("BM1684X",)
    for split, other in zip(splits, searches, strict=True):
        assert np.array_equal(split.evaluate, other.evaluate)
        calibrated = split.calibrate(strategy.images)
        assert np.array_equal(calibrated, other.order[: search.CALIBRATION])


def test_hand_made_ones_of_other_plates_do_not_stand_beside(file):
    study = study_of(kl=(380, 370))
    [line] = searched.hand_made(file, study)
    assert (line["strategy"], line["cost"], line["mean"]) == ("kl", 0.042, 375 / COUNT)
    study["provenance"]["weights"] = {"digest": "other"}
    assert searched.hand_made(file, study) == searched.hand_made(file, None) == []


def test_a_cost_that_is_not_known_is_not_drawn(file):
    """What the vendor's search leaves in float is in its table alone: no part of the work."""
    study = study_of(mse=(380, 370), qtable=(380, 370))
    study["provenance"]["strategies"] = {
        "mse": {"name": "mse"},
        "qtable": {"name": "qtable", "search": "search_qtable"},
    }
    file["units"][0]["unit"] = "work in float"
    assert [line["strategy"] for line in searched.hand_made(file, study)] == ["mse"]
    file["units"][0]["unit"] = "ms"
    assert len(searched.hand_made(file, study)) == 2


def test_a_strategy_file_is_taken_as_any_other(file, tmp_path):
    (tmp_path / "s.json").write_text(searched.strategy_file(file, "BM1684X"))
    strategy = read_strategy(tmp_path / "s.json")
    assert (strategy.name, strategy.method) == ("searched-bm1684x", "mse")


def test_a_file_of_other_weights_is_not_grown(file, tmp_path):
    facts = dict.fromkeys(searched.SAME, 1)
    searched._check_same(tmp_path / "x.json", facts, facts)
    with pytest.raises(DataError, match="x.json holds searches of weights 1, this one is of 2"):
        searched._check_same(tmp_path / "x.json", facts, {**facts, "weights": 2})
    (tmp_path / "study.json").write_text('{"format": 1, "rows": []}')
    with pytest.raises(DataError, match="holds no searches"):
        searched.read_search(tmp_path / "study.json")


def test_the_band_grows_with_what_differs():
    study = study_of(mse=(380, 380), kl=(360, 360))
    lines = band.band(study)
    two = {line["points"]: line["plates"] for line in lines if line["compared"][:3] == "two"}
    # Draws are alike and 20 of 400 plates differ, always the same way: 0.05 * 0.95 = 0.0475.
    factor = (1.959964 + 0.841621) ** 2
    assert two[1.0] == pytest.approx(factor * 0.0475 * COUNT / (COUNT - 1) / 0.01**2, rel=0.03)
    assert two[0.5] == pytest.approx(4 * two[1.0], rel=0.03)
    assert {line["comparisons"] for line in lines} == {1, 2}
    row = band.band_table(lines)[0]
    assert row["1 points"].split(" / ")[0] == f"{two[1.0]:,}"


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["BM1684"])
def test_a_small_search_resumes_and_is_what_the_bmodel_computes(weights, chip, monkeypatch):
    """Few plates and layers: stopped in the middle, it ends as one that was not stopped."""
    for name, value in (("CALIBRATION", 8), ("LEAST", 8), ("METHODS", ("mse", "max"))):
        monkeypatch.setattr(search, name, value)
        monkeypatch.setattr(searched, name, value, raising=False)
    every = search.units
    monkeypatch.setattr(search, "units", lambda graph: every(graph)[:4])
    plates = generate_plates(48, seed=5, workers=0)
    costs = Costs(weights, plates, chip)
    assert costs.unit == "work in float"
    for name in ("mse", "mse-forked-b4-square", "mse-forked-in-neck-context"):
        strategy = STRATEGIES[name]
        share = share_of_layers(costs.graph(strategy.form), strategy.float_roles)
        assert share == pytest.approx(float_share(strategy))
    split = cross_fit(len(plates), 2, 0)[0]
    read, count = search.read, [0]

    def stopped(*given):
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        return read(*given)

    monkeypatch.setattr(search, "read", stopped)
    with pytest.raises(KeyboardInterrupt):
        search._searched(weights=weights, plates=plates, chip=chip, split=split, budgets=[0.0, 0.1])
    monkeypatch.setattr(search, "read", read)
    whole = search._searched(
        weights=weights, plates=plates, chip=chip, split=split, budgets=[0.0, 0.1]
    )
    again = search._searched(
        weights=weights, plates=plates, chip=chip, split=split, budgets=[0.0, 0.1]
    )
    assert whole["tried"] == again["tried"] > 4
    assert [p["strategy"] for p in whole["points"]] == [p["strategy"] for p in again["points"]]
    assert whole["points"][0]["cost"] == 0.0
    shown = searched._proof(weights, plates, chip, [0.0, 0.1])
    assert shown["same_graph"] and shown["simulator"]["identical"]
