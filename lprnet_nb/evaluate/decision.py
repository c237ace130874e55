"""Is one way of reading good enough in place of another? A paired interval against a tolerance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri

from ..errors import ParameterError
from .paired import mcnemar_exact
from .power import plates_needed

Outcome = Literal["within", "not within", "too few plates"]
TOLERANCE = 1.0  # points of exact match that may be lost, where the reader names no other


@dataclass(frozen=True)
class Decision:
    """What the plates say of a loss.

    Attributes
    ----------
    difference
        Share read right, less the reference's: -0.01 is one point lost.
    low, high
        Ends of its 95 % interval.
    outcome
        "within": the whole interval lies above minus the tolerance. "not within": it lies below.
        "too few plates": minus the tolerance lies inside.
    decides
        About how many plates of the same kind would decide with a chance of 80 % (see `power`), for
        "too few plates"; None elsewhere, and where more than `power.MOST` would be needed.
    """

    difference: float
    low: float
    high: float
    outcome: Outcome
    decides: int | None


def paired_difference(only_a: int, only_b: int, images: int) -> tuple[float, float]:
    """95 % interval of the share that B reads right less the share that A does, on the same plates.

    Parameters
    ----------
    only_a, only_b
        Plates that only A, only B reads right.
    images
        All plates.

    Returns
    -------
    tuple
        Its ends, within -1 and 1.

    Notes
    -----
    Wald's interval with half a plate added to each of the four cells (A. Agresti and Y. Min,
    "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine
    24, 2005, section 4): unlike the plain one it keeps its level where few plates differ.

    Examples
    --------
    >>> low, high = paired_difference(14, 8, 1000)
    >>> f"{low:.4f} {high:.4f}"
    '-0.0154 0.0034'
    """
    if only_a < 0 or only_b < 0 or only_a + only_b > images or images < 1:
        raise ParameterError(
            f"{only_a} and {only_b} of {images} plates read right by one alone: not possible."
        )
    half = ndtri(0.975) * math.sqrt(_variance(only_a, only_b, images))
    middle = (only_b - only_a) / (images + 2)
    return float(max(middle - half, -1.0)), float(min(middle + half, 1.0))


def _variance(only_a: float, only_b: float, images: float) -> float:
    """Of the adjusted difference."""
    count, a, b = images + 2, only_a + 0.5, only_b + 0.5
    return (a + b - (b - a) ** 2 / count) / count**2


def decide(
    right: Sequence[bool] | np.ndarray,
    reference: Sequence[bool] | np.ndarray,
    tolerance: float = TOLERANCE,
) -> Decision:
    """Judge a loss of exact match against what may be lost.

    Parameters
    ----------
    right, reference
        bool ``[N]``: plates that the model and the reference read right, in the same order.
    tolerance
        Points of exact match (hundredths) that may be lost.

    Raises
    ------
    ParameterError
        For a tolerance that is no loss of 0 to 100 points.
    """
    if not 0 <= tolerance <= 100:
        raise ParameterError(f"a tolerance of {tolerance} points: name 0 to 100, such as 1.0.")
    counts, images = mcnemar_exact(reference, right), len(right)
    low, high = paired_difference(counts.b, counts.c, images)
    difference, limit = (counts.c - counts.b) / images, -tolerance / 100
    if low > limit:
        return Decision(difference, low, high, "within", None)
    if high < limit:
        return Decision(difference, low, high, "not within", None)
    return Decision(
        difference, low, high, "too few plates", _decides(counts.b, counts.c, images, limit)
    )


def _decides(only_a: int, only_b: int, images: int, limit: float) -> int | None:
    """Plates at which these shares of unlike readings would put the limit outside the interval."""
    a, b = only_a / images, only_b / images
    return plates_needed(
        lambda n: (b - a) * n / (n + 2) - limit,
        lambda n: _variance(a * n, b * n, n),
    )
