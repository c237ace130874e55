"""Prefix beam search without a grammar, over all images at once.

At each step every kept text either stays (its last character again, or a blank) or grows by one
character; paths that collapse to the same text are added up (Graves 2012, "Supervised Sequence
Labelling with Recurrent Neural Networks", section 7.5; Hannun et al. 2014, arXiv 1408.2873).
"""

from __future__ import annotations

import numpy as np

from ..datasets.alphabet import Alphabet
from ..errors import ParameterError
from .ctc import PAD, check_logits, log_softmax, text_log_prob, to_strings
from .readings import Readings

_HASH = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying by it, modulo 2**64, loses nothing


def beam(
    logits: np.ndarray,
    alphabet: Alphabet,
    *,
    width: int = 8,
    temperature: float = 1.0,
) -> Readings:
    """Read the most probable of the texts that a prefix beam search keeps.

    Parameters
    ----------
    logits
        ``[N, C, T]``.
    alphabet
        Class list with the blank.
    width
        Texts kept per image and step, at least 2.
    temperature
        Logits are divided by it.
    """
    if width < 2:
        raise ParameterError(f"beam width {width}: give at least 2, a reading and its runner-up.")
    log_probs = log_softmax(check_logits(logits, alphabet), temperature)
    texts, score = _search(np.exp(log_probs.astype(np.float64)), alphabet.blank, width)
    # The beam's own sums lack the paths it dropped: score the finalists over all of theirs.
    order = np.argsort(-score, axis=1, kind="stable")[:, :2]
    rows = np.arange(len(texts))[:, None]
    texts, alive = texts[rows, order], score[rows, order] > 0
    exact = np.stack(
        [text_log_prob(log_probs, texts[:, k], alphabet.blank) for k in range(2)], axis=1
    )
    exact[~alive] = -np.inf
    order = np.argsort(-exact, axis=1, kind="stable")
    texts, exact = texts[rows, order], exact[rows, order]
    has_second = np.isfinite(exact[:, 1])
    margin = np.where(has_second, exact[:, 0] - np.where(has_second, exact[:, 1], 0), np.inf)
    return Readings(
        to_strings(texts[:, 0], alphabet),
        exact[:, 0],
        np.exp(exact[:, 0]),
        to_strings(np.where(has_second[:, None], texts[:, 1], PAD), alphabet),
        margin,
        "beam",
    )


def _search(probs: np.ndarray, blank: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts ``[N, width, T]`` of the last beam and their scores ``[N, width]``, 0 for none."""
    images, classes, steps = probs.shape
    rows = np.arange(images)[:, None]
    texts = np.full((images, width, steps), PAD)
    length = np.zeros((images, width), int)
    last = np.full((images, width), PAD)
    # Texts are told apart by a hash; a text's parent is the text less its last character.
    number = np.broadcast_to(np.arange(width, dtype=np.uint64), (images, width))
    parent = np.zeros((images, width), np.uint64)
    in_character = np.zeros((images, width))
    in_blank = np.zeros((images, width))
    in_blank[:, 0] = 1.0
    for t in range(steps):
        p = probs[:, :, t]
        both = in_character + in_blank
        own = np.where(last >= 0, p[rows, np.maximum(last, 0)], 0.0)
        stay_character = in_character * own
        stay_blank = both * p[:, blank, None]
        grow = both[:, :, None] * p[:, None, :]
        grow[:, :, blank] = 0.0
        image, slot = np.nonzero(last >= 0)
        grow[image, slot, last[image, slot]] = (in_blank * own)[image, slot]
        # A kept text that is another kept text plus a character takes that growth over.
        child = (parent[:, :, None] == number[:, None, :]) & (last[:, :, None] >= 0)
        image, slot, source = np.nonzero(child)
        character = last[image, slot]
        np.add.at(stay_character, (image, slot), grow[image, source, character])
        grow[image, source, character] = 0.0

        stay = stay_character + stay_blank
        score = np.concatenate([stay, grow.reshape(images, -1)], axis=1)
        chosen = np.argpartition(-score, width - 1, axis=1)[:, :width]
        grown = chosen >= width
        source, character = np.divmod(chosen - width, classes)
        source = np.where(grown, source, chosen)
        texts, length = texts[rows, source], length[rows, source]
        image, slot = np.nonzero(grown)
        texts[image, slot, length[image, slot]] = character[image, slot]
        length += grown
        last = np.where(grown, character, last[rows, source])
        # Fewer texts than places: what fills up must not pass for a text that is kept already.
        last[score[rows, chosen] == 0] = PAD
        parent = np.where(grown, number[rows, source], parent[rows, source])
        number = np.where(
            grown,
            number[rows, source] * _HASH + (character + 1).astype(np.uint64),
            number[rows, source],
        )
        in_character = np.where(grown, score[rows, chosen], stay_character[rows, source])
        in_blank = np.where(grown, 0.0, stay_blank[rows, source])
        scale = score[rows, chosen].max(axis=1, keepdims=True)
        in_character /= scale
        in_blank /= scale
    return texts, in_character + in_blank
