"""How many plates a second a decoder reads on one core."""

from __future__ import annotations

import time

import numpy as np

from ..datasets.alphabet import PUBLISHED, Alphabet
from ..decode import decode


def realistic_logits(images: int, seed: int = 0, alphabet: Alphabet = PUBLISHED) -> np.ndarray:
    """Logits ``[N, C, 18]`` float32 that look like LPRNet's, for when no network is at hand.

    An ordinary plate is written over the steps, each class near-certain, in noise; in one plate of
    ten, a step is given to a wrong class by a small lead.
    """
    rng = np.random.default_rng(seed)
    steps = 18
    logits = rng.normal(-25, 8, (images, alphabet.size, steps)).astype(np.float32)
    text = np.concatenate(
        [
            rng.integers(0, 31, (images, 1)),
            rng.integers(41, 45, (images, 1)),
            rng.integers(31, 41, (images, 5)),
        ],
        axis=1,
    )
    path = np.full((images, steps), alphabet.blank)
    path[:, [1, 3, 6, 8, 11, 13, 16]] = text
    np.put_along_axis(
        logits, path[:, None, :], rng.normal(25, 8, (images, 1, steps)).astype(np.float32), axis=1
    )
    row = np.flatnonzero(rng.random(images) < 0.1)
    step = rng.integers(0, steps, row.size)
    logits[row, rng.integers(31, 65, row.size), step] = logits[row, :, step].max(
        axis=1
    ) + rng.exponential(2, row.size)
    return logits


def bench(
    decoder: str = "plate",
    *,
    logits: np.ndarray | None = None,
    images: int = 1000,
    repeats: int = 20,
) -> dict[str, float | int | str]:
    """Measure a decoder's throughput.

    Parameters
    ----------
    decoder
        As for `decode`.
    logits
        What to decode in one call; by default `images` that `realistic_logits` makes.
    repeats
        Calls to time, after one that is not timed. The fastest counts: the others met other work on
        the machine.

    Returns
    -------
    dict
        ``decoder``, ``images``, ``repeats``, ``plates_per_second`` and ``ms_per_batch`` of the
        fastest call, ``median_ms_per_batch``; all in processor time, which counts every thread's,
        so that more cores do not flatter.
    """
    logits = realistic_logits(images) if logits is None else logits
    decode(logits, decoder=decoder)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        decode(logits, decoder=decoder)
        times.append(time.process_time() - start)
    return {
        "decoder": decoder,
        "images": len(logits),
        "repeats": repeats,
        "plates_per_second": round(len(logits) / min(times)),
        "ms_per_batch": round(1000 * min(times), 2),
        "median_ms_per_batch": round(1000 * float(np.median(times)), 2),
    }
