"""Does confidence, without any label, find the margin that crops want? Judged where labels are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..datasets.fetch import load_published
from ..datasets.generate import Severity, generate_plates
from ..datasets.images import PlateImages, subset
from ..datasets.margins import CANDIDATES, NONE, Margin, with_margin
from ..errors import DataError, ParameterError
from ..evaluate.margins import SAMPLE, choose_margin
from ..files import atomic_write, check_writable
from ..measure.data import float_readings
from ..memory import keep_memory
from ..model.own import load_own_weights
from ..model.trace import float_arithmetic
from ..model.weights import Weights, load_published_weights

SEED = 41  # of no plate that the packaged weights were trained on
GENERATED = (-0.05, 0.02, 0.1)  # margins that the generator's detector leaves, on average
PHOTOGRAPHS = (Margin(-0.05, -0.1), NONE, Margin(0.1, 0.2))


def measure_margins(
    plates: int = 300,
    output: Path | None = None,
    *,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Read sets of crops, tight to loose, at every candidate margin with the weights at hand.

    Parameters
    ----------
    plates
        Of each set; at least `SAMPLE`, on which the choice is made.
    output
        JSON file of the record.
    report
        Called with a line for each row.

    Returns
    -------
    dict
        JSON-able: ``rows`` of ``set``, ``weights``, ``n``; ``right`` and ``confidence`` by margin;
        ``chosen``, and ``best`` by labels; ``arithmetic``, ``sets`` and ``weights`` by digest.

    Raises
    ------
    ParameterError
        For fewer plates than a choice is made on.
    """
    if plates < SAMPLE:
        raise ParameterError(f"{plates} plates are too few: a choice is made on {SAMPLE}.")
    if output:
        check_writable(output)
    keep_memory()
    sets, known = list(_sets(plates)), [load_own_weights(), *_published()]
    rows = []
    for crops in sets:
        for weights in known:
            row = _row(crops, weights)
            rows.append(row)
            right, n = row["right"], row["n"]
            report(
                f"{row['set']}, {row['weights']}: none {right[str(NONE)]}, chosen {row['chosen']} "
                f"{right[row['chosen']]}, best {row['best']} {right[row['best']]} of {n}"
            )
    record = {
        "bench": "margins",
        "arithmetic": float_arithmetic(),
        "sets": {crops.name: crops.digest for crops in sets},
        "weights": {weights.name: weights.digest for weights in known},
        "rows": rows,
    }
    if output:
        atomic_write(output, json.dumps(record, indent=1) + "\n")
    return record


def _sets(plates: int) -> Iterator[PlateImages]:
    for part in GENERATED:
        drawn = generate_plates(plates, SEED, severity=Severity(margin=part))
        yield replace(drawn, name=f"generated, detector's margin {100 * part:g} %")
    try:
        photographs = subset(load_published(), plates, SEED)
    except DataError:
        return
    for margin in PHOTOGRAPHS:
        yield with_margin(photographs, margin)


def _published() -> list[Weights]:
    try:
        return [load_published_weights()]
    except DataError:
        return []


def _row(crops: PlateImages, weights: Weights) -> dict[str, Any]:
    read = {margin: float_readings(weights, with_margin(crops, margin)) for margin in CANDIDATES}
    right = {
        str(margin): sum(a == b for a, b in zip(readings.texts, crops.known_labels))
        for margin, readings in read.items()
    }
    choice = choose_margin(lambda sample: float_readings(weights, sample).confidence, crops)
    return {
        "set": crops.name,
        "weights": weights.name,
        "n": len(crops),
        "right": right,
        "confidence": {str(m): round(float(r.confidence.mean()), 4) for m, r in read.items()},
        "chosen": str(choice.margin),
        "gain": [round(bound, 4) for bound in choice.gain],
        "best": max(right, key=right.__getitem__),
    }
