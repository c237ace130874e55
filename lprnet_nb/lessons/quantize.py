"""What notebook 03 shows: activations, thresholds, and where INT8 loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..datasets.images import PlateImages, preprocess
from ..decode import decode
from ..errors import ParameterError
from ..evaluate.accuracy import correct
from ..measure.data import Data
from ..measure.models import Compiled, Planned, model_label, planned
from ..measure.parameters import Parameters
from ..model.weights import Weights
from ..runtime.emulator import Emulator
from ..toolchain.bmodel import BModel
from ..toolchain.compile import CalibrationTable, top_graph
from ..toolchain.layers import roles_of_layers
from ..work import scheduler
from ..work.pieces import Piece, Run, model_run

# ReLUs of the backbone whose outputs a threshold is chosen for, and the compiler's role of each.
RELUS = {2: "input", 6: "block4", 10: "block8", 13: "block11", 18: "neck", 22: "output"}
LEVELS = 255  # steps from 0 to the threshold: after a ReLU, INT8 tensors are unsigned


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


def read_with_threshold(
    weights: Weights, images: np.ndarray, layer: int, threshold: float
) -> list[str]:
    """What the float network reads when one layer alone is quantized with this threshold.

    Parameters
    ----------
    images
        uint8 BGR ``[N, 24, 94, 3]``.
    layer
        One of `RELUS`.
    threshold
        Positive; values above it saturate, those below are rounded to 255ths of it.
    """
    if not threshold > 0:
        raise ParameterError(f"threshold {threshold}: give a positive number.")
    network, step = weights.network(), threshold / LEVELS

    def quantize(_: torch.nn.Module, __: Any, x: torch.Tensor) -> torch.Tensor:
        return (x / step).round_().clamp_(max=LEVELS) * step

    network.backbone[_known(layer)].register_forward_hook(quantize)
    with torch.inference_mode():
        logits = network(torch.from_numpy(preprocess(images))).numpy()
    return decode(logits, weights.alphabet).texts


def table_of(bmodel: BModel) -> CalibrationTable:
    """The calibration table that a BModel was compiled with."""
    return CalibrationTable(bmodel.folder / "calibration_table", None, "")


def thresholds(compiled: Sequence[Compiled], layer: int) -> dict[str, float]:
    """Threshold of a backbone layer by strategy; models of another form than published left out."""
    found = {}
    for item in compiled:
        if item.bmodel.form == "published":
            name = roles_of_layers(top_graph(item.traced).layers)[RELUS[_known(layer)]][-1]
            found[item.strategy] = table_of(item.bmodel).thresholds()[name][0]
    return found


def threshold_rows(compiled: Sequence[Compiled]) -> list[dict[str, Any]]:
    """Thresholds of the backbone by layer and strategy, beside the largest value seen."""
    rows = []
    for layer, role in RELUS.items():
        row: dict[str, Any] = {"layer": layer, "role": role}
        for item in compiled:
            if item.bmodel.form == "published":
                name = roles_of_layers(top_graph(item.traced).layers)[role][-1]
                threshold, low, high = table_of(item.bmodel).thresholds()[name]
                row |= {"largest": max(high, -low), item.strategy: threshold}
        rows.append(row)
    return rows


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
    weights: Weights, images: np.ndarray, published: Compiled, forked: Compiled | None
) -> dict[str, Any]:
    """Ranges of layer 13's channels, and the quantization steps that they get.

    Returns
    -------
    dict
        ``"maxima"`` float64 ``[256]``, ``"scale"`` of the map in the published form, and
        ``"kept_scale"`` of the kept channels in the forked form, or None without one.
    """
    maxima = activations(weights, images, 13).max(axis=(0, 2, 3)).astype(float)
    name = roles_of_layers(top_graph(published.traced).layers)["block11"][-1]
    scale = Emulator(published.bmodel.graph).graph.types[name].scale
    kept_scale = None
    if forked is not None:
        graph = Emulator(forked.bmodel.graph).graph
        last = [
            n
            for n in roles_of_layers(top_graph(forked.traced).layers)["block11"]
            if n in graph.types
        ]
        narrow = [n for n in last if graph.types[n].shape[1] == len(maxima) // 4]
        kept_scale = graph.types[narrow[-1]].scale
    return {"maxima": maxima, "scale": scale, "kept_scale": kept_scale}


def read_models(
    compiled: Sequence[Compiled], plates: PlateImages, backend: str
) -> list[dict[str, Any]]:
    """Plates that each model reads right, greedy."""
    rows = []
    runs = reading_runs([item.planned for item in compiled], plates, backend)
    done = scheduler.make([p for run in runs for p in run.shards], "running models")
    for item, run in zip(compiled, runs):
        texts = decode(run.read(done).logits, item.bmodel.alphabet).texts
        rows.append(
            {
                "label": model_label(item),
                "precision": item.bmodel.precision,
                "right": int(correct(plates.labels, texts).sum()),
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
    runs = reading_runs(models, data.plates, parameters.backend)
    return [item.model for item in models] + [piece for run in runs for piece in run.shards]
