"""What training takes of a network: fresh layers, where its time steps look, and a start."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..cache import digest, file_digest
from ..datasets.alphabet import PUBLISHED, Alphabet
from ..datasets.images import WIDTH, fit
from ..datasets.interface import LAYOUT, Interface
from ..errors import DataError
from ..inputs import find_path
from ._export_network import error_line
from .lprnet import LPRNET, LPRNet
from .lprnet.training import COLUMNS, fresh
from .network_file import check_output, read_facts
from .start import carry_over, load_start
from .weight_files import read_tensors
from .weights import Weights

FUNCTION = "untrained"


@dataclass(frozen=True)
class Trainee:
    """A network to train.

    Parameters
    ----------
    alphabet, interface
        Class list of its output, and its two sides.
    build
        Makes it with fresh weights, which torch's seed decides.
    load
        Reads weights to start from, for `carry`.
    carry
        Puts them into the network and says what was carried over.
    columns
        ``[steps]``: column of a generated plate at which each time step looks.
    digest
        Of a user's file and its TOML; "" for LPRNet.
    """

    alphabet: Alphabet
    interface: Interface
    build: Callable[[], nn.Module]
    load: Callable[[str | Path], Weights]
    carry: Callable[[Weights, nn.Module], str]
    columns: np.ndarray
    digest: str = ""

    @property
    def steps(self) -> int:
        """Time steps of its output."""
        return len(self.columns)

    def inputs(self, images: np.ndarray, device: torch.device) -> torch.Tensor:
        """What the network takes of plates, uint8 BGR ``[N, height, width, 3]`` of any size.

        As `preprocess` makes it, but on the device: a quarter of the bytes go there.
        """
        taken = self.interface.input
        size = (taken.height, taken.width)
        if images.shape[1:3] != size:
            images = np.stack([fit(image, size) for image in images])
        planes = torch.from_numpy(taken.planes(images)).to(device)
        mean, scale = (
            torch.tensor(each, dtype=torch.float32, device=device)[:, None, None]
            for each in (taken.mean, taken.scale)
        )
        return (planes.float() - mean) * scale

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """Its output as ``[N, classes, steps]``."""
        layout = self.interface.layout
        kept = outputs.reshape([n for n, axis in zip(outputs.shape, layout) if axis != "1"])
        axes = layout.replace("1", "")
        return kept.permute([axes.index(axis) for axis in LAYOUT])


def lprnet(alphabet: Alphabet = PUBLISHED) -> Trainee:
    """LPRNet with a class list."""

    def carry(given: Weights, network: nn.Module) -> str:
        assert isinstance(network, LPRNet)
        return carry_over(given, network, alphabet)

    build = partial(fresh, alphabet.size)
    load = partial(load_start, alphabet=alphabet)
    return Trainee(alphabet, LPRNET.interface, build, load, carry, COLUMNS)


def read_trainee(path: str | Path) -> Trainee:
    """A user's network to train.

    Parameters
    ----------
    path
        A Python file whose function ``untrained()`` gives a `torch.nn.Module` with fresh weights;
        this process runs it. Beside it lies its TOML, see `network_file.read_network`.

    Raises
    ------
    DataError
        Naming what is wrong with the file or its TOML, or when its output is not CTC's.
    """
    file = find_path(path)
    if file.suffix != ".py":
        raise DataError(
            f"network {path}: what is trained is a Python file with a function {FUNCTION}()."
        )
    interface, alphabet = read_facts(file)
    if alphabet is None or interface.kind != "ctc":
        raise DataError(f"network {path}: training needs an output of kind ctc.")
    build = partial(_fresh, file)
    try:
        outputs = _outputs(build().eval(), interface, file)
        check_output(outputs, interface, alphabet)
    except DataError as error:
        raise DataError(f"network {file}: {error}") from error
    steps = interface.sizes(outputs.shape)["t"]
    said = [interface.described(), alphabet.listed, alphabet.blank]
    columns = (np.arange(steps) + 0.5) * WIDTH / steps  # side by side over the width
    load = partial(_load, alphabet=alphabet)
    return Trainee(
        alphabet, interface, build, load, _fill, columns, digest([file_digest(file), said])
    )


def _fresh(file: Path) -> nn.Module:
    """What the user's function gives, run in this process because the user named the file."""
    sys.path.insert(0, str(file.parent))  # for what it imports from beside it
    try:
        made = runpy.run_path(str(file)).get(FUNCTION)
        if not callable(made):
            raise DataError(
                f"it has no function {FUNCTION}() that gives a torch.nn.Module to train. "
                "`lprnet-nb network new` writes an example."
            )
        module = made()
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"it raises {error_line(error, file)}") from error
    finally:
        sys.path.remove(str(file.parent))
    if not isinstance(module, nn.Module):
        raise DataError(f"{FUNCTION}() gives a {type(module).__name__}, not a torch.nn.Module.")
    return module


def _outputs(module: nn.Module, interface: Interface, file: Path) -> np.ndarray:
    taken = [1, *interface.input.shape]
    try:
        with torch.no_grad():
            return module(torch.zeros(taken)).numpy()
    except Exception as error:
        raise DataError(f"it does not run on {taken}: {error_line(error, file)}") from error


def _load(path: str | Path, alphabet: Alphabet) -> Weights:
    return Weights(Path(path).stem, read_tensors(path), alphabet)


def _fill(given: Weights, network: nn.Module) -> str:
    try:
        network.load_state_dict(given.state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"weights {given.name} do not fit the network: {reason}.") from error
    return f"start from {given.name}: all layers carried over"
