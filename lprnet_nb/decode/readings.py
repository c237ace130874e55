"""What every decoder returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Readings:
    """Texts read from the logits of N images, and how sure the decoder is of them.

    Attributes
    ----------
    texts
        The readings, in the order of the images.
    log_prob
        float64 ``[N]``: natural logarithm of the text's CTC probability, summed over all paths that
        collapse to it.
    confidence
        float64 ``[N]`` in 0 to 1: the text's probability among all texts that the decoder could
        have answered. For decoders without a grammar that is ``exp(log_prob)``; for a grammar, the
        probability is divided by that of all texts in the grammar.
    runner_up
        The text that the decoder would have taken next; "" where there is none.
    margin
        float64 ``[N]``: `log_prob` less the runner-up's, ``inf`` where there is none. Greedy and
        best-path decoders do not maximise `log_prob`, so theirs can be negative.
    decoder
        Name of the decoder.
    exact
        bool ``[N]``: is it proved that no other text that the decoder could have answered scores
        more? None for decoders that prove nothing.
    """

    texts: list[str]
    log_prob: np.ndarray
    confidence: np.ndarray
    runner_up: list[str]
    margin: np.ndarray
    decoder: str
    exact: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, places: Sequence[int] | np.ndarray) -> Readings:
        """Those at `places`, in that order."""
        return replace(
            self,
            texts=[self.texts[i] for i in places],
            log_prob=self.log_prob[places],
            confidence=self.confidence[places],
            runner_up=[self.runner_up[i] for i in places],
            margin=self.margin[places],
            exact=None if self.exact is None else self.exact[places],
        )
