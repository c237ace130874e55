"""Any network in ONNX through the vendor's compiler: translated, given thresholds, compiled.

What the steps of `toolchain.compile` do for plate recognizers, for networks that have no images, no
classes and no weights of their own: the examples of `networks`, and those that tests make.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from ..cache import array_digest, artifact, file_digest
from ..model.onnx_files import export_onnx
from ..toolchain.chips import parse_chip
from ..toolchain.environment import compiler
from ..toolchain.process import kept_log
from .networks import EXAMPLES, example

OPSET = 14
Thresholds = Mapping[str, tuple[float, float, float]]
_QUANTIZE = {"int8": "INT8", "fp32": "F32", "fp16": "F16"}


def example_onnx(name: str) -> Path:
    """The ONNX file of one of `networks.EXAMPLES`."""

    def build(folder: Path) -> None:
        export_onnx(example(name), EXAMPLES[name].shape, folder / "net.onnx", OPSET)

    inputs = {"name": name, "torch": torch.__version__, "opset": OPSET}
    folder = artifact("example-onnx", inputs, build)
    return folder / "net.onnx"


def random_images(shape: tuple[int, ...], count: int, seed: int = 1) -> np.ndarray:
    """float32 ``[count, ...]`` of normal values; every fourth is wider, so that some saturate."""
    images = np.random.default_rng(seed).standard_normal((count, *shape[1:])).astype(np.float32)
    images[3::4] *= 2.5
    return images


def translated(onnx: Path, image: np.ndarray) -> Path:
    """The compiler's top-level form, with all tensors of one image in ``top.npz``.

    Parameters
    ----------
    image
        float32 ``[1, ...]``, on which the compiler compares its form with the ONNX file.

    Raises
    ------
    ToolchainError
        With the end of the log, where the compiler does not take the network.
    """
    tool = compiler()
    inputs = {"onnx": file_digest(onnx), "image": array_digest(image), "tpu_mlir": tool.version}

    def build(folder: Path) -> None:
        shutil.copy(onnx, folder / "net.onnx")
        np.savez(folder / "in.npz", input=image)
        shape = json.dumps([list(image.shape)], separators=(",", ":"))
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
                what="translating an ONNX file",
            )

    return artifact("foreign-top", inputs, build)


def drawn_thresholds(top: Path, low: float = 0.7, high: float = 1.1, seed: int = 0) -> Thresholds:
    """Threshold, smallest and largest value by layer: what one image reaches, times a drawn number.

    Below 1 some of what that image reaches saturates; drawn apart, no two operands share a scale.
    """
    random = np.random.default_rng(seed)
    with np.load(top / "top.npz") as tensors:
        return {
            name: (
                max(float(np.abs(values).max()), 1e-6) * float(random.uniform(low, high)),
                float(values.min()),
                float(values.max()),
            )
            for name, values in tensors.items()
        }


def compiled_network(
    top: Path, chip: str, precision: str = "int8", thresholds: Thresholds | None = None
) -> Path:
    """The BModel of a translated network, ``net.bmodel``, beside its ``graph``.

    Parameters
    ----------
    top
        Of `translated`.
    thresholds
        Needed for "int8" only.

    Raises
    ------
    ToolchainError
        With the end of the log.
    """
    tool, chip = compiler(), parse_chip(chip)
    lines = [
        f"{name} {t:.7f} {low:.7f} {high:.7f}"
        for name, (t, low, high) in (thresholds or {}).items()
    ]
    inputs = {
        "top": top.name,
        "chip": chip,
        "precision": precision,
        "table": lines,
        "tpu_mlir": tool.version,
    }

    def build(folder: Path) -> None:
        for path in top.iterdir():
            if path.name.startswith("net") or path.suffix == ".npz":
                shutil.copy(path, folder / path.name)
        options = []
        if lines:
            (folder / "table").write_text(
                "\n".join(["# name threshold min max", *lines, ""]), "utf8"
            )
            options = ["--calibration_table", "table"]
        with kept_log(folder, "deploy.log") as log, ExitStack() as files:
            inside = resources.files("lprnet_nb.toolchain").joinpath("inside")
            deploy, export = (
                files.enter_context(resources.as_file(inside.joinpath(name)))
                for name in ("deploy.py", "export_graph.py")
            )
            tool.run(
                [
                    "python",
                    deploy,
                    "--mlir",
                    "net.mlir",
                    "--quantize",
                    _QUANTIZE[precision],
                    "--chip",
                    chip.lower(),
                    *options,
                    "--test_input",
                    "in.npz",
                    "--test_reference",
                    "top.npz",
                    "--tolerance",
                    "0.1,-9",
                    "--skip_validation",
                    "--model",
                    "net.bmodel",
                ],
                cwd=folder,
                log=log,
                what=f"compiling an ONNX file for {chip}",
            )
            [lowered] = folder.glob("net_*_tpu.mlir")
            tool.run(
                ["python", export, lowered.name, "graph"],
                cwd=folder,
                log=log,
                what="exporting the quantized graph",
            )
        kept = {"net.bmodel", "graph", lowered.name, "deploy.log"}
        for path in folder.iterdir():
            weights = path.name.startswith(lowered.stem) and path.suffix == ".npz"
            if path.name not in kept and not weights:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return artifact("foreign-bmodel", inputs, build)


def compiled_example(name: str, chip: str, precision: str = "int8") -> Path:
    """The folder of `compiled_network` for one of `networks.EXAMPLES`.

    Raises
    ------
    ToolchainError
        With the end of the log.
    """
    top = translated(example_onnx(name), random_images(EXAMPLES[name].shape, 1, seed=0))
    thresholds = drawn_thresholds(top) if precision == "int8" else None
    return compiled_network(top, chip, precision, thresholds)
