"""Trace a network for a batch size, export it to ONNX, and prove that all forms agree."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..cache import artifact, code_digest, digest
from ..datasets.alphabet import Alphabet
from ..datasets.images import HEIGHT, WIDTH, PlateImages, preprocess
from ..errors import ParameterError
from .network import STEPS, check_batch_mean
from .weights import Weights

OPSET = 17  # what the compiler's ONNX front end was tested with


@dataclass(frozen=True)
class TracedModel:
    """A network traced for one batch size.

    Parameters
    ----------
    path
        TorchScript file, ``LPRNet_model_trace.pt``.
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
    """

    path: Path
    onnx: Path
    digest: str
    batch: int
    batch_mean: str
    form: str
    weights: str
    alphabet: Alphabet

    @property
    def classes(self) -> int:
        """Output classes, the CTC blank included."""
        return self.alphabet.size

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """``(batch, 3, 24, 94)``."""
        return (self.batch, 3, HEIGHT, WIDTH)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """``(batch, classes, 18)``."""
        return (self.batch, self.classes, STEPS)


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
    check_batch_mean(batch_mean)
    if not 1 <= batch <= 256:
        raise ParameterError(f"batch={batch} is not possible. Choose 1 to 256.")
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
        example = torch.zeros(batch, 3, HEIGHT, WIDTH)
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
        not full is run at its own size.

    Returns
    -------
    np.ndarray
        float32 ``[N, classes, 18]``.
    """
    network = weights.network(batch_mean)
    inputs = torch.from_numpy(preprocess(plates.images))
    with torch.inference_mode():
        return torch.cat([network(part) for part in inputs.split(batch)]).numpy()
