"""What the torch executor does for a GPU, seen without one."""

from __future__ import annotations

import emulator_graphs
import numpy as np
import pytest
import torch

from lprnet_nb.runtime.emulator import load_graph, torch_executor
from lprnet_nb.runtime.emulator.convolution import Convolution
from lprnet_nb.runtime.emulator.graph import TensorType
from lprnet_nb.runtime.emulator.lower import lower
from lprnet_nb.runtime.emulator.steps import Requant

LARGEST = 2**24  # float32 has no integer next to it


def convolution(weights: list[int], limits: tuple[int, int] = (0, 255)) -> Convolution:
    """1 x 1, one output: what its sum lacks to 2**24, or has above it."""
    number = np.array([1])
    requant = Requant(number, number - 1, "HalfUp", -LARGEST, -128, 127)
    return Convolution(
        "sum",
        "tpu.Conv2D",
        ("x",),
        TensorType((1, 1, 1, 1), "i8", "f32", 1.0, 0),
        weight=np.array(weights, np.int8).reshape(1, -1, 1, 1),
        bias=None,
        pads=(0, 0, 0, 0),
        strides=(1, 1),
        dilations=(1, 1),
        relu=False,
        pad_value=0,
        requant=requant,
        input_limits=limits,
    )


@pytest.mark.parametrize(
    "weights, last, dtype, over",
    [
        ([127] * 518 + [7], 255, torch.float32, -1),  # the largest sum that is surely exact
        ([127] * 518 + [7, 2], 1, torch.float64, 1),
    ],
)
def test_sums_are_taken_in_float32_where_it_holds_them(weights, last, dtype, over):
    step = convolution(weights)
    x = torch.full((2, len(weights), 1, 1), 255.0)
    x[:, -1] = last
    assert torch_executor._weight(step, x.device).dtype == dtype
    assert torch_executor._convolution(step, x).flatten().tolist() == [over, over]
    placed = torch_executor._placed(step, x.device)
    assert placed.weight.dtype == dtype
    assert torch_executor._convolution(placed, x).flatten().tolist() == [over, over]


def test_values_of_more_than_a_byte_never_meet_tf32():
    assert torch_executor._weight(convolution([1], (-(2**15), 2**15 - 1)), "cpu").dtype == (
        torch.float64
    )


def test_tf32_is_as_it_was_afterwards():
    flags = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [place.allow_tf32 for place in flags]
    with pytest.raises(KeyError), torch_executor.tf32(not before[0], torch.device("cuda")):
        assert [place.allow_tf32 for place in flags] == [not before[0]] * 2
        raise KeyError
    assert [place.allow_tf32 for place in flags] == before


def test_a_device_sums_in_the_order_of_the_host():
    values = torch.tensor([[1.0, 2.0**24, 1.0, -(2.0**24), 1.0]])
    made = torch_executor._in_order(values[..., None], "f32")[..., 0]
    assert made.tolist() == torch_executor.sequential_sum(values).tolist() == [1.0]
    halves = torch.tensor([[2048.0], [1.0], [1.0], [3.0]])
    assert torch_executor._in_order(halves, "f16").tolist() == [2052.0]


def test_all_that_a_graph_needs_is_on_the_device(tmp_path):
    """On torch's device without memory, which refuses operands that lie elsewhere."""
    graph = load_graph(emulator_graphs.symmetric().write(tmp_path))
    executor = torch_executor.TorchExecutor(graph, lower(graph), "meta")
    assert torch_executor.images_together(graph, executor.device) % graph.batch == 0
    images = np.zeros((graph.batch, *graph.types[graph.input].shape[1:]), np.float32)
    with torch.inference_mode():
        executor._run_chunk({graph.input: images}, set())
    held = [value for step in executor.steps for value in vars(step).values()]
    assert not any(isinstance(value, np.ndarray) for value in held)


def test_a_compiled_requantization_that_differs_is_refused():
    torch_executor._try(torch_executor._requantized, "cpu")
    with pytest.raises(AssertionError, match="compiled requantization of torch.float32"):
        torch_executor._try(lambda *given: torch_executor._requantized(*given) + 1, "cpu")
