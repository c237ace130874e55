"""The steps in PyTorch, written for clarity: the definition that the fast executor is held to.

It keeps every layer, runs on any device, and is the path that serves CUDA. Integers live in
float32 tensors (as in the vendor's interpreter), convolutions of integers run in float64 (sums are
exact up to 2**53) and requantization in int64, so no width argument is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as functional

from lprnet_nb.errors import EngineError
from lprnet_nb.runtime.emulator.activation import ERFC, GELU_TANH, Activation, Logarithm
from lprnet_nb.runtime.emulator.arithmetic import (
    Add,
    ChannelScale,
    Divide,
    FloatScale,
    Multiply,
)
from lprnet_nb.runtime.emulator.casts import Dequantize, FloatCast, Quantize
from lprnet_nb.runtime.emulator.convolution import FUSED_BITS, TILE_BITS, Convolution, MatMul
from lprnet_nb.runtime.emulator.graph import Arrays, Graph
from lprnet_nb.runtime.emulator.movement import Concat, Constant, Move, Slice
from lprnet_nb.runtime.emulator.normalization import (
    LEAST_EXP,
    Exponential,
    LayerNorm,
    Softmax,
    TableSoftmax,
)
from lprnet_nb.runtime.emulator.pooling import AveragePool, MaxPool, Mean
from lprnet_nb.runtime.emulator.steps import DOWN, HALF_AWAY, HALF_UP, Input, Requant, Step
from lprnet_nb.runtime.emulator.tables import FloatUnary, Lookup

# Images that run together, rounded up to a multiple of the graph's batch.
CHUNK = 32
# Of the largest of some products, as frexp gives it; smaller ones are taken as if it were this one.
LEAST_EXPONENT = -101
DEVICE_CHUNK = 256

# Of a reciprocal square root: float type, integers of its size, what half the bits are taken from.
RECIPROCAL_STARTS = {
    "f32": (torch.float32, torch.int32, 0x5F3759DF),
    "f16": (torch.float16, torch.int16, 0x59BA),
    "bf16": (torch.bfloat16, torch.int16, 0x5F37),
}


def right_shift(values: torch.Tensor, shift: torch.Tensor, rounding: str) -> torch.Tensor:
    """``values / 2**shift`` rounded; int64 in, int64 out; a negative shift is a left shift."""
    right = shift.clamp(min=0)
    half = torch.ones_like(right) << right >> 1  # 0 at shift 0
    if rounding == HALF_UP:
        values = values + half
    elif rounding == HALF_AWAY:
        values = values + half - ((values < 0) & (half > 0)).long()
    elif rounding != DOWN:
        raise AssertionError(rounding)
    return (values >> right) << (-shift).clamp(min=0)


def requantize(values: torch.Tensor, requant: Requant, axis: int = 1) -> torch.Tensor:
    """int64 ``[N, C, ...]`` to the stored result, as float32; channels along ``axis``."""
    multiplier, shift = (
        _along(torch.as_tensor(constant, device=values.device), values, axis)
        for constant in (requant.multiplier, requant.shift)
    )
    values = values * multiplier
    if requant.before:
        values = values.clamp(*requant.before)
    values = right_shift(values, shift, requant.rounding) + requant.zero_point
    return values.clamp(requant.low, requant.high).float()


def _along(constant: torch.Tensor, values: torch.Tensor, axis: int) -> torch.Tensor:
    """A constant for each entry of an axis, or one for all, ready to be broadcast."""
    if constant.numel() == 1:
        return constant.reshape(())
    return constant.reshape(-1, *[1] * (values.ndim - 1 - axis % values.ndim))


def round_half_away(values: torch.Tensor) -> torch.Tensor:
    """C's ``round``: float32 to integers, ties away from zero (adding 1/2 would itself round)."""
    whole = values.trunc()
    tie = (values - whole).abs() >= 0.5
    return whole + torch.where(tie, values.sign(), torch.zeros_like(values))


def round_storage(values: torch.Tensor, storage: str) -> torch.Tensor:
    """float32 rounded to f16 or bf16, still float32."""
    if storage == "f16":
        return values.half().float()
    if storage == "bf16":
        return values.bfloat16().float()
    return values


def _ties_away(values: torch.Tensor) -> torch.Tensor:
    """float32 that lie between two f16, moved off the middle, away from zero."""
    bits = values.view(torch.int32)
    return (bits + ((bits & 0x1FFF) == 0x1000).int()).view(torch.float32)


def sequential_sum(values: torch.Tensor) -> torch.Tensor:
    """Strictly sequential float32 sum over the last axis (see `pooling.Mean`).

    torch's own ``cumsum`` accumulates in float64 on the CPU; numpy's accumulates in float32, one
    element after the other.
    """
    array = np.ascontiguousarray(values.cpu().numpy())
    total = np.add.accumulate(array, axis=-1, dtype=np.float32)[..., -1]
    return torch.from_numpy(np.ascontiguousarray(total)).to(values.device)


def lane_sum(values: torch.Tensor, lanes: int, coefficient: float, storage: str) -> torch.Tensor:
    """A chip's sum over the last axis, times a coefficient (see `pooling.Mean`)."""
    padding = -values.shape[-1] % lanes
    rows = functional.pad(values, (0, padding)).unflatten(-1, (-1, lanes))
    total = rows[..., 0, :]
    for k in range(1, rows.shape[-2]):
        total = round_storage(total + rows[..., k, :], storage)
    half = round_storage(total[..., : lanes // 2] + total[..., lanes // 2 :], storage)
    return _even_and_odd(half, coefficient, storage)


def _even_and_odd(values: torch.Tensor, coefficient: float, storage: str) -> torch.Tensor:
    """Last axis times a coefficient, even and odd ones summed in order, the two added."""
    scaled = round_storage(values * torch.tensor(coefficient, dtype=torch.float32), storage)
    pairs = functional.pad(scaled, (0, scaled.shape[-1] % 2)).unflatten(-1, (-1, 2))
    total = pairs[..., 0, :]
    for k in range(1, pairs.shape[-2]):
        total = round_storage(total + pairs[..., k, :], storage)
    return round_storage(total[..., 0] + total[..., 1], storage)


def reciprocal_root(values: torch.Tensor, storage: str, steps: int = 3) -> torch.Tensor:
    """A chip's 1/sqrt(x) (see `arithmetic.Divide`)."""

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return round_storage(x, storage)

    dtype, whole, magic = RECIPROCAL_STARTS[storage]
    root = (magic - (values.to(dtype).contiguous().view(whole) >> 1)).view(dtype).float()
    half = rounded(values * 0.5)
    for _ in range(steps):
        root = rounded(root * rounded(1.5 - rounded(rounded(half * root) * root)))
    return root


def reciprocal(values: torch.Tensor, storage: str) -> torch.Tensor:
    """A chip's 1/x (see `arithmetic.Divide`)."""
    root = reciprocal_root(values.abs(), storage)
    return round_storage(root * root, storage).copysign(values)


# Of glibc's expf: what a unit is divided into, and its polynomial of the rest.
EXPF_PARTS = 32
EXPF_TERMS = tuple(
    float.fromhex(term) / EXPF_PARTS**power
    for term, power in (
        ("0x1.c6af84b912394p-5", 3),
        ("0x1.ebfce50fac4f3p-3", 2),
        ("0x1.62e42ff0c52d6p-1", 1),
    )
)


def expf(values: torch.Tensor) -> torch.Tensor:
    """C's expf as glibc computes it: in float64, rounded once, not always to the nearest."""
    scaled = values.double() * (EXPF_PARTS / math.log(2))
    whole = scaled.round()
    rest = scaled - whole
    a, b, c = EXPF_TERMS
    return (((a * rest + b) * rest**2 + (c * rest + 1)) * torch.exp2(whole / EXPF_PARTS)).float()


def exponential(exp: Exponential, values: torch.Tensor, storage: str) -> torch.Tensor:
    """A chip's exp (see `normalization.Exponential`)."""

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return round_storage(x, storage)

    inverse, log = (torch.tensor(one, dtype=torch.float32) for one in (exp.inverse, exp.log))
    values = values.clamp(LEAST_EXP, exp.largest)
    scaled = rounded(values * inverse)
    whole = scaled.floor() if exp.down else scaled.trunc()
    rest = rounded(values - rounded(whole * log))
    total = torch.full_like(rest, float(exp.terms[-1]))
    for term in torch.from_numpy(exp.terms[:-1]).flip(0):
        total = rounded(rounded(total * rest) + term)
    powers = torch.from_numpy(exp.powers).to(values.device)
    return rounded(total * powers[whole.clamp(-128, 127).long() + 128])


def logarithm(log: Logarithm, values: torch.Tensor) -> torch.Tensor:
    """A chip's log (see `activation.Logarithm`)."""
    bits = values.contiguous().view(torch.int32)
    power = ((bits - 0x3F2AAAAB) >> 23).clamp(-128, 128)
    rest = values * ((127 - power) << 23).view(torch.float32) - 1
    total = torch.full_like(rest, float(log.terms[-1]))
    for term in torch.from_numpy(log.terms[:-1]).flip(0):
        total = total * rest + term
    return power * torch.tensor(log.of_two) + total * rest


def error_function(exp: Exponential, values: torch.Tensor) -> torch.Tensor:
    """A chip's erf (see `activation.ERFC`)."""
    size = values.abs()
    share = reciprocal(1 + size * 0.5, "f32")
    first, *others = torch.tensor(ERFC, dtype=torch.float32).flip(0)
    total = torch.full_like(share, float(first))
    for term in others:
        total = total * share + term
    powers = exponential(exp, total - size * size, "f32")
    return values.sign() * (1 - share * powers)


def row_sums(
    values: torch.Tensor, lanes: int, coefficient: float = 1.0, storage: str = "f32"
) -> torch.Tensor:
    """Sums over the last axis: a chip's in its lanes, or one after the other (0)."""
    if lanes > 2:
        return lane_sum(values, lanes, coefficient, storage)
    return _even_and_odd(values, coefficient, storage) if lanes else sequential_sum(values)


def _inserted(x: torch.Tensor, inserts: tuple[int, int], value: float) -> torch.Tensor:
    """``value`` between neighbouring rows and columns."""
    rows, columns = (count + 1 for count in inserts)
    *outer, height, width = x.shape
    spread = x.new_full((*outer, (height - 1) * rows + 1, (width - 1) * columns + 1), value)
    spread[..., ::rows, ::columns] = x
    return spread


def _padded(x: torch.Tensor, pads: tuple[int, int, int, int], value: float) -> torch.Tensor:
    top, left, bottom, right = pads
    return functional.pad(x, (left, right, top, bottom), value=value)


def _convolution(step: Convolution, x: torch.Tensor) -> torch.Tensor:
    if any(step.inserts):
        x = _inserted(x, step.inserts, float(step.pad_value))
    x = _padded(x, step.pads, float(step.pad_value))
    weight = torch.as_tensor(step.weight, device=x.device)
    bias = None if step.bias is None else torch.as_tensor(step.bias, device=x.device)
    geometry = step.strides, 0, step.dilations, step.group  # padded already
    if step.requant is None:
        chip = step.sums is not None
        result = (
            _chip_sums(step, x, weight.float(), bias)
            if chip
            else functional.conv2d(x, weight.float(), bias, *geometry)
        )
        return round_storage(result.relu() if step.relu else result, step.type.storage)
    sums = functional.conv2d(x.double(), weight.double(), None, *geometry).round().long()
    if bias is not None:
        sums = sums + bias.long().view(1, -1, 1, 1)
    return requantize(sums, step.requant)


def _chip_sums(
    step: Convolution, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """A chip's float convolution of a padded input (see `convolution.ChipSums`)."""
    sums, (rows, columns) = step.sums, step.type.shape[2:]
    assert sums is not None
    patches = functional.unfold(
        x, step.weight.shape[2:], dilation=step.dilations, stride=step.strides
    ).reshape(len(x), step.group, 1, -1, rows * columns)
    weight = weight.reshape(1, step.group, len(weight) // step.group, -1, 1)
    start = torch.zeros(()) if bias is None else bias.reshape(1, step.group, -1, 1)
    start = round_storage(start, sums.storage)

    def product(place: int) -> torch.Tensor:
        return round_storage(patches[..., place, :] * weight[..., place, :], sums.storage)

    totals = [torch.zeros(()) for _ in range(1 if sums.fused else sums.terms.shape[1])]
    if sums.bias_column is not None:
        totals[sums.bias_column] = start
    for row in sums.terms:
        if sums.fused:
            totals[0] = totals[0] + _fused_sum([product(place) for place in row if place >= 0])
            continue
        for column, place in enumerate(row):
            if place >= 0:
                totals[column] = round_storage(totals[column] + product(place), sums.storage)
    while len(totals) > 1:
        half = len(totals) // 2
        totals = [low + high for low, high in zip(totals[:half], totals[half:], strict=True)]
    total = totals[0] if sums.bias_column is not None else totals[0] + start
    return total.reshape(len(x), -1, rows, columns)


def _fused_sum(products: list[torch.Tensor]) -> torch.Tensor:
    """Products of 16-bit floats as a chip adds them at a time (see `convolution.ChipSums`)."""
    largest = products[0].abs()
    for product in products[1:]:
        largest = torch.maximum(largest, product.abs())
    unit = torch.frexp(largest)[1].clamp(min=LEAST_EXPONENT) - 1 - FUSED_BITS
    whole = torch.zeros_like(largest, dtype=torch.float64)
    for product in products:
        whole += torch.ldexp(product.double(), -unit).trunc()
    return torch.ldexp(whole, unit).float()


def two_lanes(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """A chip's float32 matrix product (see `MatMul`)."""
    sums = [torch.zeros(()), torch.zeros(())]
    for k in range(left.shape[-1]):
        sums[k % 2] = sums[k % 2] + left[..., k, None] * right[..., None, k, :]
    return sums[0] + sums[1]


def _tiled(step: MatMul, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """BM1684's sum over tiles (see `MatMul`), int64."""
    assert step.requant is not None
    shift = torch.as_tensor(step.requant.shift, device=left.device) - TILE_BITS
    total = torch.zeros((), dtype=torch.long, device=left.device)
    for start in range(0, left.shape[-1], step.tile):
        if start:
            total = right_shift(total, shift, HALF_UP).clamp(-(2**15), 2**15 - 1) << shift
        part = slice(start, start + step.tile)
        total = total + torch.matmul(left[..., part], right[..., part, :]).round().long()
    return total


def _matmul(step: MatMul, left: torch.Tensor, right: torch.Tensor | None = None) -> torch.Tensor:
    if right is None:
        right = torch.as_tensor(step.weight, device=left.device)
    if step.transposed:
        right = right.transpose(-1, -2)
    bias = None if step.bias is None else torch.as_tensor(step.bias, device=left.device)
    if step.requant is None:
        product = two_lanes if step.lanes else torch.matmul
        result = product(left, right.float())
        result = result if bias is None else result + bias
        return round_storage(result.relu() if step.relu else result, step.type.storage)
    left, right = (x.double() - zero for x, zero in zip((left, right), step.zero_points))
    sums = _tiled(step, left, right) if step.tile else torch.matmul(left, right).round().long()
    return requantize(sums if bias is None else sums + bias.long(), step.requant, -1)


def _max_pool(step: MaxPool, x: torch.Tensor) -> torch.Tensor:
    return functional.max_pool2d(_padded(x, step.pads, -torch.inf), step.kernel, step.strides)


def _average_pool(step: AveragePool, x: torch.Tensor) -> torch.Tensor:
    size = step.kernel[0] * step.kernel[1]
    size_of_input = x.shape[2:]
    rows, columns = (torch.as_tensor(n, device=x.device) for n in step.edges(*size_of_input))
    counts = rows[:, None] * columns
    x = _padded(x, step.pads, float(step.pad_value))
    if step.requant is not None:
        sums = functional.avg_pool2d(x.double(), step.kernel, step.strides, divisor_override=1)
        if step.exclude_pads and step.edge_rounding is None:
            sums = round_half_away(sums.float() / counts * step.kernel[0] * step.kernel[1])
        return _edges(step, requantize(sums.round().long(), step.requant), size_of_input)
    # Sums in the window's memory order, as a window loop does it.
    windows = x.unfold(2, step.kernel[0], step.strides[0]).unfold(
        3, step.kernel[1], step.strides[1]
    )
    windows = windows.reshape(*windows.shape[:4], size)
    if step.lanes:
        return _edges(
            step,
            _even_and_odd(windows, step.share, step.type.storage),
            size_of_input,
        )
    total = windows[..., 0]
    for index in range(1, size):
        total = total + windows[..., index]
    mean = total / (counts if step.exclude_pads else size)
    if step.affine is None:
        return round_storage(mean, step.type.storage)
    scale, offset = step.affine
    value = ((mean * step.kernel[0] * step.kernel[1]).double() * scale + offset).float()
    return round_half_away(value).clamp(*step.type.limits)


def _edges(step: AveragePool, mean: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """A chip's correction of windows that are padded (see `AveragePool`)."""
    if step.edge_rounding is None:
        return mean
    down, across = (torch.as_tensor(ratio, device=mean.device) for ratio in step.edge_ratios(*size))
    for ratio in (down[:, None], across):
        mean = mean * ratio
        if step.edge_rounding == HALF_UP:
            mean = (mean + 0.5).floor()
        elif step.edge_rounding == HALF_AWAY:
            mean = round_half_away(mean)
        else:
            mean = round_storage(mean, step.edge_rounding)
        if not step.type.is_float:
            mean = mean.clamp(*step.type.limits)
    return mean


def _channel_scale(step: ChannelScale, x: torch.Tensor) -> torch.Tensor:
    scale = torch.as_tensor(step.scale, device=x.device).view(1, -1, 1, 1)
    bias = torch.as_tensor(step.bias, device=x.device).view(1, -1, 1, 1)
    return requantize(x.long() * scale + bias, step.requant)


def _float_scale(step: FloatScale, x: torch.Tensor) -> torch.Tensor:
    scale = torch.as_tensor(step.scale, device=x.device).view(1, -1, 1, 1)
    bias = torch.as_tensor(step.bias, device=x.device).view(1, -1, 1, 1)
    result = x * scale + bias
    return result.relu() if step.relu else result


def _lookup(step: Lookup, x: torch.Tensor) -> torch.Tensor:
    table = torch.as_tensor(step.table.astype(np.float32), device=x.device)
    return table[x.long() & 255]


def _float_unary(step: FloatUnary, x: torch.Tensor) -> torch.Tensor:
    first = step.constants[0]
    if step.kind == "leaky":
        result = torch.where(x > 0, x, x * torch.tensor(first, dtype=torch.float32))
    elif step.kind == "clip":
        result = x.clamp(*step.constants)
    elif step.kind == "multiply":
        result = (x.double() * first).float()
    else:
        result = ((x if step.kind == "add" else -x).double() + first).float()
    return round_storage(result.relu() if step.relu else result, step.type.storage)


def _add(step: Add, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if step.type.is_float:
        result = a - b if step.subtract else a + b
        return round_storage(result.relu() if step.relu else result, step.type.storage)
    a, b = (
        right_shift((x - zero).long() * multiplier, torch.tensor(shift), HALF_UP)
        for x, zero, multiplier, shift in zip(
            (a, b), step.zero_points, step.multipliers, step.shifts, strict=True
        )
    )
    low, high = step.type.limits
    low = max(low, step.type.zero) if step.relu else low
    return ((a - b if step.subtract else a + b) + step.type.zero).clamp(low, high).float()


def _multiply(step: Multiply, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if step.requant is None:
        result = a * b
        return round_storage(result.relu() if step.relu else result, step.type.storage)
    product = (a - step.zero_points[0]).long() * (b - step.zero_points[1]).long()
    return requantize(product, step.requant)


def _divide(step: Divide, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if step.reciprocal:
        return round_storage(a * reciprocal(b, step.type.storage), step.type.storage)
    return round_storage(a / b, step.type.storage)


def _mean(step: Mean, x: torch.Tensor, batch: int) -> torch.Tensor:
    axes = step.axes
    if axes[0] == 0:
        # One mean for each compiled batch.
        x = x.reshape(len(x) // batch, -1, *x.shape[1:])
        x = x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])
        axes = tuple(range(1, axes[-1] + 1))
    shape = list(x.shape)
    outer, inner = shape[: axes[0]], shape[axes[-1] + 1 :]
    flat = x.reshape(*outer, -1, *inner).movedim(len(outer), -1)
    coefficient = torch.tensor(step.coefficient, dtype=torch.float32)
    early, after = (1.0, coefficient) if step.late else (step.coefficient, 1.0)
    if step.by_plane:
        planes = flat.unflatten(-1, (-1, shape[-1] * shape[-2]))
        sums = lane_sum(planes, step.lanes, 1.0, step.type.storage)
        result = lane_sum(sums, step.lanes, 1.0, step.type.storage) * coefficient
    elif step.groups > 1:
        groups = flat.unflatten(-1, (step.groups, -1))
        means = lane_sum(groups, step.lanes, step.coefficient, step.type.storage)
        result = _even_and_odd(means, step.across, step.type.storage)
    elif step.lanes:
        result = row_sums(flat, step.lanes, early, step.type.storage) * after
    else:
        result = sequential_sum(flat) * coefficient
    if step.keep_dims:
        result = result.reshape(*outer, *[1] * len(axes), *inner)
    return round_storage(result, step.type.storage)


def _softmax(step: Softmax, x: torch.Tensor) -> torch.Tensor:
    rows, storage = x.movedim(step.axis, -1), step.type.storage
    rows = rows - rows.amax(-1, keepdim=True)
    if step.exponential is None:
        powers = expf(rows)
        result = powers / sequential_sum(powers)[..., None]
    else:
        powers = exponential(step.exponential, round_storage(rows, storage), storage)
        share = reciprocal(row_sums(powers, step.lanes), "f32")
        result = powers * round_storage(share, storage)[..., None]
    return round_storage(result, storage).movedim(-1, step.axis)


def _table_softmax(step: TableSoftmax, x: torch.Tensor) -> torch.Tensor:
    rows, scale = x.movedim(step.axis, -1), torch.tensor(step.type.scale, dtype=torch.float32)
    table = torch.as_tensor(step.table, device=x.device)
    powers = table[(rows.amax(-1, keepdim=True) - rows).long()]
    shares = powers / (sequential_sum(powers)[..., None] * scale)
    return (shares + 0.5).trunc().clamp(*step.type.limits).movedim(-1, step.axis)


def _layer_norm(step: LayerNorm, x: torch.Tensor) -> torch.Tensor:
    rows, storage = x.flatten(step.axis), step.type.storage if step.steps else "f32"
    count, epsilon = rows.shape[-1], torch.tensor(step.epsilon, dtype=torch.float32)

    def mean(values: torch.Tensor, kept: str) -> torch.Tensor:
        if not step.steps:
            return sequential_sum(values)[..., None] / count
        share = round_storage(torch.tensor(1.0) / count, kept)
        return row_sums(values, step.lanes, float(share), kept)[..., None]

    rows = round_storage(rows - mean(rows, storage), storage)
    variance = mean(rows * rows, "f32") + epsilon
    if step.steps:
        root = round_storage(reciprocal_root(variance, "f32", step.steps), storage)
    else:  # torch's own root of float32 is not always the nearest
        root = 1 / variance.double().sqrt().float()
    rows = round_storage(rows * root, storage)
    if step.weight is not None:
        rows = round_storage(rows * torch.as_tensor(step.weight, device=x.device), storage)
    if step.bias is not None:
        rows = round_storage(rows + torch.as_tensor(step.bias, device=x.device), storage)
    return rows.reshape(x.shape)


# What the interpreter computes, in float64.
FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "ABSVAL": torch.abs,
    "SQRT": torch.sqrt,
    "EXP": torch.exp,
    "SIGMOID": lambda x: 1 / (1 + torch.exp(-x)),
    "SILU": lambda x: x / (1 + torch.exp(-x)),
    "TANH": torch.tanh,
    "ERF": torch.erf,
    "LN": torch.log,
    "RSQRT": lambda x: 1 / x.sqrt(),
    "GELU": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "SOFT_PLUS": lambda x: torch.log(torch.exp(x) + 1),
}


def _activation(step: Activation, x: torch.Tensor) -> torch.Tensor:
    kind, storage = step.kind, step.type.storage
    exp, log, by_reciprocal = step.exponential, step.logarithm, step.chip == "BM1684"
    if step.chip is None or kind == "ABSVAL":
        return round_storage(FUNCTIONS[kind](x.double()).float(), storage)
    if log is not None:  # LN, and of exp SOFT_PLUS
        return logarithm(log, x if exp is None else 1 + exponential(exp, x, storage))
    if exp is None:
        root = reciprocal_root(x, storage)
        if kind == "RSQRT":
            return root
        return reciprocal(root, storage) if by_reciprocal else x * root
    if kind == "EXP":
        return exponential(exp, x, storage)
    if kind == "ERF":
        return error_function(exp, x)
    if kind == "GELU" and not by_reciprocal:
        return x * 0.5 * (1 + error_function(exp, x * torch.tensor(0.70710678)))
    if kind in ("TANH", "GELU"):
        outer, cube = torch.tensor(GELU_TANH)
        inner = x if kind == "TANH" else outer * (x + cube * (x * x * x))
        curve = 1 - 2 * reciprocal(1 + exponential(exp, 2 * inner, storage), storage)
        return curve if kind == "TANH" else x * 0.5 * (1 + curve)
    share = reciprocal(1 + exponential(exp, -x, storage), storage)
    return x * share if kind == "SILU" else share


def _quantize(step: Quantize, x: torch.Tensor) -> torch.Tensor:
    scaled = x * torch.tensor(step.inverse_scale, dtype=torch.float32)
    whole = round_half_away(round_storage(scaled, step.expressed))
    return (whole + step.type.zero).clamp(*step.type.limits)


def _dequantize(step: Dequantize, x: torch.Tensor) -> torch.Tensor:
    centred = round_storage(x - step.zero_point, step.type.storage)
    product = centred * torch.tensor(step.scale, dtype=torch.float32)
    return round_storage(product, step.type.storage)


def _slice(step: Slice, x: torch.Tensor) -> torch.Tensor:
    index = tuple(
        slice(offset, offset + (size - 1) * stride + 1, stride)
        for offset, stride, size in zip(step.offset[1:], step.steps[1:], step.type.shape[1:])
    )
    return x[(slice(None), *index)]


def _move(step: Move, x: torch.Tensor, runs: int) -> torch.Tensor:
    index = torch.as_tensor(step.index, device=x.device)
    moved = x.reshape(runs, -1)[:, index.clamp(min=0)]
    return torch.where(index >= 0, moved, torch.tensor(float(step.fill), device=x.device))


# What a step makes of operands that lie as they are kept.
_PLAIN: dict[type[Step], Callable[..., torch.Tensor]] = {
    Convolution: _convolution,
    MaxPool: _max_pool,
    AveragePool: _average_pool,
    ChannelScale: _channel_scale,
    FloatScale: _float_scale,
    Lookup: _lookup,
    FloatUnary: _float_unary,
    Quantize: _quantize,
    Dequantize: _dequantize,
    FloatCast: lambda step, x: round_storage(_ties_away(x) if step.away else x, step.type.storage),
    Concat: lambda step, *inputs: torch.cat(inputs, dim=step.axis),
    Slice: _slice,
    Activation: _activation,
    Softmax: _softmax,
    TableSoftmax: _table_softmax,
    LayerNorm: _layer_norm,
}
# And of two that are broadcast, run by run.
_PAIRED: dict[type[Step], Callable[..., torch.Tensor]] = {
    Add: _add,
    Multiply: _multiply,
    Divide: _divide,
    MatMul: _matmul,
}


def execute(step: Step, inputs: list[torch.Tensor], graph: Graph, runs: int) -> torch.Tensor:
    """Run one step on ``runs`` compiled batches."""
    if isinstance(step, Mean):
        return _mean(step, inputs[0], graph.batch)
    if isinstance(step, Constant):
        return torch.as_tensor(step.values).float().repeat(runs, *[1] * (step.values.ndim - 1))
    if isinstance(step, Move):
        result = _move(step, inputs[0], runs)
    elif type(step) in _PAIRED and len(inputs) == 2:
        shapes = [graph.types[name].shape for name in step.inputs]
        rank = max(map(len, shapes))
        inputs = [
            x.reshape(runs, *[1] * (rank - len(shape)), *shape)
            for x, shape in zip(inputs, shapes, strict=True)
        ]
        result = _PAIRED[type(step)](step, *inputs)
    else:
        result = (_PLAIN | _PAIRED)[type(step)](step, *inputs)
    return result.reshape(runs * step.type.shape[0], *step.type.shape[1:])


class TorchExecutor:
    """Runs the steps of a graph on a torch device."""

    def __init__(
        self,
        graph: Graph,
        steps: tuple[Step, ...],
        device: str = "cpu",
        threads: int | None = None,
    ):
        self.graph, self.steps, self.threads = graph, steps, threads
        try:
            self.device = torch.device(device)
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise EngineError(f"torch has no device {device!r} here: {error}") from error

    def run(self, inputs: Arrays, keep: Iterable[str]) -> dict[str, np.ndarray]:
        """Stored values (float32) of the tensors in ``keep``.

        ``inputs`` is ``[N, ...]`` with N a multiple of the graph's batch, by name where the graph
        has several. Compiled batches follow one another along the first axis.
        """
        keep, inputs = set(keep), self.graph.named(inputs)
        count = len(inputs[self.graph.input])
        images = CHUNK if self.device.type == "cpu" else DEVICE_CHUNK
        chunk = -(-images // self.graph.batch) * self.graph.batch
        before = torch.get_num_threads()
        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            parts = [
                self._run_chunk({n: x[start : start + chunk] for n, x in inputs.items()}, keep)
                for start in range(0, count, chunk)
            ]
        finally:
            torch.set_num_threads(before)
        return {name: np.concatenate([part[name] for part in parts]) for name in keep}

    def _run_chunk(self, inputs: dict[str, np.ndarray], keep: set[str]) -> dict[str, np.ndarray]:
        runs = len(inputs[self.graph.input]) // self.graph.batch
        last_use = {name: i for i, step in enumerate(self.steps) for name in step.inputs}
        values: dict[str, torch.Tensor] = {}
        kept: dict[str, np.ndarray] = {}
        with torch.inference_mode():
            for position, step in enumerate(self.steps):
                if isinstance(step, Input):
                    value = torch.as_tensor(inputs[step.name], device=self.device).float()
                else:
                    operands = [values[n] for n in step.inputs]
                    value = execute(step, operands, self.graph, runs).to(self.device)
                values[step.name] = value
                if step.name in keep:
                    kept[step.name] = value.cpu().numpy()
                for name in step.inputs:
                    if last_use[name] == position:
                        values.pop(name, None)
        return kept
