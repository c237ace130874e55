"""The emulator's arithmetic, without the compiler: every operation, every instruction set."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import emulator_graphs
import numpy as np
import pytest
import torch
from instruction_sets import TARGETS

from lprnet_nb.errors import EngineError, ParameterError
from lprnet_nb.runtime.emulator import Emulator, load_graph, native, torch_executor
from lprnet_nb.runtime.emulator.convolution import Convolution
from lprnet_nb.runtime.emulator.lower import ARITHMETIC, lower
from lprnet_nb.runtime.emulator.steps import Requant, round_float

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "emulator.json").read_text())
GRAPHS = {
    "symmetric": emulator_graphs.symmetric,
    "batch of 4": lambda: emulator_graphs.symmetric(4),
    "shared mean": lambda: emulator_graphs.symmetric(4, shared_mean=True),
    "asymmetric": emulator_graphs.asymmetric,
    "bm1684": emulator_graphs.bm1684,
    "lookup": emulator_graphs.lookup,
    "other networks": emulator_graphs.other_networks,
    "other networks, batch of 2": lambda: emulator_graphs.other_networks(2),
}
HAS_COMPILER = any(map(shutil.which, ("cc", "gcc", "clang")))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C compiler here")


def inputs_for(graph, count=8, seed=5) -> np.ndarray:
    shape = (count, *graph.types[graph.input].shape[1:])
    random = np.random.default_rng(seed)
    if graph.types[graph.input].storage == "u8":
        return random.integers(0, 256, shape, dtype=np.uint8)
    values = random.standard_normal(shape).astype(np.float32)
    values[0] = 4.0  # saturates
    values[1] = -4.0
    return values


@pytest.mark.parametrize("case", GOLDEN["right_shift"], ids=str)
def test_right_shift(case):
    made = torch_executor.right_shift(
        torch.tensor(case["values"]), torch.tensor(case["shift"]), case["rounding"]
    )
    assert made.tolist() == case["expected"]


@pytest.mark.parametrize("case", GOLDEN["requantize"], ids=str)
def test_requantize(case):
    requant = Requant(
        np.array(case["multiplier"]),
        np.array(case["shift"]),
        case["rounding"],
        case["zero_point"],
        *case["limits"],
        case.get("before"),
    )
    values = torch.tensor(case["values"]).view(-1, 1, 1, 1)
    assert torch_executor.requantize(values, requant).view(-1).tolist() == case["expected"]


def test_round_half_away():
    below = np.nextafter(np.float32(0.5), np.float32(0))
    values = torch.tensor([0.5, -0.5, float(below), 1.5, -2.5, 2.4999, 8388609.0])
    assert torch_executor.round_half_away(values).tolist() == [1, -1, 0, 2, -3, 2, 8388609]


def test_sequential_sum_rounds_as_it_goes():
    # 2**24 + 1 is not a float32: adding ones to it one by one changes nothing.
    values = torch.tensor([[2.0**24] + [1.0] * 100])
    assert torch_executor.sequential_sum(values).item() == 2.0**24


@pytest.mark.parametrize("case", GOLDEN["chip_mean"], ids=lambda case: case["chip"])
def test_chip_means_are_the_simulators(case, tmp_path):
    """Made by the simulators from the same inputs: their order of additions, to the bit."""
    builder = emulator_graphs.Builder(chip=case["chip"].lower())
    shape = case["shape"] if len(case["shape"]) == 4 else (1, *case["shape"])
    source = builder.input(shape)
    half = case["storage"] == "f16"
    builder.mean(builder.cast(source, "f16") if half else source, case["axes"], keep=case["keep"])
    if half:
        builder.cast(builder.ops[-1]["name"], "f32")
    folder = builder.write(tmp_path)
    count = int(np.prod(shape))
    inputs = (np.arange(count) * 7919 % 1013 / 256).astype(np.float32)  # exact in f16
    inputs = inputs.reshape(shape)
    for kernels in ("torch", *(["native"] if HAS_COMPILER else [])):
        made = Emulator(folder, kernels=kernels).run(inputs).reshape(-1)
        assert made[: len(case["expected"])].tolist() == case["expected"], kernels


def test_chip_reciprocal():
    case = GOLDEN["chip_reciprocal"]
    values = torch.tensor(case["values"], dtype=torch.float32)
    assert torch_executor.reciprocal(values, "f32").tolist() == case["expected"]


def test_round_float_to_bf16_and_f16():
    values = np.array([1.00390625, 1.01171875, 3.1415927, 65519.0], np.float32)
    assert round_float(values, "bf16").tolist() == [1.0, 1.015625, 3.140625, 65536.0]
    assert round_float(values[2:], "f16").tolist() == [3.140625, 65504.0]


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("arithmetic", ARITHMETIC)
@needs_compiler
def test_native_kernels_equal_torch_on_every_layer(name, target, arithmetic, tmp_path):
    graph = load_graph(GRAPHS[name]().write(tmp_path))
    steps = lower(graph, arithmetic)
    names = [step.name for step in steps]
    inputs = inputs_for(graph)
    executor = native.NativeExecutor(graph, steps, threads=2, target=target)
    expected = torch_executor.TorchExecutor(graph, steps).run(inputs, names)
    made = executor.run(inputs, names)
    for layer in names:
        assert np.array_equal(made[layer], expected[layer]), layer
    alone = executor.run(inputs, [graph.output])[graph.output]
    assert np.array_equal(alone, expected[graph.output])
    assert len(np.unique(expected[graph.output])) > 3  # not all saturated


@pytest.mark.parametrize("channels", [1, 3, 16, 20, 50, 64, 130])
@pytest.mark.parametrize("target", TARGETS)
@needs_compiler
def test_native_max_pools_take_any_number_of_channels(channels, target, tmp_path):
    """Less, more and as many as a vector has, signed; behind a cast that writes few at a time."""
    b = emulator_graphs.Builder()
    x = b.cast(b.input((1, channels, 9, 11)), "i8", 0.02)
    b.pool(x, "Max", (1, 2), (1, 2))
    b.pool(x, "Max", (2, 1), (2, 1))
    b.pool(x, "Max", (2, 2), (2, 1), (0, 1, 0, 1))
    b.pool(x, "Max", (3, 3), (2, 2), (1, 1, 1, 1))
    b.pool(x, "Max", (3, 4), (1, 1), (2, 0, 0, 3))
    graph = load_graph(b.write(tmp_path))
    steps = lower(graph, "chip")
    names, inputs = [step.name for step in steps], inputs_for(graph)
    made = native.NativeExecutor(graph, steps, threads=2, target=target).run(inputs, names)
    expected = torch_executor.TorchExecutor(graph, steps).run(inputs, names)
    assert len(names) == 7
    for layer in names:
        assert np.array_equal(made[layer], expected[layer]), layer
        assert made[layer].min() < 0


@pytest.mark.parametrize("storage", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("target", TARGETS)
@needs_compiler
def test_float_graphs_differ_from_torch_in_the_last_bits_only(storage, target, tmp_path):
    graph = load_graph(emulator_graphs.floats(storage).write(tmp_path))
    steps = lower(graph, "interpreter")
    inputs = inputs_for(graph)
    made = native.NativeExecutor(graph, steps, target=target).run(inputs, [graph.output])
    expected = torch_executor.TorchExecutor(graph, steps).run(inputs, [graph.output])
    # torch sums in its own order, and an 8-bit layer in the middle may take another step
    bound = GOLDEN["float_order_relative_bound"][storage]
    scale = np.abs(expected[graph.output]).max()
    assert np.abs(made[graph.output] - expected[graph.output]).max() <= bound * scale


@needs_compiler
@pytest.mark.parametrize("channels", [3, 258, 800])
def test_float_convolution_sums_in_the_vendors_order(channels, tmp_path):
    builder = emulator_graphs.Builder()
    builder.convolution(builder.input((1, channels, 2, 3)), 5, (1, 2), storage="f32", relu=False)
    graph = load_graph(builder.write(tmp_path))
    inputs = inputs_for(graph, 2)
    made = Emulator(tmp_path, kernels="native", arithmetic="interpreter").run(inputs)

    step = lower(graph, "interpreter")[1]
    starts = native.float_blocks(channels * 2)
    taps = [(c, k) for c in range(channels) for k in range(2)]
    total = None
    for begin, end in pairwise(starts):
        block = np.zeros((2, 5, 2, 2), np.float32)
        for c, k in taps[begin:end]:
            # a fused multiply-add: one rounding
            product = (
                inputs[:, None, c, :, k : k + 2].astype(np.float64)
                * step.weight[:, c, 0, k].astype(np.float64)[None, :, None, None]
            )
            block = (product + block).astype(np.float32)
        total = block if total is None else total + block
    assert np.array_equal(made, total + step.bias[None, :, None, None])


def test_float_blocks_cover_the_13x1_layer():
    starts = native.float_blocks(3328)
    assert np.diff(starts).tolist() == [384] * 7 + [320, 320]


@needs_compiler
@pytest.mark.parametrize("requant", GOLDEN["extreme_requants"], ids=str)
def test_extreme_multipliers(requant, tmp_path):
    """Ties, no shift, zero, and products too wide for the short way."""
    builder = emulator_graphs.Builder()
    x = builder.cast(builder.input((1, 8, 5, 6)), "i8", 0.02)
    multiplier, shift = requant["multiplier"], requant["shift"]
    builder.convolution(
        x,
        16,
        (3, 3),
        storage=requant["storage"],
        relu=False,
        requant=([multiplier] * 16, [shift] * 16),
        spread=requant["spread"],
    )
    graph = load_graph(builder.write(tmp_path))
    steps = lower(graph)
    inputs = inputs_for(graph, 16)
    expected = torch_executor.TorchExecutor(graph, steps).run(inputs, [graph.output])
    for target in ("native", "haswell"):
        made = native.NativeExecutor(graph, steps, target=target).run(inputs, [graph.output])
        assert np.array_equal(made[graph.output], expected[graph.output])


def test_torch_executor_convolution_against_plain_integers(tmp_path):
    graph = load_graph(emulator_graphs.symmetric().write(tmp_path))
    steps = {step.name: step for step in lower(graph)}
    inputs = inputs_for(graph, 2)
    values = torch_executor.TorchExecutor(graph, tuple(steps.values())).run(inputs, steps)
    for step in steps.values():
        if not isinstance(step, Convolution):
            continue
        q = step.requant
        x = values[step.inputs[0]][1].astype(np.int64).astype(object)
        top, left, bottom, right = step.pads
        x = np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=step.pad_value)
        row, column = min(2, step.type.shape[2] - 1), step.type.shape[3] - 1
        at = (row * step.strides[0], column * step.strides[1])
        window = x[:, at[0] : at[0] + step.weight.shape[2], at[1] : at[1] + step.weight.shape[3]]
        for channel in range(step.weight.shape[0]):
            total = int((window * step.weight[channel].astype(object)).sum())
            total += int(step.bias[channel])
            m = int(q.multiplier[channel % len(q.multiplier)])
            s = int(q.shift[channel % len(q.shift)])
            expected = (total * m + (1 << s >> 1) >> s) + q.zero_point
            expected = min(max(expected, q.low), q.high)
            assert values[step.name][1, channel, row, column] == expected, step.name


@pytest.mark.parametrize("kernels", ["torch", pytest.param("native", marks=needs_compiler)])
def test_any_number_of_images(kernels, tmp_path):
    emulator = Emulator(emulator_graphs.symmetric().write(tmp_path), threads=2, kernels=kernels)
    inputs = inputs_for(emulator.graph, 11)
    whole = emulator.run(inputs)
    assert whole.shape == (11, 68, 3) and whole.dtype == np.float32
    for count in (0, 1, 5):
        assert np.array_equal(emulator.run(inputs[:count]), whole[:count])


@pytest.mark.parametrize("kernels", ["torch", pytest.param("native", marks=needs_compiler)])
def test_a_shared_mean_couples_the_images_of_a_batch(kernels, tmp_path):
    coupled = Emulator(emulator_graphs.symmetric(4, True).write(tmp_path / "a"), kernels=kernels)
    apart = Emulator(emulator_graphs.symmetric(4).write(tmp_path / "b"), kernels=kernels)
    inputs = inputs_for(coupled.graph, 12)
    order = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7]
    assert np.array_equal(coupled.run(inputs[order]), coupled.run(inputs)[order])
    mixed = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert not np.array_equal(coupled.run(inputs[mixed]), coupled.run(inputs)[mixed])
    assert np.array_equal(apart.run(inputs[mixed]), apart.run(inputs)[mixed])
    # a group that is not full is filled with its last image
    filled = np.concatenate([inputs[:6], inputs[5:6], inputs[5:6]])
    assert np.array_equal(coupled.run(inputs[:6]), coupled.run(filled)[:6])


def test_tensors_are_dequantized(tmp_path):
    emulator = Emulator(emulator_graphs.asymmetric().write(tmp_path))
    inputs = inputs_for(emulator.graph, 3)
    layer = "conv2d3"
    kind = emulator.graph.types[layer]
    assert (kind.scale, kind.zero_point) == (0.1, 11)
    raw = emulator.tensors(inputs, [layer], raw=True)[layer]
    real = emulator.tensors(inputs, [layer])[layer]
    assert set(np.unique(raw)) <= set(range(11, 256))  # ReLU: nothing below the zero point
    assert np.array_equal(real, (raw - 11) * np.float32(0.1))
    every = emulator.tensors(inputs)
    assert set(every) == set(emulator.names)
    with pytest.raises(ParameterError, match="unknown layer 'nothing'"):
        emulator.tensors(inputs, ["nothing"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda op: op.update(type="tpu.Lstm"), "tpu.Lstm 'conv2d2': unknown operation"),
        (lambda op: op["attributes"].update(round_mode="HalfToEven"), "round_mode = 'HalfToEven'"),
        (lambda op: op["attributes"].update(quant_mode="TFLite"), "requantization mode 'TFLite'"),
        (lambda op: op["attributes"].update(novelty=3), "unknown attribute novelty = 3"),
        (lambda op: op["attributes"].update(use_winograd=1), "use_winograd = 1"),
        (lambda op: op["attributes"].update(relu_limit=6.0), "relu_limit = 6.0"),
        (lambda op: op["operands"].__setitem__(0, None), "'conv2d2': operand 0 is missing"),
        (lambda op: op["operands"].__delitem__(slice(1, 3)), "'conv2d2': operand 1 is missing"),
    ],
)
def test_what_is_not_known_is_named(change, message, tmp_path):
    builder = emulator_graphs.symmetric()
    change(builder.ops[2])
    with pytest.raises(EngineError, match=message):
        Emulator(builder.write(tmp_path))


def test_bad_files(tmp_path):
    with pytest.raises(EngineError, match="not a readable exported graph"):
        load_graph(tmp_path)
    folder = emulator_graphs.lookup().write(tmp_path / "graph")
    record = json.loads((folder / "graph.json").read_text())
    (folder / "graph.json").write_text(json.dumps(record | {"format": 99}))
    with pytest.raises(EngineError, match="format 99"):
        load_graph(folder)
    (folder / "graph.json").write_text(json.dumps(record))
    (folder / "graph.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(EngineError, match="compile the model again"):
        load_graph(folder)


def test_bad_inputs(tmp_path):
    emulator = Emulator(emulator_graphs.lookup().write(tmp_path))
    with pytest.raises(EngineError, match=r"shape \(1, 3, 6\)"):
        emulator.run(np.zeros((1, 3, 6), np.uint8))
    with pytest.raises(EngineError, match="dtype float32; the graph takes uint8"):
        emulator.run(np.zeros((1, 3, 6, 7), np.float32))
    with pytest.raises(ParameterError, match="kernels 'numba'"):
        Emulator(tmp_path, kernels="numba")
    with pytest.raises(ParameterError, match="arithmetic 'ideal'"):
        Emulator(tmp_path, arithmetic="ideal")
    with pytest.raises(ParameterError, match="native kernels run on the CPU"):
        Emulator(tmp_path, kernels="native", device="cuda")


def test_without_a_c_compiler_torch_serves_and_says_so(tmp_path, monkeypatch):
    native.library.cache_clear()
    monkeypatch.setattr(native.children, "program", lambda *names: None)
    try:
        folder = emulator_graphs.lookup().write(tmp_path)
        emulator = Emulator(folder)
        assert emulator.description["kernels"] == "torch"
        assert "no C compiler" in emulator.description["reason"]
        with pytest.raises(EngineError, match="no C compiler"):
            Emulator(folder, kernels="native")
    finally:
        native.library.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", GRAPHS)
def test_cuda_equals_the_cpu(name, tmp_path):
    folder = GRAPHS[name]().write(tmp_path)
    inputs = inputs_for(load_graph(folder), 8)
    on_device = Emulator(folder, device="cuda").tensors(inputs)
    on_cpu = Emulator(folder, kernels="torch").tensors(inputs)
    for layer, values in on_cpu.items():
        assert np.array_equal(on_device[layer], values), layer


@pytest.mark.parametrize("kernels", ["torch", pytest.param("native", marks=needs_compiler)])
def test_several_inputs_and_outputs(kernels, tmp_path):
    builder = emulator_graphs.Builder()
    first, second = (builder.input((1, 3, 4, 5)) for _ in range(2))
    total = builder.add("tpu.Sub", [first, second], builder.kinds[first])
    folder = builder.write(tmp_path)
    record = json.loads((folder / "graph.json").read_text())
    record |= {"inputs": [first, second], "outputs": [total, second]}
    (folder / "graph.json").write_text(json.dumps(record))
    emulator = Emulator(folder, kernels=kernels)
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((7, 3, 4, 5)).astype(np.float32) for _ in range(2))
    found = emulator.tensors({first: a, second: b}, emulator.graph.outputs)
    assert np.array_equal(found[total], a - b) and np.array_equal(found[second], b)
    with pytest.raises(ParameterError, match="the graph has 2 outputs"):
        emulator.run({first: a, second: b})
    with pytest.raises(EngineError, match="the graph takes input0, input1, of one length"):
        emulator.tensors(a)


@pytest.mark.parametrize(
    "place, value, said",
    [
        (("inputs", 0), [], "no operation gives"),
        (("outputs", 0), 2**63, "no operation gives"),
        (("ops", 1, "type"), {}, "has no name of its own"),
        (("ops", 1, "name"), None, "has no name of its own"),
        (("ops", 1, "name"), "input0", "has no name of its own"),
        (("ops", 1, "operands", 0), "x", "needs 'x', which nothing gives"),
        (("ops", 1, "attributes"), None, "has no attributes"),
        (("ops", 1, "result", "shape"), [1, 2**63, 2**63, 2**63], "cannot be run"),
        (("ops", 1, "result", "shape"), [1, [], 4, 5], "cannot be run"),
    ],
)
def test_a_graph_with_a_wrong_value_is_one_error(place, value, said, tmp_path):
    builder = emulator_graphs.Builder()
    first = builder.input((1, 3, 4, 5))
    builder.add("tpu.Sub", [first, first], builder.kinds[first])
    folder = builder.write(tmp_path)
    record = part = json.loads((folder / "graph.json").read_text())
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    (folder / "graph.json").write_text(json.dumps(record))
    with pytest.raises(EngineError, match=said):
        Emulator(folder).run(np.zeros((1, 3, 4, 5), np.float32))
