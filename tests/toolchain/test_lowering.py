"""The warm quantizer gives what the compiler's own tools give."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from lprnet_nb.errors import ToolchainError
from lprnet_nb.model.trace import trace_model
from lprnet_nb.study.details import same_graph
from lprnet_nb.toolchain import lowering
from lprnet_nb.toolchain.compile import CalibrationTable, calibrate, compile_bmodel, top_graph
from lprnet_nb.toolchain.lowering import Quantizer
from lprnet_nb.toolchain.strategies import make_strategy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def graph(weights, compiler):
    return top_graph(trace_model(weights))


@pytest.fixture
def quantizer(tmp_path, compiler):
    with Quantizer(tmp_path / "quantizer.log") as made:
        yield made


def test_tables_are_those_of_the_tool(graph, quantizer, published):
    images = published.images[:6]
    tables = quantizer.tables(graph, images, ["kl", "mse", "max", "percentile9999"], tune=1)
    for method, table in tables.items():
        strategy = make_strategy(name="tool", method=method, images=6, tune=1)
        own = calibrate(graph, images, strategy, "BM1684X").thresholds()
        assert table.thresholds() == own and len(own) > 30


SAME_NUMBERS = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import quantize_worker
from calibration.cali_math import CaliMathCpu

draw = np.random.default_rng(0)
for size in (1, 7, 1000, 50_000):
    for values in (
        draw.standard_normal(size),
        np.maximum(draw.standard_normal(size), 0),
        -draw.exponential(1e-5, size),
        draw.standard_cauchy(size),
        draw.lognormal(0, 3, size),
        draw.integers(0, 3, size),
        np.where(draw.random(size) < 0.99, 0, 5 * draw.random(size)),
        np.full(size, 0.3),
        np.zeros(size),
    ):
        values = values.astype(np.float32)
        tool = CaliMathCpu().threshold_mse(values, [8, 4])
        ours = quantize_worker.threshold_mse(values, [8, 4])
        assert tool == ours and [*map(type, tool.values())] == [*map(type, ours.values())], ours
assert quantize_worker.kld_calibrator.math_impl.threshold_mse is quantize_worker.threshold_mse
"""


def test_thresholds_of_least_squares_are_the_tools_own_numbers(compiler):
    inside = Path(lowering.__file__).parent / "inside"
    subprocess.run(
        [compiler.python, "-c", SAME_NUMBERS, inside], env=compiler.environment(), check=True
    )


def test_equalized_weights_are_those_of_the_tool(graph, quantizer, published):
    strategy = make_strategy(name="tool", method="mse", images=4, weight_equalization=True)
    own = calibrate(graph, published.images[:4], strategy, "BM1684X")
    ours = quantizer.tables(graph, published.images[:4], ["mse"], weight_equalization=True)["mse"]
    assert ours.thresholds() == own.thresholds()
    (name,) = [path.name for path in own.path.parent.glob("lprnet_top_*_weight.npz")]
    with (
        np.load(own.path.parent / name) as a,
        np.load(ours.path.parent / name) as b,
        np.load(graph.folder / name) as before,
    ):
        assert set(a) == set(b) and all(np.array_equal(a[key], b[key]) for key in a)
        assert any(not np.array_equal(a[key], before[key]) for key in a)
    plain = quantizer.tables(graph, published.images[:4], ["mse"])["mse"]
    folders = [quantizer.lower(graph, "BM1684X", strategy, table) for table in (ours, own, plain)]
    assert same_graph(folders[0], folders[1]) and not same_graph(folders[0], folders[2])


def test_graph_is_that_of_the_bmodel(graph, quantizer, published, weights):
    strategy = make_strategy(name="mixed", method="mse", images=6, float_roles=("concat",))
    table = quantizer.tables(graph, published.images[:6], ["mse"])["mse"]
    for chip in ("BM1684X", "BM1684"):
        model = compile_bmodel(trace_model(weights), chip, "int8", strategy=strategy, table=table)
        assert same_graph(quantizer.lower(graph, chip, strategy, table), model.graph)


def test_failures_carry_the_tools_words(graph, quantizer, tmp_path):
    empty = tmp_path / "empty"
    empty.write_text("")
    with pytest.raises(ToolchainError, match="quantizing for BM1684X failed"):
        quantizer.lower(
            graph,
            "BM1684X",
            make_strategy(name="none"),
            CalibrationTable(empty, None, f"empty-{np.random.default_rng().random()}"),
        )


def test_a_dead_worker_is_an_error_and_not_the_end(graph, quantizer, published):
    dice = np.random.default_rng()

    def tables():  # of images that no run before has calibrated on
        images = published.images[6:8] ^ dice.integers(0, 2, (2, 24, 94, 3), np.uint8)
        return quantizer.tables(graph, images, ["max"])["max"]

    tables()
    quantizer._process.kill()
    quantizer._process.wait()
    with pytest.raises(ToolchainError, match="process ended"):
        tables()
    assert tables().thresholds()
