"""The work that faults interrupt: a small model compiled, run on three backends and read.

``python -m tests.faults.workload`` does it in the cache that `LPRNET_CACHE` names and
prints what must be the same every time. Given seconds, it does so on two worker processes
of its own, which are given so long to start; given more, a silent one is replaced after those.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from lprnet_nb.cache import array_digest
from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.errors import LprnetError
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.runtime.inference import read_shards
from lprnet_nb.toolchain.compile import CalibrationTable
from lprnet_nb.toolchain.strategies import make_strategy
from lprnet_nb.work import scheduler
from lprnet_nb.work.pieces import (
    Piece,
    Scored,
    compile_piece,
    float_run,
    model_run,
    score_piece,
    trace_piece,
    with_needs,
)

CHIP = "BM1688"  # the quickest to simulate
MODEL = "bm1688_int8_1b_faults"
IMAGES, SIMULATED, CALIBRATION = 6, 2, 4


def pieces() -> list[Piece]:
    """Trace, compile, infer in float, on the emulator and on the simulator, and read."""
    weights, plates = load_own_weights(), generate_plates(IMAGES, seed=5)
    strategy = make_strategy(name="faults", method="max", images=CALIBRATION, tune=0)
    model = compile_piece(
        MODEL,
        trace_piece(weights, 1, "image", strategy.form),
        CHIP,
        "int8",
        strategy,
        generate_plates(CALIBRATION, seed=6).images,
    )
    runs = [
        float_run(weights, plates, 1, "image"),
        model_run(MODEL, model, plates, "emulator", 1),
        model_run(MODEL, model, plates.take(slice(SIMULATED)), "simulator", 1),
    ]
    scores = [score_piece(run, weights.alphabet, "greedy") for run in runs[:2]]
    return with_needs([*(piece for run in runs for piece in run.shards), *scores])


def summary(results: dict[Piece, Any]) -> str:
    """Logits by digest, thresholds and texts, as JSON."""
    found: dict[str, Any] = {}
    named = {piece.name: value for piece, value in results.items()}
    for name, value in sorted(named.items()):
        if name.startswith("infer/"):
            found[name] = array_digest(read_shards([value]).logits)
        elif isinstance(value, Scored):
            found[name] = value.readings.texts
        elif isinstance(value, CalibrationTable):
            found[name] = value.thresholds()
    return json.dumps(found, ensure_ascii=False, sort_keys=True)


def main() -> None:
    """Do the work; an error of ours is one message and exit status 2."""
    if sys.argv[1:]:
        scheduler.ALONE_SECONDS = float(sys.argv[1])
        scheduler.STALLED_SECONDS = float(sys.argv[2])
        scheduler.workers_here = lambda: 2
        scheduler._in_processes = lambda pieces: True
    try:
        print(summary(scheduler.make(pieces(), "faults", progress=False)))
    except LprnetError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
