"""Work described once: pieces that say what they make, what they need and what they are known by.

A piece is one call of one function whose result lies in the cache under the digest of all that it
depends on. Its key, a digest of the call and of the keys of what it needs, is its identity: pieces
of one key are one piece, whatever they are called. So a piece can be found instead of made, and
made by any process that has the package and the cache folder; `scheduler.make` does that, and gives
the results by piece.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from ..cache import array_digest, artifact, digest
from ..datasets.alphabet import Alphabet
from ..datasets.images import PlateImages
from ..decode import DECODERS, Readings, decode, load_grammar
from ..decode.top import top
from ..errors import ParameterError
from ..learnt import learnt_table
from ..model.trace import TracedModel, trace_model
from ..model.weights import Weights
from ..runtime.crosscheck import compare, sample_size
from ..runtime.inference import Inference, infer_shard, read_shards, shards
from ..sources import code_digest
from ..toolchain.bmodel import BModel
from ..toolchain.compile import CalibrationTable, TopGraph, calibrate, compile_bmodel, top_graph
from ..toolchain.finetune import tuned_trace
from ..toolchain.lowering import kept_quantizer
from ..toolchain.nntc.strategies import NntcStrategy
from ..toolchain.packaged import simulated_plates
from ..toolchain.strategies import Strategy

# Seconds of one image on one core, to tell a moment's work from a long one; measured, rounded up.
SECONDS = {
    "emulator": 0.005,
    "torch": 0.01,
    "onnxruntime": 0.01,
    "simulator": 0.5,
    "device": 0.001,
}
_COMPILE_SECONDS = 20.0
_TUNE_SECONDS = 120.0
SHARED = (np.ndarray, PlateImages, Weights)  # arguments that many pieces have and that are large
TOP = "top"  # in place of a decoder, for logits that are no CTC: the likeliest class of a step
_LIMIT = 7200.0  # seconds; the longest piece, a calibration with a search, takes minutes


@dataclass(frozen=True, eq=False)
class Piece:
    """One call that leaves one result in the cache; equal to every piece of the same `key`.

    Parameters
    ----------
    name
        For people, such as ``infer/bm1684x_int8_1b_kl/emulator/000000-000255``.
    make
        A function of a module, which finds or makes the result.
    arguments
        Its keyword arguments.
    needs
        Pieces whose results are its first arguments.
    here
        Made in the process that asks: quick, or not safe beside others in one process.
    shares_cores
        `make` takes ``cores``, how many it may use where others work beside it.
    seconds
        About how long it takes on one core.
    limit
        Seconds after which it has failed.
    """

    name: str
    make: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    needs: tuple[Piece, ...] = ()
    here: bool = False
    shares_cores: bool = False
    seconds: float = 1.0
    limit: float = _LIMIT

    @cached_property
    def key(self) -> str:
        """SHA-256 of all that decides the result."""
        return digest(
            {
                "make": f"{self.make.__module__}.{self.make.__qualname__}",
                "arguments": _described(self.arguments),
                "needs": [piece.key for piece in self.needs],
            }
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Piece) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def kind(self) -> str:
        """First part of the name."""
        return self.name.split("/")[0]


def _described(value: Any) -> Any:
    """What of an argument decides a result, JSON-able."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        return array_digest(value)
    if isinstance(value, BaseModel):  # a strategy, whose name decides nothing
        return value.model_dump(mode="json", exclude={"name", "about"})
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    if hasattr(value, "digest"):
        return value.digest
    if is_dataclass(value):
        return {item.name: _described(getattr(value, item.name)) for item in fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be an argument of a piece: it has no digest.")


def with_needs(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces and all that they need, each once, what is needed first.

    Raises
    ------
    ParameterError
        When different pieces have one name: people, and logs, could not tell them apart.
    """
    found: dict[Piece, None] = {}
    names: dict[str, Piece] = {}

    def add(piece: Piece) -> None:
        if names.setdefault(piece.name, piece) != piece:
            raise ParameterError(
                f"two different pieces of work are called {piece.name!r}. Give the strategy, model "
                "or decoder that they are named by a name of its own."
            )
        if piece not in found:
            for need in piece.needs:
                add(need)
            found[piece] = None

    for piece in pieces:
        add(piece)
    return list(found)


def given(name: str, value: Any) -> Piece:
    """A piece whose result is at hand."""
    return Piece(name, _same, {"value": value}, here=True)


def _same(value: Any) -> Any:
    return value


# ---- Traces and BModels ------------------------------------------------------------------------


def trace_piece(weights: Weights, batch: int, batch_mean: str, form: str) -> Piece:
    """Trace a form of the network for a batch size."""
    return Piece(
        f"trace/{form}_{_size(batch, batch_mean)}",
        trace_model,
        {"weights": weights, "batch": batch, "batch_mean": batch_mean, "form": form},
        here=True,
    )


def _size(batch: int, batch_mean: str) -> str:
    return f"{batch}b" + ("" if batch_mean == "image" else f"_{batch_mean}-mean")


def compile_piece(
    identity: str,
    trace: Piece,
    chip: str,
    precision: str,
    strategy: Strategy | None,
    images: np.ndarray | None,
    *,
    cores: int = 1,
    release: str | None = None,
    calibrated_by: str | None = None,
) -> Piece:
    """A BModel of TPU-MLIR, with the translations and the calibration that it takes.

    Parameters
    ----------
    identity
        Name of the BModel, such as ``bm1684x_int8_1b_kl``.
    trace
        See `trace_piece`; of the form that the strategy asks for.
    chip, precision
        See `compile_bmodel`.
    strategy, images
        How to quantize, and uint8 BGR ``[N, 24, 94, 3]`` to calibrate on; None for float.
    cores, release, calibrated_by
        See `compile_bmodel`.
    """
    arguments: dict[str, Any] = {"chip": chip, "precision": precision, "strategy": strategy}
    arguments |= _of(release) | ({"cores": cores} if cores > 1 else {})
    fused = strategy is not None and strategy.fuse_preprocess
    graph = _translate_piece(trace, fused, release)
    if strategy is None:
        return Piece(
            f"compile/{identity}", _compile, arguments, (trace, graph), seconds=_COMPILE_SECONDS
        )
    on_chip = bool(strategy.search or strategy.bias_correction)
    table = Piece(
        f"calibrate/{strategy.name}{_at(calibrated_by)}" + (f"/{chip.lower()}" if on_chip else ""),
        calibrate,
        {"images": images, "strategy": strategy, "chip": chip if on_chip else ""},
        (_translate_piece(_single(trace), fused, calibrated_by),),
        seconds=_COMPILE_SECONDS,
    )
    if strategy.learns:
        table = Piece(
            f"learn/{identity}",
            _learn,
            {"images": images, "strategy": strategy, "chip": chip},
            (_single(trace), *table.needs, table),
            seconds=_TUNE_SECONDS,
        )
    make: Callable[..., BModel]
    if not strategy.finetune:
        make, seconds = _compile, _COMPILE_SECONDS
    else:
        make, seconds = _compile_tuned, _TUNE_SECONDS
        arguments["weights"] = trace.arguments["weights"]
    return Piece(f"compile/{identity}", make, arguments, (trace, graph, table), seconds=seconds)


def nntc_piece(
    identity: str,
    trace: Piece,
    chip: str,
    precision: str,
    strategy: NntcStrategy | None,
    images: np.ndarray | None,
) -> Piece:
    """A BModel of TPU-NNTC, which does all in one step; as `compile_piece`."""
    arguments = {"chip": chip, "precision": precision, "strategy": strategy, "images": images}
    needs = (trace,) if strategy is None else (trace, _single(trace))
    return Piece(f"compile/{identity}", _compile_nntc, arguments, needs, seconds=_COMPILE_SECONDS)


def _single(trace: Piece) -> Piece:
    """The same network at batch 1, on which thresholds are chosen."""
    return trace_piece(**{**trace.arguments, "batch": 1})


def _of(release: str | None) -> dict[str, str]:
    return {"release": release} if release else {}


def _at(release: str | None) -> str:
    return f"@{release}" if release else ""


def _translate_piece(trace: Piece, fused: bool, release: str | None) -> Piece:
    name = trace.name.removeprefix("trace/") + ("_fused" if fused else "") + _at(release)
    return Piece(
        f"translate/{name}",
        top_graph,
        {"fuse_preprocess": fused, **_of(release)},
        (trace,),
        seconds=_COMPILE_SECONDS / 2,
    )


def _learn(
    traced: TracedModel,
    graph: TopGraph,
    table: CalibrationTable,
    *,
    images: np.ndarray,
    strategy: Strategy,
    chip: str,
) -> CalibrationTable:
    return learnt_table(kept_quantizer(), traced, graph, images, chip, strategy, table)


def _compile(
    traced: TracedModel,
    _graph: TopGraph,
    table: CalibrationTable | None = None,
    *,
    chip: str,
    precision: str,
    strategy: Strategy | None,
    cores: int = 1,
    release: str | None = None,
) -> BModel:
    return compile_bmodel(
        traced, chip, precision, strategy=strategy, table=table, cores=cores, release=release
    )


def _compile_tuned(
    traced: TracedModel,
    graph: TopGraph,
    table: CalibrationTable,
    *,
    weights: Weights,
    chip: str,
    precision: str,
    strategy: Strategy,
    **more: Any,  # see `_compile`
) -> BModel:
    tuned = tuned_trace(
        weights, chip, strategy, table, batch=traced.batch, batch_mean=traced.batch_mean
    )
    return _compile(tuned, graph, table, chip=chip, precision=precision, strategy=strategy, **more)


def _compile_nntc(
    traced: TracedModel,
    single: TracedModel | None = None,
    *,
    chip: str,
    precision: str,
    strategy: NntcStrategy | None,
    images: np.ndarray | None,
) -> BModel:
    from ..toolchain.nntc.compile import compile_bmodel as compile_one

    return compile_one(
        traced, chip, precision, strategy=strategy, calibration_images=images, single=single
    )


# ---- Logits, readings and their judge ----------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A model over a set of plates on a backend.

    Parameters
    ----------
    identity
        Name of what is run, such as ``bm1684x_int8_1b_kl`` or ``float_1b``.
    model
        The piece that makes it.
    shards
        A piece for each part of the plates.
    """

    identity: str
    model: Piece
    shards: tuple[Piece, ...]

    def read(self, done: Mapping[Piece, Any]) -> Inference:
        """The logits, from the results of `scheduler.make`."""
        return read_shards([done[piece] for piece in self.shards])


def model_run(identity: str, model: Piece, plates: PlateImages, backend: str, batch: int) -> Run:
    """Run a model over plates, a piece for each shard.

    Parameters
    ----------
    identity, model
        See `Run`.
    plates
        The images.
    backend
        See `open_engine`; not "auto".
    batch
        Images per call of the model.
    """
    parts = [
        Piece(
            f"infer/{identity}/{backend}/{part.start:06d}-{part.stop - 1:06d}",
            infer_shard,
            {"images": plates.images[part], "backend": backend},
            (model,),
            here=backend == "device",  # it is in this machine
            shares_cores=True,
            seconds=SECONDS[backend] * (part.stop - part.start),
        )
        for part in shards(len(plates), batch, backend)
    ]
    return Run(identity, model, tuple(parts))


def float_run(weights: Weights, plates: PlateImages, batch: int, batch_mean: str) -> Run:
    """Trace the published form, and run it over plates in float."""
    trace = trace_piece(weights, batch, batch_mean, "published")
    name = f"float_{_size(batch, batch_mean)}"
    return model_run(name, trace, plates, weights.of.backend, batch)


def crosscheck_piece(
    run: Run, plates: PlateImages, batch: int, judged: Path | None = None
) -> Piece:
    """The simulator's judgement on the first plates of a run, see `runtime.crosscheck.compare`.

    Of a packaged model, `judged` is the folder of what it made of the packaged plates, in place of
    the run's.
    """
    if judged is None:
        mine, sample = run, plates.take(slice(sample_size(batch, len(plates))))
        judge = model_run(run.identity, run.model, sample, "simulator", batch)
    else:
        sample = simulated_plates()
        mine = model_run(f"{run.identity}/packaged", run.model, sample, "emulator", batch)
        judge = packaged_run(run.identity, run.model, judged)
    return Piece(
        f"crosscheck/{run.identity}",
        _crosscheck,
        {"names": sample.names},
        (run.model, mine.shards[0], *judge.shards),  # a sample is part of the first shard
        here=True,
    )


def packaged_run(identity: str, model: Piece, folder: Path) -> Run:
    """The simulator's logits of `simulated_plates` by a packaged model, from their folder."""
    name = f"packaged/{identity}/simulator"
    return Run(identity, model, (Piece(name, _folder, {"path": str(folder)}, here=True),))


def _folder(path: str) -> Path:
    return Path(path)


def _crosscheck(model: BModel, mine: Path, *judge: Path, names: Sequence[str]) -> dict[str, Any]:
    checked = read_shards([mine])
    backend = checked.description["backend"]
    return compare(model, names, checked.logits, read_shards(judge), backend)


@dataclass(frozen=True)
class Scored:
    """Readings of logits, and the seconds that making them took."""

    readings: Readings
    seconds: float


def score_piece(run: Run, alphabet: Alphabet, decoder: str) -> Piece:
    """Read the plates off a run's logits; by `TOP`, the likeliest class of each step."""
    if decoder == TOP:
        return Piece(
            f"score/{run.identity}/{TOP}", _score_top, {"alphabet": alphabet}, run.shards, here=True
        )
    label = decoder if decoder in DECODERS else Path(decoder).stem
    return Piece(
        f"score/{run.identity}/{label}",
        _score,
        {"alphabet": alphabet, "decoder": decoder},
        run.shards,
        here=True,
    )


def _score_top(*folders: Path, alphabet: Alphabet) -> Scored:
    logits, started = read_shards(folders).logits, time.perf_counter()
    return Scored(top(logits, alphabet), time.perf_counter() - started)


def _score(*folders: Path, alphabet: Alphabet, decoder: str) -> Scored:
    logits = read_shards(folders).logits
    inputs = {
        "logits": array_digest(logits),
        "classes": alphabet.listed,
        "blank": alphabet.blank,
        "decoder": decoder_key(decoder),
    }

    def build(folder: Path) -> None:
        started = time.perf_counter()
        readings = decode(logits, alphabet, decoder)
        seconds = time.perf_counter() - started
        values = {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in asdict(readings).items()
        }
        (folder / "readings.json").write_text(
            json.dumps({"seconds": seconds, "readings": values}, ensure_ascii=False), "utf8"
        )

    found = json.loads((artifact("score", inputs, build) / "readings.json").read_text("utf8"))
    values = found["readings"]
    for key in ("log_prob", "confidence", "margin"):
        values[key] = np.array(values[key], np.float64)
    if values["exact"] is not None:
        values["exact"] = np.array(values["exact"], bool)
    return Scored(Readings(**values), found["seconds"])


def decoder_key(decoder: str) -> dict[str, Any]:
    """All that a decoder's readings depend on besides the logits and the class list."""
    return {
        "name": decoder if decoder in DECODERS else repr(load_grammar(decoder)),
        "code": code_digest("score"),
    }
