"""From checked parameters to rows of ``metrics.json``: data, compiled models, accuracy, fidelity."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from ..datasets import fetch
from ..datasets.alphabet import PUBLISHED, Alphabet, read_alphabet
from ..datasets.folder import load_plates
from ..datasets.images import PlateImages, subset
from ..decode import Readings
from ..errors import DataError, ParameterError
from ..evaluate.accuracy import character_accuracy, correct, exact_match
from ..evaluate.fidelity import cosine, sqnr_db
from ..evaluate.intervals import wilson
from ..evaluate.paired import mcnemar_exact
from ..model.trace import TracedModel, trace_model
from ..model.weights import Weights, load_published_weights, load_weights
from ..runtime.crosscheck import crosscheck, sample_size
from ..runtime.inference import Inference, infer_plates
from ..runtime.progress import progress_bar
from ..toolchain.bmodel import BModel, inspect_bmodel
from ..toolchain.chips import supports
from ..toolchain.nntc_strategies import strategy_named as nntc_strategy_named
from ..toolchain.profile import latency_by_layer
from ..toolchain.strategies import strategy_named
from . import scheduler
from .output import Output
from .parameters import Parameters
from .pieces import (
    Piece,
    compile_pieces,
    float_pieces,
    infer_pieces,
    other_compile_piece,
    score,
    score_piece,
    trace_piece,
)

SCHEMA = 1
SUBSET_SEED = 0  # the fixed subset of a quick report
CALIBRATION_SEED = 1
GENERATED_IMAGES = 1000
LAYER_IMAGES = 16  # on which the error of each layer is measured
ROUND = 6  # decimals of metrics.json


@dataclass(frozen=True)
class Data:
    """What a run evaluates, calibrates on and compiles.

    Parameters
    ----------
    plates
        Images to evaluate, with labels.
    pool
        Images to calibrate on: those that are not evaluated where there are enough.
    overlap
        Whether calibration images are among the evaluated ones.
    weights
        Network weights with their class list.
    source
        "published", "generated" or "folder".
    reason
        Why this source, where the user left it open.
    seconds
        Wall time of reading and decoding `plates`.
    """

    plates: PlateImages
    pool: PlateImages
    overlap: bool
    weights: Weights
    source: str
    reason: str
    seconds: float

    def calibration_images(self, count: int) -> np.ndarray:
        """A fixed random draw for calibration, uint8 ``[count, 24, 94, 3]``.

        Raises
        ------
        ParameterError
            When there are fewer images to draw from.
        """
        self.check_calibration(count)
        return subset(self.pool, count, CALIBRATION_SEED).images

    def check_calibration(self, count: int) -> None:
        """Raise a ParameterError when there are fewer images to draw from than `count`."""
        if count > len(self.pool):
            raise ParameterError(
                f"calibration takes {count} images, and {self.pool.name} has {len(self.pool)}. "
                "Choose strategies that take fewer, such as kl-20 and mse-20, or give more images.")

    def description(self) -> dict[str, Any]:
        """The ``dataset`` part of ``metrics.json``, and where calibration images come from."""
        return {"name": self.plates.name, "images": len(self.plates),
                "digest": self.plates.digest, "source": self.source, "reason": self.reason,
                "weights": self.weights.name,
                "calibration": {"name": self.pool.name, "images": len(self.pool),
                                "among_evaluated": self.overlap}}


def datasets_for(parameters: Parameters) -> Data:
    """Load images and weights as the parameters say.

    Raises
    ------
    DataError
        When the data that was asked for cannot be had. With ``data="auto"`` the published data is
        fetched if possible, else generated plates are used and `Data.reason` says why.
    """
    alphabet = _alphabet(parameters)
    source, reason = _source(parameters.data)
    weights = _weights(parameters.weights, source, alphabet)
    started = time.perf_counter()
    if source == "published":
        everything = fetch.load_published()
    elif source == "generated":
        from ..datasets.generate import generate_plates

        everything = generate_plates(max(parameters.images, GENERATED_IMAGES), seed=0)
    else:
        everything = load_plates(parameters.data, alphabet)
    seconds = (time.perf_counter() - started) / len(everything)
    if source == "generated":
        plates = _evaluated(everything, parameters.images)
        pool, overlap = generate_plates(GENERATED_IMAGES, seed=1), False
    else:
        plates = _evaluated(everything, parameters.images)
        rest = sorted(set(range(len(everything))) - {everything.names.index(n)
                                                     for n in plates.names})
        overlap = len(rest) < max(len(everything) // 2, _calibration_need(parameters))
        pool = everything if overlap else everything.take(rest)
    return Data(plates, pool, overlap, weights, source, reason, seconds * len(plates))


def _calibration_need(parameters: Parameters) -> int:
    """Images that the greediest of the wanted strategies calibrates on, 0 without any."""
    return max((_strategy(parameters, name, chip).images
                for chip, _, _, name in combinations(parameters) if name), default=0)


def weights_for(parameters: Parameters) -> Weights:
    """The weights that the parameters name, without loading images."""
    source = _source(parameters.data)[0] if parameters.weights == "auto" else ""
    return _weights(parameters.weights, source, _alphabet(parameters))


def _alphabet(parameters: Parameters) -> Alphabet:
    return read_alphabet(parameters.classes) if parameters.classes else PUBLISHED


def _evaluated(everything: PlateImages, images: int) -> PlateImages:
    if everything.labels is None:
        raise DataError(f"{everything.name} has no labels to evaluate against.")
    if images == 0 or images == len(everything):
        return everything
    return subset(everything, images, SUBSET_SEED)


def _source(data: str) -> tuple[str, str]:
    if data == "generated":
        return data, "chosen"
    if data == "published":
        fetch.fetch_published()
        return data, "chosen"
    if data != "auto":
        return "folder", "chosen"
    return _found_source(os.environ.get("LPRNET_MIRROR"))


@lru_cache
def _found_source(mirror: str | None) -> tuple[str, str]:
    if fetch.is_published_data_here():
        return "published", "the published data is at hand"
    try:
        fetch.fetch_published(mirror=mirror)
        return "published", "the published data could be fetched"
    except DataError as error:
        return "generated", f"the published data cannot be had: {error}"


def _weights(name: str, source: str, alphabet: Alphabet) -> Weights:
    if name == "auto":
        name = "generated" if source == "generated" else "published"
    if name == "published":
        if not fetch.weights_path().exists():
            fetch.fetch_published()
        return load_published_weights()
    if name == "generated":
        from ..model.own import load_own_weights

        return load_own_weights()
    return load_weights(name, alphabet)


@dataclass(frozen=True)
class Compiled:
    """One column of the comparison: a BModel, and the float trace that it is compared with.

    Parameters
    ----------
    id
        Such as ``bm1684x_int8_1b_kl``; ``float_1b`` for the torch reference.
    traced
        The float network at the same batch.
    bmodel
        None for the reference itself.
    strategy
        Name under which the strategy was asked for, such as "recommended"; None for float.
    """

    id: str
    traced: TracedModel
    bmodel: BModel | None
    strategy: str | None = None


def references(parameters: Parameters, data: Data) -> dict[int, Compiled]:
    """The float network by batch size."""
    return {batch: Compiled(f"float_{batch}b", trace_model(data.weights, batch,
                                                           parameters.batch_mean), None)
            for batch in parameters.batches}


def combinations(parameters: Parameters) -> list[tuple[str, str, int, str | None]]:
    """All ``(chip, precision, batch, strategy)`` to compile; what a chip cannot do is left out."""
    found = []
    for chip in parameters.chips:
        for precision in parameters.precisions:
            if not supports(chip, precision):
                continue
            strategies = parameters.strategies if precision == "int8" else (None,)
            found += [(chip, precision, batch, strategy) for batch in parameters.batches
                      for strategy in strategies]
    if not found:
        raise ParameterError(f"{', '.join(parameters.chips)} cannot do "
                             f"{', '.join(parameters.precisions)}.")
    return found


def compile_all(parameters: Parameters, data: Data, *, progress: bool = True) -> list[Compiled]:
    """Compile every combination, side by side, from the cache where it can.

    Raises
    ------
    ToolchainError
        When a tool fails; those that were finished are kept.
    """
    wanted = planned(parameters, data)
    done = scheduler.make([piece for item in wanted for piece in item.pieces], "compiling",
                          progress=progress)
    # The float trace at the same batch, in the form that was compiled.
    return [Compiled(item.id, done[item.pieces[0].name], done[item.model], item.strategy)
            for item in wanted]


@dataclass(frozen=True)
class Planned:
    """A model that is wanted, as the pieces that make it.

    Parameters
    ----------
    id, strategy
        See `Compiled`.
    batch
        Images per call.
    has_graph
        Whether it will have a graph for the emulator; TPU-NNTC leaves none.
    pieces
        Its trace first, the model last.
    """

    id: str
    strategy: str | None
    batch: int
    has_graph: bool
    pieces: tuple[Piece, ...]

    @property
    def model(self) -> str:
        """Name of the piece that makes it."""
        return self.pieces[-1].name


def planned(parameters: Parameters, data: Data) -> list[Planned]:
    """What `compile_all` makes, as pieces."""
    found = []
    for chip, precision, batch, name in combinations(parameters):
        strategy = _strategy(parameters, name, chip) if name else None
        if name and name.endswith(".json"):
            name = strategy.name  # a path would end up in file names
        identity = "_".join(part for part in (chip.lower(), precision, f"{batch}b", name) if part)
        images = data.calibration_images(strategy.images) if strategy else None
        ours = parameters.toolchain == "mlir"
        make = compile_pieces if ours else _nntc_pieces
        found.append(Planned(identity, name, batch, ours, tuple(make(
            identity, chip, precision, batch, parameters.batch_mean, data.weights, strategy,
            images))))
    return found


def _strategy(parameters: Parameters, name: str, chip: str) -> Any:
    find = nntc_strategy_named if parameters.toolchain == "nntc" else strategy_named
    return find(name, chip)


def _nntc_pieces(identity: str, chip: str, precision: str, batch: int, batch_mean: str,
                 weights: Weights, strategy: Any, images: np.ndarray | None) -> list[Piece]:
    from ..toolchain.nntc import compile_bmodel as compile_one

    form = strategy.form if strategy else "published"
    trace = trace_piece(weights, batch, batch_mean, form)
    arguments: dict[str, Any] = {"chip": chip, "precision": precision}
    if strategy:
        arguments |= {"strategy": strategy, "calibration_images": images,
                      "single": trace_model(weights, 1, batch_mean, form)}
    return [trace, other_compile_piece(identity, compile_one, trace, arguments)]


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


def study_backend(backend: str, bmodel: BModel) -> str:
    """What "auto" means for a report: the device, else the emulator with the simulator as judge.

    A BModel without an exported graph, as TPU-NNTC makes them, is run on the simulator itself.
    """
    return _backend(backend, bool(bmodel.graph))


def _backend(backend: str, has_graph: bool) -> str:
    if backend != "auto":
        return backend
    from ..runtime.device import device_there

    if device_there():
        return "device"
    return "emulator" if has_graph else "simulator"


def measure(compiled: Compiled, base: Measured | None, data: Data, *, decoder: str = "greedy",
            backend: str = "auto", progress: bool = True) -> Measured:
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
        row |= {"agreement_with_float": exact_match(base.readings.texts, readings.texts),
                "mcnemar_p": mcnemar_exact(base.correct, right).p,
                "logits_cosine": cosine(base.inference.logits, inference.logits),
                "logits_sqnr_db": sqnr_db(base.inference.logits, inference.logits),
                "predicted_latency_ms": compiled.bmodel.predicted_latency_ms}
    per_image = {stage: 1000 * seconds[stage] / len(plates)
                 for stage in ("decode", "preprocess", "inference", "postprocess")
                 if stage in seconds}
    return Measured(compiled, {k: _rounded(v) for k, v in row.items()}, readings, right,
                    inference, per_image, check)


def _row(compiled: Compiled, data: Data, decoder: str, inference: Inference, texts: list[str],
         right: np.ndarray) -> dict[str, Any]:
    bmodel, count = compiled.bmodel, len(right)
    return {"chip": bmodel.chip if bmodel else None,
            "precision": bmodel.precision if bmodel else "fp32",
            "batch": compiled.traced.batch, "batch_mean": compiled.traced.batch_mean,
            "strategy": compiled.strategy, "backend": inference.description["backend"],
            "decoder": decoder, "images": count, "exact_match": float(right.mean()),
            "ci95": list(wilson(int(right.sum()), count)),
            "character_accuracy": character_accuracy(data.plates.labels, texts),
            "agreement_with_float": None, "mcnemar_p": None, "logits_cosine": None,
            "logits_sqnr_db": None, "predicted_latency_ms": None}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        # JSON has no infinity; an exact match has no noise to express in decibels.
        return round(float(value), ROUND) if np.isfinite(value) else None
    return value


def measure_all(parameters: Parameters, data: Data, compiled: list[Compiled], *,
                progress: bool = True) -> list[Measured]:
    """Measure the float reference of each batch, then every model, with every decoder."""
    floats = references(parameters, data)
    scheduler.make(measuring_pieces(parameters, data, compiled), "running models",
                   progress=progress)
    options = {"backend": parameters.backend, "progress": False}
    found = []
    with progress_bar(len(parameters.decoders) * (len(floats) + len(compiled)),
                      "judging models", progress) as advance:
        for decoder in parameters.decoders:
            bases = {}
            for batch, item in floats.items():
                bases[batch] = measure(item, None, data, decoder=decoder, **options)
                advance(1)
            found += bases.values()
            for item in compiled:
                found.append(measure(item, bases[item.traced.batch], data, decoder=decoder,
                                     **options))
                advance(1)
    return found


def measuring_pieces(parameters: Parameters, data: Data, models: Sequence[Compiled | Planned]
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


def _score_pieces(identity: str, inferred: list[Piece], parameters: Parameters, data: Data
                  ) -> list[Piece]:
    return [score_piece(identity, inferred, data.weights.alphabet, decoder)
            for decoder in parameters.decoders]


def model_pieces(models: Sequence[Compiled | Planned], plates: PlateImages, backend: str
                 ) -> list[Piece]:
    """Each model, and behind it the pieces that run it over plates on a backend."""
    pieces = []
    for item in models:
        if isinstance(item, Planned):
            model, graph = item.pieces[-1], item.has_graph
        else:
            model = Piece(f"compile/{item.id}", _known, {"model": item.bmodel}, here=True)
            graph = bool(item.bmodel.graph)
        pieces += [model, *infer_pieces(item.id, model.name, plates, _backend(backend, graph),
                                        _batch(item))]
    return pieces


def _batch(item: Compiled | Planned) -> int:
    return item.batch if isinstance(item, Planned) else item.traced.batch


def _known(model: BModel) -> BModel:
    return model


def write_metrics(output: Output, data: Data, measured: list[Measured]) -> dict[str, Any]:
    """Write ``metrics.json``, ``timings.json``, ``results/`` and ``bmodels/`` of a report.

    Returns
    -------
    dict
        What went into ``metrics.json``.
    """
    description = data.description()
    metrics = {"schema": SCHEMA,
               "dataset": {key: description[key] for key in ("name", "images", "digest")},
               "data": {key: description[key] for key in ("source", "weights", "calibration")},
               "rows": [item.row for item in measured]}
    output.json("metrics", metrics)
    output.json("timings", {"schema": SCHEMA, "note": "wall time per image on this machine, when "
                            "the logits were made; an emulator's or simulator's time says nothing "
                            "of the chip's", "rows": [
                                {"id": item.compiled.id, "decoder": item.row["decoder"],
                                 "backend": item.row["backend"],
                                 **{f"{k}_ms": round(v, 4) for k, v in item.milliseconds.items()}}
                                for item in measured]})
    for item in measured:
        name = f"{item.compiled.id}_{item.row['decoder']}"
        output.json(f"results/{name}", dict(zip(data.plates.names, item.readings.texts)))
    for item in {m.compiled.id: m for m in measured if m.compiled.bmodel}.values():
        output.json(f"bmodels/{item.compiled.id}", bmodel_facts(item, data))
    return metrics


def bmodel_facts(item: Measured, data: Data) -> dict[str, Any]:
    """All that is known of one BModel, for its page in the report."""
    from .quantization import layer_errors  # which itself stands on this module

    bmodel = item.compiled.bmodel
    facts = inspect_bmodel(bmodel.path)
    quantized = bmodel.precision == "int8" and bmodel.graph is not None
    errors = layer_errors(item.compiled, data.plates.images[:LAYER_IMAGES]) if quantized else []
    return {"id": item.compiled.id, "chip": bmodel.chip, "precision": bmodel.precision,
            "batch": bmodel.batch, "strategy": item.compiled.strategy, "form": bmodel.form,
            "predicted_latency_ms": bmodel.predicted_latency_ms, "sha256": bmodel.sha256,
            "tools": bmodel.tools, "info": facts["text"],
            "memory": {"device_bytes": facts["device_mem_size"],
                       "host_bytes": facts["host_mem_size"],
                       "file_bytes": bmodel.path.stat().st_size},
            "layers": [{"name": row["layer"], "cosine": _rounded(row["cosine"]),
                        "sqnr_db": _rounded(row["sqnr_db"])} for row in errors],
            "latency_by_layer": latency_by_layer(bmodel.folder),
            "crosscheck": item.crosscheck}
