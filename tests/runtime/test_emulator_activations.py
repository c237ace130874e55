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
CASES = [
    ("BM1684X", "F32"),
    *(pytest.param(*c, marks=pytest.mark.slow) for c in [("BM1684", "F32")]),
]
# What each result hangs on, in the graph's order.
KINDS = ("EXP", "TANH", "SQRT", "SILU", "SIGMOID")
FUNCTIONS = {
    "EXP": np.exp,
    "TANH": np.tanh,
    "SQRT": lambda x: np.sqrt(np.abs(x)),
    "SILU": lambda x: x / (1 + np.exp(-x)),
    "SIGMOID": lambda x: 1 / (1 + np.exp(-x)),
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
