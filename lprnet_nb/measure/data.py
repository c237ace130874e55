"""What a run evaluates, calibrates on and compiles: images and weights as the parameters say."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ..datasets import fetch
from ..datasets.alphabet import PUBLISHED, Alphabet, read_alphabet
from ..datasets.folder import PlateFiles, list_plates
from ..datasets.images import PlateImages, choose
from ..datasets.margins import NONE, Margin, parse_margin, with_margin
from ..decode import Readings, decode
from ..errors import DataError, ParameterError
from ..evaluate.margins import Choice, choose_margin
from ..inputs import note
from ..language import ENGLISH, Text, phrase, within
from ..model.trace import float_logits
from ..model.weights import Weights, load_published_weights, load_weights
from ..settings import settings
from ..toolchain.packaged import TOOLCHAIN as PACKAGED
from .parameters import NETWORK, Parameters, without_prefix

SUBSET_SEED = 0  # the fixed subset of a quick report
CALIBRATION_SEED = 1
GENERATED_IMAGES = 1000
FEWEST_CALIBRATION = 20  # images apart from the judged ones that are still a calibration set


@dataclass(frozen=True)
class Data:
    """What a run evaluates, calibrates on and compiles.

    Parameters
    ----------
    judged
        Plates to evaluate; a folder's are read when `plates` is asked for.
    pool
        Plates to calibrate on: those that are not evaluated, where there are enough.
    overlap
        Whether calibration images are among the evaluated ones.
    weights
        Network weights with their class list.
    source
        "published", "generated" or "folder".
    reason
        Why this source, where the user left it open.
    loading
        Wall time in which `judged` was read, where it was read at once.
    wanted
        Margin that every crop gets, judged or calibrated on; None to choose it by confidence.
    """

    judged: PlateImages | PlateFiles
    pool: PlateImages | PlateFiles
    overlap: bool
    weights: Weights
    source: str
    reason: str
    loading: float = 0.0
    wanted: Margin | None = NONE

    @property
    def plates(self) -> PlateImages:
        """Images to evaluate, with labels unless they were not asked for."""
        return self._reading[0]

    @property
    def seconds(self) -> float:
        """Wall time of reading and decoding `plates`."""
        return self._reading[1]

    @cached_property
    def _reading(self) -> tuple[PlateImages, float]:
        margin, started = self.margin, time.perf_counter()
        plates = with_margin(self.judged, margin)
        here = isinstance(self.judged, PlateImages)
        return plates, self.loading if here else time.perf_counter() - started

    @property
    def margin(self) -> Margin:
        """What is added to every crop."""
        return self.choice.margin if self.choice else self.wanted or NONE

    @cached_property
    def choice(self) -> Choice | None:
        """How the float network chose the margin, without labels; None where it was said."""
        if self.wanted is not None:
            return None
        choice = choose_margin(
            lambda crops: float_readings(self.weights, crops).confidence, self.judged
        )
        note(choice.said())
        return choice

    def calibration_images(self, count: int) -> np.ndarray:
        """A fixed random draw for calibration, uint8 ``[N, height, width, 3]``: `count`, or all."""
        count = min(count, len(self.pool))
        drawn = self.pool.take(choose(len(self.pool), count, CALIBRATION_SEED))
        return with_margin(drawn, self.margin).images

    def description(self) -> dict[str, Any]:
        """The ``dataset`` part of ``metrics.json``, and where calibration images come from."""
        return {
            "name": self.plates.name,
            "images": len(self.plates),
            "digest": self.plates.digest,
            "source": self.source,
            "reason": within(self.reason, ENGLISH),
            "weights": self.weights.name,
            **({} if self.wanted == NONE else {"margin": str(self.margin)}),
            "calibration": {
                "name": self.pool.name,
                "images": len(self.pool),
                "among_evaluated": self.overlap,
            },
        }


def float_readings(weights: Weights, plates: PlateImages) -> Readings:
    """What the float network reads, greedily, many images a call where it takes them."""
    logits = float_logits(weights, plates, batch=16 if weights.of.batches else 1)
    return decode(logits, weights.alphabet)


def datasets_for(parameters: Parameters, *, labels: bool = True) -> Data:
    """Find images and weights as the parameters say; a folder is listed, and read when needed.

    Parameters
    ----------
    parameters
        Checked ones.
    labels
        Whether the plates are to be judged; to compile, calibrate and read needs no labels.

    Raises
    ------
    DataError
        When the data that was asked for is not there. With ``data="auto"`` the published data is
        fetched if possible, else generated plates are used and `Data.reason` says why.
    """
    alphabet = _alphabet(parameters)
    source, reason = _source(parameters.data)
    weights = _weights(parameters, source, alphabet)
    alphabet, size = weights.alphabet, weights.of.size
    labels = labels and weights.of.interface.kind == "ctc"
    started = time.perf_counter()
    from ..datasets.generate import kept_plates

    if source == "published":
        everything: PlateImages | PlateFiles = fetch.load_published()
    elif source == "generated":
        everything = kept_plates(max(parameters.images, GENERATED_IMAGES), seed=0)
    else:
        folder = without_prefix(parameters.data)
        skip = labels and folder != parameters.data
        files = list_plates(folder, alphabet if labels else None, skip_unknown=skip)
        everything = replace(files, size=size)
    everything = _for_network(everything, weights, labels)
    count, total = parameters.images, len(everything)
    each = (time.perf_counter() - started) / total
    chosen = choose(total, count, SUBSET_SEED) if 0 < count < total else np.arange(total)
    judged = everything if len(chosen) == total else everything.take(chosen)
    pool: PlateImages | PlateFiles
    if source == "generated" or parameters.toolchain == PACKAGED:  # what that was calibrated on
        pool, overlap = kept_plates(GENERATED_IMAGES, seed=1).fitted(size), False
    else:
        rest = np.setdiff1d(np.arange(total), chosen)
        overlap = len(rest) < FEWEST_CALIBRATION
        pool = everything if overlap else everything.take(rest)
    if overlap and labels and source == "folder" and "int8" in parameters.precisions:
        note(
            f"{judged.name}: {len(judged)} of {total} plates are judged, so that calibration draws "
            f"from them too. Set IMAGES to {total - FEWEST_CALIBRATION} or less to keep them "
            "apart."
            if total > FEWEST_CALIBRATION
            else f"{judged.name}: {total} plates are too few to keep some apart for calibration; "
            "it draws from those that are judged."
        )
    wanted = parse_margin(parameters.margin)
    _check_margin(wanted, source, weights)
    return Data(judged, pool, overlap, weights, source, reason, each * len(judged), wanted)


def _check_margin(wanted: Margin | None, source: str, weights: Weights) -> None:
    if source == "published" and wanted != NONE:
        raise ParameterError(
            "MARGIN is for plates of one's own: the published ones are judged as they are, since "
            "all figures of others are of them so. Name DATA, or set MARGIN='none'."
        )
    if wanted is None and weights.of.interface.kind != "ctc":
        raise ParameterError(
            f"MARGIN='auto' goes by the confidence of readings, and network {weights.name} gives "
            "none. Say X/Y, or none."
        )


def _for_network(
    plates: PlateImages | PlateFiles, weights: Weights, labels: bool
) -> PlateImages | PlateFiles:
    """Plates at a network's size; those whose labels it cannot write are no use to judge it."""
    if isinstance(plates, PlateFiles) or not weights.of.onnx:
        return plates
    unwritten = [text for text in plates.labels or () if not weights.alphabet.writes(text)]
    if unwritten and labels:
        raise DataError(
            f"{plates.name}: label {unwritten[0]!r} is not written in the classes of network "
            f"{weights.name}. Name a folder of plates that it reads (DATA, --data)."
        )
    if unwritten:
        note(
            f"{plates.name}: its plates are not of the kind that network {weights.name} reads. "
            "Name a folder of those (--data): thresholds follow from the pictures."
        )
        plates = replace(plates, labels=None)
    return plates.fitted(weights.of.size)


def weights_for(parameters: Parameters) -> Weights:
    """The weights that the parameters name, without loading images."""
    wanted = parameters.weights == "auto" and parameters.network == NETWORK
    source = _source(parameters.data)[0] if wanted else ""
    return _weights(parameters, source, _alphabet(parameters))


def _alphabet(parameters: Parameters) -> Alphabet:
    return read_alphabet(parameters.classes) if parameters.classes else PUBLISHED


def _source(data: str) -> tuple[str, Text]:
    if data == "generated":
        return data, phrase("chosen")
    if data == "published":
        fetch.fetch_published()
        return data, phrase("chosen")
    if data != "auto":
        return "folder", phrase("chosen")
    return _found_source(settings().mirror)


@lru_cache
def _found_source(mirror: str | None) -> tuple[str, Text]:
    if fetch.is_published_data_here():
        return "published", phrase("the published data is at hand")
    try:
        fetch.fetch_published(mirror=mirror)
        return "published", phrase("the published data could be fetched")
    except DataError as error:
        return "generated", phrase("the published data is not reachable: {error}", error=str(error))


def _weights(parameters: Parameters, source: str, alphabet: Alphabet) -> Weights:
    if parameters.network != NETWORK:
        from ..model.network_file import network_weights, read_network

        return network_weights(read_network(parameters.network))
    name = parameters.weights
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
