"""The record of small networks of many kinds, and how a row of it is made."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from lprnet_nb.doctor import unknown_operations
from lprnet_nb.errors import ParameterError
from lprnet_nb.places import repository
from lprnet_nb.proof import foreign_exactness
from lprnet_nb.proof.exactness import read_record
from lprnet_nb.proof.foreign import compiled_example, random_images
from lprnet_nb.proof.networks import EXAMPLES, example, names_of
from lprnet_nb.runtime.emulator import Emulator, load_graph
from lprnet_nb.runtime.emulator.lower import lower, unknowns


@pytest.fixture(scope="module")
def rows():
    record = read_record(repository() / "data" / "verification" / "networks" / "2026-11.json")
    assert record["summary"] == foreign_exactness.summary(record["rows"])
    return record["rows"]


def test_every_network_stands_in_the_record_beside_both_judges(rows):
    wanted = {
        (n, c, j)
        for n in EXAMPLES
        for c in ("BM1684X", "BM1684")
        for j in ("interpreter", "simulator")
    }
    assert {(row["network"], row["chip"], row["judge"]) for row in rows} == wanted
    assert len({row["network"] for row in rows if "images" in row}) >= 12


def test_every_network_is_its_judges_to_the_bit(rows):
    for row in rows:
        assert row["images"] >= 20 and row["distinct"] > 10, row
        assert row["identical"] and row["max_abs_difference"] == 0, row


def test_a_mean_of_rows_that_come_out_odd_is_the_simulators(compiler):
    """The Korean fork's, over 4,104 values (two lanes) and over 43,776 (one step)."""
    row = foreign_exactness.judged("korean-fork", "BM1684X", "simulator", 20)
    assert row["identical"] and row["kernels"] == "native"


def test_long_products_saturate_on_bm1684_as_its_chip_has_it(compiler):
    """A product over 1,536 values, in parts of 1,024."""
    row = foreign_exactness.judged("vgg", "BM1684", "simulator", 6)
    assert row["identical"] and row["distinct"] > 50
    folder, images = compiled_example("vgg", "BM1684"), random_images(EXAMPLES["vgg"].shape, 6)
    whole = Emulator(folder / "graph", arithmetic="interpreter").run(images)
    assert not np.array_equal(whole, Emulator(folder / "graph").run(images))


def test_two_sets_of_logits_are_compared():
    mine = np.array([[1.0, 2, 3], [4, 5, 6]], np.float32)
    judge = mine.reshape(2, 1, 3).copy()
    judge[1, 0, 2] = -8
    assert foreign_exactness.compared(mine, judge) == {
        "images": 2,
        "logits": 3,
        "distinct": 6,
        "identical": False,
        "differing": pytest.approx(1 / 6),
        "max_abs_difference": 14.0,
        "largest_logit": 8.0,
    }


def test_a_new_row_takes_the_place_of_the_same_ones():
    def row(network, value):
        return {"network": network, "chip": "BM1684", "judge": "simulator", "refused": value}

    merged = foreign_exactness.merged({"rows": [row("a", 1), row("b", 1)]}, [row("a", 2)])
    assert [(r["network"], r["refused"]) for r in merged["rows"]] == [("a", 2), ("b", 1)]


def test_what_is_not_a_network_or_a_judge_is_said():
    with pytest.raises(ParameterError, match="network 'rsnet' is not known. Choose from lprnet"):
        names_of("resnet,rsnet")
    with pytest.raises(ParameterError, match="judge 'chip'"):
        foreign_exactness.measure_networks(None, None, "chip", 1, None)
    with pytest.raises(ParameterError, match="images 0"):
        foreign_exactness.measure_networks(None, None, "both", 0, None)


def test_weights_are_drawn_by_a_networks_name():
    first, again, other = (next(example(n).parameters()) for n in ("vgg", "vgg", "resnet"))
    assert (first == again).all() and first.flatten()[0] != other.flatten()[0]


@pytest.fixture
def unknown_graph(compiler, tmp_path):
    """A graph two of whose operations have names that the compiler does not give."""
    folder = compiled_example("svtr", "BM1684X") / "graph"
    record = json.loads((folder / "graph.json").read_text())
    for op in record["ops"]:
        if op["type"] in ("tpu.LayerNorm", "tpu.Softmax"):
            op["type"] += "Other"
    (tmp_path / "graph.json").write_text(json.dumps(record))
    shutil.copy(folder / "graph.npz", tmp_path)
    return tmp_path


def test_doctor_lists_what_the_emulator_does_not_know(unknown_graph):
    found = unknown_operations(unknown_graph)
    graph = load_graph(unknown_graph)
    types = {row["operation"] for row in found["unknown"]}
    assert types >= {"LayerNormOther", "SoftmaxOther"} and "Conv2D" not in types
    assert found["operations"] == len(graph.ops) and found["kernels"] is None
    [norm] = [row for row in found["unknown"] if row["operation"] == "LayerNormOther"]
    assert norm["what"] == "unknown operation" and norm["taken_by"] == "device, simulator"


def test_doctor_says_what_is_known_as_the_interpreter_has_it(compiler, tmp_path):
    """Parts of a long product on BM1684 that are not known, for a shift of less than 8."""
    folder = compiled_example("vgg", "BM1684") / "graph"
    record = json.loads((folder / "graph.json").read_text())
    [op, _] = [op for op in record["ops"] if op["type"] == "tpu.MatMul"]
    op["attributes"]["rshifts"] = [7]
    (tmp_path / "graph.json").write_text(json.dumps(record))
    shutil.copy(folder / "graph.npz", tmp_path)
    [row] = unknown_operations(tmp_path)["unknown"]
    assert row["layer"] == op["name"] and "a product over 1536 values" in row["what"]
    assert row["taken_by"] == "device, simulator, emulator with the interpreter's arithmetic"


def test_every_unknown_is_found_and_nothing_else_is_left_out(unknown_graph):
    graph = load_graph(unknown_graph)
    found = [one.op.name for one in unknowns(graph)]
    left = [op.name for op in graph.ops if op.name not in found]
    steps = {step.name for step in lower(graph, "chip", lambda unknown: None)}
    assert len(set(found)) == len(found) >= 2 and set(left) <= steps


def test_doctor_finds_nothing_unknown_in_a_known_network(compiler):
    found = unknown_operations(compiled_example("resnet", "BM1684X") / "graph")
    assert found["unknown"] == [] and found["kernels"]
