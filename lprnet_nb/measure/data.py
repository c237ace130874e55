"""What a run evaluates, calibrates on and compiles: images and weights as the parameters say."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..datasets import fetch
from ..datasets.alphabet import PUBLISHED, Alphabet, read_alphabet
from ..datasets.folder import load_plates
from ..datasets.images import PlateImages, subset
from ..errors import DataError, ParameterError
from ..model.weights import Weights, load_published_weights, load_weights
from .parameters import Parameters, calibration_need

SUBSET_SEED = 0  # the fixed subset of a quick report
CALIBRATION_SEED = 1
GENERATED_IMAGES = 1000


@dataclass(frozen=True)
class Data:
    """What a run evaluates, calibrates on and compiles.

    Parameters
    ----------
    plates
        Images to evaluate, with labels.
    pool
        Images to calibrate on: those that are not evaluated where there are enough.
    overlap
        Whether calibration images are among the evaluated ones.
    weights
        Network weights with their class list.
    source
        "published", "generated" or "folder".
    reason
        Why this source, where the user left it open.
    seconds
        Wall time of reading and decoding `plates`.
    """

    plates: PlateImages
    pool: PlateImages
    overlap: bool
    weights: Weights
    source: str
    reason: str
    seconds: float

    def calibration_images(self, count: int) -> np.ndarray:
        """A fixed random draw for calibration, uint8 ``[count, 24, 94, 3]``.

        Raises
        ------
        ParameterError
            When there are fewer images to draw from.
        """
        self.check_calibration(count)
        return subset(self.pool, count, CALIBRATION_SEED).images

    def check_calibration(self, count: int) -> None:
        """Raise a ParameterError when there are fewer images to draw from than `count`."""
        if count > len(self.pool):
            raise ParameterError(
                f"calibration takes {count} images, and {self.pool.name} has {len(self.pool)}. "
                "Choose strategies that take fewer, such as kl-20 and mse-20, or give more images."
            )

    def description(self) -> dict[str, Any]:
        """The ``dataset`` part of ``metrics.json``, and where calibration images come from."""
        return {
            "name": self.plates.name,
            "images": len(self.plates),
            "digest": self.plates.digest,
            "source": self.source,
            "reason": self.reason,
            "weights": self.weights.name,
            "calibration": {
                "name": self.pool.name,
                "images": len(self.pool),
                "among_evaluated": self.overlap,
            },
        }


def datasets_for(parameters: Parameters) -> Data:
    """Load images and weights as the parameters say.

    Raises
    ------
    DataError
        When the data that was asked for cannot be had. With ``data="auto"`` the published data is
        fetched if possible, else generated plates are used and `Data.reason` says why.
    """
    alphabet = _alphabet(parameters)
    source, reason = _source(parameters.data)
    weights = _weights(parameters.weights, source, alphabet)
    started = time.perf_counter()
    if source == "published":
        everything = fetch.load_published()
    elif source == "generated":
        from ..datasets.generate import generate_plates

        everything = generate_plates(max(parameters.images, GENERATED_IMAGES), seed=0)
    else:
        everything = load_plates(parameters.data, alphabet)
    seconds = (time.perf_counter() - started) / len(everything)
    if source == "generated":
        plates = _evaluated(everything, parameters.images)
        pool, overlap = generate_plates(GENERATED_IMAGES, seed=1), False
    else:
        plates = _evaluated(everything, parameters.images)
        rest = sorted(
            set(range(len(everything))) - {everything.names.index(n) for n in plates.names}
        )
        overlap = len(rest) < max(len(everything) // 2, calibration_need(parameters))
        pool = everything if overlap else everything.take(rest)
    return Data(plates, pool, overlap, weights, source, reason, seconds * len(plates))


def weights_for(parameters: Parameters) -> Weights:
    """The weights that the parameters name, without loading images."""
    source = _source(parameters.data)[0] if parameters.weights == "auto" else ""
    return _weights(parameters.weights, source, _alphabet(parameters))


def _alphabet(parameters: Parameters) -> Alphabet:
    return read_alphabet(parameters.classes) if parameters.classes else PUBLISHED


def _evaluated(everything: PlateImages, images: int) -> PlateImages:
    if everything.labels is None:
        raise DataError(f"{everything.name} has no labels to evaluate against.")
    if images == 0 or images == len(everything):
        return everything
    return subset(everything, images, SUBSET_SEED)


def _source(data: str) -> tuple[str, str]:
    if data == "generated":
        return data, "chosen"
    if data == "published":
        fetch.fetch_published()
        return data, "chosen"
    if data != "auto":
        return "folder", "chosen"
    return _found_source(os.environ.get("LPRNET_MIRROR"))


@lru_cache
def _found_source(mirror: str | None) -> tuple[str, str]:
    if fetch.is_published_data_here():
        return "published", "the published data is at hand"
    try:
        fetch.fetch_published(mirror=mirror)
        return "published", "the published data could be fetched"
    except DataError as error:
        return "generated", f"the published data cannot be had: {error}"


def _weights(name: str, source: str, alphabet: Alphabet) -> Weights:
    if name == "auto":
        name = "generated" if source == "generated" else "published"
    if name == "published":
        if not fetch.weights_path().exists():
            fetch.fetch_published()
        return load_published_weights()
    if name == "generated":
        from ..model.own import load_own_weights

        return load_own_weights()
    return load_weights(name, alphabet)
