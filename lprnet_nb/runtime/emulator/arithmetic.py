"""Two tensors value by value, and a scale for each channel.

Shapes are broadcast as usual: aligned at the end, an axis of 1 repeated. An operand may be one of
the graph's constants (`Constant`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from lprnet_nb.runtime.emulator.graph import Graph, Op
from lprnet_nb.runtime.emulator.steps import (
    DOWN,
    HALF_UP,
    Attributes,
    Requant,
    Step,
    head,
    lowers,
    quant_mode,
    requantization,
    with_relu,
)


@dataclass(frozen=True)
class Add(Step):
    """Sum or difference; source: Add.cpp, Sub.cpp.

    Integers: each operand, its zero point taken off, times its own multiplier, shifted right half
    up, not clipped; the two added or subtracted, plus the result's zero point, clipped. BM1684
    clips the shifted operands to 8 bits, signed, where one is broadcast over rows and columns.
    Floats: one rounding to ``type.storage``, after ReLU.
    """

    subtract: bool = False
    relu: bool = False
    zero_points: tuple[int, int] = (0, 0)
    multipliers: tuple[int, int] = (1, 1)
    shifts: tuple[int, int] = (0, 0)


@lowers("tpu.Add", "tpu.Sub")
def _add(op: Op, graph: Graph, attributes: Attributes) -> Step:
    sources = attributes.sources(2)
    relu = attributes.get("do_relu", False)
    attributes.expect(relu_limit=-1.0, is_scalar=False, is_reverse=False)
    step = Add(*head(op, op.present), subtract=op.type == "tpu.Sub", relu=relu)
    if op.result.is_float and all(source.is_float for source in sources):
        attributes.ignore("multipliers", "rshifts")
        return step
    if op.result.storage not in ("i8", "u8") or any(s.is_float for s in sources):
        raise attributes.fail(
            f"{' and '.join(s.storage for s in sources)} operands with {op.result.storage} result"
        )
    if step.subtract and graph.asymmetric:
        raise attributes.fail("an asymmetric difference of integers")
    if "multipliers" not in op.attributes or "rshifts" not in op.attributes:
        raise attributes.fail("no multipliers and shifts to requantize with")
    return replace(
        step,
        zero_points=(sources[0].zero, sources[1].zero),
        multipliers=tuple(attributes.get("multipliers")),
        shifts=tuple(attributes.get("rshifts")),
    )


@dataclass(frozen=True)
class Multiply(Step):
    """Product; source: Mul.cpp. Integers are requantized (half up), floats rounded to storage."""

    zero_points: tuple[int, int] = (0, 0)
    requant: Requant | None = None
    relu: bool = False


@lowers("tpu.Mul")
def _multiply(op: Op, graph: Graph, attributes: Attributes) -> Step:
    sources = attributes.sources(2)
    relu = attributes.get("do_relu", False)
    attributes.expect(relu_limit=-1.0, is_scalar=False)
    if op.result.is_float:
        attributes.ignore("quant_mode", "multiplier", "rshift")
        if not all(source.is_float for source in sources):
            raise attributes.fail("mixed integer and float operands")
        return Multiply(*head(op, op.present), relu=relu)
    if any(source.is_float for source in sources):
        raise attributes.fail("mixed integer and float operands")
    if quant_mode(attributes) != "MultiplierShift":
        raise attributes.fail("requantization mode OnlyShift")
    zero_points = sources[0].zero, sources[1].zero
    if not graph.asymmetric and (any(zero_points) or op.result.zero_point):
        raise attributes.fail("zero point in a symmetric graph")
    requant = requantization(attributes, op, HALF_UP, op.result.zero)
    return Multiply(
        *head(op, op.present), zero_points=zero_points, requant=with_relu(requant, relu)
    )


@dataclass(frozen=True)
class Divide(Step):
    """Element-wise quotient, rounded to storage.

    The interpreter divides. A chip (``reciprocal``) multiplies by the square of a reciprocal square
    root, found by three Newton steps from ``0x5f3759df - (bits >> 1)`` (of 16 bits, 0x59ba in F16
    and 0x5f37 in BF16), rounded to storage at every operation; the quotient is off by up to three
    units in the last place, 1/1 by two. A negative divisor gives its reciprocal the sign.
    """

    reciprocal: bool = False


@lowers("tpu.Div")
def _divide(op: Op, graph: Graph, attributes: Attributes) -> Step:
    chip = attributes.arithmetic == "chip"
    attributes.expect(
        do_relu=False, relu_limit=-1.0, is_scalar=False, is_reverse=False, multiplier=1, rshift=0
    )
    if not op.result.is_float or not all(graph.types[n].is_float for n in op.present):
        raise attributes.fail("division of integers")
    return Divide(*head(op, op.present), reciprocal=chip)


@dataclass(frozen=True)
class ChannelScale(Step):
    """BM1684's scale unit: ``clip((clip16(x * scale + bias)) >> shift)``, rounding down.

    The sum is saturated to 16 bits first, signed or unsigned as the result is.
    """

    scale: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)
    requant: Requant = field(repr=False)
    relu: bool = False


@dataclass(frozen=True)
class FloatScale(Step):
    """``x * scale + bias`` for each channel, two float32 roundings, then ReLU (BM1684 in F32)."""

    scale: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)
    relu: bool = False


@lowers("tpu.Scale")
def _scale(op: Op, graph: Graph, attributes: Attributes) -> Step:
    source = graph.types[op.operand(0)]
    if op.result.storage == "f32" and source.storage == "f32":
        scale, bias = (graph.weights[op.operand(k)].reshape(-1) for k in (1, 2))
        relu = attributes.get("do_relu", False)
        attributes.expect(relu_limit=-1.0)
        return FloatScale(*head(op), scale=scale, bias=bias, relu=relu)
    if op.result.is_float or graph.chip != "BM1684" or graph.asymmetric:
        raise attributes.fail("scale outside BM1684's symmetric integer graphs")
    if source.zero_point or op.result.zero_point:
        raise attributes.fail("zero point in a symmetric graph")
    scale, bias, left_shift = (graph.weights[op.operand(k)].reshape(-1) for k in (1, 2, 3))
    relu = attributes.get("do_relu", False)
    attributes.expect(relu_limit=-1.0)
    signed = op.result.storage.startswith("i")
    requant = Requant(
        multiplier=np.ones(1, np.int64),
        shift=-left_shift.astype(np.int64),
        rounding=DOWN,
        zero_point=0,
        low=0 if relu else op.result.limits[0],
        high=op.result.limits[1],
        before=(-32768, 32767) if signed else (0, 65535),
    )
    return ChannelScale(
        *head(op),
        scale=scale.astype(np.int64),
        bias=bias.astype(np.int64),
        requant=requant,
        relu=relu,
    )
