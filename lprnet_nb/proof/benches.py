"""Benches of whole commands: the generator of plates, the emulator."""

from __future__ import annotations

import os
import resource
import sys
import time
from typing import Any

from ..datasets.generate import generate_plates
from ..measure.data import datasets_for
from ..measure.models import compile_all
from ..measure.parameters import check
from .emulator_bench import bench_emulator


def measure_generator(plates: int, rounds: int) -> dict[str, Any]:
    """Generate so many plates on all cores, each round from another seed.

    Returns
    -------
    dict
        JSON-able: ``seconds`` by the clock of each round, the starting of the processes included;
        ``plates_per_second`` of the fastest (the others met other work on the machine) and
        ``plates_per_processor_second`` of all; ``cores``, ``load`` of one minute before.
    """
    load, spent, seconds = os.getloadavg()[0], cpu_seconds(), []
    for seed in range(rounds):
        started = time.perf_counter()
        generate_plates(plates, seed, workers=len(os.sched_getaffinity(0)))
        seconds.append(time.perf_counter() - started)
    spent = cpu_seconds() - spent
    return {
        "bench": "generate",
        "plates": plates,
        "seconds": [round(s, 2) for s in seconds],
        "plates_per_second": round(plates / min(seconds)),
        "plates_per_processor_second": round(rounds * plates / spent),
        "cores": len(os.sched_getaffinity(0)),
        "load": load,
    }


def measure_emulator(chip: str, strategy: str, rounds: int) -> dict[str, Any]:
    """Compile one INT8 BModel and measure the emulator against its rivals on it."""
    parameters = check(CHIPS=chip, PRECISIONS="int8", STRATEGIES=strategy)
    data = datasets_for(parameters)
    item = compile_all(parameters, data)[0]
    return bench_emulator(
        item.bmodel,
        item.traced,
        data.plates,
        rounds=rounds,
        report=lambda line: print(line, file=sys.stderr),
    )


def cpu_seconds() -> float:
    """Processor time of this process and of all its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
