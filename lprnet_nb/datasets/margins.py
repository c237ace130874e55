"""Margins of crops: how much a detector left around a plate, and crops as another would cut them.

A recognizer knows the margins that it was trained with. Where the picture around a plate is there
(CCPD's scenes), the crop is cut out of it anew; where it is gone, the crop's edge pixels stand for
it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from ..errors import ParameterError
from .folder import PlateFiles
from .images import PlateImages

LEAST, MOST = -0.5, 1.0  # parts of a side: at -0.5 nothing is left of it


class Margin(NamedTuple):
    """What is added on each side of a crop (cut off, where negative).

    Attributes
    ----------
    x, y
        Parts of the crop's width and height; more than -0.5, at most 1.
    """

    x: float
    y: float

    def __str__(self) -> str:
        return f"{100 * self.x:g}/{100 * self.y:g}"


NONE = Margin(0.0, 0.0)
# A plate is 3.1 times as wide as high (GA 36-2018), so that a detector's box that is off by some
# pixels is off by a larger part of its height: twice the width's stands for that.
CANDIDATES = (
    NONE,
    *(Margin(x, 2 * x) for x in (-0.05, -0.025, 0.025, 0.05, 0.075, 0.1, 0.15)),
    *(Margin(x, x) for x in (-0.05, 0.05, 0.1)),
)


def parse_margin(text: str) -> Margin | None:
    """Read ``X/Y`` (percent of width and height) or ``none``; None stands for ``auto``.

    Raises
    ------
    ParameterError
        For anything else, or a margin that leaves nothing of the crop.

    Examples
    --------
    >>> parse_margin("7.5/15"), parse_margin("none"), parse_margin("auto")
    (Margin(x=0.075, y=0.15), Margin(x=0.0, y=0.0), None)
    """
    given = text.strip().lower()
    if given in ("auto", "none"):
        return NONE if given == "none" else None
    number = r"\s*([+-]?\d+(?:\.\d*)?)\s*%?\s*"
    found = re.fullmatch(f"{number}/{number}", given)
    margin = Margin(*(float(part) / 100 for part in found.groups())) if found else None
    if margin is None or not all(LEAST < part <= MOST for part in margin):
        raise ParameterError(
            f"margin {text!r} is not possible. Choose auto, none, or X/Y: what to add on each side "
            "in percent of the crop's width and height, such as 7.5/15; more than -50, at most 100."
        )
    return margin


def said_margin(text: str) -> Margin:
    """As `parse_margin`, where none can be chosen: ``auto`` is a ParameterError."""
    margin = parse_margin(text)
    if margin is None:
        raise ParameterError(
            "margin 'auto' is for a folder of crops. Say X/Y, or none; `infer --margin auto` on "
            "some of the pictures says which."
        )
    return margin


def widen(images: np.ndarray, margin: Margin) -> np.ndarray:
    """The same crops as a detector with another margin would have cut them.

    Parameters
    ----------
    images
        uint8 ``[N, H, W, 3]``.
    margin
        Edge pixels are repeated where it adds.

    Returns
    -------
    np.ndarray
        uint8 ``[N, H, W, 3]``; the same array where `margin` is `NONE`.

    Raises
    ------
    ParameterError
        When nothing of the crops would be left, or they would be three times as large.
    """
    if not all(LEAST < part <= MOST for part in margin):
        raise ParameterError(
            f"margin {margin} is not possible. Choose more than -50, at most 100 percent."
        )
    if margin == NONE:
        return images
    height, width = images.shape[1:3]
    scales = [1 / (1 + 2 * part) for part in margin]
    matrix = np.array(
        [
            [scales[0], 0, (width - 1) * (1 - scales[0]) / 2],
            [0, scales[1], (height - 1) * (1 - scales[1]) / 2],
        ]
    )
    found = np.empty_like(images)
    for image, target in zip(images, found):
        cv2.warpAffine(image, matrix, (width, height), target, borderMode=cv2.BORDER_REPLICATE)
    return found


def with_margin(plates: PlateImages | PlateFiles, margin: Margin) -> PlateImages:
    """A set as it would be with another margin; its name says so.

    Files are read here: plates in scenes with the pixels around them, others as `widen` has them.
    """
    if margin == NONE:
        return plates.read()
    if isinstance(plates, PlateFiles) and plates.scenes:
        read = replace(plates, margin=(margin.x, margin.y)).read()
    else:
        read = plates.read()
        read = replace(read, images=widen(read.images, margin))
    return replace(read, name=f"{read.name}, margin {margin}")
