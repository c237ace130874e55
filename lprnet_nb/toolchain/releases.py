"""What each release of TPU-MLIR can do, and how its tools want to be asked.

All 28 releases on PyPI. What a row says was read off the wheels (``run_calibration.py``,
``model_deploy.py``, ``kld_calibrator.py``, the libraries' names) and, where `FAULTS` says so, seen
in runs. Every release compiles for all of `chips.CHIPS` in all of `chips.PRECISIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ParameterError

METHODS: tuple[str, ...] = ("kl", "mse", "max", "percentile9999", "aciq_gauss", "aciq_laplace")
PINNED = "1.30.2"  # calibrates, and compiles where no other is asked for
VERSIONS: tuple[str, ...] = (
    "1.6",
    "1.6.1",
    "1.7",
    "1.8",
    "1.8.1",
    "1.9",
    "1.10",
    "1.11",
    "1.12",
    "1.14",
    "1.15",
    "1.15.1",
    "1.15.2",
    "1.16",
    "1.17",
    "1.18",
    "1.18.1",
    "1.19",
    "1.21",
    "1.21.1",
    "1.22",
    "1.23",
    "1.24",
    "1.25",
    "1.26",
    "1.27",
    "1.28.1",
    "1.30.2",
)

# Options of run_calibration.py by threshold method, from a release on. `calibrate` asks in these
# words, for some releases take any word and give KL.
SPELLING: dict[str, dict[str, tuple[str, ...]]] = {
    "1.6": {  # no --cali_method yet
        "kl": (),
        "max": ("--debug_cmd", "use_max"),
        "percentile9999": ("--debug_cmd", "use_percentile9999"),
    },
    "1.9": {method: ("--cali_method", f"use_{method}") for method in METHODS},
    "1.18": {  # the calibrator knows use_aciq_*, the command line refuses it
        method: ("--cali_method", f"use_{method}")
        for method in METHODS
        if not method.startswith("aciq")
    },
    "1.24": {method: ("--cali_method", method) for method in METHODS},
}
# Generations of the code that chooses thresholds. Those of KL differ by a median of 1.3 % between
# the first and the second; the third is a rewrite that gives what the second gave.
CALIBRATORS = {
    "1.6": "first: KL of its own",
    "1.9": "second: KL as today's",
    "1.24": "third: thresholds as before",
}
SEARCHES = "1.9"  # searches, bias correction and weight equalization came with this release
ASYMMETRIC = "1.8"  # earlier ones take --asymmetric, and quantize symmetrically all the same
METHOD_IN_TABLE = "1.24"  # the table's head says the method from here on
KEEPS_WEIGHTS = "1.23"  # earlier ones delete the weights of the lowered graph when they end
PROFILE = "1.18"  # compiler_profile_0.txt is called after the BModel before
BM_NAMES = "1.28.1"  # libcmodel_bm1684x.so is libcmodel_1684x.so before
BMLIB = "1.7"  # libbmlib.so.0 is libbmlib.so before (1.6, 1.6.1)
INTERPRETER = "1.28.1"  # from here on it computes on BM1684X what the chip does

FAULTS: tuple[tuple[str, str, str], ...] = (  # first release, last release, what
    ("1.9", "1.17", "gives KL, without a word, for a method it does not know (such as mse)"),
    ("1.6", "1.27", "its interpreter is 0.5 to 0.8 of a logit off on BM1684X, exact on BM1684"),
    ("1.6", "1.22", "deletes the lowered weights; kept here by a patch at run time"),
    ("1.6", "1.6", "its interpreter takes no shape"),
    ("1.6", "1.7", "quantizes symmetrically, without a word, where asymmetric is asked for"),
)


@dataclass(frozen=True)
class Release:
    """One release of TPU-MLIR.

    Parameters
    ----------
    version
        Such as "1.18.1".
    methods
        Options of ``run_calibration.py`` by threshold method; those that it lacks are missing.
    calibrator
        Which generation chooses thresholds.
    searches
        Whether it has searches, bias correction and weight equalization.
    asymmetric
        Whether it heeds ``--asymmetric``.
    method_in_table
        Whether its calibration tables say by which method they were made.
    keeps_weights
        Whether the weights of the lowered graph outlive the deploy step.
    profile
        File in which it leaves the predicted run, besides a BModel ``lprnet.bmodel``.
    simulators
        Simulator library of each chip.
    driver
        Its library of the simulated device.
    interpreter_judges
        Whether its interpreter computes what the chip does on every chip.
    faults
        What is known to go wrong with it.
    """

    version: str
    methods: Mapping[str, tuple[str, ...]]
    calibrator: str
    searches: bool
    asymmetric: bool
    method_in_table: bool
    keeps_weights: bool
    profile: str
    simulators: Mapping[str, str]
    driver: str
    interpreter_judges: bool
    faults: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """What it can do, JSON-able."""
        return {
            "version": self.version,
            "pinned": self.version == PINNED,
            "methods": {name: " ".join(options) for name, options in self.methods.items()},
            "calibrator": self.calibrator,
            "searches": self.searches,
            "asymmetric": self.asymmetric,
            "method_in_table": self.method_in_table,
            "keeps_weights": self.keeps_weights,
            "profile": self.profile,
            "simulators": dict(self.simulators),
            "driver": self.driver,
            "interpreter_judges": self.interpreter_judges,
            "faults": list(self.faults),
        }


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _since(version: str, first: str) -> bool:
    return _order(version) >= _order(first)


def _latest(table: Mapping[str, Any], version: str) -> Any:
    """The entry of the last release in `table` that is not after `version`."""
    return table[max((v for v in table if _since(version, v)), key=_order)]


def _release(version: str) -> Release:
    bm = "bm" if _since(version, BM_NAMES) else ""
    # A CV186X is a BM1688 with one core.
    numbers = {"BM1684": "1684", "BM1684X": "1684x", "BM1688": "1688", "CV186X": "1688"}
    return Release(
        version=version,
        methods=_latest(SPELLING, version),
        calibrator=_latest(CALIBRATORS, version),
        searches=_since(version, SEARCHES),
        asymmetric=_since(version, ASYMMETRIC),
        method_in_table=_since(version, METHOD_IN_TABLE),
        keeps_weights=_since(version, KEEPS_WEIGHTS),
        profile=("" if _since(version, PROFILE) else "lprnet.bmodel.") + "compiler_profile_0.txt",
        simulators={chip: f"libcmodel_{bm}{number}.so" for chip, number in numbers.items()},
        driver="libbmlib.so.0" if _since(version, BMLIB) else "libbmlib.so",
        interpreter_judges=_since(version, INTERPRETER),
        faults=tuple(
            what for first, last, what in FAULTS if _since(version, first) and _since(last, version)
        ),
    )


RELEASES: dict[str, Release] = {version: _release(version) for version in VERSIONS}


def release_named(version: str) -> Release:
    """A release by its version.

    Raises
    ------
    ParameterError
        Listing those that there are.
    """
    try:
        return RELEASES[version.strip()]
    except KeyError:
        raise ParameterError(
            f"there is no release {version!r} of TPU-MLIR. There are: {', '.join(VERSIONS)}."
        ) from None


def release_like(version: str) -> Release:
    """The release itself, or for a version that is not on PyPI the last one before it."""
    try:
        return _release(version) if version not in RELEASES else RELEASES[version]
    except ValueError:  # such as a build of one's own, "1.30.2+g1234"
        return RELEASES[PINNED]


def with_method(method: str) -> str:
    """The releases that have a method, in words.

    >>> with_method("aciq_gauss")
    'from 1.9 to 1.17 and from 1.24 on'
    """
    spans: list[list[str]] = []
    there = False
    for version, release in RELEASES.items():
        if method in release.methods and not there:
            spans.append([version, version])
        elif method in release.methods:
            spans[-1][1] = version
        there = method in release.methods
    words = [f"from {a} on" if b == VERSIONS[-1] else f"from {a} to {b}" for a, b in spans]
    return " and ".join(words)
