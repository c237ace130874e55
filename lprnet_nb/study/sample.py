"""LPRNet as the sophon-demo sample compiles it: in its own form, exported to ONNX.

The sample's ``tools/LPRNet.py`` puts 2-D pools over all channels in place of the published 3-D
ones, takes every so-manieth channel by a pool of window 1 over transposed axes, and divides by a
mean without dimensions; ``tools/export_onnx.py`` exports it. It computes the published function to
the bit, yet its layers, and with them its thresholds, are others than the workbook's.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..cache import artifact, code_digest, digest
from ..datasets.fetch import images_folder
from ..datasets.images import PlateImages
from ..files import read_bytes
from ..model.lprnet.layers import LPRNet
from ..model.trace import TracedModel
from ..model.weights import Weights

OPSET = 11  # among those that PyTorch wrote by default when the sample was published


class _Pool(nn.Module):
    """The published 3-D pool in the sample's words."""

    def __init__(self, step: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.window = nn.MaxPool2d(3, stride)
        self.step = nn.MaxPool2d(1, (1, step))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.step(self.window(x).transpose(1, 3)).transpose(1, 3)


class SampleLPRNet(LPRNet):
    """`LPRNet` in the sample's form; the mean runs over the whole batch."""

    def __init__(self, classes: int = 68) -> None:
        super().__init__(classes, "batch")
        self.backbone[3] = nn.MaxPool2d(3, (1, 1))
        self.backbone[7] = _Pool(2, (1, 2))
        self.backbone[14] = _Pool(4, (1, 2))

    def divisor(self, x: torch.Tensor) -> torch.Tensor:
        """Mean square over everything, 0-d."""
        return torch.mean(torch.pow(x, 2), dim=(0, 1, 2, 3))


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
        network = SampleLPRNet(weights.classes)
        network.load_state_dict(weights.state)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation notes on the exporter of that time
            torch.onnx.export(
                network.eval(),
                (torch.zeros(batch, *weights.of.input.shape),),
                str(folder / "lprnet.onnx"),
                input_names=["input"],
                output_names=["logits"],
                opset_version=OPSET,
                dynamo=False,
            )

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
