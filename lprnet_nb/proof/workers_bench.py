"""What a second worker brings: the same CCPD survey on one worker and on two, in turn."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..children import variables
from ..errors import EngineError, ParameterError
from ..files import private_folder
from ..measure.survey import FILES, Survey, survey
from ..places import cache_dir
from ..toolchain.environment import ENVIRONMENT_VARIABLE, find_compiler
from ..work import scheduler
from ..work.transport import receive, send
from .cluster import Cluster
from .survey_bench import int8_model, write_scenes

WORKERS = (1, 2)
_SETTINGS = {"OMP_NUM_THREADS": "1"} | {  # as dask reads its settings from the environment
    f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": str(value)
    for name, value in scheduler.TUNED.items()
}


def bench_workers(
    images: int,
    rounds: int,
    *,
    chip: str = "BM1684X",
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Survey so many CCPD pictures with an INT8 BModel on the emulator, on one worker and on two.

    See `measure_workers`; `chip` is whose BModel it is.
    """
    found = measure_workers(int8_model(chip), images, rounds, backend="emulator", report=report)
    return {"bench": "workers", "chip": chip, **found}


def measure_workers(
    model: Any,
    images: int,
    rounds: int,
    *,
    backend: str,
    files: int = FILES,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run the same survey on each number of workers, turn by turn, each turn in a new cache.

    Each worker is a process of its own with one thread, started by hand beside a scheduler; the
    starting, and opening the model once in each, are not counted. The caller hands out and counts.

    Parameters
    ----------
    model, backend
        As `open_engine` takes them; the model lies in the cache.
    images
        Pictures to survey; at least as many pieces of them as there are workers.
    rounds
        Turns of each number of workers.
    files
        Pictures of a piece.
    report
        Called with a line for each turn.

    Returns
    -------
    dict
        JSON-able: ``rows`` of ``workers`` and wall ``seconds``, in the order they were run;
        ``seconds``: the median by workers; ``speedup``: one worker's median by two workers';
        ``each_round``: the same of every round; ``cores``, ``load`` (of one minute, before and
        after), ``pieces``, ``images``, ``right``, ``backend``.

    Raises
    ------
    ParameterError
        When there is too little to share out.
    EngineError
        When a turn read other plates than another.
    """
    if images < WORKERS[-1] * files or rounds < 1:
        raise ParameterError(
            f"{images} images in {rounds} rounds are too few: give at least "
            f"{WORKERS[-1] * files} and 1."
        )
    sent = send(model, with_files=True)
    load, rows, results = [os.getloadavg()[0]], [], []
    with tempfile.TemporaryDirectory(prefix="workers-", dir=private_folder()) as folder:
        first = write_scenes(Path(folder) / "first", WORKERS[-1] * files)
        scenes = write_scenes(Path(folder) / "scenes", images)
        for turn, workers in enumerate(WORKERS * rounds):
            with _cluster(workers, Path(folder) / f"turn{turn}" / "cache"):
                here = receive(sent)

                def run(pictures: Path, here: Any = here) -> Survey:
                    return survey(here, pictures, backend=backend, files=files, progress=False)

                run(first)
                found = run(scenes)
            rows.append({"workers": workers, "seconds": round(found.seconds, 3)})
            results.append((found.images, found.right, found.pieces))
            report(f"{workers} workers: {rows[-1]['seconds']} s")
    if len(set(results)) != 1:
        raise EngineError(f"other plates were read on another number of workers: {results}.")
    load.append(os.getloadavg()[0])
    return {
        "backend": backend,
        "images": found.images,
        "right": found.right,
        "pieces": found.pieces,
        "cores": len(os.sched_getaffinity(0)),
        "load": load,
        "rows": rows,
        **ratios(rows),
    }


def ratios(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians by workers, and how many times as fast two are as one, all in all and by round."""
    seconds = {
        workers: [row["seconds"] for row in rows if row["workers"] == workers]
        for workers in WORKERS
    }
    one, two = (statistics.median(seconds[workers]) for workers in WORKERS)
    return {
        "seconds": {"1": one, "2": two},
        "speedup": round(one / two, 3),
        "each_round": [round(a / b, 3) for a, b in zip(*seconds.values())],
    }


@contextlib.contextmanager
def _cluster(workers: int, cache: Path) -> Iterator[None]:
    """So many workers and this process, in a new cache that they share."""
    tool = find_compiler()  # looked for beside the common cache
    with variables(
        LPRNET_CACHE=str(cache), **({ENVIRONMENT_VARIABLE: str(tool.prefix)} if tool else {})
    ):
        made = Cluster(dict(os.environ) | _SETTINGS, [cache_dir()] * workers)
        try:
            with variables(**{scheduler.SCHEDULER_VARIABLE: made.address}):
                made.wait()
                yield
        finally:
            made.close()
