"""What may help a layer, as trials on a pair of graphs: nothing is compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.emulator.convolution import Convolution
from ..runtime.emulator.tables import FloatUnary
from .facts import Group, Seen, dropped, reach
from .pair import Layer, Pair, Trial

THRESHOLDS = (0.25, 0.35, 0.5, 0.7, 0.85, 1.2, 1.4, 2.0, 2.8, 4.0)  # times what it is
OWN_SCALES = (
    1.0,
    0.85,
    0.7,
    0.5,
)  # thresholds of channels with a scale of their own, of their peak
LEAST = 1 / 64  # the smallest factor between channels that equalization makes
MOST_WEIGHT = 127


@dataclass(frozen=True)
class Cure:
    """Something to try, and the trials that show what it brings; the best of them counts.

    ``kind`` is "threshold", "float", "fork", "split" or "equalize"; ``said`` what to do, one text
    for each of ``trials``.
    """

    kind: str
    said: tuple[str, ...]
    trials: tuple[Trial, ...]


def cures(
    pair: Pair, layer: Layer, group: Group | None, seen: Mapping[str, Seen]
) -> Iterator[Cure]:
    """What may help a layer."""
    if group is None:
        yield _in_float([layer.name], [])
        return
    yield from _threshold(pair, layer, group, seen)
    yield _in_float(
        group.makers if layer.name in group.makers else [layer.name], group.readers, group.members
    )
    yield from _fork(pair, group, seen)
    yield from _split(pair, group, seen)
    yield from _equalize(pair, group, seen)


def _threshold(pair: Pair, layer: Layer, group: Group, seen: Mapping[str, Seen]) -> Iterator[Cure]:
    threshold = reach(layer.type)
    peak = max(float(seen[maker].peaks.max()) for maker in group.makers)
    wanted = sorted({*THRESHOLDS, *([peak / threshold] if peak else [])} - {1.0})
    texts = tuple(
        f"threshold {factor * threshold:.4g} in place of {threshold:.4g}" for factor in wanted
    )
    scale = layer.type.scale or 1.0
    trials = tuple(Trial(grids=dict.fromkeys(group.makers, factor * scale)) for factor in wanted)
    yield Cure("threshold", texts, trials)


def _in_float(makers: Sequence[str], readers: Sequence[str], members: Sequence[str] = ()) -> Cure:
    """Alone a layer in float still has its result put on its grid for whoever reads it in INT8."""
    alone = ", ".join(map(repr, makers))
    texts, trials = [f"{alone} in float"], [Trial(in_float=frozenset(makers))]
    if readers:
        texts.append(f"{alone} and {', '.join(map(repr, readers))}, which read it, in float")
        trials.append(Trial(in_float=frozenset({*makers, *members, *readers})))
    return Cure("float", tuple(texts), tuple(trials))


def _fork(pair: Pair, group: Group, seen: Mapping[str, Seen]) -> Iterator[Cure]:
    """Channels that a slice or pool keeps, by a convolution and so on a scale of their own."""
    for maker in group.makers:
        kind = pair.layers[maker].type
        for end, kept in dropped(group, maker):
            peak = float(seen[maker].peaks[kept].max())
            if not 0 < peak < reach(kind):
                continue
            texts, trials = [], []
            for factor in OWN_SCALES:
                grid = np.full(len(kept), kind.scale or 1.0)
                grid[kept] *= factor * peak / reach(kind)
                texts.append(
                    f"the {kept.sum()} channels of {maker!r} that {end!r} keeps by a convolution "
                    f"of their own, threshold {factor * peak:.4g} in place of {reach(kind):.4g}"
                )
                trials.append(Trial(grids={maker: grid}))
            yield Cure("fork", tuple(texts), tuple(trials))


def _split(pair: Pair, group: Group, seen: Mapping[str, Seen]) -> Iterator[Cure]:
    """Each part of a concatenation on its own scale: its readers split into one for each part."""
    if len(group.makers) < 2:
        return
    texts, trials = [], []
    for factor in OWN_SCALES:
        grids = {
            maker: (pair.layers[maker].type.scale or 1.0)
            * factor
            * float(seen[maker].peaks.max())
            / reach(pair.layers[maker].type)
            for maker in group.makers
            if seen[maker].peaks.max() > 0
        }
        texts.append(
            f"{', '.join(map(repr, group.readers))} split into one convolution for each of "
            f"{', '.join(map(repr, group.makers))}, each with the threshold {factor:g} of its peak"
        )
        trials.append(Trial(grids=grids))
    yield Cure("split", tuple(texts), tuple(trials))


def _equalize(pair: Pair, group: Group, seen: Mapping[str, Seen]) -> Iterator[Cure]:
    """Channels scaled up to one range, the weights that read them down (arXiv 1906.04721)."""
    if len(group.makers) != 1 or not group.readers:
        return
    maker = pair.layers[group.makers[0]]
    readers = [pair.layers[name] for name in group.readers]
    if not isinstance(maker.step, Convolution) or not all(map(_takes, readers)):
        return
    if any(not of[maker.name].all() for of in group.exits.values() if maker.name in of):
        return  # channels that not all of the readers have: a fork, not this
    if any(pair.layers[name].type.shape[1] != maker.type.shape[1] for name in group.exits):
        return
    peaks = seen[maker.name].peaks
    factors = np.clip(peaks / max(peaks.max(), 1e-30), LEAST, 1)  # the least for dead ones
    weights = {reader.name: _equalized(reader.floating[-1].weight, factors) for reader in readers}  # type: ignore[attr-defined]
    scale = maker.type.scale or 1.0
    yield Cure(
        "equalize",
        (
            f"weights of {maker.name!r} and of {', '.join(map(repr, group.readers))} equalized, "
            "channel by channel",
        ),
        (Trial(grids={maker.name: scale * factors}, weights=weights),),
    )


def _takes(reader: Layer) -> bool:
    """Whether a layer is a plain convolution in both graphs, whose weights can be scaled."""
    floating = reader.floating[-1] if reader.floating else None
    return (
        isinstance(reader.step, Convolution)
        and isinstance(floating, Convolution)
        and floating.group == 1
        and reader.type.is_quantized
        and not any(isinstance(step, FloatUnary) for step in reader.floating)
    )


def _equalized(weight: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Weights after ``w * factor`` was rounded to 8 bits for each output channel."""
    by_input = factors.reshape(1, -1, *[1] * (weight.ndim - 2))
    scaled = weight * by_input
    steps = np.abs(scaled).reshape(len(weight), -1).max(1) / MOST_WEIGHT
    steps = np.where(steps > 0, steps, 1).reshape(-1, *[1] * (weight.ndim - 1))
    return (np.rint(scaled / steps) * steps / by_input).astype(np.float32)
