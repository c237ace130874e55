"""What may help a layer, as trials on a pair of graphs: nothing is compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..language import phrase
from ..runtime.emulator.convolution import Convolution
from ..runtime.pair import Layer, Pair, Trial
from .facts import Group, Seen, dropped, reach

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
        phrase("threshold {new:.4g} in place of {old:.4g}", new=factor * threshold, old=threshold)
        for factor in wanted
    )
    scale = layer.type.scale or 1.0
    trials = tuple(Trial(grids=dict.fromkeys(group.makers, factor * scale)) for factor in wanted)
    yield Cure("threshold", texts, trials)


def _in_float(makers: Sequence[str], readers: Sequence[str], members: Sequence[str] = ()) -> Cure:
    """Alone a layer in float still has its result put on its grid for whoever reads it in INT8."""
    alone = ", ".join(map(repr, makers))
    texts, trials = [phrase("{layers} in float", layers=alone)], [Trial(in_float=frozenset(makers))]
    if readers:
        texts.append(
            phrase(
                "{layers} and {readers}, which read it, in float",
                layers=alone,
                readers=", ".join(map(repr, readers)),
            )
        )
        trials.append(Trial(in_float=frozenset({*makers, *members, *readers})))
    return Cure("float", tuple(texts), tuple(trials))


def _fork(pair: Pair, group: Group, seen: Mapping[str, Seen]) -> Iterator[Cure]:
    """Channels that a slice or pool keeps, by a convolution and so on a scale of their own."""
    for maker in group.makers:
        kind = pair.layers[maker].type
        for end, kept in dropped(group, pair.layers[maker]):
            peak = float(seen[maker].peaks[kept].max())
            if not 0 < peak < reach(kind):
                continue
            texts, trials = [], []
            for factor in OWN_SCALES:
                grid = np.full(len(kept), kind.scale or 1.0)
                grid[kept] *= factor * peak / reach(kind)
                texts.append(
                    phrase(
                        "the {kept} channels of {maker!r} that {end!r} keeps by a convolution of "
                        "their own, threshold {new:.4g} in place of {old:.4g}",
                        kept=kept.sum(),
                        maker=maker,
                        end=end,
                        new=factor * peak,
                        old=reach(kind),
                    )
                )
                trials.append(Trial(grids={maker: grid}))
            yield Cure("fork", tuple(texts), tuple(trials))


def _split(pair: Pair, group: Group, seen: Mapping[str, Seen]) -> Iterator[Cure]:
    """Each part of a concatenation on its own scale: its readers split into one for each part."""
    layers = pair.layers
    joined = {end: makers for end, makers in group.exits.items() if len(makers) > 1}
    readers = [layers[n] for n in group.readers if joined.keys() & set(layers[n].sources)]
    if not readers:
        return
    weights = {}
    for reader in filter(_takes, readers):
        parts = joined[next(name for name in reader.sources if name in joined)]
        weights[reader.name] = _by_parts(weight_of(reader), list(parts.values()))
    texts, trials = [], []
    for factor in OWN_SCALES:
        peaks = {maker: factor * float(seen[maker].peaks.max()) for maker in group.makers}
        scales = {
            m: p / reach(layers[m].type) * (layers[m].type.scale or 1.0) for m, p in peaks.items()
        }
        texts.append(
            phrase(
                "{layers} split into a convolution for each part, thresholds {thresholds}",
                layers=named(readers),
                thresholds=", ".join(f"{maker!r} {peak:.4g}" for maker, peak in peaks.items()),
            )
        )
        grids = {maker: scale for maker, scale in scales.items() if scale > 0}
        trials.append(Trial(grids=grids, weights=weights))
    yield Cure("split", tuple(texts), tuple(trials))


def named(layers: Sequence[Layer]) -> str:
    """Names of layers in a text."""
    return ", ".join(repr(layer.name) for layer in layers)


def _equalize(pair: Pair, group: Group, seen: Mapping[str, Seen]) -> Iterator[Cure]:
    """Channels scaled up to one range, the weights that read them down (arXiv 1906.04721)."""
    readers = [pair.layers[name] for name in group.readers]
    if len(group.makers) != 1 or not readers or not all(map(_takes, readers)):
        return
    maker = pair.layers[group.makers[0]]
    if not isinstance(maker.step, Convolution) or dropped(group, maker):
        return  # channels that not all of the readers have ask for a fork
    peaks = seen[maker.name].peaks
    factors = np.clip(peaks / max(peaks.max(), 1e-30), LEAST, 1)  # the least for dead ones
    weights = {}
    for reader in readers:
        numbers = group.exits[next(s for s in reader.sources if s in group.exits)][maker.name]
        weights[reader.name] = _equalized(weight_of(reader), factors[numbers - 1])
    scale = maker.type.scale or 1.0
    yield Cure(
        "equalize",
        (
            phrase(
                "weights of {maker!r} and of {readers} equalized, channel by channel",
                maker=maker.name,
                readers=named(readers),
            ),
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
    )


def weight_of(layer: Layer) -> np.ndarray:
    """Float weights of a layer that `_takes`."""
    step = layer.floating[-1]
    assert isinstance(step, Convolution)
    return step.weight


def _by_parts(weight: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Weights rounded to 8 bits for each output channel and part of the input channels."""
    made = weight.copy()
    for numbers in parts:
        made[:, numbers > 0] = _rounded(weight[:, numbers > 0])
    return made


def _rounded(weight: np.ndarray) -> np.ndarray:
    """Weights rounded to 8 bits for each output channel, as real numbers."""
    steps = np.abs(weight).reshape(len(weight), -1).max(1) / MOST_WEIGHT
    steps = np.where(steps > 0, steps, 1).reshape(-1, *[1] * (weight.ndim - 1))
    return (np.rint(weight / steps) * steps).astype(np.float32)


def _equalized(weight: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Weights after ``w * factor``, a factor for each input channel, was rounded to 8 bits."""
    by_input = factors.reshape(1, -1, *[1] * (weight.ndim - 2))
    return (_rounded(weight * by_input) / by_input).astype(np.float32)
