"""What was measured on a box: the results of a kit's ``run.py``, and how they enter a report.

A results file is believed where its seal fits, where it is of the report's own plates and chips,
and where its logits are those of the report's own BModels: each model is known by its SHA-256.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..cache import file_digest
from ..datasets.images import PlateImages
from ..errors import DataError
from ..evaluate.timings import STAGES
from ..files import read_bytes
from ..inputs import note
from ..language import Text, phrase
from ..toolchain.bmodel import BModel

FORMAT: Final = 1
Sha256 = Field(pattern=r"^[0-9a-f]{64}$")
KitBackend = Literal["simulator", "emulator"]
OnBox = Literal["plates", "bmcv", "bmrt_test"]
# Of the box itself in a report's manifest: all but the names that its owner gave, and paths.
_PRIVATE = {"host", "sail_module", "bmrt_test"}


def judge_said(judge: str) -> str:
    """Who made the logits that others are held against, in words."""
    said: dict[str, Text] = {"simulator": phrase("simulator"), "emulator": phrase("emulator")}
    return said.get(judge, judge)


class Part(BaseModel):
    """A part of a kit's files: no unknown key, nothing changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Spread(Part):
    """Milliseconds an image over timed calls."""

    model_config = ConfigDict(allow_inf_nan=False)

    median: float = Field(ge=0)
    quartiles: tuple[float, float]
    least: float
    most: float
    calls: int = Field(ge=1)
    images_per_call: int = Field(ge=1)


class Program(Part):
    """What one program made of a model: the plates by arrays, bmcv, or ``bmrt_test``."""

    passed: bool
    detail: str
    seconds: float | None
    temperature: dict[str, float]
    digests: list[str] | None = None
    different: dict[str, str] | None = None
    largest_difference: float | None = None
    readings: list[str] | None = None
    times_ms: dict[str, Spread] = {}


class MeasuredModel(Part):
    """A model of the kit on the box; `backend` made the logits that it was compared with."""

    id: str
    sha256: str = Sha256
    expected: str = Sha256
    backend: KitBackend
    programs: dict[OnBox, Program]


class MeasuredCheck(Part):
    """One check of one model."""

    check: str
    model: str
    passed: bool
    detail: str
    seconds: float | None


class Box(Part):
    """The machine that measured: what it says of itself; null for what could not be read."""

    board: str | None
    chip: str | None
    target: str | None
    devices: int
    system: str | None
    kernel: str
    machine: str
    processors: int | None
    memory_mb: int | None
    host: str
    sdk: str | None
    driver: str | None
    python: str
    numpy: str
    opencv: str | None
    sail: str | None
    sail_module: str
    sail_file: str | None
    runtime: dict[str, str]
    bmcv: bool
    bmrt_test: str | None
    temperature: dict[str, float]
    clock_hz: dict[str, int]


class Results(Part):
    """``results.json``, as ``run.py`` writes it."""

    format: Literal[1]
    kit: str = Sha256
    chip: str
    box: Box
    settings: dict[str, float]
    plates: list[str]
    checks: list[MeasuredCheck]
    models: list[MeasuredModel]
    seal: str = Sha256

    @property
    def name(self) -> str:
        """What the box is called in a report: its board, else its chip."""
        return self.box.board or f"{self.chip} box"


# ---- Reading -----------------------------------------------------------------------------------

_Read = TypeVar("_Read", bound=Part)


def read_part(path: Path, kind: type[_Read], otherwise: str) -> _Read:
    """A JSON file of a kit, checked; `otherwise` says what it should have been.

    Raises
    ------
    DataError
        When it cannot be read or is something else, with the place in it.
    """
    try:
        return kind.model_validate_json(read_bytes(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; it {otherwise}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        what = kind.__name__.lower()
        raise DataError(f"{path} is no {what} file: {where}: {first['msg']}.") from error


def read_results(path: str | Path) -> Results:
    """What a kit's ``run.py`` wrote, checked against its own seal and in itself.

    Raises
    ------
    DataError
        When the file cannot be read, is none, was edited, or does not agree with itself.
    """
    path = Path(path)
    results = read_part(path, Results, "is what a kit's run.py writes")
    values = json.loads(read_bytes(path))
    seal = values.pop("seal")
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(text.encode("ascii")).hexdigest() != seal:
        raise DataError(
            f"{path} was changed after run.py wrote it (its seal does not fit). Fetch it again, or "
            "run the kit again."
        )
    for model in results.models:
        found = model.programs.get("plates")
        if found is not None and found.digests is not None:
            _check_logits(path, model, found, len(results.plates))
    return results


def _check_logits(path: Path, model: MeasuredModel, found: Program, count: int) -> None:
    if found.digests is None or len(found.digests) != count:
        raise DataError(f"{path}: {model.id} has not one digest a plate.")
    for index, text in (found.different or {}).items():
        try:
            raw = base64.b64decode(text, validate=True)
            expected = dict(enumerate(found.digests))[int(index)]
        except (binascii.Error, ValueError, LookupError) as error:
            raise DataError(f"{path}: {model.id}, plate {index}: {error}.") from error
        if hashlib.sha256(raw).hexdigest() != expected:
            raise DataError(f"{path}: {model.id}, plate {index}: logits and digest differ.")


def logits_digest(row: np.ndarray) -> str:
    """SHA-256 of one plate's float32 logits, as hex."""
    return hashlib.sha256(np.ascontiguousarray(row, np.float32).data).hexdigest()


def plate_digest(image: np.ndarray) -> str:
    """SHA-256 of a plate's pixels, uint8 BGR ``[24, 94, 3]``, as hex."""
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()


def measured_logits(model: MeasuredModel, expected: np.ndarray) -> np.ndarray:
    """The logits that the box gave, from the expected ones and those that it says differ.

    Parameters
    ----------
    model
        With its plates run.
    expected
        float32 ``[N, classes, 18]``, the logits in the kit or the same ones made here.

    Raises
    ------
    DataError
        When logits that are said to be the expected ones are not these.
    """
    found = model.programs["plates"]
    logits = np.ascontiguousarray(expected, np.float32).copy()
    for place, text in (found.different or {}).items():
        raw = base64.b64decode(text)
        if len(raw) != logits[0].nbytes:
            raise DataError(
                f"results of {model.id}: plate {place} has {len(raw)} bytes of logits, and the "
                f"model gives {logits[0].nbytes}. Make the kit again and run it again."
            )
        logits[int(place)] = np.frombuffer(raw, np.float32).reshape(logits.shape[1:])
    for index, row in enumerate(logits):
        if logits_digest(row) != (found.digests or ())[index]:
            raise DataError(
                f"results of {model.id}: plate {index} was compared with other logits than the "
                "ones at hand. Make the kit again and run it again."
            )
    return logits


# ---- Into a report -----------------------------------------------------------------------------


@dataclass(frozen=True)
class BoxRun:
    """A BModel of the report on a box.

    Parameters
    ----------
    file
        SHA-256 of the results file, by which a report's files name it.
    results
        All of that file.
    model
        This BModel in it.
    """

    file: str
    results: Results
    model: MeasuredModel

    @property
    def plates(self) -> Program:
        """The program that read the plates."""
        return self.model.programs["plates"]

    @property
    def program(self) -> str:
        """How the files were decoded and resized in that program's times."""
        return "opencv" if self.results.box.opencv else "numpy"

    @property
    def times(self) -> dict[str, dict[str, Spread]]:
        """Times by program and step: the steps of its own, the run alone, and ``bmrt_test``."""
        found = {self.program: dict(self.plates.times_ms)}
        for name in ("bmcv", "bmrt_test"):
            done = self.model.programs.get(name)
            if done is not None and done.times_ms:
                found.setdefault("bmcv" if name == "bmcv" else self.program, {}).update(
                    done.times_ms
                )
        return found

    @property
    def call(self) -> tuple[float, str]:
        """Milliseconds an image of the network alone, as published tables have it, and by what."""
        return network_time(self.times[self.program])

    @property
    def stages(self) -> dict[str, float]:
        """Milliseconds an image by the vendor's stages, medians."""
        times = self.times[self.program]
        return {stage: times[stage].median for stage in STAGES if stage in times}


def network_time(times: Mapping[str, Any]) -> tuple[float, str]:
    """Milliseconds an image of the network alone, and by what: the SDK's program, else sail.

    `times` are spreads by step, as in `Program` or in `schema.BoxTimes`.
    """
    if "bmrt_test" in times:
        return times["bmrt_test"].median, "bmrt_test"
    return times["runtime"].median, "run alone, DEVIO"


def read_fitting(
    paths: Iterable[str | Path], plates: PlateImages, chips: Sequence[str]
) -> dict[Path, Results]:
    """Results of these plates and chips, by their file.

    Raises
    ------
    DataError
        As `read_results`; also for other plates or chips, and where two files have measured one
        model: it says what differs.
    """
    ours = [plate_digest(image) for image in plates.images]
    found: dict[Path, Results] = {}
    owner: dict[str, tuple[Path, str]] = {}
    for path in map(Path, paths):
        results = found[path] = read_results(path)
        if results.chip not in chips:
            raise DataError(
                f"{path} is of a {results.chip}, and the report's models are for "
                f"{', '.join(chips) or 'no chip'}. Name its chip too, or leave the file out."
            )
        if results.plates != ours:
            both = len(set(ours) & set(results.plates))
            raise DataError(
                f"{path} was measured on other plates: {len(results.plates)} there, {len(ours)} "
                f"here, {both} of them the same. Make a kit with the report's --data and --images."
            )
        for model in results.models:
            first, name = owner.setdefault(model.sha256, (path, model.id))
            if first != path:
                raise DataError(
                    f"{first} and {path} both measured {name}. A report shows one box a model: "
                    "name one of them here, and the other for another report."
                )
    return found


def box_runs(
    paths: Iterable[str | Path], plates: PlateImages, models: Mapping[str, BModel]
) -> dict[str, BoxRun]:
    """Which of our models a box has run, by our name for each.

    What else a file has measured is named in a note, and so is a model that did not come through
    there.

    Raises
    ------
    DataError
        As `read_fitting`; also when a file holds none of the models.
    """
    chips = list(dict.fromkeys(model.chip for model in models.values()))
    found: dict[str, BoxRun] = {}
    for path, results in read_fitting(paths, plates, chips).items():
        mine = {
            name: each
            for name, one in models.items()
            if (each := _named_alike(name, one, results)) is not None
        }
        if not mine:
            names = ", ".join(f"{each.id} ({each.sha256[:12]})" for each in results.models)
            raise DataError(
                f"{path} holds no model of this report: it is of {names}. Make the kit with the "
                "report's weights, precisions, batches, cores and strategies, and run it again."
            )
        file, known = file_digest(path), {model.sha256 for model in models.values()}
        foreign = [each.id for each in results.models if each.sha256 not in known]
        if foreign:
            note(f"{path} also measured {', '.join(foreign)}, which are no models of this report.")
        for name, each in mine.items():
            done = each.programs.get("plates")
            if done is None or done.digests is None:
                why = "was not run" if done is None else done.detail
                note(f"{path}: {name} has no readings: {why}")
            else:
                found[name] = BoxRun(file, results, each)
    return found


def _named_alike(name: str, model: BModel, results: Results) -> MeasuredModel | None:
    """A BModel in results; of several that are one file, that of our name.

    At batch 1 a BModel for two cores can be the very one for one core.
    """
    same = [each for each in results.models if each.sha256 == model.sha256]
    return next((each for each in same if each.id == name), same[0] if same else None)


def box_facts(path: str | Path) -> dict[str, Any]:
    """A results file for a report's manifest, see `schema.BoxFacts`."""
    results = read_results(path)
    failed = [f"{one.check} {one.model}" for one in results.checks if not one.passed]
    return {
        "file": Path(path).name,
        "sha256": file_digest(path),
        "kit": results.kit,
        "chip": results.chip,
        "name": results.name,
        "settings": results.settings,
        "checks": {"passed": len(results.checks) - len(failed), "failed": failed},
        "box": results.box.model_dump(mode="json", exclude=_PRIVATE),
    }
