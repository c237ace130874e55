"""From a traced network to a BModel with TPU-NNTC, the compiler of the original tutorial.

TPU-NNTC comes only with the vendor's SDK. It is found in one of three ways:

- its tools are on the PATH, after ``source scripts/envsetup.sh`` in the unpacked SDK;
- `LPRNET_NNTC_SDK` names the unpacked SDK, and its ``scripts/envsetup.sh`` is sourced for each tool
  alone, so that it cannot disturb the workbook's own Python;
- `LPRNET_NNTC_DOCKER` names the vendor's docker image as well (``sophgo/tpuc_dev:...``), and each
  tool runs in a container that sees the SDK and its own working folder, nothing else.

The command lines are the documented ones. They were tested against stand-ins, not against the real
tools: see ``docs/nntc.md``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...cache import array_digest, artifact, digest, file_digest
from ...datasets.images import preprocess
from ...datasets.lmdb import write_lmdb
from ...errors import ParameterError, ToolchainError
from ...sources import code_digest
from ..bmodel import NETWORK, RECORD, BModel
from ..chips import parse_chip, parse_precision
from ..process import log_tail
from ..strategies import Strategy
from .installation import Nntc, nntc, nntc_with
from .strategies import DISTRIBUTION, NntcStrategy, from_common, layers_of_roles

if TYPE_CHECKING:
    from ...model.trace import TracedModel

CHIPS = ("BM1684", "BM1684X")
PRECISIONS = ("fp32", "int8")
CALIBRATION_TIMEOUT = 3600.0

_TRACE = "LPRNet_model_trace.pt"  # the stem of all that pt_to_umodel and calibration write
_UMODEL = "compilation/LPRNet_model_trace_bmnetp"
_DEPLOY = f"{_UMODEL}_deploy_int8_unique_top.prototxt"
_WEIGHTS = f"{_UMODEL}.int8umodel"
_RESULT = "compilation.bmodel"


def bmnetp_command(traced: TracedModel, chip: str) -> list[str]:
    """Compile a trace to a float BModel, ``compilation/compilation.bmodel``."""
    return [
        "python3",
        "-m",
        "bmnetp",
        f"--net_name={NETWORK}",
        f"--target={chip}",
        "--opt=1",
        "--cmp=true",
        f"--shapes={_shape(traced)}",
        f"--model={_TRACE}",
        "--outdir=compilation",
        "--dyn=false",
    ]


def pt_to_umodel_command(traced: TracedModel) -> list[str]:
    """Translate a trace to a float umodel that reads its images from ``lmdb/``."""
    return [
        "python3",
        "-m",
        "ufw.tools.pt_to_umodel",
        "-m",
        _TRACE,
        "-s",
        f"({_shape(traced)[1:-1]})",
        "-d",
        "compilation",
        "-D",
        "lmdb/",
        "--cmp",
    ]


def quantize_command(strategy: NntcStrategy, role_layers: Sequence[str] = ()) -> list[str]:
    """Quantize a float umodel."""
    return [
        "calibration_use_pb",
        "quantize",
        f"-model={_UMODEL}_test_fp32.prototxt",
        f"-weights={_UMODEL}.fp32umodel",
        *strategy.options(role_layers),
    ]


def bmnetu_command(traced: TracedModel, chip: str) -> list[str]:
    """Compile an INT8 umodel for the batch of `traced`."""
    return [
        "bmnetu",
        f"-model={_DEPLOY}",
        f"-weight={_WEIGHTS}",
        f"--target={chip}",
        "-outdir=compilation",
        f"-shapes={_shape(traced)}",
        "-cmp",
        "false",
    ]


def cali_model_command(traced: TracedModel, chip: str, strategy: NntcStrategy) -> list[str]:
    """Quantize and compile with the one-key tool."""
    command = [
        "python3",
        "-m",
        "ufw.cali.cali_model",
        "--net_name",
        NETWORK,
        "--model",
        _TRACE,
        "--input_shapes",
        _shape(traced),
        "--target",
        chip,
        "--cali_iterations",
        str(strategy.iterations),
        "--cali_lmdb",
        "lmdb/",
    ]
    options = strategy.options()[1:]
    if options:
        # One word with "=": argparse would take a value that starts with "-" for another option.
        command.append(f"--try_cali_accuracy_opt={';'.join(options)}")
    return [*command, "--outdir", "compilation"]


def _shape(traced: TracedModel) -> str:
    return "[" + ",".join(map(str, traced.input_shape)) + "]"


def compile_bmodel(
    traced: TracedModel,
    chip: str,
    precision: str,
    *,
    strategy: Strategy | NntcStrategy | None = None,
    calibration_images: np.ndarray | None = None,
    single: TracedModel | None = None,
) -> BModel:
    """Compile a traced network for a chip with TPU-NNTC.

    Parameters
    ----------
    traced
        The network at the batch size that is wanted.
    chip, precision
        One of `CHIPS` and of `PRECISIONS`.
    strategy
        How to quantize; needed for "int8" only. A common one is translated by
        `nntc_strategies.from_common`.
    calibration_images
        uint8 BGR ``[N, 24, 94, 3]``, at least as many as the strategy takes; "int8" only.
    single
        The same network traced at batch 1, on which to calibrate; needed for "int8" of a larger
        batch.

    Returns
    -------
    BModel
        Its folder holds the BModel and its log; there is no graph for the emulator and no predicted
        latency.

    Raises
    ------
    ParameterError
        For what TPU-NNTC cannot do.
    ToolchainError
        When it is not there, or a tool fails, with the end of its log.
    """
    chip, precision = _checked(chip, precision)
    if precision == "int8":
        if strategy is None or calibration_images is None:
            raise ParameterError("int8 needs a strategy and calibration images.")
        if isinstance(strategy, Strategy):
            strategy = from_common(strategy)
        first = traced if single is None else single
        _check_calibration(first, strategy, calibration_images)
        _check_form(traced, strategy)
    elif strategy is not None:
        raise ParameterError(f"strategy {strategy.name!r} does not apply to {precision}.")
    tools = nntc()
    inputs: dict[str, Any] = {
        "code": code_digest("nntc-bmodel"),
        "trace": traced.digest,
        "chip": chip,
        "precision": precision,
        "batch": traced.batch,
        "tpu_nntc": tools.version,
        "record": RECORD,
    }
    what = f"compiling for {chip} {precision}"
    if isinstance(strategy, NntcStrategy) and calibration_images is not None:
        umodel, key = _quantize(tools, first, calibration_images, strategy)
        inputs |= {"umodel": key, "strategy": strategy.key()}

    def build(folder: Path) -> None:
        log = folder / "compile.log"
        if precision == "int8":
            (folder / "compilation").mkdir()
            for name in (_DEPLOY, _WEIGHTS):
                shutil.copy(umodel / Path(name).name, folder / name)
            command = bmnetu_command(traced, chip)
        else:
            shutil.copy(traced.path, folder / _TRACE)
            command = bmnetp_command(traced, chip)
        tools.run(command, cwd=folder, log=log, what=what)
        _take(folder, folder / "compilation" / _RESULT, log, what)
        _record(folder, traced, chip, precision, strategy, inputs, tools)

    return BModel.load(artifact("nntc-bmodel", inputs, build))


def auto_calibrate(
    traced: TracedModel, chip: str, strategy: NntcStrategy, calibration_images: np.ndarray
) -> BModel:
    """Quantize and compile with TPU-NNTC's one-key tool, `ufw.cali.cali_model`.

    It tries settings by itself; those of `strategy` are given to it as
    ``--try_cali_accuracy_opt``.

    Parameters
    ----------
    traced
        The network traced at batch 1.
    chip
        One of `CHIPS`.
    strategy
        Options to try; float layers by name, since there is no prototxt yet to find roles in.
    calibration_images
        uint8 BGR ``[N, 24, 94, 3]``.

    Raises
    ------
    ParameterError, ToolchainError
        As `compile_bmodel`.
    """
    chip, _ = _checked(chip, "int8")
    if strategy.float_roles or strategy.load_dist or strategy.dump_dist:
        raise ParameterError(
            f"strategy {strategy.name!r}: the one-key tool takes neither "
            "float_roles nor load_dist or dump_dist. Name layers in fpfwd_blocks."
        )
    _check_calibration(traced, strategy, calibration_images)
    _check_form(traced, strategy)
    tools = nntc()
    images = _lmdb_images(strategy, calibration_images)
    inputs = {
        "code": code_digest("nntc-bmodel"),
        "trace": traced.digest,
        "chip": chip,
        "one_key": strategy.key(),
        "images": array_digest(images),
        "tpu_nntc": tools.version,
    }
    what = f"one-key calibration for {chip}"

    def build(folder: Path) -> None:
        log = folder / "compile.log"
        shutil.copy(traced.path, folder / _TRACE)
        arrays = preprocess(images, traced.network.input)
        write_lmdb((array[None] for array in arrays), folder / "lmdb")
        tools.run(
            cali_model_command(traced, chip, strategy),
            cwd=folder,
            log=log,
            what=what,
            timeout=CALIBRATION_TIMEOUT,
        )
        found = sorted(folder.rglob(_RESULT))
        if len(found) > 1:
            raise ToolchainError(
                f"{what} left {len(found)} BModels, expected one: "
                f"{', '.join(str(p.relative_to(folder)) for p in found)}."
            )
        _take(folder, found[0] if found else folder / _RESULT, log, what)
        _record(folder, traced, chip, "int8", strategy, inputs, tools)

    return BModel.load(artifact("nntc-bmodel", inputs, build))


def combine_bmodels(models: Sequence[BModel]) -> BModel:
    """Put the same network at several batch sizes into one BModel (`tpu_model --combine`).

    Parameters
    ----------
    models
        BModels that differ in their batch only.

    Returns
    -------
    BModel
        Its record is that of the largest batch; engines find the other stages in the file.

    Raises
    ------
    ParameterError
        When they do not go together.
    ToolchainError
        As `compile_bmodel`.
    """
    batches = [model.batch for model in models]
    if len(models) < 2 or len(set(batches)) != len(batches):
        raise ParameterError(
            f"cannot combine BModels of the batch sizes {batches}: give two or "
            "more, each with a batch size of its own."
        )
    for field in ("chip", "precision", "strategy", "weights", "batch_mean", "form", "input_dtype"):
        values = {getattr(model, field) for model in models}
        if len(values) > 1:
            raise ParameterError(
                f"cannot combine BModels that differ in {field}: "
                f"{', '.join(sorted(map(str, values)))}."
            )
    tools = nntc_with(("tpu_model",), ())
    inputs = {
        "code": code_digest("nntc-bmodel"),
        "combined": [model.sha256 for model in models],
        "tpu_nntc": tools.version,
        "record": RECORD,
    }
    largest = max(models, key=lambda model: model.batch)

    def build(folder: Path) -> None:
        log = folder / "compile.log"
        parts = [f"{model.batch}b.bmodel" for model in models]
        for model, part in zip(models, parts):
            shutil.copy(model.path, folder / part)
        tools.run(
            ["tpu_model", "--combine", *parts, "-o", _RESULT],
            cwd=folder,
            log=log,
            what="combining BModels",
        )
        _take(folder, folder / _RESULT, log, "combining BModels")
        path = folder / "lprnet.bmodel"
        replace(
            largest,
            path=path,
            sha256=file_digest(path),
            digest=digest(inputs),
            graph=None,
            predicted_latency_ms=None,
            tools=largest.tools | {"tpu_model": tools.version},
        ).save(folder)

    return BModel.load(artifact("nntc-bmodel", inputs, build))


def _checked(chip: str, precision: str) -> tuple[str, str]:
    chip, precision = parse_chip(chip), parse_precision(precision)
    for value, possible in ((chip, CHIPS), (precision, PRECISIONS)):
        if value not in possible:
            raise ParameterError(
                f"TPU-NNTC cannot compile for {value}. It does "
                f"{', '.join(possible)}; use toolchain 'mlir' for {value}."
            )
    return chip, precision


def _check_calibration(traced: TracedModel, strategy: NntcStrategy, images: np.ndarray) -> None:
    traced.network.input.check_images(images, "calibration images")
    if len(images) < strategy.iterations:
        raise ParameterError(
            f"strategy {strategy.name!r} takes {strategy.iterations} calibration "
            f"images, one an iteration; there are {len(images)}."
        )
    if traced.batch != 1:
        raise ParameterError(
            f"TPU-NNTC calibrates at batch 1, the trace has batch {traced.batch}. "
            "Give the network traced at batch 1 as well (`single`)."
        )


def _check_form(traced: TracedModel, strategy: NntcStrategy) -> None:
    if strategy.form != traced.form:
        raise ParameterError(
            f"strategy {strategy.name!r} needs the {strategy.form!r} form of the "
            f"network, the trace is {traced.form!r}."
        )


def _lmdb_images(strategy: NntcStrategy, images: np.ndarray) -> np.ndarray:
    chosen = images[: strategy.iterations]
    return np.ascontiguousarray(chosen[..., ::-1]) if strategy.channel_order == "rgb" else chosen


def _quantize(
    tools: Nntc, traced: TracedModel, images: np.ndarray, strategy: NntcStrategy
) -> tuple[Path, str]:
    """Folder with the INT8 umodel, and the digest of all that went in. It serves every chip."""
    images = _lmdb_images(strategy, images)
    given = None
    if strategy.load_dist:
        given = Path(strategy.load_dist)
        if not given.is_file():
            raise ParameterError(
                f"strategy {strategy.name!r}: load_dist={strategy.load_dist!r} is "
                "not a file. Name one that dump_dist wrote."
            )
    inputs = {
        "code": code_digest("nntc-umodel"),
        "trace": traced.digest,
        "images": array_digest(images),
        "strategy": strategy.key(),
        "distribution": file_digest(given) if given else None,
        "tpu_nntc": tools.version,
    }

    def build(folder: Path) -> None:
        log = folder / "calibration.log"
        shutil.copy(traced.path, folder / _TRACE)
        arrays = preprocess(images, traced.network.input)
        write_lmdb((array[None] for array in arrays), folder / "lmdb")
        if given:
            shutil.copy(given, folder / DISTRIBUTION)
        tools.run(pt_to_umodel_command(traced), cwd=folder, log=log, what="translating the trace")
        prototxt = folder / f"{_UMODEL}_test_fp32.prototxt"
        _need(folder, log, "translating the trace", f"{_UMODEL}.fp32umodel", prototxt)
        names = layers_of_roles(prototxt.read_text("utf8", "replace"), strategy.float_roles)
        tools.run(
            quantize_command(strategy, names),
            cwd=folder,
            log=log,
            what="calibrating",
            timeout=CALIBRATION_TIMEOUT,
        )
        wanted = [_DEPLOY, _WEIGHTS, *([DISTRIBUTION] if strategy.dump_dist else [])]
        _need(folder, log, "calibrating", *wanted)
        kept = {Path(name).name for name in wanted}
        for path in (folder / "compilation").iterdir():
            if path.name in kept or path.suffix == ".prototxt":
                shutil.move(path, folder / path.name)
        _keep(folder, lambda path: path.suffix == ".prototxt" or path.name in kept)

    return artifact("nntc-umodel", inputs, build), digest(inputs)


def _need(folder: Path, log: Path, what: str, *files: str | Path) -> None:
    for name in files:
        path = folder / name
        if not path.is_file() or not path.stat().st_size:
            raise _left_nothing(what, path.name, log)


def _left_nothing(what: str, name: str, log: Path) -> ToolchainError:
    return ToolchainError(
        f"{what} ended well but left no {name}. The end of its log:\n{log_tail(log)}"
    )


def _take(folder: Path, result: Path, log: Path, what: str) -> None:
    """Make `result` the artifact's BModel, and remove what else the tool left."""
    if not result.is_file() or not result.stat().st_size:
        raise _left_nothing(what, result.name, log)
    shutil.move(result, folder / "lprnet.bmodel")
    _keep(folder, lambda path: path.name == "lprnet.bmodel")


def _keep(folder: Path, wanted: Callable[[Path], bool]) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif not wanted(path) and path.suffix != ".log":
            path.unlink()


def _record(
    folder: Path,
    traced: TracedModel,
    chip: str,
    precision: str,
    strategy: NntcStrategy | None,
    inputs: dict[str, Any],
    tools: Nntc,
) -> None:
    path = folder / "lprnet.bmodel"
    BModel(
        path=path,
        chip=chip,
        precision=precision,
        batch=traced.batch,
        batch_mean=traced.batch_mean,
        form=traced.form,
        strategy=strategy.name if strategy else None,
        predicted_latency_ms=None,
        sha256=file_digest(path),
        digest=digest(inputs),
        tools={"tpu_nntc": tools.version},
        input_shape=traced.input_shape,
        output_shape=traced.output_shape,
        input_dtype="float32",
        weights=traced.weights,
        alphabet=traced.alphabet,
    ).save(folder)
