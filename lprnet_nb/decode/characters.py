"""How sure each character of a reading is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from ..datasets.alphabet import Alphabet
from ..datasets.labels import is_plate
from .ctc import PAD, best_path, check_logits, log_softmax
from .readings import Readings


def character_confidence(
    logits: np.ndarray, texts: Sequence[str], alphabet: Alphabet
) -> list[list[float]]:
    """Probability of each character where the text lies on the steps.

    Parameters
    ----------
    logits
        ``[N, C, T]``.
    texts
        A reading of each image.
    alphabet
        Class list with the blank.

    Returns
    -------
    list
        For each text, for each character: its class's largest softmax probability among the steps
        that the text's most probable path gives to it. It is no posterior: it does not weigh the
        other ways in which the same text may lie on the steps.
    """
    log_probs = log_softmax(check_logits(logits, alphabet))
    classes = [alphabet.encode(text) for text in texts]
    padded = np.full((len(texts), max(map(len, classes), default=0)), PAD)
    for row, known in zip(padded, classes):
        row[: len(known)] = known
    paths = best_path(log_probs, padded, alphabet.blank)
    found = []
    for steps, path in zip(log_probs, paths):
        runs = groupby(enumerate(path.tolist()), key=lambda place: place[1])
        found.append(
            [
                float(np.exp(max(steps[index, step] for step, _ in run)))
                for index, run in runs
                if index != alphabet.blank
            ]
        )
    return found


def in_grammar(readings: Readings) -> list[bool]:
    """Whether each text is one of the grammar that it was read by, else a plate (GA 36-2018).

    See `labels.is_plate` for what is a plate.
    """
    free = readings.decoder in ("greedy", "beam")
    return [is_plate(text) if free else bool(text) for text in readings.texts]
