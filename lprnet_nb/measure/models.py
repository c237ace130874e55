"""Models that the parameters ask for: planned as pieces of work, and compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ..model.trace import TracedModel
from ..toolchain.bmodel import BModel
from ..toolchain.nntc.strategies import NntcStrategy
from ..toolchain.strategies import Strategy
from ..work import scheduler
from ..work.pieces import Piece, compile_piece, given, nntc_piece, trace_piece
from .data import Data
from .parameters import Parameters, combinations
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
        Name under which the strategy was asked for, such as "recommended"; None for float.
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
    def planned(self) -> Planned:
        """Itself as pieces whose results are at hand."""
        return Planned(
            self.id,
            self.strategy,
            self.quantization,
            self.traced.batch,
            given(f"trace/{self.id}", self.traced),
            given(f"compile/{self.id}", self.bmodel),
            self.release,
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
    """

    id: str
    strategy: str | None
    quantization: Strategy | NntcStrategy | None
    batch: int
    trace: Piece
    model: Piece
    release: str | None = None


def model_label(item: Compiled | Reference) -> str:
    """A model's name in figures: chip, precision, strategy, release, and the batch if not 1."""
    if isinstance(item, Reference):
        return "float (torch)" if item.traced.batch == 1 else f"float batch {item.traced.batch}"
    batch = f"batch {item.bmodel.batch}" if item.bmodel.batch > 1 else None
    return " ".join(
        part
        for part in (
            item.bmodel.chip,
            item.bmodel.precision,
            item.strategy,
            item.release and f"by {item.release}",
            batch,
        )
        if part
    )


def planned(parameters: Parameters, data: Data) -> list[Planned]:
    """Every combination as pieces: what `compile_all` makes."""
    # Each takes the strategies of its own toolchain, which alone are found by name.
    piece: Callable[..., Piece] = nntc_piece
    found = []
    for chip, precision, batch, asked, release in combinations(parameters):
        if parameters.toolchain == "mlir":
            by = release if parameters.calibration == "release" else None
            piece = partial(compile_piece, release=release, calibrated_by=by)
        strategy = asked.by_chip[chip].cut_to(len(data.pool)) if asked else None
        images = data.calibration_images(strategy.images) if strategy else None
        name = asked.name if asked else None
        identity = model_id(chip, precision, batch, name, release)
        form = strategy.form if strategy else "published"
        trace = trace_piece(data.weights, batch, parameters.batch_mean, form)
        model = piece(identity, trace, chip, precision, strategy, images)
        found.append(Planned(identity, name, strategy, batch, trace, model, release))
    return found


def compile_all(parameters: Parameters, data: Data, *, progress: bool = True) -> list[Compiled]:
    """Compile every combination, side by side, from the cache where it can.

    Raises
    ------
    ToolchainError
        When a tool fails; those that were finished are kept.
    """
    wanted = planned(parameters, data)
    done = scheduler.make([item.model for item in wanted], "compiling", progress=progress)
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
