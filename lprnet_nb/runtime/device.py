"""Run a BModel on Sophgo's devices, through the real `sophon.sail`.

sail casts arrays silently, runs again on old input when given none, and takes the process down for
an unknown graph or device. So names, shapes and dtypes are checked before every call (see
`interface`), and file, chip and device numbers before anything is opened. A BModel goes to each
device as an engine of its own: sail's `MultiEngine` shares one call out over devices, but does not
tell how it deals with a batch that they cannot share evenly.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..cache import file_digest
from ..errors import EngineError, ParameterError
from ..toolchain.chips import CHIPS
from .bmodel_file import Graph, Stage, read_contents
from .interface import Arrays, Engine, Job, from_chip, to_chip

IO_MODES = ("SYSIO", "DEVIO")
_NEEDED = (
    "Engine",
    "Handle",
    "IOMode",
    "Dtype",
    "Tensor",
    "get_available_tpu_num",
    "set_print_flag",
)
_SAME_CHIP = {"CV186AH": "CV186X"}  # what a chip calls itself, and the compilers call it
_LIBRARY = re.compile(r"/lib(bmrt|bmlib|bmcv|sophon|tpu|cmodel)[^/]*\.so[^/]*$")
_HELP = (
    "sophon.sail comes with Sophgo's SDK (a wheel beside libsophon, or built from "
    "github.com/sophgo/sophon-sail); it is not on PyPI, where `sail` is something else. On a "
    'machine without a device use backend="simulator".'
)


class DeviceEngine(Engine):
    """A BModel on one or more devices.

    Parameters
    ----------
    bmodel
        The file.
    batch_mean
        See `Engine`.
    tpu_ids
        Numbers of the devices to use; batches are shared out over them.
    io_mode
        "SYSIO": sail copies arrays in and out by itself. "DEVIO": tensors live on the device, and
        the time of the run alone is known (`runtime_seconds`). Same results. Several devices are
        always run by "DEVIO": sail holds Python's lock for the whole of a call with arrays, so
        they would take turns.
    sail_module
        Import path of the module.
    print_times
        Let sail print the time of each step (`set_print_flag`).

    Raises
    ------
    ParameterError
        For a device number that is not there, or an unknown io_mode.
    EngineError
        When sail or the device is missing, the BModel is damaged or for another chip, or sail
        reads something else in it.
    """

    backend = "device"

    def __init__(
        self,
        bmodel: Path,
        *,
        batch_mean: str | None = None,
        tpu_ids: Sequence[int] = (0,),
        io_mode: str = "SYSIO",
        sail_module: str = "sophon.sail",
        print_times: bool = False,
    ) -> None:
        if io_mode not in IO_MODES:
            raise ParameterError(f"unknown io_mode {io_mode!r}. Choose {' or '.join(IO_MODES)}.")
        contents = read_contents(bmodel)
        self.sail = load_sail(sail_module)
        ids = _checked_ids(self.sail, tpu_ids)
        if len(ids) > 1:
            io_mode = "DEVIO"
        super().__init__(contents.graphs, batch_mean=batch_mean, device_id=ids[0])
        targets = [_check_chip(self.sail, tpu, contents.chip, bmodel) for tpu in ids]
        self.sail.set_print_flag(bool(print_times))
        try:
            self._devices = [_Device(self.sail, bmodel, tpu, io_mode) for tpu in ids]
        except Exception as error:  # sail's own classes differ from version to version
            raise EngineError(f"sail cannot load {bmodel}: {error}") from error
        for device in self._devices:
            self._compare(device.engine, bmodel)
        self.runtime_seconds = 0.0 if io_mode == "DEVIO" else None
        self.description |= {
            "model": file_digest(bmodel),
            "chip": contents.chip,
            "device": targets[0],
            "tool": f"{sail_module} {getattr(self.sail, '__version__', 'of unknown version')}",
            **_system(),
            "tpu_ids": list(ids),
            "io_mode": io_mode,
        }

    @property
    def handle(self) -> Any:
        """sail's `Handle` of the first device."""
        return self._devices[0].handle

    def run_tensors(self, graph: Graph, stage: Stage, tensor: Any) -> Arrays:
        """Run a stage of one input on a sail `Tensor` that lies on the first device."""
        with self._lock:
            started = time.perf_counter()
            outputs = self._devices[0].run_tensors(graph, stage, {stage.inputs[0].name: tensor})
            self.seconds += time.perf_counter() - started
        return outputs

    def _run(self, graph: Graph, stage: Stage, inputs: Arrays) -> Arrays:
        return self._on(self._devices[0], graph, stage, inputs)

    def _run_many(self, jobs: list[Job]) -> Iterator[tuple[int, Arrays]]:
        if len(self._devices) == 1:
            yield from super()._run_many(jobs)
            return
        free = list(self._devices)

        def run(job: Job) -> Arrays:
            device = free.pop()  # as many threads as devices, so there is always one
            try:
                return self._on(device, *job)
            finally:
                free.append(device)

        with ThreadPoolExecutor(len(self._devices)) as pool:
            numbers = {pool.submit(run, job): index for index, job in enumerate(jobs)}
            for done in as_completed(numbers):
                yield numbers[done], done.result()

    def _on(self, device: _Device, graph: Graph, stage: Stage, inputs: Arrays) -> Arrays:
        try:
            outputs = device.run(graph, stage, inputs)
        except EngineError:
            raise
        except Exception as error:  # sail's own classes differ from version to version
            raise EngineError(
                f"sail failed to run {graph.name!r} on device {device.tpu}: {error}"
            ) from error
        if self.runtime_seconds is not None:
            self.runtime_seconds = sum(each.seconds for each in self._devices)
        for tensor in stage.outputs:
            if outputs[tensor.name].shape != tensor.shape:
                raise EngineError(
                    f"sail returned {tensor.name} in the shape "
                    f"{list(outputs[tensor.name].shape)}, the BModel says "
                    f"{list(tensor.shape)}."
                )
        return outputs

    def _compare(self, engine: Any, bmodel: Path) -> None:
        """Make sure that sail finds the same graphs, names and dtypes in the file as we did."""
        for graph in self._graphs.values():
            if graph.name not in engine.get_graph_names():
                raise EngineError(
                    f"sail does not find the graph {graph.name!r} of {bmodel}, but "
                    f"{engine.get_graph_names()}."
                )
            for side, tensors in (
                ("input", graph.stages[0].inputs),
                ("output", graph.stages[0].outputs),
            ):
                names = getattr(engine, f"get_{side}_names")(graph.name)
                dtypes = [
                    _name(getattr(engine, f"get_{side}_dtype")(graph.name, name)) for name in names
                ]
                expected = [(tensor.name, tensor.dtype) for tensor in tensors]
                if sorted(zip(names, dtypes, strict=True)) != sorted(expected):
                    raise EngineError(
                        f"sail finds the {side}s {dict(zip(names, dtypes))} in "
                        f"{bmodel}, its metadata says {dict(expected)}."
                    )

    def _close(self) -> None:
        self._devices.clear()  # sail frees the device's memory with its objects


class _Device:
    """sail's engine on one device, and the tensors that DEVIO runs reuse."""

    def __init__(self, sail: ModuleType, bmodel: Path, tpu: int, io_mode: str) -> None:
        self.sail, self.tpu, self.io_mode = sail, tpu, io_mode
        self.engine = sail.Engine(str(bmodel), tpu, getattr(sail.IOMode, io_mode))
        self.handle = self.engine.get_handle()
        self.seconds = 0.0  # inside sail's process(), copies left out
        self._tensors: dict[tuple[str, tuple[int, ...]], Any] = {}

    def run(self, graph: Graph, stage: Stage, inputs: Arrays) -> Arrays:
        if self.io_mode == "SYSIO":
            found = self.engine.process(graph.name, inputs)
            return {
                tensor.name: np.array(found[tensor.name], np.float32) for tensor in stage.outputs
            }
        tensors = {}
        for tensor in stage.inputs:
            tensors[tensor.name] = on_device = self._tensor(tensor, "input")
            on_device.update_data(to_chip(inputs[tensor.name], tensor))
            on_device.sync_s2d()
        return self.run_tensors(graph, stage, tensors)

    def run_tensors(self, graph: Graph, stage: Stage, inputs: dict[str, Any]) -> Arrays:
        outputs = {tensor.name: self._tensor(tensor, "output") for tensor in stage.outputs}
        shapes = {tensor.name: list(tensor.shape) for tensor in stage.inputs}
        started = time.perf_counter()
        self.engine.process(graph.name, inputs, shapes, outputs)
        self.seconds += time.perf_counter() - started
        found = {}
        for tensor in stage.outputs:
            outputs[tensor.name].sync_d2s()
            stored = np.ascontiguousarray(outputs[tensor.name].asnumpy())
            found[tensor.name] = from_chip(stored.tobytes(), tensor.shape, tensor)
        return found

    def _tensor(self, tensor: Any, side: str) -> Any:
        key = (f"{side} {tensor.name}", tensor.shape)
        if key not in self._tensors:
            self._tensors[key] = self.sail.Tensor(
                self.handle, list(tensor.shape), getattr(self.sail.Dtype, tensor.dtype), True, True
            )
        return self._tensors[key]


def _system() -> dict[str, Any]:
    """What a result depends on besides sail: the vendor's libraries, the driver, the board."""
    maps = Path("/proc/self/maps").read_text("utf8", "replace").splitlines()
    loaded = sorted({line[line.index("/") :] for line in maps if _LIBRARY.search(line)})
    return {
        "runtime": {Path(path).name: file_digest(path) for path in loaded if Path(path).is_file()},
        "driver": _first_line("/proc/bmsophon/driver_version", "/sys/module/bmtpu/version"),
        "board": _first_line("/proc/device-tree/model", "/sys/class/dmi/id/product_name"),
    }


def _first_line(*paths: str) -> str | None:
    for path in paths:
        with contextlib.suppress(OSError, IndexError):
            return Path(path).read_text("utf8", "replace").strip("\0 \n").splitlines()[0]
    return None


def _keep_stdout() -> None:
    """Let what the runtime prints go to stderr: what this program prints may be JSON.

    The runtime writes to descriptor 1 whenever it likes, so Python's own output moves to a copy of
    it. Where `sys.stdout` is not that descriptor, as in a notebook, nothing is mixed up.
    """
    out = sys.stdout
    try:
        ours = out.fileno() == 1
    except (AttributeError, OSError, ValueError):
        return
    if ours:
        out.flush()
        copy = os.dup(1)
        os.dup2(2, 1)
        raw = os.fdopen(copy, "wb")
        sys.stdout = io.TextIOWrapper(raw, out.encoding, out.errors, None, bool(out.line_buffering))


def load_sail(name: str = "sophon.sail") -> ModuleType:
    """Import sail, and make sure that it is sail; what it prints goes to stderr from now on.

    Raises
    ------
    EngineError
        When it cannot be imported or is another module of that name.
    """
    if name not in sys.modules:
        _keep_stdout()
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise EngineError(f'backend "device" needs {name}: {error}. {_HELP}') from error
    missing = [part for part in _NEEDED if not hasattr(module, part)]
    if missing:
        raise EngineError(
            f"the module {name} ({getattr(module, '__file__', 'built in')}) is not "
            f"Sophgo's sail: it has no {', '.join(missing)}. {_HELP}"
        )
    return module


def device_there(sail_module: str = "sophon.sail") -> bool:
    """Whether sail can be imported and finds a device."""
    try:
        return load_sail(sail_module).get_available_tpu_num() > 0
    except EngineError:
        return False


def _checked_ids(sail: ModuleType, tpu_ids: Sequence[int]) -> tuple[int, ...]:
    ids = tuple(tpu_ids)
    count = sail.get_available_tpu_num()
    if not count:
        raise EngineError(
            "sail finds no device. Check that the driver is loaded (`bm-smi`), or "
            'use backend="simulator".'
        )
    bad = [tpu for tpu in ids if not isinstance(tpu, int) or not 0 <= tpu < count]
    if bad or not ids or len(set(ids)) != len(ids):
        raise ParameterError(
            f"tpu_ids={list(ids)} is not possible: this machine has the devices "
            f"{', '.join(map(str, range(count)))}. Name each at most once."
        )
    return ids


def _check_chip(sail: ModuleType, tpu: int, chip: str, bmodel: Path) -> str:
    """What the device says it is; an error if that is another chip than the BModel's."""
    try:
        target = str(sail.Handle(tpu).get_target())
    except Exception:  # an old sail has no such method; a simulated device has no answer
        return "does not tell its chip"
    target = _SAME_CHIP.get(target, target)
    if target not in CHIPS:  # 'Error' off the device
        return "does not tell its chip"
    if target != chip:
        raise EngineError(
            f"BModel {bmodel} is for {chip}, device {tpu} is a {target}. Compile it for {target}."
        )
    return target


def _name(dtype: Any) -> str:
    return getattr(dtype, "name", str(dtype).rsplit(".", 1)[-1])
