"""Float operations that only a reference needs: near enough, where the emulator must be exact.

The graph that a network becomes in F32 has operations whose sums or functions no one follows to the
last bit (`runtime.emulator` refuses them). As the other side of a comparison with 8 bits they are
computed here by torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from .emulator.graph import Graph, Op
from .emulator.lower import lower
from .emulator.steps import Attributes, Step, Unknown, head
from .emulator.torch_executor import execute


@dataclass(frozen=True)
class Function(Step):
    """A float operation by torch, of one run's operands in the shapes that the graph gives them."""

    function: Callable[..., torch.Tensor] = field(repr=False, default=torch.Tensor)


# `mode` of tpu.Active.
ACTIVE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "ABSVAL": torch.abs,
    "EXP": torch.exp,
    "SQRT": torch.sqrt,
    "SQUARE": torch.square,
    "TANH": torch.tanh,
    "SIGMOID": torch.sigmoid,
    "SILU": F.silu,
    "HSIGMOID": F.hardsigmoid,
    "HSWISH": F.hardswish,
    "SWISH": F.silu,
    "MISH": F.mish,
    "ELU": F.elu,
    "GELU": F.gelu,
    "SOFT_PLUS": F.softplus,
    "SOFT_SIGN": F.softsign,
    "LN": torch.log,
}


def _active(op: Op, graph: Graph, attributes: Attributes) -> Callable[..., torch.Tensor]:
    mode = attributes.get("mode")
    if mode not in ACTIVE:
        raise attributes.fail(f"mode {mode!r}")
    return ACTIVE[mode]


def _reduce(op: Op, graph: Graph, attributes: Attributes) -> Callable[..., torch.Tensor]:
    axes, keep = tuple(attributes.get("axes")), bool(attributes.get("keepdims"))
    known: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "ReduceMean": lambda x: x.mean(axes, keep),
        "ReduceSum": lambda x: x.sum(axes, keep),
        "ReduceMax": lambda x: x.amax(axes, keep),
        "ReduceMin": lambda x: x.amin(axes, keep),
        "ReduceL2": lambda x: x.square().sum(axes, keep).sqrt(),
        "ReduceL1": lambda x: x.abs().sum(axes, keep),
    }
    mode = attributes.get("mode")
    if mode not in known:
        raise attributes.fail(f"mode {mode!r}")
    return known[mode]


def _softmax(op: Op, graph: Graph, attributes: Attributes) -> Callable[..., torch.Tensor]:
    axis, log = attributes.get("axis"), attributes.get("log", False)
    return lambda x: x.log_softmax(axis) if log else x.softmax(axis)


def _layer_norm(op: Op, graph: Graph, attributes: Attributes) -> Callable[..., torch.Tensor]:
    source = graph.types[op.operand(0)]
    axis, epsilon = attributes.get("axis") % len(source.shape), attributes.get("eps")
    scale, bias = (
        torch.as_tensor(graph.weights[name]).float().reshape(source.shape[axis:]) if name else None
        for name in op.operands[1:3]
    )
    return lambda x: F.layer_norm(x, source.shape[axis:], scale, bias, epsilon)


REFERENCE: dict[str, Callable[[Op, Graph, Attributes], Callable[..., torch.Tensor]]] = {
    "tpu.Active": _active,
    "tpu.Reduce": _reduce,
    "tpu.Softmax": _softmax,
    "tpu.LayerNorm": _layer_norm,
}


def lowered(graph: Graph) -> tuple[Step, ...]:
    """The steps of a graph as `emulator.lower` gives them, floats that it refuses by torch.

    Raises
    ------
    EngineError
        For an operation that neither knows, by name.
    """

    def by_torch(unknown: Unknown) -> Step:
        op = unknown.op
        if op.type not in REFERENCE or not op.result.is_float:
            raise unknown
        inputs = [name for name in op.operands if name is not None and name not in graph.weights]
        function = REFERENCE[op.type](op, graph, Attributes(op, graph, "interpreter"))
        return Function(*head(op, inputs), function=function)

    return lower(graph, "interpreter", by_torch)


def run(step: Step, inputs: list[torch.Tensor], graph: Graph, runs: int) -> torch.Tensor:
    """`torch_executor.execute`, and the functions of this module."""
    if not isinstance(step, Function):
        return execute(step, inputs, graph, runs)
    shapes = [graph.types[name].shape for name in step.inputs]
    made = [
        step.function(*one)
        for one in zip(
            *(x.reshape(runs, *shape) for x, shape in zip(inputs, shapes, strict=True)), strict=True
        )
    ]
    return torch.cat(made) if step.type.shape else torch.stack(made)
