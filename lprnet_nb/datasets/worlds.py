"""Worlds: photographs as other cameras and detectors would have them, and generated plates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import cv2
import numpy as np

from .generate import Severity, generate_plates
from .images import PlateImages
from .margins import Margin, with_margin

SEED = 43  # of no plate that the packaged weights were trained on


def blurred(plates: PlateImages) -> PlateImages:
    """A set out of focus: a Gaussian of one pixel."""
    images = np.stack([cv2.GaussianBlur(image, (0, 0), 1.0) for image in plates.images])
    return replace(plates, name=f"{plates.name}, blurred by 1 pixel", images=images)


def dark(plates: PlateImages) -> PlateImages:
    """A set at dusk: 30 % of the light."""
    images = (plates.images * 0.3).astype(np.uint8)
    return replace(plates, name=f"{plates.name}, 30 % of the light", images=images)


def _at(x: float) -> Callable[[PlateImages], PlateImages]:
    return partial(with_margin, margin=Margin(x, 2 * x))  # see `margins.CANDIDATES`


OF_PHOTOGRAPHS: dict[str, Callable[[PlateImages], PlateImages]] = {
    "photographs": lambda plates: plates,
    **{f"margin{100 * x:+g}": _at(x) for x in (-0.05, -0.025, 0.05, 0.1, 0.2)},
    "blurred": blurred,
    "dark": dark,
}
GENERATED: dict[str, Severity] = {
    "default": Severity(),
    "severity 0.5": Severity(0.5, 0.5),
    "detector's margin -5 %": Severity(margin=-0.05),
    "detector's margin 10 %": Severity(margin=0.1),
    "soft 3": Severity(soft=3.0),
    "wild 1": Severity(wild=1.0),
}


def generated(count: int, name: str = "default", seed: int = SEED) -> PlateImages:
    """Generated plates of a world in `GENERATED`, all forms that LPRNet reads."""
    drawn = generate_plates(count, seed, severity=GENERATED[name])
    return replace(drawn, name=f"generated, {name}")
