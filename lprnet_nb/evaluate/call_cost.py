"""What a call costs on the chip beside what the compiler predicts of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ParameterError


@dataclass(frozen=True)
class Call:
    """A model whose time was predicted by the compiler and measured on the vendor's board.

    Attributes
    ----------
    precision, batch
        Of the model.
    predicted_ms, measured_ms
        Milliseconds a call, for the whole batch.
    """

    precision: str
    batch: int
    predicted_ms: float
    measured_ms: float


@dataclass(frozen=True)
class CallCost:
    """``fixed_ms + scale * predicted_ms + further_ms * (batch - 1)``, fitted to measured calls.

    Attributes
    ----------
    fixed_ms
        Milliseconds that any call takes, however small its network.
    scale
        Milliseconds measured for each that the compiler predicts.
    further_ms
        Milliseconds for each further image of a batch, beside the prediction.
    calls
        What it was fitted to.
    worst
        Largest error of the fit, as a share of the measured time.
    held_out
        The same for each call of batch 1 when the fit has not seen it: how far to trust it.
    """

    fixed_ms: float
    scale: float
    further_ms: float
    calls: tuple[Call, ...]
    worst: float
    held_out: float | None

    def expected_ms(self, predicted_ms: float, batch: int = 1) -> float:
        """Milliseconds a call that a prediction stands for on the board."""
        return self.fixed_ms + self.scale * predicted_ms + self.further_ms * (batch - 1)


def fit_call_cost(calls: Sequence[Call]) -> CallCost:
    """Fit the cost of a call of one chip by least squares of the relative errors.

    Parameters
    ----------
    calls
        At least two of batch 1, and one of a larger batch if that is to be told.

    Raises
    ------
    ParameterError
        When there are fewer than two calls of batch 1.
    """
    if sum(call.batch == 1 for call in calls) < 2:
        raise ParameterError("a call's cost is fitted to at least two models of batch 1.")
    fixed, scale, further = _solve(calls)
    errors = [_error(call, fixed, scale, further) for call in calls]
    singles = [call for call in calls if call.batch == 1]
    left = None
    if len(singles) > 2:
        left = max(
            _error(call, *_solve([other for other in calls if other is not call]))
            for call in singles
        )
    return CallCost(fixed, scale, further, tuple(calls), max(errors), left)


def _solve(calls: Sequence[Call]) -> tuple[float, float, float]:
    measured = np.array([call.measured_ms for call in calls])
    rows = np.array([[1.0, call.predicted_ms, call.batch - 1.0] for call in calls])
    known = 3 if rows[:, 2].any() else 2
    found = np.linalg.lstsq(rows[:, :known] / measured[:, None], np.ones(len(calls)), rcond=None)[0]
    fixed, scale, further = (*found.tolist(), 0.0)[:3]
    return fixed, scale, further


def _error(call: Call, fixed: float, scale: float, further: float) -> float:
    expected = fixed + scale * call.predicted_ms + further * (call.batch - 1)
    return abs(expected - call.measured_ms) / call.measured_ms
