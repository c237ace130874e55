"""How many plates, and draws of calibration images, it takes to see a difference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from ..errors import ParameterError

POWER = 0.8  # chance of seeing a difference that is there
LEVEL = 0.05  # chance of seeing one that is not, two-sided
MOST = 1_000_000  # plates; beyond, no number helps for all that is known


@dataclass(frozen=True)
class Spread:
    """Where a paired difference of exact match varies, as variances of a single plate's.

    Attributes
    ----------
    plates
        Between plates, whatever the draw: new plates change it.
    draws
        Between draws, alike on all plates: new calibration images change it.
    both
        What is left: a plate in one draw.
    """

    plates: float
    draws: float
    both: float

    def of_mean(self, plates: float, draws: int) -> float:
        """Variance of the mean over so many plates, each in so many draws."""
        return self.plates / plates + self.draws / draws + self.both / (plates * draws)


def spread(change: np.ndarray) -> Spread:
    """Variances of a paired difference, from plates that were read in several draws.

    Parameters
    ----------
    change
        ``[draws, plates]``: right by the one less right by the other, -1, 0 or 1.

    Raises
    ------
    ParameterError
        For fewer than two draws or two plates.

    Notes
    -----
    Two crossed random factors without replication, by the method of moments (S. R. Searle,
    G. Casella and C. E. McCulloch, "Variance Components", 1992, section 4.3); what comes out
    negative is 0.

    Examples
    --------
    >>> spread(np.array([[0, 0, 1, 1], [0, 0, 1, 1]]))  # plates differ, draws do not
    Spread(plates=0.3333333333333333, draws=0.0, both=0.0)
    """
    change = np.asarray(change, float)
    if change.ndim != 2 or min(change.shape) < 2:
        raise ParameterError(
            f"a spread needs two draws of two plates or more, not {list(change.shape)}."
        )
    draws, plates = change.shape
    by_draw, by_plate = change.mean(1), change.mean(0)
    left = change - by_draw[:, None] - by_plate + change.mean()
    both = float((left**2).sum() / ((draws - 1) * (plates - 1)))
    return Spread(
        max(0.0, float(by_plate.var(ddof=1)) - both / draws),
        max(0.0, float(by_draw.var(ddof=1)) - both / plates),
        both,
    )


def least_seen(variance: float, power: float = POWER) -> float:
    """The smallest difference that is seen with a chance of `power`, as it is measured.

    Notes
    -----
    The usual normal approximation: ``z(1 - LEVEL / 2) + z(power)`` standard deviations.
    """
    return float(ndtri(1 - LEVEL / 2) + ndtri(power)) * math.sqrt(variance)


def plates_needed(
    difference: Callable[[int], float],
    variance: Callable[[int], float],
    *,
    power: float = POWER,
) -> int | None:
    """Plates at which a difference from nothing is seen with a chance of `power`.

    Parameters
    ----------
    difference
        What is there to be seen, with so many plates.
    variance
        Of what is measured, with so many plates.
    power
        The chance that its 95 % interval leaves nothing outside.

    Returns
    -------
    int or None
        Rounded up to two digits: an estimate is no more exact. None where more than `MOST` would be
        needed.

    Examples
    --------
    >>> plates_needed(lambda n: 0.01, lambda n: 0.02 / n)  # 2 plates of 100 read unlike
    1600
    """

    def seen(plates: int) -> bool:
        return abs(difference(plates)) >= least_seen(variance(plates), power)

    if not seen(MOST):
        return None
    few, many = 0, MOST
    while many - few > 1:  # the more plates, the less it varies
        middle = (few + many) // 2
        few, many = (few, middle) if seen(middle) else (middle, many)
    step = 10 ** max(len(str(many)) - 2, 0)
    return -(-many // step) * step
