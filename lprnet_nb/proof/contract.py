"""Prove a backend: the same checks against every one, each in a process that may fall.

The checks run on a *kit* (see `kit`), whose own ``run.py`` proves a box that has nothing but numpy
and sail; here it is this package's engines that are proven. They run in a child process, since sail
takes its process down on what it does not like: a check during which that happens has failed, and
the rest go on in a new process.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .. import children
from ..cache import artifact
from ..datasets.images import PlateImages, preprocess
from ..errors import EngineError, LprnetError, ParameterError
from ..files import private_folder
from ..runtime.engine import open_engine
from ..runtime.interface import Engine
from ..toolchain.bmodel import BModel
from .kit import KitModel, Wanted, emulator_tolerance, fill_kit, programs_digest, read_kit

BACKENDS = ("device", "simulator", "emulator")
_IMAGES = 5  # one batch of four, and one more to pad
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Result:
    """Outcome of one check: `detail` says what was seen, or what went wrong."""

    check: str
    passed: bool
    detail: str


def make_kit(chip: str = "BM1688") -> Path:
    """A small kit of a chip, from the cache; needs the compiler.

    Returns
    -------
    Path
        See `kit`: FP32 at batch 1 and 4 and both in one (but not on BM1684), INT8 at batch 1, the
        emulator's graphs, and five pictures of noise.

    Notes
    -----
    The weights are seeded at random, so no published data is needed.
    """
    import torch  # here, since a machine with a device may well be without it

    from ..datasets.alphabet import PUBLISHED
    from ..model.lprnet import LPRNET
    from ..model.trace import trace_model
    from ..model.weights import Weights
    from ..toolchain.compile import compile_bmodel
    from ..toolchain.strategies import STRATEGIES

    torch.manual_seed(7)
    assert LPRNET.build is not None
    network = LPRNET.build(PUBLISHED.size, "image", "published", None)
    weights = Weights("seeded", network.state_dict())
    shape = (_IMAGES, *LPRNET.size, 3)
    images = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    images[1::2] = np.sort(images[1::2], axis=2)
    plates = PlateImages("seeded noise", images, tuple(f"{i}.png" for i in range(_IMAGES)))
    traced = {batch: trace_model(weights, batch) for batch in (1, 4)}
    models = [
        Wanted("fp32_1b", compile_bmodel(traced[1], chip, "fp32")),
        Wanted("fp32_4b", compile_bmodel(traced[4], chip, "fp32")),
        Wanted(
            "int8_1b",
            compile_bmodel(
                traced[1], chip, "int8", strategy=STRATEGIES["kl"], calibration_images=images
            ),
        ),
    ]
    return artifact(
        "contract-kit",
        {
            "models": {each.id: each.bmodel.digest for each in models},
            "programs": programs_digest(),
        },
        lambda folder: fill_kit(folder, models, plates, graphs=True, progress=False),
    )


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
        A kit's folder, perhaps of another machine: `lprnet-nb kit` makes one.
    sail_module
        Import path of sail, for "device".
    only
        Names of the checks to run; all by default.
    timeout
        Seconds for one process of checks: all of them, where none falls.

    Returns
    -------
    list of Result
        In the order in which they ran.

    Raises
    ------
    ParameterError
        For a backend that has no contract, a kit without the models that the checks need, or an
        unknown check.
    DataError
        For a folder that is no kit, or one that was changed.
    """
    if backend not in BACKENDS:
        raise ParameterError(
            f"backend {backend!r} has no contract. Choose one of {', '.join(BACKENDS)}."
        )
    folder = Path(kit) if kit else make_kit(chip)
    known, results = list(_checks(_Bench(backend, folder, sail_module))), []
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

    def __init__(self, backend: str, folder: Path, sail_module: str) -> None:
        self.backend, self.folder, self.kit = backend, folder, read_kit(folder)
        self.options = {"sail_module": sail_module} if backend == "device" else {}
        self.images = np.load(folder / "plates.npy", mmap_mode="r")
        models = [model for model in self.kit.models if model.record]
        self.single = {model.id: model for model in models}
        plain = [model for model in models if _takes_floats(model) and model.batch == 1]
        if not plain:
            raise ParameterError(
                f"{folder} has no model of batch 1 that takes floats, which the checks need. Make "
                "a kit with --batches 1,4."
            )
        self.one = plain[0].id
        self.precisions: dict[str, str] = {}
        for each in plain:
            self.precisions.setdefault(each.precision, each.id)
        larger = [model.id for model in models if _takes_floats(model) and model.batch > 1]
        self.larger = larger[0] if larger else None
        self.combined = next((model.id for model in self.kit.models if model.parts), None)
        if backend == "emulator" and any(self.record(name).graph is None for name in self.single):
            raise ParameterError(
                f"{folder} holds no graphs for the emulator. Name no kit: one with graphs is made."
            )

    def model(self, name: str) -> KitModel:
        return next(model for model in self.kit.models if model.id == name)

    def record(self, name: str) -> BModel:
        return BModel.load(self.folder / self.model(name).file)

    def inputs(self, name: str) -> np.ndarray:
        """A batch and one plate more, to be padded; where padding changes results a batch alone."""
        model = self.model(name)
        count = model.batch + 1 if model.batch_mean == "image" else model.batch
        return preprocess(self.images[:count])

    def open(self, model: Any = None, **options: Any) -> Engine:
        if model is None or isinstance(model, str):
            about = self.model(model or self.one)
            model = self.record(about.id) if about.record else self.folder / about.file
        # The kit was named by the user.
        return open_engine(model, self.backend, trust=True, **self.options, **options)

    def same(self, name: str, logits: np.ndarray, start: int = 0) -> str:
        """Compare with the kit's logits, from a plate on."""
        model = self.model(name)
        whole = np.load(self.folder / model.expected.file, mmap_mode="r")
        expected = whole[start : start + len(logits)]
        _must(
            logits.shape == expected.shape and logits.dtype == np.float32,
            f"logits are {logits.dtype} {list(logits.shape)}",
        )
        largest = float(np.abs(logits - expected).max())
        tolerance = model.expected.tolerance
        if self.backend == "emulator":
            tolerance = max(
                tolerance, emulator_tolerance(model.precision, model.cores, model.batch)
            )
        allowed = tolerance * float(np.abs(whole).max())
        _must(
            largest <= allowed,
            f"{name}: logits differ from the {model.expected.backend}'s by up to "
            f"{largest:.3g}, {allowed:.3g} is allowed",
        )
        _must(np.array_equal(logits.argmax(1), expected.argmax(1)), f"{name}: readings differ")
        return f"{name}: {len(logits)} images, largest difference {largest:.3g}"


def _takes_floats(model: KitModel) -> bool:
    return model.stages[0].inputs[0].dtype == "BM_FLOAT32"


def _must(condition: bool, otherwise: str) -> None:
    if not condition:
        raise AssertionError(otherwise)


def _there(found: _T | None, what: str) -> _T:
    """What a check is not run without."""
    if found is None:
        raise AssertionError(f"there is no {what}")
    return found


def _refused(what: str, act: Callable[[], Any], kind: type[Exception] = LprnetError) -> None:
    try:
        act()
    except kind:
        return
    raise AssertionError(f"{what} was not refused")


def _check_describes_itself(bench: _Bench) -> str:
    with bench.open() as engine:
        _must(engine.backend == engine.description["backend"] == bench.backend, "wrong backend")
        sha256 = bench.model(bench.one).sha256
        _must(engine.description["model"] == sha256, "wrong model digest")
        return json.dumps(engine.description, ensure_ascii=False)


def _check_names_shapes_dtypes(bench: _Bench) -> str:
    record = bench.record(bench.one)
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
                bench.model(bench.one).graph,
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


def _names(engine: Engine) -> tuple[str, str, str]:
    [graph] = engine.get_graph_names()
    [name], [output] = engine.get_input_names(graph), engine.get_output_names(graph)
    return graph, name, output


def _check_process(bench: _Bench) -> str:
    inputs = bench.inputs(bench.one)
    with bench.open() as engine:
        graph, name, output = _names(engine)
        last = len(inputs) - 1
        found = [engine.process(graph, {name: inputs[i : i + 1]})[output] for i in (0, last, 0)]
        bench.same(bench.one, found[1], last)
        _must(np.array_equal(found[0], found[2]), "the same input gave other logits later")
        rotated = np.asfortranarray(inputs[:1])
        before = rotated.copy()
        _must(
            np.array_equal(engine.process(graph, {name: rotated})[output], found[0]),
            "an array that is not contiguous gave other logits",
        )
        _must(np.array_equal(rotated, before), "the caller's array was written to")
        return bench.same(bench.one, found[0])


def _logits_check(precision: str) -> Callable[[_Bench], str]:
    def check(bench: _Bench) -> str:
        name = bench.precisions[precision]
        with bench.open(name) as engine:
            return bench.same(name, engine.infer(bench.inputs(name)))

    return check


def _check_larger_batch_and_padding(bench: _Bench) -> str:
    name = _there(bench.larger, "larger batch")
    with bench.open(name) as engine:
        _must(engine.batch == bench.model(name).batch, f"batch is {engine.batch}")
        return bench.same(name, engine.infer(bench.inputs(name)))


def _check_combined_stages(bench: _Bench) -> str:
    name = _there(bench.combined, "combined model")
    inputs = bench.inputs(name)
    parts = _there(bench.model(name).parts, "list of parts")
    sizes = sorted(map(int, parts))
    with bench.open(name) as engine:
        graph, given, output = _names(engine)
        most = engine.get_max_input_shapes(graph)[given][0]
        _must(most == sizes[-1], f"no stage of batch {sizes[-1]}")
        for size in (sizes[-1], sizes[0], sizes[-1]):
            logits = engine.process(graph, {given: inputs[:size]})[output]
            bench.same(parts[str(size)], logits)
        odd = sizes[-1] - 1
        _refused(f"a batch of {odd}", lambda: engine.process(graph, {given: inputs[:odd]}))
        logits = engine.infer(inputs)  # the last one by itself, where there is such a stage
        if len(inputs) > sizes[-1]:
            bench.same(parts[str(sizes[0])], logits[sizes[-1] :], sizes[-1])
        return bench.same(name, logits[: sizes[-1]])


def _check_warns_of_padding(bench: _Bench) -> str:
    name = _there(bench.larger, "larger batch")
    record = dataclasses.replace(bench.record(name), batch_mean="batch")
    with bench.open(record) as engine, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        engine.infer(bench.inputs(bench.one)[:1])
        _must(any("CHANGES" in str(each.message) for each in seen), "padding went unmentioned")
    return "a mean over the batch: warned of"


def _check_refuses_bad_calls(bench: _Bench) -> str:
    one = bench.inputs(bench.one)[:1]
    with bench.open() as engine:
        graph, name, _ = _names(engine)
        calls = {
            "an unknown graph": ("other", {name: one}),
            "no input": (graph, {}),
            "an unknown input": (graph, {"other": one}),
            "float64": (graph, {name: one.astype(np.float64)}),
            "uint8": (graph, {name: one.astype(np.uint8)}),
            "a missing dimension": (graph, {name: one[0]}),
            "a larger batch": (graph, {name: np.repeat(one, 9, axis=0)}),
            "another size": (graph, {name: one[:, :, :, :-1]}),
            "NaN": (graph, {name: one * np.float32("nan")}),
        }
        for what, call in calls.items():
            _refused(what, functools.partial(engine.process, *call))
        _refused("an unknown graph's shape", lambda: engine.get_input_shape("other", name))
        _refused("an unknown tensor's shape", lambda: engine.get_input_shape(graph, "other"))
        engine.infer(one)
    return f"{len(calls) + 2} bad calls, and the engine goes on"


def _check_refuses_bad_files(bench: _Bench) -> str:
    record = bench.record(bench.one)
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
    engine, inputs = bench.open(), bench.inputs(bench.one)
    engine.close()
    _refused("a call of a closed engine", lambda: engine.infer(inputs), EngineError)
    with bench.open() as again:
        return bench.same(bench.one, again.infer(inputs[:1]))


def _check_device_side_tensors(bench: _Bench) -> str:
    seen = []
    for name in bench.single:
        inputs = bench.inputs(name)
        with bench.open(name, io_mode="DEVIO") as engine:
            seen.append(bench.same(name, engine.infer(inputs)))
            runtime = _there(engine.runtime_seconds, "time in the runtime")
            overhead = 1000 * (engine.seconds - runtime) / len(inputs)
            seen.append(
                f"{1000 * runtime / len(inputs):.3f} ms an image in "
                f"the runtime, {overhead:.3f} ms around it"
            )
    return "; ".join(seen)


def _check_device_numbers(bench: _Bench) -> str:
    count = importlib.import_module(bench.options["sail_module"]).get_available_tpu_num()
    for bad in ([count], [-1], [0, 0], []):
        _refused(f"tpu_ids={bad}", functools.partial(bench.open, tpu_ids=bad))
    with bench.open(tpu_ids=range(count)) as engine:
        return f"{count} devices; " + bench.same(bench.one, engine.infer(bench.inputs(bench.one)))


_CALLS = (_check_refuses_bad_calls, _check_refuses_bad_files, _check_closes)
_DEVICE = (_check_device_side_tensors, _check_device_numbers)


def _checks(bench: _Bench) -> dict[str, Callable[[_Bench], str]]:
    """Checks by name. The emulator runs one graph, so it has no stages to choose from."""
    first = (_check_describes_itself, _check_names_shapes_dtypes, _check_process)
    found: dict[str, Callable[[_Bench], str]] = {_title(check): check for check in first}
    found |= {f"logits {precision}": _logits_check(precision) for precision in bench.precisions}
    more: list[Callable[[_Bench], str]] = []
    if bench.larger:
        more.append(_check_larger_batch_and_padding)
    if bench.combined and bench.backend != "emulator":
        more.append(_check_combined_stages)
    if bench.larger:
        more.append(_check_warns_of_padding)
    more += [*_CALLS, *(_DEVICE if bench.backend == "device" else ())]
    return found | {_title(check): check for check in more}


def _title(check: Callable[[_Bench], str]) -> str:
    return check.__name__.removeprefix("_check_").replace("_", " ")


def _main() -> None:
    told = json.loads(sys.argv[1])
    bench = _Bench(told["backend"], Path(told["kit"]), told["sail_module"])
    checks = _checks(bench)
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
