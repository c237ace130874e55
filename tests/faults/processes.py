"""Processes killed at random moments: workers, schedulers, tools, kernels and whole reports."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np

from lprnet_nb.cache import artifact
from lprnet_nb.children import variables
from lprnet_nb.errors import EngineError
from lprnet_nb.proof.cluster import _START_SECONDS, Cluster
from lprnet_nb.runtime.engine import open_engine
from lprnet_nb.toolchain.bmodel import BModel
from lprnet_nb.work import scheduler
from lprnet_nb.work.pieces import Piece

from .world import Fault, World, check_nothing_left, processes_of

_REPORT = (
    "from lprnet_nb.report.run import make_report; "
    "make_report('quick', name='{name}', notebooks=('05_compare',), DATA='generated', "
    "CHIPS='BM1688', PRECISIONS='fp32', IMAGES=8)"
)


@contextlib.contextmanager
def cluster(world: World, workers: int = 1, *, apart: bool = False) -> Iterator[Cluster]:
    """A cluster that works in a world's cache, or each worker in one of its own."""
    caches = [world.cache] * workers
    if apart:
        caches = [world.cache.parent / f"host{number}" / "cache" for number in range(workers)]
    made = Cluster(world.environment(), caches)
    try:
        with variables(**{scheduler.SCHEDULER_VARIABLE: made.address}):
            made.wait()
            yield made
    finally:
        made.close()
        for cache in set(caches) - {world.cache}:
            check_nothing_left(cache)
            shutil.rmtree(cache.parent)


def forget(world: World, *kinds: str) -> None:
    """Remove finished artifacts, so that there is work again."""
    for kind in kinds:
        shutil.rmtree(world.cache / "artifacts" / kind, ignore_errors=True)


def _hosts(world: World) -> str:
    """Three workers with a cache folder each, none of them this process's."""
    with cluster(world, 3, apart=True):
        forget(world, "logits", "score")
        return world.result()


def pieces_at_work(cache: Path) -> dict[str, int]:
    """Processes by the pieces that they make: a log is there as long as its piece is made."""
    found = {}
    for log in (cache / "logs" / "pieces").glob("*.log"):
        with contextlib.suppress(OSError):
            named = re.findall(r"process (\d+)$", log.read_text("utf8", "replace"), re.MULTILINE)
            if named and Path("/proc", named[-1]).exists():
                found[log.stem] = int(named[-1])
    return found


def until_at_work(cache: Path, work: subprocess.Popen, piece: str | None = None) -> list[int]:
    """Wait until a piece, or the one named, is being made or the work has ended: who makes it."""
    while work.poll() is None:
        found = pieces_at_work(cache)
        if found if piece is None else piece in found:
            return [*found.values()] if piece is None else [found[piece]]
        time.sleep(0.005)
    return []


def _seconds_of_pieces(world: World, *kinds: str) -> dict[str, float]:
    """How long each piece is seen at work, undisturbed; the first run has workers that import."""
    seen: dict[str, list[float]] = {}
    for _ in range(3):
        forget(world, *kinds)
        work = world.start()
        times: dict[str, list[float]] = {}
        while until_at_work(world.cache, work):
            for piece in pieces_at_work(world.cache):
                times.setdefault(piece, []).append(time.monotonic())
            time.sleep(0.005)
        world.finish(work)
        for piece, at in times.items():
            seen.setdefault(piece, []).append(at[-1] - at[0])
    return {piece: median(taken) for piece, taken in seen.items()}


def _until(sign: Callable[[], object], work: subprocess.Popen) -> float:
    """Wait for the first sign of work, or its end; returns the time."""
    while work.poll() is None and not sign():
        time.sleep(0.02)
    return time.monotonic()


def _undisturbed(world: World, sign: Callable[[], object], *kinds: str) -> float:
    """Seconds from the first sign of work to its end, without those artifacts."""
    forget(world, *kinds)
    work = world.start()
    started = _until(sign, work)
    world.finish(work)
    return time.monotonic() - started


def _alive(work: subprocess.Popen) -> Callable[[], bool]:
    return lambda: work.poll() is None


def _begun(world: World, kinds: tuple[str, ...]) -> Callable[[], bool]:
    """Says whether one of the artifacts that were forgotten is being made."""
    return lambda: any((world.cache / "artifacts" / kind).exists() for kind in kinds)


def _at_a_moment(
    goes_on: Callable[[], bool], dice: random.Random, span: float
) -> tuple[bool, float]:
    """Wait for a moment of `span`: whether the work still goes on, and the span to draw from next.

    One that has ended by then took less than was thought, as the machine is less busy.
    """
    if not goes_on():  # it was over before its first sign was seen
        return False, span
    started, moment = time.monotonic(), dice.uniform(0, span)
    while goes_on() and time.monotonic() - started < moment:
        time.sleep(0.01)
    return (True, span) if goes_on() else (False, time.monotonic() - started)


def _met(at_work: int, repetitions: int) -> str:
    """How a fault ended whose kills met work so often; it must be most of the time."""
    if at_work < repetitions * 3 / 4:
        raise AssertionError(f"only {at_work} of {repetitions} kills while it was at work")
    return f"same result, {at_work} kills while it was at work"


def _worker_killed(repetitions: int) -> Callable[[World], str]:
    """A worker is killed in one of the pieces, somewhere in the time that this takes."""

    def run(world: World) -> str:
        dice, at_work = random.Random(1), 0
        with cluster(world, 2):
            seconds = _seconds_of_pieces(world, "logits", "score")
            long = [piece for piece, taken in seconds.items() if taken > max(seconds.values()) / 10]
            for _ in range(repetitions):
                forget(world, "logits", "score")
                work = world.start()
                piece = dice.choice(long)
                until_at_work(world.cache, work, piece)
                _, seconds[piece] = _at_a_moment(
                    lambda piece=piece: piece in pieces_at_work(world.cache), dice, seconds[piece]
                )
                victims = until_at_work(world.cache, work)  # between two pieces, at the next one
                at_work += bool(victims)
                for victim in victims[:1]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                world.finish(work)
        return _met(at_work, repetitions)

    return run


def _scheduler_killed(repetitions: int) -> Callable[[World], str]:
    """The run ends with one error; on a new scheduler it goes on."""

    def run(world: World) -> str:
        dice, at_work = random.Random(2), 0
        ended = []
        with cluster(world):
            span = _undisturbed(world, lambda: pieces_at_work(world.cache), "logits", "score")
        for _ in range(repetitions):
            forget(world, "logits", "score")
            with cluster(world) as made:
                work = world.start()
                _until(lambda: pieces_at_work(world.cache), work)
                met, span = _at_a_moment(_alive(work), dice, span)
                at_work += met
                made.scheduler.kill()
                _, errors = work.communicate(timeout=300)
                if work.returncode not in (0, 2) or "Traceback" in errors:
                    raise AssertionError(f"ended with {work.returncode}: {errors[-1500:]}")
                if work.returncode:
                    ended.append(errors.strip().splitlines()[0].replace(made.address, "…"))
            world.result()
        counted = [f"{ended.count(each)} times {each}" for each in sorted(set(ended))]
        at_once = f"{repetitions - len(ended)} times at once"
        return "; ".join([_met(at_work, repetitions), at_once, *counted])

    return run


def _starter_killed(world: World) -> str:
    """The scheduler and the workers that a killed process started end too."""
    script = (
        "import os, sys; from pathlib import Path; from lprnet_nb.proof.cluster import Cluster; "
        "Cluster(dict(os.environ), [Path(os.environ['LPRNET_CACHE'])]).wait(); "
        "print('there', flush=True); sys.stdin.read()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=world.environment(),
    )
    with starter:
        if starter.stdout.readline().strip() != "there" or len(processes_of(world.cache)) < 4:
            raise AssertionError("there is no cluster")
        starter.kill()
    check_nothing_left(world.cache)
    return world.result()


def _no_scheduler(world: World) -> str:
    forget(world, "logits")
    with (
        variables(**{scheduler.SCHEDULER_VARIABLE: "tcp://127.0.0.1:1"}),
        _setting("CONNECT_SECONDS", 2.0),
    ):
        return world.error(world.result, "dask scheduler")


def _scheduler_without_workers(world: World) -> str:
    forget(world, "logits")
    made = Cluster(world.environment(), [])
    try:
        with (
            variables(**{scheduler.SCHEDULER_VARIABLE: made.address}),
            _setting("WORKER_SECONDS", 1.0),
        ):
            return world.error(world.result, "has no workers")
    finally:
        made.close()


@contextlib.contextmanager
def _setting(name: str, value: float) -> Iterator[None]:
    before = getattr(scheduler, name)
    setattr(scheduler, name, value)
    try:
        yield
    finally:
        setattr(scheduler, name, before)


def deadly(how: str) -> Path:
    """A piece that takes its worker down whenever it is made."""
    return artifact("deadly", {"how": how}, lambda folder: _die(how))


def _die(how: str) -> None:
    if how == "crash":
        ctypes.string_at(0)
    if how == "hang":
        time.sleep(600)
    os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does for want of memory


def _deadly(how: str, contains: str) -> Callable[[World], str]:
    """A piece that kills every worker it is given to is given up after a few, with its log."""

    def run(world: World) -> str:
        with cluster(world) as made:
            tries = made.tries()
            said = world.error(
                lambda: scheduler.make(
                    [Piece("infer/deadly", deadly, {"how": how})],
                    "deadly",
                    progress=False,
                    limit=2.0,
                ),
                f"infer/deadly lost its worker {tries} times",
            )
            log = scheduler.log_path("infer/deadly").read_text()
            if log.count("infer/deadly on") != tries or contains not in log:
                raise AssertionError(f"its log does not tell: {log}")
            return said

    return run


def _simulator(world: World, **options: object):
    model = BModel.load(world.artifact("bmodel", "lprnet.bmodel").parent)
    return open_engine(model, "simulator", workers=1, **options)


def _simulator_killed(repetitions: int) -> Callable[[World], str]:
    def run(world: World) -> str:
        inputs = np.zeros((3, 3, 24, 94), np.float32)
        dice = random.Random(3)
        with _simulator(world) as engine:
            expected = engine.infer(inputs)
            started = time.monotonic()
            engine.infer(inputs)
            span, at_work = time.monotonic() - started, 0
            for _ in range(repetitions):
                process = engine._workers[0]._process
                killer = threading.Timer(dice.uniform(0, span), process.send_signal, [9])
                killer.start()
                started = time.monotonic()
                found = engine.infer(inputs)
                if killer.finished.is_set():
                    at_work += 1
                else:  # killed while nothing is asked of it; the next call meets that
                    span = time.monotonic() - started
                killer.join()
                if not np.array_equal(found, expected):
                    raise AssertionError("other logits after a simulator was killed")
        return f"same result, {at_work} kills while it was at work"

    return run


def _simulator_hangs(world: World) -> str:
    with _simulator(world, timeout=1.0) as engine:
        os.kill(engine._workers[0]._process.pid, signal.SIGSTOP)
        inputs = np.zeros((1, 3, 24, 94), np.float32)
        said = world.error(lambda: engine.infer(inputs), "did not answer within 1 s")
        engine._timeout = 60.0
        if engine.infer(inputs).shape != (1, 68, 18):
            raise AssertionError("the engine does not go on")
        return said


def _simulator_aborts(world: World) -> str:
    """A BModel whose metadata is damaged behind a good magic takes the vendor's runtime down."""
    path = world.folder / "damaged.bmodel"
    data = bytearray(world.artifact("bmodel", "lprnet.bmodel").read_bytes())
    outcomes = set()
    dice = random.Random(11)
    for _ in range(6):
        damaged = bytearray(data)
        place = 64 + dice.randrange(int.from_bytes(data[8:12], "little"))
        damaged[place : place + 4] = dice.randbytes(4)
        path.write_bytes(damaged)
        try:
            with open_engine(path, "simulator", trust=True, workers=1, timeout=20.0) as engine:
                engine.infer(np.zeros((1, 3, 24, 94), np.float32))
            outcomes.add("ran")
        except EngineError as error:
            outcomes.add("EngineError: " + str(error).splitlines()[0][:120])
    return " | ".join(sorted(outcomes))


def _tool_killed(world: World) -> str:
    """A tool that dies leaves one error with its log, and nothing behind."""
    from lprnet_nb.toolchain.process import run_logged

    log = world.folder / "tool.log"
    return world.error(
        lambda: run_logged(
            [
                sys.executable,
                "-c",
                "import os; print('at work', flush=True); os.kill(os.getpid(), 9)",
            ],
            cwd=world.folder,
            log=log,
            env=world.environment(),
            python=sys.executable,
            timeout=60,
            what="the tool",
        ),
        "signal 9",
    )


def _compile_killed(repetitions: int) -> Callable[[World], str]:
    """A run killed while the compiler's tools work: they end too, and the next run compiles."""

    def run(world: World) -> str:
        dice = random.Random(4)
        for _ in range(repetitions):
            forget(world, "bmodel")
            work = world.start()
            _until_there(world.cache, "model_deploy|deploy.py", work)
            time.sleep(dice.uniform(0, 3))
            work.kill()
            work.communicate()
            check_nothing_left(world.cache)
            if list((world.cache / "artifacts" / "bmodel").glob("[0-9a-f]*/record.json")):
                raise AssertionError("half a BModel was taken for a whole one")
        return world.result()

    return run


def _until_there(cache: Path, names: str, work: subprocess.Popen) -> None:
    end = time.monotonic() + _START_SECONDS * 3
    while time.monotonic() < end and work.poll() is None:
        if any(name in line for line in processes_of(cache).values() for name in names.split("|")):
            return
        time.sleep(0.05)


def _run_killed(repetitions: int, sign: signal.Signals) -> Callable[[World], str]:
    """A run ended at a random moment leaves nothing running, and the next one the same result."""

    def run(world: World) -> str:
        dice, at_work = random.Random(5), 0
        kinds = (("logits", "score"), ("trace", "logits"), ("score",))
        spans = {each: _undisturbed(world, _begun(world, each), *each) for each in kinds}
        for _ in range(repetitions):
            each = dice.choice(kinds)
            forget(world, *each)
            work = world.start()
            _until(_begun(world, each), work)
            met, span = _at_a_moment(_alive(work), dice, spans[each])
            faster = span / spans[each]  # so are the others, then
            spans = {kind: seconds * faster for kind, seconds in spans.items()}
            at_work += met
            work.send_signal(sign)
            work.communicate(timeout=60)
            check_nothing_left(world.cache)
        world.result()
        return _met(at_work, repetitions)

    return run


def _kernels(cache: Path) -> list[int]:
    return [pid for pid, line in processes_of(cache).items() if "ipykernel" in line]


def _report(world: World, name: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", _REPORT.format(name=name)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=world.environment() | {"LPRNET_REPORTS": str(world.folder / "reports")},
    )


def _report_killed(repetitions: int, victim: str) -> Callable[[World], str]:
    """papermill's process or its kernel killed at a random moment of a report."""

    def run(world: World) -> str:
        def at_work_in(work: subprocess.Popen) -> Callable[[], bool]:
            return _alive(work) if victim == "papermill" else lambda: bool(_kernels(world.cache))

        def undisturbed(*kinds: str) -> float:
            forget(world, *kinds)
            work = _report(world, "small")
            goes_on = at_work_in(work)
            started = _until(lambda: _kernels(world.cache), work)
            ended = _until(lambda: not goes_on(), work)
            _, errors = work.communicate(timeout=1800)
            if work.returncode:
                raise AssertionError(f"the report failed undisturbed: {errors[-1500:]}")
            return ended - started

        dice, at_work = random.Random(6), 0
        reports = world.folder / "reports"
        metrics = reports / "small" / "metrics.json"
        undisturbed()  # compiles
        span = undisturbed("logits", "score")  # as those below
        expected = metrics.read_bytes()
        for _ in range(repetitions):
            shutil.rmtree(reports, ignore_errors=True)
            forget(world, "logits", "score")
            work = _report(world, "small")
            _until(lambda: _kernels(world.cache), work)
            met, span = _at_a_moment(at_work_in(work), dice, span)
            at_work += met
            if victim == "kernel":
                for pid in _kernels(world.cache):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            else:
                work.kill()
            _, errors = work.communicate(timeout=1800)
            if victim == "kernel" and work.returncode and "LprnetError" not in errors:
                raise AssertionError(f"not one clear error: {errors[-1500:]}")
            check_nothing_left(world.cache)
        again = _report(world, "small")
        _, errors = again.communicate(timeout=1800)
        if again.returncode or metrics.read_bytes() != expected:
            raise AssertionError(f"another metrics.json: {errors[-1500:]}")
        json.loads(metrics.read_text("utf8"))
        return _met(at_work, repetitions)

    return run


def faults(repetitions: int) -> list[Fault]:
    """Everything that can be killed, so often."""
    times = f"{repetitions} times at random"
    return [
        Fault("cluster: three hosts with caches of their own", _hosts, slow=True),
        Fault(f"cluster: kill -9 of a worker, {times}", _worker_killed(repetitions), slow=True),
        Fault(
            f"cluster: kill -9 of the scheduler, {times}", _scheduler_killed(repetitions), slow=True
        ),
        Fault("cluster: kill -9 of the process that started it", _starter_killed, slow=True),
        Fault("cluster: no scheduler at the address", _no_scheduler),
        Fault("cluster: scheduler without workers", _scheduler_without_workers, slow=True),
        Fault(
            "cluster: piece that crashes every worker", _deadly("crash", "Segmentation"), slow=True
        ),
        Fault(
            "cluster: piece over its time limit", _deadly("hang", "not done within 2 s"), slow=True
        ),
        Fault(
            "cluster: piece whose workers are killed for want of memory",
            _deadly("memory", ""),
            slow=True,
        ),
        Fault(f"simulator: kill -9 of its process, {times}", _simulator_killed(repetitions)),
        Fault("simulator: hangs", _simulator_hangs),
        Fault("simulator: damaged metadata, six times", _simulator_aborts),
        Fault("compiler: tool killed", _tool_killed),
        Fault(
            "compiler: run killed while its tools work",
            _compile_killed(max(1, repetitions // 5)),
            slow=True,
        ),
        Fault(f"run: kill -9, {times}", _run_killed(repetitions, signal.SIGKILL), slow=True),
        Fault(
            f"run: interrupted (Ctrl-C), {times}",
            _run_killed(repetitions, signal.SIGINT),
            slow=True,
        ),
        Fault(
            f"report: kill -9 of papermill, {times}",
            _report_killed(repetitions, "papermill"),
            slow=True,
        ),
        Fault(
            f"report: kill -9 of its kernel, {times}",
            _report_killed(repetitions, "kernel"),
            slow=True,
        ),
    ]
