"""Tests for readings of the same plates: which differences are more than chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ParameterError


@dataclass(frozen=True)
class McNemar:
    """Exact McNemar test.

    Attributes
    ----------
    b
        Plates that only the first reads right.
    c
        Plates that only the second reads right.
    p
        Two-sided p-value of "both are right equally often"; 1 where they never differ.
    """

    b: int
    c: int
    p: float


def mcnemar_exact(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Compare two ways of reading the same plates (McNemar 1947, exact binomial form).

    Parameters
    ----------
    correct_a, correct_b
        bool ``[N]``: which plates each reads right, in the same order.
    """
    from statsmodels.stats.contingency_tables import mcnemar  # brings pandas

    a, b = _outcomes([correct_a, correct_b])
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    table = [[int((a & b).sum()), only_a], [only_b, int((~a & ~b).sum())]]
    p = float(mcnemar(table, exact=True).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, min(p, 1.0))


def over_draws(
    count: int, draws: Iterable[tuple[np.ndarray | slice, np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, McNemar]:
    """Add up two ways of reading over draws, plate by plate, and test the plates.

    Parameters
    ----------
    count
        Plates there are, N.
    draws
        For each draw which plates it judged, and which of them each reads right, bool.

    Returns
    -------
    total : np.ndarray
        int ``[N]``: in how many more draws the first reads a plate right.
    test : McNemar
        The exact sign test over plates read right in more, and in fewer, draws: a plate counts
        once, whatever the number of draws.
    """
    total = np.zeros(count, int)
    for judged, ours, theirs in draws:
        total[judged] += ours.astype(int) - theirs
    return total, mcnemar_exact(total > 0, total < 0)


def holm(pvalues: ArrayLike) -> np.ndarray:
    """p-values corrected for their number by Holm's step-down method (1979), float64 ``[K]``."""
    from statsmodels.stats.multitest import multipletests

    pvalues = np.asarray(pvalues, dtype=float)
    if not pvalues.size:
        return pvalues
    if not ((pvalues >= 0) & (pvalues <= 1)).all():
        raise ParameterError("p-values must lie between 0 and 1.")
    return multipletests(pvalues, method="holm")[1]


def _outcomes(rows: Sequence[ArrayLike]) -> np.ndarray:
    lengths = {np.size(row) for row in rows}
    if len(lengths) != 1:
        raise ParameterError(
            f"paired tests need the same plates on each side, in the same order; "
            f"got {sorted(lengths)} outcomes."
        )
    if lengths == {0}:
        raise ParameterError("paired tests need at least one plate.")
    return np.asarray(rows, dtype=bool)
