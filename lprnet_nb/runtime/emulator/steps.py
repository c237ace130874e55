"""What the modules of the operations share: a step, its requantization, and how an op is read.

Each operation is one section of `convolution`, `pooling`, `normalization`, `activation`,
`arithmetic`, `tables`, `movement` or `casts`: a `Step` that says what the operation means, and
below it the function that reads it off the compiler's op, registered by `lowers`. The semantics
were read off the vendor's interpreter (open source, sophgo/tpu-mlir,
``lib/Dialect/Tpu/Interfaces/Common``, a file for each operation) and confirmed tensor by tensor
against the one that ships in the wheel and against the chip simulators; what is surprising is said
at the step it belongs to.

A graph is compiled for one *run*: a batch of B images. An executor that runs K of them at once
keeps each tensor as its K values one after the other along axis 0, whatever that axis means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lprnet_nb.errors import EngineError
from lprnet_nb.runtime.emulator.graph import Graph, Op, TensorType

# Rounding of a right shift, and of a float on its way to an integer.
HALF_UP = "HalfUp"  # floor(x + 1/2)
HALF_AWAY = "HalfAwayFromZero"  # C's round()
DOWN = "Down"  # floor


@dataclass(frozen=True)
class Requant:
    """``clip(round(v * multiplier / 2**shift) + zero_point, low, high)``, exactly.

    ``multiplier`` and ``shift`` are int64 ``[C]`` or ``[1]``. ``before`` is the range to which the
    product is clipped before the shift (BM1684's 16-bit scale unit), or None.
    """

    multiplier: np.ndarray
    shift: np.ndarray
    rounding: str
    zero_point: int
    low: int
    high: int
    before: tuple[int, int] | None = None


@dataclass(frozen=True)
class Step:
    """Base: one operation. ``inputs`` are names of activations; ``type`` describes the result."""

    name: str
    op: str
    inputs: tuple[str, ...]
    type: TensorType


@dataclass(frozen=True)
class Input(Step):
    """One of the graph's inputs, as given."""


class Unknown(EngineError):
    """What the emulator does not know: ``what`` of ``op``."""

    def __init__(self, graph: Graph, op: Op, what: str) -> None:
        super().__init__(
            f"{graph.folder}: {op.type} '{op.name}': {what}; the emulator does not "
            "know this case (use the simulator backend)"
        )
        self.op, self.what = op, what


class Attributes:
    """The attributes of one op, each of which must be read or declared harmless.

    ``arithmetic`` is "chip" or "interpreter": whose values to follow where the two differ.
    ``producer`` is the operation that made an int32 input, ``requant`` how the int32 sums of this
    one are requantized by the next.
    """

    def __init__(
        self,
        op: Op,
        graph: Graph,
        arithmetic: str,
        producer: Op | None = None,
        requant: Requant | None = None,
    ):
        self.op, self.graph, self.left = op, graph, set(op.attributes)
        self.arithmetic, self.producer, self.requant = arithmetic, producer, requant

    def fail(self, what: str) -> Unknown:
        return Unknown(self.graph, self.op, what)

    def get(self, name: str, default: Any = None) -> Any:
        self.left.discard(name)
        return self.op.attributes.get(name, default)

    def expect(self, **values: Any) -> None:
        """Absent or exactly this value."""
        for name, value in values.items():
            if name in self.op.attributes and self.get(name) != value:
                raise self.fail(f"{name} = {self.op.attributes[name]!r}, expected {value!r}")

    def ignore(self, *names: str) -> None:
        """Attributes that steer code generation, not values."""
        self.left.difference_update(names)

    def done(self) -> None:
        if self.left:
            name = sorted(self.left)[0]
            raise self.fail(f"unknown attribute {name} = {self.op.attributes[name]!r}")

    def sources(self, count: int | None = None) -> list[TensorType]:
        """Types of the operands, all of which must be there."""
        names = self.op.operands if count is None else self.op.operands[:count]
        if None in names:
            raise self.fail("an operand is missing")
        if any(name is not None for name in self.op.operands[len(names) :]):
            raise self.fail("more operands than are known")
        return [self.graph.types[name] for name in names if name is not None]

    def same_representation(self, source: TensorType) -> None:
        """For what only moves or compares stored values."""
        kinds = [(t.storage, t.scale, t.zero_point) for t in (source, self.op.result)]
        if kinds[0] != kinds[1]:
            raise self.fail("a result that is represented otherwise than its operand")


Lowering = Callable[[Op, Graph, Attributes], Step]
LOWERINGS: dict[str, Lowering] = {}


def lowers(*types: str) -> Callable[[Lowering], Lowering]:
    """Register a function that reads a step off the compiler's operations of these types."""

    def register(function: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(types, function))
        return function

    return register


def head(
    op: Op, inputs: Sequence[str] | None = None
) -> tuple[str, str, tuple[str, ...], TensorType]:
    """The fields of `Step`; ``inputs`` is the first operand by default."""
    return op.name, op.type, (op.operand(0),) if inputs is None else tuple(inputs), op.result


def requantization(
    attributes: Attributes,
    op: Op,
    rounding: str,
    zero_point: int = 0,
    names: tuple[str, str] = ("multiplier", "rshift"),
) -> Requant:
    """`Requant` of the attributes of these names."""
    multiplier, shift = (attributes.get(name) for name in names)
    if shift is None:
        raise attributes.fail("no shift to requantize with")
    return Requant(
        multiplier=np.atleast_1d(np.asarray(1 if multiplier is None else multiplier, np.int64)),
        shift=np.atleast_1d(np.asarray(shift, np.int64)),
        rounding=rounding,
        zero_point=zero_point,
        low=op.result.limits[0],
        high=op.result.limits[1],
    )


def quant_mode(attributes: Attributes) -> str:
    """The mode of requantization, one of two that are known."""
    mode = attributes.get("quant_mode")
    if mode not in ("MultiplierShift", "OnlyShift"):
        raise attributes.fail(f"requantization mode {mode!r}")
    return mode


def with_relu(requant: Requant, relu: bool) -> Requant:
    """ReLU of an integer result is a higher lower limit."""
    return replace(requant, low=max(requant.low, requant.zero_point)) if relu else requant


def round_float(values: np.ndarray, storage: str) -> np.ndarray:
    """float32 values rounded to ``storage`` (half to even), still as float32."""
    values = np.asarray(values, np.float32)
    if storage == "f32":
        return values
    if storage == "f16":
        return values.astype(np.float16).astype(np.float32)
    bits = values.view(np.uint32)
    bits = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def right_shift(values: np.ndarray, shift: np.ndarray | int, rounding: str) -> np.ndarray:
    """``values / 2**shift`` rounded; int64 in, int64 out; a negative shift is a left shift."""
    values, right = np.asarray(values, np.int64), np.maximum(shift, 0)
    half = (np.int64(1) << np.asarray(right, np.int64)) >> 1  # 0 at shift 0
    if rounding == HALF_UP:
        values = values + half
    elif rounding == HALF_AWAY:
        values = values + half - ((values < 0) & (half > 0))
    elif rounding != DOWN:
        raise AssertionError(rounding)
    return (values >> right) << np.maximum(-np.asarray(shift, np.int64), 0)
