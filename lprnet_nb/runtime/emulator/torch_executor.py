"""The steps in PyTorch, written for clarity: the definition that the fast executor is held to.

It keeps every layer, runs on any device, and is the path that serves CUDA. Integers live in
float32 tensors (as in the vendor's interpreter), convolutions of integers run in float64 (sums are
exact up to 2**53) and requantization in int64, so no width argument is needed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as functional

from lprnet_nb.errors import EngineError
from lprnet_nb.runtime.emulator import lower as l
from lprnet_nb.runtime.emulator.graph import Graph

# Images that run together, rounded up to a multiple of the graph's batch.
CHUNK = 32
DEVICE_CHUNK = 256


def right_shift(values: torch.Tensor, shift: torch.Tensor, rounding: str) -> torch.Tensor:
    """``values / 2**shift`` rounded; int64 in, int64 out; a negative shift is a left shift."""
    right = shift.clamp(min=0)
    if rounding == l.HALF_UP:
        # At shift 0 nothing is added: 1 << 0 >> 1 is 0.
        values = values + (torch.ones_like(right) << right >> 1)
    elif rounding != l.DOWN:
        raise AssertionError(rounding)
    return (values >> right) << (-shift).clamp(min=0)


def requantize(values: torch.Tensor, requant: l.Requant) -> torch.Tensor:
    """int64 ``[N, C, H, W]`` to the stored result, as float32."""
    device = values.device
    multiplier = torch.as_tensor(requant.multiplier, device=device).view(1, -1, 1, 1)
    shift = torch.as_tensor(requant.shift, device=device).view(1, -1, 1, 1)
    values = values * multiplier
    if requant.before:
        values = values.clamp(*requant.before)
    values = right_shift(values, shift, requant.rounding) + requant.zero_point
    return values.clamp(requant.low, requant.high).float()


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


def sequential_sum(values: torch.Tensor) -> torch.Tensor:
    """Strictly sequential float32 sum over the last axis (see `lower.Mean`).

    torch's own ``cumsum`` accumulates in float64 on the CPU; numpy's accumulates in float32, one
    element after the other.
    """
    array = np.ascontiguousarray(values.cpu().numpy())
    total = np.add.accumulate(array, axis=-1, dtype=np.float32)[..., -1]
    return torch.from_numpy(np.ascontiguousarray(total)).to(values.device)


def lane_sum(values: torch.Tensor, lanes: int, coefficient: float, storage: str) -> torch.Tensor:
    """A chip's sum over the last axis, times a coefficient (see `lower.Mean`)."""
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


def reciprocal(values: torch.Tensor) -> torch.Tensor:
    """A chip's 1/x for positive float32 (see `lower.Divide`)."""
    root = (0x5F3759DF - (values.view(torch.int32) >> 1)).view(torch.float32)
    half = values * 0.5
    for _ in range(3):
        root = root * (1.5 - half * root * root)
    return root * root


def _convolution(step: l.Convolution, x: torch.Tensor) -> torch.Tensor:
    top, left, bottom, right = step.pads
    x = functional.pad(x, (left, right, top, bottom), value=float(step.pad_value))
    weight = torch.as_tensor(step.weight, device=x.device)
    bias = None if step.bias is None else torch.as_tensor(step.bias, device=x.device)
    geometry = {"stride": step.strides, "dilation": step.dilations}
    if step.requant is None:
        result = functional.conv2d(x, weight.float(), bias, **geometry)
        return round_storage(result.relu() if step.relu else result, step.type.storage)
    sums = functional.conv2d(x.double(), weight.double(), **geometry).round().long()
    if bias is not None:
        sums = sums + bias.long().view(1, -1, 1, 1)
    return requantize(sums, step.requant)


def _average_pool(step: l.AveragePool, x: torch.Tensor) -> torch.Tensor:
    count = step.kernel[0] * step.kernel[1]
    if step.requant is not None:
        sums = functional.avg_pool2d(x.double(), step.kernel, step.strides, divisor_override=1)
        return requantize(sums.round().long(), step.requant)
    # Sums in the window's memory order, as a window loop does it.
    rows, columns = step.kernel
    windows = x.unfold(2, rows, step.strides[0]).unfold(3, columns, step.strides[1])
    windows = windows.reshape(*windows.shape[:4], count)
    total = windows[..., 0]
    for index in range(1, count):
        total = total + windows[..., index]
    mean = total / count
    if step.affine is None:
        return round_storage(mean, step.type.storage)
    scale, offset = step.affine
    value = ((mean * rows * columns).double() * scale + offset).float()
    return round_half_away(value).clamp(*step.type.limits)


def _channel_scale(step: l.ChannelScale, x: torch.Tensor) -> torch.Tensor:
    scale = torch.as_tensor(step.scale, device=x.device).view(1, -1, 1, 1)
    bias = torch.as_tensor(step.bias, device=x.device).view(1, -1, 1, 1)
    return requantize(x.long() * scale + bias, step.requant)


def _float_scale(step: l.FloatScale, x: torch.Tensor) -> torch.Tensor:
    scale = torch.as_tensor(step.scale, device=x.device).view(1, -1, 1, 1)
    bias = torch.as_tensor(step.bias, device=x.device).view(1, -1, 1, 1)
    result = x * scale + bias
    return result.relu() if step.relu else result


def _lookup(step: l.Lookup, x: torch.Tensor) -> torch.Tensor:
    table = torch.as_tensor(step.table.astype(np.float32), device=x.device)
    return table[x.long() & 255]


def _pair(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two operands with equal first dimension: one per image, however they were kept.

    A mean over a whole compiled batch has one entry for several images.
    """
    if len(a) < len(b):
        a = a.repeat_interleave(len(b) // len(a), dim=0)
    elif len(b) < len(a):
        b = b.repeat_interleave(len(a) // len(b), dim=0)
    return a, b


def _multiply(step: l.Multiply, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = _pair(a, b)
    if step.requant is None:
        return round_storage(a * b, step.type.storage)
    product = (a - step.zero_points[0]).long() * (b - step.zero_points[1]).long()
    return requantize(product, step.requant)


def _mean(step: l.Mean, x: torch.Tensor, batch: int) -> torch.Tensor:
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
    if step.by_plane:
        planes = flat.unflatten(-1, (-1, shape[-1] * shape[-2]))
        sums = lane_sum(planes, step.lanes, 1.0, step.type.storage)
        result = lane_sum(sums, step.lanes, 1.0, step.type.storage) * coefficient
    elif step.groups > 1:
        groups = flat.unflatten(-1, (step.groups, -1))
        means = lane_sum(groups, step.lanes, step.coefficient, step.type.storage)
        result = _even_and_odd(means, step.across, step.type.storage)
    elif step.lanes:
        result = lane_sum(flat, step.lanes, step.coefficient, step.type.storage)
    else:
        result = sequential_sum(flat) * coefficient
    if step.keep_dims:
        result = result.reshape(*outer, *[1] * len(axes), *inner)
    return round_storage(result, step.type.storage)


def _quantize(step: l.Quantize, x: torch.Tensor) -> torch.Tensor:
    scaled = x * torch.tensor(step.inverse_scale, dtype=torch.float32)
    whole = round_half_away(round_storage(scaled, step.expressed))
    return (whole + step.type.zero_point).clamp(*step.type.limits)


def _slice(step: l.Slice, x: torch.Tensor) -> torch.Tensor:
    index = tuple(
        slice(offset, offset + (size - 1) * stride + 1, stride)
        for offset, stride, size in zip(step.offset[1:], step.steps[1:], step.type.shape[1:])
    )
    return x[(slice(None), *index)]


def execute(step: l.Step, inputs: list[torch.Tensor], batch: int) -> torch.Tensor:
    """Run one step."""
    if isinstance(step, l.Convolution):
        return _convolution(step, *inputs)
    if isinstance(step, l.MaxPool):
        return functional.max_pool2d(inputs[0], step.kernel, step.strides)
    if isinstance(step, l.AveragePool):
        return _average_pool(step, *inputs)
    if isinstance(step, l.ChannelScale):
        return _channel_scale(step, *inputs)
    if isinstance(step, l.FloatScale):
        return _float_scale(step, *inputs)
    if isinstance(step, l.Lookup):
        return _lookup(step, *inputs)
    if isinstance(step, l.Multiply):
        return _multiply(step, *inputs)
    if isinstance(step, l.Divide):
        a, b = _pair(*inputs)
        if step.reciprocal:
            return a * reciprocal(b)
        return round_storage(a / b, step.type.storage)
    if isinstance(step, l.Mean):
        return _mean(step, inputs[0], batch)
    if isinstance(step, l.Quantize):
        return _quantize(step, *inputs)
    if isinstance(step, l.Dequantize):
        centred = round_storage(inputs[0] - step.zero_point, step.type.storage)
        product = centred * torch.tensor(step.scale, dtype=torch.float32)
        return round_storage(product, step.type.storage)
    if isinstance(step, l.FloatCast):
        return round_storage(inputs[0], step.type.storage)
    if isinstance(step, l.Concat):
        return torch.cat(inputs, dim=step.axis)
    if isinstance(step, l.Slice):
        return _slice(step, *inputs)
    raise AssertionError(type(step))


class TorchExecutor:
    """Runs the steps of a graph on a torch device."""

    def __init__(
        self,
        graph: Graph,
        steps: tuple[l.Step, ...],
        device: str = "cpu",
        threads: int | None = None,
    ):
        self.graph, self.steps, self.threads = graph, steps, threads
        try:
            self.device = torch.device(device)
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise EngineError(f"torch has no device {device!r} here: {error}") from error

    def run(self, inputs: np.ndarray, keep: Iterable[str]) -> dict[str, np.ndarray]:
        """Stored values (float32) of the tensors in ``keep``.

        ``inputs`` is ``[N, ...]`` with N a multiple of the graph's batch.
        """
        keep = set(keep)
        images = CHUNK if self.device.type == "cpu" else DEVICE_CHUNK
        chunk = -(-images // self.graph.batch) * self.graph.batch
        before = torch.get_num_threads()
        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            parts = [
                self._run_chunk(inputs[start : start + chunk], keep)
                for start in range(0, len(inputs), chunk)
            ]
        finally:
            torch.set_num_threads(before)
        return {name: np.concatenate([part[name] for part in parts]) for name in keep}

    def _run_chunk(self, inputs: np.ndarray, keep: set[str]) -> dict[str, np.ndarray]:
        last_use = {name: i for i, step in enumerate(self.steps) for name in step.inputs}
        values: dict[str, torch.Tensor] = {}
        kept: dict[str, np.ndarray] = {}
        with torch.inference_mode():
            for position, step in enumerate(self.steps):
                if isinstance(step, l.Input):
                    value = torch.as_tensor(inputs, device=self.device).float()
                else:
                    value = execute(step, [values[n] for n in step.inputs], self.graph.batch)
                values[step.name] = value
                if step.name in keep:
                    kept[step.name] = value.cpu().numpy()
                for name in step.inputs:
                    if last_use[name] == position:
                        values.pop(name, None)
        return kept
