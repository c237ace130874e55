"""What the workbook knows of a network: one value, which everything takes in place of constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ..datasets.alphabet import Alphabet
from ..datasets.images import InputFormat
from ..datasets.interface import Interface
from ..errors import ParameterError

Roles = Callable[[list[dict[str, Any]]], dict[str, list[str]]]


@dataclass(frozen=True)
class Network:
    """A recognizer: what it takes, what it gives, and where its layers come from.

    Parameters
    ----------
    name
        Of files, of the network inside a BModel, and in results: letters, digits and underscores.
    interface
        What is known of it from outside.
    forms, batch_means
        The forms that it has, and what a mean in it may run over; the first of each is the usual.
    build
        Makes it of the workbook's own code: classes, batch_mean, form and tensors by layer name to
        a module in evaluation mode. Without tensors it is not filled. None for a user's network.
    find_roles
        Groups the layers of its top-level graph by role, see `toolchain.layers`.
    onnx
        A user's network, weights included, as ONNX.
    onnx_shape
        Shape of that one's output for one image.
    batches
        Whether that one takes more than one image a call.
    alphabet
        Class list that it was given with; None where its weights bring one.
    digest
        SHA-256 of a user's network and of all that was said of it; "" for the workbook's own,
        whose code is a part of every key.
    """

    name: str
    interface: Interface
    build: Callable[..., nn.Module] | None = field(default=None, repr=False)
    forms: tuple[str, ...] = ("published",)
    batch_means: tuple[str, ...] = ("image",)
    find_roles: Roles | None = field(default=None, repr=False)
    onnx: bytes = field(default=b"", repr=False)
    onnx_shape: tuple[int, ...] = ()
    batches: bool = True
    alphabet: Alphabet | None = field(default=None, repr=False)
    digest: str = ""

    @property
    def backend(self) -> str:
        """What runs it in float: torch the workbook's own, onnxruntime a user's."""
        return "onnxruntime" if self.onnx else "torch"

    @property
    def input(self) -> InputFormat:
        """Size, order, mean and scale of its input."""
        return self.interface.input

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its input, pixels."""
        return self.input.height, self.input.width

    @cached_property
    def steps(self) -> int:
        """Time steps of the output, read off a dry run."""
        return self.interface.sizes(self._shape).get("t", 1)

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        if self.build is None:
            return self.onnx_shape
        classes = 2  # any number: the weights say how many there are
        # Not on the device "meta": to run there, torch imports eight hundred modules.
        with torch.random.fork_rng(devices=()), torch.no_grad():
            network = self.build(classes, self.batch_means[0], self.forms[0], None)
            return tuple(network(torch.zeros(1, *self.input.shape)).shape)

    def output_shape(self, batch: int, classes: int) -> tuple[int, ...]:
        """Shape of the output of a call."""
        sizes = {"n": batch, "c": classes, "t": self.steps, "1": 1}
        return tuple(sizes[axis] for axis in self.interface.layout)

    def check(self, batch: int, batch_mean: str, form: str) -> None:
        """Raise a ParameterError unless the network takes this batch, mean and form."""
        if not 1 <= batch <= 256:
            raise ParameterError(f"batch={batch} is not possible. Choose 1 to 256.")
        if batch > 1 and not self.batches:
            raise ParameterError(
                f"batch={batch}: network {self.name} takes one image a call. Choose 1, or export "
                "it with a batch axis that is free."
            )
        for what, value, known in (
            ("batch_mean", batch_mean, self.batch_means),
            ("form", form, self.forms),
        ):
            if value not in known:
                raise ParameterError(
                    f"{what}={value!r} is not known of network {self.name}. Choose from "
                    f"{', '.join(map(repr, known))}."
                )
