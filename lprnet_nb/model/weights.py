"""Weights: read without running code from the file, checked against the network."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, overload

import torch
from torch import nn

from ..cache import array_digest, digest
from ..datasets import fetch
from ..datasets.alphabet import PUBLISHED, Alphabet
from ..errors import DataError, ParameterError
from .lprnet import LPRNET, LPRNet
from .lprnet.names import FIRST, PER_CLASS
from .network import Network
from .weight_files import ANCHOR, read_tensors

# `Weights.digest` of the published weights: what is called published is so by this, not by a name.
PUBLISHED_DIGEST = "01fe2bc002986d5a89908899bc6659d0875775c49ac9dafb97ecac7a18c5d7a4"
RESERVED = ("auto", "published", "generated")

_COUNTERS = "num_batches_tracked"  # older torch has none; they count for training alone
_NAMELESS = 0xE000  # Unicode's private use: characters of classes whose list is not known


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
    of
        The network that they are of.
    """

    name: str
    state: dict[str, torch.Tensor]
    alphabet: Alphabet = PUBLISHED
    of: Network = LPRNET

    @property
    def classes(self) -> int:
        """Output classes, the CTC blank included."""
        return self.alphabet.size

    @property
    def digest(self) -> str:
        """SHA-256 over tensors and class list, and over a user's network, which holds them."""
        of = {"network": self.of.digest} if self.of.digest else {}
        return digest(
            {
                **of,
                "tensors": {k: array_digest(v.numpy()) for k, v in self.state.items()},
                "classes": self.alphabet.listed,
                "blank": self.alphabet.blank,
            }
        )

    @overload
    def network(
        self, batch_mean: str = "image", form: Literal["published"] = "published"
    ) -> LPRNet: ...
    @overload
    def network(self, batch_mean: str = "image", form: str = "published") -> nn.Module: ...
    def network(self, batch_mean: str = "image", form: str = "published") -> nn.Module:
        """The network with these weights in one of its forms, in evaluation mode."""
        self.of.check(1, batch_mean, form)
        if self.of.build is None:
            raise ParameterError(
                f"{self.of.name} is a network of a file: it is not there as layers of torch."
            )
        return self.of.build(self.classes, batch_mean, form, self.state)


def load_weights(
    path: str | Path, alphabet: Alphabet | None = PUBLISHED, *, name: str | None = None
) -> Weights:
    """Read weights as people save them, see `weight_files`; nothing in the file is executed.

    Parameters
    ----------
    path
        The file. Subnormal values become zero: weight decay left the published weights full of
        them (up to 86 % of a layer), they change no logit, and a CPU computes with them several
        times slower.
    alphabet
        Class list of the weights. None where it is not known: the published one where the number
        of classes is its, else characters that no list has.
    name
        Name in results. By default "published" for the published weights, whatever the file is
        called; else the file's stem.

    Raises
    ------
    DataError
        When the file is missing, holds no state dict, or does not fit LPRNet with this class list.
    """
    path = Path(path)
    state = {
        layer: _without_subnormals(tensor) if tensor.is_floating_point() else tensor
        for layer, tensor in read_tensors(path).items()
    }
    misfit = _misfit(state)
    if misfit:
        raise DataError(
            f"weights {path} do not fit LPRNet: {misfit}. Give weights of "
            "sirius-ai/LPRNet_Pytorch's network, or of a fork that kept its layers."
        )
    classes = len(state[ANCHOR])
    if alphabet is not None and classes != alphabet.size:
        raise DataError(
            f"weights {path} have {classes} classes, the class list {alphabet.size}. "
            "Name the class list they were trained with (--classes FILE)."
        )
    state = {
        layer: state.get(layer, torch.zeros(())).to(kind.dtype)
        for layer, kind in _layers(classes).items()
    }
    broken = [layer for layer, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise DataError(
            f"weights {path} hold infinite values or NaN, the first in {broken[0]}: "
            "training diverged, or they are beyond the range of fp16. Take an earlier "
            "checkpoint, or save them as float32."
        )
    return _named(Weights(name or path.stem, state, alphabet or _alphabet_of(classes)), path, name)


def _alphabet_of(classes: int) -> Alphabet:
    if classes == PUBLISHED.size:
        return PUBLISHED
    return nameless(classes)


def nameless(classes: int) -> Alphabet:
    """A class list for so many classes of which nothing is known; the last is the blank."""
    return Alphabet(tuple(chr(_NAMELESS + place) for place in range(classes)), classes - 1)


def _named(weights: Weights, path: Path, name: str | None) -> Weights:
    if name is None and weights.digest == PUBLISHED_DIGEST:
        return replace(weights, name="published")
    if name is None and weights.name in RESERVED:  # a file's name makes no weights the published
        return replace(weights, name=path.name if path.suffix else f"{path.name} (a file)")
    return weights


def _layers(classes: int) -> dict[str, torch.Tensor]:
    """Shapes and kinds of LPRNet's tensors by name, without values."""
    with torch.device("meta"):
        return LPRNet(classes).state_dict()


def _misfit(state: dict[str, torch.Tensor]) -> str:
    """What of a state dict is not LPRNet's and why that may be; "" where all is."""
    anchor = state.get(ANCHOR, torch.empty(PUBLISHED.size))
    layers = _layers(anchor.shape[0] if anchor.ndim else PUBLISHED.size)
    extra = [_shown(name) for name in state if name not in layers]
    missing = [name for name in layers if name not in state and not name.endswith(_COUNTERS)]
    if not state.keys() & layers.keys():
        return f"none of its {len(state)} tensors ({extra[0]}, …) is a layer of it: another network"
    if extra:
        return f"{extra[0]} is not among its layers{_more(extra)}: another fork's layer"
    if missing:
        return f"{missing[0]} is missing{_more(missing)}: another fork's layers, or only a part"
    for name, layer in layers.items():
        found = state.get(name, layer)
        if layer.is_floating_point() and not found.is_floating_point():
            return f"{name} is {str(found.dtype).removeprefix('torch.')}: quantized, not float"
        if found.shape != layer.shape:
            return (
                f"{name} is {_size(found)}, expected {_size(layer)}: {_cause(name, found, layer)}"
            )
    return ""


def _cause(name: str, found: torch.Tensor, layer: torch.Tensor) -> str:
    if found.ndim != layer.ndim or found.shape[2:] != layer.shape[2:]:
        return "another fork's layer, with another kernel"
    if name == FIRST and found.shape[0] == layer.shape[0]:
        return "trained on pictures with another number of channels, such as gray ones"
    if name.startswith(PER_CLASS):
        return "another class count than its last layer has"
    return "a network of another width"


def _size(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _shown(name: str) -> str:
    return re.sub(r"[^\w.-]", "?", name)[:80]


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
