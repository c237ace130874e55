"""How near one tensor comes to its reference."""

from __future__ import annotations

from typing import Literal, overload

import numpy as np

from ..errors import ParameterError


@overload
def cosine(
    reference: np.ndarray, test: np.ndarray, *, by_image: Literal[False] = False
) -> float: ...
@overload
def cosine(reference: np.ndarray, test: np.ndarray, *, by_image: Literal[True]) -> np.ndarray: ...
def cosine(
    reference: np.ndarray,
    test: np.ndarray,
    *,
    by_image: bool = False,
) -> float | np.ndarray:
    """Cosine similarity of two tensors as flat vectors.

    Parameters
    ----------
    reference, test
        Tensors of one shape; the first axis counts images.
    by_image
        Give float64 ``[N]``, one value per image, instead of one over all.

    Returns
    -------
    float or np.ndarray
        1.0 for two tensors of zeros, 0.0 where only one of them is zero.
    """
    a, b = _flat(reference, test, by_image)
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    both_zero = ~(a.any(axis=1) | b.any(axis=1))
    result = np.where(
        size > 0,
        np.clip((a * b).sum(axis=1) / np.where(size > 0, size, 1), -1, 1),
        both_zero.astype(float),
    )
    return result if by_image else float(result[0])


@overload
def sqnr_db(
    reference: np.ndarray, test: np.ndarray, *, by_image: Literal[False] = False
) -> float: ...
@overload
def sqnr_db(reference: np.ndarray, test: np.ndarray, *, by_image: Literal[True]) -> np.ndarray: ...
def sqnr_db(
    reference: np.ndarray,
    test: np.ndarray,
    *,
    by_image: bool = False,
) -> float | np.ndarray:
    """Signal to quantization noise in dB: ``10 log10(sum(ref^2) / sum((ref - test)^2))``.

    Parameters as for `cosine`.

    Returns
    -------
    float or np.ndarray
        ``inf`` where both are equal.
    """
    a, b = _flat(reference, test, by_image)
    signal, noise = (a * a).sum(axis=1), ((a - b) ** 2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.where(noise > 0, 10 * np.log10(signal / noise), np.inf)
    return result if by_image else float(result[0])


def _flat(
    reference: np.ndarray,
    test: np.ndarray,
    by_image: bool,
) -> tuple[np.ndarray, np.ndarray]:
    reference, test = np.asarray(reference), np.asarray(test)
    if reference.shape != test.shape:
        raise ParameterError(
            f"tensors of shapes {list(reference.shape)} and {list(test.shape)} "
            "cannot be compared; give two of one shape."
        )
    if not reference.size:
        raise ParameterError("empty tensors cannot be compared.")
    rows = len(reference) if by_image else 1
    return (
        reference.astype(np.float64).reshape(rows, -1),
        test.astype(np.float64).reshape(rows, -1),
    )


def same_top1(reference: np.ndarray, logits: np.ndarray) -> float:
    """Share of images and steps ``[N, C, T]`` whose likeliest class is the reference's.

    >>> same_top1(np.eye(4)[None], np.eye(4)[None, :, [0, 1, 2, 0]])
    0.75
    """
    return float((reference.argmax(1) == logits.argmax(1)).mean())
