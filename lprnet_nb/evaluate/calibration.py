"""Is a confidence of 0.9 right nine times in ten, and what does refusing the doubtful buy?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ParameterError
from .intervals import wilson

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


def ece(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    bins: int = 10,
    equal_counts: bool = False,
) -> float:
    """Expected calibration error (Naeini et al. 2015); parameters as for `reliability`.

    >>> ece([0.8] * 10, [True] * 8 + [False] * 2)
    0.0
    """
    return reliability(confidence, correct, bins=bins, equal_counts=equal_counts).ece


def log_loss(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Mean of ``-log(p)``, where p is the confidence in what turned out to be true."""
    confidence, correct = _paired(confidence, correct)
    return float(-np.log(np.maximum(np.where(correct, confidence, 1 - confidence), _LEAST)).mean())


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


@dataclass(frozen=True)
class CrossFit:
    """Confidences at temperatures that other images chose.

    Attributes
    ----------
    confidence
        float64 ``[N]``.
    correct
        bool ``[N]``: whether the reading at that temperature is right.
    temperature
        float64 ``[folds]``: what was chosen for each fold.
    fold
        int64 ``[N]``: which fold each image is in.
    """

    confidence: np.ndarray
    correct: np.ndarray
    temperature: np.ndarray
    fold: np.ndarray


def cross_fit_temperature(
    temperatures: Sequence[float],
    confidence: np.ndarray,
    correct: np.ndarray,
    *,
    folds: int = 5,
    seed: int = 0,
) -> CrossFit:
    """Choose the softmax temperature by log loss, for each image by images of other folds.

    Parameters
    ----------
    temperatures
        ``[K]``: the candidates.
    confidence
        ``[K, N]``: confidence of the readings at each temperature (``decode(..., temperature=t)``).
    correct
        bool ``[K, N]``: which of these readings are right.
    folds, seed
        Images are dealt out to so many folds at random.
    """
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, bool)
    if confidence.shape != correct.shape or confidence.shape[:1] != (len(temperatures),):
        raise ParameterError(
            "give one row of confidences and of outcomes per temperature; got "
            f"{len(temperatures)} temperatures, shapes {list(confidence.shape)} "
            f"and {list(correct.shape)}."
        )
    images = confidence.shape[1]
    if not 2 <= folds <= images:
        raise ParameterError(f"{folds} folds: give 2 to {images}, the number of images.")
    fold = np.random.default_rng(seed).permutation(np.arange(images) % folds)
    loss = -np.log(np.maximum(np.where(correct, confidence, 1 - confidence), _LEAST))
    best = np.array([loss[:, fold != f].mean(axis=1).argmin() for f in range(folds)])
    column = np.arange(images)
    return CrossFit(
        confidence[best[fold], column],
        correct[best[fold], column],
        np.asarray(temperatures, float)[best],
        fold,
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
