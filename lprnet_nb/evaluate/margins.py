"""Which margin a folder's crops want: told by a recognizer's confidence, without any label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..datasets.folder import PlateFiles
from ..datasets.images import PlateImages
from ..datasets.margins import CANDIDATES, NONE, Margin, with_margin
from ..errors import DataError

SAMPLE = 100  # plates that a choice is made on
SLOW_SAMPLE = 10  # where each takes half a second
LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Choice:
    """The margin chosen for a set of crops, and what speaks for it.

    Attributes
    ----------
    margin
        `NONE` unless another is better beyond chance.
    confidence
        Mean confidence of the sample by candidate.
    gain
        `LEVEL` interval of the mean gain in confidence of the most confident candidate over none,
        by the paired bootstrap over plates.
    plates
        How many were read.
    """

    margin: Margin
    confidence: Mapping[Margin, float]
    gain: tuple[float, float]
    plates: int

    def said(self) -> str:
        """The choice in a sentence."""
        best = max(self.confidence, key=self.confidence.__getitem__)
        none = f"mean confidence {self.confidence[NONE]:.3f} as they are"
        if best == NONE:
            return (
                f"margin none: of {len(self.confidence)} tried, the crops as they are are read "
                f"most surely ({none}, {self.plates} plates)."
            )
        seen = (
            f"{none}, {self.confidence[best]:.3f} with {best}; gain {self.gain[0]:+.3f} to "
            f"{self.gain[1]:+.3f} at {LEVEL:.0%}, {self.plates} plates"
        )
        if self.margin == NONE:
            return f"margin none: {best} is not surely better ({seen})."
        return f"margin {best} ({seen})."


def choose_margin(
    confidence: Callable[[PlateImages], np.ndarray],
    plates: PlateImages | PlateFiles,
    candidates: tuple[Margin, ...] = CANDIDATES,
    sample: int = SAMPLE,
) -> Choice:
    """Choose the margin at which a sample of the crops is read most surely.

    Parameters
    ----------
    confidence
        From N crops to the confidence of each reading, float ``[N]``.
    plates
        The crops, or files of which the sample is read.
    candidates
        With `NONE` among them.
    sample
        How many crops are read at each; of more, evenly spread ones.

    Returns
    -------
    Choice

    Raises
    ------
    DataError
        Without crops.
    """
    if not len(plates):
        raise DataError("no crops to choose a margin by.")
    taken = np.linspace(0, len(plates) - 1, min(sample, len(plates))).round().astype(int)
    crops = plates.take(taken)
    if not (isinstance(crops, PlateFiles) and crops.scenes):  # those are cut anew for each margin
        crops = crops.read()
    found = {margin: confidence(with_margin(crops, margin)) for margin in candidates}
    means = {margin: float(values.mean()) for margin, values in found.items()}
    best = max(candidates, key=means.__getitem__)
    gains = found[best] - found[NONE]
    dice = np.random.default_rng(0)
    drawn = gains[dice.integers(len(gains), size=(RESAMPLES, len(gains)))].mean(axis=1)
    tail = 50 * (1 - LEVEL)
    low, high = (float(bound) for bound in np.percentile(drawn, (tail, 100 - tail)))
    few = len(taken) < 5  # a bootstrap of so few says nothing
    return Choice(NONE if few or low <= 0 else best, means, (low, high), len(taken))
