"""Sums of products with constant weights: convolution, transposed convolution, matrix product."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NotRequired, TypedDict

import numpy as np

from lprnet_nb.runtime.emulator.graph import Graph, Op, TensorType
from lprnet_nb.runtime.emulator.steps import (
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

# Floats whose matrix products a chip is known to sum in two lanes.
FLOAT_PRODUCTS = (("BM1684", "f32"), ("BM1684X", "f32"))
TILE, TILE_BITS = 1024, 8  # see `MatMul`
# Products of 16-bit floats that a chip adds at a time.
FUSED = {"BM1684X": 32, "BM1688": 16, "CV186X": 16}
# Bits of a product that such a sum keeps below the first one of the largest.
FUSED_BITS = 24


@dataclass(frozen=True)
class ChipSums:
    """How a chip sums the products of a float convolution, found by probing the simulators.

    ``terms`` ``[rows, width]`` says which products, by their places in an output channel's weights
    (channel, row, column), are taken in each row; -1 for none. The rows are taken in order.

    Lanes (not ``fused``): each column is a sum of its own, rounded to ``storage`` after every
    product and every addition. Then the upper half of the columns is added to the lower one, until
    one is left.

    ``fused``: each row is one sum. Its products are exact; what lies more than 24 bits below the
    leading bit of the largest is cut off each (towards zero); they are added exactly, the sum is
    rounded to float32 and added, in float32, to those of the rows before.

    The bias is what column ``bias_column`` starts with; None where it is added at the end.
    """

    terms: np.ndarray
    fused: bool
    bias_column: int | None
    storage: str = "f32"


def chip_sums(chip: str, storage: str, share: int, kernel: tuple[int, int], group: int) -> ChipSums:
    """`ChipSums` of a convolution with ``share`` input channels a group.

    BM1684 deals its products, tap after tap, each with the channels of a group filled up to an even
    number, out to four lanes. In F32 the other chips take them channel after channel in two lanes,
    of which the odd one starts with the bias. In F16 and BF16 they take all taps of so many
    channels as a fused sum holds before the next ones; a kernel whose rows or columns, or both, fit
    beside the channels is laid out as channels first (TPU-MLIR's ``use_3ic_optimize``). Depthwise
    ones of BM1688 and CV186X are taken in two lanes of 16 bits instead.
    """
    rows, columns = kernel
    places = np.arange(share * rows * columns).reshape(share, rows * columns)
    if chip == "BM1684":
        even = np.pad(places.T, ((0, 0), (0, share % 2)), constant_values=-1)
        return ChipSums(_rows(even, 4), False, None)
    if storage == "f32" or (share == 1 < group and chip != "BM1684X"):
        return ChipSums(_rows(places, 2), False, 1, storage)
    width = FUSED[chip]
    grid = places.reshape(share, rows, columns)
    if group == 1:
        grid = _as_channels(grid, width)
    blocks = np.pad(
        grid.reshape(len(grid), -1), ((0, -len(grid) % width), (0, 0)), constant_values=-1
    ).reshape(-1, width, grid[0].size)
    return ChipSums(blocks.swapaxes(1, 2).reshape(-1, width), True, 0)


def _rows(places: np.ndarray, width: int) -> np.ndarray:
    """Dealt out in order, ``width`` a row, the last row filled up with -1."""
    flat = places.reshape(-1)
    return np.pad(flat, (0, -flat.size % width), constant_values=-1).reshape(-1, width)


def _as_channels(grid: np.ndarray, width: int) -> np.ndarray:
    """``[channels, rows, columns]`` with rows or columns of the kernel made channels."""
    channels, rows, columns = grid.shape
    if grid.size <= width and rows > 1 < columns:
        return grid.reshape(-1, 1, 1)
    if channels * columns <= width and columns > 1 and (rows < columns or channels * rows > width):
        return grid.swapaxes(1, 2).reshape(-1, 1, rows)
    if channels * rows <= width and rows > 1:
        return grid.reshape(-1, 1, columns)
    return grid


@dataclass(frozen=True)
class Convolution(Step):
    """2-D convolution, float or integer; source: Conv2D.cpp, Deconv.cpp.

    ``weight`` is ``[out, in / group, rows, columns]``; output channel c sees the ``in / group``
    input channels of its group, the groups in order. ``inserts`` values lie between neighbouring
    rows and columns of the input before it is padded: that makes a transposed convolution.

    Integer (``requant`` set): stored input (what is inserted and padded is its zero point) times
    stored weights, plus bias, then requantization. The interpreter sums in float32, which is exact
    while ``max|x| * sum|w|`` of a channel stays under 2**24; `accumulator_bound` says how far it
    can go. It adds the bias after the convolution, also in float32.

    Float: float32 sums, bias, ReLU, then rounding to ``type.storage``. The interpreter's order of
    the sums is its kernel library's; a chip's is ``sums``, where it is known.
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
    group: int = 1
    inserts: tuple[int, int] = (0, 0)
    sums: ChipSums | None = field(default=None, repr=False)

    @property
    def accumulator_bound(self) -> int:
        """Largest magnitude that any partial sum of the integer convolution can reach."""
        assert self.input_limits is not None  # of every integer convolution
        largest = max(abs(limit) for limit in self.input_limits)
        weights = np.abs(self.weight.astype(np.int64)).sum(axis=(1, 2, 3)) * largest
        bias = 0 if self.bias is None else np.abs(self.bias.astype(np.int64))
        return int((weights + bias).max())


@lowers("tpu.Conv2D")
def _convolution(op: Op, graph: Graph, attributes: Attributes) -> Step:
    weight, bias = _constants(op, graph, attributes)
    attributes.expect(use_winograd=0, do_winograd=False, weight_is_coeff=1, coeff_merged=False)
    attributes.ignore("support_compress", "use_3ic_optimize")
    group = attributes.get("group", 1)
    sums = None
    if op.result.is_float and attributes.arithmetic == "chip":
        sums = chip_sums(graph.chip, op.result.storage, weight.shape[1], weight.shape[2:], group)
    return Convolution(
        *head(op),
        weight=weight,
        bias=bias,
        pads=tuple(attributes.get("pads")),
        strides=tuple(attributes.get("strides")),
        dilations=tuple(attributes.get("dilations", [1, 1])),
        group=group,
        sums=sums,
        **_quantization(op, graph, attributes),
    )


def _constants(
    op: Op, graph: Graph, attributes: Attributes
) -> tuple[np.ndarray, np.ndarray | None]:
    weight = graph.weights.get(op.operand(1))
    if weight is None or weight.ndim != 4:
        raise attributes.fail("weights that are not a constant of four dimensions")
    attributes.expect(kernel_zp=0, kernel_shape=list(weight.shape[2:]), dynweight_reorderd=False)
    with_bias = attributes.get("with_bias")
    bias = graph.weights.get(op.operands[2]) if op.operands[2] else None
    if not with_bias:
        return weight, None
    if bias is None:
        raise attributes.fail("a bias that is not constant")
    return weight, bias.reshape(-1)


class _Quantization(TypedDict):
    relu: bool
    pad_value: int
    requant: Requant | None
    input_limits: NotRequired[tuple[int, int]]


def _quantization(op: Op, graph: Graph, attributes: Attributes) -> _Quantization:
    """How sums become the result, as fields of `Convolution`."""
    source, relu = graph.types[op.operand(0)], attributes.get("do_relu", False)
    attributes.expect(relu_limit=-1.0)
    if op.result.is_float and source.is_float:
        attributes.ignore("quant_mode", "round_mode", "multiplier", "rshift")
        return {"relu": relu, "pad_value": 0, "requant": None}
    if not (source.is_quantized and op.result.is_quantized):
        raise attributes.fail(f"{source.storage} input with {op.result.storage} result")
    if attributes.requant is not None:  # by the RequantIntAxis that follows
        attributes.ignore("quant_mode")
        requant = attributes.requant
    else:
        # The interpreter rounds half up in both modes; the attribute says the same.
        mode = quant_mode(attributes)
        attributes.expect(round_mode=HALF_UP)
        requant = requantization(attributes, op, HALF_UP, op.result.zero)
        if mode == "OnlyShift" and (requant.multiplier != 1).any():
            raise attributes.fail("OnlyShift with multipliers")
    return {
        "relu": relu,
        "pad_value": source.zero,
        "requant": with_relu(requant, relu),
        "input_limits": source.limits,
    }


@lowers("tpu.Deconv")
def _deconvolution(op: Op, graph: Graph, attributes: Attributes) -> Step:
    """A convolution of the input with values in between, its kernel turned by half a circle."""
    weight, bias = _constants(op, graph, attributes)
    if graph.chip == "BM1684" and attributes.arithmetic == "chip":
        raise attributes.fail(
            "a transposed convolution on BM1684, whose chip computes otherwise than the interpreter"
        )
    strides, dilations = tuple(attributes.get("strides")), attributes.get("dilations", [1, 1])
    reach = [(size - 1) * step for size, step in zip(weight.shape[2:], dilations, strict=True)]
    top, left, bottom, right = attributes.get("pads")
    more = attributes.get("output_padding", [0, 0])
    pads = (
        reach[0] - top,
        reach[1] - left,
        reach[0] - bottom + more[0],
        reach[1] - right + more[1],
    )
    if min(pads) < 0:
        raise attributes.fail(f"pads {(top, left, bottom, right)} wider than the kernel")
    group = attributes.get("group", 1)
    shape = (op.result.shape[1], graph.types[op.operand(0)].shape[1] // group, *weight.shape[2:])
    if weight.size != np.prod(shape):
        raise attributes.fail(f"weights of shape {weight.shape}, expected {shape}")
    weight = weight.reshape(shape)[:, :, ::-1, ::-1]  # stored by group, output, input
    return Convolution(
        *head(op),
        weight=np.ascontiguousarray(weight),
        bias=bias,
        pads=pads,
        strides=(1, 1),
        dilations=tuple(dilations),
        group=group,
        inserts=(strides[0] - 1, strides[1] - 1),
        **_quantization(op, graph, attributes),
    )


@dataclass(frozen=True)
class MatMul(Step):
    """Matrix product over the last two axes, earlier ones broadcast; source: MatMul.cpp.

    ``weight`` is the right operand ``[K, N]`` where that is constant; else the second input is,
    transposed if ``transposed``. Bias ``[N]`` and ReLU follow. Integers: zero points are taken off
    first (the compiler puts the left one's share into the bias where weights are constant), then
    one multiplier and shift for all values, half up, or one for each of the N columns where
    another operation requantizes.

    BM1684's chip (``tile`` above 0) takes an integer product over so many values at a time. What it
    has of the sum in between it keeps in 16 bits, 8 of them below the result's: shifted half up,
    and saturated. Found with its simulator on products over 1,280 to 4,000 values.

    Float: float32 sums, bias, ReLU, rounded to storage. The interpreter's order of the sums is its
    kernel library's. A chip (``lanes`` 2, known in F32) rounds each product, sums the even and the
    odd ones in order, and adds the two.
    """

    weight: np.ndarray | None = field(repr=False)
    bias: np.ndarray | None = field(repr=False)
    transposed: bool
    zero_points: tuple[int, int]
    relu: bool
    requant: Requant | None = field(repr=False)
    lanes: int = 0
    tile: int = 0


@lowers("tpu.MatMul")
def _matmul(op: Op, graph: Graph, attributes: Attributes) -> Step:
    left = graph.types[op.operand(0)]
    weight = graph.weights.get(op.operand(1))
    bias = graph.weights.get(op.operands[2]) if op.operands[2] else None
    if op.operands[2] and bias is None:
        raise attributes.fail("a bias that is not constant")
    if any(name is not None for name in op.operands[3:]):
        raise attributes.fail("more operands than are known")
    transposed, relu = attributes.get("right_transpose", False), attributes.get("do_relu", False)
    attributes.expect(hdim_is_batch=False, left_transpose=False, output_transpose=False)
    attributes.expect(relu_limit=-1.0, q_group_size=0, dq_type="NONE", is_lora=False)
    attributes.expect(keep_dims=True, fuse_rq=False)
    attributes.ignore("left_reuse", "cal_i8", "round_mode")
    if weight is not None and transposed:
        weight, transposed = np.ascontiguousarray(weight.swapaxes(-1, -2)), False
    if weight is not None and weight.ndim != 2:
        raise attributes.fail(f"constants of shape {weight.shape}")
    if bias is not None and bias.size != op.result.shape[-1]:
        raise attributes.fail(f"a bias of shape {bias.shape}")
    product = MatMul(
        *head(op, None if weight is not None else (op.operand(0), op.operand(1))),
        weight=weight,
        bias=None if bias is None else bias.reshape(-1),
        transposed=transposed,
        zero_points=(0, 0),
        relu=relu,
        requant=None,
    )
    if op.result.is_float and left.is_float:
        attributes.ignore("quant_mode", "multipliers", "rshifts")
        attributes.expect(input_zp=0, right_zp=0)
        chip = attributes.arithmetic == "chip"
        if chip and (graph.chip, op.result.storage) not in FLOAT_PRODUCTS:
            raise attributes.fail(
                f"a product in {op.result.storage}, whose sums the chip takes in "
                "an order that is not known"
            )
        return replace(product, lanes=2 * chip)
    if not (left.is_quantized and op.result.is_quantized):
        raise attributes.fail(f"{left.storage} input with {op.result.storage} result")
    zero_points = attributes.get("input_zp", 0), attributes.get("right_zp", 0)
    if weight is not None and any(zero_points):
        raise attributes.fail(f"zero points {zero_points} beside constants")
    if attributes.requant is not None:
        attributes.ignore("quant_mode", "multipliers", "rshifts")
        requant = attributes.requant
    elif quant_mode(attributes) in ("MultiplierShift", "OnlyShift"):
        requant = requantization(
            attributes, op, HALF_UP, op.result.zero, ("multipliers", "rshifts")
        )
    if graph.chip == "BM1684" and attributes.arithmetic == "chip" and left.shape[-1] > TILE:
        if (requant.multiplier != 1).any() or requant.shift.min() < TILE_BITS:
            raise attributes.fail(
                f"a product over {left.shape[-1]} values, whose parts the chip keeps in a way that "
                "is not known"
            )
        product = replace(product, tile=TILE)
    return replace(product, zero_points=zero_points, requant=with_relu(requant, relu))


@lowers("tpu.RequantIntAxis")
def _requant_int_axis(op: Op, graph: Graph, attributes: Attributes) -> Step:
    """The sums before it, requantized by channel; source: RequantIntAxis.cpp.

    Its int32 input lives only in between (`lower` holds the operation back that makes it), so
    both are one step, under this one's name. The constants are rows of multiplier, left shift and
    zero point on BM1684X; others pack the last two into one word.
    """
    producer = attributes.producer
    if producer is None:
        raise attributes.fail("an input that is no fresh sum")
    if quant_mode(attributes) != "MultiplierShift":
        raise attributes.fail("requantization mode OnlyShift")
    attributes.expect(fuse_rq_axis=False, rq_axis=1)
    if producer.type == "tpu.MatMul" and len(op.result.shape) != 2:
        raise attributes.fail("axis 1 of a product that is no matrix")
    rows = graph.weights[op.operand(1)].reshape(op.result.shape[1], -1).astype(np.int64)
    if rows.shape[1] == 3:
        multiplier, left, zero = rows.T
    elif rows.shape[1] == 2:
        multiplier, packed = rows.T
        left = packed.astype(np.uint32).astype(np.int8).astype(np.int64)
        zero = packed >> 16
    else:
        raise attributes.fail(f"{rows.shape[1]} constants a channel")
    if (zero != op.result.zero_point).any():
        raise attributes.fail("zero points of its own")
    requant = Requant(
        multiplier, -left, attributes.get("round_mode"), op.result.zero, *op.result.limits
    )
    inner = Attributes(
        replace(producer, name=op.name, result=op.result),
        graph,
        attributes.arithmetic,
        requant=requant,
    )
    step = {"tpu.Conv2D": _convolution, "tpu.Deconv": _deconvolution, "tpu.MatMul": _matmul}[
        producer.type
    ](inner.op, graph, inner)
    inner.done()
    return step


def sums(kind: TensorType) -> bool:
    """Whether a tensor holds bare int32 sums, which only `_requant_int_axis` takes."""
    return kind.storage == "i32" and not kind.is_quantized
