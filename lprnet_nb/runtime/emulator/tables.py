"""One value in, one value out: lookup tables, and what floats take in their place.

A byte has 256 values, so that every such operation on integers is a table, filled here by the
operation's own arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lprnet_nb.runtime.emulator.graph import Graph, Op
from lprnet_nb.runtime.emulator.steps import (
    HALF_UP,
    Attributes,
    Step,
    head,
    lowers,
    quant_mode,
    right_shift,
    round_float,
)


@dataclass(frozen=True)
class Lookup(Step):
    """Table of 256 entries, indexed by the stored byte (a negative one counts from the end)."""

    table: np.ndarray = field(repr=False)


@lowers("tpu.Lut")
def _lookup(op: Op, graph: Graph, attributes: Attributes) -> Step:
    table = graph.weights.get(op.operand(1))
    source = graph.types[op.operand(0)]
    if table is None or table.size != 256 or source.storage not in ("i8", "u8"):
        raise attributes.fail("a table that is not 256 constants for a byte")
    table = table.reshape(-1)
    return Lookup(*head(op), table=table)


def _tabulated(
    op: Op, graph: Graph, attributes: Attributes, function: Callable[[np.ndarray], np.ndarray]
) -> Step:
    """``clip(function(stored - zero point))`` for every byte, int64 in and out."""
    source = graph.types[op.operand(0)]
    if source.storage not in ("i8", "u8") or op.result.storage not in ("i8", "u8"):
        raise attributes.fail(f"{source.storage} input with {op.result.storage} result")
    bytes_ = np.arange(256)
    stored = bytes_.astype(np.int8).astype(np.int64) if source.storage == "i8" else bytes_
    made = function(stored - source.zero)
    low, high = op.result.limits
    if attributes.get("do_relu", False):
        low = 0
    attributes.expect(relu_limit=-1.0)
    return Lookup(*head(op), table=made.clip(low, high))


@dataclass(frozen=True)
class FloatUnary(Step):
    """A float operation with a constant or two, float32, then rounded to ``type.storage``.

    ``kind`` is "leaky" (below 0 times the constant), "add", "multiply", "subtract from" or "clip"
    (to the two constants). ReLU follows where ``relu`` says so.
    """

    kind: str
    constants: tuple[float, ...]
    relu: bool = False


def _float(op: Op, graph: Graph, attributes: Attributes, kind: str, *constants: float) -> Step:
    source = graph.types[op.operand(0)]
    if source.storage != op.result.storage:
        raise attributes.fail(f"{source.storage} input with {op.result.storage} result")
    relu = attributes.get("do_relu", False)
    attributes.expect(relu_limit=-1.0, is_scalar=False, f8_scale=1.0)
    attributes.ignore("multiplier", "rshift", "round_mode")
    if attributes.arithmetic == "chip":  # it holds constants in the result's precision
        constants = tuple(map(float, round_float(np.array(constants), op.result.storage)))
    return FloatUnary(*head(op), kind=kind, constants=constants, relu=relu)


@lowers("tpu.LeakyRelu")
def _leaky_relu(op: Op, graph: Graph, attributes: Attributes) -> Step:
    """Negative integers times multiplier, shifted half up, whatever the attribute says of rounding.

    Source: LeakyRelu.cpp.
    """
    if op.result.is_float:
        return _float(op, graph, attributes, "leaky", attributes.get("alpha"))
    if graph.asymmetric:
        raise attributes.fail("asymmetric integers")
    multiplier, shift = attributes.get("multiplier"), attributes.get("rshift")
    attributes.ignore("round_mode", "alpha")
    return _tabulated(
        op,
        graph,
        attributes,
        lambda x: np.where(x >= 0, x, right_shift(x * multiplier, shift, HALF_UP)),
    )


@lowers("tpu.MulShift", "tpu.RequantInt", "tpu.MulConst")
def _mul_shift(op: Op, graph: Graph, attributes: Attributes) -> Step:
    """Times a multiplier, shifted, plus the result's zero point.

    Sources: MulShift.cpp and MulConst.cpp, which round half up, and RequantInt.cpp, which rounds as
    its attribute says.
    """
    if op.result.is_float:
        return _float(op, graph, attributes, "multiply", attributes.get("const_val"))
    if op.type == "tpu.RequantInt":
        if quant_mode(attributes) != "MultiplierShift":
            raise attributes.fail("requantization mode OnlyShift")
        if attributes.arithmetic == "chip" and _only_reader_of_convolution(op, graph):
            raise attributes.fail(
                "a convolution that nothing else reads, which the compiler "
                "joins with it wrongly: the chip gives saturated values"
            )
    rounding = attributes.get("round_mode", HALF_UP)
    multiplier, shift = attributes.get("multiplier"), attributes.get("rshift")
    attributes.ignore("const_val")  # is in multiplier and shift, or in the scales
    attributes.expect(is_scalar=False)
    return _tabulated(
        op,
        graph,
        attributes,
        lambda x: op.result.zero + right_shift(x * multiplier, shift, rounding),
    )


def _only_reader_of_convolution(op: Op, graph: Graph) -> bool:
    readers = [other for other in graph.ops if op.operands[0] in other.operands]
    producer = next(other for other in graph.ops if other.name == op.operands[0])
    return producer.type == "tpu.Conv2D" and len(readers) == 1


@lowers("tpu.AddConst", "tpu.SubConst")
def _add_const(op: Op, graph: Graph, attributes: Attributes) -> Step:
    """Times a multiplier, plus or minus the constant, shifted half up; sources: AddConst.cpp,
    SubConst.cpp."""
    constant, reverse = attributes.get("const_val"), attributes.get("is_reverse", False)
    subtract = op.type == "tpu.SubConst"
    if op.result.is_float:
        if reverse:
            return _float(op, graph, attributes, "subtract from", constant)
        return _float(op, graph, attributes, "add", -constant if subtract else constant)
    if graph.asymmetric:
        raise attributes.fail("asymmetric integers")
    if constant != int(constant):
        raise attributes.fail(f"const_val = {constant} beside integers")
    multiplier, shift = attributes.get("multiplier"), attributes.get("rshift")
    attributes.expect(f8_scale=1.0, is_scalar=False)
    signs = (-1, 1) if reverse else (1, -1 if subtract else 1)
    return _tabulated(
        op,
        graph,
        attributes,
        lambda x: right_shift(signs[0] * x * multiplier + signs[1] * int(constant), shift, HALF_UP),
    )


@lowers("tpu.Relu")
def _relu(op: Op, graph: Graph, attributes: Attributes) -> Step:
    """Source: Relu.cpp. On integers, BM1684 also has a multiplier, which the graph makes 1."""
    if op.result.is_float:
        return _float(op, graph, attributes, "clip", 0.0, float("inf"))
    multiplier, shift = attributes.get("multiplier", 1), attributes.get("rshift", 0)
    (source,) = attributes.sources(1)
    attributes.same_representation(source)
    if source.zero_point or multiplier != 1 << shift:
        raise attributes.fail("a zero point, or another scale in the result")
    return _tabulated(op, graph, attributes, lambda x: np.maximum(x, 0))


@lowers("tpu.Clip", "tpu.MaxConst", "tpu.MinConst")
def _clip(op: Op, graph: Graph, attributes: Attributes) -> Step:
    """Floats between two constants, or with one; sources: Clip.cpp, MaxConst.cpp, MinConst.cpp."""
    if not op.result.is_float:
        raise attributes.fail("integers")
    low, high = attributes.get("min", -float("inf")), attributes.get("max", float("inf"))
    if op.type != "tpu.Clip":
        constant = attributes.get("const_val")
        low, high = (constant, high) if op.type == "tpu.MaxConst" else (low, constant)
    return _float(op, graph, attributes, "clip", low, high)
