"""Splits by seed: folds, and calibration draws that never meet the images they are judged on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ParameterError


@dataclass(frozen=True)
class Split:
    """One fold of a cross-fit.

    Parameters
    ----------
    draw, fold
        Which draw, and which of its folds.
    order
        int64: the images outside the fold, shuffled. The first n of them are a calibration set of
        n, so that a small set of a draw is part of every larger one.
    evaluate
        int64, ascending: the fold's images.
    """

    draw: int
    fold: int
    order: np.ndarray
    evaluate: np.ndarray

    def calibrate(self, count: int) -> np.ndarray:
        """Indices of `count` calibration images, disjoint from `evaluate`.

        Raises
        ------
        ParameterError
            When there are fewer images outside the fold.
        """
        if not 1 <= count <= len(self.order):
            raise ParameterError(
                f"cannot draw {count} calibration images: {len(self.order)} lie "
                f"outside the fold. Choose 1 to {len(self.order)}, or fewer, "
                "larger remainders by more folds."
            )
        return self.order[:count]


def folds(count: int, parts: int, seed: int) -> list[np.ndarray]:
    """Cut ``range(count)`` into `parts` random folds whose sizes differ by one at most.

    Returns
    -------
    list of np.ndarray
        int64 indices, ascending; together they are all, each once.

    Raises
    ------
    ParameterError
        When there are not at least two folds of at least one image.
    """
    if not 2 <= parts <= count:
        raise ParameterError(f"cannot cut {count} images into {parts} folds. Choose 2 to {count}.")
    return [
        np.sort(part)
        for part in np.array_split(np.random.default_rng([seed, 0]).permutation(count), parts)
    ]


def cross_fit(count: int, parts: int, draw: int) -> list[Split]:
    """Folds of a draw, each with the calibration order of the images outside it.

    Every image is evaluated once per draw, by a model that was calibrated without it.
    """
    made = []
    for fold, evaluate in enumerate(folds(count, parts, draw)):
        outside = np.setdiff1d(np.arange(count), evaluate)
        order = np.random.default_rng([draw, 1, fold]).permutation(outside)
        made.append(Split(draw, fold, order, evaluate))
    return made


def within(count: int, draw: int) -> Split:
    """Calibration images drawn from those that are evaluated: how published figures were made."""
    order = np.random.default_rng([draw, 2]).permutation(count)
    return Split(draw, 0, order, np.arange(count))


def apart(count: int, draws: int, size: int, seed: int) -> list[Split]:
    """Draws of disjoint calibration images; all judge the same images, which none calibrates on.

    Raises
    ------
    ParameterError
        When no image is left to judge.
    """
    if count <= draws * size:
        raise ParameterError(
            f"{count} images are too few: {draws} draws calibrate on {size} each, and others are "
            f"judged. Give {draws * size + 1} or more."
        )
    order = np.random.default_rng([seed, 3]).permutation(count)
    evaluate = np.sort(order[draws * size :])
    return [
        Split(draw, 0, order[draw * size : (draw + 1) * size], evaluate) for draw in range(draws)
    ]
