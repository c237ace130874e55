"""From the compiler's operations to a short list of steps whose arithmetic is spelled out.

Everything that an executor must know is decided and checked here, once, for all executors: which
attributes matter, which rounding applies, in what order floats are rounded. An operation, attribute
or mode that is not known is an `EngineError` naming it, never a guess.

The semantics below were read off the vendor's interpreter (open source, sophgo/tpu-mlir,
``lib/Dialect/Tpu/Interfaces/Common``) and confirmed tensor by tensor against the one that ships in
the wheel; what is surprising is said at the step it belongs to.

Interpreter and chip simulator agree on everything in an integer graph but its few float layers:
the mean of squares, the division by it and the final mean. ``arithmetic`` chooses whose to follow.
The chip's order of additions was found by probing the simulator with a large value at one place,
its negative at another and a tiny one everywhere else: the tiny ones that the result lacks are
those that were added in between. Its division was recognized from 230 reciprocals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lprnet_nb.errors import EngineError
from lprnet_nb.runtime.emulator.graph import FLOATS, Graph, Op, TensorType

ARITHMETIC = ("chip", "interpreter")
# Lanes of a full mean. What is not here is summed as the interpreter does it.
LANES = {
    ("BM1684", "f32"): 32,
    ("BM1684X", "f16"): 64,
    ("BM1684X", "f32"): 32,
    ("BM1688", "f16"): 16,
    ("CV186X", "f16"): 16,
}
# A full mean that fills too much of a chip's local memory is taken in two steps: the largest number
# of values seen to be taken in one, and the smallest seen in two. In between is not known.
ONE_STEP = {
    ("BM1684X", "f16"): (36864, 64512),
    ("BM1684X", "f32"): (19584, 36864),
    ("BM1688", "f16"): (19584, 32256),
    ("CV186X", "f16"): (19584, 32256),
}
# Rows of a mean over rows for which the chips' order is known: two lanes of two.
ROWS = 4

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
    """The graph's input, as given."""


@dataclass(frozen=True)
class Convolution(Step):
    """2-D convolution, float or integer.

    Integer (``requant`` set): stored input (padded with its zero point) times stored weights, plus
    bias, then requantization. The interpreter sums in float32, which is exact while
    ``max|x| * sum|w|`` of a channel stays under 2**24; `accumulator_bound` says how far it can go.
    It adds the bias after the convolution, also in float32.

    Float: float32 sums, bias, ReLU, then rounding to ``type.storage``. The order of the sums is the
    kernel library's; two libraries may differ in the last bit.
    """

    weight: np.ndarray = field(repr=False)
    bias: np.ndarray | None = field(repr=False)
    pads: tuple[int, int, int, int]  # top, left, bottom, right
    strides: tuple[int, int]
    dilations: tuple[int, int]
    relu: bool
    pad_value: int
    requant: Requant | None = field(repr=False)
    input_limits: tuple[int, int] | None = None

    @property
    def accumulator_bound(self) -> int:
        """Largest magnitude that any partial sum of the integer convolution can reach."""
        largest = max(abs(limit) for limit in self.input_limits)
        weights = np.abs(self.weight.astype(np.int64)).sum(axis=(1, 2, 3)) * largest
        bias = 0 if self.bias is None else np.abs(self.bias.astype(np.int64))
        return int((weights + bias).max())


@dataclass(frozen=True)
class MaxPool(Step):
    """Maximum over windows; integers stay on the input's scale."""

    kernel: tuple[int, int]
    strides: tuple[int, int]


@dataclass(frozen=True)
class AveragePool(Step):
    """Mean over windows.

    Symmetric integers: the window's integer sum, requantized (half up). Asymmetric ones (``affine``
    set): ``round(mean * height * width * scale + offset)`` with the mean and the two products in
    float32, the affine part in float64, stored as float32, rounded half away from zero.
    Float: float32 mean, then rounding to ``type.storage``.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    requant: Requant | None = None
    affine: tuple[float, float] | None = None


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


@dataclass(frozen=True)
class Lookup(Step):
    """Table of 256 entries, indexed by the stored byte (a negative one counts from the end)."""

    table: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Multiply(Step):
    """Element-wise product; integers are requantized (half up), floats rounded to storage."""

    zero_points: tuple[int, int] = (0, 0)
    requant: Requant | None = None


@dataclass(frozen=True)
class Divide(Step):
    """Element-wise float32 quotient, rounded to storage.

    The interpreter divides. A chip (``reciprocal``) multiplies by the square of a reciprocal square
    root, found by three Newton steps from ``0x5f3759df - (bits >> 1)``, each rounded to float32 at
    every operation; the quotient is off by up to three units in the last place, 1/1 by two.
    """

    reciprocal: bool = False


@dataclass(frozen=True)
class Mean(Step):
    """Mean over neighbouring axes: float32 sum in memory order, times float32(1/n), rounded.

    The sum is strictly sequential (one accumulator, first element first): float32 loses bits on the
    way, the same bits every time. Where the result is f16 or bf16, so is 1/n before the product.
    With ``axes`` starting at 0 the images of one compiled batch share a mean.

    So does the interpreter. A chip (``lanes`` set) deals the elements out to that many lanes, sums
    each in order, adds the upper half of the lanes to the lower, multiplies by 1/n, sums the even
    and the odd ones of the rest in order, and adds the two; rounded to storage at every operation.
    The BM1684 (``by_plane``) does so to the planes first and then to their sums, without 1/n, by
    which it multiplies at the end. Where n values are too many for the chip's local memory
    (``groups`` above 1), each of ``groups`` runs of n / groups values gets a mean of its own in
    that way; these means are multiplied by 1 / groups (``across``), the even and the odd ones
    summed in order, and the two added. ``groups`` is the largest divisor of n up to its root.
    """

    axes: tuple[int, ...] = ()
    keep_dims: bool = True
    coefficient: float = 0.0
    lanes: int = 0
    by_plane: bool = False
    groups: int = 1
    across: float = 1.0


@dataclass(frozen=True)
class Quantize(Step):
    """Float to integer: ``clip(round(p) + zero_point)``, half away from zero.

    ``p`` is ``round_e(x * round_e(1 / scale))`` where e is the ``expressed`` kind of the quantized
    type (f32, f16, bf16: what the layer before computes in) and ``round_e`` rounds to it.
    """

    inverse_scale: float = 0.0
    expressed: str = "f32"


@dataclass(frozen=True)
class Dequantize(Step):
    """Integer to float: ``round(round(scale) * round(q - zero_point))``, rounding to storage.

    With an f16 result the scale itself is rounded to f16 first, so the values carry two roundings.
    """

    scale: float = 0.0
    zero_point: int = 0


@dataclass(frozen=True)
class FloatCast(Step):
    """f32 to f16 or bf16, rounding half to even; widening changes nothing."""


@dataclass(frozen=True)
class Concat(Step):
    """Concatenation; the operands are on the result's scale already."""

    axis: int = 1


@dataclass(frozen=True)
class Slice(Step):
    """Strided slice."""

    offset: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()


class _Attributes:
    """The attributes of one op, each of which must be read or declared harmless."""

    def __init__(self, op: Op, graph: Graph, arithmetic: str):
        self.op, self.graph, self.left = op, graph, set(op.attributes)
        self.arithmetic = arithmetic

    def fail(self, what: str) -> EngineError:
        return EngineError(
            f"{self.graph.folder}: {self.op.type} '{self.op.name}': {what}; the emulator does not "
            "know this case (use the simulator backend)"
        )

    def get(self, name: str, default=None):
        self.left.discard(name)
        return self.op.attributes.get(name, default)

    def expect(self, **values) -> None:
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


def _requant(attributes, op, rounding, zero_point=0, default=None) -> Requant:
    multiplier = attributes.get("multiplier", default)
    shift = attributes.get("rshift", default)
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


def _quant_mode(attributes) -> str:
    mode = attributes.get("quant_mode")
    if mode not in ("MultiplierShift", "OnlyShift"):
        raise attributes.fail(f"requantization mode {mode!r}")
    return mode


def _input(op: Op, graph: Graph, attributes: _Attributes) -> Step:
    # Preprocessing attributes describe what the vendor's tools would do to an image file.
    attributes.left.clear()
    return Input(op.name, op.type, (), op.result)


def _convolution(op: Op, graph: Graph, attributes: _Attributes) -> Step:
    source = graph.types[op.operands[0]]
    weight = graph.weights.get(op.operands[1])
    bias = graph.weights.get(op.operands[2]) if op.operands[2] else None
    if weight is None or weight.ndim != 4:
        raise attributes.fail("weights that are not a constant of four dimensions")
    with_bias = attributes.get("with_bias")
    relu = attributes.get("do_relu", False)
    attributes.expect(relu_limit=-1.0, kernel_zp=0, use_winograd=0, do_winograd=False)
    attributes.expect(weight_is_coeff=1, coeff_merged=False, group=1)
    attributes.expect(kernel_shape=list(weight.shape[2:]), dynweight_reorderd=False)
    attributes.ignore("support_compress", "use_3ic_optimize")
    common = {
        "weight": weight,
        "bias": bias.reshape(-1) if with_bias else None,
        "pads": tuple(attributes.get("pads")),
        "strides": tuple(attributes.get("strides")),
        "dilations": tuple(attributes.get("dilations", [1, 1])),
        "relu": relu,
    }
    head = (op.name, op.type, (op.operands[0],), op.result)
    if op.result.is_float:
        attributes.ignore("quant_mode", "round_mode", "multiplier", "rshift")
        if not source.is_float:
            raise attributes.fail(f"{source.storage} input with {op.result.storage} result")
        return Convolution(*head, **common, pad_value=0, requant=None)
    if not (source.is_quantized and op.result.is_quantized):
        raise attributes.fail(f"{source.storage} input with {op.result.storage} result")
    mode = _quant_mode(attributes)
    # The interpreter rounds half up in both modes; the attribute says the same.
    attributes.expect(round_mode=HALF_UP)
    requant = _requant(attributes, op, HALF_UP, op.result.zero_point)
    if mode == "OnlyShift" and (requant.multiplier != 1).any():
        raise attributes.fail("OnlyShift with multipliers")
    if relu:
        requant = _with_floor(requant, max(requant.low, requant.zero_point))
    return Convolution(
        *head,
        **common,
        pad_value=source.zero_point,
        requant=requant,
        input_limits=source.limits,
    )


def _with_floor(requant: Requant, low: int) -> Requant:
    """ReLU of an integer result is a higher lower limit."""
    return Requant(
        requant.multiplier,
        requant.shift,
        requant.rounding,
        requant.zero_point,
        low,
        requant.high,
        requant.before,
    )


def _pool(op: Op, graph: Graph, attributes: _Attributes) -> Step:
    source = graph.types[op.operands[0]]
    mode = attributes.get("pool_mode")
    kernel = tuple(attributes.get("kernel_shape"))
    strides = tuple(attributes.get("strides"))
    attributes.expect(
        is_adaptive=False,
        do_relu=False,
        relu_limit=-1.0,
        keepdims=True,
        ceil_mode=False,
        pads=[0, 0, 0, 0],
        round_mode=HALF_AWAY,
        first_round_mode=HALF_AWAY,
    )
    attributes.ignore("pad_value", "count_include_pad")  # nothing is padded
    head = (op.name, op.type, (op.operands[0],), op.result)
    if mode == "Max":
        if source.storage != op.result.storage or source.scale != op.result.scale:
            raise attributes.fail("maximum that changes the representation")
        return MaxPool(*head, kernel, strides)
    if mode != "Avg":
        raise attributes.fail(f"pool mode {mode!r}")
    if op.result.is_float and source.is_float:
        return AveragePool(*head, kernel, strides)
    if not (source.is_quantized and op.result.is_quantized):
        raise attributes.fail(f"{source.storage} input with {op.result.storage} result")
    if graph.asymmetric:
        affine = (attributes.get("scale"), attributes.get("offset"))
        if None in affine:
            raise attributes.fail("asymmetric average without scale and offset")
        return AveragePool(*head, kernel, strides, affine=affine)
    if source.zero_point or op.result.zero_point:
        raise attributes.fail("zero point in a symmetric graph")
    return AveragePool(*head, kernel, strides, requant=_requant(attributes, op, HALF_UP))


def _scale(op: Op, graph: Graph, attributes: _Attributes) -> Step:
    source = graph.types[op.operands[0]]
    if op.result.storage == "f32" and source.storage == "f32":
        scale, bias = (graph.weights[name].reshape(-1) for name in op.operands[1:3])
        relu = attributes.get("do_relu", False)
        attributes.expect(relu_limit=-1.0)
        head = (op.name, op.type, (op.operands[0],), op.result)
        return FloatScale(*head, scale=scale, bias=bias, relu=relu)
    if op.result.is_float or graph.chip != "BM1684" or graph.asymmetric:
        raise attributes.fail("scale outside BM1684's symmetric integer graphs")
    if source.zero_point or op.result.zero_point:
        raise attributes.fail("zero point in a symmetric graph")
    scale, bias, left_shift = (graph.weights[name].reshape(-1) for name in op.operands[1:4])
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
        op.name,
        op.type,
        (op.operands[0],),
        op.result,
        scale=scale.astype(np.int64),
        bias=bias.astype(np.int64),
        requant=requant,
        relu=relu,
    )


def _multiply(op: Op, graph: Graph, attributes: _Attributes) -> Step:
    sources = [graph.types[name] for name in op.operands]
    attributes.expect(do_relu=False, relu_limit=-1.0, is_scalar=False)
    head = (op.name, op.type, tuple(op.operands), op.result)
    if op.result.is_float:
        attributes.ignore("quant_mode", "multiplier", "rshift")
        if not all(source.is_float for source in sources):
            raise attributes.fail("mixed integer and float operands")
        return Multiply(*head)
    if not all(source.is_quantized for source in sources):
        raise attributes.fail("mixed integer and float operands")
    if _quant_mode(attributes) != "MultiplierShift":
        raise attributes.fail("requantization mode OnlyShift")
    zero_points = tuple(source.zero_point for source in sources)
    if not graph.asymmetric and (any(zero_points) or op.result.zero_point):
        raise attributes.fail("zero point in a symmetric graph")
    requant = _requant(attributes, op, HALF_UP, op.result.zero_point)
    return Multiply(*head, zero_points=zero_points, requant=requant)


def _divide(op: Op, graph: Graph, attributes: _Attributes) -> Step:
    chip = attributes.arithmetic == "chip"
    attributes.expect(
        do_relu=False, relu_limit=-1.0, is_scalar=False, is_reverse=False, multiplier=1, rshift=0
    )
    if not op.result.is_float or not all(graph.types[n].is_float for n in op.operands):
        raise attributes.fail("division of integers")
    single = int(np.prod(graph.types[op.operands[1]].shape[1:])) == 1
    reciprocal = chip and op.result.storage == "f32" and single
    return Divide(op.name, op.type, tuple(op.operands), op.result, reciprocal=reciprocal)


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


def _reduce(op: Op, graph: Graph, attributes: _Attributes) -> Step:
    source = graph.types[op.operands[0]]
    mode = attributes.get("mode")
    axes = tuple(attributes.get("axes"))
    if mode != "ReduceMean":
        raise attributes.fail(f"mode {mode!r}")
    if axes != tuple(range(axes[0], axes[-1] + 1)):
        raise attributes.fail(f"axes {axes}")
    if not (source.is_float and op.result.is_float):
        raise attributes.fail("mean of integers")
    attributes.expect(is_scalar=False)
    count = int(np.prod([source.shape[axis] for axis in axes]))
    storage = op.result.storage
    lanes, groups = 0, 1
    if attributes.arithmetic == "chip":
        if axes[-1] == len(source.shape) - 1:
            lanes = LANES.get((graph.chip, storage), 0)
            groups = _groups(graph.chip, storage, count, lanes)
            if not groups:
                lanes, groups = 0, 1
        elif len(axes) == 1 and source.shape[axes[0]] == ROWS and storage in ("f32", "f16"):
            lanes = ROWS
    coefficient, across = (
        float(round_float(np.array([1.0 / size], np.float32), storage)[0])
        for size in (count // groups, groups)
    )
    return Mean(
        op.name,
        op.type,
        (op.operands[0],),
        op.result,
        axes=axes,
        keep_dims=attributes.get("keepdims"),
        coefficient=coefficient,
        lanes=lanes,
        by_plane=graph.chip == "BM1684" and lanes == LANES["BM1684", "f32"],
        groups=groups,
        across=across,
    )


def _groups(chip: str, storage: str, count: int, lanes: int) -> int:
    """Groups of a full mean on a chip (see `Mean`); 0 where they are not known."""
    most, least = ONE_STEP.get((chip, storage), (count, count))
    if count <= most:
        return 1
    groups = max(size for size in range(1, int(count**0.5) + 1) if count % size == 0)
    # Groups that do not fill half a row of lanes were seen to be summed otherwise.
    return groups if count >= least and count // groups % (lanes // 2) == 0 else 0


def _cast(op: Op, graph: Graph, attributes: _Attributes) -> Step:
    source = graph.types[op.operands[0]]
    attributes.expect(with_scale=True, round_mode=HALF_AWAY)
    head = (op.name, op.type, (op.operands[0],), op.result)
    if source.is_float and op.result.is_quantized:
        expressed = op.result.expressed
        if expressed not in FLOATS or (source.storage == "bf16") != (expressed == "bf16"):
            raise attributes.fail(f"{source.storage} to a type expressed in {expressed}")
        inverse = round_float(np.array([1.0 / op.result.scale]), expressed)[0]
        return Quantize(*head, inverse_scale=float(inverse), expressed=expressed)
    if source.is_quantized and op.result.is_float:
        # A quantized type says f32 or the kind of the float layer that produced it; the result's
        # own storage decides.
        scale = round_float(np.array([source.scale]), op.result.storage)[0]
        return Dequantize(*head, scale=float(scale), zero_point=source.zero_point)
    if source.is_float and op.result.is_float:
        return FloatCast(*head)
    raise attributes.fail(f"cast from {source.storage} to {op.result.storage}")


def _concat(op: Op, graph: Graph, attributes: _Attributes) -> Step:
    axis = attributes.get("axis")
    attributes.expect(do_relu=False, relu_limit=-1.0)
    attributes.ignore("only_merge")
    if "multipliers" in attributes.left or "rshifts" in attributes.left:
        raise attributes.fail("requantization inside a concatenation")
    if any(graph.types[name].storage != op.result.storage for name in op.operands):
        raise attributes.fail("operands of different storage")
    if axis == 0:
        raise attributes.fail("axis 0 (the batch)")
    return Concat(op.name, op.type, tuple(op.operands), op.result, axis=axis)


def _slice(op: Op, graph: Graph, attributes: _Attributes) -> Step:
    offset, steps = tuple(attributes.get("offset")), tuple(attributes.get("steps"))
    attributes.ignore("axes", "ends", "hasparamConvert_axes")
    if any(name is not None for name in op.operands[1:]):
        raise attributes.fail("bounds that are not constants")
    if offset[0] != 0 or steps[0] != 1 or min(steps) < 1:
        raise attributes.fail(f"offset {offset}, steps {steps}")
    return Slice(op.name, op.type, (op.operands[0],), op.result, offset=offset, steps=steps)


def _lookup(op: Op, graph: Graph, attributes: _Attributes) -> Step:
    table = graph.weights.get(op.operands[1])
    source = graph.types[op.operands[0]]
    if table is None or table.size != 256 or source.storage not in ("i8", "u8"):
        raise attributes.fail("a table that is not 256 constants for a byte")
    table = table.reshape(-1)
    return Lookup(op.name, op.type, (op.operands[0],), op.result, table=table)


_LOWERINGS: dict[str, Callable[[Op, Graph, _Attributes], Step]] = {
    "top.Input": _input,
    "tpu.Conv2D": _convolution,
    "tpu.Pool2D": _pool,
    "tpu.Scale": _scale,
    "tpu.Lut": _lookup,
    "tpu.Mul": _multiply,
    "tpu.Div": _divide,
    "tpu.Reduce": _reduce,
    "tpu.Cast": _cast,
    "tpu.Concat": _concat,
    "tpu.Slice": _slice,
}


def lower(graph: Graph, arithmetic: str = "chip") -> tuple[Step, ...]:
    """The steps of a graph, in execution order.

    Parameters
    ----------
    arithmetic
        "chip" or "interpreter": whose float operations to follow where the two differ.

    Raises
    ------
    EngineError
        An operation, attribute or rounding mode that the emulator does not know, by name.
    """
    steps = []
    for op in graph.ops:
        attributes = _Attributes(op, graph, arithmetic)
        if op.type not in _LOWERINGS:
            raise attributes.fail("unknown operation")
        step = _LOWERINGS[op.type](op, graph, attributes)
        attributes.done()
        steps.append(step)
    return tuple(steps)
