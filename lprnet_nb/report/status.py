"""What of a report is done, running and missing, without doing any of it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import papermill

from ..cache import NotMade, nothing_made
from ..lessons.pieces import _PIECES_OF
from ..measure.data import Data, datasets_for
from ..measure.parameters import Parameters, check
from ..work import scheduler
from ..work.pieces import Piece
from .run import NOTEBOOKS, notebook_path, profile_values

DONE, RUNNING, MISSING = "done", "running", "missing"


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
    pieces: dict[str, Piece] = {}
    wanted: dict[str, list[str]] = {}
    loaded: dict[Any, Data] = {}
    for stem in notebooks:
        if stem in _PIECES_OF:
            parameters = _parameters(stem, values)
            named = parameters.data, parameters.weights, parameters.classes, parameters.images
            data = loaded.get(named) or loaded.setdefault(named, datasets_for(parameters))
            for piece in _PIECES_OF[stem](parameters, data):
                pieces.setdefault(piece.name, piece)
                by = wanted.setdefault(piece.name, [])
                by += [stem] if stem not in by else []
    done: dict[str, Any] = {}
    states = []
    for name, piece in pieces.items():
        state = MISSING
        if set(piece.needs) <= done.keys():
            try:
                with nothing_made():
                    done[name] = scheduler.call(piece, done)
                state = DONE
            except NotMade as error:
                state = RUNNING if error.running else MISSING
        states.append(State(name, state, tuple(wanted[name])))
    return states


def _parameters(stem: str, values: dict[str, Any]) -> Parameters:
    """A notebook's own defaults, and the report's values for what it declares."""
    found = {}
    for name, facts in papermill.inspect_notebook(str(notebook_path(stem))).items():
        with suppress(ValueError, SyntaxError):
            found[name] = values.get(name, ast.literal_eval(facts["default"]))
    known = {key: value for key, value in found.items() if key not in ("OUTPUT_DIR", "LAYER")}
    if stem == "03_quantize":  # it looks at INT8 on one chip
        known |= {"CHIPS": check(CHIPS=known["CHIPS"]).chips[0], "PRECISIONS": "int8"}
    return check(**known)
