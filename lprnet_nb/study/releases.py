"""The study over releases of TPU-MLIR: what an upgrade does to accuracy and predicted time.

For every release and chip: the default (KL) and least squared error by the release's own thresholds
where it has them, and the recommended strategy by thresholds of the pinned release. A draw chooses
the calibration images; all others are judged, by the emulator, from the graph that the release
itself quantized. The same draws, plates and weights on every release make the comparison a paired
one. What changed between releases is told by comparing thresholds, graphs, logits and instructions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import array_digest, digest
from ..datasets.fetch import load_published
from ..datasets.images import PlateImages, preprocess
from ..datasets.splits import Split, within
from ..decode import decode
from ..errors import DataError, LprnetError
from ..files import atomic_write, make_folder
from ..model.trace import trace_model
from ..model.weights import Weights, load_published_weights
from ..runtime.bmodel_file import read_instructions
from ..runtime.emulator import Emulator
from ..toolchain.compile import CalibrationTable, TopGraph, calibrate, compile_bmodel, top_graph
from ..toolchain.lower_once import Lowering, lower_all
from ..toolchain.releases import PINNED, VERSIONS, release_named
from ..toolchain.strategies import Strategy, check_calibrates, strategy_named
from .cells import pack
from .published import place_published
from .results import study_text

CHIPS = ("BM1684X", "BM1684")
STRATEGIES = ("kl", "mse", "recommended")
BY_PINNED = ("recommended",)  # thresholds by the pinned release, as the workbook does by default
COMPILED = ("kl", "recommended")  # code is generated for; mse has the operations of kl
DRAWS = 3
PROBED = 8  # plates that tell whether the emulator computes as it did
SAME = ("plates", "weights", "pinned", "strategies", "draws")
KEY = ("release", "chip", "strategy", "draw")


@dataclass(frozen=True)
class Case:
    """A strategy on a chip with the calibration images of a draw."""

    name: str
    strategy: Strategy
    chip: str
    split: Split


def draws(count: int, number: int) -> list[Split]:
    """Draws of calibration images; what a draw's first images do not hold is judged."""
    found = []
    for draw in range(number):
        order = within(count, draw).order
        calibrate, judged = order[:CALIBRATION], np.sort(order[CALIBRATION:])
        found.append(Split(draw, 0, calibrate, judged))
    return found


CALIBRATION = 100  # images of a draw, of all strategies here


def study_releases(
    releases: Sequence[str],
    plates: PlateImages,
    weights: Weights,
    *,
    chips: Sequence[str] = CHIPS,
    number: int = DRAWS,
    path: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run releases; those that a study's file holds already are not run again.

    Parameters
    ----------
    releases
        Versions; the pinned one is run first, for the others are held against it.
    plates, weights
        What is judged, and by which network.
    chips, number
        Chips, and how many draws.
    path
        File to go on with, written after each release; or None.
    report
        Called with a line for each release.

    Returns
    -------
    dict
        ``provenance``; ``rows``, one for each release, chip, strategy and draw (`KEY`); ``code``,
        what each release generated; ``thresholds``, how its own tables differ from the pinned
        release's.

    Raises
    ------
    ParameterError
        For an unknown release.
    DataError
        When the file holds a study of other plates, weights or draws, or by an emulator that
        computes otherwise.
    """
    named = [release_named(version).version for version in releases]
    made = _begun(path, plates, weights, number)
    _check_arithmetic(path, made["provenance"], _probe(plates, weights, chips))
    for version in [PINNED, *(v for v in named if v != PINNED)]:
        if {row["release"] for row in made["rows"]} >= {version}:
            continue
        try:
            found = _Run(version, plates, weights, chips, number, made["rows"]).all()
        except LprnetError as error:
            found = {"rows": [{"release": version, "refused": _reason(error)}]}
        _name_repeats(found["rows"], made["rows"])
        for name, rows in found.items():
            made[name] = [*made[name], *rows]
            made[name].sort(key=lambda row: VERSIONS.index(row["release"]))
        if path:
            make_folder(path.parent)
            atomic_write(path, study_text(made))
        report(f"{version}: {len(found['rows'])} rows")
    return made


def grow_releases(
    path: Path,
    releases: Sequence[str] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """`study_releases` on the published plates, and the published figures' place beside it.

    Parameters
    ----------
    path
        The study's file, made or grown.
    releases
        Versions; None for all.
    report
        Called with a line for each step.
    """
    plates, weights = load_published(), load_published_weights()
    made = study_releases(releases or VERSIONS, plates, weights, path=path, report=report)
    if not made.get("published"):
        samples = [split.order for split in draws(len(plates), DRAWS)]
        made["published"] = place_published(plates, weights, samples, report=report)
        atomic_write(path, study_text(made))
    return path


def _begun(path: Path | None, plates: PlateImages, weights: Weights, number: int) -> dict[str, Any]:
    strategies = {
        f"{name}/{chip}": strategy_named(name, chip).key() for name in STRATEGIES for chip in CHIPS
    }
    provenance = {
        "plates": {"name": plates.name, "images": len(plates), "digest": plates.digest},
        "weights": {"name": weights.name, "digest": weights.digest},
        "pinned": PINNED,
        "strategies": strategies,
        "calibration": CALIBRATION,
        "draws": number,
        "decoder": "greedy",
        "backend": "emulator",
    }
    fresh = {"format": 1, "provenance": provenance, "rows": [], "code": [], "thresholds": []}
    if path is None or not path.exists():
        return fresh
    made = read_releases(path)
    for key in SAME:
        if made["provenance"][key] != provenance[key]:
            raise DataError(
                f"{path} is a study of {key} {made['provenance'][key]}, this one would be of "
                f"{provenance[key]}. Name another file with --output."
            )
    return made


def _check_arithmetic(path: Path | None, provenance: dict[str, Any], probe: str) -> None:
    """Refuse to mix rows: a difference between releases would be one of the emulator."""
    if provenance.setdefault("probe", probe) != probe:
        raise DataError(
            f"{path} was judged by an emulator that computes otherwise than this version's. Make "
            "the study again in another file."
        )


def _probe(plates: PlateImages, weights: Weights, chips: Sequence[str]) -> str:
    """Digest of some logits by the pinned release's recommended graphs, which have float layers."""
    run = _Run(PINNED, plates, weights, chips, 1, [])
    [split] = run.splits
    wanted = []
    for chip in chips:
        strategy = strategy_named("recommended", chip)
        table = run.by(PINNED, Case("recommended", strategy, chip, split))
        wanted.append(Lowering(run.graph(strategy, PINNED), chip, strategy, table))
    inputs = preprocess(plates.images[split.evaluate[:PROBED]])
    logits = [Emulator(folder, threads=1).run(inputs) for folder in lower_all(PINNED, wanted)]
    return digest([array_digest(one) for one in logits])[:12]


def read_releases(path: Path) -> dict[str, Any]:
    """Read a study over releases.

    Raises
    ------
    DataError
        When it cannot be read.
    """
    try:
        study = json.loads(path.read_text("utf8"))
        if study["format"] != 1:
            raise ValueError(f"format {study['format']!r}, this version reads 1")
        return {**study, **{name: list(study[name]) for name in ("rows", "code", "thresholds")}}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"study over releases {path} cannot be read: {error}. Make it again with "
            "lprnet-nb study --releases all."
        ) from error


def _name_repeats(new: list[dict[str, Any]], known: Sequence[dict[str, Any]]) -> None:
    """Name the release whose logits a row has to the bit, in place of the readings."""
    seen = {
        tuple(row[key] for key in (*KEY[1:], "logits")): row["release"]
        for row in known
        if "bits" in row
    }
    for row in new:
        like = seen.get(tuple(row.get(key) for key in (*KEY[1:], "logits")))
        if like and "bits" in row:
            row["as"] = like
            del row["bits"]


def _reason(error: LprnetError) -> str:
    return str(error).split("\n")[0].split(". ")[0]


class _Run:
    """One release on all draws: its tables, graphs, readings and code."""

    def __init__(
        self,
        version: str,
        plates: PlateImages,
        weights: Weights,
        chips: Sequence[str],
        number: int,
        known: Sequence[dict[str, Any]],
    ) -> None:
        self.known = {(row["whole"], row["draw"]): row for row in known if "bits" in row}
        self.version, self.plates, self.weights, self.chips = version, plates, weights, chips
        self.splits = draws(len(plates), number)
        self.thresholds: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []

    def all(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of the study."""
        cases, tables = [], []
        for name in STRATEGIES:
            for chip in self.chips:
                strategy = strategy_named(name, chip)
                try:
                    if name not in BY_PINNED:
                        check_calibrates(self.version, strategy)
                except LprnetError as error:
                    row = {"release": self.version, "chip": chip, "strategy": name}
                    self.rows.append({**row, "draw": None, "refused": _reason(error)})
                    continue
                for split in self.splits:
                    cases.append(Case(name, strategy, chip, split))
                    tables.append(self.table(cases[-1]))
        wanted = [
            Lowering(self.graph(case.strategy, self.version), case.chip, case.strategy, table)
            for case, table in zip(cases, tables, strict=True)
        ]
        folders = lower_all(self.version, wanted)
        for case, table, folder in zip(cases, tables, folders, strict=True):
            self.rows.append(self.row(case, table, folder))
        first = [
            (case, table, folder)
            for case, table, folder in zip(cases, tables, folders, strict=True)
            if case.split.draw == 0 and case.name in COMPILED
        ]
        code = [self.code(*each) for each in first]
        return {"rows": self.rows, "code": code, "thresholds": self.thresholds}

    def graph(self, strategy: Strategy, release: str) -> TopGraph:
        return top_graph(trace_model(self.weights, 1, "image", strategy.form), release=release)

    def by(self, release: str, case: Case) -> CalibrationTable:
        images = self.plates.images[case.split.order[: case.strategy.images]]
        graph = self.graph(case.strategy, release)
        return calibrate(graph, images, case.strategy, case.chip)

    def table(self, case: Case) -> CalibrationTable:
        """The release's own thresholds, or those of the pinned one.

        A release whose table of the first draw equals the pinned one's takes its tables of the
        others too: `thresholds` says which it made itself.
        """
        pinned = self.by(PINNED, case)
        if self.version == PINNED or case.name in BY_PINNED:
            return pinned
        known = {(t["method"], t["draw"]): t for t in self.thresholds}
        method, draw = case.strategy.method, case.split.draw
        first = known.get((method, 0))
        if draw and first and first["equal"]:
            return pinned
        own = self.by(self.version, case)
        if (method, draw) not in known:
            compared = compare_thresholds(own, pinned)
            self.thresholds.append(
                {"release": self.version, "method": method, "draw": draw, **compared}
            )
        return own

    def row(self, case: Case, table: CalibrationTable, folder: Path) -> dict[str, Any]:
        """Which plates a quantized graph reads right, and what it is."""
        whole = graph_digest(folder, attributes=True)[:12]
        row = {
            "release": self.version,
            "chip": case.chip,
            "strategy": case.name,
            "draw": case.split.draw,
            "calibrated_by": table.release,
            "graph": graph_digest(folder)[:12],
            "whole": whole,
        }
        known = self.known.get((whole, case.split.draw))
        if known:
            taken = {key: known[key] for key in ("logits", "images", "correct")}
            return {**row, **taken, "as": known["release"], "evaluated": False}
        judged = case.split.evaluate
        logits = Emulator(folder, threads=1).run(preprocess(self.plates.images[judged]))
        texts = decode(logits, self.weights.alphabet, "greedy").texts
        right = np.array(texts) == np.array(self.plates.labels)[judged]
        return {
            **row,
            "logits": array_digest(logits)[:12],
            "images": len(right),
            "correct": int(right.sum()),
            "bits": pack(right),
        }

    def code(self, case: Case, table: CalibrationTable, folder: Path) -> dict[str, Any]:
        """What the release generates for the first draw: predicted time and instructions."""
        bmodel = compile_bmodel(
            trace_model(self.weights, 1, "image", case.strategy.form),
            case.chip,
            "int8",
            strategy=case.strategy,
            table=table,
            release=self.version,
        )
        instructions = read_instructions(bmodel.path)
        return {
            "release": self.version,
            "chip": case.chip,
            "strategy": case.name,
            "predicted_ms": bmodel.predicted_latency_ms,
            "compute": instructions.compute,
            "memory": instructions.memory,
            "bytes": len(instructions.code),
            "instructions": digest(instructions.code.hex())[:12],
            "same_graph": graph_digest(bmodel.exported) == graph_digest(folder),
        }


def graph_digest(folder: Path, attributes: bool = False) -> str:
    """Digest of what a quantized graph computes: operations, operands, types, scales, weights.

    Names are left out, for releases call some weights differently; so are attributes of operations
    unless asked for: releases add and drop some, and logits tell whether they matter.
    """
    record = json.loads((folder / "graph.json").read_text("utf8"))
    number = {op["name"]: index for index, op in enumerate(record["ops"])}
    with np.load(folder / "graph.npz") as arrays:
        weights = {
            name: [kind, array_digest(arrays[name])] for name, kind in record["weights"].items()
        }
    operations = [
        [
            op["type"],
            op["result"],
            [weights.get(name) or number.get(name) for name in op["operands"]],
            op["attributes"] if attributes else None,
        ]
        for op in record["ops"]
    ]
    return digest([operations, [number[name] for name in record["outputs"]]])


def compare_thresholds(own: CalibrationTable, pinned: CalibrationTable) -> dict[str, Any]:
    """How a release's thresholds differ from the pinned one's.

    Returns
    -------
    dict
        ``equal`` (every number, as printed); ``layers``; ``differing``, how many thresholds;
        ``median`` and ``largest``, the relative difference of the thresholds that differ.
    """
    mine, theirs = own.thresholds(), pinned.thresholds()
    names = [name for name in theirs if name in mine]
    pairs = np.array([[mine[name][0], theirs[name][0]] for name in names])
    apart = np.abs(pairs[:, 0] - pairs[:, 1]) / np.maximum(np.abs(pairs[:, 1]), 1e-12)
    apart = apart[apart > 0]
    return {
        "equal": mine == theirs,
        "layers": len(theirs),
        "differing": len(apart) + len(set(mine) ^ set(theirs)),
        "median": round(float(np.median(apart)), 6) if len(apart) else 0.0,
        "largest": round(float(apart.max()), 6) if len(apart) else 0.0,
    }
