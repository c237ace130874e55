"""A kit's plates and models, as a report would have them."""

from __future__ import annotations

import numpy as np

from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.places import repository
from lprnet_nb.toolchain.bmodel import BModel

RUN = repository() / "samples" / "kit" / "run.py"


def plates_of(kit, change=0):
    images = np.load(kit / "plates.npy")
    images[0] += np.uint8(change)
    return PlateImages("noise", images, tuple(f"{index}.png" for index in range(len(images))))


def model_of(kit, name):
    return BModel.load(kit / "models" / f"{name}.bmodel")
