"""Is a confidence of 0.9 right nine times in ten, and what does refusing the doubtful buy?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ParameterError
from .intervals import wilson

_NEVER_SURE = 1e-6  # nearest to 0 and 1 that calibration tells confidences apart
_LEAST = 1e-12  # log loss of a reading that was certain and wrong: 27.6, not infinity


@dataclass(frozen=True)
class Reliability:
    """Data of a reliability diagram, one entry per bin that is not empty.

    Attributes
    ----------
    low, high
        float64 ``[B]``: limits of the bins.
    count
        int64 ``[B]``: readings in the bin.
    confidence
        float64 ``[B]``: their mean confidence.
    accuracy
        float64 ``[B]``: share of them that are right.
    ci95
        float64 ``[B, 2]``: Wilson interval of the accuracy.
    ece
        Expected calibration error: mean distance of confidence and accuracy, weighted by count.
    """

    low: np.ndarray
    high: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ci95: np.ndarray
    ece: float


def reliability(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    bins: int = 10,
    equal_counts: bool = False,
) -> Reliability:
    """Compare confidence with accuracy by bins of confidence.

    Parameters
    ----------
    confidence
        ``[N]``, each in 0 to 1.
    correct
        bool ``[N]``.
    bins
        How many.
    equal_counts
        Bins with equally many readings instead of equal widths. Plate readers are sure most of the
        time, so equal widths leave most readings in the last bin.
    """
    confidence, correct = _paired(confidence, correct)
    if bins < 1:
        raise ParameterError(f"{bins} bins: give at least one.")
    if equal_counts:
        edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)))
        edges = np.array([0.0, 1.0]) if len(edges) < 2 else edges
    else:
        edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, len(edges) - 2)
    filled = np.unique(which)
    count = np.array([(which == b).sum() for b in filled])
    mean = np.array([confidence[which == b].mean() for b in filled])
    right = np.array([correct[which == b].sum() for b in filled])
    accuracy = right / count
    return Reliability(
        edges[filled],
        edges[filled + 1],
        count,
        mean,
        accuracy,
        np.array([wilson(k, n) for k, n in zip(right, count)]),
        float((count * np.abs(mean - accuracy)).sum() / count.sum()),
    )


def log_loss(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Mean of ``-log(p)``, where p is the confidence in what turned out to be true."""
    confidence, correct = _paired(confidence, correct)
    return float(-np.log(np.maximum(np.where(correct, confidence, 1 - confidence), _LEAST)).mean())


@dataclass(frozen=True)
class Calibration:
    """A confidence as it is, in a share of readings that are right (Platt 1999).

    The logarithm of the odds is ``intercept + slope * log(odds of the confidence)``. It is
    monotone: which of two readings is the surer stays.

    Attributes
    ----------
    intercept, slope
        1 for the slope and 0 for the intercept change nothing.
    on
        What it was fitted on, for people.
    """

    intercept: float
    slope: float
    on: str

    def apply(self, confidence: ArrayLike) -> np.ndarray:
        """Calibrated confidence, float64 ``[N]``."""
        return 1 / (1 + np.exp(-self.intercept - self.slope * _log_odds(confidence)))


def fit_calibration(confidence: ArrayLike, correct: ArrayLike, on: str) -> Calibration:
    """The calibration of least log loss.

    Parameters
    ----------
    confidence, correct
        As for `reliability`.
    on
        What they are of.

    Raises
    ------
    ParameterError
        When all readings are right, or all are wrong: then there is nothing to fit to.
    """
    from scipy.optimize import minimize

    confidence, correct = _paired(confidence, correct)
    if correct.all() or not correct.any():
        raise ParameterError(
            f"confidence cannot be calibrated on {on}: of {len(correct)} readings "
            f"{'all' if correct.all() else 'none'} are right. Take more plates, or harder ones."
        )

    def loss(given: np.ndarray) -> float:
        return log_loss(Calibration(given[0], given[1], on).apply(confidence), correct)

    # A slope below 0 would have the doubtful ones right more often; too few plates can say so.
    found = minimize(loss, [0.0, 1.0], method="L-BFGS-B", bounds=[(-20, 20), (0.01, 20)])
    return Calibration(float(found.x[0]), float(found.x[1]), on)


def _log_odds(confidence: ArrayLike) -> np.ndarray:
    inside = np.clip(np.asarray(confidence, float), _NEVER_SURE, 1 - _NEVER_SURE)
    return np.log(inside / (1 - inside))


@dataclass(frozen=True)
class Coverage:
    """Accuracy of those readings that are kept when the least certain are refused.

    Attributes
    ----------
    coverage
        float64 ``[K]``, ascending: share of readings kept.
    accuracy
        float64 ``[K]``: exact match among them.
    threshold
        float64 ``[K]``: least confidence among them.
    area
        Mean accuracy over all coverages, 1 less what is called AURC.
    """

    coverage: np.ndarray
    accuracy: np.ndarray
    threshold: np.ndarray
    area: float

    def at(self, coverage: float) -> float:
        """Accuracy at the least coverage on the curve that is not below the one given."""
        if not 0 < coverage <= 1:
            raise ParameterError(f"coverage {coverage}: give a share above 0 and at most 1.")
        return float(self.accuracy[np.searchsorted(self.coverage, coverage - 1e-12)])


def accuracy_coverage(confidence: ArrayLike, correct: ArrayLike) -> Coverage:
    """Accuracy against coverage, one point per distinct confidence.

    Readings of equal confidence are kept or refused together, so the curve does not depend on the
    order of the images.
    """
    confidence, correct = _paired(confidence, correct)
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    last = np.append(sorted_confidence[1:] != sorted_confidence[:-1], True)
    kept = np.flatnonzero(last) + 1
    accuracy = np.cumsum(correct[order])[last] / kept
    width = np.diff(np.concatenate([[0], kept]))
    return Coverage(
        kept / len(confidence),
        accuracy,
        sorted_confidence[last],
        float((accuracy * width).sum() / len(confidence)),
    )


def _paired(confidence: ArrayLike, correct: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    confidence = np.asarray(confidence, float)
    correct = np.asarray(correct, bool)
    if confidence.shape != correct.shape or confidence.ndim != 1 or not confidence.size:
        raise ParameterError(
            f"{confidence.size} confidences for {correct.size} outcomes: give "
            "one for each, and at least one."
        )
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ParameterError("confidences must lie between 0 and 1.")
    return confidence, correct
