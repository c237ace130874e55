"""What training takes of LPRNet: fresh layers, and where its time steps look."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from .layers import LPRNet, initialize

# Centre, in input columns, of what time step t sees: three unpadded layers of stride 1, two
# poolings of stride 2 and a convolution of width 4 make 4 t + 11. Their number is written down, as
# a dry run that counts them leaves torch's folder in the temporary one.
COLUMNS = 4 * np.arange(18) + 11


def fresh(classes: int) -> LPRNet:
    """LPRNet with fresh weights, which torch's seed decides; its mean runs over the image."""
    network = LPRNet(classes, "image")
    initialize(network)
    with torch.no_grad():  # logits near zero: the first steps else unlearn a random opinion
        last = network.container[0]
        assert isinstance(last, nn.Conv2d)
        last.weight.mul_(0.1)
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    return network
