"""The quantization study: strategies by chip, draw and fold, each cell an artifact that is kept.

A cell is one strategy quantized for one chip with one draw of calibration images, judged on the
images of one fold, which were not among them. It runs on the emulator; per strategy and chip one
BModel is compiled for its predicted latency, its graph is compared with the cell's, and the chip
simulator reads a few images of it.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import array_digest, artifact, cache_dir, digest, file_digest
from ..datasets.images import PlateImages, preprocess
from ..datasets.splits import Split, cross_fit, within
from ..decode import decode
from ..errors import EngineError, LprnetError, ToolchainError
from ..model.trace import float_logits, trace_model
from ..model.weights import Weights
from ..runtime.crosscheck import crosscheck
from ..runtime import emulator
from ..runtime.emulator import Emulator
from ..runtime.inference import infer_plates
from ..runtime.progress import Advance, progress_bar
from ..toolchain.bmodel import BModel
from ..toolchain.compile import CalibrationTable, compile_bmodel, top_graph
from ..toolchain.lowering import Quantizer
from ..toolchain.strategies import Strategy

CROSS_FIT, WITHIN = "cross-fit", "within"
TUNED_METHODS = ("kl", "aciq_gauss", "aciq_laplace")  # the compiler tunes these only


@dataclass(frozen=True)
class Plan:
    """What a study runs.

    Parameters
    ----------
    strategies
        In order of importance: cells of the first are done first.
    chips
        Such as ("BM1684X", "BM1684").
    draws
        Seeds of calibration draws.
    folds
        Parts of the cross-fit.
    calibrated_within
        Names of strategies that are also run as published figures were, calibrated on images that
        they are judged on.
    """

    strategies: tuple[Strategy, ...]
    chips: tuple[str, ...]
    draws: tuple[int, ...] = (0, 1, 2, 3, 4)
    folds: int = 2
    calibrated_within: tuple[str, ...] = ()

    def splits(self, count: int) -> list[tuple[str, Split]]:
        """``(scheme, split)`` in the order in which they run: whole draws, one by one."""
        made = []
        for draw in self.draws:
            made += [(CROSS_FIT, split) for split in cross_fit(count, self.folds, draw)]
            if self.calibrated_within:
                made.append((WITHIN, within(count, draw)))
        return made


@dataclass(frozen=True)
class Cell:
    """What one cell found.

    Parameters
    ----------
    strategy, chip, scheme, draw, fold
        Which cell.
    evaluate
        int64: the images it was judged on.
    texts
        Readings of those images; empty where the cell failed.
    error
        What the tool said, or None.
    """

    strategy: str
    chip: str
    scheme: str
    draw: int
    fold: int
    evaluate: np.ndarray
    texts: tuple[str, ...] = ()
    error: str | None = None


@dataclass
class _Bench:
    """What all cells share: data, and a warm quantizer per thread."""

    plates: PlateImages
    weights: Weights
    log: Path
    threads: int
    here: threading.local = field(default_factory=threading.local)
    all: list[Quantizer] = field(default_factory=list)

    def quantizer(self) -> Quantizer:
        if not hasattr(self.here, "quantizer"):
            number = len(self.all)
            self.here.quantizer = Quantizer(self.log.with_suffix(f".{number}.log"))
            self.all.append(self.here.quantizer)
        return self.here.quantizer


def run_cells(plan: Plan, plates: PlateImages, weights: Weights, *, workers: int = 2,
              progress: bool = True, found: Callable[[Cell], None] | None = None) -> list[Cell]:
    """Run all cells that are not there yet, and give all.

    Parameters
    ----------
    plan, plates, weights
        What to run on what.
    workers
        Cells at a time.
    progress
        Show a bar over the cells.
    found
        Called with each cell as it is done.

    Returns
    -------
    list of Cell
        By strategy, chip, scheme, draw and fold. A setting that a chip or the tool cannot do is a
        cell with its message.
    """
    bench = _Bench(plates, weights, cache_dir() / "logs" / "study.log", max(1, 2 // workers))
    groups = _groups(plan, plates)
    total = sum(len(strategies) for *_, strategies in groups) * len(plan.chips)
    cells: list[Cell] = []
    with progress_bar(total, "study", progress) as advance:
        def work(group: tuple) -> None:
            for cell in _run_group(bench, plan.chips, *group, advance):
                cells.append(cell)
                if found is not None:
                    found(cell)
        try:
            with ThreadPoolExecutor(workers) as pool:
                try:
                    for done in [pool.submit(work, group) for group in groups]:
                        done.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        finally:
            for quantizer in bench.all:
                quantizer.__exit__(None, None, None)
    names = [strategy.name for strategy in plan.strategies]
    return sorted(cells, key=lambda c: (names.index(c.strategy), plan.chips.index(c.chip), c.scheme,
                                        c.draw, c.fold))


def calibration_key(strategy: Strategy) -> tuple:
    """What a pass over calibration images depends on; methods of one key share the pass."""
    tune = strategy.tune if strategy.method in TUNED_METHODS else 0
    return (strategy.form, strategy.fuse_preprocess, strategy.images, strategy.channel_order, tune,
            _needs_tool(strategy) and strategy.name)


def _needs_tool(strategy: Strategy) -> bool:
    """Whether calibrating rewrites weights or searches, so that the tool itself has to run."""
    return bool(strategy.weight_equalization or strategy.bias_correction or strategy.search)


def _groups(plan: Plan, plates: PlateImages) -> list[tuple]:
    """``(scheme, split, strategies of one calibration pass)``, the important ones first."""
    keys: dict[tuple, list[Strategy]] = {}
    for strategy in plan.strategies:
        keys.setdefault(calibration_key(strategy), []).append(strategy)
    groups = []
    for scheme, split in plan.splits(len(plates)):
        for rank, strategies in enumerate(keys.values()):
            chosen = [s for s in strategies
                      if scheme == CROSS_FIT or s.name in plan.calibrated_within]
            if chosen:
                groups.append((rank, scheme, split, chosen))
    groups.sort(key=lambda group: (group[0], group[1] == WITHIN, group[2].draw, group[2].fold))
    return [group[1:] for group in groups]


def _run_group(bench: _Bench, chips: Sequence[str], scheme: str, split: Split,
               strategies: Sequence[Strategy], advance: Advance):
    first = strategies[0]
    images = bench.plates.images[split.calibrate(first.images)]
    tables: dict[str, CalibrationTable] = {}
    failure = None
    try:
        graph = top_graph(trace_model(bench.weights, form=first.form),
                          fuse_preprocess=first.fuse_preprocess)
        if not _needs_tool(first):
            tables = bench.quantizer().tables(
                graph, images, sorted({s.method for s in strategies}),
                tune=calibration_key(first)[4], channel_order=first.channel_order)
    except ToolchainError as error:
        failure = str(error)
    for strategy in strategies:
        for chip in chips:
            place = (strategy.name, chip, scheme, split.draw, split.fold, split.evaluate)
            try:
                if failure is not None:
                    raise ToolchainError(failure)
                if _needs_tool(strategy):
                    folder = compile_bmodel(trace_model(bench.weights, form=strategy.form), chip,
                                            "int8", strategy=strategy,
                                            calibration_images=images).graph
                else:
                    folder = bench.quantizer().lower(graph, chip, strategy,
                                                     tables[strategy.method])
                texts = _read(bench, folder, split.evaluate, strategy.fuse_preprocess)
                yield Cell(*place, texts=texts)
            except (ToolchainError, EngineError) as error:
                yield Cell(*place, error=_short(str(error)))
            advance(1)


def _short(message: str) -> str:
    """The tool's own words, without the place of its log."""
    return message.split(" (log:")[0].split("The end of its log")[0].strip()[:400]


def _read(bench: _Bench, folder: Path, evaluate: np.ndarray, fused: bool) -> tuple[str, ...]:
    inputs = {"graph": [file_digest(folder / "graph.json"), file_digest(folder / "graph.npz")],
              "images": array_digest(bench.plates.images[evaluate]),
              "classes": bench.weights.alphabet.classes, "emulator": _emulator_digest()}

    def build(place: Path) -> None:
        images = bench.plates.images[evaluate]
        given = np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if fused else preprocess(images)
        logits = Emulator(folder, threads=bench.threads).run(given)
        texts = decode(logits, bench.weights.alphabet).texts
        (place / "texts.json").write_text(json.dumps(texts, ensure_ascii=False), "utf8")

    return tuple(json.loads((artifact("study-cell", inputs, build) / "texts.json")
                            .read_text("utf8")))


@cache
def _emulator_digest() -> str:
    folder = Path(emulator.__file__).parent
    return digest({path.name: file_digest(path) for path in sorted(folder.iterdir())
                   if path.suffix in (".py", ".c")})


def float_texts(plates: PlateImages, weights: Weights) -> tuple[str, ...]:
    """Readings of the float network, batch 1."""
    inputs = {"plates": plates.digest, "weights": weights.digest}

    def build(place: Path) -> None:
        texts = decode(float_logits(weights, plates), weights.alphabet).texts
        (place / "texts.json").write_text(json.dumps(texts, ensure_ascii=False), "utf8")

    return tuple(json.loads((artifact("study-float", inputs, build) / "texts.json")
                            .read_text("utf8")))
