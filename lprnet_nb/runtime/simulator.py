"""Run a BModel on Sophgo's chip simulator, in child processes.

The simulator comes with the compiler's package. A bad BModel or a lost process takes a worker down,
never the caller: the worker is replaced, and what it was running is run again.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import platform
import selectors
import signal
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import children
from ..cache import artifact, file_digest
from ..errors import DataError, EngineError, ParameterError
from ..toolchain.chips import CHIPS
from ..toolchain.releases import RELEASES
from .bmodel_file import Graph, Stage, read_contents
from .interface import Arrays, Engine, Job, from_chip, stored_dtype, to_chip

# All that releases call their libraries, the latest first.
_NEWEST_FIRST = tuple(reversed(RELEASES.values()))
CHIP_LIBRARIES = {
    chip: tuple(dict.fromkeys(release.simulators[chip] for release in _NEWEST_FIRST))
    for chip in CHIPS
}
DRIVER_LIBRARIES = tuple(dict.fromkeys(release.driver for release in _NEWEST_FIRST))
RUNTIME_LIBRARY = "libbmrt.so.1.0"

_WORKER = Path(__file__).with_name("_simulator_worker.py")
_SHIM = Path(__file__).with_name("shim.c")
_LOAD_SECONDS = 120.0  # loading takes 0.1 s; a busy machine gets time all the same
_RETRIES = 2  # of one call, or of loading, whose worker died
_CALLS_FOR_ANOTHER = 2  # waiting calls per worker from which on another worker pays
_LOG_CHARACTERS = 1500
_ALIGNMENT = 64  # bytes, of arrays in the shared memory


class SimulatorEngine(Engine):
    """A BModel on the chip simulator.

    Parameters
    ----------
    bmodel
        The file.
    libraries
        Folder with the runtime libraries (`lib/` of the compiler's package).
    tool
        Name and version of the package that the libraries are from.
    batch_mean
        See `Engine`.
    workers
        Processes, each with the model loaded. By default one per core, at most two: more gain
        nothing, as each simulator has busy threads of its own.
    timeout
        Seconds that one call may take.
    shim
        Cure the simulator's busy waiting (needs a C compiler once).

    Raises
    ------
    EngineError
        When the BModel or the libraries are missing or damaged, or the simulator refuses the model.
    """

    backend = "simulator"

    def __init__(
        self,
        bmodel: Path,
        libraries: Path,
        *,
        tool: str = "",
        batch_mean: str | None = None,
        workers: int | None = None,
        timeout: float = 300.0,
        shim: bool = True,
    ) -> None:
        if workers is not None and not 1 <= workers <= 64:
            raise ParameterError(f"workers={workers} is not possible. Choose 1 to 64.")
        if not timeout > 0:
            raise ParameterError(f"timeout={timeout} is not possible. Give seconds above 0.")
        contents = read_contents(bmodel)
        chip_library, driver = _libraries(contents.chip, Path(libraries))
        super().__init__(contents.graphs, batch_mean=batch_mean)
        self._limit = workers or min(2, len(os.sched_getaffinity(0)))
        self._timeout = timeout
        preload, shim_state = _shim() if shim else (None, "no: switched off")
        self._settings = {
            "driver": str(driver),
            "runtime": str(Path(libraries) / RUNTIME_LIBRARY),
            "bmodel": str(Path(bmodel).resolve()),
            "firmware": str(chip_library),
            "preload": preload,
        }
        self._workers: list[_Worker] = []
        self._lost_loading = 0
        self.runtime_seconds = 0.0
        self.description |= {
            "model": file_digest(bmodel),
            "chip": contents.chip,
            "tool": tool,
            "shim": shim_state,
            "workers": self._limit,
            "libraries": {
                name: file_digest(Path(libraries) / name)
                for name in (driver.name, RUNTIME_LIBRARY, chip_library.name)
            },
        }
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, self._owner)
        try:
            self._add_worker()
            while not any(worker.idle for worker in self._workers):
                self._attend()
        except BaseException:
            self.close()
            raise

    def _run(self, graph: Graph, stage: Stage, inputs: Arrays) -> Arrays:
        [(_, outputs)] = self._run_many([(graph, stage, inputs)])
        return outputs

    def _run_many(self, jobs: list[Job]) -> Iterator[tuple[int, Arrays]]:
        if os.getpid() != self._owner:
            raise EngineError(
                "this simulator engine belongs to the process that this one was "
                "forked from. Open another with open_engine."
            )
        waiting = deque(range(len(jobs)))
        lost = [0] * len(jobs)
        running: dict[_Worker, int] = {}
        try:
            while waiting or running:
                wanted = -(-(len(waiting) + len(running)) // _CALLS_FOR_ANOTHER)
                while len(self._workers) < max(1, min(self._limit, wanted)):
                    self._add_worker()
                for worker in self._workers:
                    if waiting and worker.idle:
                        running[worker] = waiting.popleft()
                        worker.send(*jobs[running[worker]])
                for worker, outputs in self._attend():
                    job = running.pop(worker)
                    if outputs is not None:
                        yield job, outputs
                        continue
                    lost[job] += 1
                    if lost[job] > _RETRIES:
                        raise self._died(worker, "running")
                    waiting.appendleft(job)
        finally:
            for worker in running:  # cut short: what it would still write must not be read
                self._drop(worker)

    def _attend(self) -> list[tuple[_Worker, Arrays | None]]:
        """Wait until a worker answers or dies; returns those that ran, None for outputs lost."""
        if not self._workers:
            self._add_worker()
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                if not worker.idle:
                    selector.register(worker.replies, selectors.EVENT_READ, worker)
            first = min(worker.deadline for worker in self._workers if not worker.idle)
            ready = [key.data for key, _ in selector.select(max(0.0, first - time.monotonic()))]
        if not ready:
            raise self._late(
                min(
                    (each for each in self._workers if not each.idle),
                    key=lambda each: each.deadline,
                )
            )
        answered: list[tuple[_Worker, Arrays | None]] = []
        for worker in ready:
            message = worker.receive()
            if message is None:
                self._drop(worker, died=True)
                if worker.loaded:
                    answered.append((worker, None))
                else:
                    self._count_lost_loading(worker)
            elif not message["ok"]:
                self._drop(worker)
                raise EngineError(
                    f"{message['error']}: {self._settings['bmodel']} on the "
                    f"{self.description['chip']} simulator.{worker.log}"
                )
            elif worker.loaded:
                self.runtime_seconds += message["seconds"]
                answered.append((worker, worker.outputs(message["shapes"])))
            else:
                self._compare(worker, message["graphs"])
                worker.loaded = True
                self._lost_loading = 0
        return answered

    def _add_worker(self) -> None:
        self._workers.append(_Worker(self._settings, self._graphs, self._timeout))

    def _drop(self, worker: _Worker, died: bool = False) -> None:
        if worker in self._workers:
            self._workers.remove(worker)
            worker.kill(died)

    def _count_lost_loading(self, worker: _Worker) -> None:
        self._lost_loading += 1
        if self._lost_loading > _RETRIES:
            raise self._died(worker, "loading")

    def _died(self, worker: _Worker, doing: str) -> EngineError:
        advice = (
            "Something else ended it, perhaps for want of memory: close other programs or "
            "use workers=1."
            if "SIGKILL" in worker.end
            else "The BModel may be damaged: compile it again."
        )
        return EngineError(
            f"the simulator died {_RETRIES + 1} times {doing} "
            f"{self._settings['bmodel']} ({worker.end}). {advice}{worker.log}"
        )

    def _late(self, worker: _Worker) -> EngineError:
        self._drop(worker)
        return EngineError(
            f"the simulator did not answer within {worker.limit:g} s while "
            f"{'running' if worker.loaded else 'loading'} {self._settings['bmodel']}. Give a "
            f"larger timeout if the machine is slow or busy.{worker.log}"
        )

    def _compare(self, worker: _Worker, found: dict) -> None:
        """Make sure that the runtime reads the same shapes out of the BModel as we did."""
        expected = {
            graph.name: {
                side: [
                    [list(tensor.shape) for tensor in getattr(stage, side)]
                    for stage in graph.stages
                ]
                for side in ("inputs", "outputs")
            }
            for graph in self._graphs.values()
        }
        if found != expected:
            self._drop(worker)
            raise EngineError(
                f"BModel {self._settings['bmodel']} is damaged: the runtime finds "
                f"{found} in it where its metadata says {expected}."
            )

    def _close(self) -> None:
        self._finalizer()


class _Worker:
    """One simulator process and the memory shared with it."""

    def __init__(self, settings: dict[str, Any], graphs: dict[str, Graph], limit: float) -> None:
        self.loaded = False
        self.limit = _LOAD_SECONDS
        self.deadline = time.monotonic() + self.limit
        self.end = self.log = ""
        self._run_limit = limit
        self._stage: Stage | None = None  # what it is running
        size = max(_layout(stage)[-1] for graph in graphs.values() for stage in graph.stages)
        file = os.memfd_create("lprnet-nb")
        self.replies, replies = os.pipe()
        try:
            os.truncate(file, size)
            self._memory = mmap.mmap(file, size)
            self._log_file = tempfile.TemporaryFile()  # noqa: SIM115, open as long as the worker
            told = {
                "driver": settings["driver"],
                "runtime": settings["runtime"],
                "bmodel": settings["bmodel"],
                "graphs": list(graphs),
                "parent": os.getpid(),
                "replies": replies,
                "memory": file,
            }
            environment = children.environment(TPUKERNEL_FIRMWARE_PATH=settings["firmware"])
            if settings["preload"]:
                others = environment.get("LD_PRELOAD", "")
                environment["LD_PRELOAD"] = f"{settings['preload']} {others}".strip()
            self._process = children.start(
                [sys.executable, "-I", "-S", _WORKER, json.dumps(told)],
                supervisor=None,  # it watches its parent by itself
                stdin=children.PIPE,
                stdout=self._log_file,
                stderr=self._log_file,
                env=environment,
                pass_fds=(replies, file),
            )
        except OSError as error:
            os.close(self.replies)
            raise EngineError(
                f"cannot start a simulator process: {error}. Free some memory or processes."
            ) from error
        finally:
            os.close(replies)
            os.close(file)

    @property
    def idle(self) -> bool:
        return self.loaded and self._stage is None

    def send(self, graph: Graph, stage: Stage, inputs: Arrays) -> None:
        """Lay inputs into the shared memory and ask for a run."""
        arrays = [to_chip(inputs[tensor.name], tensor) for tensor in stage.inputs]
        places = _layout(stage)
        for place, array in zip(places, arrays, strict=False):
            self._memory[place : place + array.nbytes] = array.tobytes()
        request = {
            "graph": graph.name,
            "shapes": [array.shape for array in arrays],
            "inputs": places[: len(arrays)],
            "outputs": places[len(arrays) : -1],
        }
        self._stage = stage
        self.limit = self._run_limit
        self.deadline = time.monotonic() + self.limit
        with contextlib.suppress(BrokenPipeError):  # it died: `receive` finds out
            stdin = self._process.stdin
            assert stdin is not None  # a pipe
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()

    def receive(self) -> dict | None:
        """Next reply, or None when the worker died."""
        line = b""
        while not line.endswith(b"\n"):
            part = os.read(self.replies, 1 << 16)
            if not part:
                return None
            line += part
        return json.loads(line)

    def outputs(self, shapes: list[list[int]]) -> Arrays:
        """Copy the outputs of the last run out of the shared memory."""
        stage, self._stage = self._stage, None
        assert stage is not None  # it ran
        found = {}
        for tensor, shape, place in zip(
            stage.outputs, shapes, _layout(stage)[len(stage.inputs) :], strict=False
        ):
            size = int(np.prod(shape)) * stored_dtype(tensor).itemsize
            found[tensor.name] = from_chip(self._memory[place : place + size], tuple(shape), tensor)
        return found

    def kill(self, died: bool = False) -> None:
        """End the process, keeping how it ended (if it did so itself) and the end of its log."""
        if died:
            with contextlib.suppress(children.TimeoutExpired):
                self.end = _how_it_ended(self._process.wait(1.0))  # seconds, to be gone altogether
        self._process.kill()
        self._process.wait()
        size = os.fstat(self._log_file.fileno()).st_size
        tail = os.pread(self._log_file.fileno(), _LOG_CHARACTERS, max(0, size - _LOG_CHARACTERS))
        text = tail.decode("utf8", "replace").strip()
        self.log = f"\nEnd of its log:\n{text}" if text else ""
        self._log_file.close()
        self._memory.close()
        os.close(self.replies)
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin:
                self._process.stdin.close()


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"it ended with status {code}"


def _kill_all(workers: list[_Worker], owner: int) -> None:
    """End all workers, but not those of the process that this one was forked from."""
    if os.getpid() == owner:
        while workers:
            workers.pop().kill()


def _layout(stage: Stage) -> list[int]:
    """Offsets of a stage's inputs and outputs in the shared memory, and where they end."""
    offsets = [0]
    for tensor in (*stage.inputs, *stage.outputs):
        size = int(np.prod(tensor.shape)) * stored_dtype(tensor).itemsize
        offsets.append(offsets[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
    return offsets


def _libraries(chip: str, libraries: Path) -> tuple[Path, Path]:
    """The simulator of a chip and the driver, having made sure that all libraries are there."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise EngineError(
            "the chip simulator runs on Linux on x86-64 only; this is "
            f"{platform.system()} on {platform.machine()}. Use another backend."
        )
    if chip not in CHIP_LIBRARIES:
        raise EngineError(
            f"the BModel is for the chip {chip}, which cannot be simulated here. "
            f"Possible: {', '.join(CHIP_LIBRARIES)}."
        )
    driver, _, simulator = (
        _first_there(names, libraries)
        for names in (DRIVER_LIBRARIES, (RUNTIME_LIBRARY,), CHIP_LIBRARIES[chip])
    )
    return simulator, driver


def _first_there(names: tuple[str, ...], libraries: Path) -> Path:
    for name in names:
        if (libraries / name).is_file():
            return libraries / name
    raise EngineError(
        f"{libraries / names[0]} is missing. Install the compiler environment "
        "again: `lprnet-nb doctor` says how."
    )


def _shim() -> tuple[str | None, str]:
    """Path of the compiled shim, or None, and what to say of it."""
    compiler = children.program("cc", "gcc", "clang")
    if compiler is None:
        return None, "no: no C compiler found (cc, gcc, clang); runs take about three times longer"

    def build(folder: Path) -> None:
        made = str(folder / "shim.so")
        done = children.run(
            [compiler, "-O2", "-shared", "-fPIC", "-o", made, _SHIM, "-ldl"], timeout=60
        )
        if done.returncode:
            raise EngineError(f"{compiler} failed: {done.stderr.strip()[-300:]}")

    try:
        folder = artifact(
            "shim",
            {
                "source": file_digest(_SHIM),
                "libc": platform.libc_ver(),
                "machine": platform.machine(),
            },
            build,
        )
    except (EngineError, DataError, OSError) as error:
        return None, f"no: {error}"
    if any(letter in str(folder) for letter in " :"):
        return None, (
            f"no: LD_PRELOAD cannot name {folder}, because of the space or colon in it. "
            "Name another cache folder in LPRNET_CACHE"
        )
    return str(folder / "shim.so"), "yes"
