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

import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ... import children
from ...cache import array_digest, artifact, code_digest, digest, file_digest
from ...datasets.images import preprocess
from ...datasets.lmdb import write_lmdb
from ...errors import ParameterError, ToolchainError
from ...files import private_folder
from ...model.trace import TracedModel
from ...settings import settings, variable
from ..bmodel import NETWORK, RECORD, BModel
from ..chips import parse_chip, parse_precision
from ..process import log_tail, run_logged
from ..strategies import Strategy
from .strategies import DISTRIBUTION, NntcStrategy, from_common, layers_of_roles

SDK_VARIABLE = variable("nntc_sdk")
DOCKER_VARIABLE = variable("nntc_docker")
CHIPS = ("BM1684", "BM1684X")
PRECISIONS = ("fp32", "int8")

COMPILE_TIMEOUT = 900.0  # seconds
CALIBRATION_TIMEOUT = 3600.0
PROBE_TIMEOUT = 1800.0  # a docker image may have to be fetched first

_PROGRAMS = ("bmnetu", "calibration_use_pb")
_MODULES = ("bmnetp", "ufw")
_TRACE = "LPRNet_model_trace.pt"  # the stem of all that pt_to_umodel and calibration write
_UMODEL = "compilation/LPRNet_model_trace_bmnetp"
_DEPLOY = f"{_UMODEL}_deploy_int8_unique_top.prototxt"
_WEIGHTS = f"{_UMODEL}.int8umodel"
_RESULT = "compilation.bmodel"

# A sourced script sees the positional parameters of its caller, so they are put out of its way.
_SOURCE = (
    'lprnet_sdk=$1 lprnet_work=$2; shift 2; lprnet_tool=("$@"); set --; cd "$lprnet_sdk" && '
    '{ source scripts/envsetup.sh >&2; cd "$lprnet_work"; } && exec "${lprnet_tool[@]}"'
)
_PROBE = """
for tool in {programs}; do
  path=$(command -v "$tool") && sum=$(sha256sum < "$path") || sum=-
  echo "lprnet-nb $tool ${{sum%% *}}"
done
python3 -c 'import importlib.util as u, sys
for name in sys.argv[1:]: print("lprnet-nb", name, "+" if u.find_spec(name) else "-")' {modules} \
  || echo "lprnet-nb python3 -"
"""
_HELP = (
    f"Unpack the vendor's TPU-NNTC SDK and name its folder in {SDK_VARIABLE} (or `source "
    "scripts/envsetup.sh` in it first); on a system that it does not run on, also name the "
    f"vendor's docker image in {DOCKER_VARIABLE} (sophgo/tpuc_dev). Or use --toolchain mlir, "
    "which installs itself."
)


@dataclass(frozen=True)
class Nntc:
    """A TPU-NNTC installation.

    Parameters
    ----------
    sdk
        Folder of the unpacked SDK, or None where its tools are on the PATH.
    image
        Docker image that the tools run in, or None.
    programs
        SHA-256 of its programs by name: part of the key of all that it makes.
    """

    sdk: Path | None
    image: str | None
    programs: tuple[tuple[str, str], ...] = ()

    @property
    def version(self) -> str:
        """What is known of its version: the SDK folder's name, the image, the programs' digest."""
        sdk = self.sdk.name if self.sdk else Path(os.environ.get("REL_TOP", "on PATH")).name
        programs = digest(self.programs)[:12]
        return f"{sdk} {programs}" + (f" in {self.image}" if self.image else "")

    def command(self, command: Sequence[str], cwd: Path, container: str) -> list[str]:
        """The whole command line that runs a tool in `cwd`; `container` names its container."""
        if self.sdk is None:
            return list(command)
        if self.image is None:
            return ["bash", "-c", _SOURCE, "nntc", str(self.sdk), str(cwd), *command]
        if "," in f"{self.sdk}{cwd}":
            raise ToolchainError(
                f"docker cannot mount {self.sdk} or {cwd}: a comma in the path. "
                "Move the SDK, or name another cache folder in LPRNET_CACHE."
            )
        return [
            "docker",
            "run",
            "--rm",
            "--init",
            "--name",
            container,
            "--user",
            f"{os.getuid()}:{os.getgid()}",
            "--env",
            "HOME=/tmp",
            "--mount",
            f"type=bind,source={self.sdk},target=/workspace/tpu-nntc",
            "--mount",
            f"type=bind,source={cwd},target=/workspace/work",
            self.image,
            "bash",
            "-c",
            _SOURCE,
            "nntc",
            "/workspace/tpu-nntc",
            "/workspace/work",
            *command,
        ]

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        log: Path,
        what: str,
        timeout: float = COMPILE_TIMEOUT,
    ) -> None:
        """Run one tool in a folder; paths in its command are relative to that.

        Raises
        ------
        ToolchainError
            With the end of the log, when it fails or does not end.
        """
        container = f"lprnet-nntc-{secrets.token_hex(6)}"
        try:
            run_logged(
                self.command(command, cwd.resolve(), container),
                cwd=cwd,
                log=log,
                env=environment(),
                python=sys.executable,
                timeout=timeout,
                what=what,
            )
        except BaseException:
            if self.image:  # killing docker's client leaves the container running
                with contextlib.suppress(OSError):
                    children.run(["docker", "kill", container], timeout=60)
            raise


def environment() -> dict[str, str]:
    """Environment of the tools: ours without the workbook's own Python, which has no TPU-NNTC."""
    keep = {k: v for k, v in children.environment().items() if k != "VIRTUAL_ENV"}
    if sys.prefix != sys.base_prefix:
        own = Path(sys.prefix, "bin")
        keep["PATH"] = os.pathsep.join(
            part for part in keep.get("PATH", "").split(os.pathsep) if part and Path(part) != own
        )
    return keep


def nntc() -> Nntc:
    """The TPU-NNTC that the environment names.

    Raises
    ------
    ToolchainError
        When there is none, or it is not complete: what is missing and how to get it.
    """
    return _found(_PROGRAMS, _MODULES)


def _found(programs: tuple[str, ...], modules: tuple[str, ...]) -> Nntc:
    sdk, image = settings().nntc_sdk, settings().nntc_docker
    folder = Path(sdk).expanduser().resolve() if sdk else None
    if folder and not (folder / "scripts" / "envsetup.sh").is_file():
        raise ToolchainError(
            f"{SDK_VARIABLE}={sdk} is not an unpacked TPU-NNTC SDK: it has no "
            f"scripts/envsetup.sh. {_HELP}"
        )
    if image and not folder:
        raise ToolchainError(
            f"{DOCKER_VARIABLE}={image} needs {SDK_VARIABLE} too: the image holds "
            f"the system that the SDK runs on, not the SDK. {_HELP}"
        )
    if image and not children.program("docker"):
        raise ToolchainError(
            f"{DOCKER_VARIABLE}={image} needs docker, which is not on the PATH. "
            "Install docker, or run where the SDK's own tools run."
        )
    found = _probe(
        Nntc(folder, image),
        programs,
        modules,
        environment().get("PATH", ""),
        os.environ.get("PYTHONPATH", ""),
    )
    missing = [name for name in (*programs, *modules) if found.get(name, "-") == "-"]
    if missing:
        raise ToolchainError(
            f"TPU-NNTC is not here: no {', '.join(missing)}"
            f"{f' in {image}' if image else ''}"
            f"{f' after sourcing {folder}/scripts/envsetup.sh' if folder else ''}"
            f". {_HELP}"
        )
    return Nntc(folder, image, tuple(sorted((name, found[name]) for name in programs)))


@lru_cache
def _probe(
    tools: Nntc, programs: tuple[str, ...], modules: tuple[str, ...], path: str, python_path: str
) -> dict[str, str]:
    """Digest of each program and "+" for each module that is there, "-" for what is not."""
    script = _PROBE.format(programs=" ".join(programs), modules=" ".join(modules))
    with tempfile.TemporaryDirectory(prefix="nntc-", dir=private_folder()) as folder:
        log = Path(folder) / "probe.log"
        tools.run(
            ["bash", "-c", script],
            cwd=Path(folder),
            log=log,
            what="looking for TPU-NNTC's tools",
            timeout=PROBE_TIMEOUT,
        )
        lines = [line.split() for line in log.read_text("utf8", "replace").splitlines()]
    return {words[1]: words[2] for words in lines if len(words) == 3 and words[0] == "lprnet-nb"}


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
    tools = _found(("tpu_model",), ())
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
