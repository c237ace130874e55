"""Plates read from picture files: text, how sure it is, and what each step took."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.folder import PlateFiles
from ..datasets.images import PlateImages
from ..datasets.margins import NONE, Margin, with_margin
from ..datasets.pictures import list_pictures
from ..decode import DECODERS, Readings, decode
from ..decode.characters import character_confidence, in_grammar
from ..decode.top import top
from ..decode.views import decode_views, stretched
from ..errors import ParameterError
from ..evaluate.calibration import Calibration
from ..evaluate.calibrations import packaged_calibration
from ..evaluate.likeness import unlike_said
from ..evaluate.margins import SAMPLE, SLOW_SAMPLE, Choice, choose_margin
from ..inputs import note
from ..toolchain.bmodel import BModel
from .inference import infer_plates
from .likeness import unlike_calibrated
from .views import check_views

STAGES = ("decode", "preprocess", "inference", "postprocess")  # of the vendor's tables


@dataclass(frozen=True)
class Read:
    """Plates as they were read.

    Parameters
    ----------
    names, readings
        By picture.
    confidence
        float64 ``[N]``: calibrated where `calibration` says on what, else the decoder's own.
    characters
        Confidence of each character of each text, see `decode.characters`; never calibrated.
    grammar
        Whether each text is in the decoder's grammar, else a plate.
    calibration
        What makes the confidence a share of right readings; None where nothing does.
    milliseconds
        An image, by `STAGES`: when the logits were made, which may be an earlier run.
    backend
        What made them.
    margin
        What was added on each side of every crop.
    unlike
        See `likeness.unlike_calibrated`; empty where the plates are not known to be unlike.
    """

    names: tuple[str, ...]
    readings: Readings
    confidence: np.ndarray
    characters: list[list[float]]
    grammar: list[bool]
    calibration: Calibration | None
    milliseconds: dict[str, float]
    backend: str
    margin: str = str(NONE)
    unlike: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def take(self, kept: np.ndarray) -> Read:
        """Those that `kept`, bool ``[N]``, is true for."""
        places = np.flatnonzero(kept)
        return replace(
            self,
            names=tuple(self.names[i] for i in places),
            readings=self.readings.take(places),
            confidence=self.confidence[places],
            characters=[self.characters[i] for i in places],
            grammar=[self.grammar[i] for i in places],
        )

    def plates(self) -> dict[str, str]:
        """Text by file name."""
        return dict(zip(self.names, self.readings.texts))

    def table(self) -> list[list[str]]:
        """`facts` as a table with a heading, a line for each plate."""
        facts = self.facts()
        rows = [["file", "plate", "confidence", "characters", "second", "grammar"]]
        rows[0] += [f"{stage}_ms" for stage in facts["milliseconds"]]
        for name, one in facts["plates"].items():
            sure = " ".join(map(str, one["characters"]))
            valid = "yes" if one["grammar"] else "no"
            row = [name, one["plate"], one["confidence"], sure, one["second"], valid]
            rows.append([str(cell) for cell in (*row, *facts["milliseconds"].values())])
        return rows

    def facts(self) -> dict[str, Any]:
        """JSON-able: how it was read, and what by file name."""
        return {
            "backend": self.backend,
            "decoder": self.readings.decoder,
            "margin": self.margin,
            "confidence": said_of(self.calibration),
            **({"unlike": dict(self.unlike)} if self.unlike else {}),
            "milliseconds": {name: round(value, 4) for name, value in self.milliseconds.items()},
            "plates": {
                name: {
                    "plate": self.readings.texts[index],
                    "confidence": round(float(self.confidence[index]), 6),
                    "characters": [round(value, 6) for value in self.characters[index]],
                    "second": self.readings.runner_up[index],
                    "grammar": self.grammar[index],
                }
                for index, name in enumerate(self.names)
            },
        }


def said_of(calibration: Calibration | None) -> str:
    """What a confidence is, for people."""
    if calibration is None:
        return "the decoder's own: it orders readings, and was calibrated on nothing"
    return f"calibrated on {calibration.on}"


def read_pictures(
    model: BModel,
    places: Sequence[str | Path],
    backend: str = "auto",
    decoder: str = "greedy",
    *,
    views: bool = False,
    trust: bool = False,
    margin: Margin | None = NONE,
) -> Read:
    """Read pictures, folders or lists of them with a model.

    Parameters
    ----------
    model
        The BModel.
    places
        As for `pictures.list_pictures`.
    backend, decoder
        See `open_engine` and `decode`.
    views
        Read each plate three times, see `views.read_views`.
    trust
        See `open_engine`.
    margin
        What is added on each side of every crop; None to choose it by the readings' confidence,
        which a note then says.

    Raises
    ------
    DataError
        When an image is unreadable or there is none.
    ParameterError, EngineError
        As `open_engine`, `decode` and `views.read_views`.
    """
    started = time.perf_counter()
    taken = model.interface.input
    pictures = list_pictures(places, (taken.height, taken.width))
    listing = time.perf_counter() - started
    if margin is None:
        choice = _choice(model, pictures, backend, decoder, trust)
        note(choice.said())
        margin = choice.margin
    started = time.perf_counter()
    plates = with_margin(pictures, margin)
    seconds = {"decode": listing + time.perf_counter() - started}
    read = read_images(model, plates, backend, decoder, seconds, views=views, trust=trust)
    if read.unlike:
        note(unlike_said(**read.unlike))
    return replace(read, margin=str(margin))


def _choice(
    model: BModel, plates: PlateImages | PlateFiles, backend: str, decoder: str, trust: bool
) -> Choice:
    if model.interface.kind != "ctc":
        raise ParameterError(
            f"a margin is chosen by the confidence of readings, and {model.path} gives none. Say "
            "--margin X/Y, or none."
        )

    def confidence(crops: PlateImages) -> np.ndarray:
        logits = infer_plates(model, crops, backend, trust=trust).logits
        return decode(logits, model.alphabet, decoder).confidence

    slow = backend == "simulator"  # half a second and more an image
    return choose_margin(confidence, plates, sample=SLOW_SAMPLE if slow else SAMPLE)


def read_images(
    model: BModel,
    plates: PlateImages,
    backend: str,
    decoder: str,
    seconds: dict[str, float],
    *,
    views: bool = False,
    trust: bool = False,
) -> Read:
    """As `read_pictures`, of pictures that took `seconds` to be read."""
    ctc = model.interface.kind == "ctc"
    if views:
        check_views(decoder)
    looks = stretched(plates.images) if views else plates.images[None]
    made = [
        infer_plates(model, replace(plates, images=look), backend, progress=True, trust=trust)
        for look in looks
    ]
    for stage in ("preprocess", "inference"):
        seconds[stage] = sum(one.seconds.get(stage, 0.0) for one in made)
    logits = np.stack([one.logits for one in made])
    started = time.perf_counter()
    if not ctc:
        readings = top(logits.mean(axis=0), model.alphabet)
    elif views:
        readings = decode_views(logits, model.alphabet, decoder)
    else:
        readings = decode(logits[0], model.alphabet, decoder)
    seconds["postprocess"] = time.perf_counter() - started
    # A grammar file may be called what a packaged one is.
    known = ctc and decoder in DECODERS
    calibration = packaged_calibration(model.weights, readings.decoder) if known else None
    return Read(
        plates.names,
        readings,
        readings.confidence if calibration is None else calibration.apply(readings.confidence),
        _characters(logits, readings, model) if ctc else [[] for _ in readings.texts],
        in_grammar(readings),
        calibration,
        {stage: 1000 * seconds[stage] / len(plates) for stage in STAGES},
        made[0].description["backend"],
        unlike=unlike_calibrated(model.weights, logits[0], model.alphabet) if ctc else {},
    )


def _characters(logits: np.ndarray, readings: Readings, model: BModel) -> list[list[float]]:
    """Mean over the looks at each plate."""
    looks = [character_confidence(look, readings.texts, model.alphabet) for look in logits]
    return [[float(np.mean(values)) for values in zip(*same)] for same in zip(*looks)]
