"""Calibrations of known weights that come with the package."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from .calibration import Calibration
from .likeness import Signs

FILE = "calibrations.json"


@cache
def _rows() -> list[dict[str, Any]]:
    """What `proof.calibrations` measured."""
    text = resources.files(__package__).joinpath(FILE).read_text("utf8")
    return json.loads(text)


def packaged_calibration(weights: str, decoder: str) -> Calibration | None:
    """The calibration of weights as a decoder reads with them; None where none was made.

    Parameters
    ----------
    weights
        "published" or "generated", which only those weights themselves are called.
    decoder
        `Readings.decoder`.
    """
    for row in _rows():
        if (row["weights"], row["decoder"]) == (weights, decoder):
            return Calibration(row["intercept"], row["slope"], row["on"])
    return None


def packaged_signs(weights: str) -> tuple[Signs, int, str] | None:
    """What the plates looked like that known weights were calibrated on, read greedily.

    Parameters
    ----------
    weights
        As for `packaged_calibration`.

    Returns
    -------
    tuple or None
        Signs, of how many plates, and which.
    """
    for row in _rows():
        if row["weights"] == weights and "signs" in row:
            signs = {name: (mean, spread) for name, (mean, spread) in row["signs"].items()}
            return signs, row["plates"], row["on"]
    return None
