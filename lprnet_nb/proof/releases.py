"""Old releases of the compiler run whole: translated, calibrated, compiled, simulated, emulated.

For every release and chip the emulator is held against that release's own simulator. A table of the
pinned release and one of the release itself are two models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import array_digest, file_digest
from ..datasets.fetch import load_published
from ..datasets.images import PlateImages, preprocess
from ..errors import LprnetError
from ..files import make_folder
from ..measure.parameters import CALIBRATIONS
from ..model.trace import trace_model
from ..model.weights import Weights, load_published_weights
from ..runtime.emulator import Emulator
from ..runtime.emulator.lower import ARITHMETIC
from ..runtime.engine import open_engine
from ..toolchain.bmodel import BModel
from ..toolchain.chips import parse_chip
from ..toolchain.compile import compile_bmodel
from ..toolchain.environment import compiler
from ..toolchain.releases import VERSIONS, release_named
from ..toolchain.strategies import Strategy, check_calibrates, strategy_named
from .exactness import CALIBRATION, compare, judge_simulator, read_record, write_record
from .interpreter import interpret

CHIPS = ("BM1684X", "BM1684")
FLOAT_IMAGES = 4  # simulated in FP32, which takes longer and whose sums the chip orders by itself
INTERPRETED = 8
KEY = ("release", "chip", "precision", "strategy", "calibration")
ABOUT = (
    "lprnet-nb bench releases: models by releases of TPU-MLIR, the emulator against each "
    "release's own chip simulator on published images, spread evenly; a row for each model. "
    "own_interpreter: largest difference of its interpreter's logits from the emulator's chip and "
    "interpreter arithmetic (0.0: to the bit). "
    "calibrated_by: who chose the thresholds, on the first 100 published images. bmodel, graph: "
    "SHA-256 of the file and of the quantized graph's weights. libraries: of the simulator."
)


def compiled_by(
    release: str,
    chip: str,
    strategy: Strategy | None,
    weights: Weights,
    images: np.ndarray,
    calibration: str | None = "pinned",
) -> BModel:
    """A batch-1 BModel by a release; `calibration` as in `Parameters`.

    Parameters
    ----------
    strategy, calibration
        None for FP32.

    Raises
    ------
    ParameterError
        Where the release lacks what the strategy asks for.
    ToolchainError
        With the end of the log.
    """
    if strategy is None:
        return compile_bmodel(trace_model(weights), chip, "fp32", release=release)
    own = release if calibration == "release" else None
    if own:
        check_calibrates(own, strategy)
    return compile_bmodel(
        trace_model(weights, 1, "image", strategy.form),
        chip,
        "int8",
        strategy=strategy,
        calibration_images=images[: strategy.images],
        release=release,
        calibrated_by=own,
    )


def judge_release(bmodel: BModel, plates: PlateImages) -> dict[str, Any]:
    """A model of a release on that release's own simulator, against the emulator."""
    with open_engine(bmodel, "simulator", workers=1) as engine:
        libraries, tool = engine.description["libraries"], engine.description["tool"]
    return {
        "simulator": tool,
        "libraries": {name: value[:12] for name, value in libraries.items()},
        "bmodel": bmodel.sha256,
        "graph": file_digest(bmodel.graph / "graph.npz") if bmodel.graph else None,
        "predicted_ms": bmodel.predicted_latency_ms,
        **judge_simulator(bmodel, plates),
    }


def judge_by_interpreter(bmodel: BModel, plates: PlateImages) -> dict[str, Any]:
    """A release's own interpreter against the emulator's two arithmetic.

    Returns
    -------
    dict
        ``images``; ``chip`` and ``interpreter``: largest difference of a logit from the emulator
        that follows the chip and from the one that follows the interpreter of the pinned release
        (0.0: to the bit); ``same_greedy``, images that read as on the chip. Or ``refused``.
    """
    inputs = preprocess(plates.images)
    try:
        said = interpret(bmodel, inputs, release=bmodel.tools["tpu_mlir"]).logits
    except LprnetError as error:
        return {"refused": _reason(error)}
    found = {
        arithmetic: compare(Emulator(bmodel.exported, arithmetic=arithmetic).run(inputs), said)
        for arithmetic in ARITHMETIC
    }
    return {
        "images": len(plates),
        **{name: compared["max_abs_difference"] for name, compared in found.items()},
        "same_greedy": found["chip"]["same_greedy"],
    }


def _reason(error: LprnetError) -> str:
    return str(error).split("\n")[0].split(". ")[0]


def verify_releases(
    releases: Sequence[str],
    plates: PlateImages,
    weights: Weights,
    *,
    strategies: Sequence[str] = ("kl",),
    chips: Sequence[str] = CHIPS,
    calibrations: Sequence[str] = CALIBRATIONS,
    images: int = 4,
    done: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Run releases whole; a row for each release, chip, strategy and calibration, and for FP32.

    Parameters
    ----------
    releases, chips, strategies, calibrations
        What to compile.
    images
        How many plates each INT8 model reads, spread evenly; `FLOAT_IMAGES` at most in FP32, and
        `INTERPRETED` at most by the interpreter.
    done
        Called with each row.

    Raises
    ------
    ParameterError
        For an unknown release, chip or strategy, before anything runs.
    """
    named = [release_named(version).version for version in releases]
    found = [(strategy_named(name, chip), chip) for name in strategies for chip in chips]
    kinds: list[tuple[Strategy | None, str, str | None]] = [
        (strategy, chip, calibration) for strategy, chip in found for calibration in calibrations
    ]
    kinds += [(None, chip, None) for chip in chips]
    rows = []
    for version in named:
        for strategy, chip, calibration in kinds:
            precision = "int8" if strategy else "fp32"
            row: dict[str, Any] = {"release": version, "chip": chip, "precision": precision}
            row |= {"strategy": strategy and strategy.name, "calibration": calibration}
            row |= _run_whole(version, chip, strategy, calibration, plates, weights, images)
            rows.append(row)
            done(row)
    return rows


def _run_whole(
    version: str,
    chip: str,
    strategy: Strategy | None,
    calibration: str | None,
    plates: PlateImages,
    weights: Weights,
    images: int,
) -> dict[str, Any]:
    def some(count: int) -> PlateImages:
        return plates.take(np.arange(count) * len(plates) // count)

    try:
        bmodel = compiled_by(version, chip, strategy, weights, plates.images, calibration)
        if strategy is None:
            return judge_release(bmodel, some(min(images, FLOAT_IMAGES)))
        return {
            "calibrated_by": bmodel.tools.get("calibrated_by", version),
            **judge_release(bmodel, some(images)),
            "own_interpreter": judge_by_interpreter(bmodel, some(min(images, INTERPRETED))),
        }
    except LprnetError as error:
        return {"refused": _reason(error)}


def measure_releases(
    releases: str | None,
    chips: str | None,
    strategies: str,
    calibrations: str,
    images: int,
    output: Path | None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run releases whole on the published images and weights, and record it.

    Parameters
    ----------
    releases, chips, strategies, calibrations
        Comma-separated; None for all 28 releases, and for `CHIPS`; no strategy for FP32 alone.
    images
        How many plates each model reads, see `verify_releases`.
    output
        Record to add the rows to, as they are made, or None.
    report
        Called with a line for each model.

    Returns
    -------
    dict
        The record with its ``summary``.
    """
    plates, weights = load_published(), load_published_weights()
    before = read_record(output)["rows"] if output and output.exists() else []
    kept = {tuple(row[field] for field in KEY): row for row in before}

    def record() -> dict[str, Any]:
        rows = sorted(kept.values(), key=lambda row: VERSIONS.index(row["release"]))
        return {
            "about": ABOUT,
            "pinned": compiler().version,
            "images": plates.digest,
            "calibration": array_digest(plates.images[:CALIBRATION]),
            "weights": weights.digest,
            "summary": summarize(rows),
            "missing": missing(rows),
            "rows": rows,
        }

    def done(row: dict[str, Any]) -> None:
        kept[tuple(row[field] for field in KEY)] = row
        if output:
            make_folder(output.parent)
            write_record(output, record())
        report(json.dumps(row, ensure_ascii=False))

    verify_releases(
        releases.split(",") if releases else VERSIONS,
        plates,
        weights,
        strategies=[name for name in strategies.split(",") if name],
        chips=tuple(map(parse_chip, chips.split(","))) if chips else CHIPS,
        calibrations=calibrations.split(","),
        images=images,
        done=done,
    )
    return record()


def missing(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Releases that have not been run whole: in INT8 and FP32 on every chip of `CHIPS`."""
    there = {(row["release"], row["chip"], row["precision"]) for row in rows if "images" in row}
    return [
        version
        for version in VERSIONS
        if any(
            (version, chip, precision) not in there
            for chip in CHIPS
            for precision in ("int8", "fp32")
        )
    ]


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For each precision: releases, models, images, models to the bit; and what was refused."""
    found: dict[str, Any] = {}
    for precision in ("int8", "fp32"):
        judged = [row for row in rows if "images" in row and row["precision"] == precision]
        if judged:
            found[precision] = {
                "releases": sorted({row["release"] for row in judged}, key=VERSIONS.index),
                "models": len(judged),
                "images": sum(row["images"] for row in judged),
                "identical_models": sum(row["identical"] for row in judged),
                "different_readings": sum(row["images"] - row["same_greedy"] for row in judged),
                "max_abs_difference": max(row["max_abs_difference"] for row in judged),
            }
    return {**found, "refused": sum("refused" in row for row in rows)}
