"""Quantization-aware training: weights that are tuned on the compiler's own integers.

`QuantizedLPRNet` is the forked form all in INT8. It computes with the integers that the TPU
computes with: weights and activations are whole numbers (kept in float32, which is exact for sums
below 2**24), multiplied, shifted, rounded and clipped as the compiler lays down in the graph it
exports. Gradients pass a rounding as if it were not there and stop where a value is clipped
(straight-through, arXiv 1308.3432). The grid of the activations stays the calibrated one.

The published weights read few generated plates, so plate texts would pull them away from real
pictures. The tuned network learns from the float network with the same weights instead: its
distribution over the classes of every time step, on generated plates alone.

Rounding, checked against exported graphs weight by weight: weights half away from zero, by
``max |w| / 127`` of each output channel (BM1684X and later) or by one power of two a layer
(BM1684); results of layers ``floor(x + 1/2)``; the input half away from zero. On BM1684 a batch
norm is a layer of its own, with 8-bit factors, between two 8-bit tensors; elsewhere it is part of
the convolution before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..datasets.generate import ONE_ROW, stream_chunks
from ..datasets.generator.camera import Severity
from ..datasets.images import PlateImages, preprocess
from ..errors import ParameterError
from ..memory import keep_memory
from .lprnet.layers import BasicBlock, ChannelStridedMaxPool
from .weights import Weights

SMALLEST_STEP = 1e-5  # of a weight: the compiler's floor, which dead channels meet

# Integer tensors in the order in which the compiler lists those of the forked form. "*" marks a
# convolution with a batch norm: on BM1684 it has a tensor "name/conv" of its own before.
TENSORS: tuple[str, ...] = (
    "image",
    "first*",
    "block4.0",
    "block4.2",
    "block4.4",
    "all4*",
    "kept4*",
    "block8.0",
    "block8.2",
    "block8.4",
    "block8.6*",
    "block11.0",
    "block11.2",
    "block11.4",
    "all11*",
    "kept11*",
    "pool1",
    "pool2",
    "pool3",
    "neck*",
    "output*",
    "square1",
    "divided1",
    "square2",
    "divided2",
    "square3",
    "divided3",
    "square4",
    "divided4",
    "container",
)


@dataclass(frozen=True)
class Unit:
    """How the values of one tensor are stored.

    Parameters
    ----------
    step
        Value of one unit.
    low, high
        Smallest and largest stored integer.
    gain
        Of average pools and squares: what the sum or product of stored integers is multiplied with.
    shifts
        BM1684's convolutions and batch norms: bits that the sum is shifted by, ``[1]`` or one per
        channel.
    """

    step: float
    low: int
    high: int
    gain: float | None = None
    shifts: tuple[int, ...] | None = None


Grid = Mapping[str, Unit]
Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True)
class QatConfig:
    """What a fine-tuning depends on, besides weights and grid.

    Parameters
    ----------
    steps, batch
        Optimizer steps, and plates a step.
    learning_rate
        Of Adam, at the start; it falls to zero along half a cosine.
    temperature
        Both distributions are softened by it before they are compared.
    seed
        Of the generated plates.
    severity
        How hard they are.
    """

    steps: int = 30
    batch: int = 16
    learning_rate: float = 2e-4
    temperature: float = 16.0
    seed: int = 0
    severity: Severity = Severity()

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ParameterError(
                    f"fine-tuning: {name}={getattr(self, name)} must be at least 1."
                )
        for name in ("learning_rate", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ParameterError(f"fine-tuning: {name}={getattr(self, name)} must be above 0.")

    def key(self) -> dict:
        """All fields, JSON-able."""
        return asdict(self)


class _Requantize(torch.autograd.Function):
    """``clip(floor(x + 1/2), low, high)``; the gradient passes where nothing is clipped."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, low: float, high: float) -> torch.Tensor:
        ctx.save_for_backward(values)
        ctx.limits = low - 0.5, high + 0.5
        return (values + 0.5).floor_().clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        # One pass, where a mask of our own would take four.
        passed = torch.ops.aten.hardtanh_backward(gradient, *ctx.saved_tensors, *ctx.limits)
        return passed, None, None


class _Round(torch.autograd.Function):
    """Half away from zero, then clipped; the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return (torch.sign(values) * torch.floor(values.abs() + 0.5)).clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient, None, None


def requantize(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Round half up and clip, as layers do with their results; see `_Requantize` for gradients.

    >>> requantize(torch.tensor([-3.5, 0.49, 0.5, 300.0]), 0, 255).tolist()
    [0.0, 0.0, 1.0, 255.0]
    """
    return _Requantize.apply(values, low, high)


def round_away(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Round half away from zero and clip, as weights and the input are; the gradient passes.

    >>> round_away(torch.tensor([-1.5, -0.4, 0.5, 200.0]), -128, 127).int().tolist()
    [-2, 0, 1, 127]
    """
    return _Round.apply(values, low, high)


class QuantizedLPRNet(nn.Module):
    """The forked form all in INT8, differentiable.

    Parameters
    ----------
    weights
        Where to start; they are copied.
    grid
        `TENSORS` of the graph that a compiler made of these weights, without their "*"; for
        BM1684 also "name/conv" of each that has one.

    Notes
    -----
    `network` holds the float weights that are tuned. Means over a batch are per image.

    Raises
    ------
    ParameterError
        When the grid lacks a tensor.
    """

    def __init__(self, weights: Weights, grid: Grid) -> None:
        super().__init__()
        missing = [name.rstrip("*") for name in TENSORS if name.rstrip("*") not in grid]
        if missing:
            raise ParameterError(
                f"the quantization grid has no tensor {missing[0]!r}. Lower the "
                "forked form with every layer in INT8."
            )
        self.grid = grid
        self.network = weights.network("image")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map preprocessed images ``[N, 3, 24, 94]`` to logits ``[N, classes, 18]``."""
        layers, image = self.network.backbone, self.grid["image"]
        block4, block8, block11 = (_typed(layers[k], BasicBlock).block for k in (4, 8, 11))
        pool7, pool14 = (_typed(layers[k], ChannelStridedMaxPool) for k in (7, 14))
        x = round_away(images * float(np.float32(1 / image.step)), image.low, image.high)
        first = self._conv("first", "image", x, layers[0], layers[1])
        inner = self._inner("block4", "first", layers[3](first), block4)
        tail, norm = block4[6], layers[5]
        second = self._conv("all4", "block4.4", inner, tail, norm)
        x = self._conv("kept4", "block4.4", inner, tail, norm, pool7.step)
        inner = self._inner("block8", "kept4", pool7.pool(x), block8)
        x = self._conv("block8.6", "block8.4", inner, block8[6], layers[9])
        inner = self._inner("block11", "block8.6", x, block11)
        tail, norm = block11[6], layers[12]
        third = self._conv("all11", "block11.4", inner, tail, norm)
        x = self._conv("kept11", "block11.4", inner, tail, norm, pool14.step)
        x = self._conv("neck", "kept11", pool14.pool(x), layers[16], layers[17])
        fourth = self._conv("output", "neck", x, layers[20], layers[21])
        context = []
        for number, (source, kept) in enumerate(
            (("first", first), ("all4", second), ("all11", third), ("output", fourth)), 1
        ):
            if number < 4:
                source, kept = f"pool{number}", self._pool(number, kept)
            context.append(self._divided(number, source, kept))
        x = self._conv("container", "divided1", torch.cat(context, 1), self.network.container[0])
        return x.mean(2) * self.grid["container"].step

    def _inner(self, name: str, source: str, x: torch.Tensor, block: nn.Sequential) -> torch.Tensor:
        """A basic block but for its last convolution."""
        for place in (0, 2, 4):
            x = self._conv(f"{name}.{place}", source, x, block[place])
            source = f"{name}.{place}"
        return x

    def _conv(
        self,
        name: str,
        source: str,
        x: torch.Tensor,
        conv: nn.Module,
        norm: nn.Module | None = None,
        every: int = 1,
    ) -> torch.Tensor:
        """Convolution, batch norm and ReLU (the lower limit of the result) on integers.

        `every` keeps every so-manieth output channel alone.
        """
        conv = _typed(conv, nn.Conv2d)
        assert conv.bias is not None
        weight, bias = conv.weight[::every], conv.bias[::every]
        factor = offset = None
        if norm is not None:
            norm = _typed(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None and norm.running_var is not None
            factor = norm.weight[::every] * torch.rsqrt(norm.running_var[::every] + norm.eps)
            offset = norm.bias[::every] - norm.running_mean[::every] * factor
        step, unit = self.grid[source].step, self.grid[name]
        if f"{name}/conv" in self.grid:
            middle = self.grid[f"{name}/conv"]
            y = _shifted(x, step, middle, weight, bias, conv.padding)
            assert factor is not None and offset is not None  # it has a batch norm
            return _scaled(y, middle.step, unit, factor, offset)
        if unit.shifts is not None:
            return _shifted(x, step, unit, weight, bias, conv.padding)
        if factor is not None and offset is not None:
            weight, bias = weight * factor[:, None, None, None], bias * factor + offset
        size = (weight.detach().abs().amax((1, 2, 3)) / 127).clamp(min=SMALLEST_STEP)
        whole = round_away(weight / size[:, None, None, None], -128, 127)
        total = round_away(bias / (size * step), -(2**31), 2**31 - 1)
        sums = functional.conv2d(x, whole, total, padding=conv.padding)
        return requantize(sums * (size * (step / unit.step))[:, None, None], unit.low, unit.high)

    def _pool(self, number: int, x: torch.Tensor) -> torch.Tensor:
        unit = self.grid[f"pool{number}"]
        pool = _typed(self.network.context_pools[number - 1], nn.AvgPool2d)
        assert unit.gain is not None
        sums = functional.avg_pool2d(x, pool.kernel_size, pool.stride, divisor_override=1)
        return requantize(sums * unit.gain, unit.low, unit.high)

    def _divided(self, number: int, source: str, x: torch.Tensor) -> torch.Tensor:
        """A context map over the mean of its squares; squares are integers, the rest is float."""
        square, unit = self.grid[f"square{number}"], self.grid[f"divided{number}"]
        assert square.gain is not None
        mean = requantize(x * x * square.gain, square.low, square.high).mean((1, 2, 3), True)
        scale = self.grid[source].step / (square.step * unit.step)
        return requantize(x * scale / mean, unit.low, unit.high)


def _typed(module: nn.Module, kind: type[Layer]) -> Layer:
    """A layer of a `Sequential`, which tells no kinds."""
    assert isinstance(module, kind)
    return module


def _shifted(
    x: torch.Tensor,
    step: float,
    unit: Unit,
    weight: torch.Tensor,
    bias: torch.Tensor,
    padding: str | tuple[int, ...],
) -> torch.Tensor:
    """BM1684's convolution: one shift a layer, 16-bit biases."""
    assert unit.shifts is not None
    size = 2.0 ** unit.shifts[0]
    whole = round_away(weight * (size * step / unit.step), -128, 127)
    total = round_away(bias * (size / unit.step), -32768, 32767)
    return requantize(
        functional.conv2d(x, whole, total, padding=padding) / size, unit.low, unit.high
    )


def _scaled(
    x: torch.Tensor, step: float, unit: Unit, factor: torch.Tensor, offset: torch.Tensor
) -> torch.Tensor:
    """BM1684's batch norm: 8-bit factors, one shift a channel, which rounds down.

    Half a unit lies in the offset, so that it rounds half up after all.
    """
    assert unit.shifts is not None
    size = torch.tensor([2.0**shift for shift in unit.shifts])
    whole = round_away(factor * size * (step / unit.step), -128, 127)
    total = round_away((offset / unit.step + 0.5) * size, -32768, 32767)
    sums = x * whole[:, None, None] + total[:, None, None]
    # 16 bits without a sign: the sum is clipped there first.
    sums = sums + (sums.clamp(0, 65535) - sums).detach()
    return requantize(sums / size[:, None, None] - 0.5, unit.low, unit.high)


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Mean over plates and time steps of KL(teacher || student), logits ``[N, classes, 18]``."""
    wanted = (teacher / temperature).log_softmax(1)
    found = (student / temperature).log_softmax(1)
    return (wanted.exp() * (wanted - found)).sum(1).mean() * temperature**2


def finetune(
    weights: Weights,
    grid: Grid,
    config: QatConfig = QatConfig(),
    *,
    report: Callable[[int, float], None] | None = None,
) -> Weights:
    """Tune weights so that the integer network says what the float network said.

    Parameters
    ----------
    weights
        Where to start, and the teacher.
    grid
        See `QuantizedLPRNet`.
    config
        The run; the same one gives the same weights.
    report
        Called with the number of each step that is done and its loss.

    Returns
    -------
    Weights
        Of the same names; the batch norms' statistics are left as they are.
    """
    keep_memory()
    teacher, student = weights.network("image"), QuantizedLPRNet(weights, grid)
    for network in (teacher, student):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's hints
    optimizer = torch.optim.Adam(student.parameters(), config.learning_rate, foreach=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    for step, images in zip(range(config.steps), _images(config)):
        images = images.to(memory_format=torch.channels_last)
        with torch.no_grad():
            wanted = teacher(images)
        loss = distillation_loss(student(images), wanted, config.temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if report is not None:
            report(step + 1, float(loss.detach()))
    state = {
        name: value.detach().contiguous().clone()
        for name, value in student.network.state_dict().items()
    }
    return Weights(f"{weights.name}-qat", state, weights.alphabet)


def _images(config: QatConfig) -> Iterator[torch.Tensor]:
    chunks = stream_chunks(
        config.seed, forms=ONE_ROW, severities={0: config.severity}, workers=0, size=config.batch
    )
    for chunk in chunks:
        yield torch.from_numpy(preprocess(chunk.images))


def quantized_logits(
    weights: Weights, grid: Grid, plates: PlateImages, *, batch: int = 32
) -> np.ndarray:
    """Logits of the integer network, float32 ``[N, classes, 18]``."""
    network = QuantizedLPRNet(weights, grid)
    with torch.inference_mode():
        return torch.cat(
            [network(part) for part in torch.from_numpy(preprocess(plates.images)).split(batch)]
        ).numpy()
