"""The real compiler on the published network; results judged by values."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from lprnet_nb.datasets.images import preprocess
from lprnet_nb.errors import DataError, ParameterError, ToolchainError
from lprnet_nb.model.lprnet.roles import roles_of_layers
from lprnet_nb.model.trace import float_logits, trace_model
from lprnet_nb.runtime.engine import open_engine
from lprnet_nb.toolchain.bmodel import (
    TIME,
    BModel,
    inspect_bmodel,
    predicted_latency_ms,
    without_time,
)
from lprnet_nb.toolchain.chips import PRECISIONS, check_supported, parse_chip, parse_precision
from lprnet_nb.toolchain.compile import calibrate, compile_bmodel, float_lines, top_graph
from lprnet_nb.toolchain.environment import ENVIRONMENT_VARIABLE
from lprnet_nb.toolchain.layers import layers_of_roles
from lprnet_nb.toolchain.strategies import make_strategy

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "compile.json").read_text("utf8"))
KL20 = make_strategy(name="kl-20", images=20, tune=1)


@pytest.fixture(scope="module")
def traced(compiler, weights):
    return trace_model(weights, 1, "image")


@pytest.fixture(scope="module")
def calibration(published):
    return published.images[-20:]


@pytest.fixture(scope="module", params=["BM1684X", "BM1684"])
def int8(request, traced, calibration):
    return compile_bmodel(
        traced, request.param, "int8", strategy=KL20, calibration_images=calibration
    )


def test_fp32_on_the_simulator_is_the_float_network(traced, weights, published):
    some = published.take(slice(0, 2))
    expected = float_logits(weights, some)
    for chip in ("BM1684X", "BM1684"):
        bmodel = compile_bmodel(traced, chip, "fp32")
        with open_engine(bmodel, "simulator", workers=1) as engine:
            logits = engine.infer(preprocess(some.images))
        assert np.abs(logits - expected).max() < GOLDEN["fp32_max_difference"]
        assert bmodel.output_shape == (1, 68, 18) and bmodel.input_dtype == "float32"


def test_int8_is_near_float_and_the_record_is_complete(int8, weights, published):
    some = published.take(slice(0, 2))
    with open_engine(int8, "simulator", workers=1) as engine:
        logits = engine.infer(preprocess(some.images))
    expected = float_logits(weights, some)
    noise = np.square(logits - expected).sum() / np.square(expected).sum()
    assert GOLDEN["int8_sqnr_db"][0] < -10 * np.log10(noise) < GOLDEN["int8_sqnr_db"][1]
    assert int8.strategy == "kl-20" and int8.precision == "int8"
    assert BModel.load(int8.folder) == int8
    assert {"graph.json", "graph.npz"} <= {p.name for p in int8.graph.iterdir()}
    if int8.chip == "BM1684":
        assert int8.predicted_latency_ms is None
    else:
        low, high = GOLDEN["bm1684x_int8_latency_ms"]
        assert low < int8.predicted_latency_ms < high


def test_the_same_inputs_are_compiled_once(int8, traced, calibration, monkeypatch):
    monkeypatch.setattr("lprnet_nb.toolchain.environment.Compiler.run", None)
    assert (
        compile_bmodel(traced, int8.chip, "int8", strategy=KL20, calibration_images=calibration)
        == int8
    )


def test_the_table_has_a_threshold_for_every_layer(traced, calibration):
    graph = top_graph(traced)
    table = calibrate(graph, calibration, KL20, "BM1684X").thresholds()
    names = [layer["name"] for layer in graph.layers]
    assert set(names) <= set(table)
    threshold, low, high = table[names[0]]
    assert threshold == pytest.approx(0.99609375, abs=1e-4) and low == -high == -threshold
    assert all(low <= high and threshold > 0 for threshold, low, high in table.values())


def test_roles_cover_the_network_in_both_forms(traced, weights):
    for form in ("published", "forked"):
        graph = top_graph(trace_model(weights, 1, "image", form))
        roles = roles_of_layers(graph.layers)
        count = {role: len(names) for role, names in roles.items()}
        convolutions = {
            r: sum(layer["op"] == "top.Conv" for layer in graph.layers if layer["name"] in names)
            for r, names in roles.items()
        }
        extra = form == "forked"
        assert convolutions["input"] == convolutions["neck"] == convolutions["output"] == 1
        assert convolutions["block4"] == convolutions["block11"] == 4 + extra
        assert convolutions["block8"] == 4 and convolutions["container"] == 1
        assert (count["context-pool"], count["context-divide"], count["final-mean"]) == (3, 4, 1)
    with pytest.raises(ToolchainError, match="no layer of role 'head'"):
        layers_of_roles(graph.layers, ("head",))


def test_what_cannot_be_is_refused_before_any_tool_runs(traced, calibration):
    with pytest.raises(ParameterError, match="BM1684 has no fp16"):
        compile_bmodel(traced, "BM1684", "fp16")
    with pytest.raises(ParameterError, match="needs a strategy and calibration images"):
        compile_bmodel(traced, "BM1684X", "int8")
    with pytest.raises(ParameterError, match="does not apply to fp32"):
        compile_bmodel(traced, "BM1684X", "fp32", strategy=KL20)
    forked = make_strategy(name="f", form="forked")
    with pytest.raises(ParameterError, match="'forked' form"):
        compile_bmodel(traced, "BM1684X", "int8", strategy=forked, calibration_images=calibration)
    with pytest.raises(ParameterError, match="expected uint8"):
        calibrate(top_graph(traced), calibration[:0], KL20, "BM1684X")


def test_a_failing_tool_shows_the_end_of_its_log_which_is_kept(traced, tmp_path):
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not a trace")
    with pytest.raises(ToolchainError, match="(?s)translating the trace.*not a ZIP") as caught:
        top_graph(dataclasses.replace(traced, path=broken, digest="none"))
    log = Path(re.search(r"log \((.*?)\)", str(caught.value)).group(1))
    assert "not a ZIP" in log.read_text()
    log.unlink()


def test_chips_and_precisions_in_any_case():
    assert parse_chip("bm1684x") == "BM1684X" and parse_precision(" INT8") == "int8"
    with pytest.raises(ParameterError, match="BM1684, BM1684X, BM1688, CV186X"):
        parse_chip("BM168")
    with pytest.raises(ParameterError, match="fp32, fp16, bf16, int8"):
        parse_precision("int4")
    for precision in PRECISIONS:
        check_supported("BM1688", precision)


def test_an_altered_bmodel_or_record_is_refused(int8, tmp_path):
    copy = tmp_path / "lprnet_int8_1b.bmodel"
    raw = bytearray(int8.path.read_bytes())
    copy.write_bytes(raw)
    int8.save_beside(copy)
    assert BModel.load(copy).sha256 == int8.sha256
    raw[len(raw) // 2] ^= 1
    copy.write_bytes(raw)
    with pytest.raises(DataError, match="differs from its record"):
        BModel.load(copy)
    copy.with_suffix(".json").write_text("{}")
    with pytest.raises(DataError, match="no readable record"):
        BModel.load(copy)


def test_inspection_tells_chip_and_memory(int8):
    facts = inspect_bmodel(int8.path)
    assert facts["chip"] == int8.chip and facts["device_mem_size"] > 100_000
    assert "[1, 68, 18]" in facts["text"]


def test_predicted_latency_is_the_last_one_said(tmp_path):
    profile = tmp_path / "p.txt"
    assert predicted_latency_ms(profile) is None
    profile.write_text("runtime: 1.5ms\nflops: 1, runtime: 0.058835ms, x")
    assert predicted_latency_ms(profile) == 0.058835


@pytest.mark.slow
def test_the_compiler_searches_layers_for_float(traced, calibration):
    """`search_qtable`, a minute: it names layers of the network, and they are left in float."""
    strategy = make_strategy(name="q", images=20, tune=1, search="search_qtable")
    table = calibrate(top_graph(traced), calibration, strategy, "BM1684X")
    names = {layer["name"] for layer in top_graph(traced).layers}
    lines = float_lines(top_graph(traced), "BM1684X", strategy, table)
    assert lines and {line.split()[0] for line in lines} <= names
    assert {line.split()[1] for line in lines} == {"F16"}


def test_compiling_again_gives_the_same_bytes_and_a_model_that_runs(
    traced, weights, published, compiler, tmp_path, monkeypatch
):
    before = tmp_path / "before.bmodel"
    before.write_bytes(compile_bmodel(traced, "BM1688", "fp32").path.read_bytes())
    without_time(before)  # a cache may hold one from before times were left out
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(compiler.prefix))
    again = compile_bmodel(traced, "BM1688", "fp32")
    assert again.path.read_bytes() == before.read_bytes()
    assert inspect_bmodel(again.path)["create_time"] == TIME.decode()
    with open_engine(again, "simulator", workers=1) as engine:
        logits = engine.infer(preprocess(published.images[:1]))
    expected = float_logits(weights, published.take(slice(0, 1)))
    assert np.abs(logits - expected).max() < GOLDEN["fp32_max_difference"]


def test_a_bmodel_without_one_time_of_compiling_is_not_touched(tmp_path):
    header = bytearray(64)
    header[8] = 200
    for metadata in (b"no time", 2 * b"Mon Nov 23 09:30:53 2026 "):
        path = tmp_path / "other.bmodel"
        path.write_bytes(header + metadata)
        with pytest.raises(ToolchainError, match="times of compiling, expected one"):
            without_time(path)
        assert path.read_bytes() == header + metadata
