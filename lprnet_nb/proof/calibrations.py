"""What a confidence of known weights is worth: ``evaluate/calibrations.json``.

``python -m lprnet_nb.proof.calibrations`` reads the published plates with the published weights and
with our own, in float, and writes the calibration of every packaged decoder.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import fetch
from ..datasets.images import PlateImages
from ..decode import DECODERS, Readings, decode
from ..decode.views import decode_views, stretched
from ..evaluate import calibration
from ..evaluate.accuracy import correct
from ..evaluate.calibration import Calibration, fit_calibration, reliability
from ..evaluate.calibrations import FILE
from ..files import atomic_write
from ..memory import keep_memory
from ..model.own import load_own_weights
from ..model.trace import float_logits
from ..model.weights import Weights, load_published_weights
from ..runtime.likeness import greedy_signs

FOLDS = 2  # of the calibration error: what a half says of the other
BATCH = 50  # images a call, which change nothing but the time
BINS = 5  # as notebook 05 draws them
VIEWS_DECODER = "plate"


def measure(weights: Weights, plates: PlateImages) -> list[dict[str, Any]]:
    """A row for each decoder: calibration, and the calibration error before and after.

    That of greedy, the first, also has the signs that such plates are known by.

    A grammar that reads no plate rightly, such as one of new-energy plates alone, has none.

    Parameters
    ----------
    weights
        The network, run in float.
    plates
        Labelled ones.
    """
    looks = np.stack(
        [
            float_logits(weights, replace(plates, images=look), batch=BATCH)
            for look in stretched(plates.images)
        ]
    )
    read = [decode(looks[0], weights.alphabet, decoder) for decoder in DECODERS]
    read.append(decode_views(looks, weights.alphabet, VIEWS_DECODER))
    found = []
    for readings in read:
        right = correct(plates.known_labels, readings.texts)
        if right.any():
            found.append(_row(weights, readings, right))
    greedy = Calibration(found[0]["intercept"], found[0]["slope"], found[0]["on"])
    signs = greedy_signs(looks[0], weights.alphabet, greedy)
    rounded = {name: [round(value, 4) for value in of] for name, of in signs.items()}
    found[0] |= {"plates": len(plates), "signs": rounded}
    return found


def _row(weights: Weights, readings: Readings, right: np.ndarray) -> dict[str, Any]:
    on = f"the {len(right):,} published plates, read in float"
    fitted = fit_calibration(readings.confidence, right, on)
    before = reliability(readings.confidence, right, bins=BINS).ece
    after = reliability(_apart(readings, right), right, bins=BINS).ece
    return {
        "weights": weights.name,
        "decoder": readings.decoder,
        "on": on,
        "intercept": round(fitted.intercept, 3),
        "slope": round(fitted.slope, 3),
        "ece": round(before, 4),
        "ece_calibrated": round(after, 4),
    }


def _apart(readings: Readings, right: np.ndarray) -> np.ndarray:
    """Confidence of each part of the plates, calibrated on the others."""
    found = readings.confidence.copy()
    part = np.random.default_rng(0).permutation(len(found)) % FOLDS
    for fold in range(FOLDS):
        judged = part == fold
        fitted = fit_calibration(readings.confidence[~judged], right[~judged], "the other part")
        found[judged] = fitted.apply(readings.confidence[judged])
    return found


def main() -> None:
    """Write the packaged calibrations."""
    keep_memory()
    fetch.fetch_published()
    plates = fetch.load_published()
    rows = [
        row
        for weights in (load_published_weights(), load_own_weights())
        for row in measure(weights, plates)
    ]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    print(atomic_write(Path(calibration.__file__).parent / FILE, f"[\n{lines}\n]\n"))


if __name__ == "__main__":
    main()
