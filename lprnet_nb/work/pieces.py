"""The work of a report as named pieces: trace, translate, calibrate, compile, infer, score.

A piece is one call of one function whose result lies in the cache under the digest of all that it
depends on. So a piece can be asked for by name, found instead of made, and made by any process that
has the package and the cache folder; `scheduler.make` does that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import decode as decode_stage
from ..cache import array_digest, artifact, file_digest
from ..datasets.alphabet import Alphabet
from ..datasets.images import PlateImages
from ..decode import DECODERS, Readings, decode, load_grammar
from ..model.trace import TracedModel, trace_model
from ..model.weights import Weights
from ..runtime.inference import infer_shard, read_shard, shards
from ..toolchain.bmodel import BModel
from ..toolchain.compile import CalibrationTable, TopGraph, calibrate, compile_bmodel, top_graph
from ..toolchain.finetune import tuned_trace
from ..toolchain.strategies import Strategy

# Seconds of one image on one core, to tell a moment's work from a long one; measured, rounded up.
_SECONDS = {"emulator": 0.005, "torch": 0.01, "simulator": 0.5, "device": 0.001}
_COMPILE_SECONDS = 20.0
_TUNE_SECONDS = 120.0
_LIMIT = 7200.0  # seconds; the longest piece, a calibration with a search, takes minutes


@dataclass(frozen=True)
class Piece:
    """One call that leaves one result in the cache.

    Parameters
    ----------
    name
        Such as ``infer/bm1684x_int8_1b_kl/emulator/000000-000255``.
    make
        A function of a module, which finds or makes the result.
    arguments
        Its keyword arguments.
    needs
        Names of the pieces whose results are its first arguments.
    here
        Made in the process that asks: quick, or not safe beside others in one process.
    seconds
        About how long it takes on one core.
    limit
        Seconds after which it has failed.
    """

    name: str
    make: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    here: bool = False
    seconds: float = 1.0
    limit: float = _LIMIT

    @property
    def kind(self) -> str:
        """First part of the name."""
        return self.name.split("/")[0]


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


def compile_pieces(
    identity: str,
    chip: str,
    precision: str,
    batch: int,
    batch_mean: str,
    weights: Weights,
    strategy: Strategy | None,
    images: np.ndarray | None,
) -> list[Piece]:
    """All that one BModel of TPU-MLIR takes: traces, translations, calibration, compile.

    Parameters
    ----------
    identity
        Name of the BModel, such as ``bm1684x_int8_1b_kl``.
    chip, precision, batch, batch_mean
        See `compile_bmodel`.
    weights
        What to trace.
    strategy, images
        How to quantize, and uint8 BGR ``[N, 24, 94, 3]`` to calibrate on; None for float.
    """
    form = strategy.form if strategy else "published"
    fused = strategy is not None and strategy.fuse_preprocess
    wanted = trace_piece(weights, batch, batch_mean, form)
    graph = _translate_piece(wanted, fused)
    pieces, needs = [wanted, graph], [wanted.name, graph.name]
    if strategy is not None:
        single = trace_piece(weights, 1, batch_mean, form)
        first = _translate_piece(single, fused)
        on_chip = strategy.search or strategy.bias_correction
        table = Piece(
            f"calibrate/{strategy.name}" + (f"/{chip.lower()}" if on_chip else ""),
            _calibrate,
            {"images": images, "strategy": strategy, "chip": chip},
            (first.name,),
            seconds=_COMPILE_SECONDS,
        )
        pieces += [single, first, table]
        needs.append(table.name)
    tuned = strategy is not None and strategy.finetune
    compiled = Piece(
        f"compile/{identity}",
        _compile_tuned if tuned else _compile,
        {"chip": chip, "precision": precision, "strategy": strategy}
        | ({"weights": weights} if tuned else {}),
        tuple(needs),
        seconds=_TUNE_SECONDS if tuned else _COMPILE_SECONDS,
    )
    return [*pieces, compiled]


def other_compile_piece(
    identity: str, compile_one: Callable[..., BModel], trace: Piece, arguments: dict[str, Any]
) -> Piece:
    """A BModel of a compiler that does all in one step (TPU-NNTC)."""
    return Piece(
        f"compile/{identity}", compile_one, arguments, (trace.name,), seconds=_COMPILE_SECONDS
    )


def _translate_piece(trace: Piece, fused: bool) -> Piece:
    name = trace.name.removeprefix("trace/") + ("_fused" if fused else "")
    return Piece(
        f"translate/{name}",
        top_graph,
        {"fuse_preprocess": fused},
        (trace.name,),
        seconds=_COMPILE_SECONDS / 2,
    )


def _calibrate(
    graph: TopGraph, images: np.ndarray, strategy: Strategy, chip: str
) -> CalibrationTable:
    return calibrate(graph, images, strategy, chip)


def _compile(
    traced: TracedModel,
    _graph: TopGraph,
    table: CalibrationTable | None = None,
    *,
    chip: str,
    precision: str,
    strategy: Strategy | None,
) -> BModel:
    return compile_bmodel(traced, chip, precision, strategy=strategy, table=table)


def _compile_tuned(
    traced: TracedModel,
    graph: TopGraph,
    table: CalibrationTable,
    *,
    weights: Weights,
    chip: str,
    precision: str,
    strategy: Strategy,
) -> BModel:
    tuned = tuned_trace(
        weights, chip, strategy, table, batch=traced.batch, batch_mean=traced.batch_mean
    )
    return _compile(tuned, graph, table, chip=chip, precision=precision, strategy=strategy)


def infer_pieces(
    identity: str, model: str, plates: PlateImages, backend: str, batch: int
) -> list[Piece]:
    """Run a model over plates, a piece for each shard.

    Parameters
    ----------
    identity
        Name of what is run, such as ``bm1684x_int8_1b_kl`` or ``float_1b``.
    model
        Name of the piece that makes it.
    plates
        The images.
    backend
        See `open_engine`; not "auto".
    batch
        Images per call of the model.
    """
    return [
        Piece(
            f"infer/{identity}/{backend}/{part.start:06d}-{part.stop - 1:06d}",
            infer_shard,
            {"images": plates.images[part], "backend": backend},
            (model,),
            here=backend == "device",  # it is in this machine
            seconds=_SECONDS[backend] * (part.stop - part.start),
        )
        for part in shards(len(plates), batch, backend)
    ]


def float_pieces(weights: Weights, plates: PlateImages, batch: int, batch_mean: str) -> list[Piece]:
    """Trace the published form, and run it over plates in float."""
    trace = trace_piece(weights, batch, batch_mean, "published")
    return [
        trace,
        *infer_pieces(f"float_{_size(batch, batch_mean)}", trace.name, plates, "torch", batch),
    ]


def score_piece(
    identity: str, inferred: Iterable[Piece], alphabet: Alphabet, decoder: str
) -> Piece:
    """Read the plates off a model's logits."""
    label = decoder if decoder in DECODERS else Path(decoder).stem
    return Piece(
        f"score/{identity}/{label}",
        _score,
        {"alphabet": alphabet, "decoder": decoder},
        tuple(piece.name for piece in inferred),
        here=True,
    )


def _score(*folders: Path, alphabet: Alphabet, decoder: str) -> Readings:
    logits = np.concatenate([read_shard(folder)[0] for folder in folders])
    return score(logits, alphabet, decoder)[0]


def score(logits: np.ndarray, alphabet: Alphabet, decoder: str) -> tuple[Readings, float]:
    """Readings of logits ``[N, classes, 18]``, made once, and the seconds that making them took."""
    inputs = {
        "logits": array_digest(logits),
        "classes": alphabet.classes,
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
    return Readings(**values), found["seconds"]


def decoder_key(decoder: str) -> dict[str, Any]:
    """All that a decoder's readings depend on besides the logits and the class list."""
    folder = Path(decode_stage.__file__).parent
    return {
        "name": decoder if decoder in DECODERS else repr(load_grammar(decoder)),
        "sources": {
            path.name: file_digest(path)
            for path in sorted(folder.rglob("*"))
            if path.suffix in (".py", ".toml")
        },
    }


def unique(pieces: Sequence[Piece]) -> list[Piece]:
    """Each piece once, in the order of their first mention."""
    found: dict[str, Piece] = {}
    for piece in pieces:
        found.setdefault(piece.name, piece)
    return list(found.values())
