"""Values put elsewhere, none computed: inputs, constants, and every change of shape."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lprnet_nb.runtime.emulator.graph import Graph, Op
from lprnet_nb.runtime.emulator.steps import Attributes, Input, Step, head, lowers


@lowers("top.Input")
def _input(op: Op, graph: Graph, attributes: Attributes) -> Step:
    # Preprocessing attributes describe what the vendor's tools would do to an image file.
    attributes.left.clear()
    return Input(*head(op, ()))


@dataclass(frozen=True)
class Constant(Step):
    """One of the graph's constants as an operand of value-by-value arithmetic."""

    values: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Move(Step):
    """Values of the operand in other places: ``result.flat[i] = operand.flat[index[i]]``, each run
    by itself; where ``index`` is -1, ``fill``."""

    index: np.ndarray = field(repr=False)
    fill: int = 0


def _move(op: Op, graph: Graph, attributes: Attributes, index: np.ndarray, fill: int = 0) -> Step:
    if graph.types[op.operand(0)].storage != op.result.storage:
        raise attributes.fail("a result that is stored otherwise than its operand")
    if index.size != np.prod(op.result.shape):
        raise attributes.fail(f"{index.size} values for a result of shape {op.result.shape}")
    return Move(*head(op), index=index.reshape(-1), fill=fill)


def _places(op: Op, graph: Graph) -> np.ndarray:
    """The operand's flat indices, in its shape."""
    shape = graph.types[op.operand(0)].shape
    return np.arange(np.prod(shape)).reshape(shape)


@lowers("tpu.Reshape", "tpu.Squeeze", "tpu.Unsqueeze")
def _reshape(op: Op, graph: Graph, attributes: Attributes) -> Step:
    """Another shape for the same memory; source: Reshape.cpp."""
    attributes.sources(1)
    attributes.ignore("shape", "flatten_start_dim", "axes")  # the result's type has its shape
    attributes.expect(is_scalar=False)
    return _move(op, graph, attributes, _places(op, graph))


@lowers("tpu.Permute")
def _permute(op: Op, graph: Graph, attributes: Attributes) -> Step:
    """Axes in another order; source: Permute.cpp."""
    attributes.sources(1)
    return _move(op, graph, attributes, _places(op, graph).transpose(attributes.get("order")))


@lowers("tpu.Upsample")
def _upsample(op: Op, graph: Graph, attributes: Attributes) -> Step:
    """Each value several times, down and across; source: Upsample.cpp."""
    attributes.sources(1)
    attributes.expect(do_relu=False, relu_limit=-1.0)
    places = _places(op, graph)
    for axis, name in ((2, "scale_h"), (3, "scale_w")):
        places = places.repeat(attributes.get(name), axis)
    return _move(op, graph, attributes, places)


@lowers("tpu.Depth2Space")
def _depth_to_space(op: Op, graph: Graph, attributes: Attributes) -> Step:
    """Blocks of channels become blocks of pixels (pixel shuffle); source: Depth2Space.cpp."""
    attributes.sources(1)
    attributes.expect(in_is_NCHW=True, out_is_NCHW=True, is_inversed=False, swap_cr=False)
    rows, columns = attributes.get("block_h"), attributes.get("block_w")
    places = _places(op, graph)
    n, channels, height, width = places.shape
    kept = channels // (rows * columns)
    if attributes.get("is_CRD"):
        places = places.reshape(n, kept, rows, columns, height, width).transpose(0, 1, 4, 2, 5, 3)
    else:
        places = places.reshape(n, rows, columns, kept, height, width).transpose(0, 3, 4, 1, 5, 2)
    return _move(op, graph, attributes, places)


@lowers("tpu.Pad")
def _pad(op: Op, graph: Graph, attributes: Attributes) -> Step:
    """A constant around the operand; source: Pad.cpp. ``paddings`` is before, then after."""
    attributes.sources(1)
    attributes.expect(mode="constant", with_insert_zero=False)
    value, sizes = attributes.get("val"), attributes.get("paddings")
    if value != int(value) or (op.result.is_float and value):
        raise attributes.fail(f"val = {value}")
    before, after = sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]
    if min(sizes) < 0:
        raise attributes.fail(f"paddings = {sizes}")
    places = np.pad(_places(op, graph), list(zip(before, after, strict=True)), constant_values=-1)
    return _move(op, graph, attributes, places, int(value))


@dataclass(frozen=True)
class Concat(Step):
    """Concatenation; the operands are on the result's scale already."""

    axis: int = 1


@lowers("tpu.Concat")
def _concat(op: Op, graph: Graph, attributes: Attributes) -> Step:
    axis = attributes.get("axis")
    attributes.expect(do_relu=False, relu_limit=-1.0)
    attributes.ignore("only_merge")
    if "multipliers" in attributes.left or "rshifts" in attributes.left:
        raise attributes.fail("requantization inside a concatenation")
    if any(graph.types[name].storage != op.result.storage for name in op.present):
        raise attributes.fail("operands of different storage")
    if axis == 0:
        raise attributes.fail("axis 0 (the batch)")
    return Concat(*head(op, op.present), axis=axis)


@dataclass(frozen=True)
class Slice(Step):
    """Strided slice."""

    offset: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()


@lowers("tpu.Slice")
def _slice(op: Op, graph: Graph, attributes: Attributes) -> Step:
    offset, steps = tuple(attributes.get("offset")), tuple(attributes.get("steps"))
    attributes.ignore("axes", "ends", "hasparamConvert_axes")
    if any(name is not None for name in op.operands[1:]):
        raise attributes.fail("bounds that are not constants")
    if offset[0] != 0 or steps[0] != 1 or min(steps) < 1:
        raise attributes.fail(f"offset {offset}, steps {steps}")
    return Slice(*head(op), offset=offset, steps=steps)
