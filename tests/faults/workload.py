"""The work that faults interrupt: a small model compiled, run on three backends and read.

``python -m tests.faults.workload`` does it in the cache that `LPRNET_CACHE` names and
prints what must be the same every time.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from lprnet_nb.cache import array_digest
from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.decode import Readings
from lprnet_nb.errors import LprnetError
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.runtime.inference import read_shard
from lprnet_nb.toolchain.compile import CalibrationTable
from lprnet_nb.toolchain.strategies import make_strategy
from lprnet_nb.work import scheduler
from lprnet_nb.work.pieces import Piece, compile_pieces, float_pieces, infer_pieces, score_piece

CHIP = "BM1688"  # the quickest to simulate
MODEL = "bm1688_int8_1b_faults"
IMAGES, SIMULATED, CALIBRATION = 6, 2, 4


def pieces() -> list[Piece]:
    """Trace, compile, infer in float, on the emulator and on the simulator, and read."""
    weights, plates = load_own_weights(), generate_plates(IMAGES, seed=5)
    strategy = make_strategy(name="faults", method="max", images=CALIBRATION, tune=0)
    floats = float_pieces(weights, plates, 1, "image")
    model = compile_pieces(
        MODEL,
        CHIP,
        "int8",
        1,
        "image",
        weights,
        strategy,
        generate_plates(CALIBRATION, seed=6).images,
    )
    emulated = infer_pieces(MODEL, model[-1].name, plates, "emulator", 1)
    simulated = infer_pieces(MODEL, model[-1].name, plates.take(slice(SIMULATED)), "simulator", 1)
    return [
        *floats,
        *model,
        *emulated,
        *simulated,
        score_piece("float_1b", floats[1:], weights.alphabet, "greedy"),
        score_piece(MODEL, emulated, weights.alphabet, "greedy"),
    ]


def summary(results: dict[str, Any]) -> str:
    """Logits by digest, thresholds and texts, as JSON."""
    found: dict[str, Any] = {}
    for name, value in sorted(results.items()):
        if name.startswith("infer/"):
            found[name] = array_digest(read_shard(value)[0])
        elif isinstance(value, Readings):
            found[name] = value.texts
        elif isinstance(value, CalibrationTable):
            found[name] = value.thresholds()
    return json.dumps(found, ensure_ascii=False, sort_keys=True)


def main() -> None:
    """Do the work; an error of ours is one message and exit status 2."""
    try:
        print(summary(scheduler.make(pieces(), "faults", progress=False)))
    except LprnetError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
