"""Models that the parameters ask for: planned as pieces of work, and compiled."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..cache import artifact
from ..language import phrase
from ..model.trace import TracedModel
from ..runtime.foreign import foreign_bmodel, label_of
from ..toolchain.bmodel import BModel
from ..toolchain.compile import compile_bmodel, top_graph
from ..toolchain.nntc.strategies import NntcStrategy
from ..toolchain.packaged import TOOLCHAIN as PACKAGED
from ..toolchain.packaged import float_of, packaged_layers, packaged_model, simulated
from ..toolchain.strategies import Strategy
from ..work import scheduler
from ..work.pieces import Piece, compile_piece, given, nntc_piece, trace_piece
from .data import Data
from .parameters import Asked, Parameters, combinations, said_of
from .schema import model_id


@dataclass(frozen=True)
class Reference:
    """The float network that models of its batch are compared with.

    Parameters
    ----------
    id
        Such as ``float_1b``.
    traced
        The network.
    """

    id: str
    traced: TracedModel


@dataclass(frozen=True)
class Compiled:
    """A BModel, and the float trace that it was compiled from.

    Parameters
    ----------
    id
        Such as ``bm1684x_int8_1b_kl``.
    traced
        The float network at the same batch, in the form that was compiled.
    bmodel
        The compiled model.
    strategy
        Name under which the strategy was asked for, such as "recommended"; None for float; for a
        BModel from elsewhere the name of its file.
    quantization
        What that is on this chip.
    release
        Release of TPU-MLIR that was asked for by name, or None.
    """

    id: str
    traced: TracedModel
    bmodel: BModel
    strategy: str | None = None
    quantization: Strategy | NntcStrategy | None = None
    release: str | None = None

    @property
    def foreign(self) -> bool:
        """Whether it is a BModel from elsewhere, which has no record and no exported graph."""
        return self.bmodel.foreign

    @property
    def layers(self) -> list[dict[str, Any]]:
        """Layers of the top-level graph that it was made from, see `TopGraph`."""
        if self.bmodel.without_file:
            return packaged_layers(self.bmodel.form)
        return top_graph(self.traced).layers

    def exact(self) -> BModel:
        """The same form of the network in FP32 on the same chip."""
        if self.bmodel.without_file:
            return float_of(self.bmodel)
        return compile_bmodel(self.traced, self.bmodel.chip, "fp32")

    @property
    def planned(self) -> Planned:
        """Itself as pieces whose results are at hand."""
        return Planned(
            self.id,
            self.strategy,
            self.quantization,
            self.traced.batch,
            given(f"trace/{self.id}", self.traced),
            given(f"compile/{self.id}", self.bmodel),
            self.foreign,
            self.release,
            simulated(self.bmodel) if self.bmodel.without_file else None,
        )


@dataclass(frozen=True)
class Planned:
    """A model that is wanted, as the pieces that make it.

    Parameters
    ----------
    id, strategy, quantization, release
        See `Compiled`.
    batch
        Images per call.
    trace, model
        Its float trace, and itself.
    foreign
        See `Compiled`.
    judged
        Of a packaged model the folder of the simulator's logits, see `toolchain.packaged`.
    """

    id: str
    strategy: str | None
    quantization: Strategy | NntcStrategy | None
    batch: int
    trace: Piece
    model: Piece
    foreign: bool = False
    release: str | None = None
    judged: Path | None = None

    @property
    def float_backend(self) -> str:
        """What runs its float trace."""
        given = self.trace.arguments  # of `trace_piece`, or of `pieces.given`
        return (given["weights"].of if "weights" in given else given["value"].network).backend


def model_label(item: Compiled | Reference) -> str:
    """A model's name in figures: chip, precision, strategy, release; batch, cores if not 1."""
    if isinstance(item, Reference):
        traced = item.traced
        many = f"float batch {traced.batch}"
        return f"float ({traced.network.backend})" if traced.batch == 1 else many
    model = item.bmodel
    batch = f"batch {model.batch}" if model.batch > 1 else None
    cores = f"{model.cores} cores" if model.cores > 1 else None
    precision = None if item.foreign else model.precision
    by = item.release and f"by {item.release}"
    parts = (model.chip, precision, item.strategy, by, batch, cores)
    return " ".join(part for part in parts if part)


def planned(parameters: Parameters, data: Data) -> list[Planned]:
    """Every combination as pieces: what `compile_all` makes."""
    # Each takes the strategies of its own toolchain, which alone are found by name.
    piece: Callable[..., Piece] = nntc_piece
    found = []
    for chip, precision, batch, cores, asked, release in combinations(parameters):
        if parameters.toolchain == "mlir":
            by = release if parameters.calibration == "release" else None
            piece = partial(compile_piece, release=release, calibrated_by=by)
        strategy = asked.by_chip[chip].cut_to(len(data.pool)) if asked else None
        if parameters.toolchain == PACKAGED:
            found.append(_packaged(parameters, data, chip, precision, batch, asked))
            continue
        images = data.calibration_images(strategy.images) if strategy else None
        name = asked.name if asked else None
        identity = model_id(chip, precision, batch, name, cores, release)
        form = strategy.form if strategy else "published"
        trace = trace_piece(data.weights, batch, parameters.batch_mean, form)
        spread = {"cores": cores} if cores > 1 else {}
        model = piece(identity, trace, chip, precision, strategy, images, **spread)
        found.append(Planned(identity, name, strategy, batch, trace, model, release=release))
    return found + foreign(parameters, data)


def _packaged(
    parameters: Parameters, data: Data, chip: str, precision: str, batch: int, asked: Asked | None
) -> Planned:
    """A packaged model in the place of one that is compiled."""
    strategy = asked.by_chip[chip] if asked else None
    assert not isinstance(strategy, NntcStrategy)  # of `parameters.TOOLCHAINS`
    model = packaged_model(data.weights.digest, chip, precision, batch, strategy)
    name = asked.name if asked else None
    identity = model_id(chip, precision, batch, name)
    trace = trace_piece(data.weights, batch, parameters.batch_mean, model.form)
    made = given(f"packaged/{identity}", model)
    return Planned(identity, name, strategy, batch, trace, made, judged=simulated(model))


def foreign(parameters: Parameters, data: Data) -> list[Planned]:
    """The BModels from elsewhere that the parameters name, looked into.

    Raises
    ------
    EngineError
        As `runtime.foreign.foreign_bmodel`.
    """
    return [_foreign(Path(path), parameters, data) for path in parameters.bmodels]


def _foreign(path: Path, parameters: Parameters, data: Data) -> Planned:
    """A BModel from elsewhere: from here on its copy in the cache, which is run without asking."""
    model = foreign_bmodel(path, said_of(parameters).input(), data.weights.alphabet)

    def build(into: Path) -> None:
        shutil.copy(path, into / "model.bmodel")

    folder = artifact("foreign", {"sha256": model.sha256}, build)
    model = replace(model, path=folder / "model.bmodel", batch_mean=parameters.batch_mean)
    name = label_of(path)
    identity = model_id(model.chip, model.precision, model.batch, name)
    trace = trace_piece(data.weights, model.batch, parameters.batch_mean, "published")
    return Planned(
        identity, name, None, model.batch, trace, given(f"foreign/{identity}", model), True
    )


def compile_all(parameters: Parameters, data: Data, *, progress: bool = True) -> list[Compiled]:
    """Compile every combination, side by side, from the cache where it can.

    The BModels from elsewhere that the parameters name come last.

    Raises
    ------
    ToolchainError
        When a tool fails; those that were finished are kept.
    """
    wanted = planned(parameters, data)
    pieces = [piece for item in wanted for piece in (item.trace, item.model)]
    done = scheduler.make(pieces, phrase("compiling"), progress=progress)
    return [
        Compiled(
            item.id,
            done[item.trace],
            done[item.model],
            item.strategy,
            item.quantization,
            item.release,
        )
        for item in wanted
    ]
