"""The steps in PyTorch, written for clarity: the definition that the fast executor is held to.

It keeps every layer, runs on any device, and is the path that serves CUDA. Integers live in
float32 tensors (as in the vendor's interpreter). Convolutions of integers run in float32 where no
sum can leave the integers that it holds, else in float64 (exact up to 2**53); requantization runs
in int64, so no width argument is needed. On CUDA it is compiled to one kernel: a step of its own
for each operation would read and write the largest maps ten times.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from typing import Any

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
# On a device, of the largest tensor of images that run together: 2 GiB in float32. Few images
# would leave a GPU waiting for the next kernel, of which sums in lanes take hundreds.
DEVICE_VALUES = 2**29
EXACT = 2**24  # float32 holds every integer up to here

STORED = {"f16": torch.float16, "bf16": torch.bfloat16}
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


def requantize(
    values: torch.Tensor,
    requant: Requant,
    axis: int = 1,
    scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Integers ``[N, C, ...]``, of any type, to the stored result, as float32.

    Channels lie along ``axis``; ``scale`` and ``bias`` have one value each and come first.
    """
    rows, placed = values.movedim(axis, -1), _placed_requant(requant, values.device)
    made = fused(values.device.type)[0](
        rows.reshape(-1, rows.shape[-1]),
        scale,
        bias,
        placed.multiplier,
        placed.shift,
        placed.zero_point,
        placed.low,
        placed.high,
        placed.before,
        placed.rounding,
    )
    return made.reshape(rows.shape).movedim(-1, axis)


def _placed_requant(requant: Requant, device: torch.device) -> Requant:
    """With all its numbers on a device, those that are there already as they are."""
    placed: dict[str, Any] = {
        name: torch.as_tensor(value, device=device)
        for name, value in vars(requant).items()
        if name not in ("rounding", "before")
    }
    if requant.before is not None:
        placed["before"] = tuple(torch.as_tensor(n, device=device) for n in requant.before)
    return replace(requant, **placed)


def _requantized(
    values: torch.Tensor,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    zero_point: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    before: tuple[torch.Tensor, torch.Tensor] | None,
    rounding: str,
) -> torch.Tensor:
    """`requantize` of ``[N, C]``; constants are tensors, so that one kernel serves all steps."""
    whole = values.long()
    if scale is not None:
        whole = whole * scale
    if bias is not None:
        whole = whole + bias
    whole = whole * multiplier
    if before is not None:
        whole = whole.clamp(*before)
    whole = right_shift(whole, shift, rounding) + zero_point
    return whole.clamp(low, high).float()


@functools.cache
def fused(device: str) -> tuple[Callable[..., torch.Tensor], str | None]:
    """`_requantized` for a type of device, in one kernel where torch can; else why it cannot.

    Nothing but integers is compiled: torch's compiler contracts a float product and a sum, and
    drops a rounding to 16 bits and back.
    """
    if device != "cuda":
        return _requantized, "only kernels of CUDA are fused"
    try:
        import torch._dynamo.config as config

        if config.disable:
            return _requantized, "torch.compile is disabled"
        # One for each kind of sums, rounding and constants; the default would give up at 8.
        config.recompile_limit = max(config.recompile_limit, 64)
        compiled = torch.compile(_requantized, dynamic=True, fullgraph=True)
        _try(compiled, device)
    except Exception as error:  # of a compiler that is missing or fails, whatever it raises
        return _requantized, f"{type(error).__name__}: {error}"
    return compiled, None


def _try(compiled: Callable[..., torch.Tensor], device: str) -> None:
    """Run it once on each kind of sums, and hold it against what was compiled."""
    sums = torch.arange(-3000, 3000, device=device).reshape(-1, 3)
    number, many = torch.tensor(5, device=device), torch.tensor([3, 8, 5], device=device)
    with torch.inference_mode():
        for dtype in (torch.float32, torch.float64, torch.int64):
            given = sums.to(dtype), None, many, many, many, number, -many[1], many[1] * 15, None
            if not torch.equal(compiled(*given, HALF_UP), _requantized(*given, HALF_UP)):
                raise AssertionError(f"the compiled requantization of {dtype} is another one")


@contextlib.contextmanager
def tf32(allowed: bool, device: torch.device) -> Iterator[None]:
    """Whether CUDA may round the factors of float32 products to 11 bits."""
    if device.type != "cuda":
        yield
        return
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = allowed
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            place.allow_tf32 = was


def round_half_away(values: torch.Tensor) -> torch.Tensor:
    """C's ``round``: float32 to integers, ties away from zero (adding 1/2 would itself round)."""
    whole = values.trunc()
    tie = (values - whole).abs() >= 0.5
    return whole + torch.where(tie, values.sign(), torch.zeros_like(values))


def round_storage(values: torch.Tensor, storage: str) -> torch.Tensor:
    """float32 rounded to f16 or bf16, still float32."""
    return values.to(STORED[storage]).float() if storage in STORED else values


def _ties_away(values: torch.Tensor) -> torch.Tensor:
    """float32 that lie between two f16, moved off the middle, away from zero."""
    bits = values.view(torch.int32)
    return (bits + ((bits & 0x1FFF) == 0x1000).int()).view(torch.float32)


def sequential_sum(values: torch.Tensor) -> torch.Tensor:
    """Strictly sequential float32 sum over the last axis (see `pooling.Mean`).

    torch's own ``cumsum`` accumulates in float64 on the CPU; numpy's accumulates in float32, one
    element after the other. Other devices add one slice after the other.
    """
    if values.device.type != "cpu":
        return _in_order(values[..., None], "f32")[..., 0]
    array = np.ascontiguousarray(values.numpy())
    total = np.add.accumulate(array, axis=-1, dtype=np.float32)[..., -1]
    return torch.from_numpy(np.ascontiguousarray(total))


def _in_order(rows: torch.Tensor, storage: str) -> torch.Tensor:
    """Sum over the last axis but one, one after the other, each rounded to f16 or bf16."""
    total = rows[..., 0, :]
    if rows.shape[-2] > 1:
        total = (total + rows[..., 1, :]).to(STORED.get(storage, torch.float32))
    for k in range(2, rows.shape[-2]):
        total.add_(rows[..., k, :])  # in float32, rounded as it is stored: one kernel
    return total.float()


def lane_sum(values: torch.Tensor, lanes: int, coefficient: float, storage: str) -> torch.Tensor:
    """A chip's sum over the last axis, times a coefficient (see `pooling.Mean`)."""
    padding = -values.shape[-1] % lanes
    rows = functional.pad(values, (0, padding)).unflatten(-1, (-1, lanes))
    total = _in_order(rows, storage)
    half = round_storage(total[..., : lanes // 2] + total[..., lanes // 2 :], storage)
    return _even_and_odd(half, coefficient, storage)


def _even_and_odd(values: torch.Tensor, coefficient: float, storage: str) -> torch.Tensor:
    """Last axis times a coefficient, even and odd ones summed in order, the two added."""
    scaled = round_storage(values * torch.tensor(coefficient, dtype=torch.float32), storage)
    pairs = functional.pad(scaled, (0, scaled.shape[-1] % 2)).unflatten(-1, (-1, 2))
    total = _in_order(pairs, storage)
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
    if not any(pads):  # torch would copy
        return x
    top, left, bottom, right = pads
    return functional.pad(x, (left, right, top, bottom), value=value)


def _convolution(step: Convolution, x: torch.Tensor) -> torch.Tensor:
    if any(step.inserts):
        x = _inserted(x, step.inserts, float(step.pad_value))
    x = _padded(x, step.pads, float(step.pad_value))
    weight = _weight(step, x.device)
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
    if step.group > 1:
        sums = functional.conv2d(x.double(), weight, None, *geometry).round()
        return requantize(sums, step.requant, bias=bias)
    sums = _integer_sums(step, x, weight)
    return requantize(sums, step.requant, -1, bias=bias).permute(0, 3, 1, 2)


def _weight(step: Convolution, device: torch.device) -> torch.Tensor:
    """Its weights; of integers in the float type in which sums with them are exact."""
    weight = torch.as_tensor(step.weight, device=device)
    if step.requant is None or isinstance(step.weight, torch.Tensor):  # as it was placed
        return weight
    assert step.input_limits is not None  # of every integer convolution
    short = step.weight.itemsize == 1 and max(map(abs, step.input_limits)) < 2**8
    exact = short and step.group == 1 and step.accumulator_bound < EXACT
    return weight.to(torch.float32 if exact else torch.float64)


def _integer_sums(step: Convolution, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``[N, rows, columns, channels]`` of a padded input, exact in the type of the weights.

    Every partial sum is an integer that the type holds, so that their order is free. That is true
    of a matrix product; cuDNN might take a convolution by Winograd or FFT, with fractions between.
    TF32 keeps 11 bits of a factor, which a byte does not fill, and sums in float32.
    """
    x = x.permute(0, 2, 3, 1)  # in memory too, as the convolution before left it
    (rows, columns), (high, wide) = step.type.shape[2:], step.weight.shape[2:]
    image, down, across, channel = x.stride()
    patches = x.as_strided(
        (len(x), rows, columns, high, wide, x.shape[-1]),
        (
            image,
            down * step.strides[0],
            across * step.strides[1],
            down * step.dilations[0],
            across * step.dilations[1],
            channel,
        ),
    )
    matrix = weight.permute(2, 3, 1, 0).flatten(0, 2)
    with tf32(True, x.device):
        sums = torch.matmul(patches.reshape(-1, len(matrix)).to(weight.dtype), matrix)
    return sums.unflatten(0, (len(x), rows, columns))


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
    return requantize(sums, step.requant, -1, bias=bias)


def _max_pool(step: MaxPool, x: torch.Tensor) -> torch.Tensor:
    return functional.max_pool2d(_padded(x, step.pads, -torch.inf), step.kernel, step.strides)


def _average_pool(step: AveragePool, x: torch.Tensor) -> torch.Tensor:
    size = step.kernel[0] * step.kernel[1]
    size_of_input = x.shape[2:]
    counts = torch.tensor(float(size), device=x.device)  # on it: a GPU takes 1/x of a number
    if step.exclude_pads:
        rows, columns = (torch.as_tensor(n, device=x.device) for n in step.edges(*size_of_input))
        counts = rows[:, None] * columns
    x = _padded(x, step.pads, float(step.pad_value))
    if step.requant is not None:
        x = x if size * 2**16 < EXACT else x.double()  # no integer has more than 16 bits
        sums = functional.avg_pool2d(x, step.kernel, step.strides, divisor_override=1)
        if step.exclude_pads and step.edge_rounding is None:
            sums = round_half_away(sums.float() / counts * step.kernel[0] * step.kernel[1])
        return _edges(step, requantize(sums, step.requant), size_of_input)
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
    mean = total / counts
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
    scale, bias = (torch.as_tensor(n, device=x.device).view(-1) for n in (step.scale, step.bias))
    return requantize(x, step.requant, scale=scale, bias=bias)


def _float_scale(step: FloatScale, x: torch.Tensor) -> torch.Tensor:
    scale = torch.as_tensor(step.scale, device=x.device).view(1, -1, 1, 1)
    bias = torch.as_tensor(step.bias, device=x.device).view(1, -1, 1, 1)
    result = x * scale + bias
    return result.relu() if step.relu else result


def _lookup(step: Lookup, x: torch.Tensor) -> torch.Tensor:
    table = torch.as_tensor(step.table, device=x.device).float()
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
    return requantize(product, step.requant, -1)


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
            return sequential_sum(values)[..., None] / torch.tensor(float(count), device=x.device)
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


def images_together(graph: Graph, device: torch.device) -> int:
    """Images that run together, a multiple of the graph's batch."""
    if device.type == "cpu":
        return -(-CHUNK // graph.batch) * graph.batch
    largest = max(math.prod(kind.shape) for kind in graph.types.values())
    return max(1, DEVICE_VALUES // largest) * graph.batch


def _placed(step: Step, device: torch.device) -> Step:
    """The step with its constants on the device, where the functions above find them."""
    held: dict[str, Any] = {field.name: getattr(step, field.name) for field in fields(step)}
    placed: dict[str, Any] = {
        name: _placed_requant(value, device)
        if isinstance(value, Requant)
        else torch.as_tensor(value, device=device)
        for name, value in held.items()
        if isinstance(value, np.ndarray | Requant)
    }
    if isinstance(step, Convolution):
        placed["weight"] = _weight(step, device)
    return replace(step, **placed)


def sent(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An input on the device, copied while that computes."""
    tensor = torch.as_tensor(array)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


class TorchExecutor:
    """Runs the steps of a graph on a torch device."""

    def __init__(
        self,
        graph: Graph,
        steps: tuple[Step, ...],
        device: str = "cpu",
        threads: int | None = None,
    ):
        self.graph, self.threads = graph, threads
        try:
            self.device = torch.device(device)
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise EngineError(f"torch has no device {device!r} here: {error}") from error
        self.steps = tuple(_placed(step, self.device) for step in steps)

    def run(self, inputs: Arrays, keep: Iterable[str]) -> dict[str, np.ndarray]:
        """Stored values (float32) of the tensors in ``keep``.

        ``inputs`` is ``[N, ...]`` with N a multiple of the graph's batch, by name where the graph
        has several. Compiled batches follow one another along the first axis.
        """
        keep, inputs = set(keep), self.graph.named(inputs)
        count = len(inputs[self.graph.input])
        chunk = images_together(self.graph, self.device)
        before = torch.get_num_threads()
        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode(), tf32(False, self.device):
                parts = [
                    self._run_chunk({n: x[start : start + chunk] for n, x in inputs.items()}, keep)
                    for start in range(0, count, chunk)
                ]
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)  # until here results are on their way
        finally:
            torch.set_num_threads(before)
        return {name: np.concatenate([part[name].numpy() for part in parts]) for name in keep}

    def _run_chunk(self, inputs: dict[str, np.ndarray], keep: set[str]) -> dict[str, torch.Tensor]:
        runs = len(inputs[self.graph.input]) // self.graph.batch
        last_use = {name: i for i, step in enumerate(self.steps) for name in step.inputs}
        values: dict[str, torch.Tensor] = {}
        kept: dict[str, torch.Tensor] = {}
        for position, step in enumerate(self.steps):
            if isinstance(step, Input):
                value = sent(inputs[step.name], self.device).float()
            else:
                operands = [values[n] for n in step.inputs]
                value = execute(step, operands, self.graph, runs).to(self.device)
            values[step.name] = value
            if step.name in keep:
                kept[step.name] = value.to("cpu", non_blocking=True)
            for name in step.inputs:
                if last_use[name] == position:
                    values.pop(name, None)
        return kept
