"""Networks with one fault each, planted where it is known, compiled by the vendor's compiler."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lprnet_nb.model.onnx_files import export_onnx
from lprnet_nb.proof.foreign import (
    OPSET,
    compiled_network,
    drawn_thresholds,
    random_images,
    translated,
)
from lprnet_nb.proof.networks import EXAMPLES, example

CHIP = "BM1684X"
ROOM = 1.3  # thresholds lie so far above what one image reaches
WIDER = 40.0


@dataclass(frozen=True)
class Fault:
    """A network, what is done to it and to its thresholds, where, and what is to be found."""

    network: str
    plant: Callable[[nn.Module], None]
    place: str  # what the name of the layer starts with
    reason: str
    cure: str
    cut: float = 1.0  # factor of the threshold at the place


def _wider_channel(network: nn.Module) -> None:
    """A channel of a block's first convolution, taken back where the second one reads it."""
    block = network[3]
    norm, reader = block.one[1], block.two[0]
    with torch.no_grad():
        norm.weight[5] *= WIDER
        norm.bias[5] *= WIDER
        reader.weight[:, 5] /= WIDER


def _wider_part(network: nn.Module) -> None:
    """One part of a concatenation, taken back where the last convolution reads it."""
    norm, reader = network.deep[4][1], network.out
    with torch.no_grad():
        norm.weight *= WIDER
        norm.bias *= WIDER
        reader.weight[:, :16] /= WIDER


FAULTS = {
    "a scaled channel": Fault(
        "resnet", _wider_channel, "/3/one", "few channels set the scale", "equalize"
    ),
    "a saturating threshold": Fault(
        "crnn", lambda network: None, "/stack/stack.4", "saturation", "threshold", cut=0.15
    ),
    "a concat of unequal parts": Fault(
        "yolo-leaky", _wider_part, "/stem/", "joined with wider ones", "split"
    ),
}


@dataclass(frozen=True)
class Planted:
    quantized: Path
    reference: Path
    images: np.ndarray


def planted(fault: Fault, threshold: float | None = None) -> Planted:
    """A network with a fault, in INT8 and in F32; its threshold there mended if one is given."""
    network, shape = example(fault.network), EXAMPLES[fault.network].shape
    fault.plant(network)
    with tempfile.TemporaryDirectory() as folder:
        onnx = export_onnx(network, shape, Path(folder) / "net.onnx", OPSET)
        top = translated(onnx, random_images(shape, 1, seed=0))
    thresholds = {
        name: (
            t if not name.startswith(fault.place) else threshold or t * fault.cut,
            low,
            high,
        )
        for name, (t, low, high) in drawn_thresholds(top, ROOM, ROOM).items()
    }
    return Planted(
        compiled_network(top, CHIP, "int8", thresholds) / "graph",
        compiled_network(top, CHIP, "fp32") / "graph",
        np.random.default_rng(5).standard_normal((6, *shape[1:])).astype(np.float32),
    )
