"""Error bars."""

from __future__ import annotations

from ..errors import ParameterError


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for k successes out of n (E. B. Wilson 1927), by scipy.

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
    from scipy import stats

    interval = stats.binomtest(int(k), int(n)).proportion_ci(_checked(level), method="wilson")
    return float(interval.low), float(interval.high)


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise ParameterError(
            f"confidence level {level}: give a number between 0 and 1, such as 0.95."
        )
    return level
