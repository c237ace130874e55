"""A user's network: an ONNX, TorchScript or Python file, and what a TOML beside it says of it."""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from .. import children
from ..cache import digest
from ..datasets.alphabet import Alphabet
from ..datasets.images import InputFormat
from ..datasets.interface import Interface
from ..errors import DataError
from ..files import atomic_write, private_folder
from ..inputs import find_path, read_bytes, read_text
from .lprnet import LPRNET
from .network import Network
from .onnx_files import LARGEST, input_shape, open_session, read_onnx, run_session, with_shape
from .weights import Weights, nameless

SUFFIXES = (".onnx", ".pt", ".py")
# Names by which LPRNet and its weights are known: what was published or fitted is found by them.
RESERVED = (LPRNET.name, "published", "generated")
TIMEOUT = 600.0  # seconds that a user's own code may take to build a network


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Input(_Strict):
    height: int
    width: int
    order: str = "bgr"
    mean: float | list[float] = 0.0
    scale: float | list[float] = 1.0

    def format(self) -> InputFormat:
        planes = 1 if self.order == "gray" else 3
        mean, scale = (
            tuple(value) if isinstance(value, list) else (value,) * planes
            for value in (self.mean, self.scale)
        )
        return InputFormat(self.height, self.width, mean, scale, self.order)


class _Output(_Strict):
    kind: Literal["ctc", "logits"] = "ctc"
    layout: str
    classes: str | list[str] | None = None
    classes_file: str | None = None
    blank: int | None = None


class _Facts(_Strict):
    """The TOML beside a network."""

    input: _Input
    output: _Output


def read_network(path: str | Path) -> Network:
    """Read a user's network and try it once.

    Parameters
    ----------
    path
        ``.onnx``, TorchScript (``.pt``), or a Python file whose function ``network()`` gives a
        `torch.nn.Module`; a process of its own runs it. A ``.toml`` of the same name lies beside
        it, see `TEMPLATE_TOML`.

    Raises
    ------
    DataError
        Naming what is wrong with the file, its TOML, or how the two go together.
    """
    file = find_path(path)
    if file.suffix not in SUFFIXES:
        raise DataError(
            f"network {path}: a network is one of {', '.join(SUFFIXES)}, with a .toml of the same "
            "name beside it. `lprnet-nb network new` writes an example."
        )
    interface, alphabet = read_facts(file)
    try:
        return _tried(file, _onnx(file, interface), interface, alphabet)
    except DataError as error:
        raise DataError(f"network {file}: {error}") from error


def read_facts(file: Path) -> tuple[Interface, Alphabet | None]:
    """What the TOML beside a network says of it.

    Raises
    ------
    DataError
        When one of the two is missing, or naming what is wrong in the TOML.
    """
    read_bytes(file, "network", LARGEST)  # is it there, and a file
    toml = file.with_suffix(".toml")
    try:
        facts = _Facts.model_validate(tomllib.loads(read_text(toml, "description of a network")))
        interface = Interface(facts.input.format(), facts.output.layout, facts.output.kind)
        return interface, _alphabet(facts.output, file.parent)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{toml}: {place}: {first['msg']}. Mend it.") from error
    except DataError as error:
        raise DataError(f"{toml}: {error}") from error
    except (ValueError, RecursionError) as error:  # also nested too deeply, a number of any length
        raise DataError(f"{toml} is not TOML: {error}.") from error


def _alphabet(output: _Output, folder: Path) -> Alphabet | None:
    classes: Any = output.classes
    if output.classes_file is not None:
        classes = read_text(folder / output.classes_file, "class list").split("\n")
        classes = classes[:-1] if classes[-1] == "" else classes
    if classes is None:
        if output.kind == "ctc":
            raise DataError("output.classes is missing: which class is which character?")
        return None
    names = tuple(classes)
    if output.blank is None and output.kind == "ctc" and "-" not in names:
        raise DataError("output.blank is missing, and no class is '-': which one is the CTC blank?")
    usual = names.index("-") if "-" in names else len(names) - 1
    return Alphabet(names, usual if output.blank is None else output.blank)


def _onnx(file: Path, interface: Interface) -> bytes:
    if file.suffix == ".onnx":
        return read_onnx(file)
    with tempfile.TemporaryDirectory(prefix="network-", dir=private_folder()) as folder:
        target = Path(folder) / "network.onnx"
        sizes = [str(size) for size in interface.input.shape]
        axis = str(interface.layout.index("n"))
        command = [sys.executable, "-P", "-m", f"{__package__}._export_network"]
        try:
            done = children.run([*command, file, target, *sizes, axis], timeout=TIMEOUT)
        except OSError as error:
            raise DataError(f"building it failed: {error}.") from error
        if done.returncode or not target.exists():
            said = [line for line in done.stderr.splitlines() if line.strip()]
            ours = [line.partition(":")[2].strip() for line in said if line.startswith("error:")]
            last = ours or said[-1:] or [f"its process ended with status {done.returncode}"]
            raise DataError(f"{last[-1].rstrip('.')}.")
        return read_onnx(target)


def _tried(file: Path, model: bytes, interface: Interface, alphabet: Alphabet | None) -> Network:
    taken, given = (1, *interface.input.shape), input_shape(model)
    fits = len(given) == len(taken) and all(
        isinstance(size, str) or size == wanted for size, wanted in zip(given[1:], taken[1:])
    )
    if not fits:
        raise DataError(
            f"its input is [{', '.join(map(str, given))}], the TOML says [N, "
            f"{', '.join(map(str, taken[1:]))}]: image, planes, height, width. Mend the TOML, or "
            "export it with a batch axis, planes first."
        )
    example = _example(taken)
    session = open_session(with_shape(model, taken))
    made, other = (run_session(session, one) for one in (example, np.zeros_like(example)))
    if made.shape != other.shape:
        raise DataError(
            f"its output is {list(made.shape)} for one picture and {list(other.shape)} for "
            "another. A BModel's shapes are fixed: export the network without what depends on the "
            "values."
        )
    check_output(made, interface, alphabet)
    if not np.array_equal(run_session(session, example), made):
        raise DataError(
            "its output for one picture differs from call to call. Export it without what draws "
            "random numbers."
        )
    name = re.sub(r"\W+", "_", file.stem, flags=re.ASCII).strip("_").lower() or "network"
    if name in RESERVED:
        raise DataError(f"{name!r} is the workbook's own. Give the file another name.")
    classes = interface.sizes(made.shape)["c"]
    alphabet = alphabet or nameless(classes)
    key = {
        "onnx": hashlib.sha256(model).hexdigest(),
        "interface": interface.described(),
        "classes": alphabet.listed,
        "blank": alphabet.blank,
    }
    return Network(
        name,
        interface,
        onnx=model,
        onnx_shape=made.shape,
        batches=_takes_batches(model, example, made, interface),
        alphabet=alphabet,
        digest=digest(key),
    )


def _example(shape: tuple[int, ...]) -> np.ndarray:
    """Noise as an input; the same at every call."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def check_output(made: np.ndarray, interface: Interface, alphabet: Alphabet | None) -> None:
    """Raise a DataError unless an output for one image is laid out as the TOML says."""
    shape = list(made.shape)
    layout = interface.layout
    if len(shape) != len(layout):
        raise DataError(
            f"its output is {shape}, and layout {layout!r} names {len(layout)} axes. Say in "
            "output.layout what each axis is."
        )
    wrong = [k for k, axis in enumerate(layout) if axis in "n1" and shape[k] != 1]
    if wrong:
        raise DataError(
            f"its output for one image is {shape}: axis {wrong[0]}, {layout[wrong[0]]!r} in layout "
            f"{layout!r}, should be 1. Mend output.layout, or give the output a batch axis."
        )
    classes = interface.sizes(made.shape)["c"]
    if alphabet is not None and classes != alphabet.size:
        other = [k for k, size in enumerate(shape) if size == alphabet.size]
        hint = f" Axis {other[0]} has {alphabet.size}: is that the class axis?" if other else ""
        raise DataError(
            f"its output is {shape}, by layout {layout!r} {classes} classes; the class list has "
            f"{alphabet.size}, the blank included.{hint}"
        )
    if not np.isfinite(made).all():
        raise DataError("its output holds infinite values or NaN for a picture of noise.")


def _takes_batches(
    model: bytes, example: np.ndarray, alone: np.ndarray, interface: Interface
) -> bool:
    pair = np.concatenate([example, -example])
    try:
        made = run_session(open_session(with_shape(model, pair.shape)), pair)
        return interface.arranged(made).shape[0] == 2
    except DataError:
        return False


def network_weights(network: Network) -> Weights:
    """A user's network in the place of weights: they are inside it."""
    assert network.alphabet is not None
    return Weights(network.name, {}, network.alphabet, network)


TEMPLATE_TOML = """\
# What lprnet-nb has to know of the network in the file of the same name (.py, .onnx or .pt).

[input]
height = 40            # pixels
width = 100
order = "bgr"          # planes: bgr, rgb or gray
mean = 127.5           # (pixel - mean) * scale, pixels 0 to 255; one number, or one a plane
scale = 0.0078125

[output]
kind = "ctc"           # ctc, or logits: compared as they are, not decoded
layout = "nct"         # an axis a letter: n image, c class, t time step, 1 an axis of one
classes = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-"   # or a list of names, or classes_file = "x.txt"
blank = 36             # which class is the CTC blank
"""

TEMPLATE_PY = '''\
"""A network of your own for lprnet-nb. It is run because you name it; adapt it to yours."""

import torch
from torch import nn


class Recognizer(nn.Module):
    """Convolutions that take a picture of 40x100 to 37 classes at 24 time steps."""

    def __init__(self, classes: int = 37) -> None:
        super().__init__()
        layers = []
        for channels, wider, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, (2, 2))):
            layers += [
                nn.Conv2d(channels, wider, 3, stride=stride, padding=1),
                nn.BatchNorm2d(wider),
                nn.LeakyReLU(0.1),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(128, classes, (10, 2))  # 10x25 to 1x24

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, 40, 100] to logits [N, classes, 24]."""
        return self.head(self.features(x)).squeeze(2)


def untrained() -> nn.Module:
    """What `lprnet-nb train weights.pth --network` starts from."""
    return Recognizer()


def network() -> nn.Module:
    """What every other command calls: the network with its trained weights."""
    torch.manual_seed(0)  # random weights, until you load yours:
    module = untrained()
    # module.load_state_dict(torch.load("weights.pth", weights_only=True))
    return module
'''


def write_template(target: str | Path) -> list[Path]:
    """Write an example network, ``NAME.py`` and ``NAME.toml``.

    Raises
    ------
    DataError
        When one of them is there already.
    """
    stem = Path(target)
    stem = stem.with_suffix("") if stem.suffix in (*SUFFIXES, ".toml") else stem
    texts = {stem.with_suffix(".py"): TEMPLATE_PY, stem.with_suffix(".toml"): TEMPLATE_TOML}
    there = [path for path in texts if path.exists()]
    if there:
        raise DataError(f"{there[0]} is there already. Choose another name.")
    return [atomic_write(path, text) for path, text in texts.items()]
