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
from ..runtime.emulator.torch_executor import fused, images_together, sent
from ..toolchain.chips import parse_chip
from ..toolchain.packaged import packaged_index, packaged_model
from ..toolchain.strategies import make_strategy
from .emulator_bench import _seconds, agreement

SEED = 0  # of the plates
MANY = 16384  # images that a GPU is timed on: enough to fill chunks


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
        Generated plates. On a GPU they are repeated to `MANY` and full chunks to be timed.
    rounds
        Turns of each.
    report
        Called with a line of progress.

    Returns
    -------
    dict
        JSON-able. ``agreement`` of the two sets of logits, see `emulator_bench.agreement`;
        ``repeats_identical``, whether every repetition has the native kernels' logits;
        ``images_per_second`` of ``native_core`` (one core), ``device`` and ``float`` (torch's float
        forward on the device, channels last), medians, from and to the host's memory;
        ``times_a_core`` and ``ratio_to_float`` of the device. ``chunk`` images run together there;
        ``fused`` says whether torch compiled the requantization, ``why_not`` why it did not,
        ``warm_up_seconds`` how long the first run took; ``tf32`` whether the float forward may use
        it, as torch has it by default.

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
    chunk = images_together(native.graph, torch.device(device))
    filled = -(-max(MANY, images) // chunk) * chunk  # no chunk is smaller than the others
    many = inputs if device == "cpu" else np.resize(inputs, (filled, *inputs.shape[1:]))
    network = weights.network("image").to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's hints
    # These also warm up: what is compiled, is compiled here.
    warm_up = _seconds(lambda: there.run(many))
    why_not = fused(torch.device(device).type)[1]
    report(f"warmed up in {warm_up:.0f} s; " + (why_not or "the requantization is fused"))
    found, wanted = there.run(many), native.run(inputs)
    compared = agreement(found[: len(inputs)], wanted)
    repeated = bool(np.array_equal(found, np.resize(wanted, found.shape)))
    report(f"agreement: {compared}; repeated: {repeated}")
    _forward(network, many, device, chunk)
    turns: dict[str, tuple[int, Callable[[], Any]]] = {
        "native_core": (len(inputs), lambda: native.run(inputs)),
        "device": (len(many), lambda: there.run(many)),
        "float": (len(many), lambda: _forward(network, many, device, chunk)),
    }
    rates: dict[str, list[float]] = {turn: [] for turn in turns}
    for turn in range(rounds):
        for who, (count, work) in turns.items():
            rates[who].append(count / _seconds(work))
            report(f"round {turn + 1}/{rounds}: {who} {rates[who][-1]:.0f} a second")
    rate = {who: statistics.median(found) for who, found in rates.items()}
    return {
        "bench": "device",
        "device": name,
        "chip": model["chip"],
        "strategy": strategy.name,
        "images": len(inputs),
        "timed_images": len(many),
        "chunk": chunk,
        "rounds": rounds,
        "torch": torch.__version__,
        "fused": why_not is None,
        "why_not": why_not,
        "tf32": torch.backends.cudnn.allow_tf32,
        "warm_up_seconds": round(warm_up, 1),
        "agreement": compared,
        "repeats_identical": repeated,
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


def _forward(network: torch.nn.Module, inputs: np.ndarray, device: str, chunk: int) -> np.ndarray:
    """The float network's logits, sent and fetched as the emulator's are."""
    there = torch.device(device)
    with torch.inference_mode():
        parts = [
            network(
                sent(inputs[start : start + chunk], there).to(memory_format=torch.channels_last)
            ).to("cpu", non_blocking=True)
            for start in range(0, len(inputs), chunk)
        ]
        if there.type == "cuda":
            torch.cuda.synchronize(there)
    return np.concatenate([part.numpy() for part in parts])
