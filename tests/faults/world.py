"""A small report of its own, with its own cache, to be damaged and run again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from lprnet_nb.errors import LprnetError
from lprnet_nb.places import repository
from lprnet_nb.runtime.inference import close_models
from lprnet_nb.toolchain.environment import ENVIRONMENT_VARIABLE, compiler
from lprnet_nb.work import scheduler
from lprnet_nb.work.transport import receive, send

from . import workload

GONE_SECONDS = 40.0  # that killed processes are given until all they started is gone


class Skip(Exception):
    """A fault that cannot be put in here, and why."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Parameters
    ----------
    name
        ``group: what is done``.
    run
        Puts it in, and returns how it ended: ``"same result"`` or the error. It raises when the
        promise is broken, `Skip` when the fault cannot be put in here.
    slow
        Compiles, runs whole notebooks or repeats.
    """

    name: str
    run: Callable[[World], str]
    slow: bool = False


class World:
    """A cache of its own with everything made, and the result that every run must come back to.

    Parameters
    ----------
    folder
        Empty; gets the caches.
    """

    def __init__(self, folder: Path) -> None:
        # Python's helper of this process, which ends with it, is not a world's: start it outside.
        resource_tracker.ensure_running()
        self.folder = folder
        self.tool = compiler()  # of the common cache
        self.pieces = workload.pieces()
        # Compiled in the common cache, once for all worlds; the rest is quick.
        made = send(scheduler.make(self.pieces, "faults", progress=False), with_files=True)
        self.pristine = folder / "pristine"
        with self._using(self.pristine):
            receive(made)
            self.reference = self._result()
            # Libraries travel with no piece, and take long to compile: once for all worlds, by
            # a process that has none loaded.
            shutil.rmtree(self.pristine / "artifacts" / "logits")
            self.finish(self.start())
        self.cache = folder / "cache"

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        """A new copy of the cache, in which this process then works."""
        shutil.rmtree(self.cache, ignore_errors=True)
        shutil.copytree(self.pristine, self.cache, symlinks=True)
        with self._using(self.cache):
            yield self.cache

    @contextlib.contextmanager
    def _using(self, cache: Path) -> Iterator[None]:
        before = {key: os.environ.get(key) for key in ("LPRNET_CACHE", ENVIRONMENT_VARIABLE)}
        os.environ |= {"LPRNET_CACHE": str(cache), ENVIRONMENT_VARIABLE: str(self.tool.prefix)}
        try:
            yield
        finally:
            close_models()
            for key, value in before.items():
                if value is None:
                    del os.environ[key]
                else:
                    os.environ[key] = value

    def result(self) -> str:
        """Run everything and compare with the reference."""
        found = self._result()
        return self._compare(found)

    def _compare(self, found: str) -> str:
        if found != self.reference:
            one, other = json.loads(self.reference), json.loads(found)
            raise AssertionError(
                "another result: "
                + "; ".join(
                    f"{name} {other.get(name)} instead of {value}"
                    for name, value in one.items()
                    if other.get(name) != value
                )
            )
        return "same result"

    def _result(self) -> str:
        return workload.summary(scheduler.make(self.pieces, "faults", progress=False))

    def error(self, call: Callable[[], Any], contains: str) -> str:
        """The message of the one clear error that a call must end with."""
        try:
            call()
        except LprnetError as error:
            if contains not in str(error):
                raise AssertionError(f"an unclear error, without {contains!r}: {error}") from error
            return f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise AssertionError(f"no error where one with {contains!r} was due")

    def artifact(self, kind: str, file: str) -> Path:
        """A file of the only artifact of a kind that holds it, in the cache at work."""
        found = sorted(
            path
            for path in (self.cache / "artifacts" / kind).glob(f"*/{file}")
            if not path.parts[-2].startswith(".")
        )
        if not found:
            raise AssertionError(f"there is no {kind}/{file} to damage")
        return found[0]

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen:
        """Start the same work in a process of its own; its output is for `finish`."""
        return subprocess.Popen(
            [
                sys.executable,
                "-W",
                "ignore::RuntimeWarning:runpy",
                "-m",
                workload.__name__,
                *arguments,
            ],
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment() | variables,
        )

    def finish(self, process: subprocess.Popen, within: float = 600.0) -> str:
        """Wait for such a process, and compare its result with the reference."""
        output, errors = process.communicate(timeout=within)
        if process.returncode:
            raise AssertionError(f"ended with {process.returncode}: {errors[-1500:]}")
        return self._compare(output.strip())

    def environment(self) -> dict[str, str]:
        """Environment of a process that works in this world's cache."""
        # Pieces of ours are found by the name that pytest gives their module.
        path = os.pathsep.join(map(str, (repository(), repository() / "tests")))
        return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def inject(fault: Fault, world: World) -> str:
    """Put a fault in, and make sure that nothing is left running and no lock is held.

    Raises
    ------
    Skip
        When it cannot be put in here.
    Exception
        When the promise is broken.
    """
    with world.fresh() as cache:
        ended = fault.run(world)
        close_models()
        check_nothing_left(cache)
    return ended


def check_nothing_left(cache: Path, within: float = GONE_SECONDS) -> None:
    """Raise AssertionError when a process still works in a cache, or a lock of it is held."""
    end = time.monotonic() + within
    while (left := processes_of(cache)) and time.monotonic() < end:
        time.sleep(0.1)
    if left:
        raise AssertionError(f"left running: {left}")
    for lock in cache.rglob("*.lock"):
        with open(lock, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AssertionError(f"still locked: {lock}") from None


def processes_of(cache: Path) -> dict[int, str]:
    """Command lines of the processes that were started to work in a cache, but this one."""
    found = {}
    wanted = f"LPRNET_CACHE={cache}\0".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes():
                found[int(entry.name)] = (
                    (entry / "cmdline")
                    .read_bytes()
                    .replace(b"\0", b" ")
                    .decode("utf8", "replace")[:160]
                )
    return found
