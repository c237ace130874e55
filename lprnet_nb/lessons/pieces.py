"""The pieces of work that each notebook of a report wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..measure.data import Data
from ..measure.models import model_pieces, planned
from ..measure.parameters import Parameters
from ..measure.rows import measuring_pieces
from ..work.pieces import Piece
from .compile import PROOF_IMAGES
from .trace import coupling_pieces


def _all(models: Sequence[Any]) -> list[Piece]:
    return [piece for item in models for piece in item.pieces]


def _traced(parameters: Parameters, data: Data) -> list[Piece]:
    return coupling_pieces(data.weights, data.plates, parameters.batches)


def _compiled(parameters: Parameters, data: Data) -> list[Piece]:
    models, few = planned(parameters, data), data.plates.take(slice(PROOF_IMAGES))
    return [*_all(models), *model_pieces(models, few, "simulator")]


def _quantized(parameters: Parameters, data: Data) -> list[Piece]:
    models = planned(parameters, data)
    return [*_all(models), *model_pieces(models, data.plates, parameters.backend)]


def _measured(parameters: Parameters, data: Data) -> list[Piece]:
    models = planned(parameters, data)
    return [*_all(models), *measuring_pieces(parameters, data, models)]


_PIECES_OF: dict[str, Callable[[Parameters, Data], list[Piece]]] = {
    "01_trace": _traced,
    "02_compile": _compiled,
    "03_quantize": _quantized,
    "04_infer": _measured,
    "05_compare": _measured,
}
