"""Prove a backend: the same checks against every one, each in a process that may fall.

A *kit* holds BModels with their SHA-256, inputs, and the logits that the chip simulator gives for
them. It is made where the compiler is, and can be copied to a machine with a device. The checks run
in a child process, since sail takes its process down on what it does not like: a check during which
that happens has failed, and the rest go on in a new process.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import children
from ..cache import artifact
from ..datasets.images import preprocess
from ..errors import EngineError, LprnetError, ParameterError
from ..files import private_folder
from ..runtime.engine import open_engine
from ..runtime.interface import Engine
from ..toolchain.bmodel import BModel, without_time
from ..toolchain.environment import compiler

BACKENDS = ("device", "simulator", "emulator")
_IMAGES = 5  # one batch of four, and one more to pad
# The emulator's float graphs sum in another order than the chip: largest difference allowed, as a
# part of the largest logit. Its INT8 graphs agree to the bit.
_EMULATOR_TOLERANCE = {"fp32": 2e-5, "int8": 0.0}
_COMBINED = "combined"


@dataclasses.dataclass(frozen=True)
class Result:
    """Outcome of one check: `detail` says what was seen, or what went wrong."""

    check: str
    passed: bool
    detail: str


def make_kit(chip: str = "BM1688") -> Path:
    """BModels, inputs and expected logits of a chip; needs the compiler.

    Returns
    -------
    Path
        A folder that can be copied: one folder for each model with its record, graph and
        `expected.npy`, and `inputs.npy`.

    Notes
    -----
    The weights are seeded at random, so no published data is needed. One model has a stage for
    batch 4 and one for batch 1, but not on BM1684, whose BModels the compiler's `model_tool` does
    not combine ("inconsistent kernel module mode").
    """
    import torch  # here, since a machine with a device may well be without it

    from ..model.network import LPRNet
    from ..model.trace import trace_model
    from ..model.weights import Weights
    from ..toolchain.compile import compile_bmodel
    from ..toolchain.strategies import STRATEGIES

    torch.manual_seed(7)
    weights = Weights("seeded", LPRNet(68).eval().state_dict())
    images = np.random.default_rng(3).integers(0, 256, (_IMAGES, 24, 94, 3), dtype=np.uint8)
    images[1::2] = np.sort(images[1::2], axis=2)
    traced = {batch: trace_model(weights, batch) for batch in (1, 4)}
    models = {
        "fp32_1b": compile_bmodel(traced[1], chip, "fp32"),
        "fp32_4b": compile_bmodel(traced[4], chip, "fp32"),
        "int8_1b": compile_bmodel(
            traced[1], chip, "int8", strategy=STRATEGIES["kl"], calibration_images=images
        ),
    }

    def build(folder: Path) -> None:
        np.save(folder / "inputs.npy", preprocess(images))
        for name, model in models.items():
            place = folder / name
            place.mkdir()
            shutil.copy(model.path, place / "lprnet.bmodel")
            shutil.copytree(model.graph, place / "graph")
            dataclasses.replace(model, path=place / "lprnet.bmodel", graph=place / "graph").save(
                place
            )
        if chip != "BM1684":
            combine_stages([models["fp32_1b"], models["fp32_4b"]], folder / _COMBINED)
        for place in sorted(each.parent for each in folder.glob("*/lprnet.bmodel")):
            with open_engine(
                place / "lprnet.bmodel" if place.name == _COMBINED else place, "simulator"
            ) as engine:
                np.save(place / "expected.npy", engine.infer(preprocess(images)))

    return artifact(
        "contract-kit",
        {
            "models": {name: model.digest for name, model in models.items()},
        },
        build,
    )


def combine_stages(models: Sequence[BModel], place: Path) -> Path:
    """Put the same network at several batch sizes into one BModel with TPU-MLIR's tool.

    The largest batch goes first whatever the order given: the other way round, batch 1 gives wrong
    logits on BM1684X (TPU-MLIR 1.30.2, chip simulator).

    Parameters
    ----------
    models
        One for each batch size.
    place
        Folder to make, for ``lprnet.bmodel`` and the tool's log.

    Raises
    ------
    ToolchainError
        When the tool fails, as it does for BM1684.
    """
    place.mkdir()
    ordered = sorted(models, key=lambda model: -model.batch)
    compiler().run(
        [
            "model_tool",
            "--combine",
            *(model.path for model in ordered),
            "-o",
            place / "lprnet.bmodel",
        ],
        cwd=place,
        log=place / "combine.log",
        what="combining BModels",
    )
    without_time(place / "lprnet.bmodel")
    return place / "lprnet.bmodel"


def save_kit(target: str | Path, chip: str = "BM1688") -> Path:
    """Make a chip's kit and copy it to a new folder, to be carried to a machine with a device.

    Raises
    ------
    ParameterError
        When the folder is there already.
    """
    target = Path(target)
    if target.exists():
        raise ParameterError(f"{target} is there already. Name a new folder for the kit.")
    return Path(shutil.copytree(make_kit(chip), target))


def run_contract(
    backend: str,
    *,
    chip: str = "BM1688",
    kit: str | Path | None = None,
    sail_module: str = "sophon.sail",
    only: Sequence[str] | None = None,
    timeout: float = 600.0,
) -> list[Result]:
    """Run the checks of a backend.

    Parameters
    ----------
    backend
        "device", "simulator" or "emulator".
    chip
        Chip to make the kit for, where `kit` is not given.
    kit
        Folder that `make_kit` returned, perhaps on another machine.
    sail_module
        Import path of sail, for "device".
    only
        Names of the checks to run; all by default.
    timeout
        Seconds for one process of checks.

    Returns
    -------
    list of Result
        In the order in which they ran.

    Raises
    ------
    ParameterError
        For a backend that has no contract, a folder that is no kit, or an unknown check.
    """
    if backend not in BACKENDS:
        raise ParameterError(
            f"backend {backend!r} has no contract. Choose one of {', '.join(BACKENDS)}."
        )
    folder = Path(kit) if kit else make_kit(chip)
    if not (folder / "inputs.npy").is_file():
        raise ParameterError(
            f"{folder} is no contract kit. `lprnet-nb contract` makes one where the compiler is."
        )
    known, results = list(_checks(backend, folder)), []
    unknown = set(only or ()) - set(known)
    if unknown:
        raise ParameterError(
            f"unknown check {', '.join(sorted(unknown))}. There are: {', '.join(known)}."
        )
    waiting = [name for name in known if only is None or name in only]
    with tempfile.TemporaryDirectory(prefix="contract-", dir=private_folder()) as scratch:
        report, log = Path(scratch) / "report", Path(scratch) / "log"
        while waiting:
            report.write_text("", "utf8")
            end = _run_child(backend, folder, sail_module, waiting, report, log, timeout)
            lines = [json.loads(line) for line in report.read_text("utf8").splitlines()]
            done = [Result(**line) for line in lines if "passed" in line]
            results += done
            begun = [line["check"] for line in lines if "passed" not in line]
            if len(done) < len(waiting):  # it fell
                fallen = begun[-1] if len(begun) > len(done) else waiting[len(done)]
                tail = log.read_text("utf8", "replace").strip()[-300:]
                results.append(Result(fallen, False, f"the process {end}. {tail}"))
            finished = {result.check for result in results}
            waiting = [name for name in waiting if name not in finished]
    return results


def _run_child(
    backend: str,
    kit: Path,
    sail_module: str,
    checks: list[str],
    report: Path,
    log: Path,
    timeout: float,
) -> str:
    """Run checks in a process; returns how it ended."""
    told = {
        "backend": backend,
        "kit": str(kit.resolve()),
        "sail_module": sail_module,
        "checks": checks,
        "report": str(report),
    }
    with open(log, "wb") as file:
        process = children.start(
            [sys.executable, "-P", "-m", __name__, json.dumps(told)], stdout=file, stderr=file
        )
        try:
            code = children.finish(process, timeout)
        except TimeoutError:
            return f"did not end within {timeout:g} s"
    return f"fell with {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


# The checks: each takes what it needs from `_Bench` and returns what it saw.


class _Bench:
    """Opens the kit's models on the backend under test."""

    def __init__(self, backend: str, kit: Path, sail_module: str) -> None:
        self.backend, self.kit = backend, kit
        self.options = {"sail_module": sail_module} if backend == "device" else {}
        self.inputs = np.load(kit / "inputs.npy")

    def record(self, name: str) -> BModel:
        return BModel.load(self.kit / name)

    def open(self, model: Any = "fp32_1b", **options: Any) -> Engine:
        if model == _COMBINED:
            model = self.kit / _COMBINED / "lprnet.bmodel"
        elif isinstance(model, str):
            model = self.record(model)
        # The kit was named by the user.
        return open_engine(model, self.backend, trust=True, **self.options, **options)

    def expected(self, name: str) -> np.ndarray:
        return np.load(self.kit / name / "expected.npy")

    def same(self, name: str, logits: np.ndarray, rows: slice = slice(None)) -> str:
        """Compare with the simulator's logits."""
        expected = self.expected(name)[rows]
        _must(
            logits.shape == expected.shape and logits.dtype == np.float32,
            f"logits are {logits.dtype} {list(logits.shape)}",
        )
        largest = float(np.abs(logits - expected).max())
        allowed = 0.0
        if self.backend == "emulator":
            allowed = _EMULATOR_TOLERANCE[name[:4]] * float(np.abs(expected).max())
        _must(
            largest <= allowed,
            f"{name}: logits differ from the simulator's by up to "
            f"{largest:.3g}, {allowed:.3g} is allowed",
        )
        _must(np.array_equal(logits.argmax(1), expected.argmax(1)), f"{name}: readings differ")
        return f"{name}: {len(logits)} images, largest difference {largest:.3g}"


def _must(condition: bool, otherwise: str) -> None:
    if not condition:
        raise AssertionError(otherwise)


def _refused(what: str, act: Callable[[], Any], kind: type = LprnetError) -> None:
    try:
        act()
    except kind:
        return
    raise AssertionError(f"{what} was not refused")


def _check_describes_itself(bench: _Bench) -> str:
    with bench.open() as engine:
        _must(engine.backend == engine.description["backend"] == bench.backend, "wrong backend")
        _must(engine.description["model"] == bench.record("fp32_1b").sha256, "wrong model digest")
        return json.dumps(engine.description, ensure_ascii=False)


def _check_names_shapes_dtypes(bench: _Bench) -> str:
    record = bench.record("fp32_1b")
    with bench.open() as engine:
        [graph] = engine.get_graph_names()
        [name], [output] = engine.get_input_names(graph), engine.get_output_names(graph)
        seen = [
            graph,
            engine.get_input_shape(graph, name),
            engine.get_output_shape(graph, output),
            engine.get_input_dtype(graph, name),
            engine.get_output_dtype(graph, output),
            engine.get_input_scale(graph, name),
            engine.get_output_scale(graph, output),
            engine.get_max_input_shapes(graph),
            engine.get_max_output_shapes(graph),
            engine.graph_is_dynamic(graph),
        ]
        shape, result = list(record.input_shape), list(record.output_shape)
        _must(
            seen
            == [
                "lprnet",
                shape,
                result,
                "BM_FLOAT32",
                "BM_FLOAT32",
                1.0,
                1.0,
                {name: shape},
                {output: result},
                False,
            ],
            f"it says {seen}",
        )
        _must(isinstance(engine.get_device_id(), int), "the device has no number")
    return f"{name} {shape} -> {output} {result}"


def _check_process(bench: _Bench) -> str:
    with bench.open() as engine:
        [name], [output] = engine.get_input_names("lprnet"), engine.get_output_names("lprnet")
        found = [
            engine.process("lprnet", {name: bench.inputs[i : i + 1]})[output] for i in (0, 1, 0)
        ]
        bench.same("fp32_1b", found[1], slice(1, 2))
        _must(np.array_equal(found[0], found[2]), "the same input gave other logits later")
        rotated = np.asfortranarray(bench.inputs[:1])
        _must(
            np.array_equal(engine.process("lprnet", {name: rotated})[output], found[0]),
            "an array that is not contiguous gave other logits",
        )
        return bench.same("fp32_1b", found[0], slice(0, 1))


def _check_logits_fp32(bench: _Bench) -> str:
    with bench.open() as engine:
        return bench.same("fp32_1b", engine.infer(bench.inputs))


def _check_logits_int8(bench: _Bench) -> str:
    with bench.open("int8_1b") as engine:
        return bench.same("int8_1b", engine.infer(bench.inputs))


def _check_batch_4_and_padding(bench: _Bench) -> str:
    with bench.open("fp32_4b") as engine:
        _must(engine.batch == 4, f"batch is {engine.batch}")
        return bench.same("fp32_4b", engine.infer(bench.inputs))


def _check_combined_stages(bench: _Bench) -> str:
    with bench.open(_COMBINED) as engine:
        [name], [output] = engine.get_input_names("lprnet"), engine.get_output_names("lprnet")
        _must(engine.get_max_input_shapes("lprnet")[name][0] == 4, "no stage of batch 4")
        for size in (4, 1, 4):
            logits = engine.process("lprnet", {name: bench.inputs[:size]})[output]
            bench.same(f"fp32_{size}b", logits, slice(0, size))
        _refused("a batch of 2", lambda: engine.process("lprnet", {name: bench.inputs[:2]}))
        return bench.same(_COMBINED, engine.infer(bench.inputs))


def _check_warns_of_padding(bench: _Bench) -> str:
    record = dataclasses.replace(bench.record("fp32_4b"), batch_mean="batch")
    with bench.open(record) as engine, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        engine.infer(bench.inputs)
        _must(any("CHANGES" in str(each.message) for each in seen), "padding went unmentioned")
    return "a mean over the batch: warned of"


def _check_refuses_bad_calls(bench: _Bench) -> str:
    one = bench.inputs[:1]
    with bench.open() as engine:
        [name] = engine.get_input_names("lprnet")
        calls = {
            "an unknown graph": ("other", {name: one}),
            "no input": ("lprnet", {}),
            "an unknown input": ("lprnet", {"other": one}),
            "float64": ("lprnet", {name: one.astype(np.float64)}),
            "uint8": ("lprnet", {name: one.astype(np.uint8)}),
            "a missing dimension": ("lprnet", {name: one[0]}),
            "a larger batch": ("lprnet", {name: bench.inputs}),
            "another size": ("lprnet", {name: one[:, :, :, :-1]}),
            "NaN": ("lprnet", {name: one * np.float32("nan")}),
        }
        for what, call in calls.items():
            _refused(what, lambda call=call: engine.process(*call))
        _refused("an unknown graph's shape", lambda: engine.get_input_shape("other", name))
        _refused("an unknown tensor's shape", lambda: engine.get_input_shape("lprnet", "other"))
        engine.infer(one)
    return f"{len(calls) + 2} bad calls, and the engine goes on"


def _check_refuses_bad_files(bench: _Bench) -> str:
    record = bench.record("fp32_1b")
    data = record.path.read_bytes()
    with tempfile.TemporaryDirectory(dir=private_folder()) as folder:
        path = Path(folder) / "bad.bmodel"
        for what, content in {
            "a truncated file": data[:-1],
            "an empty file": b"",
            "garbage": b"plate" * 999,
            "a flipped bit": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        }.items():
            path.write_bytes(content)
            _refused(what, lambda: bench.open(dataclasses.replace(record, path=path)))
    _refused(
        "another chip's record",
        lambda: bench.open(
            dataclasses.replace(record, chip="BM1684X" if record.chip != "BM1684X" else "BM1684")
        ),
    )
    _refused(
        "a missing file",
        lambda: bench.open(dataclasses.replace(record, path=Path("/nowhere.bmodel"))),
    )
    return "6 bad files"


def _check_closes(bench: _Bench) -> str:
    engine = bench.open()
    engine.close()
    _refused("a call of a closed engine", lambda: engine.infer(bench.inputs), EngineError)
    with bench.open() as again:
        return bench.same("fp32_1b", again.infer(bench.inputs[:1]), slice(0, 1))


def _check_device_side_tensors(bench: _Bench) -> str:
    seen = []
    for name in ("fp32_1b", "int8_1b", "fp32_4b"):
        with bench.open(name, io_mode="DEVIO") as engine:
            seen.append(bench.same(name, engine.infer(bench.inputs)))
            overhead = 1000 * (engine.seconds - engine.runtime_seconds) / len(bench.inputs)
            seen.append(
                f"{1000 * engine.runtime_seconds / len(bench.inputs):.3f} ms an image in "
                f"the runtime, {overhead:.3f} ms around it"
            )
    return "; ".join(seen)


def _check_device_numbers(bench: _Bench) -> str:
    count = importlib.import_module(bench.options["sail_module"]).get_available_tpu_num()
    for bad in ([count], [-1], [0, 0], []):
        _refused(f"tpu_ids={bad}", lambda bad=bad: bench.open(tpu_ids=bad))
    with bench.open(tpu_ids=range(count)) as engine:
        return f"{count} devices; " + bench.same("fp32_1b", engine.infer(bench.inputs))


_COMMON = (
    _check_describes_itself,
    _check_names_shapes_dtypes,
    _check_process,
    _check_logits_fp32,
    _check_logits_int8,
    _check_batch_4_and_padding,
    _check_warns_of_padding,
    _check_refuses_bad_calls,
    _check_refuses_bad_files,
    _check_closes,
)
_DEVICE = (_check_device_side_tensors, _check_device_numbers)


def _checks(backend: str, kit: Path) -> dict[str, Callable[[_Bench], str]]:
    """Checks by name. The emulator runs one graph, so it has no stages to choose from."""
    chosen = list(_COMMON)
    if backend != "emulator" and (kit / _COMBINED).is_dir():
        chosen.insert(6, _check_combined_stages)
    if backend == "device":
        chosen += _DEVICE
    return {check.__name__.removeprefix("_check_").replace("_", " "): check for check in chosen}


def _main() -> None:
    told = json.loads(sys.argv[1])
    bench = _Bench(told["backend"], Path(told["kit"]), told["sail_module"])
    checks = _checks(told["backend"], bench.kit)
    with open(told["report"], "a", buffering=1, encoding="utf8") as report:
        for name in told["checks"]:
            report.write(json.dumps({"check": name}) + "\n")
            try:
                result = Result(name, True, checks[name](bench))
            except Exception as error:
                result = Result(name, False, f"{type(error).__name__}: {error}")
            report.write(json.dumps(dataclasses.asdict(result)) + "\n")
    os._exit(0)  # the runtime's threads may fall while the interpreter ends


if __name__ == "__main__":
    _main()
