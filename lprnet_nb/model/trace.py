"""Trace a network for a batch size, export it to ONNX, and prove that all forms agree."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..cache import artifact, digest
from ..datasets.alphabet import Alphabet
from ..datasets.images import PlateImages, preprocess
from ..datasets.interface import Interface
from ..sources import code_digest
from .lprnet import LPRNET
from .network import Network
from .onnx_files import open_session, run_session, with_shape
from .weights import Weights

OPSET = 17  # what the compiler's ONNX front end was tested with


@dataclass(frozen=True)
class TracedModel:
    """A network traced for one batch size.

    Parameters
    ----------
    path
        TorchScript file, ``LPRNet_model_trace.pt``; of a user's network its ONNX.
    onnx
        The same network as ONNX.
    digest
        SHA-256 over weights, batch, batch_mean, the code that decides it and torch's version.
    batch
        Images per call.
    batch_mean
        "batch" or "image", see `network.LPRNet`.
    form
        "published" or "forked", see `network.ForkedLPRNet`.
    weights
        Name of the weights.
    alphabet
        Class list of the output channels.
    network
        What it is a trace of.
    """

    path: Path
    onnx: Path
    digest: str
    batch: int
    batch_mean: str
    form: str
    weights: str
    alphabet: Alphabet
    network: Network = LPRNET

    @property
    def interface(self) -> Interface:
        """What it takes, and how its output is laid out."""
        return self.network.interface

    @property
    def classes(self) -> int:
        """Output classes, the CTC blank included."""
        return self.alphabet.size

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """``(batch, planes, height, width)``."""
        return (self.batch, *self.network.input.shape)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of one call, in the network's own layout: LPRNet's is ``(batch, classes, steps)``."""
        return self.network.output_shape(self.batch, self.classes)


def trace_model(
    weights: Weights, batch: int = 1, batch_mean: str = "image", form: str = "published"
) -> TracedModel:
    """Trace the portable network with `torch.jit.trace` and export it to ONNX.

    Parameters
    ----------
    weights
        State dict with its class list.
    batch
        Images per call, 1 to 256.
    batch_mean
        "batch" (as published) or "image".
    form
        "published" or "forked" (the same function, kinder to INT8).

    Raises
    ------
    ParameterError
        For an impossible batch or batch_mean.
    """
    weights.of.check(batch, batch_mean, form)
    if weights.of.onnx:
        return _fixed(weights, batch)
    inputs = {
        "weights": weights.digest,
        "batch": batch,
        "batch_mean": batch_mean,
        "form": form,
        "code": code_digest("trace"),
        "torch": torch.__version__,
        "opset": OPSET,
    }

    def build(folder: Path) -> None:
        network = weights.network(batch_mean, form)
        example = torch.zeros(batch, *weights.of.input.shape)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation notes on trace; it is what the TPU takes
            torch.jit.trace(network, example).save(str(folder / "LPRNet_model_trace.pt"))
            _export_onnx(network, example, folder / "lprnet.onnx")

    folder = artifact("trace", inputs, build)
    return TracedModel(
        folder / "LPRNet_model_trace.pt",
        folder / "lprnet.onnx",
        digest(inputs),
        batch,
        batch_mean,
        form,
        weights.name,
        weights.alphabet,
        weights.of,
    )


def _fixed(weights: Weights, batch: int) -> TracedModel:
    """A user's network for one batch size: as ONNX, which the compiler takes as it is."""
    network = weights.of
    # Its files, and those that the compiler makes of them, are called by its name.
    inputs = {
        "network": network.digest,
        "name": network.name,
        "batch": batch,
        "code": code_digest("network"),
    }

    def build(folder: Path) -> None:
        model = with_shape(network.onnx, (batch, *network.input.shape))
        (folder / f"{network.name}.onnx").write_bytes(model)

    path = artifact("network", inputs, build) / f"{network.name}.onnx"
    mean, form = network.batch_means[0], network.forms[0]
    return TracedModel(
        path, path, digest(inputs), batch, mean, form, weights.name, weights.alphabet, network
    )


def _export_onnx(network: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        network,
        (example,),
        str(path),
        input_names=["input"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamo=False,
    )


def float_arithmetic() -> str:
    """What the last bits of float results depend on: torch, and the instructions that it uses."""
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"


def float_logits(
    weights: Weights, plates: PlateImages, *, batch: int = 1, batch_mean: str = "image"
) -> np.ndarray:
    """Logits of the float network, the reference of every comparison.

    Parameters
    ----------
    weights
        State dict with its class list.
    plates
        Images to run, in this order.
    batch
        Images per call; with ``batch_mean="batch"`` it changes the result. A last batch that is
        not full is run at its own size; of a user's network it is filled up with the last image.

    Returns
    -------
    np.ndarray
        float32 ``[N, classes, steps]``.
    """
    if weights.of.onnx:
        session = open_session(trace_model(weights, batch).path)
        images = plates.images[
            np.arange(len(plates) + -len(plates) % batch).clip(max=len(plates) - 1)
        ]
        arrays = preprocess(images, weights.of.input)
        parts = [run_session(session, arrays[k : k + batch]) for k in range(0, len(arrays), batch)]
        return np.concatenate([weights.of.interface.arranged(part) for part in parts])[
            : len(plates)
        ]
    network = weights.network(batch_mean)
    inputs = torch.from_numpy(preprocess(plates.images, weights.of.input))
    with torch.inference_mode():
        made = [network(part).numpy() for part in inputs.split(batch)]
    return np.concatenate([weights.of.interface.arranged(part) for part in made])
