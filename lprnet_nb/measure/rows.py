"""Rows of ``metrics.json``: a model run, decoded and judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..decode import Readings
from ..evaluate.accuracy import character_accuracy, correct, exact_match
from ..evaluate.fidelity import cosine, sqnr_db
from ..evaluate.intervals import wilson
from ..evaluate.paired import mcnemar_exact
from ..progress import progress_bar
from ..runtime.crosscheck import crosscheck, sample_size
from ..runtime.inference import Inference, infer_plates
from ..toolchain.bmodel import inspect_bmodel
from ..toolchain.profile import latency_by_layer
from ..work import scheduler
from ..work.pieces import Piece, float_pieces, score, score_piece
from .data import Data
from .models import (
    Compiled,
    Planned,
    _batch,
    model_pieces,
    references,
    study_backend,
)
from .output import Output
from .parameters import Parameters

SCHEMA = 1
LAYER_IMAGES = 16  # on which the error of each layer is measured
ROUND = 6  # decimals of metrics.json


@dataclass(frozen=True)
class Measured:
    """One model on one set of plates, read by one decoder.

    Parameters
    ----------
    compiled
        What was run.
    row
        Its row of ``metrics.json``.
    readings
        Texts, confidence and runner-up.
    correct
        bool ``[N]``.
    inference
        Logits and how they were made.
    milliseconds
        Per image: decode, preprocess, inference, postprocess, as the vendor's tables have them.
    crosscheck
        What the simulator said, or None where it was the backend itself or torch.
    """

    compiled: Compiled
    row: dict[str, Any]
    readings: Readings
    correct: np.ndarray
    inference: Inference = field(repr=False)
    milliseconds: dict[str, float]
    crosscheck: dict[str, Any] | None


def measure(
    compiled: Compiled,
    base: Measured | None,
    data: Data,
    *,
    decoder: str = "greedy",
    backend: str = "auto",
    progress: bool = True,
) -> Measured:
    """Run, decode and judge one model.

    Parameters
    ----------
    compiled
        What to run; the reference itself runs on torch.
    base
        The float network at the same batch, measured with the same decoder; None for that itself.
    data
        Plates with labels.
    decoder
        See `decode.decode`.
    backend
        "auto", "device", "simulator" or "emulator".

    Raises
    ------
    EngineError
        When the emulator and the simulator disagree, or the backend is not there.
    """
    plates = data.plates
    check = None
    if compiled.bmodel is None:
        inference = infer_plates(compiled.traced, plates, "torch", progress=progress)
    else:
        chosen = study_backend(backend, compiled.bmodel)
        inference = infer_plates(compiled.bmodel, plates, chosen, progress=progress)
        if chosen == "emulator":
            check = crosscheck(compiled.bmodel, plates, inference.logits)
    readings, postprocess = score(inference.logits, data.weights.alphabet, decoder)
    seconds = {"decode": data.seconds, **inference.seconds, "postprocess": postprocess}
    right = correct(plates.labels, readings.texts)
    row = _row(compiled, data, decoder, inference, readings.texts, right)
    if base is not None:
        row |= {
            "agreement_with_float": exact_match(base.readings.texts, readings.texts),
            "mcnemar_p": mcnemar_exact(base.correct, right).p,
            "logits_cosine": cosine(base.inference.logits, inference.logits),
            "logits_sqnr_db": sqnr_db(base.inference.logits, inference.logits),
            "predicted_latency_ms": compiled.bmodel.predicted_latency_ms,
        }
    per_image = {
        stage: 1000 * seconds[stage] / len(plates)
        for stage in ("decode", "preprocess", "inference", "postprocess")
        if stage in seconds
    }
    return Measured(
        compiled,
        {k: _rounded(v) for k, v in row.items()},
        readings,
        right,
        inference,
        per_image,
        check,
    )


def _row(
    compiled: Compiled,
    data: Data,
    decoder: str,
    inference: Inference,
    texts: list[str],
    right: np.ndarray,
) -> dict[str, Any]:
    bmodel, count = compiled.bmodel, len(right)
    return {
        "chip": bmodel.chip if bmodel else None,
        "precision": bmodel.precision if bmodel else "fp32",
        "batch": compiled.traced.batch,
        "batch_mean": compiled.traced.batch_mean,
        "strategy": compiled.strategy,
        "backend": inference.description["backend"],
        "decoder": decoder,
        "images": count,
        "exact_match": float(right.mean()),
        "ci95": list(wilson(int(right.sum()), count)),
        "character_accuracy": character_accuracy(data.plates.labels, texts),
        "agreement_with_float": None,
        "mcnemar_p": None,
        "logits_cosine": None,
        "logits_sqnr_db": None,
        "predicted_latency_ms": None,
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        # JSON has no infinity; an exact match has no noise to express in decibels.
        return round(float(value), ROUND) if np.isfinite(value) else None
    return value


def measure_all(
    parameters: Parameters, data: Data, compiled: list[Compiled], *, progress: bool = True
) -> list[Measured]:
    """Measure the float reference of each batch, then every model, with every decoder."""
    floats = references(parameters, data)
    scheduler.make(
        measuring_pieces(parameters, data, compiled), "running models", progress=progress
    )
    options = {"backend": parameters.backend, "progress": False}
    found = []
    with progress_bar(
        len(parameters.decoders) * (len(floats) + len(compiled)), "judging models", progress
    ) as advance:
        for decoder in parameters.decoders:
            bases = {}
            for batch, item in floats.items():
                bases[batch] = measure(item, None, data, decoder=decoder, **options)
                advance(1)
            found += bases.values()
            for item in compiled:
                found.append(
                    measure(item, bases[item.traced.batch], data, decoder=decoder, **options)
                )
                advance(1)
    return found


def measuring_pieces(
    parameters: Parameters, data: Data, models: Sequence[Compiled | Planned]
) -> list[Piece]:
    """What `measure_all` makes: logits of floats, models and judge, and their readings."""
    pieces = []
    for batch in parameters.batches:
        inferred = float_pieces(data.weights, data.plates, batch, parameters.batch_mean)
        pieces += [*inferred, *_score_pieces(f"float_{batch}b", inferred[1:], parameters, data)]
    for item in models:
        batch = _batch(item)
        inferred = model_pieces([item], data.plates, parameters.backend)
        pieces += [*inferred, *_score_pieces(item.id, inferred[1:], parameters, data)]
        if inferred[1].arguments["backend"] == "emulator":
            sample = data.plates.take(slice(sample_size(batch, len(data.plates))))
            pieces += model_pieces([item], sample, "simulator")
    return pieces


def _score_pieces(
    identity: str, inferred: list[Piece], parameters: Parameters, data: Data
) -> list[Piece]:
    return [
        score_piece(identity, inferred, data.weights.alphabet, decoder)
        for decoder in parameters.decoders
    ]


def write_metrics(output: Output, data: Data, measured: list[Measured]) -> dict[str, Any]:
    """Write ``metrics.json``, ``timings.json``, ``results/`` and ``bmodels/`` of a report.

    Returns
    -------
    dict
        What went into ``metrics.json``.
    """
    description = data.description()
    metrics = {
        "schema": SCHEMA,
        "dataset": {key: description[key] for key in ("name", "images", "digest")},
        "data": {key: description[key] for key in ("source", "weights", "calibration")},
        "rows": [item.row for item in measured],
    }
    output.json("metrics", metrics)
    output.json(
        "timings",
        {
            "schema": SCHEMA,
            "note": "wall time per image on this machine, when "
            "the logits were made; an emulator's or simulator's time says nothing "
            "of the chip's",
            "rows": [
                {
                    "id": item.compiled.id,
                    "decoder": item.row["decoder"],
                    "backend": item.row["backend"],
                    **{f"{k}_ms": round(v, 4) for k, v in item.milliseconds.items()},
                }
                for item in measured
            ],
        },
    )
    for item in measured:
        name = f"{item.compiled.id}_{item.row['decoder']}"
        output.json(f"results/{name}", dict(zip(data.plates.names, item.readings.texts)))
    for item in {m.compiled.id: m for m in measured if m.compiled.bmodel}.values():
        output.json(f"bmodels/{item.compiled.id}", bmodel_facts(item, data))
    return metrics


def bmodel_facts(item: Measured, data: Data) -> dict[str, Any]:
    """All that is known of one BModel, for its page in the report."""
    from .layers import layer_errors  # which itself stands on this module

    bmodel = item.compiled.bmodel
    facts = inspect_bmodel(bmodel.path)
    quantized = bmodel.precision == "int8" and bmodel.graph is not None
    errors = layer_errors(item.compiled, data.plates.images[:LAYER_IMAGES]) if quantized else []
    return {
        "id": item.compiled.id,
        "chip": bmodel.chip,
        "precision": bmodel.precision,
        "batch": bmodel.batch,
        "strategy": item.compiled.strategy,
        "form": bmodel.form,
        "predicted_latency_ms": bmodel.predicted_latency_ms,
        "sha256": bmodel.sha256,
        "tools": bmodel.tools,
        "info": facts["text"],
        "memory": {
            "device_bytes": facts["device_mem_size"],
            "host_bytes": facts["host_mem_size"],
            "file_bytes": bmodel.path.stat().st_size,
        },
        "layers": [
            {
                "name": row["layer"],
                "cosine": _rounded(row["cosine"]),
                "sqnr_db": _rounded(row["sqnr_db"]),
            }
            for row in errors
        ],
        "latency_by_layer": latency_by_layer(bmodel.folder),
        "crosscheck": item.crosscheck,
    }
