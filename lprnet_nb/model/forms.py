"""Forms of the network: one function, laid out in different ways for INT8 to keep its resolution."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..cache import file_digest
from ..errors import ParameterError
from . import network as network_module
from .network import BasicBlock, ForkedLPRNet, LPRNet

FORMS: tuple[str, ...] = (*network_module.FORMS, "convolved")


class ConvolvedLPRNet(ForkedLPRNet):
    """The forked form with batch norms folded and average pools written as convolutions.

    For the BM1684, which has one scale where its successors have two: it gives the output of an
    average pool the scale of the pool's input (at layer 6 six times what the pooled values need),
    and quantizes a convolution's output before the batch norm, and again after it. A convolution
    with 1/25 (1/40) as weights has an output scale of its own; a folded batch norm has no step.

    Inference only.

    Parameters
    ----------
    network
        Where the weights come from.
    """

    def __init__(self, network: LPRNet) -> None:
        super().__init__(network.eval())
        self.eval()
        for name in ("stem", "inner4", "all4", "kept4", "middle", "all11", "kept11", "neck"):
            setattr(self, name, _folded(getattr(self, name)))
        channels = (self.stem[0].out_channels, self.all4[0].out_channels,
                    self.all11[0].out_channels)
        self.context_pools = nn.ModuleList(
            [_pool_as_convolution(pool, count)
             for pool, count in zip(self.context_pools, channels)])


def _folded(layers: nn.Sequential) -> nn.Sequential:
    """The same layers in a row, each batch norm put into the convolution before it."""
    row: list[nn.Module] = []
    for layer in layers:
        parts = layer.block if isinstance(layer, BasicBlock) else layer
        for part in _folded(parts) if isinstance(parts, nn.Sequential) else [parts]:
            if isinstance(part, nn.BatchNorm2d):
                row[-1] = fuse_conv_bn_eval(row[-1].eval(), part)
            else:
                row.append(part)
    return nn.Sequential(*row)


def _pool_as_convolution(pool: nn.AvgPool2d, channels: int) -> nn.Conv2d:
    size = pool.kernel_size if isinstance(pool.kernel_size, tuple) else (pool.kernel_size,) * 2
    convolution = nn.Conv2d(channels, channels, size, pool.stride, groups=channels, bias=False)
    nn.init.constant_(convolution.weight, 1 / (size[0] * size[1]))
    return convolution.requires_grad_(False)


def in_form(network: LPRNet, form: str) -> nn.Module:
    """`network` in one of the `FORMS`, in evaluation mode.

    Raises
    ------
    ParameterError
        When there is no such form.
    """
    if form not in FORMS:
        raise ParameterError(f"form={form!r} is not known. Choose from {', '.join(FORMS)}.")
    made = {"published": lambda n: n, "forked": ForkedLPRNet, "convolved": ConvolvedLPRNet}[form]
    with torch.no_grad():
        return made(network).eval()


def source_digest(form: str) -> str | list[str]:
    """SHA-256 of the source that decides what a form computes."""
    own = file_digest(network_module.__file__)
    return [own, file_digest(Path(__file__))] if form == "convolved" else own
