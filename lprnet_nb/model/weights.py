"""Weights: read without running code from the file, checked against the network."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..cache import array_digest, digest
from ..datasets import fetch
from ..datasets.alphabet import PUBLISHED, Alphabet
from ..errors import DataError, ParameterError
from .network import FORMS, ForkedLPRNet, LPRNet


@dataclass(frozen=True)
class Weights:
    """A state dict with its class list.

    Parameters
    ----------
    name
        What the weights are called in results.
    state
        Tensors by published layer name, float32.
    alphabet
        Class list of the output channels.
    """

    name: str
    state: dict[str, torch.Tensor]
    alphabet: Alphabet = PUBLISHED

    @property
    def classes(self) -> int:
        """Output classes, the CTC blank included."""
        return self.alphabet.size

    @property
    def digest(self) -> str:
        """SHA-256 over tensors and class list."""
        return digest(
            {
                "tensors": {k: array_digest(v.numpy()) for k, v in self.state.items()},
                "classes": self.alphabet.classes,
                "blank": self.alphabet.blank,
            }
        )

    def network(self, batch_mean: str = "image", form: str = "published") -> nn.Module:
        """The portable network with these weights in one of its `FORMS`, in evaluation mode."""
        if form not in FORMS:
            raise ParameterError(f"form={form!r} is not known. Choose from {', '.join(FORMS)}.")
        network = LPRNet(self.classes, batch_mean)
        network.load_state_dict(self.state)
        return (ForkedLPRNet(network) if form == "forked" else network).eval()


def load_weights(
    path: str | Path, alphabet: Alphabet = PUBLISHED, *, name: str | None = None
) -> Weights:
    """Read a ``.pth`` state dict (`weights_only`: nothing in the file is executed).

    Parameters
    ----------
    path
        The file; fp16 tensors are widened to float32. Subnormal values become zero: weight decay
        left the published weights full of them (up to 86 % of a layer), they change no logit, and
        a CPU computes with them several times slower.
    alphabet
        Class list of the weights.
    name
        Name in results; the file's stem by default.

    Raises
    ------
    DataError
        When the file is missing, is not a state dict, or does not fit LPRNet with this class list.
    """
    path = Path(path)
    try:
        state = load_checked(path)
    except FileNotFoundError as error:
        raise DataError(f"weights {path} do not exist. {fetch.HELP}") from error
    except Exception as error:  # on a damaged file, whatever some part of torch's reader raises
        raise DataError(
            f"weights {path} cannot be read as a torch state dict: "
            f"{_first_line(error)}. Fetch them again."
        ) from error
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise DataError(
            f"weights {path} are not a state dict of tensors. Save "
            "`network.state_dict()` and name that file."
        )
    state = {
        k: _without_subnormals(v.float()) if v.is_floating_point() else v for k, v in state.items()
    }
    outputs = state.get("container.0.weight")
    if outputs is not None and outputs.shape[0] != alphabet.size:
        raise DataError(
            f"weights {path} have {outputs.shape[0]} classes, the class list "
            f"{alphabet.size}. Name the class list they were trained with."
        )
    try:
        LPRNet(alphabet.size).load_state_dict(state)
    except RuntimeError as error:
        raise DataError(
            f"weights {path} do not fit LPRNet: {_first_misfit(error)}. Use the "
            "layer names of sirius-ai/LPRNet_Pytorch."
        ) from error
    return Weights(name or path.stem, state, alphabet)


def load_checked(path: Path, device: str | torch.device = "cpu") -> Any:
    """`torch.load` that runs no code from the file and checks the sums in it, which torch does not.

    Raises
    ------
    Exception
        Whatever some part of torch's reader raises; ``zipfile.BadZipFile`` where a sum is wrong.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as members:
            altered = members.testzip()
        if altered is not None:
            raise zipfile.BadZipFile(f"{altered} in it was altered")
    return torch.load(path, map_location=device, weights_only=True)


def load_published_weights() -> Weights:
    """The published weights, checked against the registry.

    Raises
    ------
    DataError
        When they are missing or altered.
    """
    path = fetch.weights_path()
    fetch.check_file(path, fetch.registry()[fetch.WEIGHTS])
    return load_weights(path, name="published")


def _without_subnormals(tensor: torch.Tensor) -> torch.Tensor:
    return torch.where(
        tensor.abs() < torch.finfo(torch.float32).tiny, torch.zeros((), dtype=tensor.dtype), tensor
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _first_misfit(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1].rstrip(".") if len(lines) > 1 else lines[0].rstrip(".")
