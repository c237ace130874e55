"""A small ResNet with a CTC head, for Chinese plates in one row: a network that is not LPRNet.

Basic blocks (arXiv 1512.03385, figure 2) over a picture of 24x94; the width is halved twice, to 24
time steps, the height three times, and a last convolution takes the three rows that are left.
"""

from pathlib import Path

import torch
from torch import nn

CLASSES = 68  # as many as the TOML beside this file lists
WEIGHTS = Path(__file__).with_suffix(".pth")


def convolution(
    inner: int, outer: int, size: int | tuple[int, int] = 3, stride: int | tuple[int, int] = 1
) -> nn.Sequential:
    """Convolution and batch norm; one of 3x3 keeps the size, divided by the stride."""
    padding = 1 if size == 3 else 0
    return nn.Sequential(
        nn.Conv2d(inner, outer, size, stride, padding, bias=False), nn.BatchNorm2d(outer)
    )


class Residual(nn.Module):
    """Basic block: two convolutions of 3x3, past which the input goes as well."""

    def __init__(self, inner: int, outer: int, stride: int | tuple[int, int] = 1) -> None:
        super().__init__()
        self.first = convolution(inner, outer, 3, stride)
        self.second = convolution(outer, outer)
        same = inner == outer and stride == 1
        self.past = nn.Identity() if same else convolution(inner, outer, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, inner, H, W] to [N, outer, H / stride, W / stride]."""
        return self.relu(self.second(self.relu(self.first(x))) + self.past(x))


class PlateResNet(nn.Module):
    """[N, 3, 24, 94], BGR, to logits [N, 68, 24]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            convolution(3, 24, stride=2),  # 12x47
            nn.ReLU(inplace=True),
            Residual(24, 24),
            Residual(24, 48, 2),  # 6x24
            Residual(48, 48),
            Residual(48, 96, (2, 1)),  # 3x24
            Residual(96, 96),
            convolution(96, 160, (3, 1)),  # 1x24
            nn.ReLU(inplace=True),
        )
        self.classes = nn.Conv2d(160, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One class a time step; the blank is the last class."""
        return self.classes(self.features(x)).squeeze(2)


def untrained() -> nn.Module:
    """What `lprnet-nb train --network` starts from."""
    return PlateResNet()


def network() -> nn.Module:
    """What every other command calls: the network with its trained weights."""
    module = untrained()
    module.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return module
