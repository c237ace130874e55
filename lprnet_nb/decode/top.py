"""The likeliest class of each step, for outputs that are no CTC."""

from __future__ import annotations

import numpy as np

from ..datasets.alphabet import Alphabet
from .ctc import log_softmax
from .readings import Readings


def top(logits: np.ndarray, alphabet: Alphabet) -> Readings:
    """Read the likeliest class of each step, by name where it has one, else by number.

    Parameters
    ----------
    logits
        ``[N, C, T]``; softmax is taken over C.
    alphabet
        Names of the classes.

    Returns
    -------
    Readings
        With the second likeliest class at the step where it is nearest as the runner-up.
    """
    names = [c if c.isprintable() else str(k) for k, c in enumerate(alphabet.characters)]
    log_probs = log_softmax(logits)
    order = np.argsort(-log_probs, axis=1, kind="stable")
    first, second = order[:, 0], order[:, min(1, order.shape[1] - 1)]
    best = np.take_along_axis(log_probs, first[:, None], 1)[:, 0].astype(np.float64)
    lead = best - np.take_along_axis(log_probs, second[:, None], 1)[:, 0]
    step = lead.argmin(axis=1)
    other = first.copy()
    rows = np.arange(len(logits))
    other[rows, step] = second[rows, step]
    log_prob = best.sum(axis=1)
    return Readings(
        [" ".join(names[k] for k in steps) for steps in first.tolist()],
        log_prob,
        np.exp(log_prob),
        [" ".join(names[k] for k in steps) for steps in other.tolist()],
        lead[rows, step],
        "top",
    )
