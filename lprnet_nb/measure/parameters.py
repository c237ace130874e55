"""Parameters of the notebooks and the report, checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..datasets.margins import NONE, parse_margin
from ..decode import DECODERS
from ..errors import ParameterError
from ..evaluate.decision import TOLERANCE
from ..inputs import find_path, missing
from ..language import ENGLISH, known
from ..model.lprnet import LPRNET
from ..places import repository
from ..runtime.device import device_there
from ..runtime.engine import BACKENDS
from ..runtime.foreign import Said
from ..toolchain.chips import CORES, check_cores, parse_chip, parse_precision, supports
from ..toolchain.nntc.strategies import NntcStrategy
from ..toolchain.nntc.strategies import strategy_named as nntc_strategy_named
from ..toolchain.packaged import TOOLCHAIN as PACKAGED
from ..toolchain.packaged import WEIGHTS as PACKAGED_WEIGHTS
from ..toolchain.releases import release_named
from ..toolchain.strategies import Strategy, check_calibrates, check_generates, strategy_named

DATA = ("auto", "published", "generated")
NETWORK = LPRNET.name  # the one that the workbook is about
SKIP_UNKNOWN = "skip-unknown:"  # before a folder in DATA
TOOLCHAINS: dict[str, Callable[[str, str], Strategy | NntcStrategy]] = {
    "mlir": strategy_named,  # where each finds strategies
    "nntc": nntc_strategy_named,
    PACKAGED: strategy_named,  # those of TPU-MLIR, where a graph by them is packaged
}
AUTO = "auto"  # of STRATEGIES and DECODERS, those that suit the network
STRATEGIES = ("kl", "recommended")
USUAL_DECODERS = ("greedy", "plate")
# For networks and class lists of users: the other ones were found for the published plates.
OWN_STRATEGIES = ("kl",)
OWN_DECODERS = ("greedy", "beam")
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
        "auto" (published where it is reachable, else generated), "published", "generated", or the
        path of a folder of images; with ``skip-unknown:`` before it, plates whose labels have
        characters that are not in the class list are left out.
    margin
        What is added to every crop: "none", "auto" (chosen by confidence), or ``X/Y`` in percent,
        see `datasets.margins`.
    network
        "lprnet", or the path of a user's network, see `model.network_file`.
    weights
        "auto" (those that go with the data), "published", "generated", or the path of a file; a
        user's network has its own.
    classes
        Path of a class list; "" for the published one.
    study
        Path of a study of the network; "" for the one that comes with the repository, of LPRNet.
    images
        How many images to evaluate, a fixed random choice; 0 for all.
    chips, precisions, batches, decoders
        What to compile and compare.
    cores
        TPU cores that one call is spread over; every chip must have them.
    strategies
        How to quantize, each looked up where the toolchain has its strategies.
    batch_mean
        "batch" (as published) or "image".
    backend
        See `runtime.open_engine`; never "auto", which is the device, else the emulator with the
        simulator as judge, and the simulator itself for TPU-NNTC, which leaves no graph to emulate.
    measured
        Paths of results files of kits (see `box`), to be shown beside `backend`'s.
    toolchain
        "mlir", "nntc", or "packaged": what TPU-MLIR made of the packaged weights, see
        `toolchain.packaged`; "auto" is then generated plates and these weights.
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
    bmodels
        Paths of BModels from elsewhere, to be judged beside those that are compiled.
    trust
        Whether to run these: they hold instructions that are run as they are.
    mean, scale, pixel_format
        How they take pixels, see `runtime.foreign.Said`; "" is as the published weights do.
    language
        Of prose and sentences, "en" or "zh"; a report's pages have both.
    output
        Folder of the report; None shows results only.
    """

    data: str = "auto"
    margin: str = "none"
    network: str = NETWORK
    weights: str = "auto"
    classes: str = ""
    study: str = ""
    images: int = 100
    chips: tuple[str, ...] = ("BM1684X", "BM1684")
    precisions: tuple[str, ...] = ("fp32", "int8")
    batches: tuple[int, ...] = (1,)
    cores: tuple[int, ...] = (1,)
    strategies: tuple[Asked, ...] = ()
    decoders: tuple[str, ...] = USUAL_DECODERS
    batch_mean: str = "image"
    backend: str = "emulator"
    measured: tuple[str, ...] = ()
    toolchain: str = "mlir"
    tpu_mlir: tuple[str, ...] = ()
    calibration: str = "pinned"
    tolerance: float = TOLERANCE
    draws: int = 5
    folds: int = 2
    bmodels: tuple[str, ...] = ()
    trust: bool = False
    mean: str = ""
    scale: str = ""
    pixel_format: str = ""
    language: str = ENGLISH
    output: Path | None = None


NAMES = tuple(
    "OUTPUT_DIR" if field.name == "output" else field.name.upper() for field in fields(Parameters)
)


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
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in NAMES:
            raise ParameterError(f"parameter {key!r} is not known. There are: {', '.join(NAMES)}.")
        name = "output" if key == "OUTPUT_DIR" else key.lower()
        values[name] = _CHECKS[name](key, value)
    if values.get("toolchain") == PACKAGED:
        of_the_package = {"data": "generated", "weights": PACKAGED_WEIGHTS, "backend": "emulator"}
        values |= {k: v for k, v in of_the_package.items() if values.get(k, "auto") == "auto"}
    own = values.get("network", NETWORK) != NETWORK
    names = values.pop("strategies", (AUTO,))
    if names == (AUTO,):
        names = OWN_STRATEGIES if own else STRATEGIES
    if values.get("decoders", (AUTO,)) == (AUTO,):
        values["decoders"] = OWN_DECODERS if own or values.get("classes") else USUAL_DECODERS
    found = Parameters(**values)
    if values.get("backend", "auto") == "auto":
        found = replace(found, backend=_backend(found.toolchain))
    if "STRATEGIES" in given or "int8" in found.precisions:
        found = replace(found, strategies=_resolved(names, found))
    _check_network(found)
    _check_release(found)
    _check_packaged(found)
    _check_cores(found)
    if found.measured and found.backend == "device":
        raise ParameterError(
            "MEASURED beside BACKEND='device': a report shows one device a model. Name "
            "BACKEND='emulator' (or 'simulator'), or leave MEASURED out."
        )
    _check_foreign(found)
    return found


def _check_network(parameters: Parameters) -> None:
    """Refuse for a user's network what is LPRNet's alone."""
    if parameters.network == NETWORK:
        return
    usual = Parameters()
    for name in ("weights", "classes", "batch_mean", "toolchain"):
        value = getattr(parameters, name)
        if value != getattr(usual, name):
            raise ParameterError(
                f"{name.upper()}={value!r} is for {NETWORK} alone: {parameters.network} has its "
                "own weights and class list, and TPU-MLIR compiles it, image by image."
            )
    for asked in parameters.strategies:
        special = [
            s.name for s in asked.by_chip.values() if isinstance(s, Strategy) and s.of_lprnet
        ]
        if special:
            raise ParameterError(
                f"strategy {special[0]!r} names layers or a form that {NETWORK} alone has. Name "
                "another, such as mse-ends, or a JSON file with float_roles of first, last, "
                "name:PATTERN or op:PATTERN."
            )


def _check_packaged(parameters: Parameters) -> None:
    """Refuse what only compiling gives."""
    if parameters.toolchain != PACKAGED:
        return
    possible = {"weights": PACKAGED_WEIGHTS, "backend": "emulator", "batch_mean": "image"}
    for name, value in possible.items():
        if getattr(parameters, name) != value:
            raise ParameterError(
                f"{name.upper()}={getattr(parameters, name)!r} takes the compiler: what is "
                f"packaged has {value!r} alone. Set that, or TOOLCHAIN='mlir'."
            )


def _check_cores(parameters: Parameters) -> None:
    """Refuse cores that a chip or a toolchain has not."""
    for chip in parameters.chips:
        for count in parameters.cores:
            check_cores(chip, count)
    if parameters.toolchain != "mlir" and parameters.cores != (1,):
        raise ParameterError(
            f"CORES={','.join(map(str, parameters.cores))}: TOOLCHAIN={parameters.toolchain!r} "
            "compiles for one core. Set TOOLCHAIN='mlir'."
        )


def said_of(parameters: Parameters) -> Said:
    """What the parameters say of BModels from elsewhere."""
    return Said(parameters.mean or None, parameters.scale or None, parameters.pixel_format or None)


def _check_foreign(parameters: Parameters) -> None:
    """Refuse BModels from elsewhere unless they are trusted, and what is said of none."""
    said = said_of(parameters)
    said.input()
    if not parameters.bmodels and said.options:
        raise ParameterError(f"{', '.join(said.options)}: for BMODELS, and none is named.")
    if parameters.bmodels and not parameters.trust:
        raise ParameterError(
            f"BMODELS={', '.join(parameters.bmodels)}: these were not made here, and they hold "
            "instructions that are run as they are. If you know where they come from, say so: "
            "--trust, in a notebook TRUST = True."
        )


def _check_release(parameters: Parameters) -> None:
    """Refuse what the release of the compiler lacks, before anything runs."""
    releases = parameters.tpu_mlir
    if parameters.toolchain != "mlir" and (releases or parameters.calibration != "pinned"):
        raise ParameterError(
            f"TPU_MLIR={','.join(releases)!r}, CALIBRATION={parameters.calibration!r}: these are "
            f"of TPU-MLIR, and TOOLCHAIN={parameters.toolchain!r} is not."
        )
    found = (each for asked in parameters.strategies for each in asked.by_chip.values())
    for strategy in (each for each in found if isinstance(each, Strategy)):
        for release in releases:
            check_generates(release, strategy)
            if parameters.calibration == "release":
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


def _truth(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ParameterError(f"{key}={value!r} is neither True nor False.")
    return value


def _bmodels(key: str, value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    return tuple(str(find_path(path)) for path in _each(str)(key, value))


def _placed(check: Any, valid: Sequence[str] = ("",)) -> Any:
    """Where a value is no word of `valid` but a path: absolute, as `find_path` finds it."""

    def checked(key: str, value: Any) -> str:
        text = check(key, value)
        return text if text in valid else str(find_path(text))

    return checked


def _data(key: str, value: Any) -> str:
    folder = without_prefix(value)
    if folder != value and folder in ("", *DATA):
        raise ParameterError(
            f"{key}={value!r}: only a folder of one's own can have labels with characters that are "
            "not in the class list. Name it."
        )
    found = _placed(_one_of(DATA, "the path of a folder of images"), DATA)(key, folder)
    return found if folder == value else SKIP_UNKNOWN + found


def _margin(text: str) -> str:
    margin = parse_margin(text)
    return "auto" if margin is None else "none" if margin == NONE else str(margin)


def without_prefix(data: Any) -> Any:
    """A folder of DATA, without the word to leave out what the class list cannot write."""
    return data.removeprefix(SKIP_UNKNOWN) if isinstance(data, str) else data


def placed(key: str, value: Any) -> Any:
    """A parameter for a notebook, which runs in the checkout: its paths lead there from anywhere.

    >>> placed("IMAGES", 100), placed("STRATEGIES", "kl,mse")
    (100, 'kl,mse')
    """
    if key == "DATA" and without_prefix(value) != value:
        return SKIP_UNKNOWN + _from_checkout(without_prefix(value))
    if key in ("DATA", "WEIGHTS", "CLASSES", "NETWORK", "STUDY"):
        return value if value in ("", NETWORK, *DATA) else _from_checkout(value)
    if key in ("MEASURED", "BMODELS"):
        return ",".join(map(_from_checkout, _items(key, value))) if value else value
    if key not in ("STRATEGIES", "DECODERS") or not value:
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


_decoders = _each(lambda item: _one_of(DECODERS, "the path of a grammar file")("DECODERS", item))
_releases = _each(lambda item: release_named(str(item)).version)

_CHECKS: dict[str, Any] = {
    "data": _data,
    "margin": lambda key, value: _margin(str(value)),
    "network": _placed(_one_of((NETWORK,), "the path of a network's file"), (NETWORK,)),
    "weights": _placed(_one_of(DATA, "the path of a file"), DATA),
    "classes": _placed(lambda key, value: str(value)),
    "study": _placed(lambda key, value: str(value)),
    "images": lambda key, value: _number(key, value, 0, 10_000_000),
    "chips": _each(parse_chip),
    "precisions": _each(parse_precision),
    "batches": _each(lambda item: _number("BATCHES", item, 1, 256)),
    "cores": _each(lambda item: _number("CORES", item, 1, max(CORES.values()))),
    "strategies": _each(str),
    "decoders": lambda key, value: (AUTO,) if value == AUTO else _decoders(key, value),
    "batch_mean": _one_of(tuple(sorted(LPRNET.batch_means))),
    "backend": _one_of(BACKENDS),
    "measured": lambda key, value: (
        _each(lambda item: str(find_path(str(item))))(key, value) if value else ()
    ),
    "toolchain": _one_of(tuple(TOOLCHAINS)),
    "tpu_mlir": lambda key, value: _releases(key, value) if value else (),
    "calibration": _one_of(CALIBRATIONS),
    "tolerance": lambda key, value: _points(key, value),
    "draws": lambda key, value: _number(key, value, 1, 100),
    "folds": lambda key, value: _number(key, value, 2, 20),
    "bmodels": _bmodels,
    "trust": _truth,
    "mean": lambda key, value: str(value),
    "scale": lambda key, value: str(value),
    "pixel_format": lambda key, value: str(value),
    "language": lambda key, value: known(str(value)),
    "output": lambda key, value: Path(value) if value else None,
}


Combination = tuple[str, str, int, int, Asked | None, str | None]


def combinations(parameters: Parameters) -> list[Combination]:
    """All ``(chip, precision, batch, cores, strategy, release)`` to compile.

    The release is as it was named. What a chip cannot do is left out.
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
                (chip, precision, batch, cores, strategy, release)
                for batch in parameters.batches
                for cores in parameters.cores
                for strategy in strategies
                for release in releases
            ]
    if not found:
        raise ParameterError(
            f"{', '.join(parameters.chips)} cannot do {', '.join(parameters.precisions)}."
        )
    return found
