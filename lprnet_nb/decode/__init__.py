"""Logits to plate texts: greedy CTC."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..datasets.alphabet import PUBLISHED, Alphabet
from ..errors import ParameterError
from .ctc import collapse, greedy, log_softmax, text_log_prob
from .readings import Readings

__all__ = ["DECODERS", "Readings", "collapse", "decode", "greedy", "log_softmax", "text_log_prob"]

DECODERS = ("greedy",)


def decode(logits: np.ndarray, alphabet: Alphabet = PUBLISHED, decoder: str = "greedy",
           **options: Any) -> Readings:
    """Read plates off a network's output.

    Parameters
    ----------
    logits
        ``[N, C, T]``: images, classes, time steps; any real scores, softmax is taken over C.
    alphabet
        Which class is which character, and which is the blank.
    decoder
        One of `DECODERS`.

    Returns
    -------
    Readings

    Raises
    ------
    ParameterError
        When the decoder is unknown or the logits do not fit the class list.
    """
    if decoder == "greedy":
        return greedy(logits, alphabet, **options)
    raise ParameterError(f"decoder {decoder!r} is unknown. Known: {', '.join(DECODERS)}.")
