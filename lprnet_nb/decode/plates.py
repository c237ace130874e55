"""Reading under a grammar: the most probable of the valid plates."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..datasets.alphabet import Alphabet
from ..errors import ParameterError
from .ctc import PAD, check_logits, log_softmax, text_log_prob, to_strings
from .grammar import compile_grammar, load_grammar
from .readings import Readings
from .search import search

SCORES = ("total", "path")


def constrained(
    logits: np.ndarray,
    alphabet: Alphabet,
    grammar: str | Path,
    *,
    score: str = "total",
    temperature: float = 1.0,
) -> Readings:
    """Read the most probable text of a grammar.

    Parameters
    ----------
    logits
        ``[N, C, T]``.
    alphabet
        Class list with the blank.
    grammar
        A packaged grammar's name or a file, as for `load_grammar`.
    score
        "total" maximises the probability summed over all paths of a text, "path" that of its best
        path (Viterbi).
    temperature
        Logits are divided by it.

    Returns
    -------
    Readings
        `exact` tells for which images the text is proved to be the best. Where no text of the
        grammar fits into the time steps, the text is "" and its `log_prob` ``-inf``.

    Raises
    ------
    ParameterError
        When the grammar is unknown, breaks the format, or has characters that are not classes.
    """
    if score not in SCORES:
        raise ParameterError(f"score {score!r} is unknown. Known: {', '.join(SCORES)}.")
    loaded = load_grammar(grammar)
    automaton = compile_grammar(loaded, alphabet)
    log_probs = log_softmax(check_logits(logits, alphabet), temperature)
    found = search(log_probs, automaton, alphabet.blank)
    log_total = found.log_total
    if score == "path":
        found = search(log_probs, automaton, alphabet.blank, best_path=True)
        log_prob = np.stack(
            [text_log_prob(log_probs, found.texts[:, k], alphabet.blank) for k in range(2)], axis=1
        )
        log_prob[np.isneginf(found.score)] = -np.inf
    else:
        log_prob = found.score
    first, second = log_prob.T
    some, more = np.isfinite(first), np.isfinite(second)
    return Readings(
        texts=to_strings(np.where(some[:, None], found.texts[:, 0], PAD), alphabet),
        log_prob=first,
        confidence=np.exp(
            np.minimum(np.where(some, first - np.where(some, log_total, 0), -np.inf), 0)
        ),
        runner_up=to_strings(np.where(more[:, None], found.texts[:, 1], PAD), alphabet),
        margin=np.where(more, first - np.where(more, second, 0), np.inf),
        decoder=loaded.name,
        exact=found.exact,
    )
