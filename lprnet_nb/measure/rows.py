"""Rows of ``metrics.json``: a model run, decoded and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..cache import array_digest
from ..decode import Readings, decode
from ..decode.top import top
from ..errors import DataError, EngineError
from ..evaluate.accuracy import character_accuracy, correct, exact_match
from ..evaluate.decision import TOLERANCE, decide
from ..evaluate.fidelity import cosine, same_top1, sqnr_db
from ..evaluate.intervals import wilson
from ..evaluate.paired import mcnemar_exact
from ..language import phrase
from ..runtime.inference import Inference
from ..runtime.likeness import unlike_calibrated
from ..toolchain.bmodel import inspect_bmodel
from ..toolchain.packaged import packaged_calibration
from ..toolchain.profile import latency_by_layer
from ..work import scheduler
from ..work.pieces import (
    TOP,
    Piece,
    Run,
    Scored,
    crosscheck_piece,
    float_run,
    model_run,
    score_piece,
)
from .badge import Badge, exactness
from .box import (
    BoxRun,
    MeasuredModel,
    box_runs,
    logits_digest,
    measured_logits,
    read_fitting,
)
from .data import CALIBRATION_SEED, Data
from .layers import layer_errors
from .models import Compiled, Planned, Reference, model_label
from .output import Output
from .parameters import Parameters
from .schema import (
    SCHEMA,
    BModelFacts,
    Metrics,
    Row,
    Timings,
    model_id,
    results_name,
    written,
)

LAYER_IMAGES = 16  # on which the error of each layer is measured
ROUND = 6  # decimals of metrics.json
_SAME_MODEL = ("chip", "precision", "batch", "cores", "strategy", "decoder")  # but for the release


@dataclass(frozen=True)
class Measured:
    """One model on one set of plates, read by one decoder.

    Parameters
    ----------
    compiled
        What was run.
    row
        Its row of ``metrics.json``, see `schema.Row`.
    readings
        Texts, confidence and runner-up.
    correct
        bool ``[N]``; of none without labels.
    inference
        Logits and how they were made.
    milliseconds
        Per image: decode, preprocess, inference, postprocess, as the vendor's tables have them.
    crosscheck
        What the simulator said, or None where it was the backend itself or torch. Of a box, what
        its logits are beside the expected ones: with ``exact``, how many plates are the same to the
        bit, and ``judge``.
    box
        Where a box has run it; None for what was run here.
    """

    compiled: Compiled | Reference
    row: dict[str, Any]
    readings: Readings
    correct: np.ndarray
    inference: Inference = field(repr=False)
    milliseconds: dict[str, float]
    crosscheck: dict[str, Any] | None
    box: BoxRun | None = field(default=None, repr=False)

    @property
    def exactness(self) -> Badge | None:
        """How near its logits are to those that they are held against; None where none are."""
        return exactness(self.crosscheck)

    @property
    def label(self) -> str:
        """Its model's name in figures, and the box's where one has run it."""
        named = model_label(self.compiled)
        return named if self.box is None else f"{named} on {self.box.results.name}"


def run_here(measured: Sequence[Measured]) -> list[Measured]:
    """Without what boxes ran: the same BModels, once more."""
    return [item for item in measured if item.box is None]


@dataclass(frozen=True)
class Trial:
    """A model to run, read by every decoder and have judged by the simulator, as pieces.

    Parameters
    ----------
    run
        Its logits.
    scores
        Its readings by decoder.
    crosscheck
        None where there is nothing to check: for torch and the simulator itself.
    """

    run: Run
    scores: Mapping[str, Piece]
    crosscheck: Piece | None

    @property
    def pieces(self) -> list[Piece]:
        """All of them."""
        judge = [] if self.crosscheck is None else [self.crosscheck]
        return [*self.run.shards, *self.scores.values(), *judge]


def fitting(parameters: Parameters, data: Data) -> Parameters:
    """Parameters as the network's output is read: logits that are no CTC by `TOP` alone."""
    ctc = data.weights.of.interface.kind == "ctc"
    return parameters if ctc else replace(parameters, decoders=(TOP,))


def measuring(parameters: Parameters, data: Data, models: Sequence[Planned]) -> list[Trial]:
    """What `measure_all` makes: a trial of the float network of each batch, then of each model."""
    parameters = fitting(parameters, data)
    mean, plates, backend = parameters.batch_mean, data.plates, parameters.backend
    batches = _batches(parameters, models)
    runs = [float_run(data.weights, plates, batch, mean) for batch in batches]
    checks: list[Piece | None] = [None] * len(runs)
    for item in models:
        # What was not made here has no graph to emulate; the simulator runs the BModel itself.
        by = "simulator" if item.foreign and backend == "emulator" else backend
        run = model_run(item.id, item.model, plates, by, item.batch)
        runs.append(run)
        # The device's run of a BModel from elsewhere has no graph to be compared with either.
        judged = by == "emulator" or (by == "device" and not item.foreign)
        check = crosscheck_piece(run, plates, item.batch, item.judged) if judged else None
        checks.append(check)
    return [
        Trial(
            run,
            {name: score_piece(run, data.weights.alphabet, name) for name in parameters.decoders},
            check,
        )
        for run, check in zip(runs, checks)
    ]


def _batches(parameters: Parameters, models: Sequence[Planned]) -> list[int]:
    """Batch sizes of the float references: those asked for, then others of foreign BModels."""
    others = sorted(item.batch for item in models if item.foreign)
    return list(dict.fromkeys([*parameters.batches, *others]))


def measure_all(
    parameters: Parameters, data: Data, compiled: Sequence[Compiled], *, progress: bool = True
) -> list[Measured]:
    """Measure the float reference of each batch, then every model, with every decoder.

    A model that a box has run has a second row right after its own.

    Raises
    ------
    DataError
        When what a box measured is not of these plates and models.
    EngineError
        When the backend is not there.
    """
    parameters = fitting(parameters, data)
    boxes = boxes_of(parameters, data, compiled)
    models = [item.planned for item in compiled]
    trials = measuring(parameters, data, models)
    expected = {
        item.id: expected_run(item, boxes[item.id].model, data)
        for item in models
        if item.id in boxes
    }
    pieces = [piece for trial in trials for piece in trial.pieces]
    pieces += [piece for run in expected.values() for piece in run.shards]
    done = scheduler.make(pieces, phrase("running models"), progress=progress)
    floats = [
        Reference(model_id(None, "fp32", batch, None), done[trial.run.model])
        for batch, trial in zip(_batches(parameters, models), trials)
    ]
    inferences = [trial.run.read(done) for trial in trials]
    items: list[Compiled | Reference] = [*floats, *compiled]
    found = []
    for decoder in parameters.decoders:
        bases: dict[int, Measured] = {}
        for item, trial, inference in zip(items, trials, inferences):
            scored = done[trial.scores[decoder]]
            check = done[trial.crosscheck] if trial.crosscheck else None
            base = None if isinstance(item, Reference) else bases[item.traced.batch]
            found.append(
                judge(item, base, data, decoder, inference, scored, check, parameters.tolerance)
            )
            if base is None:
                bases[item.traced.batch] = found[-1]
            elif item.id in expected:
                logits = expected[item.id].read(done).logits
                found.append(
                    judge_box(item, base, data, decoder, boxes[item.id], logits, parameters)
                )
    return found


def boxes_of(parameters: Parameters, data: Data, compiled: Sequence[Compiled]) -> dict[str, BoxRun]:
    """What boxes measured of these models, by id; see `box.box_runs`."""
    if not parameters.measured:
        return {}
    models = {item.id: item.bmodel for item in compiled}
    return box_runs(parameters.measured, data.plates, models)


def expected_run(item: Planned, box: MeasuredModel, data: Data) -> Run:
    """The logits that a kit compared a box's with, made here again or found in the cache."""
    return model_run(item.id, item.model, data.plates, box.backend, item.batch)


def expected_pieces(parameters: Parameters, data: Data, models: Sequence[Planned]) -> list[Piece]:
    """What `measure_all` makes to judge boxes, of the models that these name as we do.

    Whether they are the same is known when they are compiled, see `box.box_runs`.
    """
    if not parameters.measured:
        return []
    files = read_fitting(parameters.measured, data.plates, parameters.chips)
    named = {model.id: model for results in files.values() for model in results.models}
    runs = [expected_run(item, named[item.id], data) for item in models if item.id in named]
    return [piece for run in runs for piece in run.shards]


def judge_box(
    item: Compiled | Reference,
    base: Measured,
    data: Data,
    decoder: str,
    box: BoxRun,
    expected: np.ndarray,
    parameters: Parameters,
) -> Measured:
    """The row of a model on a box; its readings are decoded here, of the logits that it gave.

    Parameters
    ----------
    item, base, data, decoder
        See `judge`.
    box
        What the box made of it.
    expected
        float32 ``[N, classes, 18]`` of the backend that the kit names.
    parameters
        For the tolerance.

    Raises
    ------
    DataError
        When the box's logits cannot be told from these, or it read something else off its own.
    """
    logits, alphabet = measured_logits(box.model, expected), data.weights.alphabet
    read = top if decoder == TOP else decode
    greedy = read(logits, alphabet).texts
    if box.plates.readings != greedy:
        raise DataError(
            f"results of {box.model.id}: the box's readings are not those of its logits. Make the "
            "kit again and run it again."
        )
    check = {
        "images": len(logits),
        "judge": box.model.backend,
        "exact": sum(logits_digest(a) == logits_digest(b) for a, b in zip(logits, expected)),
        "same_readings": sum(a == b for a, b in zip(greedy, read(expected, alphabet).texts)),
        "max_abs_difference": float(np.abs(logits - expected).max()),
    }
    check["identical"] = check["exact"] == check["images"]
    readings = read(logits, alphabet) if decoder == TOP else decode(logits, alphabet, decoder)
    scored = Scored(readings, 0.0)
    found = judge(
        item,
        base,
        data,
        decoder,
        Inference(logits, {"backend": "device"}),
        scored,
        check,
        parameters.tolerance,
    )
    told = ("exact", "judge", "max_abs_difference", "same_readings")
    row = found.row | {"box": {"results": box.file, **{key: check[key] for key in told}}}
    # What the box decodes in its last stage is greedy.
    times = {k: v for k, v in box.stages.items() if k != "postprocess" or decoder == "greedy"}
    return replace(found, row=written(Row, row), milliseconds=times, box=box)


def judge(
    item: Compiled | Reference,
    base: Measured | None,
    data: Data,
    decoder: str,
    inference: Inference,
    scored: Scored,
    check: dict[str, Any] | None,
    tolerance: float = TOLERANCE,
) -> Measured:
    """One model's row, from what was made of it.

    Parameters
    ----------
    item
        What was run.
    base
        The float network at the same batch, read by the same decoder; None for that itself.
    data
        Plates with labels.
    decoder, inference, scored, check
        Who read the logits, the logits, the readings, and what the simulator said.
    tolerance
        Points that it may lose against `base`.
    """
    plates, readings = data.plates, scored.readings
    seconds = {"decode": data.seconds, **inference.seconds, "postprocess": scored.seconds}
    labels = plates.labels
    right = np.zeros(0, bool) if labels is None else correct(labels, readings.texts)
    row = _row(item, data, decoder, inference, readings.texts, right)
    if base is not None:
        row |= {
            "agreement_with_float": exact_match(base.readings.texts, readings.texts),
            "logits_cosine": cosine(base.inference.logits, inference.logits),
            "logits_sqnr_db": sqnr_db(base.inference.logits, inference.logits),
        }
        if labels is not None:
            row["mcnemar_p"] = mcnemar_exact(base.correct, right).p
            row["loss"] = _loss(right, base.correct, tolerance)
        if decoder == TOP:
            row["same_top1"] = same_top1(base.inference.logits, inference.logits)
    per_image: dict[str, float] = {
        stage: 1000 * seconds[stage] / len(plates)
        for stage in ("decode", "preprocess", "inference", "postprocess")
        if stage in seconds
    }
    rounded = {key: _rounded(value) for key, value in row.items()}
    return Measured(item, written(Row, rounded), readings, right, inference, per_image, check)


def _row(
    item: Compiled | Reference,
    data: Data,
    decoder: str,
    inference: Inference,
    texts: list[str],
    right: np.ndarray,
) -> dict[str, Any]:
    count, labels = len(texts), data.plates.labels
    made = (
        {
            "chip": None,
            "precision": "fp32",
            "cores": 1,
            "strategy": None,
            "predicted_latency_ms": None,
        }
        if isinstance(item, Reference)
        else {
            "chip": item.bmodel.chip,
            "precision": item.bmodel.precision,
            "cores": item.bmodel.cores,
            "strategy": item.strategy,
            **({"release": item.release} if item.release else {}),
            "predicted_latency_ms": item.bmodel.predicted_latency_ms,
        }
    )
    return made | {
        "batch": item.traced.batch,
        "batch_mean": item.traced.batch_mean,
        "backend": inference.description["backend"],
        "decoder": decoder,
        "images": count,
        "exact_match": None if labels is None else float(right.mean()),
        "ci95": None if labels is None else list(wilson(int(right.sum()), count)),
        "character_accuracy": None if labels is None else character_accuracy(labels, texts),
        "agreement_with_float": None,
        "mcnemar_p": None,
        "logits_cosine": None,
        "logits_sqnr_db": None,
        "loss": None,
        "box": None,
    }


def _loss(right: np.ndarray, reference: np.ndarray, tolerance: float) -> dict[str, Any]:
    found = decide(right, reference, tolerance)
    return {
        "difference": round(found.difference, ROUND),
        "ci95": [round(found.low, ROUND), round(found.high, ROUND)],
        "outcome": found.outcome,
        "decides": found.decides,
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        # JSON has no infinity; an exact match has no noise to express in decibels.
        return round(float(value), ROUND) if np.isfinite(value) else None
    return value


def write_metrics(
    output: Output, parameters: Parameters, data: Data, measured: Sequence[Measured]
) -> dict[str, Any]:
    """Write ``metrics.json``, ``timings.json``, ``results/`` and ``bmodels/`` of a report.

    Returns
    -------
    dict
        What went into ``metrics.json``.
    """
    description = data.description()
    models = {
        item.compiled.id: item.compiled for item in measured if isinstance(item.compiled, Compiled)
    }
    metrics = {
        "schema": SCHEMA,
        "tolerance": parameters.tolerance,
        "dataset": {key: description[key] for key in ("name", "images", "digest")},
        "data": {
            key: description[key]
            for key in ("source", "weights", "margin", "calibration")
            if key in description
        }
        | _unlike(data, measured),
        "models": {name: origin(item, data) for name, item in models.items()},
        "rows": [item.row for item in measured],
    }
    if len(parameters.tpu_mlir) > 1 and data.plates.labels is not None:
        metrics["upgrades"] = upgrades(measured)
    timings = {
        "schema": SCHEMA,
        "note": "wall time per image on this machine, when the logits were made; an emulator's or "
        "simulator's time says nothing of the chip's",
        "rows": [
            {
                "id": item.compiled.id,
                "decoder": item.row["decoder"],
                "backend": item.row["backend"],
                **{f"{k}_ms": round(v, 4) for k, v in item.milliseconds.items()},
            }
            for item in run_here(measured)
        ],
        "boxes": box_times(measured),
    }
    output.json("metrics", metrics := written(Metrics, metrics))
    output.json("timings", written(Timings, timings))
    for item in measured:
        name = results_name(item.compiled.id, item.row["decoder"], item.box is not None)
        output.json(f"results/{name}", dict(zip(data.plates.names, item.readings.texts)))
    for item in {one.compiled.id: one for one in run_here(measured)}.values():
        if isinstance(item.compiled, Compiled):
            facts = bmodel_facts(item.compiled, item.crosscheck, data)
            output.json(f"bmodels/{item.compiled.id}", written(BModelFacts, facts))
    return metrics


def _unlike(data: Data, measured: Sequence[Measured]) -> dict[str, Any]:
    """By what the plates are unlike those of the weights' calibration, as the float network reads.

    Of the published plates, which it is of, and of generated ones nothing is said.
    """
    item = next((one for one in measured if isinstance(one.compiled, Reference)), None)
    if item is None or data.source != "folder" or data.weights.of.interface.kind != "ctc":
        return {}
    logits, alphabet = item.inference.logits, data.weights.alphabet
    found = unlike_calibrated(data.weights.name, logits, alphabet)
    return {"unlike": found} if found else {}


def box_times(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """What boxes took, each model once, by program; see `schema.BoxTimes`."""
    boxes = {item.compiled.id: item.box for item in measured if item.box is not None}
    return [
        {
            "id": name,
            "results": box.file,
            "program": program,
            "times_ms": {step: spread.model_dump(mode="json") for step, spread in times.items()},
        }
        for name, box in boxes.items()
        for program, times in box.times.items()
    ]


def upgrades(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Every model by each release against the same by the last that was named.

    Returns
    -------
    list of dict
        See `schema.Upgrade`.
    """
    groups: dict[tuple[Any, ...], list[Measured]] = {}
    for item in run_here(measured):
        if isinstance(item.compiled, Compiled) and item.compiled.release:
            groups.setdefault(tuple(item.row[key] for key in _SAME_MODEL), []).append(item)
    return [
        {**dict(zip(_SAME_MODEL, group)), **_upgrade(one, items[-1])}
        for group, items in groups.items()
        for one in items[:-1]
    ]


def _upgrade(one: Measured, other: Measured) -> dict[str, Any]:
    test = mcnemar_exact(one.correct, other.correct)
    return {
        "release": one.row["release"],
        "to": other.row["release"],
        "images": len(one.correct),
        "difference": round((test.c - test.b) / len(one.correct), ROUND),
        "only_release": test.b,
        "only_to": test.c,
        "p": round(test.p, ROUND),
        "same_logits": bool(np.array_equal(one.inference.logits, other.inference.logits)),
        "predicted_latency_ms": [item.row["predicted_latency_ms"] for item in (one, other)],
    }


def origin(item: Compiled, data: Data) -> dict[str, Any]:
    """What made a model, see `schema.Origin`."""
    quantization = item.quantization
    if quantization is None:
        return {"strategy": None, "calibration": None, "tools": item.bmodel.tools}
    drawn = _calibration(item, data, quantization.images) | {"among_evaluated": data.overlap}
    described = quantization.model_dump(mode="json", exclude={"about"})
    return {"strategy": described, "calibration": drawn, "tools": item.bmodel.tools}


def _calibration(item: Compiled, data: Data, count: int) -> dict[str, Any]:
    if item.bmodel.without_file:
        return packaged_calibration(item.bmodel)
    images = data.calibration_images(count)
    return {"images": len(images), "seed": CALIBRATION_SEED, "digest": array_digest(images)}


def bmodel_facts(item: Compiled, crosscheck: dict[str, Any] | None, data: Data) -> dict[str, Any]:
    """All that is known of one BModel, for its page in the report; see `schema.BModelFacts`."""
    bmodel = item.bmodel
    facts = inspect_bmodel(bmodel.path)
    quantized = bmodel.precision == "int8" and bmodel.graph is not None
    errors = []
    with suppress(EngineError):  # of a float layer that the emulator does not know
        errors = layer_errors(item, data.plates.images[:LAYER_IMAGES]) if quantized else []
    return {
        "schema": SCHEMA,
        "id": item.id,
        "chip": bmodel.chip,
        "precision": bmodel.precision,
        "batch": bmodel.batch,
        "cores": bmodel.cores,
        "strategy": item.strategy,
        "form": bmodel.form,
        "predicted_latency_ms": bmodel.predicted_latency_ms,
        "sha256": bmodel.sha256,
        "tools": bmodel.tools,
        "origin": origin(item, data),
        "info": facts["text"],
        "memory": {
            "device_bytes": facts["device_mem_size"],
            "host_bytes": facts["host_mem_size"],
            "file_bytes": facts["file_size"],
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
        "crosscheck": crosscheck,
    }
