"""Logits to plate texts: greedy CTC, prefix beam search, and the best text of a plate grammar."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..datasets.alphabet import PUBLISHED, Alphabet
from ..errors import ParameterError
from .beam import beam
from .ctc import best_path, collapse, greedy, log_softmax, text_log_prob
from .grammar import compile_grammar, load_grammar, packaged_grammars
from .plates import constrained
from .readings import Readings

__all__ = [
    "DECODERS",
    "Readings",
    "beam",
    "best_path",
    "collapse",
    "compile_grammar",
    "constrained",
    "decode",
    "greedy",
    "load_grammar",
    "log_softmax",
    "packaged_grammars",
    "text_log_prob",
]

DECODERS = ("greedy", "beam", *packaged_grammars())


def decode(
    logits: np.ndarray, alphabet: Alphabet = PUBLISHED, decoder: str = "greedy", **options: Any
) -> Readings:
    """Read plates off a network's output.

    Parameters
    ----------
    logits
        ``[N, C, T]``: images, classes, time steps; any real scores, softmax is taken over C.
    alphabet
        Which class is which character, and which is the blank.
    decoder
        One of `DECODERS`, or the path of a grammar file (see `lprnet_nb.decode.grammar`). "greedy"
        is the published baseline; "plate" takes whichever valid plate is the most probable.
    options
        Passed to the decoder: `temperature` to all; `width` to "beam"; `score` to grammars.

    Returns
    -------
    Readings

    Raises
    ------
    ParameterError
        When the decoder or an option is unknown, or the logits do not fit the class list.

    Examples
    --------
    >>> logits = np.full((1, 68, 18), -9.0, np.float32)
    >>> for step, character in enumerate("皖皖-A-1-1-2-3--4----"[:18]):
    ...     logits[0, PUBLISHED.characters.index(character), step] = 9.0
    >>> decode(logits).texts, decode(logits, decoder="plate").texts
    (['皖A11234'], ['皖A11234'])
    """
    chosen, allowed = _DECODERS.get(decoder, (None, ("temperature", "score")))
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ParameterError(
            f"decoder {decoder!r} has no option {unknown[0]!r}. It has: {', '.join(allowed)}."
        )
    if chosen:
        return chosen(logits, alphabet, **options)
    if decoder not in DECODERS and not str(decoder).endswith(".toml"):
        raise ParameterError(
            f"decoder {decoder!r} is unknown. Known: {', '.join(DECODERS)}, or "
            "the path of a grammar file (.toml)."
        )
    return constrained(logits, alphabet, decoder, **options)


_DECODERS = {"greedy": (greedy, ("temperature",)), "beam": (beam, ("temperature", "width"))}
