"""Functions of one float: the simulators' exp, reciprocals and roots, by both executors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from float_networks import simulated
from torch import nn

from lprnet_nb.errors import EngineError
from lprnet_nb.runtime.emulator import Emulator

KERNELS = ("torch", *(["native"] if any(map(shutil.which, ("cc", "gcc", "clang"))) else []))
SLOW = [(chip, "F32") for chip in ("BM1684", "BM1688", "CV186X")]
CASES = [("BM1684X", "F32"), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
# What each result hangs on, in the graph's order.
KINDS = ("EXP", "TANH", "SQRT", "SILU", "SIGMOID")
FUNCTIONS = {
    "EXP": np.exp,
    "TANH": np.tanh,
    "SQRT": lambda x: np.sqrt(np.abs(x)),
    "SILU": lambda x: x / (1 + np.exp(-x)),
    "SIGMOID": lambda x: 1 / (1 + np.exp(-x)),
}
# Outputs of a second network, in the graph's order; BM1684 has the first alone.
CURVES = {
    "GELU": nn.functional.gelu,
    "SOFT_PLUS": nn.functional.softplus,
    "MISH": nn.functional.mish,
    "ERF": torch.erf,
    "LN": lambda x: torch.log(torch.abs(x) + 1e-3),
}
REFUSED = {"BM1684": ("EXP", "SILU", "SIGMOID")}  # beside other layers its chip gives other values


class Functions(nn.Module):
    """Each function and a quotient; a convolution, without whose weights there is no file."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.layer.weight.data = torch.eye(3)[:, :, None, None]
        self.layer.bias.data[:] = 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.layer(x)
        functions = torch.exp(x), torch.tanh(x), x.abs().sqrt(), nn.functional.silu(x)
        return *functions, torch.sigmoid(x + 0.5), x / (x[:, 1:2] + 0.3)


class Curves(Functions):
    """Some of `CURVES`."""

    def __init__(self, kinds: tuple[str, ...]):
        super().__init__()
        self.kinds = kinds

    def extra_repr(self) -> str:
        return " ".join(self.kinds)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.layer(x)
        return tuple(CURVES[kind](x) for kind in self.kinds)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return (np.random.default_rng(8).standard_normal((2, 3, 24, 50)) * 4).astype(np.float32)


def part(judged, output: str, folder):
    """The exported graph of one output."""
    record = json.loads((judged.graph / "graph.json").read_text())
    needed = {output}
    for op in reversed(record["ops"]):
        if op["name"] in needed:
            needed.update(op["operands"])
    record |= {"outputs": [output], "ops": [op for op in record["ops"] if op["name"] in needed]}
    folder.mkdir()
    (folder / "graph.json").write_text(json.dumps(record))
    shutil.copy(judged.graph / "graph.npz", folder)
    return folder


@pytest.mark.parametrize(("chip", "precision"), CASES)
def test_every_function_is_the_simulators(compiler, images, tmp_path, chip, precision):
    judged = simulated(Functions(), images, chip, precision)
    names = json.loads((judged.graph / "graph.json").read_text())["outputs"]
    assert len(names) == len(KINDS) + 1
    for name, expected, kind in zip(names, judged.outputs, (*KINDS, "quotient"), strict=True):
        graph = part(judged, name, tmp_path / kind)
        if kind in REFUSED.get(chip, ()):
            with pytest.raises(EngineError, match=f"tpu.Active .*mode {kind} in f32 on {chip}"):
                Emulator(graph)
            continue
        for kernels in KERNELS:
            found = Emulator(graph, threads=1, kernels=kernels).tensors(images, [name])[name]
            assert np.array_equal(found, expected.reshape(found.shape)), (kind, kernels)
        if kind in FUNCTIONS:  # the interpreter's, in float64, is near and not the chip's
            given = images + np.float32(0.5 if kind == "SIGMOID" else 0)
            true = FUNCTIONS[kind](given.astype(np.float64))
            near = Emulator(graph, arithmetic="interpreter").tensors(images, [name])[name]
            assert np.array_equal(near, true.astype(np.float32)), kind
            assert not np.array_equal(near, found), kind


@pytest.mark.parametrize(("chip", "precision"), CASES)
def test_curves_are_the_simulators(compiler, images, tmp_path, chip, precision):
    """Also where exp ends; BM1684's gelu ends a little before."""
    kinds = ("GELU",) if chip == "BM1684" else tuple(CURVES)
    images, end = images.copy(), 80 if chip == "BM1684" else 120
    images[1, 1] = np.linspace(-end, end, 1200).reshape(24, 50)
    judged = simulated(Curves(kinds), images, chip, precision)
    names = json.loads((judged.graph / "graph.json").read_text())["outputs"]
    for name, expected, kind in zip(names, judged.outputs, kinds, strict=True):
        graph = part(judged, name, tmp_path / kind)
        for kernels in KERNELS:
            found = Emulator(graph, threads=1, kernels=kernels).tensors(images, [name])[name]
            assert np.array_equal(found, expected.reshape(found.shape)), (kind, kernels)
        near = Emulator(graph, arithmetic="interpreter").tensors(images, [name])[name]
        given = torch.from_numpy(images).double()
        true = CURVES[kind](given).float().numpy()
        assert np.allclose(near, true, rtol=1e-6, atol=1e-6) and not np.array_equal(near, found)
