"""What notebook 03 shows: activations, thresholds, and where INT8 loses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from ..datasets.images import PlateImages, preprocess
from ..decode import decode
from ..errors import EngineError, ParameterError
from ..evaluate.accuracy import correct
from ..evaluate.intervals import wilson
from ..explain.bmodel import explained
from ..explain.table import gain, helpful, why
from ..figures.quantization import layer_costs, quantization_noise
from ..language import Text, clauses, listed, phrase, sentences, together
from ..measure.data import Data
from ..measure.layers import layer_errors, layer_names
from ..measure.models import Compiled, Planned, model_label, planned
from ..measure.parameters import Parameters
from ..model.lprnet.roles import roles_of_layers
from ..model.weights import Weights
from ..runtime.emulator import Emulator
from ..toolchain.bmodel import BModel
from ..toolchain.compile import CalibrationTable
from ..toolchain.packaged import packaged_explanation
from ..work import scheduler
from ..work.pieces import Piece, Run, model_run
from .trace import read_images

# ReLUs of the backbone whose outputs a threshold is chosen for, and the compiler's role of each.
RELUS = {2: "input", 6: "block4", 10: "block8", 13: "block11", 18: "neck", 22: "output"}
PRODUCTS = ("Conv", "Deconv", "MatMul")
RANGE = (1 / 500, 10)  # thresholds that are tried, of the largest value
EXPLAINED = 8  # plates on which the causes of the loss are looked for
LEVELS = 255  # steps from 0 to the threshold: after a ReLU, INT8 tensors are unsigned


def opening(chip: str, data: Data) -> Text:
    """Where the calibration images come from."""
    return phrase(
        "{chip}; calibration from {count} images of {name}, some of which are also evaluated"
        if data.overlap
        else "{chip}; calibration from {count} images of {name}, none of which is evaluated",
        chip=chip,
        count=len(data.pool),
        name=data.pool.name,
    )


def activations(weights: Weights, images: np.ndarray, layer: int) -> np.ndarray:
    """Output of a backbone layer in float, ``[N, C, H, W]``, of uint8 BGR images."""
    network = weights.network().backbone[: _known(layer) + 1]
    with torch.inference_mode():
        return network(torch.from_numpy(preprocess(images))).numpy()


def _known(layer: int) -> int:
    if layer not in RELUS:
        raise ParameterError(
            f"layer {layer} has no threshold to show. Choose from {', '.join(map(str, RELUS))}."
        )
    return layer


def reader_with_threshold(
    weights: Weights, images: np.ndarray, layer: int
) -> Callable[[float], list[str]]:
    """What the float network reads when one layer alone is quantized, as a function of a threshold.

    Parameters
    ----------
    images
        uint8 BGR ``[N, 24, 94, 3]``.
    layer
        One of `RELUS`.

    Returns
    -------
    callable
        Takes a positive threshold: values above it saturate, those below are rounded to 255ths of
        it. Raises ParameterError for another.
    """
    network, x = weights.network(), torch.from_numpy(preprocess(images))
    with torch.inference_mode():
        for index in range(_known(layer) + 1):  # once: what comes before does not change
            x = network.backbone[index](x)
            network.backbone[index] = _Given(x)
    values, last = x.numpy(), network.backbone[layer]

    def read(threshold: float) -> list[str]:
        if not threshold > 0:
            raise ParameterError(f"threshold {threshold}: give a positive number.")
        last.output = torch.from_numpy(quantized(values, threshold))
        with torch.inference_mode():
            return decode(network(last.output).numpy(), weights.alphabet).texts

    return read


class _Given(torch.nn.Module):
    """Stands for a layer whose output is known."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.output


def quantized(values: np.ndarray, threshold: float) -> np.ndarray:
    """Values from 0 on as INT8 keeps them: 255 steps up to the threshold, which is the largest."""
    step = np.float32(threshold / LEVELS)
    return np.minimum(np.rint(values / step), np.float32(LEVELS)) * step


def read_right(weights: Weights, plates: PlateImages, count: int) -> PlateImages:
    """The first plates that the float network reads right, `count` or as many as there are."""
    found: list[int] = []
    for start in range(0, len(plates), count):
        some = plates.take(slice(start, start + count))
        right = correct(some.known_labels, read_images(weights, some.images))
        found += (start + np.flatnonzero(right)).tolist()
        if len(found) >= count:
            break
    return plates.take(found[:count])


def harmless(
    weights: Weights, plates: PlateImages, layer: int, largest: float
) -> tuple[float, float, int]:
    """Between which thresholds of a layer all plates read right, by halves and doubles.

    Returns
    -------
    low, high
        Thresholds around the largest value, `RANGE` at most, between which every plate reads right.
    broken
        Plates that read wrong at half of `low`; 0 where that is out of the range.
    """
    read = reader_with_threshold(weights, plates.images, layer)

    def wrong(threshold: float) -> int:
        return int((~correct(plates.known_labels, read(threshold))).sum())

    low = high = largest
    while low / 2 >= RANGE[0] * largest and not (broken := wrong(low / 2)):
        low /= 2
    while high * 2 <= RANGE[1] * largest and not wrong(high * 2):
        high *= 2
    return low, high, broken


def table_of(bmodel: BModel) -> CalibrationTable:
    """The calibration table that a BModel was compiled with."""
    return CalibrationTable(bmodel.folder / "calibration_table", None, "")


def _strategy(item: Compiled) -> str:
    """The strategy that a model is shown under."""
    if item.strategy is None:
        raise ParameterError(f"{item.id} is a float model, and this notebook compares strategies.")
    return item.strategy


def without_published(compiled: Sequence[Compiled]) -> str | None:
    """Why thresholds cannot be compared, where no strategy keeps the published form; else None."""
    if any(item.bmodel.form == "published" for item in compiled):
        return None
    return phrase(
        "No strategy of {names} keeps the published form of the network, whose thresholds this "
        'section compares: add one, such as "kl".',
        names=listed([_strategy(item) for item in compiled]),
    )


def thresholds(compiled: Sequence[Compiled], layer: int) -> dict[str, float]:
    """Threshold of a backbone layer by strategy; models of another form than published left out."""
    found = {}
    for item in compiled:
        if item.bmodel.form == "published":
            name = roles_of_layers(item.layers)[RELUS[_known(layer)]][-1]
            found[_strategy(item)] = table_of(item.bmodel).thresholds()[name][0]
    return found


def threshold_rows(compiled: Sequence[Compiled]) -> list[dict[str, Any]]:
    """Thresholds of the backbone by layer and strategy, beside the largest value seen."""
    rows = []
    for layer, role in RELUS.items():
        row: dict[str, Any] = {"layer": layer, "role": role}
        for item in compiled:
            if item.bmodel.form == "published":
                name = roles_of_layers(item.layers)[role][-1]
                threshold, low, high = table_of(item.bmodel).thresholds()[name]
                row |= {"largest": max(high, -low), _strategy(item): threshold}
        rows.append(row)
    return rows


def product_thresholds(compiled: Sequence[Compiled]) -> list[dict[str, Any]]:
    """Thresholds of a user's network after its convolutions and products, beside the largest."""
    rows: dict[str, dict[str, Any]] = {}
    for item in compiled:
        table = table_of(item.bmodel).thresholds()
        for layer in item.layers:
            kind, name = layer["op"].removeprefix("top."), layer["name"]
            if kind in PRODUCTS and name in table:
                threshold, low, high = table[name]
                row = rows.setdefault(name, {"layer": name, "operation": kind})
                row |= {"largest": max(high, -low), _strategy(item): threshold}
    return list(rows.values())


def align_layers(
    errors: dict[str, list[dict[str, Any]]], value: str = "sqnr_db"
) -> tuple[list[str], dict[str, list[float | None]]]:
    """One axis of layers for several models, in the order of the longest list."""
    longest = max(errors.values(), key=len)
    layers = [row["layer"] for row in longest]
    return layers, {
        name: [{r["layer"]: r[value] for r in rows}.get(layer) for layer in layers]
        for name, rows in errors.items()
    }


def kept_channels(
    weights: Weights, images: np.ndarray, compiled: Sequence[Compiled]
) -> dict[str, Any]:
    """Ranges of layer 13's channels, and the quantization steps that they get.

    Parameters
    ----------
    compiled
        At least one of the published form; the first of each form counts.

    Returns
    -------
    dict
        ``"maxima"`` float64 ``[256]``, ``"scale"`` of the map in the published form,
        ``"kept_scale"`` of the kept channels in the forked form, or None without one, and
        ``"levels"``, how many of 255 the widest kept channel has, by ``"shared scale"`` and
        ``"own scale"``.
    """
    forms = {item.bmodel.form: item for item in reversed(compiled)}
    published, forked = forms["published"], forms.get("forked")
    maxima = activations(weights, images, 13).max(axis=(0, 2, 3)).astype(float)
    name = roles_of_layers(published.layers)["block11"][-1]
    scale = Emulator(published.bmodel.exported).graph.types[name].scale
    kept_scale = _kept_scale(forked, len(maxima)) if forked else None
    scales = {"shared scale": scale, "own scale": kept_scale}
    levels = {name: min(maxima[::4].max() / one, LEVELS) for name, one in scales.items() if one}
    return {"maxima": maxima, "scale": scale, "kept_scale": kept_scale, "levels": levels}


def _kept_scale(forked: Compiled, channels: int) -> float | None:
    """Scale of the channels that the pool after layer 13 keeps, in the forked form."""
    types = Emulator(forked.bmodel.exported).graph.types
    last = roles_of_layers(forked.layers)["block11"]
    narrow = [n for n in last if n in types and types[n].shape[1] == channels // 4]
    return types[narrow[-1]].scale


def channels_said(story: Mapping[str, Any]) -> Text:
    """What `kept_channels` shows."""
    maxima, levels = story["maxima"], story["levels"]
    dropped = np.delete(maxima, np.s_[::4])
    alive = int((dropped > story["scale"]).sum())
    shared = phrase(
        "the pool drops {count} channels, all but {alive} of them below one step of the shared "
        "scale, and the widest of them reaches {widest:.0f}, where the widest kept one reaches "
        "{kept:.1f}. That leaves the kept channels {levels:.0f} of {all} levels.",
        count=len(dropped),
        alive=alive,
        widest=dropped.max(),
        kept=maxima[::4].max(),
        levels=levels["shared scale"],
        all=LEVELS,
    )
    if "own scale" not in levels:
        return shared
    return sentences(
        shared,
        phrase("With a scale of their own they have {levels:.0f}.", levels=levels["own scale"]),
    )


def threshold_said(low: float, high: float, broken: int, plates: int = 8) -> Text:
    """What `harmless` says."""
    return phrase(
        "by halves and doubles, all {plates} plates read right from a threshold of {low:.3g} to "
        "one of {high:.3g}; at half of the lowest, {broken} of them read wrong."
        if broken
        else "by halves and doubles, all {plates} plates read right from a threshold of {low:.3g} "
        "to one of {high:.3g}.",
        plates=plates,
        low=low,
        high=high,
        broken=broken,
    )


def noise_said(values: np.ndarray, chosen: Mapping[str, float]) -> Text:
    """Where each method's threshold stands beside the one of the least squared error."""
    flat = np.abs(values).ravel()[:: values.size // 200_000 + 1]
    grid = np.geomspace(flat.max() / 12, flat.max(), 60)
    best = float(grid[np.argmin(sum(quantization_noise(flat, grid, LEVELS)))])
    parts = [
        phrase("{name} at {times:.2f} times it", name=name, times=value / best)
        for name, value in chosen.items()
    ]
    return phrase(
        "the squared error of this layer is least at a threshold of about {best:.3g}; {parts}.",
        best=best,
        parts=listed(parts),
    )


def unknown_said(compiled: Sequence[Compiled]) -> Text | str:
    """Why layers cannot be looked into: what of a graph the emulator does not know; else ""."""
    try:
        for item in compiled:
            for bmodel in (item.bmodel, item.exact()):
                Emulator(bmodel.exported)
    except EngineError as error:
        return phrase("Left out: {reason}", reason=str(error))
    return ""


def latency_said(compiled: Sequence[Compiled]) -> list[Text]:
    """The predicted latency of each model whose compiler predicts one, by strategy."""
    times = [(_strategy(item), item.bmodel.predicted_latency_ms) for item in compiled]
    known = ", ".join(f"{name} {time:.3f}" for name, time in times if time is not None)
    return [phrase("predicted latency, ms: {times}", times=known)] if known else []


def errors_of(compiled: Sequence[Compiled], images: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """`measure.layers.layer_errors` of each model, by strategy."""
    return {_strategy(item): layer_errors(item, images) for item in compiled}


def worst_layers(errors: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The noisiest layer of each model."""
    worst = {name: min(rows, key=lambda row: row["sqnr_db"]) for name, rows in errors.items()}
    return [
        {
            "strategy": name,
            "layer": row["layer"],
            "cosine": row["cosine"],
            "SQNR dB": row["sqnr_db"],
        }
        for name, row in worst.items()
    ]


def layers_said(errors: Mapping[str, list[dict[str, Any]]]) -> Text:
    """Between which neighbouring roles each model loses most, in dB."""
    said = []
    for name, rows in errors.items():
        noisy = [row for row in rows if np.isfinite(row["sqnr_db"])]
        falls = [
            (a["sqnr_db"] - b["sqnr_db"], a["layer"], b["layer"])
            for a, b in itertools.pairwise(noisy)
            if not (a["layer"] + b["layer"]).count("context")
        ]
        if not falls:
            said.append(phrase("{name} has one noisy layer at most", name=name))
            continue
        fall, before, after = max(falls)
        said.append(
            phrase(
                "{name} falls most from {before} to {after}, by {fall:.0f} dB",
                name=name,
                before=before,
                after=after,
                fall=fall,
            )
        )
    if any("context" in row["layer"] for rows in errors.values() for row in rows):
        return phrase("{parts} (the branches of the context left aside).", parts=clauses(said))
    return phrase("{parts}.", parts=clauses(said))


def explanation(compiled: Sequence[Compiled], plates: PlateImages) -> dict[str, Any]:
    """What `explain` finds of the first model; its layers are also ``called`` by their roles."""
    item = next(one for one in compiled if one.bmodel.input_dtype == "float32")
    some = plates.take(slice(EXPLAINED))
    packaged = packaged_explanation(item.bmodel, some.digest)
    found = together(packaged) if packaged else explained(item.bmodel, item.exact(), some)
    roles = layer_names(item)
    for row in found["layers"]:
        row["called"] = roles.get(row["layer"], row["layer"])
    return found


def cost_rows(found: Mapping[str, Any], count: int = 6) -> list[dict[str, Any]]:
    """The costliest layers of an explanation: what they cost, why, and what helps."""
    return [
        {
            "layer": row["called"],
            "compiler's name": row["layer"],
            "share of the noise": row["share"],
            "SNR with it alone, dB": row["alone"]["snr_db"],
            "why": why(row, 2),
            "what helps": clauses(
                phrase("{gain:+.1f} dB: {cure}", gain=gain(cure), cure=cure["do"])
                for cure in helpful(row)[:1]
            ),
        }
        for row in found["layers"][:count]
    ]


def costs_figure(found: Mapping[str, Any], count: int = 8) -> Figure:
    """`figures.layer_costs` of an explanation; cures that leave no noise have no place on it."""
    rows = found["layers"][:count]
    cures = rows[0].get("cures", [])
    return layer_costs(
        [row["called"] for row in rows],
        [row["share"] for row in rows],
        [(cure["kind"], cure["snr_db"]) for cure in cures if cure["snr_db"] is not None],
        int8_db=found["int8"]["snr_db"],
        without_db=rows[0].get("without", {}).get("snr_db"),
    )


def still_right(labels: Sequence[str], texts: Sequence[str]) -> Text:
    """How many of some plates are still read right, and how the others are read."""
    wrong = [
        f"{label} → {text}" for label, text in zip(labels, texts, strict=True) if label != text
    ]
    if not wrong:
        return phrase("All {count} plates are read right.", count=len(labels))
    return phrase(
        "{wrong} of {count} plates are read otherwise: {plates}.",
        wrong=len(wrong),
        count=len(labels),
        plates=", ".join(wrong),
    )


def reading_said(rows: Sequence[Mapping[str, Any]]) -> Text:
    """How far readings lie apart, beside the width of an interval."""
    right = [row["right"] for row in rows]
    low, high = wilson(max(right), rows[0]["images"])
    spread = max(right) - min(right)
    return phrase(
        "the best model reads {best} of {images} plates, the worst {spread} fewer; the interval of "
        "the best alone is {width:.0f} points wide.",
        best=max(right),
        images=rows[0]["images"],
        spread=spread,
        width=100 * (high - low),
    )


def read_models(
    compiled: Sequence[Compiled], plates: PlateImages, backend: str
) -> list[dict[str, Any]]:
    """Plates that each model reads right, greedy."""
    rows = []
    runs = reading_runs([item.planned for item in compiled], plates, backend)
    done = scheduler.make([p for run in runs for p in run.shards], phrase("running models"))
    for item, run in zip(compiled, runs):
        texts = decode(run.read(done).logits, item.bmodel.alphabet).texts
        rows.append(
            {
                "label": model_label(item),
                "precision": item.bmodel.precision,
                "right": int(correct(plates.known_labels, texts).sum()),
                "images": len(plates),
            }
        )
    return rows


def reading_runs(models: Sequence[Planned], plates: PlateImages, backend: str) -> list[Run]:
    """What `read_models` reads."""
    return [model_run(item.id, item.model, plates, backend, item.batch) for item in models]


def pieces(parameters: Parameters, data: Data) -> list[Piece]:
    """The long work of this notebook: its BModels, and the logits of each."""
    models = planned(parameters, data)
    read = models if data.weights.of.interface.kind == "ctc" else []
    runs = reading_runs(read, data.plates, parameters.backend)
    return [item.model for item in models] + [piece for run in runs for piece in run.shards]
