"""Does a confidence that was calibrated on one world hold on others, and does the warning tell?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.fetch import load_published
from ..datasets.generate import generate_plates
from ..datasets.images import PlateImages
from ..datasets.worlds import GENERATED, OF_PHOTOGRAPHS, SEED, generated
from ..decode import decode
from ..errors import ParameterError
from ..evaluate.accuracy import correct
from ..evaluate.calibration import Calibration, fit_calibration, reliability
from ..evaluate.likeness import FEWEST, Signs, unlike
from ..files import atomic_write, check_writable
from ..inputs import read_text
from ..memory import keep_memory
from ..model.own import load_own_weights
from ..model.trace import float_arithmetic, float_logits
from ..model.weights import Weights, load_published_weights
from ..places import repository
from ..runtime.likeness import greedy_signs

PHOTOGRAPHS = (
    "photographs",
    "margin-5",
    "margin-2.5",
    "margin+5",
    "margin+10",
    "blurred",
    "dark",
)
BINS = 5  # as notebook 05 draws them
REJECT = 0.95
HOLDS = 0.05  # calibration error up to which a confidence is said to hold
WORSE = 0.05  # of exact match lost, from which plates are read worse than those calibrated on


def measure_doubt(
    plates: int = 400,
    output: Path | None = None,
    *,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Calibrate both weights on photographs and on generated plates, and judge them on all worlds.

    One half of the published photographs calibrates, the other makes worlds: as it is, cut and
    widened, blurred, dark.

    Parameters
    ----------
    plates
        Of each world.
    output
        JSON file of the record.
    report
        Called with a line for each row.

    Returns
    -------
    dict
        JSON-able: ``rows`` of ``set``, ``weights``, ``n``, ``right``; ``ece`` of the confidence as
        it is; ``calibrated``, by the world that it was calibrated on: ``ece``, and of what
        ``--reject 0.95`` keeps ``kept`` and ``kept_right``; ``unlike``, the signs that warn of
        photographs' calibration; ``worse`` and ``holds``, which the warning is judged by.
        ``arithmetic``, ``sets`` and ``weights`` by digest.

    Raises
    ------
    ParameterError
        For fewer plates than a warning needs, or more than half of the photographs.
    DataError
        Without the published plates.
    """
    if not FEWEST <= plates <= 500:
        raise ParameterError(f"{plates} plates: give {FEWEST} to 500, half of the photographs.")
    if output:
        check_writable(output)
    keep_memory()
    calibrating, worlds = _worlds(plates)
    known = [load_own_weights(), load_published_weights()]
    rows = [row for weights in known for row in _rows(weights, calibrating, worlds, report)]
    record = {
        "bench": "doubt",
        "arithmetic": float_arithmetic(),
        "sets": {world.name: world.digest for world in (*calibrating.values(), *worlds)},
        "weights": {weights.name: weights.digest for weights in known},
        "rows": rows,
        "warning": {weights.name: _judged(rows, weights.name) for weights in known},
    }
    if output:
        atomic_write(output, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def committed_doubt() -> dict[str, Any] | None:
    """The record that comes with the repository, or None where it does not."""
    found = sorted((repository() / "data" / "verification" / "doubt").glob("*.json"))
    return json.loads(read_text(found[-1], "record of doubt")) if found else None


def _worlds(plates: int) -> tuple[dict[str, PlateImages], list[PlateImages]]:
    """Plates to calibrate on, by what they are, and the worlds to judge on."""
    published = load_published()
    order = np.random.default_rng(SEED).permutation(len(published))
    half, other = (published.take(np.sort(part)) for part in (order[:500], order[500:][:plates]))
    photographs = replace(other, name="photographs")
    calibrating = {
        "photographs": replace(half, name="photographs, calibrated on"),
        "generated": replace(generate_plates(500, SEED + 1), name="generated, calibrated on"),
    }
    changed = [OF_PHOTOGRAPHS[name](photographs) for name in PHOTOGRAPHS]
    return calibrating, [*changed, *(generated(plates, name) for name in GENERATED)]


def _rows(
    weights: Weights,
    calibrating: dict[str, PlateImages],
    worlds: list[PlateImages],
    report: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    fitted: dict[str, Calibration] = {}
    for name, plates in calibrating.items():
        logits, confidence, right = _read(weights, plates)
        fitted[name] = fit_calibration(confidence, right, name)
        if name == "photographs":
            signs = greedy_signs(logits, weights.alphabet, fitted[name])
            known, level = (signs, len(plates)), float(right.mean())
    for plates in worlds:
        logits, confidence, right = _read(weights, plates)
        row: dict[str, Any] = {
            "set": plates.name,
            "weights": weights.name,
            "n": len(plates),
            "right": int(right.sum()),
            "ece": round(reliability(confidence, right, bins=BINS).ece, 4),
            "calibrated": {
                name: _kept(one.apply(confidence), right) for name, one in fitted.items()
            },
        }
        found: Signs = greedy_signs(logits, weights.alphabet, fitted["photographs"])
        row["unlike"] = unlike(found, len(plates), *known)
        row["worse"] = bool(level - right.mean() > WORSE)
        row["holds"] = row["calibrated"]["photographs"]["ece"] <= HOLDS
        report(
            f"{row['set']}, {row['weights']}: {row['right']} of {row['n']}, calibration error "
            f"{row['ece']:.3f}, calibrated on photographs "
            f"{row['calibrated']['photographs']['ece']:.3f}, warned by {list(row['unlike'])}"
        )
        yield row


def _read(weights: Weights, plates: PlateImages) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, greedy confidence, and whether each reading is right."""
    logits = float_logits(weights, plates, batch=16)
    readings = decode(logits, weights.alphabet)
    return logits, readings.confidence, correct(plates.known_labels, readings.texts)


def _kept(confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    kept = confidence >= REJECT
    return {
        "ece": round(reliability(confidence, right, bins=BINS).ece, 4),
        "kept": int(kept.sum()),
        "kept_right": int(right[kept].sum()),
    }


def _judged(rows: list[dict[str, Any]], weights: str) -> dict[str, int]:
    """How often the warning came where plates are read worse, or their confidence does not hold."""
    mine = [row for row in rows if row["weights"] == weights]
    wanted = [row["worse"] or not row["holds"] for row in mine]
    warned = [bool(row["unlike"]) for row in mine]
    return {
        "hits": sum(a and b for a, b in zip(wanted, warned)),
        "misses": sum(a and not b for a, b in zip(wanted, warned)),
        "false_alarms": sum(b and not a for a, b in zip(wanted, warned)),
        "rightly_silent": sum(not a and not b for a, b in zip(wanted, warned)),
    }
