"""Whether plates are like those that a confidence was calibrated on, told by a network's logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..datasets.alphabet import Alphabet
from ..decode import decode
from ..decode.characters import character_confidence
from ..evaluate.calibration import Calibration
from ..evaluate.calibrations import packaged_calibration, packaged_signs
from ..evaluate.likeness import Signs, signs_of, unlike


def greedy_signs(logits: np.ndarray, alphabet: Alphabet, calibration: Calibration) -> Signs:
    """`evaluate.likeness.signs_of` the greedy readings of logits ``[N, classes, T]``.

    Parameters
    ----------
    logits, alphabet
        As `decode` takes them.
    calibration
        Of the greedy confidence.
    """
    readings = decode(logits, alphabet)
    characters = character_confidence(logits, readings.texts, alphabet)
    return signs_of(
        readings.texts,
        calibration.apply(readings.confidence),
        np.array([each[0] if each else 0.0 for each in characters]),
        logits.argmax(axis=1),
        alphabet.blank,
    )


def unlike_calibrated(weights: str, logits: np.ndarray, alphabet: Alphabet) -> dict[str, Any]:
    """Signs by which plates are unlike those that known weights were calibrated on.

    Parameters
    ----------
    weights
        "published" or "generated", which only those weights themselves are called.
    logits, alphabet
        Of all plates, as `decode` takes them.

    Returns
    -------
    dict
        JSON-able: ``plates``, ``on``, and ``signs``, see `evaluate.likeness.unlike`; empty where
        there are none, or nothing is known of the weights.
    """
    known, calibration = packaged_signs(weights), packaged_calibration(weights, "greedy")
    if known is None or calibration is None:
        return {}
    signs, plates, on = known
    found = unlike(greedy_signs(logits, alphabet, calibration), len(logits), signs, plates)
    return {"plates": len(logits), "on": on, "signs": found} if found else {}
