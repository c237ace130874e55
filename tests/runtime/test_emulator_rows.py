"""Sums, softmax, layer norm and quotients of random networks of the vendor's compiler: interpreter
and simulator, to the bit, by both executors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emulator_networks import _simulate
from torch import nn

from lprnet_nb.cache import artifact, file_digest
from lprnet_nb.errors import EngineError
from lprnet_nb.model.onnx_files import export_onnx
from lprnet_nb.proof.foreign import (
    OPSET,
    compiled_network,
    drawn_thresholds,
    random_images,
    translated,
)
from lprnet_nb.proof.interpreter import interpret
from lprnet_nb.runtime.emulator import Emulator
from lprnet_nb.runtime.emulator.pooling import _chip_order
from lprnet_nb.toolchain.environment import compiler as installed

KERNELS = ("torch", *(["native"] if any(map(shutil.which, ("cc", "gcc", "clang"))) else []))
IMAGES = 4
QUICK = [(1, "BM1684X", "int8"), (1, "BM1684", "int8")]
SLOW = [
    (2, "BM1684X", "int8"),
    (2, "BM1684", "int8"),
    (1, "BM1684X", "fp16"),
    (1, "BM1684X", "fp32"),
    (1, "BM1684", "fp32"),
    (1, "BM1688", "fp32"),
    (1, "CV186X", "fp32"),
    (1, "BM1688", "fp16"),
    (1, "CV186X", "fp16"),
]
CASES = [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)]
# Summed in one of two ways, on the same shapes: how far off, of the largest value. Layer norm in
# F32, units in the last place; 48 values in F16 are taken in rows, by the emulator in two lanes.
NEAR = {
    (1, "BM1684X", "fp32"): {"norm": 4e-7, "norm_long": 4e-7},
    (2, "BM1684X", "int8"): {"sum_steps": 2e-3},
    (1, "BM1688", "fp16"): {"sum_steps": 2e-3},
    (1, "CV186X", "fp16"): {"sum_steps": 2e-3},
}
# The convolution before them all, whose sums in torch are not in the interpreter's order.
TORCH = {"fp16": 1e-3, "fp32": 1e-6}


class Rows(nn.Module):
    """Branches from a convolution and from its columns as a sequence, sizes drawn from a seed."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        random = np.random.default_rng(seed)
        self.channels, self.height = int(random.choice([20, 48])), int(random.integers(5, 9))
        self.width = int(random.choice([24, 32]))
        self.shape = (1, 3, self.height, self.width)
        self.stem = nn.Conv2d(3, self.channels, 3, padding=1)
        self.norm, self.norm_long = nn.LayerNorm(self.channels), nn.LayerNorm(4 * self.width)
        for norm in (self.norm, self.norm_long):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)

    def results(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        a = self.stem(x)
        steps = F.avg_pool2d(a, (self.height, 1)).squeeze(2).permute(0, 2, 1)
        long = (a * 1.5).reshape(1, -1, 4 * self.width)
        length = a.square().sum(1, keepdim=True)
        return {
            "sum_channels": length,
            "sum_rows": a.sum(2),
            "sum_columns": a.sum(3),
            "sum_images": a.sum((2, 3)),
            "sum_steps": steps.sum(-1),
            "sum_long": long.sum(-1),
            "length": a / length.sqrt(),
            "softmax_steps": torch.softmax(steps * 4, -1),
            "softmax_channels": torch.softmax(a * 2, 1),
            "softmax_long": torch.softmax(long, -1),
            "norm": self.norm(steps),
            "norm_long": self.norm_long(long),
        }

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.results(x).values())


BRANCHES = tuple(Rows(1).results(torch.zeros(Rows(1).shape)))


def onnx_of(seed: int) -> Path:
    """The network of a seed as ONNX; an output's name begins with its branch's."""

    def build(folder: Path) -> None:
        network, names = Rows(seed).eval(), [f"{branch}-" for branch in BRANCHES]
        export_onnx(network, network.shape, folder / "net.onnx", OPSET, names)

    inputs = {"seed": seed, "networks": file_digest(__file__), "torch": torch.__version__}
    return artifact("rows-onnx", inputs, build) / "net.onnx"


class Judged:
    """A compiled network, what its judges make of some images, and the emulator of one branch."""

    def __init__(self, case: tuple[int, str, str]):
        self.case, (seed, chip, precision) = case, case
        self.images = random_images(Rows(seed).shape, IMAGES, seed)
        top = translated(onnx_of(seed), self.images[:1])
        thresholds = drawn_thresholds(top) if precision == "int8" else None
        self.folder = compiled_network(top, chip, precision, thresholds)
        bmodel = self.folder / "net.bmodel"

        def judge(place):
            layers = interpret(SimpleNamespace(path=bmodel), self.images, tensors=True).tensors
            np.savez_compressed(place / "layers.npz", **layers)
            np.savez_compressed(place / "outputs.npz", **_simulate(bmodel, self.images))

        inputs = {"model": file_digest(bmodel), "tpu_mlir": installed().version}
        kept = artifact("rows-judged", inputs, judge)
        with np.load(kept / "layers.npz") as layers, np.load(kept / "outputs.npz") as outputs:
            self.layers, self.outputs = dict(layers), dict(outputs)
        self.record = json.loads((self.folder / "graph" / "graph.json").read_text())

    def emulator(self, branch: str, folder, **options) -> Emulator:
        outputs = [name for name in self.record["outputs"] if name.split("-")[0] == branch]
        needed = set(outputs)
        for op in reversed(self.record["ops"]):
            if op["name"] in needed:
                needed.update(op["operands"])
        ops = [op for op in self.record["ops"] if op["name"] in needed]
        folder.mkdir()
        (folder / "graph.json").write_text(
            json.dumps(self.record | {"outputs": outputs, "ops": ops})
        )
        shutil.copy(self.folder / "graph" / "graph.npz", folder)
        return Emulator(folder, threads=1, **options)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def judged(request, compiler):
    return Judged(request.param)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_is_its_judges(judged, branch, kernels, tmp_path):
    for arithmetic in ("interpreter", "chip"):
        emulator = judged.emulator(
            branch, tmp_path / arithmetic, kernels=kernels, arithmetic=arithmetic
        )
        found = emulator.tensors(judged.images, raw=True)
        chip = arithmetic == "chip"
        names = emulator.graph.outputs if chip else found.keys() & judged.layers.keys()
        for name in names:
            expected = (judged.outputs if chip else judged.layers)[name]
            values = found[name].reshape(expected.shape)
            bound = NEAR.get(judged.case, {}).get(branch)
            if not chip:
                bound = TORCH.get(judged.case[2]) if kernels == "torch" else None
            if bound:
                assert np.abs(values - expected).max() <= bound * np.abs(expected).max()
            else:
                assert np.array_equal(values, expected), (name, arithmetic)
        assert len(np.unique(expected)) > 10


def test_a_chips_lanes_along_the_last_axis():
    """As probed: rows of lanes that come out even, on BM1684 three axes."""

    def lanes(chip, storage, *shape):
        kind = SimpleNamespace(shape=shape)
        return _chip_order(chip, kind, storage, (len(shape) - 1,))[0]

    assert [lanes("BM1684X", "f32", 1, 96, 5, n) for n in (64, 48, 40, 33)] == [32, 32, 2, 2]
    assert [lanes("BM1684X", "f16", 1, 480, n) for n in (64, 96, 48, 80)] == [64, 64, 2, 2]
    assert lanes("BM1684X", "f16", 1, 35, 104) == 0  # not known
    assert [lanes("BM1684", "f32", 1, 480, n) for n in (64, 40)] == [32, 32]
    assert lanes("BM1684", "f32", 1, 96, 5, 64) == 2


def test_what_a_layer_norm_lacks_is_named(compiler, tmp_path):
    """Four axes, whose sums' order depends on the layers around."""
    judged = Judged(QUICK[0])
    [norm] = [op for op in judged.record["ops"] if op["name"] == "norm-_LayerNormalization"]
    for op in judged.record["ops"]:
        if op["name"] == norm["operands"][0] or op is norm:
            op["result"]["shape"] = [1, 1, *op["result"]["shape"][1:]]
    norm["attributes"]["axis"] = 3
    with pytest.raises(
        EngineError, match="tpu.LayerNorm .*axis 3 of a tensor of shape .*simulator"
    ):
        judged.emulator("norm", tmp_path / "part")
