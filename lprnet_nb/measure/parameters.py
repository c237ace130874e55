"""Parameters of the notebooks and the report, checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..cache import repository
from ..decode import DECODERS
from ..errors import ParameterError
from ..evaluate.decision import TOLERANCE
from ..inputs import find_path, missing
from ..model.network import BATCH_MEANS
from ..runtime.device import device_there
from ..runtime.engine import BACKENDS
from ..toolchain.chips import parse_chip, parse_precision, supports
from ..toolchain.nntc.strategies import NntcStrategy
from ..toolchain.nntc.strategies import strategy_named as nntc_strategy_named
from ..toolchain.releases import release_named
from ..toolchain.strategies import Strategy, check_calibrates, strategy_named

DATA = ("auto", "published", "generated")
TOOLCHAINS: dict[str, Callable[[str, str], Strategy | NntcStrategy]] = {
    "mlir": strategy_named,  # where each finds strategies
    "nntc": nntc_strategy_named,
}
STRATEGIES = ("kl", "recommended")
CALIBRATIONS = ("pinned", "release")


@dataclass(frozen=True)
class Asked:
    """A strategy as it was asked for.

    Parameters
    ----------
    name
        What results call it: a registry's name, "recommended", or the name in a JSON file.
    by_chip
        What it is on each chip; "recommended" differs.
    """

    name: str
    by_chip: Mapping[str, Strategy | NntcStrategy]


@dataclass(frozen=True)
class Parameters:
    """Checked parameters; a notebook has those that it declares, the rest keep their defaults.

    Parameters
    ----------
    data
        "auto" (published where it can be had, else generated), "published", "generated", or the
        path of a folder of images.
    weights
        "auto" (those that go with the data), "published", "generated", or the path of a file.
    classes
        Path of a class list; "" for the published one.
    images
        How many images to evaluate, a fixed random choice; 0 for all.
    chips, precisions, batches, decoders
        What to compile and compare.
    strategies
        How to quantize, each looked up where the toolchain has its strategies.
    batch_mean
        "batch" (as published) or "image".
    backend
        See `runtime.open_engine`; never "auto", which is the device, else the emulator with the
        simulator as judge, and the simulator itself for TPU-NNTC, which leaves no graph to emulate.
    toolchain
        "mlir" or "nntc".
    tpu_mlir
        Releases of TPU-MLIR that generate code, such as "1.18.1", side by side where there are
        several; none for the one that `LPRNET_TPU_MLIR` names, else the pinned one.
    calibration
        Who chooses thresholds: "pinned" (the release that none stands for), or "release" (the one
        that generates code).
    tolerance
        Points of exact match (hundredths) that a model may lose against float.
    draws, folds
        Calibration draws of a study, and parts of its cross-fit.
    output
        Folder of the report; None shows results only.
    """

    data: str = "auto"
    weights: str = "auto"
    classes: str = ""
    images: int = 100
    chips: tuple[str, ...] = ("BM1684X", "BM1684")
    precisions: tuple[str, ...] = ("fp32", "int8")
    batches: tuple[int, ...] = (1,)
    strategies: tuple[Asked, ...] = ()
    decoders: tuple[str, ...] = ("greedy", "plate")
    batch_mean: str = "image"
    backend: str = "emulator"
    toolchain: str = "mlir"
    tpu_mlir: tuple[str, ...] = ()
    calibration: str = "pinned"
    tolerance: float = TOLERANCE
    draws: int = 5
    folds: int = 2
    output: Path | None = None


def check(**given: Any) -> Parameters:
    """Check notebook parameters, given by their upper-case names.

    Parameters
    ----------
    given
        ``CHIPS="BM1684X,BM1684"`` and so on: lists are comma-separated text or sequences.

    Returns
    -------
    Parameters

    Raises
    ------
    ParameterError
        For an unknown name or an impossible value, listing what is valid.

    Examples
    --------
    >>> check(CHIPS="bm1684x", BATCHES="1,4").batches
    (1, 4)
    """
    known = [field.name for field in fields(Parameters)]
    values: dict[str, Any] = {}
    for key, value in given.items():
        name = "output" if key == "OUTPUT_DIR" else key.lower()
        if name not in known or (key != key.upper()):
            possible = ", ".join("OUTPUT_DIR" if n == "output" else n.upper() for n in known)
            raise ParameterError(f"parameter {key!r} is not known. There are: {possible}.")
        values[name] = _CHECKS[name](key, value)
    names = values.pop("strategies", STRATEGIES)
    found = Parameters(**values)
    if values.get("backend", "auto") == "auto":
        found = replace(found, backend=_backend(found.toolchain))
    if "STRATEGIES" in given or "int8" in found.precisions:
        found = replace(found, strategies=_resolved(names, found))
    _check_release(found)
    return found


def _check_release(parameters: Parameters) -> None:
    """Refuse what the release of the compiler lacks, before anything runs."""
    releases = parameters.tpu_mlir
    if parameters.toolchain != "mlir" and (releases or parameters.calibration != "pinned"):
        raise ParameterError(
            f"TPU_MLIR={','.join(releases)!r}, CALIBRATION={parameters.calibration!r}: these are "
            f"of TPU-MLIR, and TOOLCHAIN={parameters.toolchain!r} is not."
        )
    if parameters.calibration == "release":
        found = (each for asked in parameters.strategies for each in asked.by_chip.values())
        for strategy in (each for each in found if isinstance(each, Strategy)):
            for release in releases:
                check_calibrates(release, strategy)


def _backend(toolchain: str) -> str:
    if device_there():
        return "device"
    return "emulator" if toolchain == "mlir" else "simulator"


def _resolved(names: Sequence[str], parameters: Parameters) -> tuple[Asked, ...]:
    """Strategies by name or from files, refused where two different ones have one name."""
    find = TOOLCHAINS[parameters.toolchain]
    asked: dict[str, Asked] = {}
    seen: dict[str, tuple[str, Strategy | NntcStrategy]] = {}
    for given in names:
        by_chip = {chip: find(given, chip) for chip in parameters.chips}
        name = by_chip[parameters.chips[0]].name if given.endswith(".json") else given
        if name in asked:
            raise ParameterError(
                f"STRATEGIES: two of {', '.join(names)} are called {name!r}, and results tell "
                "strategies apart by name. Give the one in a file another name."
            )
        asked[name] = Asked(name, by_chip)
        for chip, strategy in by_chip.items():
            other = seen.setdefault(strategy.name, (given, strategy))
            if other[1].model_dump(exclude={"about"}) != strategy.model_dump(exclude={"about"}):
                raise ParameterError(
                    f"STRATEGIES: {other[0]} and {given} for {chip} are different strategies, both "
                    f"called {strategy.name!r}. Give one of them another name."
                )
    return tuple(asked.values())


def _items(key: str, value: Any) -> list[Any]:
    items = (
        value.split(",")
        if isinstance(value, str)
        else (list(value) if isinstance(value, Sequence) else [value])
    )
    items = [item.strip() if isinstance(item, str) else item for item in items]
    if not items or "" in items:
        raise ParameterError(f"{key}={value!r} has an empty entry. Separate values by commas.")
    return items


def _each(parse: Callable[[Any], Any]) -> Any:
    def checked(key: str, value: Any) -> tuple[Any, ...]:
        parsed = tuple(parse(item) for item in _items(key, value))
        if len(set(parsed)) != len(parsed):
            raise ParameterError(f"{key}={value!r} names something twice.")
        return parsed

    return checked


def _number(key: str, value: Any, low: int, high: int) -> int:
    if (
        isinstance(value, bool)
        or not re.fullmatch(r"\d+", str(value))
        or not low <= int(value) <= high
    ):
        raise ParameterError(f"{key}={value!r} is not a whole number from {low} to {high}.")
    return int(value)


def _points(key: str, value: Any) -> float:
    try:
        points = float(value)
    except (TypeError, ValueError):
        points = -1.0
    if isinstance(value, bool) or not 0 <= points <= 100:
        raise ParameterError(f"{key}={value!r} is no number of points from 0 to 100, such as 1.0.")
    return points


def _one_of(valid: Sequence[str], path: str = "") -> Any:
    def checked(key: str, value: Any) -> str:
        if value in valid:
            return value
        more = f", or {path}" if path else ""
        if path and isinstance(value, str) and "\0" not in value:
            if re.search(r"[/\\.]", value) or find_path(value).exists():
                return value
            more += f" ({missing(value)})"
        raise ParameterError(f"{key}={value!r} is not known. Choose from {', '.join(valid)}{more}.")

    return checked


def _placed(check: Any, valid: Sequence[str] = ("",)) -> Any:
    """Where a value is no word of `valid` but a path: absolute, as `find_path` finds it."""

    def checked(key: str, value: Any) -> str:
        text = check(key, value)
        return text if text in valid else str(find_path(text))

    return checked


def placed(key: str, value: Any) -> Any:
    """A parameter for a notebook, which runs in the checkout: its paths lead there from anywhere.

    >>> placed("IMAGES", 100), placed("STRATEGIES", "kl,mse")
    (100, 'kl,mse')
    """
    if key in ("DATA", "WEIGHTS", "CLASSES"):
        return value if value in ("", *DATA) else _from_checkout(value)
    if key not in ("STRATEGIES", "DECODERS"):
        return value
    items = [
        _from_checkout(item) if str(item).endswith((".json", ".toml")) else item
        for item in _items(key, value)
    ]
    return ",".join(items) if isinstance(value, str) else items


def _from_checkout(value: str) -> str:
    path = find_path(value)
    inside = path.is_relative_to(repository())
    return str(path.relative_to(repository()) if inside else path)


_releases = _each(lambda item: release_named(str(item)).version)

_CHECKS: dict[str, Any] = {
    "data": _placed(_one_of(DATA, "the path of a folder of images"), DATA),
    "weights": _placed(_one_of(DATA, "the path of a file"), DATA),
    "classes": _placed(lambda key, value: str(value)),
    "images": lambda key, value: _number(key, value, 0, 10_000_000),
    "chips": _each(parse_chip),
    "precisions": _each(parse_precision),
    "batches": _each(lambda item: _number("BATCHES", item, 1, 256)),
    "strategies": _each(str),
    "decoders": _each(
        lambda item: _one_of(DECODERS, "the path of a grammar file")("DECODERS", item)
    ),
    "batch_mean": _one_of(BATCH_MEANS),
    "backend": _one_of(BACKENDS),
    "toolchain": _one_of(tuple(TOOLCHAINS)),
    "tpu_mlir": lambda key, value: _releases(key, value) if value else (),
    "calibration": _one_of(CALIBRATIONS),
    "tolerance": lambda key, value: _points(key, value),
    "draws": lambda key, value: _number(key, value, 1, 100),
    "folds": lambda key, value: _number(key, value, 2, 20),
    "output": lambda key, value: Path(value) if value else None,
}


Combination = tuple[str, str, int, Asked | None, str | None]


def combinations(parameters: Parameters) -> list[Combination]:
    """All ``(chip, precision, batch, strategy, release)`` to compile; `release` as it was named.

    What a chip cannot do is left out.
    """
    releases: tuple[str | None, ...] = parameters.tpu_mlir or (None,)
    found: list[Combination] = []
    for chip in parameters.chips:
        for precision in parameters.precisions:
            if not supports(chip, precision):
                continue
            strategies: tuple[Asked | None, ...] = (
                parameters.strategies if precision == "int8" else (None,)
            )
            found += [
                (chip, precision, batch, strategy, release)
                for batch in parameters.batches
                for strategy in strategies
                for release in releases
            ]
    if not found:
        raise ParameterError(
            f"{', '.join(parameters.chips)} cannot do {', '.join(parameters.precisions)}."
        )
    return found
