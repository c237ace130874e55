"""The quantization study: strategies by chip, draw and fold, each cell an artifact that is kept.

A cell is one strategy quantized for one chip with one draw of calibration images, judged on the
images of one fold, which were not among them. It runs on the emulator. What a study looks into
beside its cells is in `study_details`, what it says in `study_results`, the study that comes with
the repository in `study_full`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import array_digest, artifact, file_digest
from ..datasets.generate import generate_plates
from ..datasets.images import PUBLISHED_INPUT, InputFormat, PlateImages, preprocess
from ..datasets.splits import Split, cross_fit, within
from ..decode import decode
from ..errors import EngineError, ToolchainError
from ..learnt import learnt_table
from ..model.trace import TracedModel, float_arithmetic, float_logits, trace_model
from ..model.weights import Weights
from ..runtime.emulator import Emulator
from ..toolchain.compile import (
    CalibrationTable,
    TopGraph,
    calibrate,
    compile_bmodel,
    mixed_table,
    top_graph,
)
from ..toolchain.environment import compiler
from ..toolchain.finetune import tuned_trace
from ..toolchain.lower_once import Lowering, lower_all
from ..toolchain.lowering import Quantizer, kept_quantizer
from ..toolchain.process import own_words
from ..toolchain.strategies import Strategy
from ..work import scheduler
from ..work.pieces import SECONDS, Piece, decoder_key, trace_piece

# Where calibration images come from: outside the fold, among the judged ones, or the generator.
CROSS_FIT, WITHIN, GENERATED = "cross-fit", "within", "generated"
GENERATED_SEED = 1000  # of draw 0's generated calibration plates
TUNED_METHODS = ("kl", "aciq_gauss", "aciq_laplace")  # the compiler tunes these only
SHARED_METHODS = ("kl", "mse", "max")  # one pass over the images serves these


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
    calibrated_on_generated
        Names of strategies that are also calibrated on generated plates.
    more_chips
        Further chips, each with the names of the strategies that run on it.
    fewer_draws
        How many of the draws a slow strategy gets, by name.
    decoder
        How logits are read, see `decode`.
    release, calibrated_by
        Releases of TPU-MLIR that quantize and that choose thresholds, where not the workbook's.
    given
        Splits in place of the cross-fit's.
    """

    strategies: tuple[Strategy, ...]
    chips: tuple[str, ...]
    draws: tuple[int, ...] = (0, 1, 2, 3, 4)
    folds: int = 2
    calibrated_within: tuple[str, ...] = ()
    calibrated_on_generated: tuple[str, ...] = ()
    more_chips: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fewer_draws: Mapping[str, int] = field(default_factory=dict)
    decoder: str = "greedy"
    release: str | None = None
    calibrated_by: str | None = None
    given: tuple[Split, ...] = ()

    def by(self) -> dict[str, str]:
        """Releases that were named, as arguments."""
        named = {"release": self.release, "calibrated_by": self.calibrated_by}
        return {key: value for key, value in named.items() if value}

    def chips_of(self, strategy: Strategy) -> tuple[str, ...]:
        """Chips that a strategy runs on."""
        more = (chip for chip, names in self.more_chips.items() if strategy.name in names)
        return (*self.chips, *more)

    def all_chips(self) -> tuple[str, ...]:
        """Every chip of the plan."""
        return (*self.chips, *self.more_chips)

    def splits(self, count: int) -> list[tuple[str, Split]]:
        """``(scheme, split)`` of every draw; each judges all images once, if none are `given`."""
        if self.given:
            return [(CROSS_FIT, split) for split in self.given]
        made = []
        for draw in self.draws:
            made += [(CROSS_FIT, split) for split in cross_fit(count, self.folds, draw)]
            made += [(scheme, within(count, draw)) for scheme in (WITHIN, GENERATED)]
        return made

    def runs(self, strategy: Strategy, scheme: str, draw: int) -> bool:
        """Whether a strategy runs on a draw of a scheme."""
        if draw not in self.draws[: self.fewer_draws.get(strategy.name, len(self.draws))]:
            return False
        return scheme == CROSS_FIT or strategy.name in (
            self.calibrated_within if scheme == WITHIN else self.calibrated_on_generated
        )


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


def run_cells(
    plan: Plan, plates: PlateImages, weights: Weights, *, progress: bool = True
) -> list[Cell]:
    """Run all cells that are not there yet, and give all.

    Returns
    -------
    list of Cell
        By strategy, chip, scheme, draw and fold. A setting that a chip or the tool cannot do is a
        cell with its message.
    """
    wanted = planned_cells(plan, plates, weights)
    done = scheduler.make([piece for _, piece in wanted], "study", progress=progress)
    names = [strategy.name for strategy in plan.strategies]
    return sorted(
        (replace(cell, **done[piece]) for cell, piece in wanted),
        key=lambda c: (
            names.index(c.strategy),
            plan.all_chips().index(c.chip),
            c.scheme,
            c.draw,
            c.fold,
        ),
    )


def planned_cells(plan: Plan, plates: PlateImages, weights: Weights) -> list[tuple[Cell, Piece]]:
    """Cells without what they found, the important ones first, and the piece that finds it.

    Those of one calibration pass share it.
    """
    return [
        (
            Cell(strategy.name, chip, scheme, split.draw, split.fold, split.evaluate),
            Piece(
                f"cell/{strategy.name}/{chip.lower()}/{scheme}/{split.draw}.{split.fold}",
                _cell,
                {
                    "plates": plates,
                    "weights": weights,
                    "strategy": strategy,
                    "chip": chip,
                    "scheme": scheme,
                    "split": split,
                    "decoder": plan.decoder,
                    **plan.by(),
                },
                (thresholds,),
                seconds=SECONDS["emulator"] * len(split.evaluate),
            ),
        )
        for scheme, split, strategies in _groups(plan, plates)
        for thresholds in [thresholds_piece(plates, weights, scheme, split, strategies)]
        for strategy in strategies
        for chip in plan.chips_of(strategy)
    ]


def calibration_key(strategy: Strategy) -> tuple:
    """What a pass over calibration images depends on; methods of one key share the pass."""
    alone = None if set(strategy.methods) <= set(SHARED_METHODS) else tuple(strategy.methods)
    return (
        strategy.form,
        strategy.fuse_preprocess,
        strategy.weight_equalization,
        strategy.images,
        strategy.channel_order,
        tune_of(strategy),
        alone,
        needs_tool(strategy) and strategy.name,
    )


def tune_of(strategy: Strategy) -> int:
    """Images on which the compiler refines thresholds: none for methods that it does not tune."""
    return strategy.tune if set(strategy.methods) & set(TUNED_METHODS) else 0


def needs_tool(strategy: Strategy) -> bool:
    """Whether calibrating runs quantized networks, so that the tool itself has to run."""
    return bool(strategy.bias_correction or strategy.search)


def _passes(strategies: Sequence[Strategy]) -> list[list[Strategy]]:
    """Strategies by calibration pass, the important ones first.

    Thresholds that are not tuned come out of a pass that tunes others as they are, so that they
    share it; who tunes stands first in its pass.
    """
    tuned = {calibration_key(s.model_copy(update={"tune": 0})): s for s in strategies if tune_of(s)}
    passes: dict[tuple, list[Strategy]] = {}
    for strategy in strategies:
        key = calibration_key(strategy)
        if not set(strategy.methods) & set(TUNED_METHODS) and key in tuned:
            key = calibration_key(tuned[key])
        passes.setdefault(key, []).append(strategy)
    return [sorted(each, key=lambda s: -tune_of(s)) for each in passes.values()]


def _groups(plan: Plan, plates: PlateImages) -> list[tuple]:
    """``(scheme, split, strategies of one calibration pass)``, the important ones first."""
    keys = _passes(plan.strategies)
    groups = []
    for scheme, split in plan.splits(len(plates)):
        for rank, strategies in enumerate(keys):
            chosen = [s for s in strategies if plan.runs(s, scheme, split.draw)]
            if chosen:
                groups.append((rank, scheme, split, chosen))
    groups.sort(
        key=lambda group: (
            group[0],
            group[1] != CROSS_FIT,
            group[1] == GENERATED,
            group[2].draw,
            group[2].fold,
        )
    )
    return [group[1:] for group in groups]


def _calibration_images(plates: PlateImages, scheme: str, split: Split, count: int) -> np.ndarray:
    if scheme == GENERATED:
        return generate_plates(count, GENERATED_SEED + split.draw, workers=0).images
    return plates.images[split.calibrate(count)]


@dataclass(frozen=True)
class Thresholds:
    """What a pass over calibration images left.

    Parameters
    ----------
    graph
        The network that they are of; None where it could not be translated.
    tables
        By method; none for strategies that the tool itself calibrates, see `needs_tool`.
    error
        What the tool said where it failed, or None.
    """

    graph: TopGraph | None
    tables: Mapping[str, CalibrationTable]
    error: str | None = None

    @property
    def translated(self) -> TopGraph:
        """`graph`, or a `ToolchainError` of what the tool said."""
        if self.graph is None:
            raise ToolchainError(self.error or "the network could not be translated")
        return self.graph


def thresholds_piece(
    plates: PlateImages,
    weights: Weights,
    scheme: str,
    split: Split,
    strategies: Sequence[Strategy],
) -> Piece:
    """One calibration pass for strategies of one `calibration_key`."""
    first = strategies[0]
    return Piece(
        f"calibrate/{first.name}/{scheme}/{split.draw}.{split.fold}",
        _thresholds,
        {
            "plates": plates,
            "scheme": scheme,
            "split": split,
            "first": first,
            "methods": sorted({method for s in strategies for method in s.methods}),
        },
        (trace_piece(weights, 1, "image", first.form),),
    )


def _thresholds(
    traced: TracedModel,
    *,
    plates: PlateImages,
    scheme: str,
    split: Split,
    first: Strategy,
    methods: Sequence[str],
) -> Thresholds:
    try:
        graph = top_graph(traced, fuse_preprocess=first.fuse_preprocess)
        if needs_tool(first):
            return Thresholds(graph, {})
        images = _calibration_images(plates, scheme, split, first.images)
        return Thresholds(graph, tables(kept_quantizer(), graph, images, first, methods))
    except ToolchainError as error:
        return Thresholds(None, {}, str(error))


def tables(
    quantizer: Quantizer,
    graph: TopGraph,
    images: np.ndarray,
    strategy: Strategy,
    methods: Sequence[str],
) -> dict[str, CalibrationTable]:
    """Thresholds by several methods in one pass, with what else a strategy asks of it."""
    return quantizer.tables(
        graph,
        images,
        methods,
        tune=tune_of(strategy),
        channel_order=strategy.channel_order,
        weight_equalization=strategy.weight_equalization,
    )


def _cell(
    found: Thresholds,
    *,
    plates: PlateImages,
    weights: Weights,
    strategy: Strategy,
    chip: str,
    scheme: str,
    split: Split,
    decoder: str,
    release: str | None = None,
    calibrated_by: str | None = None,
) -> dict[str, Any]:
    """`Cell.texts`, or `Cell.error`."""
    try:
        graph = found.translated
        if needs_tool(strategy) or calibrated_by:
            images = _calibration_images(plates, scheme, split, strategy.images)
            graph = _graph(weights, strategy, calibrated_by) if calibrated_by else graph
            table = calibrate(graph, images, strategy, chip)
        else:
            table = mixed_table(found.tables, graph, strategy)
        if strategy.learns:
            images = _calibration_images(plates, scheme, split, strategy.images)
            traced = trace_model(weights, form=strategy.form)
            table = learnt_table(kept_quantizer(), traced, graph, images, chip, strategy, table)
        folder = lower(kept_quantizer(), weights, graph, chip, strategy, table, split.draw, release)
        judged = plates.images[split.evaluate]
        return {"texts": _read(folder, judged, weights, strategy.fuse_preprocess, decoder)}
    except (ToolchainError, EngineError) as error:
        return {"error": short(str(error))}


def lower(
    quantizer: Quantizer,
    weights: Weights,
    graph: TopGraph,
    chip: str,
    strategy: Strategy,
    table: CalibrationTable,
    draw: int,
    release: str | None = None,
) -> Path:
    """Quantize a network; one that is fine-tuned first sees the generated plates of the draw."""
    if strategy.finetune:
        graph = top_graph(
            tuned_trace(weights, chip, strategy, table, seed=draw, quantizer=quantizer),
            release=release,
        )
    elif release:
        graph = _graph(weights, strategy, release)
    if graph.fused:  # the warm quantizer does not know the formats of images
        return compile_bmodel(
            trace_model(weights, form=strategy.form),
            chip,
            "int8",
            strategy=strategy,
            table=table,
            release=release,
        ).exported
    if release:
        return lower_all(release, [Lowering(graph, chip, strategy, table)])[0]
    return quantizer.lower(graph, chip, strategy, table)


def _graph(weights: Weights, strategy: Strategy, release: str) -> TopGraph:
    traced = trace_model(weights, form=strategy.form)
    return top_graph(traced, fuse_preprocess=strategy.fuse_preprocess, release=release)


def short(message: str) -> str:
    """The tool's own words, without the places of its log and of its files."""
    words = message.split(" (log:")[0].split("The end of its log")[0]
    log = re.search(r"The end of its log \((.+?)\):", message)
    said = own_words(Path(log[1])) if log else ""
    return " ".join([re.sub(r"\S*/graph: ", "", words).strip(), said]).strip()[:400]


def _read(
    folder: Path, images: np.ndarray, weights: Weights, fused: bool, decoder: str
) -> tuple[str, ...]:
    inputs = {
        **graph_key(folder, images),
        "classes": weights.alphabet.listed,
        **_decoder_key(decoder),
        **({"network": weights.of.digest} if weights.of.digest else {}),
    }

    def build(place: Path) -> None:
        outputs = Emulator(folder, threads=1).run(network_input(images, fused, weights.of.input))
        logits = weights.of.interface.arranged(outputs)
        texts = decode(logits, weights.alphabet, decoder).texts
        (place / "texts.json").write_text(json.dumps(texts, ensure_ascii=False), "utf8")

    return tuple(
        json.loads((artifact("study-cell", inputs, build) / "texts.json").read_text("utf8"))
    )


def graph_key(folder: Path, images: np.ndarray) -> dict[str, Any]:
    """What the emulator's logits of a quantized graph depend on."""
    return {
        "graph": [file_digest(folder / "graph.json"), file_digest(folder / "graph.npz")],
        "images": array_digest(images),
    }


def network_input(
    images: np.ndarray, fused: bool, taken: InputFormat = PUBLISHED_INPUT
) -> np.ndarray:
    """What a network takes of uint8 BGR images: preprocessed, or uint8 channels first.

    Parameters
    ----------
    fused
        Whether the preprocessing is part of the network.
    taken
        What it takes.
    """
    return taken.planes(images) if fused else preprocess(images, taken)


def _decoder_key(decoder: str) -> dict[str, Any]:
    """What readings depend on beside the logits: nothing for greedy, which is a definition."""
    return {} if decoder == "greedy" else {"decoder": decoder_key(decoder)}


def float_texts(plates: PlateImages, weights: Weights, decoder: str = "greedy") -> tuple[str, ...]:
    """Readings of the float network, batch 1."""
    inputs = {
        "plates": plates.digest,
        "weights": weights.digest,
        "arithmetic": float_arithmetic(),
        **_decoder_key(decoder),
    }

    def build(place: Path) -> None:
        texts = decode(float_logits(weights, plates), weights.alphabet, decoder).texts
        (place / "texts.json").write_text(json.dumps(texts, ensure_ascii=False), "utf8")

    return tuple(
        json.loads((artifact("study-float", inputs, build) / "texts.json").read_text("utf8"))
    )


# ---- What a study found, as data -------------------------------------------------------------


def result_rows(cells: Sequence[Cell], plates: PlateImages) -> list[dict[str, Any]]:
    """One row per strategy, chip, scheme and draw: all images, or the tool's message.

    Returns
    -------
    list of dict
        ``strategy, chip, scheme, draw, images, correct, by_fold, bits`` (see `pack`) or ``strategy,
        chip, scheme, error``. A draw of which a fold is missing is left out.
    """
    labels = np.array(plates.labels)
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.strategy, cell.chip, cell.scheme, cell.draw), []).append(cell)
    rows, refused = [], set()
    for (strategy, chip, scheme, draw), parts in groups.items():
        error = next((part.error for part in parts if part.error), None)
        if error is not None:
            if (strategy, chip, scheme) not in refused:
                refused.add((strategy, chip, scheme))
                rows.append({"strategy": strategy, "chip": chip, "scheme": scheme, "error": error})
            continue
        right = np.zeros(len(plates), bool)
        judged = np.zeros(len(plates), int)
        for part in parts:
            right[part.evaluate] = labels[part.evaluate] == np.array(part.texts)
            judged[part.evaluate] += 1
        if (judged != 1).any():
            continue
        parts = sorted(parts, key=lambda part: part.fold)
        rows.append(
            {
                "strategy": strategy,
                "chip": chip,
                "scheme": scheme,
                "draw": draw,
                "images": len(plates),
                "correct": int(right.sum()),
                "by_fold": [[int(right[p.evaluate].sum()), len(p.evaluate)] for p in parts],
                "bits": pack(right),
            }
        )
    return rows


def pack(right: np.ndarray) -> str:
    """Which plates were read right, as hex: bit i (from the left) is image i by file name.

    >>> pack(np.array([True, False, False, False, True]))
    '88'
    """
    return np.packbits(np.asarray(right, bool)).tobytes().hex()


def unpack(bits: str, count: int) -> np.ndarray:
    """Inverse of `pack`, bool ``[count]``."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8), count=count).astype(bool)


def provenance(plan: Plan, plates: PlateImages, weights: Weights) -> dict[str, Any]:
    """What a study was made of, so that its figures can be made again."""
    return {
        "plates": {"name": plates.name, "images": len(plates), "digest": plates.digest},
        "weights": {"name": weights.name, "digest": weights.digest},
        **({"network": weights.of.name} if weights.of.digest else {}),
        "tpu_mlir": plan.release or compiler().version,
        **({"calibrated_by": plan.calibrated_by} if plan.calibrated_by else {}),
        "backend": "emulator",
        "decoder": plan.decoder,
        "batch": 1,
        "folds": plan.folds,
        "draws": list(plan.draws),
        "strategies": {s.name: s.model_dump(mode="json") for s in plan.strategies},
    }


def run_study(
    plan: Plan, plates: PlateImages, weights: Weights, *, progress: bool = True
) -> dict[str, Any]:
    """Run a plan's cells and give the study as JSON-able data, see `result_rows`."""
    cells = run_cells(plan, plates, weights, progress=progress)
    right = np.array(float_texts(plates, weights, plan.decoder)) == np.array(plates.labels)
    return {
        "format": 1,
        "provenance": provenance(plan, plates, weights),
        "float": {"images": len(plates), "correct": int(right.sum()), "bits": pack(right)},
        "rows": result_rows(cells, plates),
    }
