"""What is learnt on calibration images, piece by piece, and what the compiler makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lprnet_nb.datasets.images import preprocess
from lprnet_nb.errors import ParameterError, ToolchainError
from lprnet_nb.learnt import (
    LARGEST,
    _check_holds,
    _OnGrid,
    learnt_table,
    least_squares_scales,
    on_scales,
    passed_on,
)
from lprnet_nb.runtime.crosscheck import crosscheck
from lprnet_nb.runtime.emulator import Emulator, load_graph
from lprnet_nb.toolchain.compile import compile_bmodel, top_graph
from lprnet_nb.toolchain.lowering import Quantizer
from lprnet_nb.toolchain.nntc.strategies import from_common
from lprnet_nb.toolchain.strategies import STRATEGIES, check_generates, make_strategy


def test_weights_are_rounded_half_away_from_zero_and_clipped():
    weight = np.array([[2.5, -2.5, 0.49, 300.0, -300.0]], np.float32)
    assert on_scales(weight, np.array([1.0])).tolist() == [[3, -3, 0, 127, -128]]


def test_the_scale_of_least_squared_error_clips_an_outlier_and_keeps_even_channels():
    rng = np.random.default_rng(0)
    weight = rng.uniform(-1, 1, (2, 20_000)).astype(np.float32)
    weight[0, 0] = 1.25
    scales = least_squares_scales(weight)
    plain = np.abs(weight).max(1) / LARGEST
    assert scales[0] < 0.95 * plain[0] and scales[1] > 0.98 * plain[1]
    error = [((on_scales(weight, s) * s[:, None] - weight) ** 2).sum(1) for s in (scales, plain)]
    assert error[0][0] < 0.95 * error[1][0]
    assert np.isfinite(least_squares_scales(np.zeros((1, 8), np.float32))).all()


def test_errors_are_passed_on_to_what_follows():
    rng = np.random.default_rng(1)
    seen = rng.normal(size=(2000, 3)) @ rng.normal(size=(3, 24))  # inputs that go together
    seen += 0.05 * rng.normal(size=seen.shape)
    rows, units = rng.normal(size=(8, 24)), np.full(8, 0.25)
    made = passed_on(rows, seen - seen.mean(0), units)
    assert np.array_equal(made, np.round(made)) and np.abs(made).max() <= 128
    errors = [
        np.square(seen @ (whole * units[:, None] - rows).T).mean()
        for whole in (made, on_scales(rows, units))
    ]
    assert errors[0] < 0.2 * errors[1]


def test_the_gradient_of_a_grid_is_that_of_learnt_step_sizes():
    values = torch.tensor([-9.0, 0.3, 1.2, 50.0], requires_grad=True)
    step = torch.tensor(0.5, requires_grad=True)
    _OnGrid.apply(values, step, 0, 15).sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 0]
    # Clipped below: 0; inside: round(v / s) - v / s; clipped above: the limit.
    assert step.grad.item() == pytest.approx(0 + (1 - 0.6) + (2 - 2.4) + 15)


@pytest.mark.parametrize(
    "field",
    [
        {"weight_equalization": True},
        {"bias_correction": True},
        {"fuse_preprocess": True},
        {"symmetric": False},
        {"search": "search_threshold"},
        {"finetune": True},
    ],
)
@pytest.mark.parametrize("learnt", [{"thresholds": "learnt"}, {"weights": "mse"}])
def test_learning_goes_with_plain_int8_alone(field, learnt):
    with pytest.raises(ParameterError, match=f"without {next(iter(field))}"):
        make_strategy(name="mine", form="forked", **field, **learnt)


def test_what_cannot_learn_says_so():
    scales = STRATEGIES["mse-forked-weights"]
    with pytest.raises(ParameterError, match="BM1684 has one power of two"):
        learnt_table(None, None, None, None, "BM1684", scales, None)
    with pytest.raises(ParameterError, match="known of TPU-MLIR 1.30.2 alone"):
        check_generates("1.28.1", scales)
    check_generates("1.28.1", STRATEGIES["mse-forked-rounding"])
    for name in ("learnt-forked", "mse-forked-rounding"):
        with pytest.raises(ParameterError, match="learning follows TPU-MLIR"):
            from_common(STRATEGIES[name])
    table = object()
    plain = STRATEGIES["mse-forked"]
    assert learnt_table(None, None, None, None, "BM1684", plain, table) is table


@pytest.fixture(scope="module")
def made(weights, compiler, published, tmp_path_factory):
    """By chip: what was learnt of 16 images (all of it), and the strategy, graph and trace."""
    from lprnet_nb.model.trace import trace_model

    traced = trace_model(weights, form="forked")
    graph, images = top_graph(traced), published.images[:16]
    log = tmp_path_factory.mktemp("learnt") / "quantizer.log"
    with Quantizer(log) as quantizer:
        start = quantizer.tables(graph, images, ["mse"])["mse"]

        def learn(chip, name):
            strategy = STRATEGIES[name]
            table = learnt_table(quantizer, traced, graph, images, chip, strategy, start)
            return table, quantizer.lower(graph, chip, strategy, table)

        yield traced, start, learn


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chip", "name"),
    [
        ("BM1684X", "mse-forked-weights"),
        ("BM1684X", "learnt-forked-rounding"),
        ("BM1684", "learnt-forked-rounding"),
    ],
)
def test_the_bmodel_holds_what_was_learnt_and_runs_as_the_emulator_says(
    made, chip, name, published, tmp_path
):
    traced, start, learn = made
    table, lowered = learn(chip, name)
    plain, found = load_graph(learn(chip, "mse-forked")[1]), load_graph(lowered)
    assert table.digest != start.digest
    moved = {
        op.name: int((found.weights[op.operand(1)] != plain.weights[op.operand(1)]).sum())
        for op in found.ops
        if op.type == "tpu.Conv2D"
    }
    assert min(moved.values()) > 0, moved
    bmodel = compile_bmodel(traced, chip, "int8", strategy=STRATEGIES[name], table=table)
    compiled = load_graph(bmodel.exported)
    for key, array in found.weights.items():
        assert np.array_equal(compiled.weights[key], array), key
    plates = published.take(slice(0, 4))
    logits = Emulator(bmodel.exported).run(preprocess(plates.images))
    judged = crosscheck(bmodel, plates, logits, images=4)
    assert judged["max_abs_difference"] == 0, judged


@pytest.mark.slow
def test_another_graph_than_was_learnt_is_refused(made):
    _, _, learn = made
    table, lowered = learn("BM1684X", "mse-forked-rounding")
    graph = load_graph(lowered)
    name = next(op.name for op in graph.ops if op.type == "tpu.Conv2D")
    weights = {name: graph.weights[f"{name}_filter_int8"].copy()}
    _check_holds(graph, {name: graph.types[name].scale}, weights, table.path)
    with pytest.raises(ToolchainError, match=f"layer '{name}' has the grid"):
        _check_holds(graph, {name: graph.types[name].scale * 1.01}, {}, table.path)
    weights[name].flat[0] += 1
    with pytest.raises(ToolchainError, match="has 1 of 1728 weights otherwise"):
        _check_holds(graph, {}, weights, table.path)
