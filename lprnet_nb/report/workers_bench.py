"""What a second worker brings: the same missing inference on one worker and on two, in turn."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..cache import array_digest, cache_dir
from ..datasets.generate import generate_plates
from ..datasets.images import PlateImages
from ..errors import EngineError, ParameterError
from ..runtime.inference import infer_shard, read_shard, shards
from ..toolchain.environment import ENVIRONMENT_VARIABLE, find_compiler
from . import scheduler
from .faults.processes import Cluster
from .pieces import Piece
from .survey_bench import int8_model
from .transport import receive, send

WORKERS = (1, 2)


def bench_workers(images: int, rounds: int, *, chip: str = "BM1688",
                  report: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Simulate generated plates on one worker and on two; see `measure_workers`.

    Parameters
    ----------
    images, rounds, report
        See `measure_workers`.
    chip
        Whose INT8 BModel is simulated.
    """
    found = measure_workers(int8_model(chip), generate_plates(images, seed=13), "simulator",
                            rounds, report=report)
    return {"bench": "workers", "chip": chip, **found}


def measure_workers(model: Any, plates: PlateImages, backend: str, rounds: int, *,
                    report: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Run the same shards on each number of workers, turn by turn, each turn in a new cache.

    Each worker is a process of its own with one thread, started by hand beside a scheduler; the
    starting, and opening the model once in each, are not counted. The caller only waits.

    Parameters
    ----------
    model, backend
        As `open_engine` takes them; the model lies in the cache.
    plates
        What is run; at least as many shards of it as there are workers.
    rounds
        Turns of each number of workers.
    report
        Called with a line for each turn.

    Returns
    -------
    dict
        JSON-able: ``rows`` of ``workers`` and wall ``seconds``, in the order they were run;
        ``seconds``: the median by workers; ``speedup``: one worker's median by two workers';
        ``each_round``: the same of every round; ``cores``, ``load`` (of one minute, before and
        after), ``pieces``, ``images``, ``backend``.

    Raises
    ------
    ParameterError
        When there is too little to share out.
    EngineError
        When a turn's logits differ from another's.
    """
    parts = shards(len(plates), model.batch, backend)
    if len(parts) < WORKERS[-1] or rounds < 1:
        raise ParameterError(f"{len(plates)} images in {rounds} rounds are too few: "
                             f"{WORKERS[-1]} workers need that many pieces of "
                             f"{parts[0].stop if parts else 1} images.")
    sent = send(model, with_files=True)
    load, rows, digests = [os.getloadavg()[0]], [], set()
    for _ in range(rounds):
        for workers in WORKERS:
            with _cluster(workers):
                here = receive(sent)
                _make(here, [plates.images[:number + 1] for number in range(workers)], backend)
                started = time.perf_counter()
                made = _make(here, [plates.images[part] for part in parts], backend)
                rows.append({"workers": workers,
                             "seconds": round(time.perf_counter() - started, 3)})
                digests.add(tuple(array_digest(read_shard(folder)[0]) for folder in made))
            report(f"{workers} workers: {rows[-1]['seconds']} s")
    if len(digests) != 1:
        raise EngineError("the same shards gave other logits on another number of workers.")
    load.append(os.getloadavg()[0])
    return {"backend": backend, "images": len(plates), "pieces": len(parts),
            "cores": len(os.sched_getaffinity(0)), "load": load, "rows": rows, **ratios(rows)}


def ratios(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians by workers, and how many times as fast two are as one, all in all and by round."""
    seconds = {workers: [row["seconds"] for row in rows if row["workers"] == workers]
               for workers in WORKERS}
    one, two = (statistics.median(seconds[workers]) for workers in WORKERS)
    return {"seconds": {"1": one, "2": two}, "speedup": round(one / two, 3),
            "each_round": [round(a / b, 3) for a, b in zip(*seconds.values())]}


def _make(model: Any, images: list[Any], backend: str) -> list[Path]:
    pieces = [Piece(f"infer/workers/{number}", infer_shard,
                    {"model": model, "images": part, "backend": backend})
              for number, part in enumerate(images)]
    made = scheduler.make(pieces, "workers", progress=False)
    return [made[piece.name] for piece in pieces]


@contextlib.contextmanager
def _cluster(workers: int) -> Iterator[None]:
    """So many workers and this process, in a new cache that they share."""
    with tempfile.TemporaryDirectory(prefix="lprnet-workers-") as folder:
        tool = find_compiler()  # has the simulator; looked for beside the common cache
        with _variables(LPRNET_CACHE=str(Path(folder) / "cache"),
                        **({ENVIRONMENT_VARIABLE: str(tool.prefix)} if tool else {})):
            made = Cluster(dict(os.environ) | {"OMP_NUM_THREADS": "1"}, [cache_dir()] * workers)
            try:
                with _variables(**{scheduler.SCHEDULER_VARIABLE: made.address}):
                    made.wait()
                    yield
            finally:
                made.close()


@contextlib.contextmanager
def _variables(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
