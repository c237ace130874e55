"""How many times faster than the vendor's interpreter the emulator runs networks of many kinds."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import ParameterError
from ..runtime.emulator import Emulator
from .emulator_bench import _seconds
from .foreign import compiled_example, random_images
from .interpreter import interpret
from .networks import EXAMPLES, names_of

IMAGES = {"emulator": 256, "interpreter": 16}  # of one turn


def bench_networks(
    networks: str,
    chip: str,
    rounds: int,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Emulator and interpreter in turn, on each network, in one process tree.

    Parameters
    ----------
    networks
        Names of `networks.EXAMPLES`, separated by commas.
    rounds
        Turns of each; medians are compared.

    Returns
    -------
    dict
        JSON-able: ``networks``, by name ``milliseconds_per_image`` of both, ``ratio`` and
        ``kernels``; ``cores``, ``load_before``. The interpreter is one process, as the vendor's
        tools run it; of its time loading is left out.

    Raises
    ------
    ParameterError
        For no round or an unknown network.
    """
    if rounds < 1:
        raise ParameterError("the bench needs at least one round.")
    names, load = names_of(networks), os.getloadavg()[0]
    folders = {name: compiled_example(name, chip) for name in names}
    emulators = {name: Emulator(folder / "graph") for name, folder in folders.items()}
    inputs = {name: random_images(EXAMPLES[name].shape, max(IMAGES.values())) for name in names}
    times: dict[str, dict[str, list[float]]] = {n: {rival: [] for rival in IMAGES} for n in names}
    for name in names:
        emulators[name].run(inputs[name][:8])  # the kernels' memory is there now
    for turn in range(rounds):
        for name in names:
            few = inputs[name][: IMAGES["interpreter"]]
            spent = interpret(SimpleNamespace(path=folders[name] / "net.bmodel"), few).seconds
            times[name]["interpreter"].append(float(np.sum(spent)) / len(few))
            seconds = _seconds(partial(emulators[name].run, inputs[name]))
            times[name]["emulator"].append(seconds / len(inputs[name]))
            report(f"round {turn + 1}/{rounds}: {name} {times[name]['emulator'][-1] * 1e3:.3f} ms")
    medians = {
        name: {rival: statistics.median(values) for rival, values in of_one.items()}
        for name, of_one in times.items()
    }
    return {
        "bench": "networks",
        "chip": chip,
        "rounds": rounds,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(load, 2),
        "networks": {
            name: {
                "milliseconds_per_image": {k: round(1e3 * v, 4) for k, v in median.items()},
                "ratio": round(median["interpreter"] / median["emulator"], 1),
                "kernels": emulators[name].description["kernels"],
            }
            for name, median in medians.items()
        },
    }
