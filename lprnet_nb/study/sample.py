"""The sophon-demo sample's recipe: its ONNX in place of a trace, and its orders of images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from ..cache import artifact, digest
from ..datasets.fetch import images_folder
from ..datasets.images import PlateImages
from ..files import read_bytes
from ..model.lprnet.sample import export_sample
from ..model.trace import TracedModel
from ..model.weights import Weights
from ..sources import code_digest


def sample_onnx(weights: Weights, batch: int) -> TracedModel:
    """The sample's ONNX for a batch size; the compiler takes it in place of a trace.

    Parameters
    ----------
    weights
        Of LPRNet.
    batch
        Images per call.
    """
    inputs = {
        "weights": weights.digest,
        "batch": batch,
        "code": code_digest("sample-onnx"),
        "torch": torch.__version__,
    }

    def build(folder: Path) -> None:
        shape = (batch, *weights.of.input.shape)
        export_sample(weights.state, weights.classes, shape, folder / "lprnet.onnx")

    path = artifact("sample-onnx", inputs, build) / "lprnet.onnx"
    key = digest({"sample-onnx": inputs})
    return TracedModel(
        path, path, key, batch, "batch", "published", weights.name, weights.alphabet, weights.of
    )


def by_md5(plates: PlateImages) -> np.ndarray:
    """Order in which the sample's calibration reads the published images, named by their MD5.

    Returns
    -------
    np.ndarray
        int64 indices.
    """
    folder = images_folder()
    sums = [hashlib.md5(read_bytes(folder / name)).hexdigest() for name in plates.names]
    return np.argsort(sums, kind="stable")


def by_number(plates: PlateImages) -> np.ndarray:
    """Order in which ``lprnet_opencv.py`` reads images: by name, the province left out.

    Batches of four, coupled by the mean over the batch, depend on it.

    Returns
    -------
    np.ndarray
        int64 indices.
    """
    return np.array(sorted(range(len(plates)), key=lambda index: plates.names[index][1:-4]))
