"""How fast the emulator is, beside everything else that runs the same plates.

All rivals run in one process tree on the same cores, in turn, several rounds over, so that a busy
moment of the machine hits each of them; medians over the rounds are compared.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from ..datasets.images import PlateImages, preprocess
from ..decode import decode
from ..errors import ParameterError
from ..model.trace import TracedModel
from ..runtime.emulator import Emulator
from ..runtime.engine import open_engine
from ..toolchain.bmodel import BModel
from .interpreter import interpret

# Images of one round. The slow rivals get few: their time per image does not depend on it.
IMAGES = {"emulator": 256, "interpreter": 8, "simulator": 2, "onnxruntime": 64, "torch": 32}


def bench_emulator(
    bmodel: BModel,
    traced: TracedModel,
    plates: PlateImages,
    *,
    rounds: int = 3,
    threads: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure emulator, vendor interpreter, chip simulator and the float forward side by side.

    Parameters
    ----------
    bmodel
        A compiled model in the folder of its compile.
    traced
        The network it was compiled from.
    plates
        Images; they are repeated if there are fewer than a round takes.
    rounds
        How often everybody's turn comes.
    threads
        Cores for everybody; by default all.
    report
        Called with a line of progress.

    Returns
    -------
    dict
        JSON-able. ``milliseconds_per_image`` and ``images_per_second`` by rival, where
        "interpreter" is one process, as the vendor's tools run it, and "interpreter_all_cores" one
        process per core; "float" is the faster of onnxruntime's two ways (all cores on an image,
        a core per image). ``ratio_to_...``: how many times faster than that rival the emulator is
        (to the float forward, below 1 is slower). ``agreement`` with the interpreter (following its
        arithmetic) and with the simulator (following the chip's, which is what is timed).
        ``peak_memory_mib`` of this process, ``interpreter_memory_mib`` of the largest child.
        ``cuda``: the same graph on the first CUDA device, or None.

    Raises
    ------
    ParameterError
        For fewer than one round or no images.
    EngineError, ToolchainError
        When a rival cannot run.
    """
    if rounds < 1 or not len(plates):
        raise ParameterError("the bench needs at least one round and one image.")
    cores = threads or len(os.sched_getaffinity(0))
    sizes = {name: -(-count // bmodel.batch) * bmodel.batch for name, count in IMAGES.items()}
    order = np.arange(max(sizes.values())) % len(plates)
    stored = np.ascontiguousarray(plates.images[order].transpose(0, 3, 1, 2))
    real = preprocess(plates.images[order])
    inputs = stored if bmodel.input_dtype == "uint8" else real

    emulator = Emulator(bmodel.exported, threads=cores)
    logits = emulator.run(inputs)
    rivals: dict[str, Callable[[], float]] = {
        "emulator": lambda: _seconds(lambda: emulator.run(inputs)) / len(inputs),
        "interpreter": lambda: _interpreter(bmodel, inputs[: sizes["interpreter"]], 1),
        "interpreter_all_cores": lambda: _interpreter(
            bmodel, inputs[: sizes["interpreter"]], cores
        ),
        **_onnxruntime(traced, real[: sizes["onnxruntime"]], cores),
        "torch": _torch(traced, real[: sizes["torch"]], cores),
    }
    with open_engine(bmodel, "simulator") as simulator:
        sample = real[: sizes["simulator"]]
        simulated = simulator.infer(sample)  # and the library is loaded now
        rivals["simulator"] = lambda: _seconds(lambda: simulator.infer(sample)) / len(sample)
        load = os.getloadavg()[0]
        times: dict[str, list[float]] = {name: [] for name in rivals}
        for turn in range(rounds):
            for name, measure in rivals.items():
                times[name].append(measure())
                report(f"round {turn + 1}/{rounds}: {name} {1e3 * times[name][-1]:.2f} ms an image")

    median = {name: statistics.median(values) for name, values in times.items()}
    median["float"] = min(
        median["onnxruntime_all_cores_per_image"], median["onnxruntime_core_per_image"]
    )
    judged = interpret(bmodel, inputs[: sizes["interpreter"]]).logits
    follower = Emulator(bmodel.exported, threads=cores, arithmetic="interpreter")
    own = median["emulator"]
    return {
        "bench": "emulator",
        "chip": bmodel.chip,
        "precision": bmodel.precision,
        "strategy": bmodel.strategy,
        "batch": bmodel.batch,
        "cores": cores,
        "rounds": rounds,
        "load_before": round(load, 2),
        "emulator": emulator.description,
        "milliseconds_per_image": {name: round(1e3 * value, 4) for name, value in median.items()},
        "images_per_second": {name: round(1 / value, 2) for name, value in median.items()},
        "ratio_to_interpreter": round(median["interpreter"] / own, 1),
        "ratio_to_interpreter_all_cores": round(median["interpreter_all_cores"] / own, 1),
        "ratio_to_simulator": round(median["simulator"] / own, 1),
        "ratio_to_float": round(median["float"] / own, 3),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "interpreter_memory_mib": round(
            resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1
        ),
        "agreement": {
            "interpreter": agreement(follower.run(inputs[: len(judged)]), judged),
            "simulator": agreement(logits[: len(simulated)], simulated),
        },
        "cuda": _cuda(bmodel, inputs, logits, rounds),
    }


def agreement(mine: np.ndarray, judge: np.ndarray) -> dict[str, Any]:
    """How far two sets of logits ``[N, classes, 18]`` agree, and whether they read the same."""
    texts = [decode(logits).texts for logits in (mine, judge)]
    same = sum(a == b for a, b in zip(*texts, strict=True))
    return {
        "images": len(mine),
        "identical": bool(np.array_equal(mine, judge)),
        "max_abs_difference": float(np.abs(mine - judge).max()),
        "same_strings": same,
    }


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _interpreter(bmodel: BModel, inputs: np.ndarray, processes: int) -> float:
    """Seconds an image: time inside the interpreter, shared by processes that run side by side."""
    with ThreadPoolExecutor(processes) as pool:
        runs = list(pool.map(lambda _: interpret(bmodel, inputs), range(processes)))
    return statistics.mean(run.seconds.sum() for run in runs) / (len(inputs) * processes)


def _onnxruntime(
    traced: TracedModel, inputs: np.ndarray, cores: int
) -> dict[str, Callable[[], float]]:
    import onnxruntime

    def session(threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(
            str(traced.onnx), options, providers=["CPUExecutionProvider"]
        )

    wide, narrow = session(cores), [session(1) for _ in range(cores)]
    name = wide.get_inputs()[0].name
    calls = np.split(inputs, len(inputs) // traced.batch)

    def run(one: onnxruntime.InferenceSession, mine: list[np.ndarray]) -> None:
        for call in mine:
            one.run(None, {name: call})

    def side_by_side() -> None:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(run, narrow, [calls[k::cores] for k in range(cores)]))

    for one in [wide, *narrow]:
        run(one, calls[:2])
    return {
        "onnxruntime_all_cores_per_image": lambda: _seconds(lambda: run(wide, calls)) / len(inputs),
        "onnxruntime_core_per_image": lambda: _seconds(side_by_side) / len(inputs),
    }


def _torch(traced: TracedModel, inputs: np.ndarray, cores: int) -> Callable[[], float]:
    network = torch.jit.load(str(traced.path), map_location="cpu").eval()
    network = network.to(memory_format=torch.channels_last)
    calls = [
        call.contiguous(memory_format=torch.channels_last)
        for call in torch.from_numpy(inputs).split(traced.batch)
    ]

    def run() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(cores)
        try:
            with torch.inference_mode(), torch.jit.optimized_execution(False):
                for call in calls:
                    network(call)
        finally:
            torch.set_num_threads(before)

    run()
    return lambda: _seconds(run) / len(inputs)


def _cuda(
    bmodel: BModel, inputs: np.ndarray, logits: np.ndarray, rounds: int
) -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    emulator = Emulator(bmodel.exported, device="cuda")
    found = emulator.run(inputs)
    own = statistics.median(_seconds(lambda: emulator.run(inputs)) for _ in range(rounds))
    return {
        "device": torch.cuda.get_device_name(),
        "images_per_second": round(len(inputs) / own, 2),
        "agreement": agreement(found, logits),
    }
