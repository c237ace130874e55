"""LPRNet as the sophon-demo sample compiles it: in its own form, exported to ONNX.

The sample's ``tools/LPRNet.py`` puts 2-D pools over all channels in place of the published 3-D
ones, takes every so-manieth channel by a pool of window 1 over transposed axes, and divides by a
mean without dimensions; ``tools/export_onnx.py`` exports it. It computes the published function to
the bit, yet its layers, and with them its thresholds, are others than the workbook's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ..onnx_files import export_onnx
from .layers import LPRNet

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


def export_sample(
    state: Mapping[str, torch.Tensor], classes: int, shape: tuple[int, ...], path: Path
) -> None:
    """Write the sample's ONNX.

    Parameters
    ----------
    state, classes
        Weights of LPRNet, and how many classes they know.
    shape
        Of its input, ``[N, C, H, W]``.
    path
        The file to write.
    """
    network = SampleLPRNet(classes)
    network.load_state_dict(state)
    export_onnx(network.eval(), shape, path, OPSET)
