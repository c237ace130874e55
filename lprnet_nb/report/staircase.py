"""Step by step from float to what is read in the end, of a report's own rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluate.published import LATEST, OURS, published_accuracy
from ..language import phrase
from ..measure.schema import Metrics, Row
from .board_times import VENDORS_STRATEGY

GRAMMAR = "plate"


@dataclass(frozen=True)
class Stair:
    """One step of a chip.

    Attributes
    ----------
    name
        For people.
    exact_match
        Share of plates read without any error.
    reference
        Float's, by the same decoder.
    row
        Where it is from; None for what the vendor publishes.
    """

    name: str
    exact_match: float
    reference: float | None
    row: Row | None


def staircase(metrics: Metrics, decoder: str) -> dict[str, Any]:
    """Steps by chip, and the scale that they are drawn on, in per cent of its height.

    Parameters
    ----------
    metrics
        A checked ``metrics.json``.
    decoder
        Of the verdict; the last step reads with the grammar of plates.

    Returns
    -------
    dict
        ``chips``: `Stair` by chip, where there are at least two with INT8 among them; ``place``: a
        function from a share to per cent; ``vendors``: whether any is the vendor's own.
    """
    found = {}
    for chip in dict.fromkeys(row.chip for row in metrics.rows if row.chip):
        steps = _steps(metrics, chip, decoder)
        if any(step.row and step.row.precision == "int8" for step in steps):
            found[chip] = steps
    values = [
        value
        for steps in found.values()
        for step in steps
        for value in (step.exact_match, step.reference)
        if value is not None
    ]
    low, high = min(values, default=0.0), max(values, default=1.0)
    span = max(high - low, 0.01)

    def place(value: float) -> float:
        return round(8 + 84 * (value - low) / span, 3)

    vendors = any(step.row is None for steps in found.values() for step in steps)
    return {"chips": found, "place": place, "vendors": vendors}


def _steps(metrics: Metrics, chip: str, decoder: str) -> list[Stair]:
    rows = [row for row in metrics.rows if row.exact_match is not None]
    batch = min((row.batch for row in rows if row.chip == chip), default=1)

    def one(chip: str | None, strategy: str | None, decoder: str, precision: str) -> Row | None:
        wanted = (chip, strategy, decoder, precision, batch)
        return next(
            (
                row
                for row in rows
                if (row.chip, row.strategy, row.decoder, row.precision, row.batch) == wanted
            ),
            None,
        )

    floats = {name: one(None, None, name, "fp32") for name in (decoder, GRAMMAR)}
    default = one(chip, VENDORS_STRATEGY, decoder, "int8")
    told = [
        (phrase("float"), floats[decoder], decoder),
        (phrase("INT8, the compiler's default"), default, decoder),
        (phrase("INT8, recommended"), one(chip, "recommended", decoder, "int8"), decoder),
    ]
    if decoder != GRAMMAR:
        best = one(chip, "recommended", GRAMMAR, "int8")
        told.append((phrase("read with the grammar"), best, GRAMMAR))

    def reference(decoder: str) -> float | None:
        row = floats[decoder]
        return row.exact_match if row else None

    steps = [
        Stair(name, row.exact_match, reference(read_by), row)
        for name, row, read_by in told
        if row and row.exact_match is not None
    ]
    beside = _vendors(metrics, chip, batch, reference(decoder))
    return [*steps[:1], *beside, *steps[1:]] if floats[decoder] else [*beside, *steps]


def _vendors(metrics: Metrics, chip: str, batch: int, reference: float | None) -> Sequence[Stair]:
    """What the vendor publishes for its own INT8 model, where that is of the same plates."""
    source = metrics.data
    if not source or (source.source, source.weights) != ("published", "published"):
        return []
    return [
        Stair(phrase("INT8, the vendor's own"), one.exact_match, reference, None)
        for one in published_accuracy(chip, "int8")
        if (one.source, one.batch) == (LATEST, batch) and one.program in OURS
    ][:1]
