"""The whole explanation: every layer's cost at the output, its reasons, and what cures bring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ..errors import ParameterError
from ..evaluate.accuracy import correct
from ..evaluate.fidelity import sqnr_db
from ..progress import progress_bar
from ..runtime.emulator.graph import load_graph
from ..runtime.pair import Layer, Pair, Trial, Value
from .cures import Cure, cures
from .facts import Group, Seen, groups, reach, reasons
from .table import gain

VALUES = 2**27  # float32 that the two plain runs of one go of images may hold
TOP = 5
LEAST = 0.001  # part of the noise from which on a layer is looked at without its error
Item = TypeVar("Item")
Reader = Callable[[np.ndarray], Sequence[str]]


@dataclass
class Outputs:
    """Outputs of trials, gathered over goes of images."""

    parts: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, name: str, value: Value) -> None:
        self.parts.setdefault(name, []).append(value.real.numpy())

    def of(self, name: str) -> np.ndarray:
        """float32 ``[N, ...]``."""
        return np.concatenate(self.parts[name])


@dataclass(frozen=True)
class Judge:
    """What an output is worth: its distance to the float one, and what is read from it."""

    reference: np.ndarray
    read: Reader | None
    labels: Sequence[str] | None

    def worth(self, output: np.ndarray, half: slice = slice(None)) -> dict[str, Any]:
        """``snr_db`` and, where texts can be read, ``right`` or ``as_float``, counts of images."""
        found: dict[str, Any] = {"snr_db": rounded(sqnr_db(self.reference[half], output[half]))}
        if self.read is not None:
            texts = self.read(output)
            if self.labels is not None:
                found["right"] = int(correct(self.labels, texts).sum())
            else:
                same = zip(texts, self.read(self.reference), strict=True)
                found["as_float"] = sum(a == b for a, b in same)
        return found


def rounded(db: float) -> float | None:
    """Decibels to two digits; None for no difference at all."""
    return round(db, 2) if np.isfinite(db) else None


def explain(
    quantized: Path,
    reference: Path,
    images: np.ndarray,
    *,
    read: Reader | None = None,
    labels: Sequence[str] | None = None,
    top: int = TOP,
) -> dict[str, Any]:
    """Explain where a quantized network loses against its float form.

    Parameters
    ----------
    quantized, reference
        Folders of exported graphs, in INT8 and in F32, see `pair.Pair`.
    images
        float32 ``[N, ...]`` as the network takes them; those that fill no batch are left out.
    read
        Reads texts off the outputs, one an image.
    labels
        What is right, one text an image.
    top
        How many of the costliest layers to find cures for.

    Returns
    -------
    dict
        JSON-able: ``chip``, ``images``, ``float`` and ``int8`` (see `Judge.worth`), and ``layers``,
        the costliest first. A layer has ``layer`` (the compiler's name), ``operation``, ``shape``;
        ``snr_db`` of its result in the whole INT8 network, ``own_snr_db`` of its own error alone;
        ``share``, its part of the noise that all layers make at the output, one by one; ``alone``,
        what the output is worth where it alone has its error; of those that cost something also
        ``without``, where it alone has none, and ``in_float``, where it alone is in float;
        ``threshold``, ``peak``, ``saturated``, the part of the values beyond it; ``levels``, those
        that each live channel uses, sorted; ``reasons``; and of the first `top` ``cures``:
        ``kind``, ``do``, ``gain_db`` (None where no noise is left), and what the output is worth
        then.

    Raises
    ------
    ParameterError
        For graphs that are not of one network, or no whole batch of images.
    EngineError
        For an operation that is not known.
    """
    pair = Pair(load_graph(quantized), load_graph(reference))
    batch = pair.quantized.batch
    count = len(images) // batch * batch
    if not count:
        raise ParameterError(f"{len(images)} images fill no batch of {batch}.")
    images = images[:count]
    labels = None if labels is None else list(labels)[:count]
    seen, outputs = _survey(pair, images)
    judge = Judge(outputs.of("float"), read, labels)
    noise = _noises(outputs)
    ranked = sorted(noise, key=lambda name: -noise[name])
    of_layer = groups(pair)
    rows = [
        _row(pair, pair.layers[name], seen, of_layer.get(name), noise, outputs, judge)
        for name in ranked
    ]
    int8 = judge.worth(outputs.of("int8"))
    found = _cure(
        pair,
        images,
        [pair.layers[n] for n in ranked[:top]],
        of_layer,
        seen,
        judge,
        outputs.of("int8"),
    )
    for row, its in zip(rows, found):
        row["cures"] = its
        row["reasons"] = _by_cure(row["reasons"], its)
    return {
        "chip": pair.quantized.chip,
        "images": count,
        "float": judge.worth(judge.reference),
        "int8": int8,
        "layers": rows,
    }


def _noise(reference: np.ndarray, output: np.ndarray) -> float:
    return float(np.square(output.astype(np.float64) - reference).sum())


def goes(pair: Pair, images: np.ndarray) -> Iterator[np.ndarray]:
    """Images in goes whose values fit the memory that two plain runs may take."""
    each = sum(np.prod(layer.type.shape) for layer in pair.layers.values()) / pair.quantized.batch
    batch = pair.quantized.batch
    size = max(1, int(VALUES / (3 * each)) // batch) * batch
    yield from (images[start : start + size] for start in range(0, len(images), size))


def _survey(pair: Pair, images: np.ndarray) -> tuple[dict[str, Seen], Outputs]:
    """Everything that is measured of every layer."""
    seen = {name: Seen() for name in pair.layers}
    outputs, end = Outputs(), pair.output
    costly: list[str] | None = None  # as the first images find it
    for some in goes(pair, images):
        exact = pair.run(some, Trial(errors=False))
        int8 = pair.run(some, Trial())
        outputs.add("float", exact[end])
        outputs.add("int8", int8[end])
        for name in _shown(list(pair.layers), "each alone"):
            layer = pair.layers[name]
            if not layer.sources:  # an input
                continue
            with torch.inference_mode():
                own, fine = pair.own(layer, exact), pair.fine_error(layer, exact)
            seen[name].add(layer, exact[name], int8[name], own, fine)
            if f"alone {name}" in outputs.parts or not torch.equal(own.real, exact[name].real):
                trial = Trial(errors=False, given={name: Value(own.real)})
                outputs.add(f"alone {name}", pair.run(some, trial, exact)[end])
        if costly is None:
            noise = _noises(outputs)
            costly = [name for name in noise if noise[name] > LEAST * sum(noise.values())]
        for name in _shown(costly, "all but one"):
            for what, trial in (
                ("without", Trial(without=frozenset({name}))),
                ("in_float", Trial(in_float=frozenset({name}))),
            ):
                outputs.add(f"{what} {name}", pair.run(some, trial, int8)[end])
    return seen, outputs


def _shown(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Items behind a progress bar."""
    with progress_bar(len(items), what) as advance:
        for item in items:
            yield item
            advance(1)


def _noises(outputs: Outputs) -> dict[str, float]:
    """Noise at the output of each layer alone."""
    reference = outputs.of("float")
    return {
        what.removeprefix("alone "): _noise(reference, outputs.of(what))
        for what in outputs.parts
        if what.startswith("alone ")
    }


def _row(
    pair: Pair,
    layer: Layer,
    seen: dict[str, Seen],
    group: Group | None,
    noise: dict[str, float],
    outputs: Outputs,
    judge: Judge,
) -> dict[str, Any]:
    name, mine, kind = layer.name, seen[layer.name], layer.type
    row: dict[str, Any] = {
        "layer": name,
        "operation": layer.step.op.removeprefix("tpu."),
        "shape": list(kind.shape),
        "snr_db": rounded(_db(mine.signal, mine.error)),
        "own_snr_db": rounded(_db(mine.signal, mine.own)),
        "share": round(noise[name] / sum(noise.values()), 4) if sum(noise.values()) else 0.0,
        **{
            what: judge.worth(outputs.of(f"{what} {name}"))
            for what in ("alone", "without", "in_float")
            if f"{what} {name}" in outputs.parts
        },
        "peak": float(mine.peaks.max()),
    }
    if kind.is_quantized and kind.scale is not None:
        most = kind.limits[1] - kind.zero
        levels = np.sort(mine.peaks / kind.scale)[::-1]
        row |= {
            "threshold": reach(kind),
            "saturated": mine.beyond / mine.count,
            "levels": [round(min(float(level), most), 1) for level in levels if level > 0.5],
            "channels": len(levels),
        }
    row["reasons"] = reasons(pair, layer, mine, group, seen)
    return row


def _db(signal: float, noise: float) -> float:
    return 10 * np.log10(signal / noise) if noise > 0 and signal > 0 else float("inf")


def _cure(
    pair: Pair,
    images: np.ndarray,
    layers: Sequence[Layer],
    of_layer: dict[str, Group],
    seen: dict[str, Seen],
    judge: Judge,
    int8: np.ndarray,
) -> list[list[dict[str, Any]]]:
    """Cures of each layer, the best first."""
    tried = [list(cures(pair, layer, of_layer.get(layer.name), seen)) for layer in layers]
    outputs = Outputs()
    names = [
        (f"{k} {m} {n}", trial)
        for k, of_one in enumerate(tried)
        for m, cure in enumerate(of_one)
        for n, trial in enumerate(cure.trials)
    ]
    for some in goes(pair, images):
        base = pair.run(some, Trial())
        for name, trial in _shown(names, "cures"):
            outputs.add(name, pair.run(some, trial, base)[pair.output])
    return [
        sorted(
            (
                _best(
                    cure, [outputs.of(f"{k} {m} {n}") for n in range(len(cure.trials))], judge, int8
                )
                for m, cure in enumerate(of_one)
            ),
            key=lambda row: -gain(row),
        )
        for k, of_one in enumerate(tried)
    ]


ANSWERS = {  # the cure of each kind of reason
    "saturation": "threshold",
    "wide threshold": "threshold",
    "dropped channels set the scale": "fork",
    "joined with wider ones": "split",
    "few channels set the scale": "equalize",
}


def _by_cure(found: list[dict[str, Any]], tried: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reasons in the order in which their cures helped."""
    gains = {cure["kind"]: gain(cure) for cure in tried}
    return sorted(found, key=lambda one: -gains.get(ANSWERS.get(one["kind"], ""), 0.0))


def _best(cure: Cure, outputs: list[np.ndarray], judge: Judge, int8: np.ndarray) -> dict[str, Any]:
    """The best of a cure's trials, chosen on every other image and judged on the rest."""
    chosen, judged = slice(0, None, 2), slice(1 if len(int8) > 1 else 0, None, 2)
    noises = [_noise(judge.reference[chosen], output[chosen]) for output in outputs]
    best = int(np.argmin(noises))
    before, after = (
        _noise(judge.reference[judged], output[judged]) for output in (int8, outputs[best])
    )
    return {
        "kind": cure.kind,
        "do": cure.said[best],
        "gain_db": rounded(_db(before, after)) if before else 0.0,
        **judge.worth(outputs[best]),
    }
