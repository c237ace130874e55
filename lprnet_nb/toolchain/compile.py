"""From a traced network to a BModel with TPU-MLIR, each step compiled once.

Three artifacts, each addressed by the digest of all that went in: the top-level graph (trace), the
calibration table (graph, images, options), the BModel (graph, table, chip, precision). A table is
made on the batch-1 graph and serves every batch: layer names are the same, and with
``batch_mean="image"`` a batch only repeats what is done to one image. With ``batch_mean="batch"``
the global context is divided by a mean over the whole batch: the divided maps of four images reach
other values than those of the single images that the table was made on, and what lies beyond its
thresholds saturates. `compile_bmodel` without `single` calibrates such a network on whole batches.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..cache import array_digest, artifact, digest, file_digest
from ..datasets.images import HEIGHT, WIDTH, fit, preprocess
from ..errors import ParameterError, ToolchainError
from ..model.lprnet import LPRNET
from ..model.network import Network
from ..model.trace import TracedModel
from ..sources import code_digest
from .bmodel import RECORD, BModel, predicted_latency_ms, without_time
from .chips import check_cores, check_supported, parse_chip, parse_precision
from .environment import Compiler, compiler
from .layers import layers_of_roles
from .process import kept_log, log_tail
from .releases import PINNED
from .strategies import Strategy, check_calibrates

_QUANTIZE = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "int8": "INT8"}
# Cosine and Euclidean similarity that the deploy step demands of INT8 layers against float; the
# values of the vendor's own scripts for this network. Accuracy is judged on plates, not by these.
# That the BModel computes what the graph says is not checked here (--skip_validation) but by
# `runtime.crosscheck`, on more than one image and with the simulator made fast.
_TOLERANCE = {"fp32": "0.99,0.99", "fp16": "0.95,0.80", "bf16": "0.90,0.60", "int8": "0.5,0.1"}
PROFILE = "compiler_profile_0.txt"  # in a BModel's folder, whatever the release calls it
SEARCH_IMAGES = 30  # images on which the compiler's searches infer, its own default


@dataclass(frozen=True)
class TopGraph:
    """A network in the compiler's top-level form.

    Parameters
    ----------
    folder
        ``NAME.mlir`` by the network's name, its weights, reference tensors ``top.npz`` and
        ``in.npz``.
    layers
        ``{"name", "op", "inputs", "shape"}`` in execution order.
    fused
        Whether the preprocessing is part of the graph's input.
    digest
        Digest of all that went in.
    release
        Version of the compiler that it is for.
    network
        What it is a graph of.
    """

    folder: Path
    layers: list[dict]
    fused: bool
    digest: str
    release: str
    network: Network = LPRNET

    @property
    def mlir(self) -> str:
        """Name of the graph's file."""
        return f"{self.network.name}.mlir"

    @property
    def files(self) -> list[Path]:
        """The graph and its weights."""
        return [path for path in self.folder.iterdir() if path.name.startswith(self.network.name)]


@dataclass(frozen=True)
class CalibrationTable:
    """Thresholds of a network's activations.

    Parameters
    ----------
    path
        The compiler's table, ``name threshold min max`` a line.
    float_table
        Layers that a search wants in float, or None.
    digest
        Digest of all that went in.
    release
        Version of the compiler that made it; "" where that is not known.
    """

    path: Path
    float_table: Path | None
    digest: str
    release: str = ""

    def thresholds(self) -> dict[str, tuple[float, float, float]]:
        """``(threshold, minimum, maximum)`` by layer name.

        Raises
        ------
        ToolchainError
            When the file cannot be read or is not such a table.
        """
        table = {}
        try:
            for line in self.path.read_text("utf8").splitlines():
                words = line.split()
                if len(words) == 4 and not line.startswith("#"):
                    table[words[0]] = (float(words[1]), float(words[2]), float(words[3]))
        except (OSError, ValueError) as error:
            raise ToolchainError(
                f"calibration table {self.path} cannot be read: {error}. Calibrate again."
            ) from error
        return table


def sample_plate(network: Network = LPRNET) -> np.ndarray:
    """A drawn plate at a network's size, uint8 BGR: what the deploy step checks its results on."""
    image = np.full((HEIGHT, WIDTH, 3), (160, 60, 20), np.uint8)
    cv2.putText(
        image, "A12345", (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.62, (235, 235, 235), 2, cv2.LINE_AA
    )
    return fit(image, network.size)


def top_graph(
    traced: TracedModel, *, fuse_preprocess: bool = False, release: str | None = None
) -> TopGraph:
    """Translate a trace (`model_transform.py`); the compiler checks it against torch.

    Parameters
    ----------
    traced, fuse_preprocess
        See `TopGraph`.
    release
        See `environment.find_compiler`; its tools alone take the result.

    Raises
    ------
    ToolchainError
        With the end of the log.
    """
    tool, network = compiler(release), traced.network
    inputs = {
        "code": code_digest("top"),
        "trace": traced.digest,
        "fused": fuse_preprocess,
        "tpu_mlir": tool.version,
        "sample": array_digest(sample_plate(network)),
    }

    def build(folder: Path) -> None:
        images = np.stack([sample_plate(network)] * traced.batch)
        options: list[str] = []
        if fuse_preprocess:
            cv2.imwrite(str(folder / "in.png"), images[0])
            given = str(folder / "in.png")
            options = [
                "--mean",
                ",".join(map(str, network.input.mean)),
                "--scale",
                ",".join(map(str, network.input.scale)),
                "--pixel_format",
                network.input.order,
                "--channel_format",
                "nchw",
            ]
        else:
            given = "in.npz"
            # The front end takes the arrays of an npz in order, whatever they are called.
            np.savez(folder / "in.npz", input=preprocess(images, network.input))
        shape = json.dumps([list(traced.input_shape)], separators=(",", ":"))
        with kept_log(folder, "transform.log") as log, _script("list_layers.py") as script:
            tool.run(
                [
                    "model_transform.py",
                    "--model_name",
                    network.name,
                    "--model_def",
                    traced.path,
                    "--input_shapes",
                    shape,
                    "--test_input",
                    given,
                    "--test_result",
                    "top.npz",
                    *options,
                    "--mlir",
                    f"{network.name}.mlir",
                ],
                cwd=folder,
                log=log,
                what="translating the trace",
            )
            tool.run(
                ["python", script, f"{network.name}.mlir", "layers.json"],
                cwd=folder,
                log=log,
                what="listing the layers",
            )

    folder = artifact("top", inputs, build)
    layers = json.loads((folder / "layers.json").read_text("utf8"))
    return TopGraph(folder, layers, fuse_preprocess, digest(inputs), tool.version, network)


def _script(name: str) -> AbstractContextManager[Path]:
    return resources.as_file(resources.files(__package__).joinpath("inside", name))


def equalized(graph: TopGraph) -> TopGraph:
    """The same network with its weights equalized between convolutions (`run_calibration.py --we`).

    Equalization looks at weights only, so it is done once for all calibrations of a network.

    Raises
    ------
    ToolchainError
        With the end of the log.
    """
    tool = compiler(graph.release)
    inputs = {
        "code": code_digest("top"),
        "top": graph.digest,
        "weights": "equalized",
        "tpu_mlir": tool.version,
    }

    def build(folder: Path) -> None:
        for path in graph.folder.iterdir():
            if path.name not in ("inputs.json", "files.json"):
                shutil.copy(path, folder / path.name)
        write_images(graph, sample_plate(graph.network)[None], folder / "images")
        # The tool calibrates too; of this run only the weights are wanted.
        with kept_log(folder, "equalization.log") as log:
            tool.run(
                [
                    "run_calibration.py",
                    graph.mlir,
                    "--dataset",
                    "images",
                    "--input_num",
                    "1",
                    *tool.release.methods["max"],
                    "--tune_num",
                    "0",
                    "--we",
                    "-o",
                    "table",
                ],
                cwd=folder,
                log=log,
                what="equalizing weights",
            )
        shutil.rmtree(folder / "images")

    return replace(graph, folder=artifact("top", inputs, build), digest=digest(inputs))


def write_images(graph: TopGraph, images: np.ndarray, folder: Path) -> None:
    """Write uint8 BGR ``[N, height, width, 3]`` as the arrays that the tools calibrate on."""
    folder.mkdir()
    for index, array in enumerate(preprocess(images, graph.network.input)):
        np.savez(folder / f"{index:06d}.npz", **{graph.layers[0]["name"]: array[None]})


def calibrate(
    graph: TopGraph, images: np.ndarray, strategy: Strategy, chip: str
) -> CalibrationTable:
    """Choose the thresholds of all activations (`run_calibration.py`).

    Parameters
    ----------
    graph
        Top-level graph of batch 1; the release that it is for calibrates.
    images
        Calibration images, uint8 BGR ``[N, height, width, 3]``; all of them are used.
    strategy
        Method, tuning, channel order, equalization, search.
    chip
        Only searches and bias correction depend on it.

    Raises
    ------
    ParameterError
        When `images` is not such an array or empty, or the release lacks what `strategy` asks for.
    ToolchainError
        With the end of the log; and when the release did something else than was asked.
    """
    graph.network.input.check_images(images, "calibration images")
    check_calibrates(graph.release, strategy)
    if strategy.layer_methods:
        parts = {m: strategy.of_one_method(m) for m in strategy.methods}
        tables = {m: calibrate(graph, images, one, chip) for m, one in parts.items()}
        return mixed_table(tables, graph, strategy)
    tool = compiler(graph.release)
    bgr = images
    if strategy.channel_order == "rgb":
        images = np.ascontiguousarray(images[..., ::-1])
    inputs: dict[str, Any] = {
        "code": code_digest("calibration"),
        "top": graph.digest,
        "images": array_digest(images),
        "options": strategy.calibration_options(),
        "tpu_mlir": tool.version,
        "chip": chip if strategy.search or strategy.bias_correction else None,
    }
    asked = tool.release.methods.get(strategy.method, ())
    if tool.version != PINNED:  # the words may be put right in the table of releases
        inputs["asked"] = list(asked)
    # By default (0.99) searches and bias correction find this network good enough and do nothing.
    insist = ["--expected_cos", "1"] if strategy.bias_correction or strategy.search else []
    if insist:
        inputs["insist"] = insist

    def build(folder: Path) -> None:
        for path in graph.files:
            shutil.copy(path, folder / path.name)
        write_images(graph, images, folder / "images")
        command = [
            "run_calibration.py",
            graph.mlir,
            "--dataset",
            "images",
            "--input_num",
            str(len(images)),
            *asked,
            "--tune_num",
            str(min(strategy.tune, len(images))),
            "-o",
            "table",
        ]
        if strategy.weight_equalization:
            command.append("--we")
        if strategy.bias_correction:
            command += [
                "--bc",
                "--chip",
                chip.lower(),
                "--bc_inference_num",
                str(min(SEARCH_IMAGES, len(images))),
            ]
        if strategy.search:
            command += [
                "--search",
                strategy.search,
                "--quantize_table",
                "float_table",
                "--chip",
                chip.lower(),
                "--inference_num",
                str(min(SEARCH_IMAGES, len(images))),
            ]
        with kept_log(folder, "calibration.log") as log:
            tool.run([*command, *insist], cwd=folder, log=log, what="calibrating", timeout=3600)
            if not (folder / "table").exists():
                raise ToolchainError(f"calibrating left no table. Its log: {log}\n{log_tail(log)}")
        shutil.rmtree(folder / "images")

    folder = artifact("calibration", inputs, build)
    float_table = folder / "float_table"
    table = CalibrationTable(
        folder / "table",
        float_table if float_table.exists() else None,
        digest(inputs),
        tool.version,
    )
    if not strategy.search:  # a search chooses the method by itself
        _check_method(table, graph, bgr, strategy, chip)
    return table


def mixed_table(
    tables: Mapping[Any, CalibrationTable], graph: TopGraph, strategy: Strategy
) -> CalibrationTable:
    """Thresholds of each layer by the method that a strategy has for it.

    Parameters
    ----------
    tables
        By method, of the same images: all of `Strategy.methods`.

    Raises
    ------
    ToolchainError
        When the network has no layer of a role that the strategy names.
    """
    base = tables[strategy.method]
    if not strategy.layer_methods:
        return base
    chosen = {
        name: method
        for role, method in strategy.layer_methods
        for name in layers_of_roles(graph.layers, (role,), graph.network)
    }
    inputs = {
        "code": code_digest("mixed-table"),
        "tables": {method: tables[method].digest for method in strategy.methods},
        "base": strategy.method,
        "chosen": chosen,
    }

    def build(folder: Path) -> None:
        lines = {method: _lines_by_layer(table) for method, table in tables.items()}
        made = [lines[chosen.get(name, strategy.method)][name] for name in lines[strategy.method]]
        (folder / "table").write_text("\n".join(made) + "\n", "utf8")
        for path in base.path.parent.glob(f"{graph.network.name}_top_*_weight.npz"):
            shutil.copy(path, folder / path.name)  # equalized ones, which no method changes

    path = artifact("mixed-table", inputs, build) / "table"
    return CalibrationTable(path, None, digest(inputs), base.release)


def _lines_by_layer(table: CalibrationTable) -> dict[str, str]:
    """The lines of a table's thresholds."""
    lines = table.path.read_text("utf8").splitlines()
    return {line.split()[0]: line for line in lines if line and not line.startswith("#")}


def _check_method(
    table: CalibrationTable, graph: TopGraph, images: np.ndarray, strategy: Strategy, chip: str
) -> None:
    """Make sure that a table was made by the method that was asked for.

    Its head says so from 1.24 on. Earlier releases give KL for words that they do not know: there,
    thresholds that are those of KL to the last digit were made by KL.
    """
    done = method_in_table(table.path)
    if done is None and strategy.method != "kl":
        plain = strategy.model_copy(update={"method": "kl"})
        kl = calibrate(graph, images, plain, chip)
        done = "kl" if kl.thresholds() == table.thresholds() else None
    if done not in (None, strategy.method):
        raise ToolchainError(
            f"TPU-MLIR {table.release} was asked for thresholds by {strategy.method!r} and gave "
            f"{done!r} ({table.path}). Nothing is compiled with them; calibrate with another "
            "release."
        )


def method_in_table(path: Path) -> str | None:
    """Threshold method that the head of a calibration table names; None where it names none."""
    for line in path.read_text("utf8", "replace").splitlines():
        if line.startswith("# quantization threshold calculation method:"):
            return line.partition(":")[2].strip(" []'\"").removeprefix("use_")
    return None


def compile_bmodel(
    traced: TracedModel,
    chip: str,
    precision: str,
    *,
    strategy: Strategy | None = None,
    calibration_images: np.ndarray | None = None,
    single: TracedModel | None = None,
    table: CalibrationTable | None = None,
    cores: int = 1,
    release: str | None = None,
    calibrated_by: str | None = None,
) -> BModel:
    """Compile a traced network for a chip.

    Parameters
    ----------
    traced
        The network at the batch size that is wanted.
    chip, precision
        See `chips`.
    strategy
        How to quantize; needed for "int8" only.
    calibration_images
        uint8 BGR ``[N, height, width, 3]``; needed for "int8" only.
    single
        The same network traced at batch 1, on which to calibrate; `traced` itself by default.
    table
        Thresholds that are known already, in place of `calibration_images`.
    cores
        TPU cores that one call is spread over; see `chips.CORES`.
    release, calibrated_by
        Releases that generate code and choose thresholds, see `environment.find_compiler`. Layers
        are called the same on all of them, and one table gives one quantized graph.

    Returns
    -------
    BModel
        Its folder holds the BModel, the exported quantized graph, tables, logs and profile.

    Raises
    ------
    ParameterError
        For a chip or precision that does not exist or do not go together, or when strategy and
        trace do not.
    ToolchainError
        When a tool fails, with the end of its log.
    """
    chip, precision = parse_chip(chip), parse_precision(precision)
    check_supported(chip, precision)
    check_cores(chip, cores)
    if precision != "int8" and strategy is not None:
        raise ParameterError(f"strategy {strategy.name!r} does not apply to {precision}.")
    if precision == "int8" and (strategy is None or (calibration_images is None and table is None)):
        raise ParameterError("int8 needs a strategy and calibration images.")
    if strategy is not None and strategy.form != traced.form:
        raise ParameterError(
            f"strategy {strategy.name!r} needs the {strategy.form!r} form of the "
            f"network, the trace is {traced.form!r}."
        )
    fused = strategy is not None and strategy.fuse_preprocess
    graph = top_graph(traced, fuse_preprocess=fused, release=release)
    if strategy is not None and table is None and calibration_images is not None:
        if strategy.learns:
            raise ParameterError(
                f"strategy {strategy.name!r} learns on the calibration images, and compiling does "
                "not. Give the table of `lprnet_nb.learnt.learnt_table`, or use `lprnet-nb "
                "compile`, which learns first."
            )
        first = top_graph(single or traced, fuse_preprocess=fused, release=calibrated_by)
        table = calibrate(first, calibration_images, strategy, chip)
    tool = compiler(graph.release)
    if table is not None:
        _check_fits(table, graph)
    inputs = {
        "code": code_digest("bmodel"),
        "top": graph.digest,
        "chip": chip,
        "precision": precision,
        "tpu_mlir": tool.version,
        "table": table.digest if table else None,
        "strategy": strategy.key() if strategy else None,
        "record": RECORD,
    }
    if cores > 1:
        inputs["cores"] = cores

    def build(folder: Path) -> None:
        with kept_log(folder, "deploy.log") as log:
            _deploy(tool, graph, folder, log, chip, precision, strategy, table, cores)
            _export(tool, graph, folder, log)
        path = folder / f"{traced.network.name}.bmodel"
        without_time(path)
        BModel(
            path=path,
            chip=chip,
            precision=precision,
            batch=traced.batch,
            batch_mean=traced.batch_mean,
            form=traced.form,
            strategy=strategy.name if strategy else None,
            predicted_latency_ms=predicted_latency_ms(folder / PROFILE),
            sha256=file_digest(path),
            digest=digest(inputs),
            tools=_tools(tool, table),
            input_shape=traced.input_shape,
            output_shape=traced.output_shape,
            input_dtype="uint8" if fused else "float32",
            weights=traced.weights,
            network=traced.network.name,
            graph=folder / "graph",
            alphabet=traced.alphabet,
            cores=cores,
            interface=traced.network.interface,
        ).save(folder)

    return BModel.load(artifact("bmodel", inputs, build))


def _tools(tool: Compiler, table: CalibrationTable | None) -> dict[str, str]:
    """Versions for the record; who calibrated is named where it was another release."""
    other = table.release if table is not None else ""
    calibrated = {"calibrated_by": other} if other not in ("", tool.version) else {}
    return {"tpu_mlir": tool.version, **calibrated}


def _check_fits(table: CalibrationTable, graph: TopGraph) -> None:
    """Make sure that another release's table names the layers of this one's graph."""
    if table.release in ("", graph.release):
        return
    missing = {layer["name"] for layer in graph.layers} - set(table.thresholds())
    if missing:
        raise ToolchainError(
            f"the calibration table of TPU-MLIR {table.release} has no threshold for layer "
            f"{min(missing)!r} of TPU-MLIR {graph.release}. Let {graph.release} calibrate by "
            "itself (calibration 'release')."
        )


def _copy_rewritten_weights(
    graph: TopGraph, strategy: Strategy, table: CalibrationTable, folder: Path
) -> None:
    """Equalization, bias correction and learning rewrite the weights, which lie by the table."""
    rewritten = strategy.weight_equalization or strategy.bias_correction
    if not rewritten and strategy.weights != "learnt":
        return
    for path in table.path.parent.glob(f"{graph.network.name}_top_*_weight.npz"):
        there = folder / path.name
        if not there.exists() or _weight_shapes(path) != _weight_shapes(there):
            raise ToolchainError(
                f"{path} holds weights that TPU-MLIR {table.release} rewrote, under other names or "
                "in other shapes than the release has them that is to compile them. Let one "
                "release do both."
            )
        shutil.copy(path, there)


def _weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with np.load(path) as arrays:
        return {name: arrays[name].shape for name in arrays.files}


def _deploy(
    tool: Compiler,
    graph: TopGraph,
    folder: Path,
    log: Path,
    chip: str,
    precision: str,
    strategy: Strategy | None,
    table: CalibrationTable | None,
    cores: int,
) -> None:
    name = graph.network.name
    for path in graph.folder.iterdir():
        if path.name.startswith(name) or path.name in ("in.npz", "in.png", "top.npz"):
            shutil.copy(path, folder / path.name)
    options: list[str] = []
    if strategy is not None and table is not None:
        _copy_rewritten_weights(graph, strategy, table, folder)
        shutil.copy(table.path, folder / "calibration_table")
        options = ["--calibration_table", "calibration_table"]
        lines = float_lines(graph, chip, strategy, table)
        if lines:
            (folder / "float_layers").write_text("\n".join(lines) + "\n", "utf8")
            options += ["--quantize_table", "float_layers"]
        if not strategy.symmetric:
            options.append("--asymmetric")
        if strategy.fuse_preprocess:
            options.append("--fuse_preprocess")
    if cores > 1:
        options += ["--num_core", str(cores)]
    given = "in.png" if graph.fused else "in.npz"
    with _script("deploy.py") as script:
        tool.run(
            [
                "python",
                script,
                "--mlir",
                graph.mlir,
                "--quantize",
                _QUANTIZE[precision],
                "--chip",
                chip.lower(),
                *options,
                "--test_input",
                given,
                "--test_reference",
                "top.npz",
                "--tolerance",
                _TOLERANCE[precision],
                "--skip_validation",
                "--model",
                f"{name}.bmodel",
            ],
            cwd=folder,
            log=log,
            what=f"compiling for {chip} {precision}",
        )
    profile = folder / tool.release.profile
    if profile.exists():
        profile.rename(folder / PROFILE)
    if not (folder / f"{name}.bmodel").exists():
        raise ToolchainError(
            f"compiling for {chip} {precision} left no BModel. Its log: {log}\n{log_tail(log)}"
        )


def float_lines(
    graph: TopGraph, chip: str, strategy: Strategy, table: CalibrationTable
) -> list[str]:
    """Lines ``LAYER F16`` for the layers that stay in float (F32 where there is no 16-bit)."""
    kind = "F32" if chip == "BM1684" else "F16"
    chosen = layers_of_roles(graph.layers, strategy.float_roles, graph.network)
    lines = [f"{name} {kind}" for name in chosen]
    if table.float_table is not None:
        found = table.float_table.read_text("utf8").splitlines()
        lines += [line for line in found if line.strip() and not line.startswith("#")]
    return lines


def _export(tool: Compiler, graph: TopGraph, folder: Path, log: Path) -> None:
    name = graph.network.name
    lowered = list(folder.glob(f"{name}_*_tpu.mlir"))
    if len(lowered) != 1:
        raise ToolchainError(
            f"expected one quantized graph in {folder}, found {[path.name for path in lowered]}."
        )
    with _script("export_graph.py") as script:
        tool.run(
            ["python", script, lowered[0].name, "graph"],
            cwd=folder,
            log=log,
            what="exporting the quantized graph",
        )
    # With layers in float the weights carry the quantize table in their name.
    weights = {path.name for path in folder.glob(f"{lowered[0].stem}*_weights.npz")}
    keep = weights | {
        lowered[0].name,
        f"{name}.bmodel",
        "graph",
        PROFILE,
        "calibration_table",
        "float_layers",
    }
    for path in folder.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
