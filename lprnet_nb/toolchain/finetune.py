"""Quantization-aware training on a compiler's own grid: weights tuned, thresholds kept.

The thresholds that the compiler chose for the weights as they were stay; the tuned weights are
lowered and compiled with the same table, so that they meet the grid that they were tuned on.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import asdict
from pathlib import Path

import torch

from ..cache import array_digest, artifact
from ..datasets.generate import draw_chunk
from ..model.qat import QatConfig, finetune
from ..model.trace import TracedModel, trace_model
from ..model.weights import Weights, load_weights
from ..places import cache_dir
from .compile import CalibrationTable, top_graph
from .grid import integer_grid
from .lowering import Quantizer
from .strategies import Strategy

RECIPE = 1  # raised when a change to `model.qat` changes the weights that come out
_TUNED = "tuned.pth"
_tracing = threading.Lock()  # torch traces one network at a time


def tuned_weights(
    weights: Weights,
    chip: str,
    strategy: Strategy,
    table: CalibrationTable,
    *,
    seed: int = 0,
    quantizer: Quantizer | None = None,
) -> Weights:
    """Weights after quantization-aware training for a chip; made once.

    Parameters
    ----------
    weights
        Where to start, and the teacher.
    chip
        Whose integers to train on.
    strategy
        What the graph is lowered with: the forked form, every layer in INT8.
    table
        Thresholds for `weights`.
    seed
        Of the generated plates.
    quantizer
        A warm one; by default one is started for this.

    Raises
    ------
    ToolchainError
        When the compiler refuses, or its graph is not what training follows.
    """
    with contextlib.ExitStack() as stack:
        if quantizer is None:
            quantizer = stack.enter_context(Quantizer(cache_dir() / "logs" / "finetune.log"))
        graph = top_graph(_traced(weights, form=strategy.form))
        grid = integer_grid(quantizer.lower(graph, chip, strategy, table))
    config = QatConfig(seed=seed)
    inputs = {
        "weights": weights.digest,
        "grid": {name: asdict(grid[name]) for name in grid},
        "config": config.key(),
        "recipe": RECIPE,
        "torch": torch.__version__,
        "generator": array_digest(draw_chunk(seed, 0, size=config.batch).images),
    }

    def build(folder: Path) -> None:
        torch.save(finetune(weights, grid, config).state, folder / _TUNED)

    return load_weights(
        artifact("qat", inputs, build) / _TUNED, weights.alphabet, name=f"{weights.name}-qat"
    )


def tuned_trace(
    weights: Weights,
    chip: str,
    strategy: Strategy,
    table: CalibrationTable,
    *,
    batch: int = 1,
    batch_mean: str = "image",
    seed: int = 0,
    quantizer: Quantizer | None = None,
) -> TracedModel:
    """Trace of the network that a strategy quantizes: of tuned weights where it asks for them.

    Parameters
    ----------
    weights, chip, strategy, table, seed, quantizer
        See `tuned_weights`.
    batch, batch_mean
        See `model.trace.trace_model`.
    """
    if strategy.finetune:
        weights = tuned_weights(weights, chip, strategy, table, seed=seed, quantizer=quantizer)
    return _traced(weights, batch, batch_mean, strategy.form)


def _traced(
    weights: Weights, batch: int = 1, batch_mean: str = "image", form: str = "published"
) -> TracedModel:
    with _tracing:
        return trace_model(weights, batch, batch_mean, form)
