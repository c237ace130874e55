"""LPRNet, the network of this workbook's story, and all that is special about it."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from ...datasets.interface import PUBLISHED_INTERFACE
from ..network import Network
from .layers import BATCH_MEANS, FORMS, BatchMean, ForkedLPRNet, LPRNet
from .roles import roles_of_layers


def build(
    classes: int, batch_mean: str, form: str, state: dict[str, torch.Tensor] | None
) -> nn.Module:
    """The portable network in one of its `FORMS`, in evaluation mode; `network.Network.build`."""
    network = LPRNet(classes, cast(BatchMean, batch_mean))  # which checks it
    if state is not None:
        network.load_state_dict(state)
    return (ForkedLPRNet(network) if form == "forked" else network).eval()


LPRNET = Network(
    "lprnet",
    PUBLISHED_INTERFACE,
    build,
    forms=FORMS,
    batch_means=BATCH_MEANS[::-1],
    find_roles=roles_of_layers,
)
