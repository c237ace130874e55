"""Models that the parameters ask for: planned as pieces of work, and compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..datasets.images import PlateImages
from ..model.trace import TracedModel, trace_model
from ..model.weights import Weights
from ..toolchain.bmodel import BModel
from ..work import scheduler
from ..work.pieces import (
    Piece,
    compile_pieces,
    infer_pieces,
    other_compile_piece,
    trace_piece,
)
from .data import Data
from .parameters import Parameters, _strategy, combinations


def model_label(item: Compiled) -> str:
    """A model's name in figures: chip, precision, strategy, and the batch where it is not 1."""
    if item.bmodel is None:
        return "float (torch)" if item.traced.batch == 1 else f"float batch {item.traced.batch}"
    batch = f"batch {item.bmodel.batch}" if item.bmodel.batch > 1 else None
    return " ".join(
        part for part in (item.bmodel.chip, item.bmodel.precision, item.strategy, batch) if part
    )


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
    return {
        batch: Compiled(
            f"float_{batch}b", trace_model(data.weights, batch, parameters.batch_mean), None
        )
        for batch in parameters.batches
    }


def compile_all(parameters: Parameters, data: Data, *, progress: bool = True) -> list[Compiled]:
    """Compile every combination, side by side, from the cache where it can.

    Raises
    ------
    ToolchainError
        When a tool fails; those that were finished are kept.
    """
    wanted = planned(parameters, data)
    done = scheduler.make(
        [piece for item in wanted for piece in item.pieces], "compiling", progress=progress
    )
    # The float trace at the same batch, in the form that was compiled.
    return [
        Compiled(item.id, done[item.pieces[0].name], done[item.model], item.strategy)
        for item in wanted
    ]


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
        found.append(
            Planned(
                identity,
                name,
                batch,
                ours,
                tuple(
                    make(
                        identity,
                        chip,
                        precision,
                        batch,
                        parameters.batch_mean,
                        data.weights,
                        strategy,
                        images,
                    )
                ),
            )
        )
    return found


def _nntc_pieces(
    identity: str,
    chip: str,
    precision: str,
    batch: int,
    batch_mean: str,
    weights: Weights,
    strategy: Any,
    images: np.ndarray | None,
) -> list[Piece]:
    from ..toolchain.nntc.compile import compile_bmodel as compile_one

    form = strategy.form if strategy else "published"
    trace = trace_piece(weights, batch, batch_mean, form)
    arguments: dict[str, Any] = {"chip": chip, "precision": precision}
    if strategy:
        arguments |= {
            "strategy": strategy,
            "calibration_images": images,
            "single": trace_model(weights, 1, batch_mean, form),
        }
    return [trace, other_compile_piece(identity, compile_one, trace, arguments)]


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


def model_pieces(
    models: Sequence[Compiled | Planned], plates: PlateImages, backend: str
) -> list[Piece]:
    """Each model, and behind it the pieces that run it over plates on a backend."""
    pieces = []
    for item in models:
        if isinstance(item, Planned):
            model, graph = item.pieces[-1], item.has_graph
        else:
            model = Piece(f"compile/{item.id}", _known, {"model": item.bmodel}, here=True)
            graph = bool(item.bmodel.graph)
        pieces += [
            model,
            *infer_pieces(item.id, model.name, plates, _backend(backend, graph), _batch(item)),
        ]
    return pieces


def _batch(item: Compiled | Planned) -> int:
    return item.batch if isinstance(item, Planned) else item.traced.batch


def _known(model: BModel) -> BModel:
    return model
