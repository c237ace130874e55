"""Start every other program: nothing that lies in the user's current folder is run by it.

Folders of pictures come from others. A dynamic linker that is given an empty part of a path
variable, a Python that is given `-c` or `-m`, and a compiler all look into the current folder for
libraries, modules and programs. So a child starts in a private, empty folder unless it is told
otherwise, its path variables name absolute places only, and a Python does not look where it stands.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .files import private_folder
from .settings import PLACES, variable

Child = subprocess.Popen  # so that nobody else has to import subprocess
PIPE, DEVNULL, STDOUT = subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT
TimeoutExpired = subprocess.TimeoutExpired
GONE_SECONDS = 2.0  # that killed processes are given to be gone

# Lists of places; an empty part means the current folder.
_PATHS = (
    "PATH",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "LIBRARY_PATH",
    "CPATH",
    "C_INCLUDE_PATH",
    "COMPILER_PATH",
)
# What would have a child run a file, take another library, or look at another git repository.
_DROPPED = (
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONINSPECT",
    "BASH_ENV",
    "ENV",
    "LD_AUDIT",
    "GCC_EXEC_PREFIX",
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
)

# Stands between us and a program, in a process group of the program's own. When we are gone,
# however that came, it removes the private folder and ends the whole group: programs start others,
# which a signal to the program alone would leave behind. PR_SET_PDEATHSIG (1) ends the program when
# this supervisor is ended instead.
_SUPERVISOR = """
import ctypes, os, signal, sys
parent, folder, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
child = os.fork()
if not child:
    ctypes.CDLL(None).prctl(1, 9)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    try:
        os.execvpe(command[0], command, os.environ)
    except OSError as error:
        print(error, file=sys.stderr)
        os._exit(127)
while os.getppid() == parent:
    signal.sigtimedwait([signal.SIGCHLD], 0.5)
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            signal.signal(-code, signal.SIG_DFL) if -code not in (9, 19) else None
            os.kill(os.getpid(), -code)
        os._exit(code)
if folder:
    import shutil
    shutil.rmtree(folder, ignore_errors=True)
os.killpg(0, signal.SIGKILL)
"""

_running: set[Child] = set()


def environment(**changes: str) -> dict[str, str]:
    """The environment of a child: this process's, cleaned, with `changes`.

    ``PYTHONSAFEPATH`` keeps Pythons from 3.11 on from importing what lies where they stand; for an
    older one say ``-I``.
    """
    found = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    for name in _PATHS:
        if name in found:
            found[name] = _absolute_parts(found[name], "[:;]" if name[:3] == "LD_" else ":")
    if "LD_PRELOAD" in found:  # a bare name is looked for in the system's own places
        parts = re.split("[: ]", found["LD_PRELOAD"])
        kept = [part for part in parts if part and (part[0] == "/" or "/" not in part)]
        found["LD_PRELOAD"] = " ".join(kept)
    for name in map(variable, PLACES):
        if found.get(name):
            found[name] = os.path.abspath(os.path.expanduser(found[name]))
    # Left out rather than empty, which means the current folder.
    found = {
        name: value for name, value in found.items() if value or name not in (*_PATHS, "LD_PRELOAD")
    }
    return {**found, "PYTHONSAFEPATH": "1", **changes}


_EMPTIED = (
    *_PATHS,
    "LD_PRELOAD",
)  # left out rather than empty: an empty PATH is the current folder


def _absolute_parts(value: str, separator: str) -> str:
    return os.pathsep.join(part for part in re.split(separator, value) if os.path.isabs(part))


def clean_own_environment() -> None:
    """Clean this process's own variables, for children that a library starts in its own way.

    Pools of processes, dask's workers and notebooks' kernels take what is here when they start, and
    some start long after the call that asked for them.
    """
    cleaned = environment()
    for name in [name for name in os.environ if name not in cleaned]:
        del os.environ[name]
    os.environ.update(cleaned)


@contextlib.contextmanager
def kernel_environment() -> Iterator[dict[str, str]]:
    """An environment in which kernels run no startup files of the user's, and no matplotlibrc.

    A report must not depend on them, and a figure fails where they switch TeX on.
    """
    names = {"IPYTHONDIR": tempfile.mkdtemp(prefix="ipython-", dir=private_folder())}
    matplotlib = find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        its_own = Path(matplotlib.origin).parent / "mpl-data" / "matplotlibrc"
        names["MATPLOTLIBRC"] = str(its_own)
    try:
        yield environment(**names)
    finally:
        shutil.rmtree(names["IPYTHONDIR"], ignore_errors=True)


@contextlib.contextmanager
def variables(**values: str) -> Iterator[None]:
    """Environment variables for a while, and then what they were."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def private_torch() -> Iterator[None]:
    """Inside, the folder for kernels that torch compiles is private.

    It makes one where an optimizer takes its first step, else in the common temporary folder, where
    it stays.
    """
    with variables(TORCHINDUCTOR_CACHE_DIR=str(private_folder() / "torch")):
        yield


def program(*names: str) -> str | None:
    """Path of the first of these programs that is on the PATH, not in the current folder."""
    path = environment().get("PATH", os.defpath)
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)


def start(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    supervisor: str | None = sys.executable,
    terminal: bool = False,
    **streams: Any,
) -> Child:
    """Start a program; it leaves no core file, and gets no interrupt from the keyboard.

    Parameters
    ----------
    command
        Program and arguments.
    cwd
        Where it stands; in a new, private, empty folder by default, which goes when the child's
        object does.
    env
        The whole environment; `environment()` by default.
    supervisor
        A Python that stands between and ends the child, and all that it starts, when this process
        is gone. None for a child that sees to it by itself.
    terminal
        For a program that may ask the user for a password: it stays in our session, where it has
        the terminal and gets the keyboard's interrupt too. It is ended by `Popen.kill`.
    streams
        ``stdin`` (nothing by default), ``stdout``, ``stderr``, ``pass_fds``, ``text`` and
        ``encoding`` of `subprocess.Popen`.

    Raises
    ------
    OSError
        When it cannot be started. Under a supervisor, a program that is not there ends with
        status 127.
    """
    folder = None if cwd else tempfile.mkdtemp(prefix="child-", dir=private_folder())
    whole = [str(part) for part in command]
    if supervisor is not None:
        head = [supervisor, "-I", "-S", "-c", _SUPERVISOR, str(os.getpid()), folder or ""]
        whole = [*head, *whole]
    process = subprocess.Popen(
        whole,
        cwd=cwd or folder,
        env=environment() if env is None else env,
        start_new_session=not terminal,
        **{"stdin": subprocess.DEVNULL, **streams},
    )
    with contextlib.suppress(OSError):  # it has ended already
        resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
    if folder:
        weakref.finalize(process, _remove, folder, os.getpid())
    return process


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)


def finish(process: Child, timeout: float) -> int:
    """Wait for a child; returns its exit status, negative for a signal.

    Where it does not end well, in time, or at all before this call is left, it is killed with
    everything it started.

    Raises
    ------
    TimeoutError
        After `timeout` seconds.
    """
    with _attended(process, timeout):
        return process.wait(timeout)


def run(
    command: Sequence[str | Path],
    *,
    timeout: float,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    supervisor: str = sys.executable,
    input: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it said; see `start`.

    Raises
    ------
    OSError
        When it is not there, or, a `TimeoutError`, is not done after `timeout` seconds.
    """
    if "/" not in str(command[0]) and program(str(command[0])) is None:
        raise FileNotFoundError(errno.ENOENT, "no such program", str(command[0]))
    process = start(
        command,
        cwd=cwd,
        env=env,
        supervisor=supervisor,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf8",
        errors="replace",
    )
    with process, _attended(process, timeout):
        output, errors = process.communicate(input, timeout)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


@contextlib.contextmanager
def _attended(process: Child, timeout: float) -> Iterator[None]:
    _running.add(process)
    try:
        yield
    except subprocess.TimeoutExpired:
        raise TimeoutError(errno.ETIMEDOUT, f"it did not end within {timeout:.0f} s") from None
    finally:
        _running.discard(process)
        if process.poll() != 0:
            kill_group(process)


def stop_tools() -> None:
    """End the children that other threads of this process wait for; each of these calls fails."""
    for process in [*_running]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def kill_group(process: Child) -> None:
    """Kill a child with all that it started, and wait a moment until they are gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + GONE_SECONDS
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < end:
            os.killpg(process.pid, 0)
            time.sleep(0.01)


def running(name: str) -> list[Any]:
    """The Python processes that this one has started and whose names begin so."""
    return [each for each in multiprocessing.active_children() if each.name.startswith(name)]


def pool(workers: int, initializer: Callable[[], None]) -> ProcessPoolExecutor:
    """Processes that call functions of ours; they end with this one, also when it is killed.

    Parameters
    ----------
    workers
        How many.
    initializer
        Called in each when it starts.
    """
    clean_own_environment()
    # Spawned, not forked: the caller may have torch's threads running.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, _settle, (os.getpid(), initializer))


def _settle(parent: int, initializer: Callable[[], None]) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    initializer()
