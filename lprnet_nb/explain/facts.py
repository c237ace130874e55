"""What is wrong with a layer: its range, its grid, its error, and what shares them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..language import phrase
from ..runtime.emulator.arithmetic import Add, Multiply
from ..runtime.emulator.convolution import Convolution, MatMul
from ..runtime.emulator.graph import TensorType
from ..runtime.emulator.pooling import AveragePool
from ..runtime.emulator.tables import Lookup
from ..runtime.pair import CASTS, Layer, Pair, Value

# A layer's peak that leaves more than half its levels unused: a bit is lost.
HALF = 0.5
UNEVEN = 4.0  # ranges that share a scale and lie two bits apart
FEW_LEVELS = 32  # five bits
ROUGH = 0.003  # error of a ratio that a result of 8 bits begins to show
MOST = 0.5  # a part of a layer's error that counts as its reason


@dataclass
class Seen:
    """What was seen of a layer over images: sums of squares, and peaks by channel.

    ``signal`` of the float result, ``error`` of the whole INT8 network here, ``own`` of the layer
    alone, ``fine`` of its weights alone, ``cut`` of its own where values lie beyond the grid;
    ``beyond`` counts these, ``count`` all.
    """

    signal: float = 0.0
    error: float = 0.0
    own: float = 0.0
    fine: float = 0.0
    cut: float = 0.0
    beyond: int = 0
    count: int = 0
    peaks: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def add(self, layer: Layer, exact: Value, int8: Value, own: Value, fine: torch.Tensor) -> None:
        """Count some images in."""
        reference, kind = exact.real.double(), layer.type
        change = (own.real - exact.real).double()
        self.signal += _square(reference)
        self.error += _square(int8.real - exact.real)
        self.own += _square(change)
        self.fine += _square(fine)
        self.count += reference.numel()
        if kind.is_quantized and kind.scale is not None:
            low, high = ((limit - kind.zero) * kind.scale for limit in kind.limits)
            half = kind.scale / 2
            beyond = (reference > high + half) | (reference < low - half)
            self.beyond += int(beyond.sum())
            self.cut += _square(change[beyond])
        peaks = peaks_of(reference)
        self.peaks = np.maximum(self.peaks, peaks) if self.peaks.size == peaks.size else peaks


def _square(values: torch.Tensor) -> float:
    return float(values.double().square().sum())


def peaks_of(values: torch.Tensor) -> np.ndarray:
    """Largest magnitude of each channel, float64 ``[C]``."""
    channels = values.shape[1] if values.ndim > 1 else 1
    flat = values.reshape(len(values), channels, -1).abs().amax((0, 2))
    return flat.double().numpy()


def reach(kind: TensorType) -> float:
    """The largest real value that a quantized type has."""
    low, high = kind.limits
    return max(high - kind.zero, kind.zero - low) * (kind.scale or 1.0)


@dataclass(frozen=True)
class Group:
    """Layers whose values lie on one scale.

    Between them values only move, or go one by one through a table onto the scale that they had:
    the compiler hands the scale of a concatenation back through these. ``makers`` compute what lies
    on it, ``readers`` are outside, ``exits`` are the members that something computes with, and for
    each of their channels and for each maker the number of its channel, from 1, that comes out
    there, or 0.
    """

    members: tuple[str, ...]
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    exits: Mapping[str, Mapping[str, np.ndarray]]


def groups(pair: Pair) -> dict[str, Group]:
    """The group of each layer whose result is quantized."""
    layers = pair.layers
    parent = {name: name for name, layer in layers.items() if layer.type.is_quantized}

    def top(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for name, layer in layers.items():
        one_by_one = layer.moves or isinstance(layer.step, Lookup)
        for source in layer.sources if one_by_one and name in parent else ():
            if source in parent and _same(layers[source].type, layer.type):
                parent[top(name)] = top(source)
    together: dict[str, list[str]] = {}
    for name in parent:
        together.setdefault(top(name), []).append(name)
    return {
        name: group
        for members in together.values()
        for group in [_group(pair, members)]
        for name in members
    }


def _same(a: TensorType, b: TensorType) -> bool:
    return (a.storage, a.scale, a.zero_point) == (b.storage, b.scale, b.zero_point)


def _group(pair: Pair, members: Sequence[str]) -> Group:
    layers, inside = pair.layers, set(members)
    makers = tuple(m for m in members if not (layers[m].moves and set(layers[m].sources) & inside))
    computing = [n for n in layers if n not in inside or n in makers]
    readers = tuple(n for n in computing if n not in inside and set(layers[n].sources) & inside)
    read = {s for n in computing for s in layers[n].sources} & inside
    ends = [m for m in members if m in read or m == pair.output]
    exits: dict[str, dict[str, np.ndarray]] = {end: {} for end in ends}
    for maker in makers:
        for end, numbers in _channels(pair, maker, members).items():
            if end in exits:
                exits[end][maker] = numbers
    return Group(tuple(members), makers, readers, exits)


def _channels(pair: Pair, maker: str, members: Sequence[str]) -> dict[str, np.ndarray]:
    """Which of a maker's channels comes out at each channel of members, by sending numbers."""
    kind = pair.layers[maker].type
    if len(kind.shape) < 2:
        return {}
    numbers = torch.arange(1, kind.shape[1] + 1, dtype=torch.float32)
    sent = numbers.reshape(1, -1, *[1] * (len(kind.shape) - 2)).expand(kind.shape).contiguous()
    values = {maker: sent}
    with torch.inference_mode():
        for name in members:
            layer = pair.layers[name]
            if name == maker or not layer.moves or not set(layer.sources) & values.keys():
                continue
            operands = {
                s: values.get(s, torch.zeros(pair.layers[s].type.shape)) for s in layer.sources
            }
            values[name] = pair.quantized_steps(layer, operands)
    return {name: peaks_of(value).astype(int) for name, value in values.items()}


def reasons(
    pair: Pair, layer: Layer, seen: Seen, group: Group | None, all_seen: Mapping[str, Seen]
) -> list[dict[str, Any]]:
    """Why a layer loses: ``{"kind", "said"}`` and figures, what weighs most first."""
    return [
        *_of_grid(layer, seen),
        *(_of_group(pair, layer, group, all_seen) if group else ()),
        *_of_ratio(pair, layer),
        *_of_weights(layer, seen),
    ]


def _of_grid(layer: Layer, seen: Seen) -> Iterator[dict[str, Any]]:
    kind = layer.type
    if not kind.is_quantized or kind.scale is None:
        return
    steps = seen.peaks / kind.scale
    most = kind.limits[1] - kind.zero
    alive = np.minimum(steps[steps > HALF], most)
    if seen.cut > MOST * seen.own > 0:
        yield {
            "kind": "saturation",
            "share": seen.beyond / seen.count,
            "said": phrase(
                "{share:.2g} % of its values lie beyond its largest ({reach:.3g}; they reach "
                "{peak:.3g}), and are most of its error",
                share=100 * seen.beyond / seen.count,
                reach=reach(kind),
                peak=seen.peaks.max(),
            ),
        }
    elif len(alive) and alive.max() < HALF * most:
        yield {
            "kind": "wide threshold",
            "levels": float(alive.max()),
            "said": phrase(
                "its values use {levels:.0f} of {most} levels: its threshold is {times:.1f} times "
                "what they reach",
                levels=alive.max(),
                most=most,
                times=reach(kind) / seen.peaks.max(),
            ),
        }
    if len(alive) > 1 and alive.max() >= HALF * most:
        middle = float(np.median(alive))
        if middle < FEW_LEVELS:
            wide = int((alive >= HALF * alive.max()).sum())
            yield {
                "kind": "few channels set the scale",
                "levels": middle,
                "said": phrase(
                    "{wide} of {alive} live channels reach half of the range; the middle one has "
                    "{levels:.0f} of {most} levels",
                    wide=wide,
                    alive=len(alive),
                    levels=middle,
                    most=most,
                ),
            }


def _of_group(
    pair: Pair, layer: Layer, group: Group, seen: Mapping[str, Seen]
) -> Iterator[dict[str, Any]]:
    most = layer.type.limits[1] - layer.type.zero
    scale = layer.type.scale or 1.0
    for end, kept in dropped(group, layer):
        levels = min(seen[layer.name].peaks[kept].max() / scale, most)
        if levels < HALF * most:
            yield {
                "kind": "dropped channels set the scale",
                "at": end,
                "kept": int(kept.sum()),
                "levels": float(levels),
                "said": phrase(
                    "{end!r} keeps {kept} of {all} channels; these have {levels:.0f} of {most} "
                    "levels, because the others set the scale",
                    end=end,
                    kept=kept.sum(),
                    all=len(kept),
                    levels=levels,
                    most=most,
                ),
            }
    ranges = {maker: float(seen[maker].peaks.max()) for maker in group.makers}
    if len(ranges) > 1 and ranges[layer.name if layer.name in ranges else group.makers[0]] > 0:
        widest = max(ranges, key=lambda name: ranges[name])
        own = ranges.get(layer.name)
        if own and ranges[widest] / own >= UNEVEN:
            yield {
                "kind": "joined with wider ones",
                "levels": own / scale,
                "said": phrase(
                    "it shares a scale with {widest!r}, which reaches {times:.0f} times as far; it "
                    "has {levels:.0f} of {most} levels",
                    widest=widest,
                    times=ranges[widest] / own,
                    levels=own / scale,
                    most=most,
                ),
            }


def dropped(group: Group, maker: Layer) -> list[tuple[str, np.ndarray]]:
    """Members that hold only some of a maker's channels, where it has others; the first of each."""
    found: dict[bytes, tuple[str, np.ndarray]] = {}
    for end, of_makers in group.exits.items():
        if maker.name not in of_makers:
            continue
        kept = np.isin(np.arange(1, maker.type.shape[1] + 1), of_makers[maker.name])
        if kept.any() and not kept.all():
            found.setdefault(kept.tobytes(), (end, kept))
    return list(found.values())


def _of_ratio(pair: Pair, layer: Layer) -> Iterator[dict[str, Any]]:
    error, bits = ratio_error(pair, layer)
    if error > ROUGH:
        yield {
            "kind": "rough requantization",
            "ratio_error": error,
            "bits": bits,
            "said": phrase(
                "its multiplier has {bits} bits, which makes its result {share:.2g} % too large or "
                "too small",
                bits=bits,
                share=100 * error,
            ),
        }


def ratio_error(pair: Pair, layer: Layer) -> tuple[float, int]:
    """How far a layer's multiplier and shift are from the ratio of its scales, and its bits.

    0 and 0 where the scales alone do not say the ratio: weights have scales of their own.
    """
    step, types = layer.step, pair.quantized.types
    scales = [types[name].scale or 0.0 for name in step.inputs if name in types]
    if not layer.type.scale or not all(scales) or isinstance(step, CASTS):
        return 0.0, 0
    pairs: list[tuple[int, int, float]] = []
    if isinstance(step, Add):
        pairs = [
            (m, s, scale / layer.type.scale)
            for m, s, scale in zip(step.multipliers, step.shifts, scales)
        ]
    elif isinstance(step, Multiply) and step.requant and len(scales) == 2:
        pairs = [(*_first(step.requant), scales[0] * scales[1] / layer.type.scale)]
    elif isinstance(step, AveragePool) and step.requant:
        ratio = scales[0] / layer.type.scale / (step.kernel[0] * step.kernel[1])
        pairs = [(*_first(step.requant), ratio)]
    if not pairs:
        return 0.0, 0
    errors = [(abs(m / 2.0**s / ratio - 1), int(m).bit_length()) for m, s, ratio in pairs]
    return max(errors)


def _first(requant: Any) -> tuple[int, int]:
    return int(requant.multiplier[0]), int(requant.shift[0])


def _of_weights(layer: Layer, seen: Seen) -> Iterator[dict[str, Any]]:
    if isinstance(layer.step, Convolution | MatMul) and seen.own > 0:
        share = min(seen.fine / seen.own, 1.0)
        if share > MOST:
            yield {
                "kind": "weights",
                "share": share,
                "said": phrase(
                    "{share:.0f} % of its own error is there before its result is rounded: it is "
                    "its weights'",
                    share=100 * share,
                ),
            }
