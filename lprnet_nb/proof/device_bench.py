"""The torch executor of an INT8 graph on a GPU: exact there too, and how fast.

It needs the package alone, no compiler and no network: a packaged model of the packaged weights,
and generated plates.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..datasets.generate import generate_plates
from ..datasets.images import preprocess
from ..errors import ParameterError
from ..model.own import load_own_weights
from ..runtime.emulator import Emulator
from ..runtime.emulator.torch_executor import DEVICE_CHUNK
from ..toolchain.chips import parse_chip
from ..toolchain.packaged import packaged_index, packaged_model
from ..toolchain.strategies import make_strategy
from .emulator_bench import _seconds, agreement

SEED = 0  # of the plates


def bench_device(
    device: str = "cuda",
    *,
    chip: str = "BM1684X",
    images: int = 1000,
    rounds: int = 3,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Hold the torch executor on a device against the native kernels, and time both.

    Parameters
    ----------
    device
        Torch's name of it. "cpu" shows that all of it works, and nothing else.
    chip
        Whose packaged INT8 model is run.
    images
        Generated plates.
    rounds
        Turns of each.
    report
        Called with a line of progress.

    Returns
    -------
    dict
        JSON-able. ``agreement`` of the two sets of logits, see `emulator_bench.agreement`;
        ``images_per_second`` of ``native_core`` (one core), ``device`` and ``float`` (torch's float
        forward on the device), medians; ``times_a_core`` and ``ratio_to_float`` of the device.

    Raises
    ------
    ParameterError
        Where torch has no such device, or nothing is to be measured.
    """
    name = _name(device)
    if images < 1 or rounds < 1:
        raise ParameterError("the bench needs at least one round and one image.")
    weights = load_own_weights()
    model = next(
        entry
        for entry in packaged_index()["models"]
        if (entry["chip"], entry["precision"], entry["batch"]) == (parse_chip(chip), "int8", 1)
    )
    strategy = make_strategy(**model["strategy"])
    graph = packaged_model(weights.digest, model["chip"], "int8", 1, strategy).exported
    report(f"{images} plates are generated")
    inputs = preprocess(generate_plates(images, SEED, workers=0).images)
    native, there = Emulator(graph, threads=1, kernels="native"), Emulator(graph, device=device)
    if device == "cpu":
        there = Emulator(graph, kernels="torch")
    network = weights.network("image").to(device)
    wanted, found = native.run(inputs), there.run(inputs)  # which also warms them up
    _forward(network, inputs[:DEVICE_CHUNK], device)
    turns: dict[str, Callable[[], Any]] = {
        "native_core": lambda: native.run(inputs),
        "device": lambda: there.run(inputs),
        "float": lambda: _forward(network, inputs, device),
    }
    seconds: dict[str, list[float]] = {turn: [] for turn in turns}
    for turn in range(rounds):
        for who, work in turns.items():
            seconds[who].append(_seconds(work))
            report(
                f"round {turn + 1}/{rounds}: {who} {len(inputs) / seconds[who][-1]:.0f} a second"
            )
    rate = {who: len(inputs) / statistics.median(taken) for who, taken in seconds.items()}
    return {
        "bench": "device",
        "device": name,
        "chip": model["chip"],
        "strategy": strategy.name,
        "images": len(inputs),
        "rounds": rounds,
        "torch": torch.__version__,
        "agreement": agreement(found, wanted),
        "images_per_second": {who: round(value, 1) for who, value in rate.items()},
        "times_a_core": round(rate["device"] / rate["native_core"], 2),
        "ratio_to_float": round(rate["device"] / rate["float"], 3),
    }


def _name(device: str) -> str:
    """A device in words."""
    if device == "cpu":
        return "cpu"
    if not device.startswith("cuda") or not torch.cuda.is_available():
        raise ParameterError(
            f"torch {torch.__version__} has no device {device!r} here. Run this on a machine with "
            "an NVIDIA GPU and a torch that is built for CUDA; `--device cpu` only shows that the "
            "bench works."
        )
    return torch.cuda.get_device_name(torch.device(device))


def _forward(network: torch.nn.Module, inputs: np.ndarray, device: str) -> np.ndarray:
    """The float network's logits, fetched as the emulator's are."""
    with torch.inference_mode():
        parts = torch.from_numpy(inputs).split(DEVICE_CHUNK)
        return np.concatenate([network(part.to(device)).cpu().numpy() for part in parts])
