"""Error bars."""

from __future__ import annotations

import math

from scipy.special import ndtri  # scipy.stats takes most of a second to import

from ..errors import ParameterError


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for k successes out of n (E. B. Wilson 1927).

    Raises
    ------
    ParameterError
        When k is not within 0 to n, or n is 0.

    Examples
    --------
    >>> low, high = wilson(894, 1000)
    >>> f"{low:.3f} {high:.3f}"
    '0.873 0.912'
    """
    if not 0 <= k <= n or n < 1:
        raise ParameterError(f"{k} of {n}: an interval needs 0 <= k <= n and n >= 1.")
    k, n, z = int(k), int(n), float(ndtri(0.5 + 0.5 * _checked(level)))
    share, whole = k / n, 2 * (n + z**2)
    middle = (2 * n * share + z**2) / whole
    half = z / whole * math.sqrt(4 * n * share * (1 - share) + z**2)
    return (middle - half if k else 0.0), (middle + half if k < n else 1.0)


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise ParameterError(
            f"confidence level {level}: give a number between 0 and 1, such as 0.95."
        )
    return level
