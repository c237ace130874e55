"""Random networks of every operation, made by the vendor's compiler, with what its judges say.

A network has a stem and many branches, each of which ends in an output of its own, so that one
compile proves all of them. The thresholds are drawn at random around what the values reach: some
saturate, some use half their steps, and no two operands of an operation share a scale.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lprnet_nb.cache import artifact, file_digest
from lprnet_nb.proof.interpreter import interpret
from lprnet_nb.runtime.engine import open_engine
from lprnet_nb.toolchain import environment
from lprnet_nb.toolchain.process import kept_log

TOOLS = Path(environment.__file__).parent / "inside"
IMAGES = 4


class Branch(nn.Module):
    """A branch from a function of the stem's results: `u` (not negative), `a` and `b`."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, u, a, b):
        return self.function(self, u, a, b)


class Network(nn.Module):
    """All branches, their sizes drawn from a seed."""

    def __init__(self, seed: int, batch: int = 1):
        super().__init__()
        r = np.random.default_rng(seed)
        torch.manual_seed(seed)
        c, others = int(r.choice([12, 18, 20, 30])), int(r.choice([9, 17, 21]))
        h, w = int(r.integers(11, 17)), int(r.integers(15, 24))
        self.shape = (batch, 3, h, w)
        self.stem, self.one = nn.Conv2d(3, c, 3, padding=1), nn.Conv2d(c, c, 1)
        self.two = nn.Conv2d(c, c, 3, padding=1)
        group = int(r.choice([2, 3]))

        def pick(*options):
            return options[r.integers(len(options))]

        def kernel():
            return pick((3, 3), (5, 3), (1, 3), (3, 1), (4, 2))

        def squeeze(inner=8):
            return nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, inner, 1), nn.ReLU(), nn.Conv2d(inner, c, 1)
            )

        def steps(a):  # one step of a sequence for each column
            return F.avg_pool2d(a, (h, 1)).squeeze(2)

        k, s = kernel(), pick((1, 2), (2, 1), (2, 2))
        window, reach = pick(((3, 3), 1), ((5, 5), 2), ((3, 5), (1, 2)), ((4, 4), 1)), pick(1, 2, 3)
        up = pick((4, 2, 1, 0), (3, 2, 1, 1), (2, 2, 0, 0), (3, 1, 1, 0), (5, 3, 1, 0))
        self.branches = nn.ModuleDict(
            {
                name: Branch(*one) if isinstance(one, tuple) else one
                for name, one in {
                    # convolution
                    "depthwise": Branch(
                        lambda m, u, a, b: m.conv(a),
                        conv=nn.Conv2d(c, c, k, padding=(k[0] // 2, 0), groups=c),
                    ),
                    "depthwise_relu": Branch(
                        lambda m, u, a, b: F.relu6(m.conv(u)),
                        conv=nn.Conv2d(c, c, 3, padding=1, stride=s, groups=c),
                    ),
                    "grouped": Branch(
                        lambda m, u, a, b: F.relu(m.conv(a)),
                        conv=nn.Conv2d(c, group * 14, kernel(), padding=1, groups=group),
                    ),
                    "grouped_to_one": Branch(
                        lambda m, u, a, b: m.conv(u),
                        conv=nn.Conv2d(c, c // 2, kernel(), stride=s, groups=c // 2),
                    ),
                    "dilated": Branch(
                        lambda m, u, a, b: m.conv(a),
                        conv=nn.Conv2d(c, others, 3, padding=2, dilation=pick(1, 2)),
                    ),
                    "transposed": Branch(
                        lambda m, u, a, b: m.conv(a),
                        conv=nn.ConvTranspose2d(c, 10, up[0], up[1], up[2], up[3]),
                    ),
                    "transposed_depthwise": Branch(
                        lambda m, u, a, b: m.conv(u),
                        conv=nn.ConvTranspose2d(c, c, 3, 2, 1, 1, groups=c),
                    ),
                    # matrix products
                    "linear": Branch(
                        lambda m, u, a, b: m.full(F.max_pool2d(a, 4)[..., :3].flatten(1)),
                        full=nn.Linear(c * (h // 4) * 3, 11),
                    ),
                    "linear_steps": Branch(
                        lambda m, u, a, b: m.full(steps(a).permute(0, 2, 1)), full=nn.Linear(c, 33)
                    ),
                    "linear_time_first": Branch(
                        lambda m, u, a, b: m.full(steps(b).permute(2, 0, 1)), full=nn.Linear(c, 20)
                    ),
                    "attention": Branch(
                        lambda m, u, a, b: torch.matmul(a.flatten(2), b.flatten(2).transpose(1, 2))
                    ),
                    # two tensors
                    "add": Branch(lambda m, u, a, b: a + b),
                    "add_relu": Branch(lambda m, u, a, b: F.relu(u + a)),
                    "add_broadcast": Branch(lambda m, u, a, b: b + m.gate(a), gate=squeeze()),
                    "add_map": Branch(
                        lambda m, u, a, b: u + m.map, map=nn.Parameter(torch.randn(1, c, h, w))
                    ),
                    "subtract": Branch(lambda m, u, a, b: b - a),
                    "subtract_broadcast": Branch(lambda m, u, a, b: m.gate(u) - b, gate=squeeze()),
                    "gate": Branch(lambda m, u, a, b: a * torch.sigmoid(m.gate(u)), gate=squeeze()),
                    "square": Branch(lambda m, u, a, b: a * a),
                    # a tensor and a constant
                    "add_channels": Branch(
                        lambda m, u, a, b: a + m.map, map=nn.Parameter(torch.randn(1, c, 1, 1))
                    ),
                    "times_channels": Branch(
                        lambda m, u, a, b: a * m.map, map=nn.Parameter(torch.randn(1, c, 1, 1))
                    ),
                    "add_scalar": Branch(lambda m, u, a, b: a + 0.37),
                    "minus_scalar": Branch(lambda m, u, a, b: b - 0.21),
                    "scalar_minus": Branch(lambda m, u, a, b: 0.8 - a),
                    "times_scalar": Branch(lambda m, u, a, b: b * 1.7),
                    # one value in, one out
                    "leaky": Branch(
                        lambda m, u, a, b: F.leaky_relu(a, float(r.uniform(0.01, 0.3)))
                    ),
                    "prelu": Branch(
                        lambda m, u, a, b: F.prelu(b, m.slope),
                        slope=nn.Parameter(torch.full((c,), 0.2)),
                    ),
                    "relu": Branch(lambda m, u, a, b: F.relu(a)),
                    "hard_swish": Branch(lambda m, u, a, b: F.hardswish(a)),
                    "silu": Branch(lambda m, u, a, b: F.silu(b)),
                    "mish": Branch(lambda m, u, a, b: F.mish(a)),
                    "sigmoid": Branch(lambda m, u, a, b: torch.sigmoid(u)),
                    "tanh": Branch(lambda m, u, a, b: torch.tanh(a)),
                    "clip": Branch(lambda m, u, a, b: a.clamp(-0.3, 0.4)),
                    # windows and axes
                    "max_padded": Branch(
                        lambda m, u, a, b: F.max_pool2d(a, window[0], 2, window[1])
                    ),
                    "max_ceil": Branch(lambda m, u, a, b: F.max_pool2d(u, 3, 2, ceil_mode=True)),
                    "average": Branch(lambda m, u, a, b: F.avg_pool2d(u, (2, 3), s)),
                    "average_padded": Branch(
                        lambda m, u, a, b: F.avg_pool2d(a, window[0], s, window[1])
                    ),
                    "average_exclude": Branch(
                        lambda m, u, a, b: F.avg_pool2d(
                            a, window[0], s, window[1], count_include_pad=False
                        )
                    ),
                    "global_average": Branch(
                        lambda m, u, a, b: F.adaptive_avg_pool2d(a, 1).flatten(1)
                    ),
                    "mean_images": Branch(lambda m, u, a, b: b.mean((2, 3))),
                    "mean_rows": Branch(lambda m, u, a, b: a.mean(2)),
                    "mean_columns": Branch(lambda m, u, a, b: a.mean(3)),
                    "mean_channels": Branch(lambda m, u, a, b: u.mean(1, keepdim=True)),
                    # places
                    "upsample": Branch(lambda m, u, a, b: F.interpolate(a, scale_factor=2)),
                    "permute": Branch(lambda m, u, a, b: a.permute(0, 2, 3, 1)),
                    "time_first": Branch(lambda m, u, a, b: steps(a).permute(2, 0, 1)),
                    "reshape": Branch(
                        lambda m, u, a, b: F.max_pool2d(a, 3, 3).reshape(batch, 3, -1)
                    ),
                    "shuffle": Branch(
                        lambda m, u, a, b: (
                            a.reshape(batch, 2, c // 2, h, w)
                            .transpose(1, 2)
                            .reshape(batch, c, h, w)
                        )
                    ),
                    "pixel_shuffle": Branch(lambda m, u, a, b: F.pixel_shuffle(a[:, :8], 2)),
                    "slice": Branch(lambda m, u, a, b: a[:, 3:11, 1:-1, ::reach]),
                    "pad": Branch(lambda m, u, a, b: F.pad(a, (1, 2, 0, 1))),
                    "concat_channels": Branch(
                        lambda m, u, a, b: torch.cat([m.odd(a), b, u, a, m.odd(u)], 1),
                        odd=nn.Conv2d(c, 5, 1),
                    ),
                    "concat_rows": Branch(lambda m, u, a, b: torch.cat([u, a, b], 2)),
                    "concat_columns": Branch(lambda m, u, a, b: torch.cat([a, b], 3)),
                }.items()
            }
        )

    def forward(self, x):
        u = F.relu(self.stem(x))
        a, b = self.one(u), self.two(u)
        return tuple(branch(u, a, b) for branch in self.branches.values())


@dataclass(frozen=True)
class Judged:
    """A compiled network and what its judges make of some inputs.

    ``layers`` holds the interpreter's stored values, ``outputs`` what the simulator gives.
    """

    graph: Path
    branches: tuple[str, ...]
    inputs: np.ndarray
    layers: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    def part(self, branches, folder: Path) -> Path:
        """The exported graph with these branches alone."""
        record = json.loads((self.graph / "graph.json").read_text())
        outputs = [name for name in record["outputs"] if branch_of(name) in branches]
        needed = set(outputs)
        for op in reversed(record["ops"]):
            if op["name"] in needed:
                needed.update(op["operands"])
        record |= {"outputs": outputs, "ops": [op for op in record["ops"] if op["name"] in needed]}
        folder.mkdir()
        (folder / "graph.json").write_text(json.dumps(record))
        shutil.copy(self.graph / "graph.npz", folder)
        return folder


def branch_of(output: str) -> str:
    """The branch of one of the graph's outputs: what comes before the first dash."""
    return output.split("-")[0]


def judged(seed: int, chip: str, asymmetric: bool = False, batch: int = 1) -> Judged:
    """Compile the network of a seed for a chip and ask its judges, once."""
    tool = environment.compiler()
    common = {
        "seed": seed,
        "batch": batch,
        "networks": file_digest(__file__),
        "torch": torch.__version__,
        "tpu_mlir": tool.version,
    }
    network = Network(seed, batch).eval()
    top = artifact("emulator-network-top", common, lambda folder: _translate(tool, network, folder))
    inputs = common | {
        "chip": chip,
        "asymmetric": asymmetric,
        "export": file_digest(TOOLS / "export_graph.py"),
    }
    folder = artifact(
        "emulator-network",
        inputs,
        lambda place: _compile(tool, top, place, chip, asymmetric, _images(seed, network.shape)),
    )
    with np.load(folder / "layers.npz") as layers, np.load(folder / "outputs.npz") as outputs:
        return Judged(
            folder / "graph",
            tuple(network.branches),
            np.load(folder / "inputs.npy"),
            dict(layers),
            dict(outputs),
        )


def _images(seed: int, shape) -> np.ndarray:
    random = np.random.default_rng(seed + 1)
    images = random.standard_normal((IMAGES, *shape[1:])).astype(np.float32)
    images[-1] *= 2.5  # saturates
    return images


def _translate(tool, network: Network, folder: Path) -> None:
    example = torch.from_numpy(_images(network.shape[2], network.shape)[: network.shape[0]])
    np.savez(folder / "in.npz", input=example.numpy())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(folder / "net.onnx"),
            input_names=["input"],
            output_names=[f"{name}-" for name in network.branches],
            opset_version=14,
            dynamo=False,
        )
    shape = json.dumps([list(network.shape)], separators=(",", ":"))
    with kept_log(folder, "transform.log") as log:
        tool.run(
            [
                "model_transform.py",
                "--model_name",
                "net",
                "--model_def",
                "net.onnx",
                "--input_shapes",
                shape,
                "--test_input",
                "in.npz",
                "--test_result",
                "top.npz",
                "--mlir",
                "net.mlir",
            ],
            cwd=folder,
            log=log,
            what="translating a test network",
        )
    random = np.random.default_rng(network.shape[3])
    with np.load(folder / "top.npz") as tensors:
        lines = [
            f"{name} {np.abs(values).max() * random.uniform(0.7, 1.1):.7f} "
            f"{values.min():.7f} {values.max():.7f}"
            for name, values in tensors.items()
        ]
    (folder / "table").write_text("\n".join(["# name threshold min max", *lines, ""]))


def _compile(
    tool, top: Path, folder: Path, chip: str, asymmetric: bool, images: np.ndarray
) -> None:
    for path in top.iterdir():
        if path.name.startswith("net") or path.name in ("in.npz", "top.npz", "table"):
            shutil.copy(path, folder / path.name)
    with kept_log(folder, "deploy.log") as log:
        tool.run(
            [
                "python",
                TOOLS / "deploy.py",
                "--mlir",
                "net.mlir",
                "--quantize",
                "INT8",
                "--chip",
                chip.lower(),
                "--calibration_table",
                "table",
                "--test_input",
                "in.npz",
                "--test_reference",
                "top.npz",
                "--tolerance",
                "0.1,-9",
                "--skip_validation",
                "--model",
                "net.bmodel",
                *(["--asymmetric"] if asymmetric else []),
            ],
            cwd=folder,
            log=log,
            what=f"compiling a test network for {chip}",
        )
        [lowered] = folder.glob("net_*_tpu.mlir")
        tool.run(
            ["python", TOOLS / "export_graph.py", lowered.name, "graph"],
            cwd=folder,
            log=log,
            what="exporting a test network",
        )
    np.save(folder / "inputs.npy", images)
    bmodel = folder / "net.bmodel"
    np.savez_compressed(
        folder / "layers.npz",
        **interpret(SimpleNamespace(path=bmodel), images, tensors=True).tensors,
    )
    np.savez_compressed(folder / "outputs.npz", **_simulate(bmodel, images))
    for path in folder.iterdir():
        if path.name not in ("graph", "inputs.npy", "layers.npz", "outputs.npz"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _simulate(bmodel: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    with open_engine(bmodel, "simulator", trust=True, workers=1) as engine:
        [graph] = engine.get_graph_names()
        [name] = engine.get_input_names(graph)
        batch = engine.get_input_shape(graph, name)[0]
        runs = [
            engine.process(graph, {name: images[k : k + batch]})
            for k in range(0, len(images), batch)
        ]
    return {output: np.concatenate([run[output] for run in runs]) for output in runs[0]}
