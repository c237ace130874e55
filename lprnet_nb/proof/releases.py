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
from ..datasets.images import PlateImages
from ..errors import LprnetError
from ..measure.parameters import CALIBRATIONS
from ..model.trace import trace_model
from ..model.weights import Weights, load_published_weights
from ..runtime.engine import open_engine
from ..toolchain.bmodel import BModel
from ..toolchain.chips import parse_chip
from ..toolchain.compile import compile_bmodel
from ..toolchain.environment import compiler
from ..toolchain.releases import VERSIONS, release_named
from ..toolchain.strategies import Strategy, check_calibrates, strategy_named
from .exactness import CALIBRATION, judge_simulator, read_record, write_record

CHIPS = ("BM1684X", "BM1684")
ABOUT = (
    "lprnet-nb bench releases: INT8 models by old releases of TPU-MLIR, the emulator against each "
    "release's own chip simulator on published images, spread evenly; a row for each model. "
    "calibrated_by: who chose the thresholds, on the first 100 published images. bmodel, graph: "
    "SHA-256 of the file and of the quantized graph's weights. libraries: of the simulator."
)


def compiled_by(
    release: str,
    chip: str,
    strategy: Strategy,
    weights: Weights,
    images: np.ndarray,
    calibration: str = "pinned",
) -> BModel:
    """A batch-1 INT8 BModel by a release; `calibration` as in `Parameters`.

    Raises
    ------
    ParameterError
        Where the release lacks what the strategy asks for.
    ToolchainError
        With the end of the log.
    """
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


def verify_releases(
    releases: Sequence[str],
    plates: PlateImages,
    weights: Weights,
    *,
    strategies: Sequence[str] = ("kl",),
    chips: Sequence[str] = CHIPS,
    images: int = 4,
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Run releases whole; a row for each release, chip, strategy and calibration.

    Raises
    ------
    ParameterError
        For an unknown release, chip or strategy, before anything runs.
    """
    named = [release_named(version).version for version in releases]
    found = [strategy_named(name, chip) for name in strategies for chip in chips]
    sample = plates.take(np.arange(images) * len(plates) // images)
    cases = [
        (version, chip, strategy, calibration)
        for version in named
        for strategy, chip in zip(found, [*chips] * len(strategies), strict=True)
        for calibration in CALIBRATIONS
    ]
    rows = []
    for version, chip, strategy, calibration in cases:
        row: dict[str, Any] = {"release": version, "chip": chip, "strategy": strategy.name}
        row["calibration"] = calibration
        try:
            bmodel = compiled_by(version, chip, strategy, weights, plates.images, calibration)
            row["calibrated_by"] = bmodel.tools.get("calibrated_by", version)
            row |= judge_release(bmodel, sample)
        except LprnetError as error:
            row["refused"] = str(error).split("\n")[0].split(". ")[0]
        rows.append(row)
        report(json.dumps(row, ensure_ascii=False))
    return rows


def measure_releases(
    releases: str | None,
    chips: str | None,
    strategies: str,
    images: int,
    output: Path | None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run releases whole on the published images and weights, and record it.

    Parameters
    ----------
    releases, chips, strategies
        Comma-separated; None for all 28 releases, and for `CHIPS`.
    images
        How many plates each model reads.
    output
        Record to add the rows to, or None.
    report
        Called with a line for each model.

    Returns
    -------
    dict
        The record with its ``summary``.
    """
    plates, weights = load_published(), load_published_weights()
    rows = verify_releases(
        releases.split(",") if releases else VERSIONS,
        plates,
        weights,
        strategies=strategies.split(","),
        chips=tuple(map(parse_chip, chips.split(","))) if chips else CHIPS,
        images=images,
        report=report,
    )
    before = read_record(output)["rows"] if output and output.exists() else []
    key = ("release", "chip", "strategy", "calibration")
    kept = {tuple(row[field] for field in key): row for row in [*before, *rows]}
    record = {
        "about": ABOUT,
        "pinned": compiler().version,
        "images": plates.digest,
        "calibration": array_digest(plates.images[:CALIBRATION]),
        "weights": weights.digest,
        "summary": summarize(list(kept.values())),
        "rows": list(kept.values()),
    }
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_record(output, record)
    return record


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Releases, models, images, models to the bit, and what was refused."""
    judged = [row for row in rows if "images" in row]
    return {
        "releases": sorted({row["release"] for row in judged}, key=VERSIONS.index),
        "models": len(judged),
        "images": sum(row["images"] for row in judged),
        "identical_models": sum(row["identical"] for row in judged),
        "refused": len(rows) - len(judged),
    }
