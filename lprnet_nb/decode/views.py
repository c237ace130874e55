"""Reading a plate from several views of it: better readings for more inferences.

LPRNet's reading depends on how the crop's margins fall on its 18 steps. Stretching the image a
little to the sides shifts them, so the errors of the views differ while the right text is likely in
all of them. Three views take three inferences a plate.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ..datasets.alphabet import PUBLISHED, Alphabet
from ..errors import ParameterError
from .ctc import PAD, check_logits, log_softmax, text_log_prob, to_strings
from .grammar import compile_grammar, load_grammar
from .readings import Readings
from .search import search

WIDTHS = (1.0, 0.96, 1.04)


def stretched(images: np.ndarray, widths: tuple[float, ...] = WIDTHS) -> np.ndarray:
    """Views of plates, stretched to the sides about their middle.

    Parameters
    ----------
    images
        uint8 ``[N, H, W, 3]``.
    widths
        Factors; 1 leaves the images as they are. Where a narrower image leaves a margin, its edge
        is repeated.

    Returns
    -------
    np.ndarray
        uint8 ``[V, N, H, W, 3]``.
    """
    if any(not 0.5 <= width <= 2 for width in widths) or not widths:
        raise ParameterError(f"widths {widths}: give at least one factor, each from 0.5 to 2.")
    views = np.empty((len(widths), *images.shape), np.uint8)
    size = images.shape[2], images.shape[1]
    for view, width in zip(views, widths):
        if width == 1:
            view[...] = images
            continue
        matrix = np.array([[width, 0, (1 - width) * size[0] / 2], [0, 1, 0]], np.float32)
        for number, image in enumerate(images):
            view[number] = cv2.warpAffine(
                image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
    return views


def decode_views(
    logits: np.ndarray,
    alphabet: Alphabet = PUBLISHED,
    decoder: str | Path = "plate",
    *,
    temperature: float = 1.0,
) -> Readings:
    """Read the text of a grammar that is the most probable on average over views.

    Each view gives every valid text a probability, that of the grammar being 1; they are averaged,
    as if the plate had been seen in one of the views without saying which.

    Parameters
    ----------
    logits
        ``[V, N, C, T]``: views, images, classes, steps.
    alphabet
        Class list with the blank.
    decoder
        A packaged grammar's name or a file.
    temperature
        Logits are divided by it.

    Returns
    -------
    Readings
        `log_prob` is the logarithm of the mean over the views of the text's CTC probability;
        `exact` tells where no text outside the candidates, which are the two best of each view,
        can have more confidence.
    """
    logits = np.asarray(logits)
    if logits.ndim != 4 or not len(logits):
        raise ParameterError(
            f"logits of shape {list(logits.shape)}: expected [views, images, classes, time steps]."
        )
    loaded = load_grammar(decoder)
    automaton = compile_grammar(loaded, alphabet)
    log_probs = [log_softmax(check_logits(view, alphabet), temperature) for view in logits]
    found = [search(view, automaton, alphabet.blank) for view in log_probs]
    texts = np.concatenate([view.texts for view in found], axis=1)
    candidates = texts.shape[1]
    log_prob = np.stack(
        [
            [text_log_prob(view, texts[:, k], alphabet.blank) for k in range(candidates)]
            for view in log_probs
        ]
    )  # [V, k, N]
    log_prob[:, (texts[:, :, 0] == PAD).T] = -np.inf
    log_total = np.stack([view.log_total for view in found])
    with np.errstate(divide="ignore"):
        probability = np.exp(log_prob - np.where(np.isfinite(log_total), log_total, 0)[:, None])
        confidence = np.minimum(probability.mean(axis=0), 1)  # [k, N]
        # Not a plain mean of exponentials: hopeless images would underflow.
        top = np.maximum(log_prob.max(axis=0), -1e300)
        mean = top + np.log(np.exp(log_prob - top).mean(axis=0))
    # Candidates that several views share are one.
    copies = (texts[:, :, None] == texts[:, None]).all(axis=3)
    copies &= np.tri(candidates, k=-1, dtype=bool)
    rank = np.where(copies.any(axis=2).T | np.isneginf(mean), -np.inf, confidence)
    order = np.argsort(-rank, axis=0, kind="stable")[:2]
    image = np.arange(texts.shape[0])
    first, second = order
    some, more = np.isfinite(rank[first, image]), np.isfinite(rank[second, image])
    log_first, log_second = mean[first, image], mean[second, image]
    unseen = np.mean(
        [
            np.exp(
                np.where(
                    np.isfinite(view.score[:, 1]),
                    view.score[:, 1] - np.where(np.isfinite(view.log_total), view.log_total, 0),
                    -np.inf,
                )
            )
            for view in found
        ],
        axis=0,
    )
    exact = (confidence[first, image] >= unseen) & np.all([view.exact for view in found], axis=0)
    return Readings(
        texts=to_strings(np.where(some[:, None], texts[image, first], PAD), alphabet),
        log_prob=np.where(some, log_first, -np.inf),
        confidence=np.where(some, confidence[first, image], 0.0),
        runner_up=to_strings(np.where(more[:, None], texts[image, second], PAD), alphabet),
        margin=np.where(more, log_first - np.where(more, log_second, 0), np.inf),
        decoder=f"{loaded.name}, {len(logits)} views",
        exact=exact & some,
    )
