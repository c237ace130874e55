"""What a study looks into beside its cells: BModels, roles, and the other images of a batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import artifact
from ..datasets.images import PlateImages, preprocess
from ..datasets.splits import cross_fit
from ..decode import decode
from ..errors import EngineError, ToolchainError
from ..evaluate.accuracy import correct
from ..evaluate.fidelity import sqnr_db
from ..learnt import learnt_table
from ..model.lprnet import LPRNET
from ..model.lprnet.roles import ROLES
from ..model.trace import float_arithmetic, float_logits, trace_model
from ..model.weights import Weights
from ..places import cache_dir
from ..progress import progress_bar
from ..runtime.crosscheck import crosscheck
from ..runtime.emulator import Emulator
from ..toolchain.bmodel import BModel
from ..toolchain.compile import calibrate, compile_bmodel, mixed_table, top_graph
from ..toolchain.finetune import tuned_trace
from ..toolchain.lowering import Quantizer, kept_quantizer
from ..toolchain.strategies import Strategy
from ..work import scheduler
from ..work.pieces import Piece
from .cells import (
    CROSS_FIT,
    Plan,
    Thresholds,
    calibration_key,
    graph_key,
    lower,
    needs_tool,
    network_input,
    short,
    tables,
    thresholds_piece,
)
from .cost import graph_share


def sensitivity(
    plates: PlateImages,
    weights: Weights,
    chips: Sequence[str],
    base: Strategy,
    *,
    draw: int = 0,
    images: int = 200,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """What each role costs: one role in float at a time, and one role quantized at a time.

    Calibrated outside the first fold of a draw, judged on the first images of that fold.

    Returns
    -------
    list of dict
        ``{"chip", "mode", "role", "images", "correct", "steps_off", "sqnr_db"}`` with mode "all"
        (role None), "float" (only this role in float) or "int8" (only this role quantized);
        ``steps_off`` counts time steps whose class differs from float's, ``sqnr_db`` is that of the
        logits. ``error`` in place of figures where the tool refuses.
    """
    # Searches would choose roles themselves; what is looked into is the network behind its input.
    plain = {"search": None, "bias_correction": False, "fuse_preprocess": False}
    base = base.model_copy(update=plain)
    settings: list[tuple[str, str | None, tuple[str, ...]]] = [("all", None, ())]
    settings += [("float", role, (role,)) for role in ROLES]
    settings += [("int8", role, tuple(r for r in ROLES if r != role)) for role in ROLES]
    split = cross_fit(len(plates), 2, draw)[0]
    judged = plates.take(split.evaluate[:images])
    thresholds = thresholds_piece(plates, weights, CROSS_FIT, split, [base])
    pieces = [
        Piece(
            f"role/{chip.lower()}/{mode}/{role}",
            _role,
            {
                "plates": judged,
                "weights": weights,
                "strategy": base.model_copy(update={"float_roles": float_roles}),
                "line": {"chip": chip, "mode": mode, "role": role},
            },
            (thresholds,),
        )
        for chip in chips
        for mode, role, float_roles in settings
    ]
    done = scheduler.make(pieces, "roles", progress=progress)
    return [done[piece] for piece in pieces]


def _role(
    found: Thresholds,
    *,
    plates: PlateImages,
    weights: Weights,
    strategy: Strategy,
    line: dict[str, Any],
) -> dict[str, Any]:
    try:
        graph = found.translated
        table = found.tables[strategy.method]
        folder = kept_quantizer().lower(graph, line["chip"], strategy, table)
        inputs = {
            **graph_key(folder, plates.images),
            "weights": weights.digest,
            "arithmetic": float_arithmetic(),
        }

        def build(place: Path) -> None:
            logits = Emulator(folder, threads=1).run(preprocess(plates.images))
            np.savez(place / "logits.npz", wanted=float_logits(weights, plates), found=logits)

        with np.load(artifact("study-role", inputs, build) / "logits.npz") as kept:
            wanted, logits = kept["wanted"], kept["found"]
    except (ToolchainError, EngineError) as error:
        return {**line, "error": short(str(error))}
    texts = decode(logits, weights.alphabet).texts
    noise = sqnr_db(wanted, logits)
    return {
        **line,
        "images": len(plates),
        "correct": int(correct(plates.known_labels, texts).sum()),
        "steps_off": int((logits.argmax(1) != wanted.argmax(1)).sum()),
        "sqnr_db": round(noise, 2) if np.isfinite(noise) else None,
    }


def company(
    plates: PlateImages,
    weights: Weights,
    chips: Sequence[str],
    strategy: Strategy,
    *,
    batch: int = 4,
    orders: int = 4,
) -> list[dict[str, Any]]:
    """How INT8 readings depend on which images share a batch.

    The images are read in several random orders, so that each stands beside others each time.

    Returns
    -------
    list of dict
        ``{"chip", "batch_mean", "batch", "images", "right": [per order], "moved"}``; ``moved``
        counts images whose reading differs between any two orders.
    """
    split = cross_fit(len(plates), 2, 0)[0]
    labels = np.array(plates.labels)
    inputs = preprocess(plates.images)
    shuffles = [np.arange(len(plates))] + [
        np.random.default_rng([order, 3]).permutation(len(plates)) for order in range(1, orders)
    ]
    lines = []
    with Quantizer(cache_dir() / "logs" / "company.log") as quantizer:
        for mean in ("batch", "image"):
            single = top_graph(trace_model(weights, 1, mean, strategy.form))
            table = quantizer.tables(
                single, plates.images[split.calibrate(strategy.images)], [strategy.method]
            )[strategy.method]
            graph = top_graph(trace_model(weights, batch, mean, strategy.form))
            for chip in chips:
                runner = Emulator(quantizer.lower(graph, chip, strategy, table))
                texts = np.empty((orders, len(plates)), object)
                for row, order in zip(texts, shuffles):
                    row[order] = decode(runner.run(inputs[order]), weights.alphabet).texts
                lines.append(
                    {
                        "chip": chip,
                        "batch_mean": mean,
                        "batch": batch,
                        "images": len(plates),
                        "right": [int((row == labels).sum()) for row in texts],
                        "moved": int((texts != texts[0]).any(0).sum()),
                    }
                )
    return lines


def models(
    plan: Plan, plates: PlateImages, weights: Weights, *, images: int = 0, progress: bool = False
) -> list[dict[str, Any]]:
    """One BModel per strategy and chip, from the first draw: latency, and proof of the cells.

    Parameters
    ----------
    images
        Images of each BModel that the chip simulator reads, see `runtime.crosscheck`; 0 for none.

    Returns
    -------
    list of dict
        ``{"strategy", "chip", "predicted_latency_ms", "sha256", "same_graph"}``: whether the
        BModel's graph is the one that the cell ran; of a user's network ``in_float``, the part of
        the work that stays so; with ``images`` above 0 also ``simulator``. ``error`` in place of
        these where the tool refuses.

    Raises
    ------
    EngineError
        When a BModel's graph is not the cell's, or the simulator reads an image differently: then
        the cells of this strategy and chip prove nothing.
    """
    split = cross_fit(len(plates), plan.folds, plan.draws[0])[0]
    judged = plates.take(split.evaluate)
    jobs = [(strategy, chip) for strategy in plan.strategies for chip in plan.chips_of(strategy)]
    lines = []
    with (
        Quantizer(cache_dir() / "logs" / "models.log") as quantizer,
        progress_bar(len(jobs), "BModels", progress) as advance,
    ):
        for strategy, chip in jobs:
            lines.append({"strategy": strategy.name, "chip": chip})
            try:
                model, folder = _model(
                    quantizer,
                    plan,
                    weights,
                    strategy,
                    chip,
                    plates.images[split.calibrate(strategy.images)],
                )
            except (ToolchainError, EngineError) as error:
                lines[-1]["error"] = short(str(error))
            else:
                lines[-1] |= proof(model, folder, judged, images)
            advance(1)
    return lines


def _model(
    quantizer: Quantizer,
    plan: Plan,
    weights: Weights,
    strategy: Strategy,
    chip: str,
    images: np.ndarray,
) -> tuple[BModel, Path]:
    """A BModel, and the folder of the graph that a cell of the same images runs."""
    traced = trace_model(weights, form=strategy.form)
    graph = top_graph(traced, fuse_preprocess=strategy.fuse_preprocess, release=plan.calibrated_by)
    if needs_tool(strategy) or plan.calibrated_by:
        table = calibrate(graph, images, strategy, chip)
    else:
        methods = {
            method
            for s in plan.strategies
            if calibration_key(s) == calibration_key(strategy)
            for method in s.methods
        }
        found = tables(quantizer, graph, images, strategy, sorted(methods))
        table = mixed_table(found, graph, strategy)
    table = learnt_table(quantizer, traced, graph, images, chip, strategy, table)
    draw = plan.draws[0]
    folder = lower(quantizer, weights, graph, chip, strategy, table, draw, plan.release)
    if strategy.finetune:
        traced = tuned_trace(weights, chip, strategy, table, seed=draw, quantizer=quantizer)
    model = compile_bmodel(
        traced, chip, "int8", strategy=strategy, table=table, release=plan.release
    )
    return model, folder


def proof(model: BModel, folder: Path, judged: PlateImages, images: int) -> dict[str, Any]:
    """A line of `models`: of a BModel, the graph that cells ran, and plates for the simulator."""
    if not same_graph(folder, model.exported):
        raise EngineError(
            f"{model.chip} {model.strategy}: the BModel's graph is not the one that "
            "the study ran. Its cells prove nothing of this BModel; remove both "
            "artifacts and run the study again."
        )
    found: dict[str, Any] = {
        "predicted_latency_ms": model.predicted_latency_ms,
        "sha256": model.sha256,
        "same_graph": True,
    }
    if model.network != LPRNET.name:  # whose strategies say what they leave in float
        found["in_float"] = round(graph_share(model.exported), 4)
    if images:
        some, taken = judged.take(slice(images)), model.interface.input
        given = network_input(some.images, model.input_dtype == "uint8", taken)
        outputs = model.interface.arranged(Emulator(model.exported).run(given))
        checked = crosscheck(model, some, outputs, images=images)
        found["simulator"] = {
            key: checked[key]
            for key in ("images", "identical", "same_classes", "max_abs_difference")
        }
    return found


def same_graph(one: Path, other: Path) -> bool:
    """Whether two exported graphs are equal, weights included."""
    texts = [json.loads((folder / "graph.json").read_text("utf8")) for folder in (one, other)]
    with np.load(one / "graph.npz") as a, np.load(other / "graph.npz") as b:
        return (
            texts[0] == texts[1]
            and set(a) == set(b)
            and all(np.array_equal(a[name], b[name]) for name in a)
        )
