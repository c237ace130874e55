"""Connectionist temporal classification: probabilities, collapsing, greedy reading.

A path names one class per time step; a text's paths are those that give it when repeats are merged
and blanks dropped (Graves et al. 2006, "Connectionist temporal classification", section 3). Texts
are held as class indices, int64 ``[..., L]``, padded at the end with `PAD`.
"""

from __future__ import annotations

import numpy as np

from ..datasets.alphabet import Alphabet
from ..errors import ParameterError
from .readings import Readings

PAD = -1
_PART = 126  # images at a time: as much as the processor's cache holds, and no power of two, since
#              rows at such a distance fall on the same few places of the cache


def check_logits(logits: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """Logits as a floating array ``[N, C, T]``, or the reason why they are not.

    Raises
    ------
    ParameterError
        When the shape does not fit the class list, or a value is not finite.
    """
    logits = np.asarray(logits)
    if logits.ndim != 3 or logits.shape[1] != alphabet.size or logits.shape[2] < 1:
        raise ParameterError(
            f"logits of shape {list(logits.shape)}: expected [images, "
            f"{alphabet.size} classes, time steps]. Give the network's output "
            "as it is, or the class list that belongs to it."
        )
    if not np.issubdtype(logits.dtype, np.floating):
        logits = logits.astype(np.float32)
    if not np.isfinite(logits).all():
        image = int(np.flatnonzero(~np.isfinite(logits).all(axis=(1, 2)))[0])
        raise ParameterError(
            f"logits of image {image} hold NaN or infinity. The engine that made "
            "them failed or overflowed; run it again in higher precision."
        )
    return logits


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Log-probabilities of the classes at each step, ``[N, C, T]``, in the logits' own dtype.

    Parameters
    ----------
    logits
        ``[N, C, T]``.
    temperature
        Logits are divided by it; above 1 makes the network less sure of itself.

    Raises
    ------
    ParameterError
        When the temperature is not positive.
    """
    if not 0 < temperature < np.inf:
        raise ParameterError(
            f"temperature {temperature}: give a positive number; 1 leaves the logits as they are."
        )
    images, classes, steps = logits.shape
    # Images last in memory: numpy is fastest along long rows.
    result = np.empty((classes, steps, images), logits.dtype)
    for begin in range(0, images, _PART):
        part = logits[begin : begin + _PART]
        part = np.ascontiguousarray(part.reshape(len(part), -1).T).reshape(classes, steps, -1)
        if temperature != 1:
            part /= logits.dtype.type(temperature)
        part -= part.max(axis=0)
        part -= np.log(np.exp(part).sum(axis=0))
        result[..., begin : begin + _PART] = part
    return result.transpose(2, 0, 1)


def collapse(paths: np.ndarray, blank: int) -> np.ndarray:
    """Texts of paths: repeats merged, then blanks dropped.

    Parameters
    ----------
    paths
        Class indices ``[..., T]``.
    blank
        Index of the blank.

    Returns
    -------
    np.ndarray
        int64 ``[..., T]``, padded with `PAD`.

    Examples
    --------
    >>> collapse(np.array([[5, 5, 9, 5, 7]]), blank=9).tolist()
    [[5, 5, 7, -1, -1]]
    """
    flat = paths.reshape(-1, paths.shape[-1])
    keep = flat != blank
    keep[:, 1:] &= flat[:, 1:] != flat[:, :-1]
    texts = np.full(flat.shape, PAD, np.int64)
    rows, _ = np.nonzero(keep)
    texts[rows, (np.cumsum(keep, axis=1) - 1)[keep]] = flat[keep]
    return texts.reshape(paths.shape)


def to_strings(texts: np.ndarray, alphabet: Alphabet) -> list[str]:
    """Strings of padded texts ``[N, L]``."""
    # PAD is -1, so the extra last entry stands for it; numpy drops trailing NULs on the way out.
    characters = np.array([*alphabet.characters, ""])[texts]
    if alphabet.longest > 1:
        return ["".join(row) for row in characters.tolist()]
    if not texts.shape[1]:
        return [""] * len(texts)
    return np.ascontiguousarray(characters).view(f"<U{texts.shape[1]}")[:, 0].tolist()


def text_log_prob(log_probs: np.ndarray, texts: np.ndarray, blank: int) -> np.ndarray:
    """Log-probability of one text per image, summed over all its paths.

    The forward recursion of Graves et al. 2006, section 4.1, in the log domain, over all images at
    once.

    Parameters
    ----------
    log_probs
        ``[N, C, T]`` as from `log_softmax`.
    texts
        int64 ``[N, L]``, padded with `PAD`.
    blank
        Index of the blank.

    Returns
    -------
    np.ndarray
        float64 ``[N]``, at most 0; ``-inf`` where a text needs more steps than there are.
    """
    texts = texts[:, : (texts != PAD).any(axis=0).sum()]
    _, lengths, emit, blocked = _trellis(log_probs, texts, blank)
    alpha = np.full(emit.shape[1:], -np.inf)
    alpha[:2] = emit[0, :2]
    for step in emit[1:]:
        alpha = _log_sum(_predecessors(alpha, blocked)) + step
    last = 2 * lengths
    column = np.arange(len(texts))
    ends = np.stack(
        [
            alpha[last, column],
            np.where(lengths > 0, alpha[np.maximum(last - 1, 0), column], -np.inf),
        ]
    )
    # float32 rounding of the classes' probabilities may add up to a little more than 1.
    return np.minimum(_log_sum(ends), 0.0)


def _trellis(
    log_probs: np.ndarray,
    texts: np.ndarray,
    blank: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """States ``[N, S]``, lengths ``[N]``, emissions ``[T, S, N]``, penalty of skips ``[S, N]``."""
    images, width = texts.shape
    # States alternate blank, character, blank, ...; padding becomes states that nobody ends in.
    states = np.full((images, 2 * width + 1), blank, np.int64)
    states[:, 1::2] = np.where(texts == PAD, blank, texts)
    skip = np.zeros(states.shape, bool)  # may state s be entered from s - 2?
    skip[:, 3::2] = states[:, 3::2] != states[:, 1:-2:2]
    emit = np.take_along_axis(log_probs, states[:, :, None], axis=1).transpose(2, 1, 0)
    return (
        states,
        (texts != PAD).sum(axis=1),
        np.ascontiguousarray(emit, dtype=np.float64),
        np.where(skip.T, 0.0, -np.inf),
    )


def _predecessors(score: np.ndarray, blocked: np.ndarray) -> np.ndarray:
    """Scores ``[3, S, N]`` of coming from the same state, the one before, the one before that."""
    terms = np.full((3, *score.shape), -np.inf)
    terms[0] = score
    terms[1, 1:] = score[:-1]
    terms[2, 2:] = score[:-2] + blocked[2:]
    return terms


def _log_sum(terms: np.ndarray) -> np.ndarray:
    """log(sum(exp(terms))) along the first axis, with -inf where all terms are."""
    top = terms.max(axis=0)
    with np.errstate(divide="ignore"):
        return np.where(np.isneginf(top), 0.0, top) + np.log(
            np.exp(terms - np.where(np.isneginf(top), 0.0, top)).sum(axis=0)
        )


def best_path(log_probs: np.ndarray, texts: np.ndarray, blank: int) -> np.ndarray:
    """The most probable path of one text per image, to draw over the logits.

    Parameters
    ----------
    log_probs, texts, blank
        As for `text_log_prob`; each text must fit into the steps.

    Returns
    -------
    np.ndarray
        int64 ``[N, T]``: a class per step.
    """
    states, _, emit, blocked = _trellis(log_probs, texts, blank)
    steps, _, images = emit.shape
    score = np.full(emit.shape[1:], -np.inf)
    score[:2] = emit[0, :2]
    came_from = np.zeros(emit.shape, np.int64)
    for t in range(1, steps):
        terms = _predecessors(score, blocked)
        came_from[t] = terms.argmax(axis=0)
        score = terms.max(axis=0) + emit[t]
    column = np.arange(images)
    last = 2 * (texts != PAD).sum(axis=1)
    before = np.maximum(last - 1, 0)
    place = np.where(score[before, column] > score[last, column], before, last)
    path = np.empty((images, steps), np.int64)
    for t in range(steps - 1, -1, -1):
        path[:, t] = states[column, place]
        place = np.maximum(place - came_from[t, place, column], 0)
    return path


def greedy(logits: np.ndarray, alphabet: Alphabet, *, temperature: float = 1.0) -> Readings:
    """The published baseline: the most probable class per step, collapsed.

    The first step's character counts, and a repeat across a blank is two characters. The runner-up
    is the most probable path that differs in one step (where it takes the second-best class) and
    reads differently.

    Parameters
    ----------
    logits
        ``[N, C, T]``.
    alphabet
        Class list with the blank.
    temperature
        Logits are divided by it, which changes the scores and not the texts.
    """
    logits = check_logits(logits, alphabet)
    log_probs = log_softmax(logits, temperature)
    best = logits.argmax(axis=1)
    texts = collapse(best, alphabet.blank)
    log_prob = text_log_prob(log_probs, texts, alphabet.blank)
    others, differs = _one_step_away(log_probs, best, texts, alphabet.blank)
    runner_up = np.where(differs[:, None], others, PAD)
    with np.errstate(invalid="ignore"):
        margin = np.where(
            differs, log_prob - text_log_prob(log_probs, others, alphabet.blank), np.inf
        )
    return Readings(
        to_strings(texts, alphabet),
        log_prob,
        np.exp(log_prob),
        to_strings(runner_up, alphabet),
        margin,
        "greedy",
    )


def _one_step_away(
    log_probs: np.ndarray,
    best: np.ndarray,
    texts: np.ndarray,
    blank: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Texts ``[N, T]`` of the best path with one step changed, and whether there is one ``[N]``."""
    images, classes, steps = log_probs.shape
    if classes < 2:
        return texts, np.zeros(images, bool)
    column = best[:, None, :]
    first = np.take_along_axis(log_probs, column, axis=1)[:, 0]
    without = log_probs.copy()
    np.put_along_axis(without, column, -np.inf, axis=1)
    second = without.argmax(axis=1)
    loss = first - without.max(axis=1)
    paths = np.repeat(best[:, None, :], steps, axis=1)
    diagonal = np.arange(steps)
    paths[:, diagonal, diagonal] = second
    variants = collapse(paths, blank)
    differs = (variants != texts[:, None, :]).any(axis=2)
    choice = np.where(differs, loss, np.inf).argmin(axis=1)
    row = np.arange(images)
    return variants[row, choice], differs[row, choice]
