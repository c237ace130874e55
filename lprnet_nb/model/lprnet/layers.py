"""LPRNet (arXiv 1806.10447) as published by sirius-ai/LPRNet_Pytorch, and its portable form.

The published network does two things that compilers for the TPU do not take: its max-pools are 3-D
and stride over channels, and the global context is divided by a 0-d mean over the whole batch.
`LPRNet` is the same function without them; `PublishedLPRNet` is kept to prove it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import nn

from ...errors import ParameterError

BatchMean = Literal["batch", "image"]
Form = Literal["published", "forked"]
BATCH_MEANS: tuple[BatchMean, ...] = get_args(BatchMean)
FORMS: tuple[Form, ...] = get_args(Form)
KEPT = (2, 6, 13, 22)  # backbone layers whose maps form the global context


def check_batch_mean(value: str) -> str:
    """Return `value` when it is "batch" or "image", else raise a ParameterError."""
    if value not in BATCH_MEANS:
        raise ParameterError(
            f"batch_mean={value!r} is not known. Choose 'batch' (as published: "
            "the mean runs over all images of a batch) or 'image'."
        )
    return value


class BasicBlock(nn.Module):
    """Small basic block: 1x1, 3x1, 1x3, 1x1 convolutions through a quarter of the channels."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        inner = channels_out // 4
        self.block = nn.Sequential(
            nn.Conv2d(channels_in, inner, 1),
            nn.ReLU(),
            nn.Conv2d(inner, inner, (3, 1), padding=(1, 0)),
            nn.ReLU(),
            nn.Conv2d(inner, inner, (1, 3), padding=(0, 1)),
            nn.ReLU(),
            nn.Conv2d(inner, channels_out, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[N, channels_in, H, W]`` to ``[N, channels_out, H, W]``."""
        return self.block(x)


class ChannelStridedMaxPool(nn.Module):
    """2-D max-pool, then every `step`-th channel: equal to the published 3-D pool, bit for bit."""

    def __init__(self, step: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.step = step
        self.pool = nn.MaxPool2d(3, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[N, C, H, W]`` to ``[N, C / step, H', W']``."""
        # Selecting channels first is the same result for less work.
        return self.pool(x[:, :: self.step] if self.step > 1 else x)


def _backbone(classes: int, pools: tuple[nn.Module, nn.Module, nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        pools[0],
        BasicBlock(64, 128),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        pools[1],
        BasicBlock(64, 256),
        nn.BatchNorm2d(256),
        nn.ReLU(),
        BasicBlock(256, 256),
        nn.BatchNorm2d(256),
        nn.ReLU(),
        pools[2],
        nn.Dropout(0.5),
        nn.Conv2d(64, 256, (1, 4)),
        nn.BatchNorm2d(256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(256, classes, (13, 1)),
        nn.BatchNorm2d(classes),
        nn.ReLU(),
    )


class LPRNet(nn.Module):
    """LPRNet in the form that compilers take.

    Parameters
    ----------
    classes
        Output classes, the CTC blank included.
    batch_mean
        ``"batch"``: the global context is divided by its mean square over the whole batch, as
        published, so a plate can read differently in another batch. ``"image"``: per image, which
        gives at any batch what the published network gives at batch 1.

    Notes
    -----
    State-dict names are the published ones.
    """

    def __init__(self, classes: int = 68, batch_mean: BatchMean = "image") -> None:
        super().__init__()
        self.batch_mean = check_batch_mean(batch_mean)
        self.backbone = _backbone(
            classes,
            (
                ChannelStridedMaxPool(1, (1, 1)),
                ChannelStridedMaxPool(2, (1, 2)),
                ChannelStridedMaxPool(4, (1, 2)),
            ),
        )
        self.container = nn.Sequential(nn.Conv2d(448 + classes, classes, 1))
        self.context_pools = nn.ModuleList(
            [nn.AvgPool2d(5, 5), nn.AvgPool2d(5, 5), nn.AvgPool2d((4, 10), (4, 2))]
        )

    def divisor(self, x: torch.Tensor) -> torch.Tensor:
        """Mean square of a context map; dimensions stay, since a 0-d mean cannot be compiled."""
        dims = (1, 2, 3) if self.batch_mean == "image" else (0, 1, 2, 3)
        return torch.mean(x * x, dim=dims, keepdim=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images ``[N, 3, 24, 94]`` to logits ``[N, classes, 18]``."""
        maps = []
        for index, layer in enumerate(self.backbone):
            x = layer(x)
            if index in KEPT:
                maps.append(x)
        context = [pool(m) for pool, m in zip(self.context_pools, maps[:3])] + [maps[3]]
        return self.container(_divided(context, self.divisor)).mean(dim=2)


def _divided(
    maps: list[torch.Tensor], divisor: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    return torch.cat([m / divisor(m) for m in maps], 1)


class PublishedLPRNet(LPRNet):
    """The network as published: 3-D max-pools and a 0-d mean over the batch.

    Kept as the reference of the porting traps; its input must be contiguous.
    """

    def __init__(self, classes: int = 68) -> None:
        super().__init__(classes, "batch")
        for index, stride in ((3, (1, 1, 1)), (7, (2, 1, 2)), (14, (4, 1, 2))):
            self.backbone[index] = nn.MaxPool3d((1, 3, 3), stride)

    def divisor(self, x: torch.Tensor) -> torch.Tensor:
        """Mean square over everything, 0-d."""
        return torch.mean(torch.pow(x, 2))


class ForkedLPRNet(nn.Module):
    """The same function as `LPRNet`, laid out so that INT8 keeps its resolution.

    The max-pools at 7 and 14 keep every 2nd (4th) channel of a map of which the global context
    takes all. A tensor of the TPU has one scale, and at layer 13 the kept channels stay below 8
    while others reach 290: quantized together, the kept ones have some ten levels left. Here they
    come from a convolution of their own, and so have a scale of their own. The channels that are
    computed twice cost 5 % more multiply-accumulates; the slices they replace cost more time.

    Inference only: batch norms are frozen.

    Parameters
    ----------
    network
        Where the weights come from.
    """

    def __init__(self, network: LPRNet) -> None:
        super().__init__()
        self.batch_mean = network.batch_mean
        self.divisor = network.divisor
        layers = network.backbone
        block4, norm4, pool7 = layers[4], layers[5], layers[7]
        block11, norm11, pool14 = layers[11], layers[12], layers[14]
        assert isinstance(block4, BasicBlock) and isinstance(block11, BasicBlock)
        assert isinstance(norm4, nn.BatchNorm2d) and isinstance(norm11, nn.BatchNorm2d)
        assert isinstance(pool7, ChannelStridedMaxPool)
        assert isinstance(pool14, ChannelStridedMaxPool)
        self.stem, self.pool3 = layers[:3], layers[3]
        self.inner4, self.all4 = block4.block[:-1], _tail(block4, norm4, 1)
        self.kept4, self.pool7 = _tail(block4, norm4, pool7.step), pool7.pool
        self.middle = nn.Sequential(*list(layers)[8:11], block11.block[:-1])
        self.all11 = _tail(block11, norm11, 1)
        self.kept11, self.pool14 = _tail(block11, norm11, pool14.step), pool14.pool
        self.neck = nn.Sequential(*list(layers)[16:19], *list(layers)[20:])  # dropouts left out
        self.context_pools, self.container = network.context_pools, network.container

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images ``[N, 3, 24, 94]`` to logits ``[N, classes, 18]``."""
        first = self.stem(x)
        inner = self.inner4(self.pool3(first))
        second, x = self.all4(inner), self.kept4(inner)
        inner = self.middle(self.pool7(x))
        third, x = self.all11(inner), self.kept11(inner)
        context = [pool(m) for pool, m in zip(self.context_pools, (first, second, third))]
        return self.container(_divided([*context, self.neck(self.pool14(x))], self.divisor)).mean(
            dim=2
        )


def _tail(block: BasicBlock, norm: nn.BatchNorm2d, step: int) -> nn.Sequential:
    """A basic block's last convolution, batch norm and ReLU, for every `step`-th channel."""
    conv = block.block[-1]
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    channels = torch.arange(0, conv.out_channels, step)
    part = nn.Conv2d(conv.in_channels, len(channels), 1)
    part.weight.data.copy_(conv.weight.data[channels])
    assert part.bias is not None
    part.bias.data.copy_(conv.bias.data[channels])
    part_norm = nn.BatchNorm2d(len(channels), norm.eps)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(part_norm, name).data.copy_(getattr(norm, name).data[channels])
    return nn.Sequential(part, part_norm, nn.ReLU())


def initialize(network: nn.Module) -> None:
    """Kaiming initialization of all convolutions (fan out), biases 0.01, as for training."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.constant_(module.bias, 0.01)
