"""What of a report is done, running and missing, without doing any of it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import papermill

from ..lessons import compile as notebook_02
from ..lessons import infer as notebook_04
from ..lessons import quantize as notebook_03
from ..lessons import trace as notebook_01
from ..lessons.course import with_strategies
from ..measure.data import Data, datasets_for
from ..measure.parameters import Parameters, check
from ..work import scheduler
from ..work.pieces import Piece, with_needs
from .run import NOTEBOOKS, left_out, notebook_path, profile_values

DONE, RUNNING, MISSING = "done", "running", "missing"
PIECES_OF: dict[str, Callable[[Parameters, Data], list[Piece]]] = {
    "01_trace": notebook_01.pieces,
    "02_compile": notebook_02.pieces,
    "03_quantize": notebook_03.pieces,
    "04_infer": notebook_04.pieces,
    "05_compare": notebook_04.pieces,
}


@dataclass(frozen=True)
class State:
    """One piece of a report.

    Parameters
    ----------
    name
        See `pieces.Piece`.
    state
        "done", "running" (some process holds its lock) or "missing".
    notebooks
        Which of the report's notebooks want it.
    """

    name: str
    state: str
    notebooks: tuple[str, ...]


def report_states(
    profile: str = "quick", *, notebooks: Sequence[str] = NOTEBOOKS, **given: Any
) -> list[State]:
    """Every piece of the report that `make_report` would make with the same parameters.

    Raises
    ------
    ParameterError
        As `make_report` raises it.
    """
    values = profile_values(profile, given)
    wanted: dict[Piece, list[str]] = {}
    loaded: dict[Any, Data] = {}
    left = left_out(values, notebooks)
    for stem in notebooks:
        if stem in PIECES_OF and stem not in left:
            p = _parameters(stem, values)
            named = p.data, p.network, p.weights, p.classes, p.images
            data = loaded.get(named) or loaded.setdefault(named, datasets_for(p))
            for piece in with_needs(PIECES_OF[stem](p, data)):
                wanted.setdefault(piece, []).append(stem)
    done, running = scheduler.look(list(wanted))
    return [
        State(
            piece.name,
            DONE if piece in done else RUNNING if piece in running else MISSING,
            tuple(stems),
        )
        for piece, stems in wanted.items()
    ]


def _parameters(stem: str, values: dict[str, Any]) -> Parameters:
    """A notebook's own defaults, and the report's values for what it declares."""
    found = {}
    for name, facts in papermill.inspect_notebook(str(notebook_path(stem))).items():
        with suppress(ValueError, SyntaxError):
            found[name] = values.get(name, ast.literal_eval(facts["default"]))
    known = {key: value for key, value in found.items() if key not in ("OUTPUT_DIR", "LAYER")}
    if stem == "03_quantize":  # it looks at INT8 on one chip
        known |= {"CHIPS": check(CHIPS=known["CHIPS"]).chips[0], "PRECISIONS": "int8"}
    return check(**with_strategies(stem, known))
