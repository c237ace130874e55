"""Float convolutions, windows and means as the vendor's compiler makes them, and in what order the
simulator sums them.

``python tests/runtime/float_networks.py BM1684X F16 40 3 3`` probes one convolution of 40 channels
and 3 x 3: a large product at one place, its negative at another, tiny ones everywhere else. The
tiny ones that the sum lacks were added in between, so their number is the size of the smallest part
of the sum that holds both places. Printed for the first place with every other, a line for each row
and column of the kernel (Xie et al., "FPRev", 2024, makes the tree of a sum of such numbers).
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from emulator_networks import TOOLS, _simulate
from torch import nn

from lprnet_nb.cache import array_digest, artifact, file_digest
from lprnet_nb.toolchain import environment
from lprnet_nb.toolchain.process import kept_log

IMAGES = 4
GRID = 8  # probes of an image, along rows and along columns
SHAPES, MODEL = ("--input_shapes",), ("--model", "net.bmodel", "--chip")
# Products that a sum in float32 keeps apart, exact in the storage: large, tiny.
SIZES = {"F32": (2.0**60, 1.0), "F16": (2.0**15, 2.0**-24), "BF16": (2.0**60, 1.0)}


class Layers(nn.Module):
    """Layers one after the other and side by side; each one's result is an output of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.convolutions = nn.ModuleDict(
            {
                "first": nn.Conv2d(3, 16, 3, padding=1),
                "one": nn.Conv2d(16, 24, 1),
                "tall": nn.Conv2d(24, 40, (3, 1), padding=(1, 0)),
                "wide": nn.Conv2d(40, 20, (1, 3), padding=(0, 1)),
                "full": nn.Conv2d(20, 70, 1),
                "square": nn.Conv2d(70, 33, 3, padding=1),
                "odd": nn.Conv2d(33, 64, (1, 4)),
                "column": nn.Conv2d(64, 68, (5, 1)),
                "depthwise": nn.Conv2d(24, 24, 3, padding=1, groups=24),
                "grouped": nn.Conv2d(24, 12, 3, padding=1, groups=3),
                "no_bias": nn.Conv2d(24, 8, 3, bias=False),
                "few_square": nn.Conv2d(4, 9, 3),
                "few_tall": nn.Conv2d(5, 9, (3, 1)),
                "few_wide": nn.Conv2d(3, 8, (1, 3)),
                "stride": nn.Conv2d(24, 16, 3, stride=2, padding=1),
                "dilated": nn.Conv2d(24, 16, 3, dilation=2),
            }
        )
        for layer in self.convolutions.values():  # magnitudes far apart, so that order matters
            layer.weight.data *= 1.5 * torch.exp(torch.randn_like(layer.weight) * 0.7)
            if layer.bias is not None:
                layer.bias.data = torch.randn_like(layer.bias) * 0.7

    def results(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        c = self.convolutions
        found = {"first": F.relu(c["first"](x))}
        for name, before, relu in (
            ("one", "first", False),
            ("tall", "one", True),
            ("wide", "tall", False),
            ("full", "wide", False),
            ("square", "full", True),
            ("odd", "square", True),
            ("column", "odd", False),
        ):
            value = c[name](found[before])
            found[name] = F.relu(value) if relu else value
        one = found["one"]
        for name in ("depthwise", "grouped", "no_bias", "stride", "dilated"):
            found[name] = c[name](one)
        found["few_square"], found["few_tall"] = (
            c["few_square"](one[:, :4]),
            c["few_tall"](one[:, 3:8]),
        )
        found["few_wide"] = c["few_wide"](x)
        found["window"] = F.avg_pool2d(one, 3, (1, 2))
        found["window_apart"] = F.avg_pool2d(found["wide"], (4, 5))
        found["mean_rows"] = found["full"].mean(2)
        found["mean_image"] = (one * one).mean((1, 2, 3), keepdim=True)
        return found

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.results(x).values())


class Ones(nn.Module):
    """One convolution whose weights are all 1."""

    def __init__(self, channels: int, rows: int, columns: int):
        super().__init__()
        self.layer = nn.Conv2d(channels, 4, (rows, columns), bias=False)
        self.layer.weight.data[:] = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@dataclass(frozen=True)
class Compiled:
    """The exported graph, inputs, and what the simulator makes of them, in the graph's order."""

    graph: Path
    inputs: np.ndarray
    outputs: tuple[np.ndarray, ...]


def simulated(network: nn.Module, images: np.ndarray, chip: str, precision: str) -> Compiled:
    """A network in a float precision, compiled and simulated once."""
    tool = environment.compiler()
    inputs = {
        "network": repr(network),
        "weights": [array_digest(p.detach().numpy()) for p in network.parameters()],
        "images": array_digest(images),
        "chip": chip,
        "precision": precision,
        "networks": file_digest(__file__),
        "tpu_mlir": tool.version,
    }
    folder = artifact(
        "float-network",
        inputs,
        lambda place: _make(tool, network, images, chip, precision, place),
    )
    with np.load(folder / "outputs.npz") as outputs:
        found = tuple(outputs[str(k)] for k in range(len(outputs.files)))
    return Compiled(folder / "graph", images, found)


def _make(tool, network, images, chip, precision, folder: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (torch.from_numpy(images[:1]),),
            str(folder / "net.onnx"),
            input_names=["input"],
            opset_version=14,
            dynamo=False,
        )
    shape = json.dumps([[1, *images.shape[1:]]], separators=(",", ":"))
    with kept_log(folder, "compile.log") as log:
        for command in (
            [
                "model_transform.py",
                "--model_name",
                "net",
                "--model_def",
                "net.onnx",
                *SHAPES,
                shape,
            ],
            ["python", TOOLS / "deploy.py", "--quantize", precision, *MODEL, chip.lower()],
        ):
            command = [*command, "--mlir", "net.mlir"]
            tool.run(command, cwd=folder, log=log, what=f"compiling floats for {chip}")
        [lowered] = folder.glob("net_*_tpu.mlir")
        export = ["python", TOOLS / "export_graph.py", lowered.name, "graph"]
        tool.run(export, cwd=folder, log=log, what="exporting floats")
    names = json.loads((folder / "graph" / "graph.json").read_text())["outputs"]
    found = _simulate(folder / "net.bmodel", images)
    outputs = {str(k): found[name] for k, name in enumerate(names)}
    np.savez_compressed(folder / "outputs.npz", **outputs)
    for path in folder.iterdir():
        if path.name not in ("graph", "outputs.npz"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def layers(chip: str, precision: str) -> Compiled:
    """`Layers`, on random images."""
    images = np.random.default_rng(5).standard_normal((IMAGES, 3, 8, 20)).astype(np.float32)
    return simulated(Layers(), images, chip, precision)


def probes(
    channels: int, rows: int, columns: int, pairs: list[tuple[int, int]], precision: str
) -> np.ndarray:
    """Images of a convolution by `Ones`, `GRID` x `GRID` probes of its sums on each."""
    large, tiny = SIZES[precision]
    terms = np.full((len(pairs) + -len(pairs) % GRID**2, channels * rows * columns), tiny)
    for row, (one, other) in enumerate(pairs):
        terms[row, one], terms[row, other] = large, -large
    grid = terms.reshape(-1, GRID, GRID, channels, rows, columns).transpose(0, 3, 1, 4, 2, 5)
    return np.ascontiguousarray(grid.reshape(-1, channels, GRID * rows, GRID * columns), np.float32)


def part_sizes(
    results: np.ndarray, size: tuple[int, int, int], pairs: int, precision: str
) -> np.ndarray:
    """Of each pair, products in the smallest part of the sum that holds both."""
    kept = results[:, 0, :: size[1], :: size[2]].reshape(-1)[:pairs] / SIZES[precision][1]
    return np.rint(np.prod(size) - kept).astype(int)


def main(chip: str, precision: str, *size: str) -> None:
    channels, rows, columns = map(int, size)
    pairs = [(0, other) for other in range(1, channels * rows * columns)]
    images = probes(channels, rows, columns, pairs, precision)
    [results] = simulated(Ones(channels, rows, columns), images, chip, precision).outputs
    sizes = part_sizes(results, (channels, rows, columns), len(pairs), precision)
    table = np.insert(sizes, 0, 0).reshape(channels, rows * columns).T
    print("\n".join(" ".join(f"{size:4d}" for size in line) for line in table))


if __name__ == "__main__":
    main(*sys.argv[1:])
