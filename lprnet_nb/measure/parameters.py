"""Parameters of the notebooks and the report, checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..decode import DECODERS
from ..errors import ParameterError
from ..model.network import BATCH_MEANS
from ..runtime.engine import BACKENDS
from ..toolchain.chips import parse_chip, parse_precision, supports
from ..toolchain.nntc.strategies import strategy_named as nntc_strategy_named
from ..toolchain.strategies import strategy_named

DATA = ("auto", "published", "generated")
TOOLCHAINS = ("mlir", "nntc")


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
    chips, precisions, batches, strategies, decoders
        What to compile and compare.
    batch_mean
        "batch" (as published) or "image".
    backend
        See `runtime.open_engine`; "auto" is the device, else the emulator with the simulator as
        judge.
    toolchain
        "mlir" or "nntc".
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
    strategies: tuple[str, ...] = ("kl", "recommended")
    decoders: tuple[str, ...] = ("greedy", "plate")
    batch_mean: str = "image"
    backend: str = "auto"
    toolchain: str = "mlir"
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
    found = Parameters(**values)
    find = nntc_strategy_named if found.toolchain == "nntc" else strategy_named
    for name in found.strategies if "strategies" in values else ():
        find(name, found.chips[0])
    return found


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


def _one_of(valid: Sequence[str], path: str = "") -> Any:
    def checked(key: str, value: Any) -> str:
        if value in valid or (
            path
            and isinstance(value, str)
            and (Path(value).exists() or re.search(r"[/\\.]", value))
        ):
            return value
        more = f", or {path}" if path else ""
        raise ParameterError(f"{key}={value!r} is not known. Choose from {', '.join(valid)}{more}.")

    return checked


_CHECKS: dict[str, Any] = {
    "data": _one_of(DATA, "the path of a folder of images"),
    "weights": _one_of(DATA, "the path of a file"),
    "classes": lambda key, value: str(value),
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
    "toolchain": _one_of(TOOLCHAINS),
    "draws": lambda key, value: _number(key, value, 1, 100),
    "folds": lambda key, value: _number(key, value, 2, 20),
    "output": lambda key, value: Path(value) if value else None,
}


def combinations(parameters: Parameters) -> list[tuple[str, str, int, str | None]]:
    """All ``(chip, precision, batch, strategy)`` to compile; what a chip cannot do is left out."""
    found = []
    for chip in parameters.chips:
        for precision in parameters.precisions:
            if not supports(chip, precision):
                continue
            strategies = parameters.strategies if precision == "int8" else (None,)
            found += [
                (chip, precision, batch, strategy)
                for batch in parameters.batches
                for strategy in strategies
            ]
    if not found:
        raise ParameterError(
            f"{', '.join(parameters.chips)} cannot do {', '.join(parameters.precisions)}."
        )
    return found


def _strategy(parameters: Parameters, name: str, chip: str) -> Any:
    find = nntc_strategy_named if parameters.toolchain == "nntc" else strategy_named
    return find(name, chip)
